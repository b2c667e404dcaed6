"""The published checkpoints that can be loaded: one row each in `registry.json`.

Which network a row is for, where its files lie, how pixels are normalized, what accuracy was
published and under which protocol. Every network of a row is a `ResNetConfig`: checkpoints that
none describes (tiered stems, weight standardization, ResNet-RS, …) are not listed, nor are those
without a classifier or a published accuracy.

Accuracies are those of the source, at the resolution nearest to 224 pixels where it names several:
timm's sheets also have figures at 288 or 320 pixels, which are higher.

The default row of a network, which `weights="imagenet"` stands for, is found so:

0. It comes with this package, so that nothing is downloaded, though others may be more accurate.
1. Anyone may use it: no license for non-commercial use only.
2. It needs no other config than the network's own. Networks of v2 are an exception, as nobody
   publishes the paper's layout: timm's `resnetv2` if there is one, else keras.applications' V2.
3. It is a safetensors file if there is one: that is neither unpickled nor parsed by HDF5.
4. Its recipe is published in full: `a1_in1k` (arXiv:2110.00476, procedure A1), else `tv2_in1k`
   (torchvision's second recipe). Where there is neither, the highest top-1 accuracy decides.

The licenses are those that the publishers give their files; ImageNet's own terms restrict the use
of its pictures to non-commercial research.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.support.suggest import did_you_mean

Dataset = Literal["imagenet", "cifar10"]


@dataclass(frozen=True)
class Download:
    """The address of a file, and the facts about its content.

    Attributes:
        url: its address; `None` for a file of Hugging Face.
        repo: the repository there, such as `timm/resnet50.a1_in1k`.
        file: the file in that repository.
        sha256: hash of the content, 64 hexadecimal digits.
        sha256_prefix: its first digits, where a publisher tells no more.
        md5: another hash, 32 hexadecimal digits.
        bytes: size.
        packaged: its name in this package's folder `weights/packaged`, if it comes with it.
    """

    url: str | None = None
    repo: str | None = None
    file: str | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None
    md5: str | None = None
    bytes: int | None = None
    packaged: str | None = None

    @property
    def file_name(self) -> str:
        """Name of the file without its folder."""
        return (self.packaged or self.file or self.url or "").rpartition("/")[2]

    @property
    def location(self) -> str:
        """The address, `hf://repository/file` or `keras_resnet/weights/packaged/file`."""
        if self.packaged:
            return f"keras_resnet/weights/packaged/{self.packaged}"
        return self.url or f"hf://{self.repo}/{self.file}"


@dataclass(frozen=True)
class WeightsEntry:
    """One published checkpoint.

    Attributes:
        tag: what it is called: `publisher/name`, such as `timm/resnet50.a1_in1k`.
        model: its network, one of `list_models()`.
        config: fields of `ResNetConfig` in which the checkpoint's network differs from `model`.
        dataset: what it was trained for: `"imagenet"` or `"cifar10"`.
        classes: width of its classifier.
        params_millions: trainable parameters of the network, in millions.
        download: its file.
        download_without_top: the file without classifier, where one is published.
        license: SPDX identifier.
        recipe: how it was trained: a paper's id, or an address; `None` where it is not documented.
        origin: who trained it; `None` for the publisher.
        protocol: how the images were cut for the accuracies.
        mean: per-channel mean of the pixels in [0, 255], RGB: `ResNetConfig.mean`.
        std: per-channel standard deviation in the same unit: `ResNetConfig.std`.
        channel_order: in which the stem's kernel takes the channels; `mean` and `std` are RGB
            anyway.
        top1: accuracy in percent on the validation images.
        top5: likewise; `None` where it was not published.
        accuracy_source: who says so, and of which measurement.
        default: whether `weights="imagenet"` or `weights="cifar10"` means this row for `model`.
    """

    tag: str
    model: str
    classes: int
    params_millions: float
    download: Download
    license: str
    protocol: EvalProtocol
    mean: tuple[float, ...]
    std: tuple[float, ...]
    top1: float
    accuracy_source: str
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    dataset: Dataset = "imagenet"
    download_without_top: Download | None = None
    recipe: str | None = None
    origin: str | None = None
    channel_order: Literal["RGB", "BGR"] = "RGB"
    top5: float | None = None
    default: bool = False


def list_weights(pattern: str = "*") -> list[str]:
    """Tags of the checkpoints that match a shell-style pattern, sorted.

    Args:
        pattern: for the whole tag (`timm/*`) or for what follows its slash (`resnet50*`).
    """
    pattern = pattern.lower()
    return [
        tag
        for tag in _entries()
        if fnmatch.fnmatchcase(tag.lower(), pattern)
        or fnmatch.fnmatchcase(_name(tag).lower(), pattern)
    ]


def find_weights(tag: str, model: str | None = None) -> WeightsEntry:
    """The checkpoint called `tag`.

    Args:
        tag: `"timm/resnet50.a1_in1k"`; what follows the slash is enough where no other tag ends so;
            or `"imagenet"` or `"cifar10"`: the default of `model`.
        model: one of `list_models()`. It matters for the defaults alone: whether the checkpoint
            fits a network is for who loads it to say.

    Raises:
        ValueError: there is no such checkpoint, or more than one.
    """
    if tag in get_args(Dataset):
        return _default(tag, model)
    entries = _entries()
    if tag in entries:
        return entries[tag]
    same = [entry for entry in entries.values() if _name(entry.tag) == tag]
    if len(same) == 1:
        return same[0]
    if same:
        raise ValueError(
            "Expected a tag with its publisher, as more than one has such weights: "
            f"{', '.join(entry.tag for entry in same)}. Received: {tag!r}"
        )
    # Somebody may give a network's name only, or something out of the air.
    others = _tags_of(str(tag).lower()) or _tags_of(model) or _tags_of("resnet50")
    hint = f". There are {', '.join(others)}"
    if not _tags_of(str(tag).lower()):
        hint = did_you_mean(tag, [*map(_name, entries), *entries], hint.removeprefix(". "))
    raise ValueError(f"Expected a tag of `list_weights()`. Received: {tag!r}{hint}")


def _default(dataset: str, model: str | None) -> WeightsEntry:
    entries = [entry for entry in _entries().values() if entry.dataset == dataset]
    defaults = {entry.model: entry for entry in entries if entry.default}
    if model in defaults:
        return defaults[model]
    advice = f"There are some for {', '.join(sorted(defaults))}"
    if others := _tags_of(model):
        advice = f"There are other weights for this network: {', '.join(others)}"
    raise ValueError(
        f"Expected `model` to be a network that has default weights for {dataset!r}. "
        f"Received: model={model!r}. {advice}"
    )


def _tags_of(model: str | None) -> list[str]:
    """Up to five tags of a network, its default first."""
    entries = [entry for entry in _entries().values() if entry.model == model]
    return [entry.tag for entry in sorted(entries, key=lambda entry: not entry.default)][:5]


def _name(tag: str) -> str:
    return tag.partition("/")[2]


@functools.cache
def _entries() -> Mapping[str, WeightsEntry]:
    """Every row by its tag, in alphabetical order."""
    text = importlib.resources.files(__package__).joinpath("registry.json").read_text("utf-8")
    rows = json.loads(text, object_hook=_with_tuples)
    return {
        row["tag"]: WeightsEntry(
            **row
            | {key: Download(**row[key]) for key in row if key.startswith("download")}
            | {"protocol": EvalProtocol(**row["protocol"])}
        )
        for row in sorted(rows, key=lambda row: row["tag"])
    }


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
