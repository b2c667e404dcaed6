from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet.training.optimizers.averaging import (
    WeightAverage,
    average_bn_across_replicas,
    recompute_bn,
)

from ...conftest import Run

SIZE, CHANNELS = 3, 4


def small_model(rate: float = 0.5, policy: str | None = None) -> keras.Model:
    """Dense, BN, ReLU, dropout; a model inside with BN; a head."""
    keras.utils.set_random_seed(0)
    inner_inputs = keras.Input((CHANNELS,))
    inner = keras.Model(
        inner_inputs,
        keras.layers.BatchNormalization(name="bn2", momentum=0.7, dtype=policy)(
            keras.layers.Dense(CHANNELS, name="dense2", dtype=policy)(inner_inputs)
        ),
        name="inner",
    )
    inputs = keras.Input((SIZE,))
    x = keras.layers.Dense(CHANNELS, name="dense1", dtype=policy)(inputs)
    x = keras.layers.BatchNormalization(name="bn1", momentum=0.8, dtype=policy)(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Dropout(rate, seed=0)(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="head", dtype="float32")(inner(x)))


def values_of(model: keras.Model) -> list[np.ndarray]:
    return [np.array(variable) for variable in model.variables]


def set_everything(model: keras.Model, value: float) -> None:
    for variable in model.weights:
        variable.assign(np.full(variable.shape, value))


