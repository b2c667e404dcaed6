"""The images that are evaluated, and their right classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from keras_resnet.data.config import DataConfig
from keras_resnet.data.sources.base import Source, Union
from keras_resnet.data.sources.folder import ImageFiles
from keras_resnet.data.sources.load import load_data, load_every_part, load_part
from keras_resnet.data.sources.memory import LabeledImages
from keras_resnet.evaluation.classes import Classes, columns_of
from keras_resnet.evaluation.label_file import LabelFile
from keras_resnet.images.decode import find_images, read_image
from keras_resnet.images.protocol import warn_if_scaled
from keras_resnet.support.progress import Say

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
        notes: what a reader of figures should know, in sentences.
    """

    source: Source
    classes: Classes
    labels: np.ndarray
    kept: np.ndarray
    right: Sequence[Sequence[int]] | None = None
    notes: tuple[str, ...] = ()

    def targets(self, rows: np.ndarray) -> np.ndarray | None:
        """Right classes of some images, `(n, classes)`, bool; None if each has one."""
        if self.right is None or all(len(self.right[row]) == 1 for row in rows.tolist()):
            return None
        targets = np.zeros((len(rows), len(self.classes)), bool)
        for target, row in zip(targets, rows.tolist(), strict=True):
            target[list(self.right[row])] = True
        return targets

    def among(self, model: Classes) -> LabelledImages:
        """Return the images of one class with all classes of a model.

        Limited to the one class, any answer would be right.

        Raises:
            ValueError: the class is none of the model's, see `columns_of`.
        """
        (index,) = columns_of(model, self.classes, match_names=True)  # type: ignore[misc]
        right = None if self.right is None else [[int(index)] * len(found) for found in self.right]
        labels = np.full(len(self.labels), index, int)
        return dataclasses.replace(self, classes=model, labels=labels, right=right)


def open_images(
    data: Data,
    model: Classes,
    size: int,
    *,
    split: Split = "validation",
    validation_fraction: float = 0.1,
    label_file: LabelFile | None = None,
) -> LabelledImages:
    """Opens images and finds their right classes.

    Args:
        data, split, validation_fraction: see `evaluate`.
        model: the model's classes, which are meant where the data names none.
        size: of images that are made for it, such as the digits.
        label_file: says the classes in place of the data, whose images may lie in one folder then.

    Raises:
        ValueError: there are no images, or a label is none of the classes.
    """
    notes: list[str] = []
    if isinstance(data, str):
        config = DataConfig(data, size=size, validation_fraction=validation_fraction)
        source = _opened(config, split, label_file is not None, notes.append)
    else:
        source = _given(data)
    classes = model
    if source.class_names:
        classes = Classes(len(source.class_names), source.class_names, source.class_ids)
    if label_file is not None:
        names = [source.name_of(index) for index in range(len(source))]
        right = label_file.right_classes(names, classes)
        # Of several right classes, the data's own if it is one of them.
        pairs = zip(source.labels.tolist(), right, strict=True)
        labels = np.array([n if n in several else (several or [0])[0] for n, several in pairs])
        kept = np.array([index for index, several in enumerate(right) if several], int)
        return LabelledImages(source, classes, labels, kept, right, tuple(notes))
    labels = source.labels
    outside = labels[(labels < 0) | (labels >= len(classes))]
    if not len(labels) or len(outside):
        received = f"{outside[0]} (one of {len(outside)})" if len(outside) else "no images"
        raise ValueError(
            f"Expected images with labels from 0 to {len(classes) - 1}. Received: {received} in "
            f"{source.name}"
        )
    return LabelledImages(source, classes, labels, np.arange(len(source)), None, tuple(notes))


def _given(data: Any) -> Source:
    """A source as it is, or made of images and labels."""
    if isinstance(data, (tuple, list)) and len(data) == 2:
        images, labels = data
        warn_if_scaled(images, stacklevel=4)
        images = np.asarray(images)
        if images.dtype != np.uint8 and images.ndim == 4:
            images = np.stack([read_image(image) for image in images])
        return LabeledImages(images, np.asarray(labels), ())
    if not hasattr(data, "class_names"):
        raise ValueError(
            "Expected a source such as 'folder:PATH', or a pair of images and labels. Received: "
            f"{type(data).__name__}"
        )
    source: Source = data
    return source


def _opened(config: DataConfig, split: Split, flat: bool, note: Say) -> Source:
    """Open the data that a text names; `flat`: a folder of images whose labels are elsewhere."""
    kind, _, path = config.source.partition(":")
    if flat and kind == "folder":
        paths = [str(path) for path in find_images([path])]
        return ImageFiles(paths, np.full(len(paths), -1, np.int32), (), None, config.source)
    if split == "all":
        return Union(tuple(load_every_part(config, 1).values()), config.source)
    if split == "test":
        return load_part(config, split, 1)
    train, validation = load_data(config, note, 1)
    return validation if split == "validation" else train
