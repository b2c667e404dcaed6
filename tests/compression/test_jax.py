"""Compressed networks train under JAX as they do under TensorFlow, and are exported from there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from keras_resnet import load_model
from keras_resnet.compression import sparsity_of, strip
from keras_resnet.export import export, load_runner
from keras_resnet.export.tflite import inspect as tflite_inspect

from ..conftest import Run

TRAIN = """
import sys
import numpy as np
import keras
from keras_resnet import ResNetConfig, build
from keras_resnet.compression import GradualPruning, cluster, freeze_ranges, prune, quantize_aware
from tests.conftest import randomize

keras.utils.set_random_seed(0)
config = ResNetConfig("basic", (1, 1), (8, 16), stem="cifar")
model = build(config, input_shape=(16, 16, 3), classes=4)
randomize(model)
if keras.backend.backend() == "tensorflow":
    model.save_weights(sys.argv[1])
model.load_weights(sys.argv[1])
random = np.random.default_rng(1)
images = random.integers(0, 256, (32, 4, 4, 3)).repeat(4, 1).repeat(4, 2).astype("float32")
labels = np.arange(32) % 4

def trained(network, *callbacks):
    optimizer = keras.optimizers.SGD(0.003, momentum=0.9)
    network.compile(optimizer, "sparse_categorical_crossentropy")
    network.fit(images, labels, 8, 2, shuffle=False, verbose=0, callbacks=list(callbacks))
    return network

model = trained(prune(model, 0), GradualPruning(0.5, 6, every=2))
model = trained(cluster(model, 9))
model = freeze_ranges(trained(quantize_aware(model, images, momentum=0.8)))
model.save(sys.argv[2])
np.savez(sys.argv[3], outputs=model.predict(images, verbose=0), images=images)
"""


@pytest.mark.full
def test_jax_trains_what_tensorflow_exports(
    tmp_path: Path, run_python: Run, run_new_python: Run
) -> None:
    outputs = {}
    for backend in ("tensorflow", "jax"):
        paths = [str(tmp_path / f"{backend}.{end}") for end in ("keras", "npz")]
        start = str(tmp_path / "start.weights.h5")
        if backend == "jax":
            done = run_new_python(TRAIN, start, *paths, KERAS_BACKEND="jax")
        else:
            done = run_python(TRAIN, start, *paths)
        assert done.returncode == 0, done.stderr
        outputs[backend] = np.load(paths[1])["outputs"]
    # Rounding makes steps of the smallest differences.
    np.testing.assert_allclose(outputs["jax"], outputs["tensorflow"], atol=0.03)
    model, images = load_model(tmp_path / "jax.keras"), np.load(tmp_path / "jax.npz")["images"]
    np.testing.assert_allclose(model.predict(images, verbose=0), outputs["jax"], atol=0.005)
    plain = strip(model)
    pruned = list(sparsity_of(plain).values())[1:]
    assert min(pruned) >= 0.499
    # Without images: the ranges that JAX has learned.
    export(plain, tmp_path / "out", ("tflite-int8",), timing=None, allow_disagreement=True)
    path = tmp_path / "out" / "model-int8.tflite"
    assert np.abs(load_runner(path).predict(images) - outputs["jax"]).mean() < 0.006
    found = tflite_inspect.kernels(path)
    assert len(found) == 7
    assert max(kernel.distinct for kernel in found) <= 9
