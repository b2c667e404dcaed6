"""Evaluation of a classifier on labeled images by the protocols of the papers."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np

from keras_resnet.evaluation.images import Data, EvaluationImages, Split, open_images
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
    """Evaluate a classifier, or an ensemble of classifiers, on labeled images.

    Args:
        model_or_artifact: a Keras model; the path of a `.keras`, `.h5`, `.tflite` or `.onnx` file
            or of a SavedModel, of this package or of others; the tag of published weights; or, with
            `weights`, the name of a network. A list is an ensemble, which averages probabilities.
        data: the name of a source, such as `"folder:PATH"` (see `load_data`); a `Source`; or a pair
            of images `(n, height, width, 3)`, RGB in [0, 255], and labels `(n,)`, class indices.
            Images of a pair that have the input size of the model are neither resized nor cropped
            by `"single"` and `"flip"`, unless `resize` is given.
        protocol: the views of an image whose probabilities are averaged. `"single"`: the center
            crop. `"flip"`: the center crop and its mirror image. `"ten_crop"`: the crops of the
            center and the four corners, and their mirror images. `"multi_scale"`: the whole image
            and its mirror image with short sides of 224, 256, 384, 480 and 640 pixels (in
            proportion for networks of up to 64 pixels); global average pooling makes the network
            fully convolutional.
        resize: length of the short side before cropping, in pixels; by default the model's.
        crop: side of the crops, in pixels; by default the model's.
        interpolation: `"bilinear"` or `"bicubic"`; by default the model's.
        split: split of a named source: `"validation"`, `"test"`, `"train"` or `"all"`.
        validation_fraction: share of the training split used for validation if a named source has
            no validation split.
        weights: tag or file of the weights of a network that is given by name.
        network: fields of `ResNetConfig` to change in a network that is given by name, such as
            `{"version": "v1"}`; its published accuracy is then left out.
        ensemble_weights: weight of every model of an ensemble, at least 0; equal by default.
        match_names: whether to match the classes of data and model by name; see `columns_of`. If
            all images have the same class, predictions are not limited to that class, as all of
            them would be correct.
        labels: file of the correct classes, which replaces the labels of the data; see `LabelFile`.
            All images below a `folder:PATH` are then evaluated, regardless of `split`.
        batch_size: largest number of images that are prepared and run together.
        trust: as for `keras_resnet.export.load_runner`.
        pixels: as for `Predictor`; applies to all models.
        progress: called after every batch with a description and the share of the images.

    Returns:
        An `Evaluation` with the probabilities and the metrics.

    Raises:
        ValueError: an argument is invalid, the classes of model and data differ, a label is not an
            index of a class, or no image can be read.
        OSError: the data or the model cannot be read.

    Examples:

    ```python
    report = evaluate("model.keras", "folder:flowers", "ten_crop")
    report.accuracy
    ```
    """
    name = check_protocol(protocol)
    check_choice("split", split, get_args(Split))
    check_integer("batch_size", batch_size)
    if name == "multi_scale" and resize is not None:
        raise ValueError(
            "Expected no `resize` with the protocol multi_scale, which has fixed scales. "
            f"Received: resize={resize}"
        )
    is_ensemble = isinstance(model_or_artifact, (list, tuple))
    models: Any = model_or_artifact if is_ensemble else [model_or_artifact]
    shares = _shares(ensemble_weights, len(models))
    label_file = None if labels is None else LabelFile(labels)
    fields = {"resize": resize, "size": crop, "interpolation": interpolation}
    members = [
        Member(model, name, weights, network, trust=trust, pixels=pixels, **fields)
        for model in models
    ]
    first = members[0]
    images = open_images(
        data, first.classes, first.eval_protocol.size,
        split=split, validation_fraction=validation_fraction, label_file=label_file,
    )  # fmt: skip
    if match_names and len(images.classes) == 1:
        images = images.with_classes_of(first.classes)
    are_arrays = isinstance(data, (tuple, list))
    for member in members:
        if are_arrays and resize is None and name in ("single", "flip"):
            member.take_whole(images.source)
        member.select_classes(images.classes, match_names)
    begin = time.perf_counter()
    found = list(_batches(images, members, name, shares, batch_size, progress))
    seconds = time.perf_counter() - begin
    settings = {"name": name, "ensemble_weights": shares.tolist(), "match_names": match_names}
    return _evaluation(images, members, found, settings, seconds)


def _evaluation(
    images: EvaluationImages,
    members: Sequence[Member],
    found: Sequence[_Batch],
    settings: Mapping[str, Any],
    seconds: float,
) -> Evaluation:
    """Return the report; `settings` are the entries of its protocol besides those of members."""
    indices = np.array([index for batch in found for index in batch.indices], int)
    name_of = images.source.name_of
    unreadable = {name_of(index): reason for batch in found for index, reason in batch.bad.items()}
    if not len(indices):
        reason = next(iter(unreadable.values()), "no labeled image")
        raise ValueError(
            f"Expected at least one image that can be read. Received: {images.source.name} "
            f"({reason})"
        )
    return Evaluation(
        tuple(member.name for member in members),
        images.source.name,
        {**settings, "members": [dataclasses.asdict(member.eval_protocol) for member in members]},
        images.classes.names,
        tuple(name_of(index) for index in indices.tolist()),
        images.labels[indices],
        np.concatenate([batch.probabilities for batch in found if batch.indices]),
        images.targets(indices),
        unreadable,
        len(images.source) - len(images.kept),
        seconds,
        members[0].published if len(members) == 1 else None,
        images.source,
        indices,
        (*images.notes, *(note for member in members for note in member.notes)),
    )


class _Batch(NamedTuple):
    """The result of a batch.

    Attributes:
        indices: indices in the source of the images that were read.
        probabilities: their probabilities, `(n, classes)`, float32.
        bad: index -> reason, for the images that could not be read.
    """

    indices: list[int]
    probabilities: np.ndarray
    bad: Mapping[int, str]


def _batches(
    images: EvaluationImages,
    members: Sequence[Member],
    protocol: Any,
    shares: np.ndarray,
    batch_size: int,
    progress: Progress,
) -> Iterator[_Batch]:
    """Yield the weighted mean of the members' probabilities by batch; threads read images ahead."""
    eval_protocols = list(dict.fromkeys(member.eval_protocol for member in members))

    def read(index: int) -> dict[EvalProtocol, list[np.ndarray]] | str:
        try:
            image = open_image(images.source[index].data)
            return {
                eval_protocol: views(image, protocol, eval_protocol)
                for eval_protocol in eval_protocols
            }
        except (OSError, ValueError) as error:
            return str(error)

    kept = images.kept
    read_ahead = results_in_order(read, kept.tolist(), 2 * batch_size)
    begin = time.perf_counter()
    for start in range(0, len(kept), batch_size):
        chunk = kept[start : start + batch_size]
        prepared = dict(zip(chunk.tolist(), itertools.islice(read_ahead, len(chunk)), strict=True))
        good = {index: found for index, found in prepared.items() if not isinstance(found, str)}
        probabilities = np.zeros((0, 0), np.float32)
        if good:
            weighted = [
                share
                * member.probabilities([x[member.eval_protocol] for x in good.values()], batch_size)
                for member, share in zip(members, shares, strict=True)
            ]
            probabilities = np.asarray(np.sum(weighted, axis=0, dtype=np.float64), np.float32)
        done = start + len(chunk)
        speed = done / (time.perf_counter() - begin)
        progress(f"{done:,} of {len(kept):,} images, {speed:,.0f} images/s", done / len(kept))
        bad = {index: found for index, found in prepared.items() if isinstance(found, str)}
        yield _Batch(list(good), probabilities, bad)


def _shares(weights: Sequence[float] | None, members: int) -> np.ndarray:
    """Return the weights of the members, scaled to a sum of 1."""
    if not members:
        raise ValueError("Expected at least one model. Received: none")
    values = [1.0] * members if weights is None else list(weights)
    for value in values:
        check_number("ensemble_weights", value)
    if len(values) != members or sum(values) <= 0:
        raise ValueError(
            f"Expected `ensemble_weights` to be {members} numbers of at least 0, one per model, "
            f"with a sum above 0. Received: {weights!r}"
        )
    return np.array(values) / sum(values)