class Counter(keras.layers.Layer):
    """Counts its calls in an integer weight."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.calls = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="calls"
        )

    def call(self, x: object) -> object:
        return x


def test_average_equals_numpy() -> None:
    model = small_model()
    average = WeightAverage(0.9)
    random = np.random.default_rng(0)
    expected: list[np.ndarray] = []
    for _ in range(7):
        for variable in model.weights:
            variable.assign(random.normal(size=variable.shape))
        average.update(model)
        weights = [w.astype(np.float64) for w in model.get_weights()]
        if expected:
            weights = [0.9 * e + 0.1 * w for e, w in zip(expected, weights, strict=True)]
        expected = weights
    state = average.state()
    assert int(state.pop("steps")) == 7
    assert [key.partition("/")[2] for key in state] == [v.path for v in model.weights]
    for key, array in zip(state, expected, strict=True):
        assert state[key].dtype == np.float32
        np.testing.assert_allclose(state[key], array, atol=1e-6)


def test_constant_weights_stay_and_integers_are_copied() -> None:
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(2)(Counter()(inputs)))
    counter, kernel = model.layers[1].calls, model.layers[2].kernel
    average = WeightAverage(0.7)
    before = kernel.numpy()
    for calls in (1, 2, 2**30 + 1):
        counter.assign(calls)
        average.update(model)
    counter.assign(5)
    kernel.assign(before + 1)
    with average.applied(model):
        assert counter.numpy() == 2**30 + 1
        np.testing.assert_array_equal(kernel.numpy(), before)
    assert counter.numpy() == 5
    np.testing.assert_array_equal(kernel.numpy(), before + 1)


def test_updates_are_in_place_and_states_are_copies() -> None:
    model = small_model()
    average = WeightAverage(0.5)
    average.update(model)
    arrays = list(average._averages)
    state = average.state()
    old = {key: array.copy() for key, array in state.items()}
    set_everything(model, 2.0)
    average.update(model)
    assert all(a is b for a, b in zip(arrays, average._averages, strict=True))
    for key, array in state.items():
        np.testing.assert_array_equal(array, old[key])


def test_restored_average_goes_on_bit_for_bit(tmp_path: Path) -> None:
    averages = WeightAverage(0.9), WeightAverage(0.9)
    model = small_model()
    for step in range(8):
        set_everything(model, 0.1 * step)
        averages[0].update(model)
        if step < 3:
            averages[1].update(model)
            continue
        if step == 3:
            np.savez(tmp_path / "average.npz", **averages[1].state())
            averages = averages[0], WeightAverage(0.9)
            with np.load(tmp_path / "average.npz") as file:
                averages[1].restore(dict(file))
        averages[1].update(model)
    first, second = (average.state() for average in averages)
    assert first.keys() == second.keys()
    for key, array in first.items():
        np.testing.assert_array_equal(array, second[key])


def test_own_weights_come_back_after_an_error() -> None:
    model = small_model()
    average = WeightAverage(0.5)
    average.update(model)
    averaged = model.get_weights()
    set_everything(model, 2.0)
    before = values_of(model)
    with pytest.raises(KeyError), average.applied(model):
        for weight, expected in zip(model.get_weights(), averaged, strict=True):
            np.testing.assert_array_equal(weight, expected)
        raise KeyError
    for value, expected in zip(values_of(model), before, strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("policy", [None, "mixed_bfloat16"])
def test_fit_with_an_average(policy: str | None) -> None:
    model = small_model(policy=policy)
    model.compile("sgd", loss="mse")
    average = WeightAverage(0.5)
    seen = []

    def end(batch: int, logs: object) -> None:
        average.update(model)
        seen.append(model.get_weights())

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=end)
    images = np.random.default_rng(0).normal(size=(12, SIZE)).astype("float32")
    model.fit(images, images[:, :2], batch_size=4, callbacks=[callback], verbose=0)
    assert len(seen) == 3
    assert average._names[4] == "bn1/moving_mean"
    assert np.abs(seen[0][4] - seen[2][4]).max() > 1e-3
    for number, array in enumerate(list(average.state().values())[1:]):
        first, second, third = (weights[number] for weights in seen)
        np.testing.assert_allclose(array, first / 4 + second / 4 + third / 2, atol=1e-6)


def statistics(model: keras.Model, batches: list[np.ndarray]) -> list[np.ndarray]:
    """Pooled statistics of both norms, by numpy, every batch normalised by its own."""
    weights = {v.path: np.array(v, np.float64) for v in model.weights}
    before1, before2 = [], []
    for batch in filter(len, batches):
        x = batch @ weights["dense1/kernel"] + weights["dense1/bias"]
        before1.append(x)
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
        x = np.maximum(0, x * weights["bn1/gamma"] + weights["bn1/beta"])
        before2.append(x @ weights["dense2/kernel"] + weights["dense2/bias"])
    first, second = np.concatenate(before1), np.concatenate(before2)
    return [first.mean(0), first.var(0), second.mean(0), second.var(0)]


def moving(model: keras.Model) -> list[np.ndarray]:
    norms = [model.get_layer("bn1"), model.get_layer("inner").get_layer("bn2")]
    return [v.numpy() for norm in norms for v in (norm.moving_mean, norm.moving_variance)]


def unequal_batches() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(i, i + 1, (size, SIZE)) for i, size in enumerate((6, 6, 3, 0))]


@pytest.mark.parametrize("tuples", [False, True])
def test_precise_statistics_equal_numpy(tuples: bool) -> None:
    model = small_model()
    batches = [batch.astype("float32") for batch in unequal_batches()]
    others = [v for v in model.variables if "moving" not in v.path]
    before = [np.array(variable) for variable in others]
    assert any("seed" in variable.path for variable in others)
    data = [(batch, np.zeros(len(batch))) for batch in batches] if tuples else batches
    recompute_bn(model, data)
    for value, expected in zip(moving(model), statistics(model, batches), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-5)
    for variable, expected in zip(others, before, strict=True):
        np.testing.assert_array_equal(np.array(variable), expected)
    assert model.get_layer("bn1").momentum == 0.8
    assert model.get_layer("inner").get_layer("bn2").momentum == 0.7
    assert [x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)] == [0.5]


def test_precise_statistics_of_images_from_a_dataset() -> None:
    import tensorflow as tf

    inputs = keras.Input((5, 5, 2))
    norm = keras.layers.BatchNormalization()
    model = keras.Model(inputs, norm(inputs))
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 5, 2), dtype=np.uint8)
    recompute_bn(model, tf.data.Dataset.from_tensor_slices(images).batch(3))
    np.testing.assert_allclose(norm.moving_mean.numpy(), images.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance.numpy(), images.var((0, 1, 2)), rtol=1e-5)


def test_frozen_layers_keep_their_statistics() -> None:
    model = small_model()
    set_everything(model, 0.5)
    model.get_layer("bn1").trainable = False
    recompute_bn(model, [batch.astype("float32") for batch in unequal_batches()])
    mean1, variance1, mean2, _ = moving(model)
    np.testing.assert_array_equal([mean1, variance1], np.full((2, CHANNELS), 0.5, "float32"))
    assert np.abs(mean2 - 0.5).min() > 0.1
    model.trainable = False
    before = moving(model)
    recompute_bn(model, [])
    np.testing.assert_array_equal(before, moving(model))


def test_everything_comes_back_after_an_error() -> None:
    model = small_model()
    set_everything(model, 0.5)
    before = values_of(model)
    batches = unequal_batches()[:2]
    with pytest.raises(ValueError, match="incompatible"):
        recompute_bn(model, [*batches, np.zeros((2, SIZE + 1))])
    for value, expected in zip(values_of(model), before, strict=True):
        np.testing.assert_array_equal(value, expected)
    assert model.get_layer("bn1").momentum == 0.8
    with pytest.raises(ValueError, match="Expected at least one batch"):
        recompute_bn(model, [])
    np.testing.assert_array_equal(moving(model)[0], np.full(CHANNELS, 0.5, "float32"))


def test_hidden_and_renormalising_layers_are_refused() -> None:
    inputs = keras.Input((3, SIZE))
    wrapped = keras.layers.TimeDistributed(keras.layers.BatchNormalization(name="hidden"))
    model = keras.Model(inputs, wrapped(inputs))
    with pytest.raises(ValueError, match="in models only.*hidden/moving_variance"):
        recompute_bn(model, [np.zeros((2, 3, SIZE))])
    renorm = keras.layers.BatchNormalization(renorm=True, name="renorm")
    model = keras.Model(inputs, renorm(inputs))
    with pytest.raises(ValueError, match="without `renorm`. Received: renorm"):
        recompute_bn(model, [np.zeros((2, 3, SIZE))])


def test_without_a_strategy_nothing_is_averaged() -> None:
    model = small_model()
    before = values_of(model)
    average_bn_across_replicas(model)
    for value, expected in zip(values_of(model), before, strict=True):
        np.testing.assert_array_equal(value, expected)


REPLICAS = """
import keras
import numpy as np
import tensorflow as tf

