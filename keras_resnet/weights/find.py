"""Opening of a checkpoint by path or tag: it is fetched, read, identified and converted."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from keras_resnet.models.info import ENTRY, ModelInfo, get_info
from keras_resnet.models.saving import load_model
from keras_resnet.networks.graph import find_network
from keras_resnet.networks.plan import plan
from keras_resnet.networks.table import get_config
from keras_resnet.weights.checkpoint import Checkpoint, read_checkpoint
from keras_resnet.weights.convert import convert
from keras_resnet.weights.infer import Inferred, infer
from keras_resnet.weights.layers import Constants, arrays_of, pixel_constants, weighted_layers
from keras_resnet.weights.mapping import Naming
from keras_resnet.weights.origin import Origin
from keras_resnet.weights.path_or_tag import PathOrTag, is_path
from keras_resnet.weights.registry import WeightsEntry, find_weights
from keras_resnet.weights.topology import BLUR, Description, describe, describe_plan

Pixels = Literal["checkpoint", "model"]


@dataclass
class OpenedCheckpoint:
    """A converted checkpoint and the facts about it.

    Attributes:
        checkpoint: its arrays by layer.
        entry: its row in the registry; `None` for other files.
        inferred: the network that keys and shapes describe; `None` for saved models of this
            package, which contain their network.
        description: properties of its layers, see `topology`; `None` if they are unknown.
        ignored: names in `description` that need not match.
        constants: mean and standard deviation of its pixels; `None` if they are unknown.
        certain: whether `constants` are from the file or the registry, not from a convention.
        info: information in the file, such as class names.
        notes: assumptions by convention, for the report.
    """

    checkpoint: Checkpoint
    entry: WeightsEntry | None = None
    inferred: Inferred | None = None
    description: Description | None = None
    ignored: set[str] = field(default_factory=set)
    constants: Constants | None = None
    certain: bool = False
    info: ModelInfo = field(default_factory=ModelInfo)
    notes: tuple[str, ...] = ()


def open_checkpoint(
    weights: PathOrTag, model: str | None, *, with_top: bool = True, pixels: Pixels = "checkpoint"
) -> OpenedCheckpoint:
    """Read a file, or the file of a tag, and convert its arrays.

    Args:
        weights: a path or a tag.
        model: name of the network whose default the tags `"imagenet"` and `"cifar10"` mean.
        with_top: whether the classifier is needed.
        pixels: see `load_weights`.

    Raises:
        ValueError: there is no such file or tag, or it cannot be read.
        OSError: the file of a tag cannot be downloaded.
    """
    if not isinstance(weights, (str, os.PathLike)) or not str(weights):
        raise ValueError(
            "Expected `weights` to be None, a path or a tag of `list_weights()`. "
            f"Received: weights={weights!r}"
        )
    entry = None
    if is_path(weights):
        path = Path(weights)
        if path.suffix.lower() == ".keras" and (opened := _open_keras(path)):
            return opened
    else:
        # HTTP clients are slow to import, and only needed here.
        from keras_resnet.weights.fetch import fetch

        entry = find_weights(str(weights), model)
        path = fetch(entry, without_top=not with_top)
    checkpoint = read_checkpoint(path)
    inferred = infer(checkpoint, _registered(entry) if entry else None, with_top=with_top)
    if entry is not None:
        inferred = dataclasses.replace(inferred, bgr=entry.channel_order == "BGR")
    if pixels == "model":
        inferred = dataclasses.replace(inferred, bgr=False)
    convert(checkpoint, inferred)
    info = ModelInfo.from_json(checkpoint.metadata.get(ENTRY) or "{}")
    opened = OpenedCheckpoint(checkpoint, entry, inferred, notes=inferred.notes)
    opened.info = dataclasses.replace(info, weights=path.name, config=None)
    if inferred.family == "keras_resnet":
        opened.notes = (
            "such a file does not show strides, dilation and pixels, nor layers without weights "
            "(shortcuts, pooling, anti-aliasing), so they were not compared",
        )
    else:
        _describe_by_convention(opened, inferred)
    return opened


def _registered(entry: WeightsEntry) -> Origin:
    """Return the registry's facts about a file, which take precedence over conventions."""
    blur = get_config(entry.model, **entry.config).blur_pool
    return Origin(entry.model, {"blur_pool": blur}, (entry.mean, entry.std))


def _describe_by_convention(opened: OpenedCheckpoint, inferred: Inferred) -> None:
    opened.description = describe_plan(plan(inferred.config, inferred.channels))
    opened.constants = (inferred.config.mean, inferred.config.std)
    opened.certain = inferred.certain
    if inferred.config.blur_pool:
        opened.description[BLUR] = {}
    elif not inferred.certain:
        opened.ignored.add(BLUR)  # Blur pooling has no weights.
    if inferred.certain:
        return
    if inferred.config.shortcut == "A" and opened.checkpoint.naming.layout != "akamaster":
        # Without projections, a plain network looks the same.
        opened.ignored |= {n for n in opened.description if n.endswith(("_add", "_out"))}


def _open_keras(path: Path) -> OpenedCheckpoint | None:
    """Open a saved model of this package; return `None` if it is of keras.applications."""
    model = load_model(path, compile=False)
    network = find_network(model)
    layers = weighted_layers(network)
    stem = layers.get("conv1_conv")
    own_layers = {"image", "normalization"} & {layer.name for layer in network.layers}
    if stem is not None and stem.use_bias and ("conv1_bn" in layers or not own_layers):
        return None
    weights = arrays_of(network)
    keys = {(name, role): f"{name}/{role}" for name, kinds in weights.items() for role in kinds}
    return OpenedCheckpoint(
        Checkpoint(str(path), Naming("keras"), weights, keys),
        description=describe(network),
        constants=pixel_constants(network),
        certain=True,
        info=dataclasses.replace(get_info(model), weights=path.name, config=None),
    )
