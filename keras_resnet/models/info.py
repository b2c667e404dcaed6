"""Information that a model carries besides its graph: class names, weights, protocol.

It is an attribute of a plain `keras.Model`. It is saved as an asset in `.keras` files, which Keras
itself ignores, and in every exported artifact.
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
    """Facts about layers that hold for certain weights.

    Attributes:
        values: facts by layer name.
        weights: fingerprint of the weights.
    """

    values: Mapping[str, T]
    weights: str


@dataclass(frozen=True)
class KernelProperty:
    """The result of compression for a kernel.

    Attributes:
        distinct: limit of the number of distinct weights; `None` without a limit.
        zeros: number of weights that are zero.
    """

    distinct: int | None
    zeros: int


#: Lowest and highest activation of layers, from quantization-aware training. For a layer with a
#: sigmoid or softmax, the range is that of the logits.
LearnedRanges = ByLayer[tuple[float, float]]
CompressedKernels = ByLayer[KernelProperty]


@dataclass(frozen=True)
class ModelInfo:
    """Information that a model carries about itself.

    Attributes:
        class_names: name of each class, in the order of the outputs; two names for a single output,
            which is the probability of the second class.
        class_ids: identifier of each class, such as a WordNet id.
        weights: tag or path of the weights that the model started from.
        protocol: preparation of images.
        config: fields of the `ResNetConfig` that the model was built from.
        ranges: ranges of activations for int8.
        kernels: results of pruning and clustering.
        task: `"labels"` for multi-label classification, `"values"` for regression, `None` for
            classification; see `replace_head`.
        untrained: part of an exported model that has random weights, see
            `keras_resnet.models.untrained.untrained_part`; set in artifacts only.
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
        """Return JSON without the fields that are `None`."""
        known = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        return json.dumps(known, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelInfo:
        """Parse the JSON of `to_json`; unknown fields, as of later versions, are ignored.

        Raises:
            ValueError: the text is not such JSON.
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
                f"Expected the information about a model, as in its `{FILE_NAME}`. "
                f"Received: {text[:80]!r} ({error})"
            ) from error

    def check_names(self, units: int | None) -> None:
        """Raise ValueError if the number of names or ids does not fit the classifier.

        Args:
            units: number of units of the classifier; `None` if it is unknown.
        """
        for what, names in (("class_names", self.class_names), ("class_ids", self.class_ids)):
            # A single unit distinguishes two classes.
            count = 2 if units == 1 and self.task is None else units
            if names is not None and count is not None and len(names) != count:
                raise ValueError(
                    f"Expected {count} `{what}`, one per class. Received: {len(names)} of them"
                )


def get_info(model: keras.Model) -> ModelInfo:
    """Return the information that `model` carries; an empty `ModelInfo` by default."""
    info: ModelInfo = getattr(model, _ATTRIBUTE, ModelInfo())
    return info


def set_info(model: keras.Model, info: ModelInfo) -> None:
    """Attach information to `model`, which `model.save` then writes into the file."""
    setattr(model, _ATTRIBUTE, info)
    # Keras calls `save_assets` of every layer and model.
    model.save_assets = functools.partial(_save_assets, info)


def class_count(model: keras.Model) -> int:
    """Return the number of classes, labels or values of a model; a single unit has two classes."""
    shape, task = model.output_shape, get_info(model).task
    return 2 if len(shape) == 2 and shape[-1] == 1 and task is None else shape[-1]


def set_class_names(
    model: keras.Model, names: Sequence[str], ids: Sequence[str] | None = None
) -> None:
    """Set the class names of a classifier; files and exported artifacts keep them.

    `keras_resnet.load_model` restores names, evaluation protocol and config from a file. Copies
    that Keras makes (`clone_model`, `keras.Model(model.inputs, model.outputs)`, pickles,
    `keras.saving.load_model`) lose them; `set_info(copy, get_info(model))` copies them.

    Args:
        model: a classifier with the output `(batch, classes)`, or `(batch, 1)`, the probability of
            the second of two classes.
        names: name of each class, in the order of the model's outputs.
        ids: identifier of each class, such as a WordNet id; `None` without identifiers.

    Raises:
        ValueError: there is not exactly one name, or one identifier, per class.

    Examples:
        >>> model = keras_resnet.create_model("resnet20", classes=2)
        >>> keras_resnet.set_class_names(model, ["cat", "dog"])
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
    """Return the ranges of quantization-aware training; `None` if the weights changed since."""
    return _valid(model, get_info(model).ranges)


def compressed_kernels(model: keras.Model) -> Mapping[str, KernelProperty]:
    """Return the results of compression by layer; empty if the weights have changed since."""
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