[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_resnet.training.optimizers.averaging import (
    WeightAverage, average_bn_across_replicas, recompute_bn
)
from tests.training.optimizers.test_averaging import (
    SIZE, moving, small_model, statistics, unequal_batches
)

with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = small_model()
    model.compile(keras.optimizers.SGD(0.01), loss="mse")
mean, kernel = model.get_layer("bn1").moving_mean, model.get_layer("dense1").kernel

def copies(variable):
    return [copy.numpy() for copy in variable.value.values]

average = WeightAverage(0.5)
images = np.random.default_rng(0).normal(size=(16, SIZE)).astype("float32")
seen = []

def end(batch, logs):
    average.update(model)
    seen.append(np.mean(copies(mean), 0))

model.fit(images, images[:, :2], batch_size=8, verbose=0,
          callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=end)])
before = copies(mean)
assert np.abs(before[0] - before[1]).max() > 1e-3
averaged = average.state()["00004/bn1/moving_mean"]
np.testing.assert_allclose(averaged, np.mean(seen, 0), atol=1e-6)
with average.applied(model):
    for copy in copies(mean):
        np.testing.assert_array_equal(copy, averaged)
np.testing.assert_array_equal(copies(mean), before)

# Frozen statistics stay; the mean of equal ones need not be the same number.
norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
for norm in norms:
    norm.trainable = False
