"""Evaluation of a classifier on labelled images by the papers' protocols."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np

from keras_resnet.evaluation.images import Data, LabelledImages, Split, open_images
from keras_resnet.evaluation.label_file import LabelFile
from keras_resnet.evaluation.member import Member, Model
from keras_resnet.evaluation.report import Evaluation
from keras_resnet.evaluation.views import check_protocol, views
from keras_resnet.images.decode import open_image
from keras_resnet.images.protocol import EvalProtocol, Interpolation
from keras_resnet.support.ahead import results_in_order
from keras_resnet.support.checks import check_choice, check_integer, check_number
from keras_resnet.support.progress import Progress, unseen


def evaluate(
    model_or_artifact: Model | Sequence[Model],
    data: Data,
    protocol: str = "single",
    *,
    resize: int | None = None,
    crop: int | None = None,
    interpolation: Interpolation | None = None,
    split: Split = "validation",
    validation_fraction: float = 0.1,
    weights: str | None = None,
    network: Mapping[str, Any] | None = None,
    ensemble_weights: Sequence[float] | None = None,
    match_names: bool = False,
    labels: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    trust: bool = False,
    pixels: str | None = None,
    progress: Progress = unseen,
) -> Evaluation:
    """Measures a classifier, or an ensemble of several, on labelled images.

    Args:
        model_or_artifact: a Keras model, the path of a `.keras`, `.h5`, `.tflite` or `.onnx` file
            or of a SavedModel, of this package or of others, the tag of published weights, or the
            name of a network, with `weights`. Of several, the probabilities are averaged.
        data: a source as `load_data` takes it, such as `"folder:PATH"`; a `Source`; or a pair of
            images `(n, height, width, 3)`, RGB in [0, 255], and labels `(n,)`, class indices. Such
            images of the model's own size are neither resized nor cropped by `"single"` and
            `"flip"`, unless `resize` is given.
        protocol: `"single"`: the centre crop. `"flip"`: its and its mirror image's probabilities
            averaged. `"ten_crop"`: those of the four corners, the centre and the mirror images of
            these. `"multi_scale"`: those of the whole image and its mirror image, with short sides
            of 224, 256, 384, 480 and 640 pixels (in proportion for networks of up to 64 pixels), at
            which the network's average pooling makes it fully convolutional.
        resize: short side before crops, in pixels, in place of the model's own.
        crop: side of the crops, in pixels, in place of the model's own.
        interpolation: `"bilinear"` or `"bicubic"`, in place of the model's own.
        split: which part of `data` is measured, where that is a text.
        validation_fraction: of data without a validation part, as in training.
        weights: a tag or file of weights, where the model is the name of a network.
        network: fields of `ResNetConfig` that change in a network by name, such as
            `{"version": "v1"}`; its accuracy as published is left out then.
        ensemble_weights: what every member's probabilities count, not negative; by default alike.
        match_names: see `columns_of`. If all images are of one class, the answers are not limited
            to that class, as each of them would be right.
        labels: a file of right classes, in place of the folders' names; see `LabelFile`. All images
            below a folder are measured then, whatever `split` says.
        batch_size: images that are prepared and run at once; all of them, if there are fewer.
        trust: as of `keras_resnet.export.load_runner`.
        pixels: as of `Predictor`; the same for all models.
        progress: is told after every batch.

    Raises:
        ValueError: an argument is wrong; the classes of model and data differ; a label is none of
            the classes; or there are no images that can be read.
        OSError: data cannot be read.
    """
    name = check_protocol(protocol)
    check_choice("split", split, get_args(Split))
    check_integer("batch_size", batch_size)
    if name == "multi_scale" and resize is not None:
        raise ValueError(
            "Expected no `resize` with the protocol multi_scale, which has scales of its own. "
            f"Received: resize={resize}"
        )
    several = isinstance(model_or_artifact, (list, tuple))
    models: Any = model_or_artifact if several else [model_or_artifact]
    shares = _shares(ensemble_weights, len(models))
    label_file = None if labels is None else LabelFile(labels)
    fields = {"resize": resize, "size": crop, "interpolation": interpolation}
    members = [
        Member(model, name, weights, network, trust=trust, pixels=pixels, **fields)
        for model in models
    ]
    first = members[0]
    images = open_images(
        data, first.classes, first.how.size,
        split=split, validation_fraction=validation_fraction, label_file=label_file,
    )  # fmt: skip
    if match_names and len(images.classes) == 1:
        images = images.among(first.classes)
    are_arrays = isinstance(data, (tuple, list))
    for member in members:
        if are_arrays and resize is None and name in ("single", "flip"):
            member.take_whole(images.source)
        member.answer_for(images.classes, match_names)
    begin = time.perf_counter()
    found = list(_batches(images, members, name, shares, batch_size, progress))
    seconds = time.perf_counter() - begin
    asked = {"name": name, "ensemble_weights": shares.tolist(), "match_names": match_names}
    return _evaluation(images, members, found, asked, seconds)


def _evaluation(
    images: LabelledImages,
    members: Sequence[Member],
    found: Sequence[_Batch],
    asked: Mapping[str, Any],
    seconds: float,
) -> Evaluation:
    """The report; `asked` is what it says of the protocol besides sizes and interpolation."""
    rows = np.array([row for batch in found for row in batch.rows], int)
    name_of = images.source.name_of
    unreadable = {name_of(row): reason for batch in found for row, reason in batch.bad.items()}
    if not len(rows):
        reason = next(iter(unreadable.values()), "no labelled image")
        raise ValueError(
            f"Expected at least one image that can be read. Received: {images.source.name} "
            f"({reason})"
        )
    return Evaluation(
        tuple(member.name for member in members),
        images.source.name,
        {**asked, "members": [dataclasses.asdict(member.how) for member in members]},
        images.classes.names,
        tuple(name_of(row) for row in rows.tolist()),
        images.labels[rows],
        np.concatenate([batch.probabilities for batch in found if batch.rows]),
        images.targets(rows),
        unreadable,
        len(images.source) - len(images.kept),
        seconds,
        members[0].published if len(members) == 1 else None,
        images.source,
        rows,
        (*images.notes, *(note for member in members for note in member.notes)),
    )


class _Batch(NamedTuple):
    """Probabilities of the images `rows` of a source, and why others could not be read."""

    rows: list[int]
    probabilities: np.ndarray
    bad: Mapping[int, str]


def _batches(
    images: LabelledImages,
    members: Sequence[Member],
    protocol: Any,
    shares: np.ndarray,
    batch_size: int,
    progress: Progress,
) -> Iterator[_Batch]:
    """Yield the members' mean probabilities batch by batch; threads read images ahead."""
    hows = list(dict.fromkeys(member.how for member in members))

    def read(index: int) -> dict[EvalProtocol, list[np.ndarray]] | str:
        try:
            image = open_image(images.source[index].data)
            return {how: views(image, protocol, how) for how in hows}
        # Whatever a damaged file or a broken disk makes a library raise.
        except (OSError, ValueError) as error:
            return str(error)

    kept = images.kept
    read_ahead = results_in_order(read, kept.tolist(), 2 * batch_size)
    begin = time.perf_counter()
    for start in range(0, len(kept), batch_size):
        chunk = kept[start : start + batch_size]
        prepared = dict(zip(chunk.tolist(), itertools.islice(read_ahead, len(chunk)), strict=True))
        good = {index: found for index, found in prepared.items() if not isinstance(found, str)}
        answers = np.zeros((0, 0), np.float32)
        if good:
            of_members = [
                share * member.probabilities([x[member.how] for x in good.values()], batch_size)
                for member, share in zip(members, shares, strict=True)
            ]
            answers = np.asarray(np.sum(of_members, axis=0, dtype=np.float64), np.float32)
        done = start + len(chunk)
        speed = done / (time.perf_counter() - begin)
        progress(f"{done:,} of {len(kept):,} images, {speed:,.0f} images/s", done / len(kept))
        bad = {index: found for index, found in prepared.items() if isinstance(found, str)}
        yield _Batch(list(good), answers, bad)


def _shares(weights: Sequence[float] | None, members: int) -> np.ndarray:
    """Return the weights of the members, which sum to 1."""
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
