"""The registry of published checkpoints, one row each in `registry.json`.

A row has the network, the files, the normalization of pixels, and the published accuracy with its
protocol. Not listed are checkpoints of networks that no `ResNetConfig` describes (tiered stems,
weight standardization, ResNet-RS, …), without a classifier, or without a published accuracy.

Accuracies are the published ones, at the resolution nearest to 224 pixels if there are several:
timm also publishes accuracies at 288 or 320 pixels, which are higher.

The default checkpoint of a network (`weights="imagenet"`) is chosen by these rules, in this order:

0. It is part of this package, so that nothing is downloaded, even if others are more accurate.
1. Its license does not restrict it to non-commercial use.
2. It needs no other config than the network's own. v2 networks are an exception, as no checkpoints
   with the paper's layout are published: timm's `resnetv2` if possible, else keras.applications'.
3. It is a safetensors file, if there is one, which needs neither pickle nor HDF5.
4. Its recipe is published in full: `a1_in1k` (arXiv:2110.00476, procedure A1), else `tv2_in1k`
   (torchvision's second recipe). Otherwise it has the highest top-1 accuracy.

The licenses are those that the publishers give their files; ImageNet's own terms restrict the use
of its images to non-commercial research.
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
    """Location of a file, and known facts about its content.

    Attributes:
        url: URL of the file; `None` for files on Hugging Face and in this package.
        repo: repository on Hugging Face, such as `timm/resnet50.a1_in1k`.
        file: name of the file in that repository.
        sha256: SHA-256 of the content, 64 hexadecimal digits.
        sha256_prefix: first digits of the SHA-256, if the publisher gives only these.
        md5: MD5 of the content, 32 hexadecimal digits.
        bytes: size in bytes.
        packaged: name of the file in `weights/packaged`, if it is part of this package.
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
        """Name of the file without its directory."""
        return (self.packaged or self.file or self.url or "").rpartition("/")[2]

    @property
    def location(self) -> str:
        """The URL, `hf://repository/file` or `keras_resnet/weights/packaged/file`."""
        if self.packaged:
            return f"keras_resnet/weights/packaged/{self.packaged}"
        return self.url or f"hf://{self.repo}/{self.file}"


@dataclass(frozen=True)
class WeightsEntry:
    """One published checkpoint.

    Attributes:
        tag: name of the checkpoint, `publisher/name`, such as `timm/resnet50.a1_in1k`.
        model: name of the network in `list_models()`.
        classes: number of classes.
        params_millions: trainable parameters of the network, in millions.
        download: the file.
        license: SPDX identifier of the license.
        protocol: evaluation protocol of the accuracies.
        mean: mean of each channel, RGB in [0, 255], as `ResNetConfig.mean`.
        std: standard deviation of each channel in the same unit, as `ResNetConfig.std`.
        top1: top-1 accuracy in percent on the validation images.
        accuracy_source: who published the accuracies, of which measurement.
        config: fields of `ResNetConfig` in which the checkpoint's network differs from `model`.
        dataset: data set of the training: `"imagenet"` or `"cifar10"`.
        download_without_top: the file without the classifier; `None` if none is published.
        recipe: training recipe: identifier of a paper, or URL; `None` if it is not documented.
        origin: who trained the network; `None` for the publisher.
        channel_order: channel order of the stem; `mean` and `std` are always RGB.
        top5: top-5 accuracy in percent; `None` if it was not published.
        default: whether `weights="imagenet"` or `weights="cifar10"` is this row for `model`.
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
    """Return the tags of the registered checkpoints that match a pattern, sorted.

    Args:
        pattern: a shell-style pattern of the whole tag (`"timm/*"`), or of the part after the slash
            (`"resnet50*"`); case does not matter.

    Examples:
        >>> keras_resnet.list_weights("keras/resnet50.*")
        ['keras/resnet50.imagenet']
    """
    pattern = pattern.lower()
    return [
        tag
        for tag in _entries()
        if fnmatch.fnmatchcase(tag.lower(), pattern)
        or fnmatch.fnmatchcase(_name(tag).lower(), pattern)
    ]


def find_weights(tag: str, model: str | None = None) -> WeightsEntry:
    """Return the registered checkpoint with a tag.

    Args:
        tag: a tag such as `"timm/resnet50.a1_in1k"`; the part after the slash, if it is unique; or
            `"imagenet"` or `"cifar10"` for the default of `model`.
        model: name of `list_models()`, used for the defaults only. The checkpoint of another tag
            may be of another network.

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
            "Expected a tag with its publisher, as more than one publishes such weights: "
            f"{', '.join(entry.tag for entry in same)}. Received: {tag!r}"
        )
    # The tag may be the name of a network.
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
    """Return up to five tags of a network, its default first."""
    entries = [entry for entry in _entries().values() if entry.model == model]
    return [entry.tag for entry in sorted(entries, key=lambda entry: not entry.default)][:5]


def _name(tag: str) -> str:
    return tag.partition("/")[2]


@functools.cache
def _entries() -> Mapping[str, WeightsEntry]:
    """Return all rows by tag, in alphabetical order."""
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
