"""Fused batch normalization: equal to Keras' layer, and invisible in saved files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.training import accelerate
from keras_resnet.training.optimizers.averaging import average_bn_across_replicas, recompute_bn
from keras_resnet.training.run.copy import training_copy

from ..conftest import Run

#: Largest difference, divided by the largest value.
TOLERANCES = {"float32": 1e-5, "mixed_bfloat16": 1e-2, "mixed_float16": 2e-3}


def one_layer(dtype: str = "float32", **options: Any) -> keras.Model:
    layer = keras.layers.BatchNormalization(dtype=dtype, **options)
    model = keras.Sequential([keras.Input((5, 6, 7)), layer])
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in model.weights])
    return model


def images(count: int = 4, size: tuple[int, int] = (5, 6)) -> np.ndarray:
    return np.random.default_rng(1).normal(0.5, 2, (count, *size, 7)).astype("float32")


def one_step(model: keras.Model, values: np.ndarray, training: bool = True) -> list[np.ndarray]:
    """Return the output, the moving statistics, and the gradients of a loss."""

    @tf.function
    def compute(x: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = tf.cast(model(x, training=training), "float32")
            loss = tf.reduce_sum(output**3)
        return output, tape.gradient(loss, [x, *(v.value for v in model.trainable_variables)])

    output, gradients = compute(tf.constant(values))
    found = (output, *model.non_trainable_variables, *gradients)
    return [np.asarray(x, np.float32) for x in found]


def assert_close(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max()


def operations(model: keras.Model, training: bool = True) -> set[str]:
    """Return the kinds of operations of one call."""
    call = tf.function(lambda x: model(x, training=training))
    graph = call.get_concrete_function(tf.TensorSpec((2, *model.input_shape[1:]))).graph
    return {operation.type for operation in graph.get_operations()}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", ["training", "inference", "frozen", "plain"])
def test_equals_keras_layer(dtype: str, case: str) -> None:
    options = {"scale": False, "center": False} if case == "plain" else {}
    stock, fused = one_layer(dtype, **options), accelerate(one_layer(dtype, **options))
    for model in (stock, fused):
        model.layers[0].trainable = case != "frozen"
    steps = [one_step(model, images(), case != "inference") for model in (stock, fused)]
    assert_close(steps[1], steps[0], TOLERANCES[dtype])
    assert "FusedBatchNormV3" in operations(fused)
    assert "FusedBatchNormV3" not in operations(stock)
    assert fused(images()).dtype == stock(images()).dtype


def test_one_value_per_channel() -> None:
    model = keras.Sequential([keras.Input((1, 1, 7)), keras.layers.BatchNormalization()])
    found = one_step(accelerate(model), images(1, (1, 1)))
    np.testing.assert_allclose(found[0], 0, atol=1e-6)
    np.testing.assert_allclose(found[2], 0.99, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"axis": 1},
        {"synchronized": True},
        {"epsilon": 1e-6},
        {"renorm": True},
        {"dtype": "float64"},
    ],
    ids=str,
)
def test_others_stay(options: dict[str, Any]) -> None:
    stock, model = one_layer(**options), accelerate(one_layer(**options))
    assert "FusedBatchNormV3" not in operations(model)
    np.testing.assert_array_equal(stock(images(), training=True), model(images(), training=True))


def test_dense_inputs_masks_and_subclasses_stay() -> None:
    class Own(keras.layers.BatchNormalization):
        pass

    dense = keras.Sequential([keras.Input((7,)), keras.layers.BatchNormalization()])
    own = keras.Sequential([keras.Input((5, 6, 7)), Own()])
    for model in (dense, own):
        assert "FusedBatchNormV3" not in operations(accelerate(model))
    values, mask = images(), np.ones((4, 5, 6), bool)
    mask[:, 2:] = False
    results = []
    for model in (one_layer(), accelerate(one_layer())):
        results.append(np.asarray(model.layers[0](values, training=True, mask=mask)))
    np.testing.assert_array_equal(*results)


def test_gradients_are_deterministic_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    model = accelerate(one_layer())
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"{kind}:0"])
    assert "FusedBatchNormV3" in operations(model)
    assert "FusedBatchNormV3" not in operations(model, training=False)
    model.layers[0].trainable = False
    assert "FusedBatchNormV3" not in operations(model)


def trained_on_replicas(strategy: tf.distribute.Strategy, frozen: bool) -> list[float]:
    """Return differences between a stock and an accelerated network on two replicas.

    They are those of the history, of every copy of every weight after training, and of the weights
    after the statistics are averaged and recomputed, each divided by the largest value.
    """
    results = []
    for change in (lambda model: model, accelerate):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            layers = [keras.layers.BatchNormalization(momentum=0.5, trainable=not frozen)]
            layers += [keras.layers.ReLU(), keras.layers.Flatten(), keras.layers.Dense(3)]
            model = change(keras.Sequential([keras.Input((5, 6, 7)), *layers]))
            model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
        # The replicas get unequal parts of the last batch.
        values, labels = images(19), np.ones((19, 3), np.float32)
        history = model.fit(values, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
        found = [np.asarray(history.history["loss"])]
        found += [copy.numpy() for weight in model.weights for copy in weight.value.values]
        average_bn_across_replicas(model)
        found += model.get_weights()
        recompute_bn(model, [values[:8], values[8:]])
        results.append([*found, *model.get_weights()])
    return [float(np.abs(x - y).max() / np.abs(y).max()) for x, y in zip(*results, strict=True)]


REPLICAS = """
import json, sys
import tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.training.test_acceleration import trained_on_replicas
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
print(json.dumps(trained_on_replicas(strategy, frozen=sys.argv[1] == "frozen")))
"""


@pytest.mark.parametrize("case", ["training", pytest.param("frozen", marks=pytest.mark.full)])
def test_equals_keras_layer_on_two_replicas(case: str, run_python: Run) -> None:
    done = run_python(REPLICAS, case)
    assert done.returncode == 0, done.stderr[-2000:]
    differences = json.loads(done.stdout.splitlines()[-1])
    assert max(differences) < 1e-5
    # The history, 6 weights of 2 replicas, and these weights twice.
    assert len(differences) == 25


def test_other_backends_stay(run_new_python: Run) -> None:
    code = """
