"""How good a classifier is, on labelled images, by the protocols of the papers."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from keras_resnet.data.config import DataConfig
from keras_resnet.data.sources.base import Source
from keras_resnet.data.sources.folder import ImageFiles
from keras_resnet.data.sources.load import load_data
from keras_resnet.data.sources.memory import LabeledImages
from keras_resnet.evaluation.classes import Classes
from keras_resnet.evaluation.label_file import LabelFile, targets_of
from keras_resnet.evaluation.member import Member, Model
from keras_resnet.evaluation.report import Evaluation
from keras_resnet.evaluation.views import check_protocol, views
from keras_resnet.images.decode import find_images, read_image
from keras_resnet.images.protocol import EvalProtocol, Interpolation
from keras_resnet.support.ahead import results_in_order
from keras_resnet.support.checks import check_choice, check_integer, check_number
from keras_resnet.support.progress import Progress, unseen

Split = Literal["validation", "test", "train", "all"]
Data = str | Source | tuple[Any, Any]


def evaluate(
    model_or_artifact: Model | Sequence[Model],
    data: Data,
    protocol: str = "single",
    *,
    resize: int | None = None,
    crop: int | None = None,
    interpolation: Interpolation | None = None,
    split: Split = "validation",
    weights: str | None = None,
    ensemble_weights: Sequence[float] | None = None,
    match_names: bool = False,
    labels: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    progress: Progress = unseen,
) -> Evaluation:
    """Measures a classifier, or an ensemble of several, on labelled images.

    Args:
        model_or_artifact: a Keras model, the path of a `.keras`, `.tflite` or `.onnx` file or of a
            SavedModel, the tag of published weights, or the name of a network, with `weights`. Of
            several, the probabilities are averaged.
        data: a source as `load_data` takes it, such as `"folder:PATH"`; a `Source`; or a pair of
            images `(n, height, width, 3)`, uint8, RGB, and labels `(n,)`, class indices.
        protocol: `"single"`: the centre crop. `"flip"`: its and its mirror image's probabilities
            averaged. `"ten_crop"`: those of the four corners, the centre and the mirror images of
            these. `"multi_scale"`: those of the whole image and its mirror image, with short sides
            of 224, 256, 384, 480 and 640 pixels (in proportion for networks of other sizes than
            224), at which the network's average pooling makes it fully convolutional.
        resize: short side before crops, in pixels, in place of the model's own.
        crop: side of the crops, in pixels, in place of the model's own.
        interpolation: `"bilinear"` or `"bicubic"`, in place of the model's own.
        split: which part of `data` is measured, where that is a text.
        weights: a tag or file of weights, where the model is the name of a network.
        ensemble_weights: what every member's probabilities count, not negative; by default alike.
        match_names: see `columns_of`.
        labels: a file of right classes, in place of the folders' names; see `LabelFile`.
        batch_size: images that are prepared and run at once.
        progress: is told after every batch.

    Raises:
        ValueError: an argument is wrong; the classes of model and data differ; a label is none of
            the classes; or there are no images that can be read.
        OSError: data cannot be read.
    """
    name = check_protocol(protocol)
    check_choice("split", split, get_args(Split))
    check_integer("batch_size", batch_size)
    several = isinstance(model_or_artifact, (list, tuple))
    models: Sequence[Model] = model_or_artifact if several else [model_or_artifact]  # type: ignore[assignment,list-item]
    shares = _shares(ensemble_weights, len(models))
    label_file = None if labels is None else LabelFile(labels)
    fields = {"resize": resize, "size": crop, "interpolation": interpolation}
    members = [Member(model, name, weights, **fields) for model in models]
    source = _source(data, split, label_file, members[0].how.size)
    classes = _classes_of(source, members[0].classes)
    for member in members:
        member.answer_for(classes, match_names)
    right = None
    numbers = _labels_of(source, classes)
    kept = np.arange(len(source))
    if label_file is not None:
        names = [source.name_of(index) for index in range(len(source))]
        right = label_file.right_classes(names, classes)
        kept = np.array([index for index, several in enumerate(right) if several], int)
        # The folder's class stays the one of the confusion matrix where it is right, too.
        pairs = zip(numbers.tolist(), right, strict=True)
        numbers = np.array([n if n in several else (several or [0])[0] for n, several in pairs])
    begin = time.perf_counter()
    found = list(_batches(source, kept, members, name, shares, batch_size, progress))
    rows = np.array([row for batch in found for row in batch.rows], int)
    seconds = time.perf_counter() - begin
    targets = None if right is None else targets_of([right[i] for i in rows], len(classes))
    unreadable = {source.name_of(i): why for batch in found for i, why in batch.bad.items()}
    if not len(rows):
        reason = next(iter(unreadable.values()), "none there")
        raise ValueError(
            f"Expected at least one image that can be read. Received: {source.name} ({reason})"
        )
    return Evaluation(
        tuple(member.name for member in members),
        source.name,
        {
            "name": name,
            "members": [dataclasses.asdict(member.how) for member in members],
            "ensemble_weights": shares.tolist(),
        },
        classes.names,
        tuple(source.name_of(index) for index in rows.tolist()),
        numbers[rows],
        np.concatenate([batch.probabilities for batch in found if batch.rows]),
        targets,
        unreadable,
        len(source) - len(kept),
        seconds,
        members[0].published if len(members) == 1 else None,
        source,
        rows,
    )


class _Batch(NamedTuple):
    """Probabilities of the images `rows` of a source, and why others could not be read."""

    rows: list[int]
    probabilities: np.ndarray
    bad: Mapping[int, str]


def _batches(
    source: Source,
    kept: np.ndarray,
    members: Sequence[Member],
    protocol: Any,
    shares: np.ndarray,
    batch_size: int,
    progress: Progress,
) -> Iterator[_Batch]:
    """What the members answer in the mean, batch by batch; images are read ahead in threads."""
    hows = list(dict.fromkeys(member.how for member in members))

    def read(index: int) -> dict[EvalProtocol, list[np.ndarray]] | str:
        try:
            image = read_image(source[index].data)
        # Whatever a damaged file or a broken disk makes a library raise.
        except (OSError, ValueError) as error:
            return str(error)
        return {how: views(image, protocol, how) for how in hows}

    images = results_in_order(read, kept.tolist(), 2 * batch_size)
    begin = time.perf_counter()
    for start in range(0, len(kept), batch_size):
        chunk = kept[start : start + batch_size]
        prepared = dict(zip(chunk.tolist(), itertools.islice(images, len(chunk)), strict=True))
        good = {index: found for index, found in prepared.items() if not isinstance(found, str)}
        answers = np.zeros((0, 0), np.float32)
        if good:
            of_members = [
                share * member.probabilities([x[member.how] for x in good.values()], batch_size)
                for member, share in zip(members, shares, strict=True)
            ]
            answers = np.sum(of_members, axis=0, dtype=np.float64).astype(np.float32)
        done = start + len(chunk)
        speed = done / (time.perf_counter() - begin)
        progress(f"{done:,} of {len(kept):,} images, {speed:,.0f} images/s", done / len(kept))
        bad = {index: found for index, found in prepared.items() if isinstance(found, str)}
        yield _Batch(list(good), answers, bad)


def _shares(weights: Sequence[float] | None, members: int) -> np.ndarray:
    """What each member counts; in sum 1."""
    if not members:
        raise ValueError("Expected at least one model. Received: none")
    values = [1.0] * members if weights is None else list(weights)
    for value in values:
        check_number("ensemble_weights", value)
    if len(values) != members or sum(values) <= 0:
        raise ValueError(
            f"Expected {members} numbers of at least 0 as `ensemble_weights`, one per model, with "
            f"a sum above 0. Received: {weights!r}"
        )
    return np.array(values) / sum(values)


def _source(data: Data, split: Split, label_file: LabelFile | None, size: int) -> Source:
    """The images; what is named by a text is opened.

    `size`: of images that are made for it, such as the digits.
    """
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
    return load_data(DataConfig(data, size=size))[1]


def _classes_of(source: Source, model: Classes) -> Classes:
    """The classes of the labels: the model's own, where the images come without names."""
    if not source.class_names:
        return model
    return Classes(len(source.class_names), source.class_names, source.class_ids)


def _labels_of(source: Source, classes: Classes) -> np.ndarray:
    labels = source.labels
    outside = labels[(labels < -1) | (labels >= len(classes))]
    if not len(labels) or len(outside):
        received = f"{outside[0]} (one of {len(outside)})" if len(outside) else "no images"
        raise ValueError(
            f"Expected images with labels from 0 to {len(classes) - 1}. Received: {received} in "
            f"{source.name}"
        )
    return labels
