"""Labelled images as arrays that a model takes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_resnet.data.config import DataConfig
from keras_resnet.data.sources.base import Source
from keras_resnet.data.sources.load import load_part
from keras_resnet.models.info import get_info
from keras_resnet.models.input import ModelInput
from keras_resnet.support.ahead import results_in_order
from keras_resnet.support.checks import check_integer


def labelled_images(
    model: keras.Model, data: str | Source, images: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Images of the validation part, resized and cropped as the model's protocol says, and labels.

    Args:
        model: a classifier.
        data: a source as `load_data` takes it, or a `Source`.
        images: how many at most; if there are more, a random choice of them.
        seed: of the choice.

    Returns:
        Arrays `(n, height, width, channels)`, uint8, and `(n,)`, int32.
    """
    check_integer("images", images)
    inputs = ModelInput((None, *model.input_shape[1:]), get_info(model))
    source: Any = data
    if isinstance(data, str):
        source = load_part(DataConfig(data, size=inputs.protocol.size), "validation")
    chosen = np.arange(len(source))
    if len(chosen) > images:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, images, replace=False))

    def prepared(index: int) -> np.ndarray:
        return inputs.prepared(source[index].data, index)

    pixels = np.stack(list(results_in_order(prepared, chosen.tolist(), 64)))
    return pixels, source.labels[chosen]