import keras
from keras_resnet.training import accelerate
model = keras.Sequential([keras.Input((5, 6, 7)), keras.layers.BatchNormalization()])
assert accelerate(model) is model
print(keras.backend.backend(), "call" in vars(model.layers[0]))
"""
    done = run_new_python(code, KERAS_BACKEND="jax")
    assert done.stdout.splitlines()[-1] == "jax False"


def test_only_models_are_accelerated() -> None:
    with pytest.raises(ValueError, match="Expected a `keras.Model`. Received: 'resnet20'"):
        accelerate("resnet20")  # type: ignore[type-var]


def test_saved_file_is_plain_keras(tmp_path: Path) -> None:
    inner = one_layer()
    inputs = keras.Input((5, 6, 7))
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(inner(inputs)))
    model = keras.Model(inputs, outputs)
    config = model.get_config()
    assert accelerate(accelerate(model)) is model
    assert "FusedBatchNormV3" in operations(model)
    model.compile("sgd", "mse")
    model.fit(images(), np.zeros((4, 3)), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert model.get_config() == config
    assert type(loaded.layers[1].layers[0]) is keras.layers.BatchNormalization
    assert "FusedBatchNormV3" not in operations(loaded)
    np.testing.assert_allclose(loaded.predict(images()), model.predict(images()), atol=1e-5)


def test_training_copy_is_accelerated(tiny_model: keras.Model) -> None:
    copy = training_copy(tiny_model, dtype="bfloat16")
    assert "FusedBatchNormV3" in operations(copy)
    assert "FusedBatchNormV3" not in operations(tiny_model)
