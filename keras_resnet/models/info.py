"""Information that a model carries besides its graph: class names, weights, protocol.

A model stays a plain `keras.Model`; this is an attribute of it, and goes into `.keras` files as an
asset, which Keras itself passes over, and into every exported artifact.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import keras

from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.support.fingerprints import fingerprint_of_weights
from keras_resnet.support.json_text import parse_json

#: Name of the file in a `.keras` archive or a SavedModel, and of the entry in TFLite and ONNX.
ENTRY = "keras_resnet"
FILE_NAME = f"{ENTRY}.json"

_ATTRIBUTE = "keras_resnet_info"


T = TypeVar("T")


@dataclass(frozen=True)
class ByLayer(Generic[T]):
    """Facts that were found out about layers.

    Attributes:
        values: by layer.
        weights: the fingerprint of the weights that they hold for.
    """

    values: Mapping[str, T]
    weights: str


@dataclass(frozen=True)
class KernelProperty:
    """The result of compression for a kernel.

    Attributes:
        distinct: the most different weights that it has; None: as many as it likes.
        zeros: how many weights are zero.
    """

    distinct: int | None
    zeros: int


#: Lowest and highest activation, as quantization-aware training found; of a layer with a sigmoid or
#: softmax, of what that is computed of.
LearnedRanges = ByLayer[tuple[float, float]]
CompressedKernels = ByLayer[KernelProperty]


@dataclass(frozen=True)
class ModelInfo:
    """Information that a model carries about itself.

    Attributes:
        class_names: one per column of its output, in their order; of a single column, which is the
            probability of the second class, both.
        class_ids: identifiers of the classes, such as WordNet's.
        weights: tag or path of the weights that it started from.
        protocol: how images are prepared for it.
        config: fields of the `ResNetConfig` that it was built from.
        ranges: of its activations in int8.
        kernels: what pruning and clustering have made of its kernels.
        task: what the head is for, if not for classes: `"labels"` or `"values"`, see
            `replace_head`.
        untrained: of an artifact, which part of the exported model had random weights; see
            `keras_resnet.models.untrained.untrained_part`, which tells it of a Keras model.
    """

    class_names: tuple[str, ...] | None = None
    class_ids: tuple[str, ...] | None = None
    weights: str | None = None
    protocol: EvalProtocol | None = None
    config: Mapping[str, Any] | None = None
    ranges: LearnedRanges | None = None
    kernels: CompressedKernels | None = None
    task: str | None = None
    untrained: str | None = None

    def to_json(self) -> str:
        """Return JSON; what is not known is left out."""
        known = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        return json.dumps(known, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelInfo:
        """The reverse; what a later version adds is passed over.

        Raises:
            ValueError: the text is something else.
        """
        readers: dict[str, Callable[[Any], Any]] = {
            "class_names": _strings,
            "class_ids": _strings,
            "protocol": lambda fields: EvalProtocol(**fields),
            "ranges": lambda known: LearnedRanges(
                {name: (float(low), float(high)) for name, (low, high) in known["values"].items()},
                str(known["weights"]),
            ),
            "kernels": lambda known: CompressedKernels(
                {name: KernelProperty(**value) for name, value in known["values"].items()},
                str(known["weights"]),
            ),
        }
        try:
            values = {key: value for key, value in parse_json(text).items() if value is not None}
            return cls(
                **{
                    field.name: readers.get(field.name, lambda value: value)(values[field.name])
                    for field in dataclasses.fields(cls)
                    if field.name in values
                }
            )
        except (TypeError, AttributeError, KeyError, ValueError, OverflowError) as error:
            raise ValueError(
                f"Expected what a model knows about itself, as in its `{FILE_NAME}`. "
                f"Received: {text[:80]!r} ({error})"
            ) from error

    def check_names(self, units: int | None) -> None:
        """Compares the names with the number of units that put out classes, if that is known.

        Raises:
            ValueError: there are more or fewer of them.
        """
        for what, names in (("class_names", self.class_names), ("class_ids", self.class_ids)):
            # One unit tells two classes apart.
            count = 2 if units == 1 and self.task is None else units
            if names is not None and count is not None and len(names) != count:
                raise ValueError(
                    f"Expected {count} `{what}`, one per class. Received: {len(names)} of them"
                )


def get_info(model: keras.Model) -> ModelInfo:
    """Return the information that `model` carries; an empty one if none was set."""
    info: ModelInfo = getattr(model, _ATTRIBUTE, ModelInfo())
    return info


def set_info(model: keras.Model, info: ModelInfo) -> None:
    """Tells `model` about itself, and lets `model.save` write it down."""
    setattr(model, _ATTRIBUTE, info)
    # Keras asks every layer and model for assets; this one gives some, without a class of its own.
    model.save_assets = functools.partial(_save_assets, info)


def class_count(model: keras.Model) -> int:
    """Return the number of classes, labels or values of a model: two for one unit."""
    shape, task = model.output_shape, get_info(model).task
    return 2 if len(shape) == 2 and shape[-1] == 1 and task is None else shape[-1]


def set_class_names(
    model: keras.Model, names: Sequence[str], ids: Sequence[str] | None = None
) -> None:
    """Names the classes of a classifier; they travel with it into files and artifacts.

    Copies that Keras makes (`clone_model`, `keras.Model(model.inputs, model.outputs)`, pickles,
    `keras.saving.load_model`) consist of core layers, which have no place for names, protocol and
    config: `set_info(copy, get_info(model))` gives them to a copy, and `keras_resnet.load_model`
    reads them from the file.

    Args:
        model: a classifier `(batch, height, width, channels)` -> `(batch, classes)`, or
            `(batch, 1)`, the probability of the second of two classes.
        names: one per class, in the order of the model's outputs.
        ids: identifiers of the classes, such as WordNet's, if there are any.

    Raises:
        ValueError: not one name per class.
    """
    count = class_count(model)
    for what, values in (("names", names), ("ids", ids)):
        valid = not isinstance(values, str) and all(isinstance(v, str) for v in values or ())
        if values is not None and (not valid or len(values) != count):
            size = f"{len(values)} of them" if valid else repr(values)
            raise ValueError(
                f"Expected {count} strings as `{what}`, one per class. Received: {size}"
            )
    ids = None if ids is None else tuple(ids)
    set_info(model, dataclasses.replace(get_info(model), class_names=tuple(names), class_ids=ids))


def learned_ranges(model: keras.Model) -> Mapping[str, tuple[float, float]] | None:
    """The ranges that quantization-aware training has found, if the weights are still the same."""
    return _valid(model, get_info(model).ranges)


def compressed_kernels(model: keras.Model) -> Mapping[str, KernelProperty]:
    """Return the results of compression for kernels, if the weights are unchanged; else nothing."""
    return _valid(model, get_info(model).kernels) or {}


def _valid(model: keras.Model, found: ByLayer[T] | None) -> Mapping[str, T] | None:
    if found is None or found.weights != fingerprint_of_weights(model.get_weights()):
        return None
    return found.values


def _strings(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError("no list of names")
    return tuple(map(str, values))


def _save_assets(info: ModelInfo, directory: Any) -> None:
    Path(directory, FILE_NAME).write_text(info.to_json(), encoding="utf-8")
