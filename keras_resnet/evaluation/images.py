"""The images to evaluate a model on, and their correct classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from keras_resnet.data.config import DataConfig
from keras_resnet.data.sources.base import Source, Union
from keras_resnet.data.sources.folder import ImageFiles
from keras_resnet.data.sources.load import load_data, load_every_split, load_part
from keras_resnet.data.sources.memory import LabeledImages
from keras_resnet.evaluation.classes import Classes, columns_of
from keras_resnet.evaluation.label_file import LabelFile
from keras_resnet.images.decode import find_images, read_image
from keras_resnet.images.protocol import warn_if_scaled
from keras_resnet.support.progress import Say

Split = Literal["validation", "test", "train", "all"]
Data = str | Source | tuple[Any, Any]


@dataclass(frozen=True)
class EvaluationImages:
    """Images with their correct classes.

    Attributes:
        source: the images.
        classes: the classes.
        labels: correct class of every image, `(n,)`, int; if there are several, preferably the
            label in the source.
        kept: indices of the images with at least one correct class.
        right: all correct classes of every image if they come from a label file, or None.
        notes: sentences for the notes of the evaluation.
    """

    source: Source
    classes: Classes
    labels: np.ndarray
    kept: np.ndarray
    right: Sequence[Sequence[int]] | None = None
    notes: tuple[str, ...] = ()

    def targets(self, indices: np.ndarray) -> np.ndarray | None:
        """Return the correct classes of images, `(n, classes)`, bool; None if each has only one."""
        if self.right is None or all(len(self.right[index]) == 1 for index in indices.tolist()):
            return None
        targets = np.zeros((len(indices), len(self.classes)), bool)
        for target, index in zip(targets, indices.tolist(), strict=True):
            target[list(self.right[index])] = True
        return targets

    def with_classes_of(self, model: Classes) -> EvaluationImages:
        """Return these images, which are all of one class, with all classes of a model.

        Among their single class, every prediction would be correct.

        Raises:
            ValueError: the model does not have the class; see `columns_of`.
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
) -> EvaluationImages:
    """Open images, and find their correct classes.

    Args:
        data, split, validation_fraction: as for `evaluate`.
        model: the classes of the model, which are used for data without class names.
        size: size of images that are generated, such as the digits.
        label_file: the correct classes, which replace the labels of the data; `folder:PATH` then
            needs no class folders.

    Raises:
        ValueError: there are no images, or a label is not an index of a class.
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
        # If there are several correct classes, prefer the label in the source.
        pairs = zip(source.labels.tolist(), right, strict=True)
        labels = np.array([n if n in correct else (correct or [0])[0] for n, correct in pairs])
        kept = np.array([index for index, correct in enumerate(right) if correct], int)
        return EvaluationImages(source, classes, labels, kept, right, tuple(notes))
    labels = source.labels
    outside = labels[(labels < 0) | (labels >= len(classes))]
    if not len(labels) or len(outside):
        received = f"{outside[0]} (one of {len(outside)})" if len(outside) else "no images"
        raise ValueError(
            f"Expected images with labels from 0 to {len(classes) - 1}. Received: {received} in "
            f"{source.name}"
        )
    return EvaluationImages(source, classes, labels, np.arange(len(source)), None, tuple(notes))


def _given(data: Any) -> Source:
    """Return the data if it is a source, or a source of a pair of images and labels."""
    if isinstance(data, (tuple, list)) and len(data) == 2:
        images, labels = data
        warn_if_scaled(images, stacklevel=4)
        images = np.asarray(images)
        if images.dtype != np.uint8 and images.ndim == 4:
            images = np.stack([read_image(image) for image in images])
        return LabeledImages(images, np.asarray(labels), ())
    if not hasattr(data, "class_names"):
        raise ValueError(
            "Expected the name of a source such as 'folder:PATH', a source, or a pair of images "
            f"and labels. Received: {type(data).__name__}"
        )
    source: Source = data
    return source


def _opened(config: DataConfig, split: Split, flat: bool, note: Say) -> Source:
    """Open a source by name; `flat`: take all images below a folder, as labels are in a file."""
    kind, _, path = config.source.partition(":")
    if flat and kind == "folder":
        paths = [str(path) for path in find_images([path])]
        return ImageFiles(paths, np.full(len(paths), -1, np.int32), (), None, config.source)
    if split == "all":
        return Union(tuple(load_every_split(config, 1).values()), config.source)
    if split == "test":
        return load_part(config, split, 1)
    train, validation = load_data(config, note, 1)
    return validation if split == "validation" else train