average_bn_across_replicas(model)
np.testing.assert_array_equal(copies(mean), before)
for norm in norms:
    norm.trainable = True

average_bn_across_replicas(model)
np.testing.assert_allclose(copies(mean), [np.mean(before, 0)] * 2, atol=1e-6)
np.testing.assert_array_equal(*copies(mean))
np.testing.assert_array_equal(*copies(kernel))

batches = [batch.astype("float32") for batch in unequal_batches()]
recompute_bn(model, batches)
for value, expected in zip(moving(model), statistics(model, batches), strict=True):
    np.testing.assert_allclose(value, expected, atol=1e-5)
np.testing.assert_array_equal(*copies(mean))
"""


def test_replicas(run_python: Run) -> None:
    process = run_python(REPLICAS)
    assert process.returncode == 0, process.stderr


JAX = """
import keras
import numpy as np
from keras_resnet.training.optimizers.averaging import (
    WeightAverage, average_bn_across_replicas, recompute_bn
)
from tests.training.optimizers.test_averaging import (
    SIZE, moving, small_model, statistics, unequal_batches
)

assert keras.backend.backend() == "jax"
model = small_model()
model.compile(keras.optimizers.SGD(0.1), loss="mse")
average = WeightAverage(0.5)
images = np.random.default_rng(0).normal(size=(16, SIZE)).astype("float32")
targets = images[:, :2]
seen, losses = [], []
bn1 = model.get_layer("bn1")

class Evaluation(keras.callbacks.Callback):
    # Asking for `self.model` would bring the weights into the model.

    def on_train_batch_end(self, batch, logs):
        if (batch + 1) % 2 == 0 or batch == 0:
            average.update(model)
            seen.append(model.get_weights())

    def on_test_begin(self, logs):
        self.swapped = average.applied(model)
        self.own = model.get_weights()
        self.swapped.__enter__()

    def on_test_batch_end(self, batch, logs):
        if batch == 0:
            self.swapped.__exit__(None, None, None)
            self.swapped = average.applied(model)
            self.swapped.__enter__()

    def on_test_end(self, logs):
        self.swapped.__exit__(None, None, None)
        for value, expected in zip(model.get_weights(), self.own, strict=True):
            np.testing.assert_array_equal(value, expected)

fitted = model.fit(
    images, targets, batch_size=4, verbose=0, shuffle=False, callbacks=[Evaluation()],
    validation_data=(images, targets), validation_batch_size=8,
).history
assert len(seen) == 3
for number, array in enumerate(list(average.state().values())[1:]):
    first, second, fourth = (weights[number] for weights in seen)
    np.testing.assert_allclose(array, first / 4 + second / 4 + fourth / 2, atol=1e-6)
assert np.abs(seen[0][0] - seen[2][0]).max() > 1e-3
own_loss = model.evaluate(images, targets, batch_size=8, verbose=0)
own = model.get_weights()
with average.applied(model):
    loss = model.evaluate(images, targets, batch_size=8, verbose=0)
np.testing.assert_allclose(fitted["val_loss"][0], loss, rtol=1e-5)
assert abs(own_loss - loss) > 1e-4
for value, expected in zip(model.get_weights(), own, strict=True):
    np.testing.assert_array_equal(value, expected)

batches = [batch.astype("float32") for batch in unequal_batches()]
recompute_bn(model, batches)
for value, expected in zip(moving(model), statistics(model, batches), strict=True):
    np.testing.assert_allclose(value, expected, atol=1e-5)
average_bn_across_replicas(model)
model.fit(images, targets, batch_size=4, verbose=0)
"""


@pytest.mark.full
def test_jax(run_new_python: Run) -> None:
    process = run_new_python(JAX, KERAS_BACKEND="jax")
    assert process.returncode == 0, process.stderr
