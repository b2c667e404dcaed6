"""Loading of weights into a model, with checks, adaptations and a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import get_args

import keras
import numpy as np

from keras_resnet.images.labels import dataset_classes
from keras_resnet.models.info import ModelInfo, get_info, set_info
from keras_resnet.networks.blocks import NORM_EPSILON
from keras_resnet.networks.config import IMAGENET_MEAN
from keras_resnet.networks.graph import find_network
from keras_resnet.support.checks import check_choice, some_of
from keras_resnet.weights.convert import adapt_channels
from keras_resnet.weights.find import OpenedCheckpoint, Pixels, open_checkpoint
from keras_resnet.weights.layers import (
    Constants,
    pixel_constants,
    roles,
    stem_name,
    weighted_layers,
)
from keras_resnet.weights.path_or_tag import PathOrTag
from keras_resnet.weights.report import LoadReport
from keras_resnet.weights.topology import BLUR, describe, differences

# Advice in Python, as no command has an option for it.
_IN_PYTHON = "In Python, build the model"
_TRUSTING = "`load_weights(model, path, pixels='model')`"


def load_weights(
    model: keras.Model, source: PathOrTag, *, strict: bool = True, pixels: Pixels = "checkpoint"
) -> LoadReport:
    """Load weights into a network of this package, by layer name.

    Checkpoints of this package, keras.applications, torchvision, timm, transformers, akamaster's
    CIFAR networks and the original Caffe release are recognized by their keys. torch is not needed,
    and no code in the file is run. If an error is raised, the model is unchanged.

    A classifier for another number of classes is not loaded; the model keeps its own. An RGB stem
    is adapted to other numbers of channels. Both are listed in the report.

    Args:
        model: the network, or a model with the network as a layer.
        source: path of a `.keras`, `.weights.h5`, `.h5`, `.safetensors`, `.npz`, `.pth`, `.bin` or
            `.th` file, or a tag of `list_weights()`, whose file is downloaded once.
        strict: whether to raise if the file lacks weights of the model, has additional ones, or is
            of another network. If false, weights with the same name and shape are loaded.
        pixels: `"checkpoint"` raises if the model normalizes pixels differently than the checkpoint
            needs, and reverses the stem's channels of checkpoints for BGR. `"model"` does neither.

    Returns:
        A report of loaded, adapted, skipped, missing and unexpected weights.

    Raises:
        ValueError: the file cannot be read, or does not fit the model.
        OSError: the file of a tag cannot be downloaded.

    Examples:
        >>> model = keras_resnet.ResNet50()
        >>> print(keras_resnet.load_weights(model, "resnet50-0676ba61.pth"))
    """
    network = find_network(model)
    with_top = "predictions" in weighted_layers(network)
    opened = open_checkpoint(source, network.name, with_top=with_top, pixels=pixels)
    return load_opened(model, opened, strict=strict, pixels=pixels)


def load_opened(
    model: keras.Model,
    opened: OpenedCheckpoint,
    *,
    strict: bool = True,
    pixels: Pixels = "checkpoint",
) -> LoadReport:
    """Load an opened checkpoint into a model; see `load_weights`."""
    check_choice("pixels", pixels, get_args(Pixels))
    report = _Loader(find_network(model), opened, strict, pixels).load()
    info, entry, before = opened.info, opened.entry, get_info(model)
    if entry is not None:
        info = ModelInfo(*dataset_classes(entry.dataset), entry.tag, entry.protocol)
    if "predictions" not in report.loaded or info.class_names is None:
        info = dataclasses.replace(info, class_names=before.class_names, class_ids=before.class_ids)
    protocol = info.protocol or before.protocol
    set_info(model, dataclasses.replace(info, protocol=protocol, config=before.config))
    return report


class _Loader:
    """Loader of one checkpoint into one network."""

    def __init__(
        self, network: keras.Model, opened: OpenedCheckpoint, strict: bool, pixels: Pixels
    ) -> None:
        self.network, self.opened, self.checkpoint = network, opened, opened.checkpoint
        self.strict, self.pixels = strict, pixels
        self.layers = weighted_layers(network)
        self.constants = pixel_constants(network)
        self.adapted: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self.missing: list[str] = []
        self.fresh_head = False
        self.loaded: dict[str, tuple[str, ...]] = {}

    def load(self) -> LoadReport:
        self.check_topology()
        if self.pixels == "checkpoint":
            self.check_pixels()
        if self.other_channels():
            stem = stem_name(self.layers)
            channels = int(self.layers[stem].kernel.shape[2])
            self.adapted[stem] = adapt_channels(
                self.checkpoint.layers, channels, self.opened.constants, self.constants
            )
        self.set_head_aside()
        values = dict(self.values())
        unexpected = [
            key
            for (name, _), key in self.checkpoint.keys.items()
            if name not in self.layers and key not in self.skipped
        ]
        unexpected += self.checkpoint.unknown
        if unexpected and self.strict:
            reason = f"it also has {some_of(sorted(unexpected), 3)}"
            raise self.refusal(
                f"{reason}. In Python, `load_weights(model, path, strict=False)` loads the weights "
                "that fit, and `model.save('model.keras')` writes a file for the commands"
            )
        if not values:
            raise self.refusal("none of its weights fit")
        for name, arrays in values.items():
            self.layers[name].set_weights(arrays)
        entry = self.opened.entry
        return LoadReport(
            self.checkpoint.path,
            self.checkpoint.naming.layout,
            self.loaded,
            self.adapted,
            self.skipped,
            tuple(self.missing),
            tuple(sorted(unexpected)),
            (*self.checkpoint.notes, *self.opened.notes, *self.unseen()),
            entry.tag if entry else None,
        )

    def refusal(self, reason: str) -> ValueError:
        return ValueError(
            f"Expected `weights` to be of the same network as `{self.network.name}`. "
            f"Received: {self.checkpoint.path}: {reason}"
        )

    def unseen(self) -> Iterator[str]:
        """Yield a note on properties that a file of another package does not show."""
        inferred = self.opened.inferred
        if inferred is None or inferred.complete or inferred.family == "keras_resnet":
            return
        if self.opened.entry is not None:
            return  # The registry has them.
        convs = [x for x in self.network.layers if isinstance(x, keras.layers.Conv2D)]
        names = {layer.name for layer in self.network.layers}
        stem = "3x3 max pooling" if "pool1_pool" in names else "no pooling"
        yield (
            "keys do not show these properties, taken from the model: ReLU, "
            f"{'blur pooling' if BLUR in describe(self.network) else 'no anti-aliasing'}, "
            f"{'dilation' if any(max(x.dilation_rate) > 1 for x in convs) else 'no dilation'}, "
            f"{stem} in the stem, {'maximum' if 'max_pool' in names else 'average'} before the "
            f"classifier, no weight standardization, epsilon {NORM_EPSILON}"
        )

    def check_topology(self) -> None:
        saved = self.opened.description
        if saved is None:
            return
        own = describe(self.network)
        ignored = {*self.opened.ignored, "normalization", "predictions"}
        if self.opened.inferred is not None:
            ignored |= {name for name in own if name.startswith("pool1")}
        stem = stem_name(self.layers)
        if self.other_channels():
            saved = {**saved, stem: {**saved[stem], "weights": own[stem]["weights"]}}
        reason = differences(saved, own, ignored)
        if reason is not None and self.strict:
            raise self.refusal(reason)
        if reason is not None:
            self.checkpoint.notes.append(f"not of the same network: {reason}")

    def other_channels(self) -> bool:
        stem = stem_name(self.layers)
        saved = self.checkpoint.array(stem)
        kernel = self.layers[stem].kernel if stem in self.layers else None
        if saved is None or kernel is None or saved.ndim != 4:
            return False
        same_else = (*saved.shape[:2], saved.shape[3]) == (*kernel.shape[:2], kernel.shape[3])
        return bool(same_else and saved.shape[2] == 3 != kernel.shape[2])

    def check_pixels(self) -> None:
        saved, own = self.opened.constants, self.constants
        if saved is None:
            if self.opened.inferred is None and own is not None:
                raise ValueError(
                    "Expected a model that does not normalize its pixels, like the model in "
                    f"{self.checkpoint.path}. Received: `{self.network.name}` with "
                    f"{_words(own)}. {_IN_PYTHON} with `include_preprocessing=False`, or, if the "
                    f"weights need these constants, load them by {_TRUSTING}"
                )
            return
        words = f"{_words(saved)} (RGB in [0, 255])"
        if own is None:
            self.checkpoint.notes.append(f"the caller has to normalize pixels with {words}")
            return
        if self.other_channels():
            return
        same = all(
            len(one) == len(other) and np.allclose(one, other, rtol=1e-3, atol=1e-3)
            for one, other in zip(own, saved, strict=True)
        )
        default = np.allclose(np.mean(own[0]), np.mean(IMAGENET_MEAN), atol=1e-3)
        if not same and not self.opened.certain and not default:
            # Constants that were passed to the model override those by convention.
            self.checkpoint.notes.append(
                f"pixels are normalized with the constants of the model: {_words(own)}"
            )
        elif not same:
            raise ValueError(
                f"Expected a model that normalizes pixels with {words}, as the weights in "
                f"{self.checkpoint.path} need. Received: `{self.network.name}` with "
                f"{_words(own)}. `keras-resnet convert` makes a model of the file. {_IN_PYTHON} "
                "with those constants or by `from_checkpoint`, or, if the weights need the model's "
                f"constants, load them by {_TRUSTING}"
            )

    def set_head_aside(self) -> None:
        saved, own = self.checkpoint.layers.get("predictions"), self.layers.get("predictions")
        head = self.checkpoint.array("predictions")
        other = head is not None and own is not None and head.shape[-1] != own.kernel.shape[-1]
        if own is not None and (saved is None or other):
            self.missing += [f"predictions/{role}" for role in roles(own)]
            self.fresh_head = True
        if head is None or (own is not None and not other):
            return
        reason = "the model has no classifier"
        if own is not None:
            reason = f"it is for {head.shape[-1]} classes, the model for {own.kernel.shape[-1]}"
        for role in saved or ():
            self.skipped[self.checkpoint.keys["predictions", role]] = reason

    def values(self) -> Iterator[tuple[str, list[np.ndarray]]]:
        """Yield the name and the arrays of every layer that the checkpoint fits."""
        for name, layer in self.layers.items():
            if name == "predictions" and self.fresh_head:
                continue
            saved = self.checkpoint.layers.get(name, {})
            kinds = roles(layer)
            reason = self.misfit(name, layer)
            if reason is None:
                self.loaded[name] = tuple(self.checkpoint.keys[name, kind] for kind in kinds)
                yield name, [saved[kind] for kind in kinds]
                continue
            if self.strict:
                raise self.refusal(reason)
            self.missing += [f"{name}/{kind}" for kind in kinds]
            self.skipped.update({self.checkpoint.keys[name, kind]: reason for kind in saved})

    def misfit(self, name: str, layer: keras.Layer) -> str | None:
        """Return the reason why a layer cannot take its arrays; `None` if it can."""
        saved, kinds = self.checkpoint.layers.get(name, {}), roles(layer)
        absent = [f"{name}/{kind}" for kind in kinds if kind not in saved]
        if absent:
            return f"it lacks {some_of(absent, 3)}"
        extra = sorted(self.checkpoint.keys[name, kind] for kind in saved.keys() - set(kinds))
        if extra:
            return f"it also has {some_of(extra, 3)}"
        for kind, weight in zip(kinds, layer.weights, strict=True):
            shape = saved[kind].shape
            if shape != tuple(weight.shape):
                key = self.checkpoint.keys[name, kind]
                return f"{key} has the shape {shape}, {name}/{kind} {tuple(weight.shape)}"
        return None


def _words(constants: Constants) -> str:
    mean, std = (", ".join(f"{number:.6g}" for number in numbers) for numbers in constants)
    return f"mean=({mean}), std=({std})"
