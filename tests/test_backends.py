"""Every kind of network under every Keras backend, each in a process of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from keras_resnet.variants import VARIANTS

from .conftest import Run
from .test_builder import CONFIGS

PROBE = """
import random
import sys
import numpy as np
import keras, keras_resnet
from tests.conftest import randomize
from tests.test_builder import CONFIGS

def run(model, images):
    \"\"\"Logits, and the gradients of the sum of their squares by the backend's own means.\"\"\"
    backend, weights = keras.backend.backend(), model.trainable_variables
    if backend == "tensorflow":
        import tensorflow as tf
        with tf.GradientTape() as tape:
            logits = model(images)
            loss = keras.ops.sum(logits ** 2)
        return logits, tape.gradient(loss, weights)
    if backend == "jax":
        import jax
        rest = [variable.value for variable in model.non_trainable_variables]
        def loss(values):
            logits, _ = model.stateless_call(values, rest, images)
            return keras.ops.sum(logits ** 2), logits
        gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(
            [variable.value for variable in weights]
        )
        return logits, gradients
    logits = model(images)
    keras.ops.sum(logits ** 2).backward()
    return logits, [variable.value.grad for variable in weights]

directory = sys.argv[1]
random.seed(0)  # Keras' own function imports TensorFlow under every backend.
results = {}
for number, (name, config) in enumerate(CONFIGS.items()):
    # Few values: one that a rounding error carries past a ReLU's kink changes the gradient.
    images = np.random.default_rng(3).integers(0, 256, (1, 13, 10, 3)).astype("float32")
    path = f"{directory}/{number}.weights.h5"
    model = keras_resnet.build(
        config, input_shape=(13, 10, 3), classes=5, classifier_activation=None
    )
    if len(sys.argv) == 3:
        randomize(model)
        model.save_weights(path)
    model.load_weights(path)
    logits, gradients = run(model, images)
    results[f"{number}_logits"] = keras.ops.convert_to_numpy(logits)
    for index, gradient in enumerate(gradients):
        results[f"{number}_gradient_{index:03}"] = keras.ops.convert_to_numpy(gradient)
np.savez(f"{directory}/{keras.backend.backend()}.npz", **results)
if keras.backend.backend() != "tensorflow":
    assert "tensorflow" not in sys.modules
"""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, run_python: Run) -> Path:
    directory = tmp_path_factory.mktemp("backends")
    done = run_python(PROBE, str(directory), "write", KERAS_BACKEND="tensorflow")
    assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.parametrize("backend", ["jax", pytest.param("torch", marks=pytest.mark.reference)])
def test_logits_and_gradients_are_equal_to_those_under_tensorflow(
    backend: str, expected: Path, run_python: Run
) -> None:
    done = run_python(PROBE, str(expected), KERAS_BACKEND=backend)
    assert done.returncode == 0, done.stderr
    ours, theirs = (np.load(expected / f"{name}.npz") for name in (backend, "tensorflow"))
    assert set(ours) == set(theirs)
    assert sum(name.endswith("_logits") for name in ours) == len(CONFIGS)
    for name in ours:
        scale = np.abs(theirs[name]).max() if "gradient" in name else 1
        np.testing.assert_allclose(
            ours[name] / scale, theirs[name] / scale, rtol=1e-4, atol=1e-4, err_msg=name
        )


def test_importing_and_listing_under_jax_imports_no_tensorflow(run_python: Run) -> None:
    code = """
import sys, keras_resnet
keras_resnet.list_models()
keras_resnet.complexity(keras_resnet.ResNetConfig("basic", (1,), (8,)))
keras_resnet.feature_extractor, keras_resnet.load_model
print("jax" in sys.modules, "tensorflow" in sys.modules)
"""
    done: subprocess.CompletedProcess[str] = run_python(code, KERAS_BACKEND="jax")
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_every_network_has_a_config_that_these_tests_cover() -> None:
    """Every value of every choice appears in some config of `CONFIGS`."""
    for field in ("block", "version", "shortcut", "downsample", "preact_layout", "norm", "stem"):
        values = {getattr(config, field) for config in VARIANTS.values()}
        assert values <= {getattr(config, field) for config in CONFIGS.values()}, field
