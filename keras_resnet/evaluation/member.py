"""A model or artifact to evaluate, alone or as a member of an ensemble."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_resnet.evaluation.classes import Classes, columns_of
from keras_resnet.evaluation.views import Protocol
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.jobs.predictor import Predictor
from keras_resnet.models.info import get_info, set_info
from keras_resnet.models.saving import load_model
from keras_resnet.networks.builders import create_model
from keras_resnet.networks.table import find_name, list_models
from keras_resnet.support.checks import MODEL_SUFFIXES, check_integer
from keras_resnet.weights.path_or_tag import is_path
from keras_resnet.weights.registry import find_weights

#: A model, the path of a file or SavedModel, the tag of published weights or a network's name.
Model: TypeAlias = keras.Model | str | os.PathLike[str]


class WeightsError(OSError, ValueError):
    """Raised when published weights cannot be downloaded or loaded."""


class Member:
    """A classifier, and the resizing and cropping of its views of images.

    Args:
        model: see `Model`.
        protocol: name of the protocol.
        weights: tag or file of the weights of a network that is given by name.
        network: fields of `ResNetConfig` to change in it.
        trust: as for `keras_resnet.export.load_runner`.
        pixels: as for `Predictor`.
        fields: fields of `EvalProtocol` to change; None keeps the model's value.

    Attributes:
        name: path, tag or name of the model.
        eval_protocol: sizes and interpolation of the views.
        classes: classes of the model.
        published: see `Evaluation`.
        notes: sentences for the notes of the evaluation.

    Raises:
        ValueError: there is no such model, or it does not accept images of these sizes.
        WeightsError: published weights cannot be downloaded or loaded.
    """

    def __init__(
        self,
        model: Model,
        protocol: Protocol,
        weights: str | None = None,
        network: Mapping[str, Any] | None = None,
        *,
        trust: bool = False,
        pixels: str | None = None,
        **fields: Any,
    ) -> None:
        self.name, opened, self.published = _opened(model, weights, network or {})
        predictor = Predictor(opened, trust=trust, pixels=pixels)
        notes = predictor.notes
        self.eval_protocol = _changed(predictor.protocol, fields)
        size = None if protocol == "multi_scale" else self.eval_protocol.size
        if predictor.input_shape[1:3] not in ((size, size), (None, None)):
            opened = _of_any_size(opened, self.name, predictor.input_shape)
            original = predictor
            predictor = Predictor(opened, protocol=self.eval_protocol, pixels=original.pixels)
            predictor.class_names, predictor.class_ids = original.class_names, original.class_ids
        self._predictor = predictor
        probe = np.zeros((1, self.eval_protocol.size, self.eval_protocol.size, 3), np.uint8)
        count = predictor.predict_prepared(probe).shape[1]
        self.classes = Classes(count, predictor.class_names, predictor.class_ids)
        self._columns: np.ndarray | None = None
        self.notes = tuple(f"{self.name}: {note}" for note in notes)

    def take_whole(self, images: Any) -> None:
        """Do not resize images of a `LabeledImages` if they have the size of the crops."""
        if images.images.shape[1:3] == (self.eval_protocol.size, self.eval_protocol.size):
            self.eval_protocol = dataclasses.replace(
                self.eval_protocol, resize=self.eval_protocol.size
            )

    def select_classes(self, data: Classes, match_names: bool) -> None:
        """Limit `probabilities` to the classes of the data; see `columns_of`."""
        self._columns = columns_of(self.classes, data, match_names)
        if self._columns is not None and len(data) < len(self.classes):
            self.notes = (
                *self.notes,
                f"The predictions of {self.name} are limited to the {len(data)} classes of the "
                f"data, of its {len(self.classes)} classes.",
            )

    def probabilities(self, images: Sequence[Sequence[np.ndarray]], batch_size: int) -> np.ndarray:
        """Return the probabilities of every image, averaged over its views.

        Args:
            images: for every image, the batches of its views; see `views`.
            batch_size: views that are run together.

        Returns:
            `(images, classes)`, float32.
        """
        if all(len(batches) == 1 for batches in images):
            found = self._run(np.concatenate([batch for (batch,) in images]), batch_size)
            mean = found.reshape(len(images), -1, found.shape[1]).mean(axis=1)
        else:
            # Views have different sizes, so images are run one by one.
            per_image = ([self._run(batch, batch_size) for batch in batches] for batches in images)
            mean = np.stack([np.concatenate(found).mean(axis=0) for found in per_image])
        if self._columns is None:
            return mean
        chosen = mean[:, self._columns]
        return chosen / np.maximum(chosen.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)

    def _run(self, batch: np.ndarray, batch_size: int) -> np.ndarray:
        return self._predictor.predict_prepared(batch, batch_size)


def _opened(
    model: Model, weights: str | None, fields: Mapping[str, Any]
) -> tuple[str, keras.Model | Path, Mapping[str, Any] | None]:
    """Return the name, the model or the path of its file, and the published accuracies."""
    text = model.name if isinstance(model, keras.Model) else os.fspath(model)
    is_file = text.endswith(MODEL_SUFFIXES) or (Path(text).exists() and text not in list_models())
    if (weights is not None or fields) and (is_file or isinstance(model, keras.Model)):
        raise ValueError(
            "Expected neither `weights` nor `network` with a model or a file, which contains both. "
            f"Received: {weights or dict(fields)} with {text}"
        )
    if isinstance(model, keras.Model):
        return text, model, None
    if is_file:
        return text, Path(text), None
    with contextlib.suppress(ValueError):
        text = find_name(text)
    changed = f" ({', '.join(f'{k}={v}' for k, v in fields.items())})" if fields else ""
    if weights is not None and is_path(weights):
        return (
            f"{text}{changed} with {weights}",
            create_model(text, weights=weights, **fields),
            None,
        )
    if weights is None and text in list_models():
        raise ValueError(
            "Expected `weights` with the name of a network, or the tag of published weights in "
            f"its place. Received: {text!r} alone"
        )
    entry = find_weights(text if weights is None else weights, None if weights is None else text)
    try:
        name = entry.model if weights is None else text
        network = create_model(name, weights=entry.tag, **fields)
    except (OSError, ValueError) as error:
        raise WeightsError(str(error)) from error
    if fields:  # The published accuracies are of the unchanged network.
        return f"{entry.tag}{changed}", network, None
    stated = {
        "top1": entry.top1,
        "top5": entry.top5,
        "protocol": dataclasses.asdict(entry.protocol),
        "source": entry.accuracy_source,
    }
    return entry.tag, network, stated


def _changed(protocol: EvalProtocol, fields: Mapping[str, Any]) -> EvalProtocol:
    """Return the protocol with the fields that are not None.

    If only the size of the crop changes, the short side changes in proportion.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if "size" in given and "resize" not in given:
        protocol = protocol.scaled_to(check_integer("crop", given["size"]))
    return dataclasses.replace(protocol, **given)


def _of_any_size(
    network: keras.Model | Path, name: str, shape: tuple[int | None, ...]
) -> keras.Model:
    """Return a copy of a network for images of any size."""
    size = f"{shape[1]}x{shape[2]}"
    if isinstance(network, Path) and network.suffix in MODEL_SUFFIXES:
        network = load_model(network, compile=False)
    if not isinstance(network, keras.Model):
        raise ValueError(
            f"Expected an artifact for images of any size, to evaluate it at another size than "
            f"{size}. Received: {name}. Export a model with `input_shape=(None, None, 3)`, or "
            "evaluate its .keras file"
        )
    try:
        free = keras.models.clone_model(network, keras.Input((None, None, shape[3])))
        free.set_weights(network.get_weights())
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Expected a model for images of any size, to evaluate it at another size than {size}. "
            f"Received: {name}, whose layers depend on the size: {error}"
        ) from error
    set_info(free, get_info(network))
    return free
