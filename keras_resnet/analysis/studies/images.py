"""Labelled images as arrays that a model takes."""

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


def labelled_images(
    model: keras.Model,
    data: Data,
    images: int = 1000,
    *,
    split: str = "validation",
    seed: int = 0,
    max_bad_fraction: float = 0.01,
) -> tuple[np.ndarray, np.ndarray]:
    """Images, resized and cropped as the model's protocol says, and their labels.

    Args:
        model: a classifier of the data's classes.
        data, split: as for `keras_resnet.evaluation.evaluate`.
        images: how many at most; if there are more, a random choice of them.
        seed: of the choice.
        max_bad_fraction: share of these images that may be unreadable; they are left out.

    Returns:
        Arrays `(n, height, width, channels)`, uint8, and `(n,)`, int32.

    Raises:
        ValueError: an argument is wrong, or the classes differ.
        TooManyBadRecordsError: too many images cannot be read.
    """
    check_integer("images", images)
    part: Any = split
    check_choice("split", part, get_args(Split))
    info = get_info(model)
    inputs = ModelInput((None, *model.input_shape[1:]), info)
    classes = Classes(class_count(model), info.class_names, info.class_ids)
    found = open_images(data, classes, inputs.protocol.size, split=part)
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
    """The images and labels that a study was given, checked: `(n, h, w, channels)` and `(n,)`, int.

    Args:
        model: a classifier.
        data: a pair of images as the model takes them and labels; or a source, of whose validation
            part up to 1,000 images are taken.
        seed: of their choice.
        stacklevel: of the warning that pixels seem to be scaled.

    Raises:
        ValueError: labels are missing, or are none of the model's classes.
    """
    if not isinstance(data, (tuple, list)):
        data = labelled_images(model, data, seed=seed)
    warn_if_scaled(data[0], stacklevel=stacklevel)
    images, labels = np.asarray(data[0]), np.asarray(data[1]).reshape(-1)
    classes = class_count(model)
    if len(images) != len(labels) or not len(labels):
        raise ValueError(
            f"Expected a label per image, and at least one. Received: {len(images)} images, "
            f"{len(labels)} labels"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"Expected labels from 0 to {classes - 1}, the model's classes. Received: "
            f"{labels.min()} to {labels.max()}"
        )
    return images, labels
