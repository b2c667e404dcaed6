"""Layers with compressed kernels and observed ranges, against NumPy and by hand."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet.compression.layers import (
    ActivationRange,
    CompressedConv2D,
    CompressedDense,
    compressed_layers,
    measuring,
    ranges,
)

from ..conftest import ROOT

EPSILON = 1e-6


def kernel_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.3, shape).astype(np.float32)


def rounded_by_numpy(kernel: np.ndarray, rounding: str) -> np.ndarray:
    """To the nearest of 255 values, the same on both sides of 0."""
    axes = tuple(range(kernel.ndim - 1)) if rounding == "channel" else None
    step = np.abs(kernel).max(axis=axes) / np.float32(127)
    return np.round(kernel / step) * step


def conv(**options: Any) -> CompressedConv2D:
    layer = CompressedConv2D(6, 3, padding="same", use_bias=False, **options)
    layer.build((None, 5, 5, 4))
    layer.kernel.assign(kernel_of(3, 3, 4, 6))
    return layer


def dense(**options: Any) -> CompressedDense:
    layer = CompressedDense(5, **options)
    layer.build((None, 7))
    layer.kernel.assign(kernel_of(7, 5))
    return layer


MAKERS: dict[str, Callable[..., Any]] = {"conv": conv, "dense": dense}


@pytest.mark.parametrize("rounding", ["channel", "tensor"])
@pytest.mark.parametrize("kind", MAKERS)
def test_rounding_is_that_of_numpy(kind: str, rounding: str) -> None:
    layer = MAKERS[kind](rounding=rounding)
    kernel = np.asarray(layer.kernel.numpy())
    rounded = layer.final_kernel()
    np.testing.assert_allclose(rounded, rounded_by_numpy(kernel, rounding), rtol=0, atol=EPSILON)
    assert np.abs(rounded - kernel).max() > 1e-4
    # The largest weights stay as they are, so that an artifact finds the same step.
    axes = tuple(range(kernel.ndim - 1)) if rounding == "channel" else None
    largest = np.abs(kernel).max(axis=axes)
    np.testing.assert_array_equal(np.abs(rounded).max(axis=axes), largest)
    steps = rounded / (largest / np.float32(127))
    np.testing.assert_allclose(steps, np.round(steps), rtol=0, atol=1e-3)
    assert np.abs(steps).max() < 127.01
    # Rounding what is rounded changes nothing.
    layer.kernel.assign(rounded)
    np.testing.assert_array_equal(layer.final_kernel(), rounded)
    np.testing.assert_array_equal(layer.unrounded_kernel(), rounded)


def test_an_empty_channel_stays_empty() -> None:
    kernel = kernel_of(3, 3, 4, 6)
    kernel[..., 2] = 0
    layer = conv(rounding="channel")
    layer.kernel.assign(kernel)
    np.testing.assert_array_equal(layer.final_kernel()[..., 2], 0)
    np.testing.assert_allclose(layer.final_kernel(), kernel, atol=0.01)


def test_outputs_are_those_of_the_compressed_kernel() -> None:
    images = kernel_of(2, 5, 5, 4)
    layer = conv(pruned="unstructured", clusters=3, rounding="tensor", activation="relu", strides=1)
    mask = np.arange(216).reshape(3, 3, 4, 6) % 3 > 0
    layer.mask.assign(mask.astype(np.uint8))
    layer.centroids.assign([-0.5, 0.25, 1.0])
    layer.assignments.assign((np.arange(216).reshape(3, 3, 4, 6) % 3).astype(np.uint8))
    kernel = np.where(mask, np.array([-0.5, 0.25, 1.0])[np.arange(216) % 3].reshape(mask.shape), 0)
    np.testing.assert_array_equal(layer.unrounded_kernel(), kernel.astype(np.float32))
    kernel = rounded_by_numpy(kernel.astype(np.float32), "tensor")
    np.testing.assert_allclose(layer.final_kernel(), kernel, atol=EPSILON)
    plain = keras.layers.Conv2D(6, 3, padding="same", use_bias=False, activation="relu")
    plain.build((None, 5, 5, 4))
    plain.kernel.assign(kernel)
    np.testing.assert_allclose(layer(images), plain(images), atol=1e-5)


def test_gradients_reach_centroids_and_stop_at_masks() -> None:
    import tensorflow as tf

    inputs = kernel_of(3, 7)
    layer = dense(pruned="unstructured")
    layer.mask.assign(np.eye(7, 5).astype(np.uint8))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(inputs))
    gradient = tape.gradient(loss, layer.kernel.value).numpy()
    np.testing.assert_allclose(gradient, np.eye(7, 5) * inputs.sum(0)[:, None], atol=1e-6)

    layer = dense(clusters=2, use_bias=False)
    places = (np.arange(35).reshape(7, 5) % 2).astype(np.uint8)
    layer.assignments.assign(places)
    assert [x.path.split("/")[-1] for x in layer.trainable_variables] == ["centroids"]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(inputs))
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.centroids.value)).numpy()
    all_ = np.repeat(inputs.sum(0)[:, None], 5, axis=1)
    # Of their sums, as of any variable that is used often, they would take far too long steps.
    means = [all_[places == 0].mean(), all_[places == 1].mean()]
    np.testing.assert_allclose(gradient, means, 1e-5)


def test_unfreezing_leaves_a_clustered_kernel_alone() -> None:
    layer = conv(clusters=4)
    layer.trainable = False
    assert layer.trainable_variables == []
    layer.trainable = True
    assert [x.path.split("/")[-1] for x in layer.trainable_variables] == ["centroids"]


def activations_by_numpy(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """As TFLite has it: 256 values at equal distances, one of them 0."""
    scale = (high - low) / 255
    zero = np.round(-low / scale)
    return (np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale


def built_range(low: float, high: float, **keywords: Any) -> ActivationRange:
    layer = ActivationRange(**keywords)
    layer.build((None, 4))
    layer.low.assign(low)
    layer.high.assign(high)
    return layer


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.3), (0.0, 6.3), (-0.37, 2.9), (-4.1, 0.0)])
def test_activations_are_rounded_as_in_uint8(low: float, high: float) -> None:
    layer = built_range(low, high)
    # Away from the middles between two steps, where either neighbour is right.
    values = np.linspace(low - 1, high + 1, 997, dtype=np.float32).reshape(1, -1)
    received = np.asarray(layer(values))
    step = (high - low) / 255
    apart = np.abs((values / step) % 1 - 0.5) > 1e-3
    wanted = activations_by_numpy(values, low, high)
    np.testing.assert_allclose(received[apart], wanted[apart], rtol=0, atol=2e-6)
    assert len(np.unique(received)) == 256
    assert 0 in received
    assert received.max() - received.min() == pytest.approx(high - low, rel=1e-5)
    np.testing.assert_array_equal(layer(np.zeros((1, 3), np.float32)), 0)


def test_ends_move_by_hand_in_training_only() -> None:
    layer = built_range(-1, 1, momentum=0.75)
    batch = np.array([[-3.0, 5.0]], np.float32)
    layer(batch)
    layer(batch, training=False)
    assert (float(layer.low), float(layer.high)) == (-1, 1)
    received = np.asarray(layer(batch, training=True))
    assert (float(layer.low), float(layer.high)) == (-1.5, 2)
    # What has moved counts at once; beyond it, activations are cut off.
    np.testing.assert_allclose(received, [[-1.5, 2.0]], atol=0.01)
    # Zero is always between the ends.
    layer(np.array([[2.0, 6.0]], np.float32), training=True)
    assert (float(layer.low), float(layer.high)) == (-1.125, 3)
    layer(np.array([[-2.0, -6.0]], np.float32), training=True)
    assert (float(layer.low), float(layer.high)) == (-2.34375, 2.25)


@pytest.mark.parametrize("flag", ["trainable", "observing"])
def test_frozen_ends_stay(flag: str) -> None:
    layer = built_range(-1, 1)
    setattr(layer, flag, False)
    layer(np.array([[-3.0, 5.0]], np.float32), training=True)
    assert (float(layer.low), float(layer.high)) == (-1, 1)


def test_gradient_is_one_inside_and_zero_outside() -> None:
    import tensorflow as tf

    layer = built_range(-1, 2)
    values = tf.constant([[-1.5, -0.9, 0.0, 1.9, 2.5]])
    with tf.GradientTape() as tape:
        tape.watch(values)
        loss = tf.reduce_sum(layer(values) * 3)
    np.testing.assert_array_equal(tape.gradient(loss, values), [[0, 3, 3, 3, 0]])


def test_a_range_of_nothing_puts_out_zero() -> None:
    layer = built_range(0, 0)
    np.testing.assert_allclose(layer(np.array([[0.0, 3.0]], np.float32)), [[0, 0]], atol=1e-9)


def test_measuring_passes_activations_on_and_finds_their_ends() -> None:
    layer = built_range(-9, 9)
    with measuring([layer]):
        for batch in ([[0.3, 2.0]], [[-0.7, 1.0]], [[0.1, 0.2]]):
            np.testing.assert_array_equal(layer(np.array(batch)), np.array(batch, np.float32))
    assert float(layer.low) == pytest.approx(-0.7)
    assert float(layer.high) == pytest.approx(2.0)
    with pytest.raises(RuntimeError, match="stop"), measuring([layer]):
        layer(np.array([[50.0]]))
        raise RuntimeError("stop")
    assert float(layer.high) == pytest.approx(2.0)
    assert len(np.unique(layer(np.linspace(-1, 3, 999)[None]))) == 256


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Every option of every layer."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3))
    x = CompressedConv2D(4, 3, pruned="unstructured", rounding="channel", name="a")(image)
    x = ActivationRange(0.5, name="a_range")(x)
    x = CompressedConv2D(
        8,
        3,
        groups=2,
        pruned="unstructured",
        clusters=5,
        rounding="tensor",
        activation="relu",
        name="b",
    )(x)
    x = keras.layers.Flatten()(x)
    head = {"momentum": 0.25, "trainable": False}
    x = CompressedDense(3, clusters=4, observed=head, activation="softmax", name="c")(x)
    model = keras.Model(image, x)
    random = np.random.default_rng(0)
    for layer in compressed_layers(model):
        if layer.pruned:
            layer.mask.assign(random.integers(0, 2, layer.mask.shape))
        if layer.clusters:
            layer.centroids.assign(random.normal(size=layer.clusters))
            layer.assignments.assign(random.integers(0, layer.clusters, layer.assignments.shape))
        layer.bias.assign(random.normal(size=layer.bias.shape))
    for index, layer in enumerate(ranges(model).values()):
        layer.low.assign(-2.0 - index)
        layer.high.assign(2.0)
    return model


def test_files_bring_everything_back(model: keras.Model, tmp_path: Path) -> None:
    assert list(ranges(model)) == ["a", "c"]
    images = np.random.default_rng(1).normal(size=(3, 6, 6, 3)).astype(np.float32)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), model(images))
    assert len(model.weights) == len(loaded.weights)
    for before, after in zip(model.weights, loaded.weights, strict=True):
        assert (before.path, before.dtype) == (after.path, after.dtype)
        assert before.trainable == after.trainable
        np.testing.assert_array_equal(after.numpy(), before.numpy())
    model.save_weights(tmp_path / "model.weights.h5")
    loaded.get_layer("b").mask.assign(loaded.get_layer("b").mask * 0)
    loaded.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(loaded(images), model(images))


def test_configs_bring_every_option_back(model: keras.Model) -> None:
    for layer in [*compressed_layers(model), model.get_layer("a_range")]:
        config = layer.get_config()
        assert type(layer).from_config(config).get_config() == config
    config = model.get_layer("c").get_config()
    assert (config["pruned"], config["clusters"], config["rounding"]) == (None, 4, None)
    assert config["observed"] == {"momentum": 0.25, "observing": True, "trainable": False}
    again = CompressedDense.from_config(config)
    assert again.range is not None
    assert (again.range.momentum, again.range.trainable) == (0.25, False)
    assert model.get_layer("b").get_config()["observed"] is None
    assert model.get_layer("a_range").get_config()["momentum"] == 0.5


@pytest.mark.parametrize("kind", MAKERS)
def test_both_kinds_have_the_same_options(kind: str) -> None:
    """Files that exist have these, in this form."""
    layer = MAKERS[kind](clusters=3, rounding="tensor", observed={"momentum": 0.5}, name="a")
    own = {
        "pruned": None,
        "clusters": 3,
        "rounding": "tensor",
        "observed": {"momentum": 0.5, "observing": True, "trainable": True},
    }
    plain: Any = {"conv": keras.layers.Conv2D, "dense": keras.layers.Dense}[kind]
    config = layer.get_config()
    without = {key: value for key, value in config.items() if key not in own}
    assert {key: config[key] for key in own} == own
    assert without == plain.from_config(without).get_config()
    names = [weight.path.removeprefix("a/") for weight in layer.weights]
    bias = ["bias"] if layer.use_bias else []
    others = ["centroids", "assignments", "range/low", "range/high"]
    assert names == ["kernel", *bias, *others]


def test_impossible_options_are_refused() -> None:
    for clusters in (1, 257, -2):
        with pytest.raises(ValueError, match=rf"from 2 to 256 `clusters`.*Received: {clusters}"):
            CompressedConv2D(4, 3, clusters=clusters)
    with pytest.raises(ValueError, match="'channel', 'tensor' or None. Received: 'row'"):
        CompressedDense(4, rounding="row")  # type: ignore[arg-type]
    for momentum in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"`momentum` in \[0, 1\)"):
            ActivationRange(momentum)


def test_half_precision_computes_nearly_the_same() -> None:
    images = kernel_of(2, 5, 5, 4)
    options: dict[str, Any] = {"pruned": "unstructured", "clusters": 8, "rounding": "tensor"}
    layers = [conv(**options, observed={}, dtype=x) for x in ("float32", "mixed_bfloat16")]
    for layer in layers:
        layer.centroids.assign(np.linspace(-1, 1, 8))
        layer.assignments.assign(np.arange(216).reshape(3, 3, 4, 6) % 8)
    wanted, received = (layer(images, training=True) for layer in layers)
    assert {weight.dtype for weight in layers[1].weights} == {"float32", "uint8"}
    np.testing.assert_allclose(np.asarray(received, np.float32), wanted, atol=0.05)
    assert layers[1].range is not None
    assert float(layers[1].range.high) != 1


@pytest.mark.parametrize("rounding", ["channel", "tensor"])
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("clusters", [0, 16])
def test_half_precision_rounds_as_the_artifact_does(
    dtype: str, rounding: str, clusters: int
) -> None:
    """Steps are those of the float32 kernel; only what comes out is cast."""
    layer = dense(rounding=rounding, clusters=clusters, use_bias=False, dtype=dtype)
    if clusters:
        layer.centroids.assign(kernel_of(clusters))
        layer.assignments.assign(np.arange(35).reshape(7, 5) % clusters)
    received = layer(np.eye(7))
    assert received.dtype == layer.compute_dtype
    wanted = keras.ops.cast(layer.final_kernel(), layer.compute_dtype)
    np.testing.assert_array_equal(
        keras.ops.cast(received, "float32"), keras.ops.cast(wanted, "float32")
    )


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_ranges_are_float32_in_half_precision(dtype: str) -> None:
    layer = built_range(-1, 1.3, momentum=0.999, dtype=dtype)
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    values = keras.ops.cast(np.linspace(-2, 2, 333)[None], layer.compute_dtype)
    received = keras.ops.cast(layer(values), "float32")
    exact = activations_by_numpy(np.asarray(keras.ops.cast(values, "float32")), -1, 1.3)
    wanted = keras.ops.cast(keras.ops.cast(exact, layer.compute_dtype), "float32")
    # Less than a step of bfloat16 near 1, which is 2 ** -7.
    np.testing.assert_allclose(received, wanted, atol=2**-8)
    layer(values, training=True)
    # Half precision has no number between 1.3 and the one after this step.
    assert float(layer.high) == pytest.approx(1.3007, abs=1e-6)


def test_compression_uses_public_attributes_only() -> None:
    """What is private in Keras and TensorFlow may change with any release."""
    for path in sorted((ROOT / "keras_resnet" / "compression").glob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        own = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
        own |= {node.attr for node in attributes if isinstance(node.ctx, ast.Store)}
        private = {node.attr for node in attributes if re.match("_[^_]", node.attr)} - own
        assert not private, f"{path.name} uses {private} of somebody else"


def test_keras_layers_have_one_kernel_that_their_property_gives() -> None:
    """Pruned, clustered and rounded layers change what `kernel` is used for, not what it is."""
    for layer in (conv(), dense()):
        assert layer.kernel is layer.weights[0], (
            "Keras' `kernel` is no longer the layer's own variable: see _Compressed in layers.py"
        )
