"""Which layers int8 hurts most, in every kind of Keras model."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_resnet.export.errors import layer_errors
from keras_resnet.export.model import ExportedModel
from keras_resnet.export.options import ExportOptions
from keras_resnet.export.outputs import output_names


def stack(activation: str | None) -> list[layers.Layer]:
    """One channel of `wide` is three hundred times as large as the others; `undo` divides it."""
    keras.utils.set_random_seed(0)
    return [
        layers.Conv2D(8, 3, activation="relu", name="wide"),
        layers.Conv2D(8, 3, name="undo"),
        layers.ReLU(name="relu"),
        layers.GlobalAveragePooling2D(name="pool"),
        layers.Dense(4, activation=activation, name="head"),
    ]


def network(kind: str) -> keras.Model:
    image = keras.Input((8, 8, 3))
    found = stack(None if kind == "layer" else "softmax")
    if kind == "sequential":
        model = keras.Sequential([image, *found])
    else:
        x = image
        for layer in found:
            x = layer(x)
        model = keras.Model(image, layers.Softmax()(x) if kind == "layer" else x)
    wide, undo = found[:2]
    kernel, bias = wide.get_weights()
    kernel[..., 3] *= 300
    wide.set_weights([kernel, bias])
    kernel, bias = undo.get_weights()
    kernel[:, :, 3] /= 300
    undo.set_weights([kernel, bias])
    return keras.Model(image, model(image)) if kind == "nested" else model


@pytest.mark.parametrize("kind", ["activation", "layer", "nested", "sequential"])
def test_the_worst_layers_come_first_and_the_model_stays_as_it_is(
    kind: str, tmp_path: Path
) -> None:
    model = network(kind)
    images = np.random.default_rng(0).uniform(0, 255, (40, 8, 8, 3)).astype(np.float32)
    before = np.asarray(model(images))
    exported = ExportedModel(model, images, tmp_path, output_names(model))
    errors = layer_errors(exported, images[:8])
    assert {"wide", "undo", "head"} <= set(errors)
    assert set(list(errors)[:2]) == {"wide", "undo"}
    assert list(errors.values()) == sorted(errors.values(), reverse=True)
    np.testing.assert_array_equal(model(images), before)
    kept = ExportedModel(
        model, images, tmp_path, exported.outputs, options=ExportOptions(keep_float=("wide",))
    )
    assert "wide" not in layer_errors(kept, images[:8])
