from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_resnet
from keras_resnet import complexity
from keras_resnet.networks.table import get_config


def test_counts_any_functional_keras_model() -> None:
    image = keras.Input((8, 8, 3))
    left = keras.layers.Conv2D(4, 3, padding="same")(image)
    left = keras.layers.BatchNormalization()(left)
    left = keras.layers.Conv2D(4, 1)(left)
    right = keras.layers.Conv2D(4, 1, use_bias=False)(image)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([left, right]))
    model = keras.Model(image, keras.layers.Dense(5)(x))
    cost = complexity(model)
    assert cost.params == (3 * 9 * 4 + 4) + 8 + (4 * 4 + 4) + 3 * 4 + (4 * 5 + 5)
    assert cost.bn_statistics == 8
    assert cost.macs == 64 * (27 * 4 + 4 * 4 + 3 * 4) + 20
    assert cost.activations == 64 * 4 * 3 + 5
    assert cost.depth == 3


def test_agrees_with_keras_applications() -> None:
    """Their ResNet50 is v1 with biases on convolutions: 26,560 parameters more than ours."""
    theirs = complexity(keras.applications.ResNet50(weights=None))
    ours = complexity(keras_resnet.ResNet50(version="v1"))
    assert (theirs.macs, theirs.depth, theirs.bn_statistics) == (
        ours.macs,
        ours.depth,
        ours.bn_statistics,
    )
    assert theirs.params - ours.params == 26_560


def test_size_of_a_model_without_one_has_to_be_given() -> None:
    model = keras_resnet.ResNet20(include_top=False)
    with pytest.raises(ValueError, match=r"Expected `input_shape=\(height, width, channels\)`"):
        complexity(model)
    with_head = complexity(keras_resnet.ResNet20(input_shape=(48, 40, 3)))
    assert with_head.macs - complexity(model, (48, 40, 3)).macs == 64 * 10
    with pytest.raises(ValueError, match="`classes` only with a config"):
        complexity(model, (48, 40, 3), classes=5)


def test_depthwise_kernels_and_dropout_are_counted_right() -> None:
    layers = [
        keras.Input((8, 8, 6)),
        keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False),
        keras.layers.Dropout(0.5),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(5, use_bias=False),
    ]
    cost = complexity(keras.Sequential(layers))
    assert cost.params == 9 * 12 + 12 * 5
    assert cost.macs == 64 * 12 * 9 + 12 * 5
    assert cost.depth == 2


def test_nested_models_are_refused_by_name() -> None:
    inner = keras_resnet.ResNet20(name="inner")
    image = keras.Input((32, 32, 3))
    with pytest.raises(
        ValueError, match="flat functional model .*Received: one with the model 'inner'"
    ):
        complexity(keras.Model(image, inner(image)))


def test_layers_that_would_be_counted_wrong_are_refused_by_name() -> None:
    image = keras.Input((8, 8, 3))
    shared = keras.layers.Conv2D(3, 3, padding="same", name="shared")
    for output, message in (
        (keras.layers.SeparableConv2D(4, 3, name="odd")(image), "'odd', a SeparableConv2D"),
        (shared(shared(image)), "the weights of 'shared' more than once"),
    ):
        with pytest.raises(ValueError, match=message):
            complexity(keras.Model(image, output))
    relu = keras.layers.ReLU()
    with pytest.raises(ValueError, match="calls 're_lu.*' on its own result"):
        complexity(keras.Model(image, relu(shared(relu(image)))))
    with pytest.raises(ValueError, match="Expected a functional model or a config"):
        complexity(keras.Sequential([keras.layers.Dense(3)]))


def test_heads_on_pooled_maps_count_and_gates_do_not() -> None:
    image = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(image)
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = keras.layers.Conv2D(4, 1, activation="sigmoid", use_bias=False)(gate)
    x = keras.layers.Multiply()([x, gate])
    assert complexity(keras.Model(image, x)).depth == 1
    x = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    assert complexity(keras.Model(image, keras.layers.Conv2D(5, 1)(x))).depth == 2


def test_adapted_normalization_is_no_parameter() -> None:
    image = keras.Input((8, 8, 3))
    normalization = keras.layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(size=(4, 8, 8, 3)))
    x = keras.layers.Conv2D(2, 1, use_bias=False)(normalization(image))
    assert complexity(keras.Model(image, x)).params == 6


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((32, 32), None, "channels last"),
        ((None, 32, 3), None, "a fixed height and width"),
        ((16, 16, 3), None, "at least 17x17"),
        ((64, 64, 3), 0, "`classes` .*Received: 0"),
    ],
)
def test_impossible_images_and_classes_are_refused(
    shape: tuple[int, ...], classes: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        complexity(get_config("resnet50"), shape, classes)
    with pytest.raises(ValueError, match="with the model's 3 channels"):
        complexity(keras_resnet.ResNet20(), (32, 32, 4))
