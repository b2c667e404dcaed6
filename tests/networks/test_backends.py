"""Every kind of network under every Keras backend, each in a process of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from keras_resnet import load_model
from keras_resnet.data import load_digits
from keras_resnet.networks.table import VARIANTS

from ..conftest import Run
from .test_builder import CONFIGS

PROBE = """
import itertools
import random
import sys
import numpy as np
import keras, keras_resnet
from tests.conftest import randomize
from tests.networks.test_builder import CONFIGS

def run(model, images, training):
    \"\"\"Logits of inference; those of training, of the sum of whose squares the gradients are; the
    moving statistics after one step of training.\"\"\"
    backend, weights = keras.backend.backend(), model.trainable_variables
    moving = ["moving" in variable.path for variable in model.non_trainable_variables]
    if backend == "jax":
        import jax
        others = [variable.value for variable in model.non_trainable_variables]
        def loss(values):
            logits, after = model.stateless_call(values, others, images, training=training)
            inferred, _ = model.stateless_call(values, others, images)
            return keras.ops.sum(logits ** 2), (inferred, logits, after)
        gradients, (inferred, logits, after) = jax.jit(jax.grad(loss, has_aux=True))(
            [variable.value for variable in weights]
        )
        return inferred, logits, gradients, list(itertools.compress(after, moving))
    inferred = model(images)
    statistics = itertools.compress(model.non_trainable_variables, moving)
    if backend == "tensorflow":
        import tensorflow as tf
        with tf.GradientTape() as tape:
            logits = model(images, training=training)
            loss = keras.ops.sum(logits ** 2)
        return inferred, logits, tape.gradient(loss, weights), statistics
    logits = model(images, training=training)
    keras.ops.sum(logits ** 2).backward()
    return inferred, logits, [variable.value.grad for variable in weights], statistics

directory = sys.argv[1]
random.seed(0)  # Keras' own function imports TensorFlow under every backend.
results = {}
for number, name in enumerate(sys.argv[2].split(",")):
    config = CONFIGS[name]
    # Few values: one that a rounding error carries past a ReLU's kink changes the gradient.
    images = np.random.default_rng(3).integers(0, 256, (1, 13, 10, 3)).astype("float32")
    path = f"{directory}/{number}.weights.h5"
    model = keras_resnet.build(
        config, input_shape=(13, 10, 3), classes=5, classifier_activation=None
    )
    if len(sys.argv) == 4:
        randomize(model)
        model.save_weights(path)
    model.load_weights(path)
    # Which blocks are dropped is each backend's own chance.
    inferred, logits, gradients, statistics = run(model, images, not config.stochastic_depth)
    results[f"{number}_logits"] = keras.ops.convert_to_numpy(inferred)
    results[f"{number}_training"] = keras.ops.convert_to_numpy(logits)
    for kind, values in (("gradient", gradients), ("statistic", statistics)):
        for index, value in enumerate(values):
            results[f"{number}_{kind}_{index:03}"] = keras.ops.convert_to_numpy(value)
np.savez(f"{directory}/{keras.backend.backend()}.npz", **results)
if keras.backend.backend() != "tensorflow":
    assert "tensorflow" not in sys.modules
"""


#: Every block and most of what it can have; all of `CONFIGS` takes minutes.
FEW = ("basic A", "v1.5 C", "v2 with everything")


@pytest.mark.parametrize(
    ("backend", "names"),
    [
        pytest.param("jax", FEW, marks=pytest.mark.full),
        pytest.param("jax", tuple(CONFIGS), marks=pytest.mark.slow),
        pytest.param("torch", tuple(CONFIGS), marks=pytest.mark.reference),
    ],
    ids=["jax", "jax-all", "torch-all"],
)
def test_logits_gradients_and_statistics_equal_those_under_tensorflow(
    backend: str, names: tuple[str, ...], tmp_path: Path, run_python: Run, run_new_python: Run
) -> None:
    expected, listed = tmp_path, ",".join(names)
    done = run_python(PROBE, str(expected), listed, "write")
    assert done.returncode == 0, done.stderr
    done = run_new_python(PROBE, str(expected), listed, KERAS_BACKEND=backend)
    assert done.returncode == 0, done.stderr
    ours, theirs = (np.load(expected / f"{name}.npz") for name in (backend, "tensorflow"))
    assert set(ours) == set(theirs)
    assert sum(name.endswith("_training") for name in ours) == len(names)
    largest: dict[str, float] = {}
    for name in ours:
        network, kind = name.split("_")[:2]
        if kind == "gradient":
            size = float(np.abs(theirs[name]).max())
            largest[network] = max(size, largest.get(network, 0))
    for name in ours:
        network, kind = name.split("_")[:2]
        scale, tolerance = 1.0, 1e-4
        if kind == "gradient":
            # Training divides by the deviation of a batch's few values. That of a bias before a BN
            # is zero but for rounding: of no size of its own.
            scale = max(float(np.abs(theirs[name]).max()), largest[network] / 100)
            tolerance = 1e-3
        np.testing.assert_allclose(
            ours[name] / scale, theirs[name] / scale, tolerance, tolerance, err_msg=name
        )


def test_importing_and_listing_under_jax_imports_no_tensorflow(run_new_python: Run) -> None:
    code = """
import sys, keras_resnet
keras_resnet.list_models()
keras_resnet.complexity(keras_resnet.ResNetConfig("basic", (1,), (8,)))
keras_resnet.build(keras_resnet.ResNetConfig("basic", (1,), (8,)), input_shape=(32, 32, 3))
keras_resnet.feature_extractor, keras_resnet.load_model
print("jax" in sys.modules, "tensorflow" in sys.modules)
"""
    done: subprocess.CompletedProcess[str] = run_new_python(code, KERAS_BACKEND="jax")
    assert done.stdout.split() == ["True", "False"], done.stderr


@pytest.mark.full
def test_networks_compute_under_jax_without_tensorflow(
    digits_file: Path, tmp_path: Path, run_new_python: Run
) -> None:
    code = """
import sys, keras_resnet
import numpy as np
images = np.load(sys.argv[2])
# Compiled as a whole.
outputs = keras_resnet.load_model(sys.argv[1]).predict(images, verbose=0)
np.save(sys.argv[3], outputs)
print("jax" in sys.modules, "tensorflow" in sys.modules)
"""
    files = [str(digits_file), *(str(tmp_path / f"{name}.npy") for name in ("images", "outputs"))]
    np.save(files[1], load_digits()[1].images[:3])
    done: subprocess.CompletedProcess[str] = run_new_python(code, *files, KERAS_BACKEND="jax")
    assert done.stdout.split() == ["True", "False"], done.stderr
    expected = load_model(digits_file)(np.load(files[1]))
    np.testing.assert_allclose(np.load(files[2]), expected, atol=1e-5)


def test_every_network_has_a_config_that_these_tests_cover() -> None:
    """Every value of every choice appears in some config of `CONFIGS`."""
    for field in ("block", "version", "shortcut", "downsample", "preact_layout", "norm", "stem"):
        values = {getattr(config, field) for config in VARIANTS.values()}
        assert values <= {getattr(config, field) for config in CONFIGS.values()}, field
