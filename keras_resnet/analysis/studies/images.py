"""Labeled images as arrays, prepared for a model."""

from __future__ import annotations

from typing import Any, get_args

import keras
import numpy as np

from keras_resnet.data.bad_records import read_good
from keras_resnet.evaluation.classes import Classes, columns_of
from keras_resnet.evaluation.images import Data, Split, open_images
from keras_resnet.images.protocol import warn_if_scaled
from keras_resnet.models.info import class_count, get_info
from keras_resnet.models.input import ModelInput
from keras_resnet.support.checks import check_choice, check_integer


def labeled_images(
    model: keras.Model,
    data: Data,
    images: int = 1000,
    *,
    split: str = "validation",
    seed: int = 0,
    max_bad_fraction: float = 0.01,
) -> tuple[np.ndarray, np.ndarray]:
    """Return images, resized and cropped by the model's protocol, and their labels.

    Args:
        model: a classifier with the classes of the data.
        data, split: as for `keras_resnet.evaluation.evaluate`.
        images: largest number of images; a random choice if there are more.
        seed: seed of the choice.
        max_bad_fraction: share of these images that may be unreadable, 0 to 1; they are left out.

    Returns:
        Arrays `(n, height, width, channels)`, uint8, and `(n,)`, int32.

    Raises:
        ValueError: an argument is invalid, or the classes of model and data differ.
        TooManyBadRecordsError: too many images cannot be read.
    """
    check_integer("images", images)
    checked: Any = split
    check_choice("split", checked, get_args(Split))
    info = get_info(model)
    inputs = ModelInput((None, *model.input_shape[1:]), info)
    classes = Classes(class_count(model), info.class_names, info.class_ids)
    found = open_images(data, classes, inputs.protocol.size, split=checked)
    columns_of(classes, found.classes, False)
    chosen = found.kept
    if len(chosen) > images:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, images, replace=False))

    def prepared(index: int) -> np.ndarray:
        return inputs.prepared(found.source[index].data, index)

    pixels = read_good(found.source, chosen.tolist(), prepared, max_bad_fraction)
    return np.stack(list(pixels.values())), found.labels[list(pixels)]


def given_images(
    model: keras.Model, data: Any, seed: int = 0, stacklevel: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Return the images, `(n, height, width, channels)`, and labels, `(n,)`, for a study.

    Args:
        model: a classifier.
        data: as for `lesion_study`.
        seed: seed of the choice of images from a source.
        stacklevel: stack level of the warning about pixels that seem to be scaled.

    Raises:
        ValueError: there are no images, or there is not one valid label per image.
    """
    if not isinstance(data, (tuple, list)):
        data = labeled_images(model, data, seed=seed)
    warn_if_scaled(data[0], stacklevel=stacklevel)
    images, labels = np.asarray(data[0]), np.asarray(data[1]).reshape(-1)
    classes = class_count(model)
    if len(images) != len(labels) or not len(labels):
        raise ValueError(
            f"Expected at least one image, with one label each. Received: {len(images)} images and "
            f"{len(labels)} labels"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"Expected labels from 0 to {classes - 1}, for the classes of the model. Received: "
            f"labels from {labels.min()} to {labels.max()}"
        )
    return images, labels
