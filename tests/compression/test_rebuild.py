"""Copies with compressed layers and without: nothing is lost, nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_resnet import ResNetConfig, build
from keras_resnet.compression import cluster, prune, quantize_aware, strip
from keras_resnet.compression.layers import ranges
from keras_resnet.export import export
from keras_resnet.export.tflite.inspect import kernels
from keras_resnet.models.info import compressed_kernels, learned_ranges
from keras_resnet.training import freeze, unfreeze
from keras_resnet.training.run.copy import training_copy

from ..conftest import randomize


@pytest.fixture
def images() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (24, 4, 4, 3))
    return coarse.repeat(4, axis=1).repeat(4, axis=2).astype(np.float32)


def small(body: Callable[[keras.KerasTensor], keras.KerasTensor]) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3), name="image")
    return keras.Model(image, body(image), name="small")


def test_scopes_around_a_model_make_no_difference(images: np.ndarray) -> None:
    with keras.name_scope("outer"):
        model = build(ResNetConfig("basic", (1,), (8,), stem="cifar"), input_shape=(16, 16, 3))
    randomize(model)
    np.testing.assert_array_equal(strip(prune(model, 0.0))(images), model(images))


def test_adapted_normalization_is_copied(images: np.ndarray) -> None:
    norm = layers.Normalization(name="pixels")
    norm.adapt(images)
    model = small(lambda x: layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(norm(x))))
    np.testing.assert_allclose(strip(model)(images), model(images), atol=1e-6)


def test_what_is_clustered_is_plain_afterwards(images: np.ndarray) -> None:
    model = build(ResNetConfig("basic", (1,), (8,), stem="cifar"), input_shape=(16, 16, 3))
    randomize(model)
    clustered = cluster(model, 8)
    assert clustered.get_layer("conv1_bn").gamma_constraint is not None
    assert strip(clustered).get_layer("conv1_bn").gamma_constraint is None


def test_layers_that_are_called_twice_are_refused() -> None:
    conv = layers.Conv2D(3, 3, padding="same", name="twice")
    model = small(lambda x: layers.GlobalAveragePooling2D()(conv(conv(x))))
    with pytest.raises(ValueError, match="calls 'twice' 2 times"):
        prune(model)


def test_strip_twice_is_strip_once(images: np.ndarray) -> None:
    model = build(ResNetConfig("basic", (1,), (8,), stem="cifar"), input_shape=(16, 16, 3))
    randomize(model)
    once = strip(quantize_aware(cluster(prune(model, 0.5), 8), images))
    again = strip(once)
    assert learned_ranges(again) == learned_ranges(once)
    assert compressed_kernels(again) == compressed_kernels(once)
    assert len(compressed_kernels(once)) == 4


def test_what_a_network_was_compiled_with_is_no_matter(images: np.ndarray) -> None:
    def loss(true: keras.KerasTensor, predicted: keras.KerasTensor) -> keras.KerasTensor:
        return keras.ops.mean((true - predicted) ** 2)

    model = build(ResNetConfig("basic", (1,), (8,), stem="cifar"), input_shape=(16, 16, 3))
    model.compile("sgd", loss)
    pruned = prune(model)
    assert not pruned.compiled
    assert pruned.name == model.name
    assert not strip(pruned).compiled


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_in_half_precision_are_refused(dtype: str, images: np.ndarray) -> None:
    config = ResNetConfig("basic", (1,), (8,), stem="cifar")
    model = build(config, input_shape=(16, 16, 3), dtype=dtype)
    with pytest.raises(ValueError, match=f"weights in float32.*conv1_conv/kernel is {dtype}"):
        quantize_aware(model, images)
    prune(build(config, input_shape=(16, 16, 3), dtype=f"mixed_{dtype}"))


def test_operations_without_a_layer_are_refused(images: np.ndarray) -> None:
    model = small(lambda x: layers.GlobalAveragePooling2D()(layers.Conv2D(3, 1)(x) + x))
    with pytest.raises(ValueError, match=r"Received: add.* \(Add\)"):
        quantize_aware(model, images)


def test_a_softmax_of_its_own_has_no_range(images: np.ndarray) -> None:
    def body(x: keras.KerasTensor) -> keras.KerasTensor:
        x = layers.GlobalAveragePooling2D(name="pool")(layers.Conv2D(8, 3, name="conv")(x))
        return layers.Activation("softmax", name="share")(layers.Dense(4, name="logits")(x))

    aware = quantize_aware(small(body), images)
    assert set(ranges(aware)) == {"conv", "pool", "logits"}
    # It ends with the softmax, so that it can be trained.
    assert training_copy(aware).output_shape == (None, 4)


def test_thawing_leaves_ranges_that_were_frozen(images: np.ndarray) -> None:
    from keras_resnet.compression import freeze_ranges

    config = ResNetConfig("basic", (1, 1), (8, 16), stem="cifar", shortcut="A")
    model = build(config, input_shape=(16, 16, 3), classes=4)
    aware = freeze_ranges(quantize_aware(model, images))
    freeze(aware, "backbone")
    unfreeze(aware)
    assert not any(layer.observing for layer in ranges(aware).values())
    assert aware.get_layer("conv1_conv").trainable


def test_grouped_convolutions_keep_their_properties(images: np.ndarray, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    config = ResNetConfig(
        "bottleneck", (1,), (8,), stem="cifar", groups=2, width_per_group=32, se_ratio=1 / 4
    )
    model = build(config, input_shape=(16, 16, 3), classes=4)
    randomize(model)
    aware = quantize_aware(cluster(prune(model, 0.5), 8), images)
    export(
        *(aware, tmp_path, ["tflite-int8"]),
        images=images,
        timing=None,
        allow_disagreement=True,
    )
    found = kernels(tmp_path / "model-int8.tflite")
    assert len(found) >= 7
    for kernel in found:
        assert kernel.distinct <= 8, kernel
    assert sum(kernel.zeros >= 0.49 * kernel.weights for kernel in found) >= len(found) - 1
