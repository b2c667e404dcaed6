"""The images that are evaluated, and their right classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from keras_resnet.data.config import DataConfig
from keras_resnet.data.sources.base import Source, Union
from keras_resnet.data.sources.folder import ImageFiles
from keras_resnet.data.sources.load import load_every_part, load_part
from keras_resnet.data.sources.memory import LabeledImages
from keras_resnet.evaluation.classes import Classes
from keras_resnet.evaluation.label_file import LabelFile
from keras_resnet.images.decode import find_images, read_image

Split = Literal["validation", "test", "train", "all"]
Data = str | Source | tuple[Any, Any]


@dataclass(frozen=True)
class LabelledImages:
    """Images with the classes that are right for them.

    Attributes:
        source: the images.
        classes: what the labels are indices of.
        labels: the right class of every image, `(n,)`, int; of several, the data set's own.
        kept: indices of the images that have a right class.
        right: all right classes of every image, where a file gives them.
    """

    source: Source
    classes: Classes
    labels: np.ndarray
    kept: np.ndarray
    right: Sequence[Sequence[int]] | None = None

    def targets(self, rows: np.ndarray) -> np.ndarray | None:
        """Right classes of some images, `(n, classes)`, bool; None if each has one."""
        if self.right is None or all(len(self.right[row]) == 1 for row in rows.tolist()):
            return None
        targets = np.zeros((len(rows), len(self.classes)), bool)
        for target, row in zip(targets, rows.tolist(), strict=True):
            target[list(self.right[row])] = True
        return targets


def open_images(
    data: Data, split: Split, label_file: LabelFile | None, model: Classes, size: int
) -> LabelledImages:
    """Opens images and finds their right classes.

    Args:
        data, split: see `evaluate`.
        label_file: says the classes in place of the data, whose images may lie in one folder then.
        model: the model's classes, which are meant where the data names none.
        size: of images that are made for it, such as the digits.

    Raises:
        ValueError: there are no images, or a label is none of the classes.
    """
    source = _opened(data, split, label_file, size)
    classes = model
    if source.class_names:
        classes = Classes(len(source.class_names), source.class_names, source.class_ids)
    if label_file is not None:
        names = [source.name_of(index) for index in range(len(source))]
        right = label_file.right_classes(names, classes)
        # The folder's class stays the one of the confusion matrix where it is right, too.
        pairs = zip(source.labels.tolist(), right, strict=True)
        labels = np.array([n if n in several else (several or [0])[0] for n, several in pairs])
        kept = np.array([index for index, several in enumerate(right) if several], int)
        return LabelledImages(source, classes, labels, kept, right)
    labels = source.labels
    outside = labels[(labels < 0) | (labels >= len(classes))]
    if not len(labels) or len(outside):
        received = f"{outside[0]} (one of {len(outside)})" if len(outside) else "no images"
        raise ValueError(
            f"Expected images with labels from 0 to {len(classes) - 1}. Received: {received} in "
            f"{source.name}"
        )
    return LabelledImages(source, classes, labels, np.arange(len(source)))


def _opened(data: Data, split: Split, label_file: LabelFile | None, size: int) -> Source:
    if isinstance(data, tuple):
        images, labels = data
        images = np.asarray(images)
        if images.dtype != np.uint8 and images.ndim == 4:
            images = np.stack([read_image(image) for image in images])
        return LabeledImages(images, np.asarray(labels), ())
    if not isinstance(data, str):
        return data
    kind, _, path = data.partition(":")
    if label_file is not None and kind == "folder":
        paths = [str(path) for path in find_images([path])]
        return ImageFiles(paths, np.full(len(paths), -1, np.int32), (), None, data)
    config = DataConfig(data, size=size)
    if split != "all":
        return load_part(config, split)
    parts = load_every_part(config)
    return Union(tuple(parts.values()), data)
