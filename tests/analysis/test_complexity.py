from __future__ import annotations

import keras
import pytest

import keras_resnet
from keras_resnet import complexity


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
        ValueError, match="flat functional model. Received: one with the model 'inner'"
    ):
        complexity(keras.Model(image, inner(image)))
