"""Inference of a checkpoint's network from keys and shapes, with conventions for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from keras_resnet.models.info import ENTRY, ModelInfo
from keras_resnet.models.pixels import CAFFE_MEAN
from keras_resnet.networks.config import (
    EXPANSION,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ResNetConfig,
    multiple_of_8,
)
from keras_resnet.networks.names import place_of
from keras_resnet.networks.plan import plan
from keras_resnet.support.json_text import parse_json
from keras_resnet.weights.checkpoint import Checkpoint
from keras_resnet.weights.origin import Origin, find_origin

#: The package that wrote a checkpoint, as far as its keys show; `torch` is any torch package.
Family = Literal["torch", "keras_applications", "caffe", "keras_resnet"]


@dataclass(frozen=True)
class Inferred:
    """The network of a checkpoint.

    Attributes:
        config: config of the network.
        classes: number of classes; `None` without a classifier.
        channels: number of channels of the images.
        family: package that wrote the checkpoint; its conventions complete the config.
        bgr: whether the stem expects blue first.
        notes: assumptions by convention, for the report.
        certain: whether the file, or a `config.json` beside it, gives the constants of the pixels.
        complete: whether this package wrote the file with the whole config.
    """

    config: ResNetConfig
    classes: int | None
    channels: int
    family: Family
    bgr: bool
    notes: tuple[str, ...]
    certain: bool = False
    complete: bool = False


def infer(
    checkpoint: Checkpoint, origin: Origin | None = None, *, with_top: bool = True
) -> Inferred:
    """Infer the network of a checkpoint from keys, shapes and facts about its origin.

    Args:
        checkpoint: the arrays of the file.
        origin: facts besides keys and shapes; by default those in and beside the file.
        with_top: whether the classifier is needed.

    Raises:
        ValueError: the checkpoint is not of a network of this package.
    """
    try:
        return _Reader(checkpoint, origin, with_top).read()
    except (ValueError, TypeError, OverflowError) as error:
        # In damaged files, the config may be anything, of any length.
        raise ValueError(
            f"Expected a checkpoint of a ResNet that `ResNetConfig` describes. "
            f"Received: {checkpoint.path}: {str(error)[:400]}"
        ) from error


class _Reader:
    """Inference of one checkpoint's network."""

    def __init__(self, checkpoint: Checkpoint, origin: Origin | None, with_top: bool) -> None:
        self.checkpoint = checkpoint
        self.notes: list[str] = []
        self.layers = checkpoint.layers
        self.family = self.find_family()
        self.saved_config = ModelInfo.from_json(checkpoint.metadata.get(ENTRY) or "{}").config
        if origin is None and self.saved_config is None and self.family == "torch":
            origin = find_origin(checkpoint.path, checkpoint.metadata, with_top)
        self.origin = origin or Origin()

    def read(self) -> Inferred:
        blocks = self.blocks()
        v2 = any(name.startswith("post_") or "_preact_" in name for name in self.layers)
        bottleneck = "conv2_block1_3_conv" in self.layers
        last = "3" if bottleneck else "2"
        outputs = [self.filters(f"conv{s}_block1_{last}_conv") for s in range(2, len(blocks) + 2)]
        fields: dict[str, Any] = {"block": "bottleneck" if bottleneck else "basic"}
        expansion = EXPANSION[fields["block"]]
        fields |= {"blocks": blocks, "filters": tuple(out // expansion for out in outputs)}
        if not all(fields["filters"]):
            raise ValueError(f"bottlenecks with {outputs} output channels")
        channels = self.stem(fields)
        if bottleneck:
            self.cardinality(fields)
        fields.update(self.preactivation() if v2 else self.version() if bottleneck else {})
        stem = fields.get("stem_filters", fields["filters"][0])
        fields.update(self.shortcuts(blocks, stem_changes=stem != outputs[0]))
        if any(name.endswith("_gn") for name in self.layers):
            self.refuse_standardized()
            self.notes.append("group normalization of 32 groups")
            fields["norm"] = "group"
        if "conv2_block1_se_reduce" in self.layers:
            fields["se_ratio"] = self.se_ratio(outputs)
        fields.update(self.origin.fields)
        fields.update(self.fields_of_other_layers(v2))
        if self.saved_config is not None:
            # Loading the weights shows whether the config in the file is right.
            self.notes, fields = [], dict(self.saved_config)
        fields["mean"], fields["std"], bgr = self.pixels(v2, channels)
        head = self.checkpoint.array("predictions")
        config = ResNetConfig(**fields)
        if (config.blocks, config.output_widths) != (blocks, tuple(outputs)):
            raise ValueError(
                f"a config with {config.blocks} blocks of {config.output_widths} channels for "
                f"{blocks} blocks of {tuple(outputs)}"
            )
        if self.checkpoint.naming.layout == "akamaster" and config.shortcut == "A":
            self.check_complete(config, channels)
        return Inferred(
            config,
            None if head is None else head.shape[-1],
            channels,
            self.family,
            bgr,
            (*self.origin.notes, *self.notes),
            certain=self.has_pixel_constants or self.origin.constants is not None,
            complete=self.saved_config is not None,
        )

    def fields_of_other_layers(self, v2: bool) -> dict[str, Any]:
        """Return fields that layers without weights show, which this package's HDF5 files list."""
        names = self.checkpoint.other_layers
        fields: dict[str, Any] = {}
        if self.family != "keras_resnet" or not names:
            return {}
        self.notes.append("no dilation, which such a file does not show")
        if any("_blur" in name for name in names):
            fields["blur_pool"] = True
        if any(name.endswith("_0_pool") for name in names):
            fields["downsample"] = "average"
        if not any(name.endswith("_out" if v2 else "_add") for name in names):
            fields["shortcut"] = None
        return fields

    @property
    def has_pixel_constants(self) -> bool:
        return {"mean", "std"} <= self.checkpoint.metadata.keys()

    def refuse_standardized(self) -> None:
        """Raise ValueError for timm's BiT, which standardizes weights with the same keys.

        Of timm's v2 networks with group normalization, only the one with a C stem does not.
        """
        naming, known = self.checkpoint.naming, self.saved_config or self.origin.architecture
        if naming.layout == "timm_resnetv2" and not naming.deep_stem and not known:
            raise ValueError(
                "group normalization in a v2 network of timm, whose convolutions then standardize "
                "their weights (BiT). If these do not, put the architecture into the file's name, "
                "such as resnetv2_50_gn"
            )

    def blocks(self) -> tuple[int, ...]:
        """Return the number of blocks per stage; raise ValueError if one is missing."""
        found: dict[int, set[int]] = {}
        for name in self.layers:
            if place := place_of(name):
                found.setdefault(place.stage, set()).add(place.block)
        for stage in range(2, max(found, default=2) + 1):
            present = found.get(stage, set())
            missing = set(range(1, max(present, default=1) + 1)) - present
            if missing:
                raise ValueError(f"no weights for conv{stage}_block{min(missing)}")
        return tuple(len(found[stage]) for stage in sorted(found))

    def check_complete(self, config: ResNetConfig, channels: int) -> None:
        """Raise ValueError if a layer lacks weights or has another shape than planned."""
        for conv in (conv for block in plan(config, channels).blocks for conv in block.convs):
            kernel = self.checkpoint.array(f"{conv.name}_conv")
            scale = self.checkpoint.array(f"{conv.name}_bn", "gamma")
            shape = (conv.kernel_size, conv.kernel_size, conv.input_filters, conv.filters)
            found = [array.shape for array in (kernel, scale) if array is not None]
            if found != [shape, shape[3:]]:
                raise ValueError(f"{conv.name} of the shapes {found} instead of {shape}")
        head = self.checkpoint.array("predictions")
        if "predictions" in self.layers and (head is None or head.shape[0] != config.filters[-1]):
            raise ValueError("a classifier whose kernel has another shape or is missing")

    def filters(self, name: str, axis: int = 3) -> int:
        kernel = self.checkpoint.array(name)
        if kernel is None:
            raise ValueError(f"no kernel for {name}")
        if kernel.ndim != 4:
            raise ValueError(f"the kernel of {name} has the shape {kernel.shape}")
        return int(kernel.shape[axis])

    def stem(self, fields: dict[str, Any]) -> int:
        if {"conv1_conv", "conv1_1_conv"} <= self.layers.keys():
            raise ValueError("a stem of one convolution, and one of three")
        first, last = "conv1_conv", "conv1_conv"
        if self.checkpoint.naming.deep_stem or "conv1_1_conv" in self.layers:
            first, last, fields["stem"] = "conv1_1_conv", "conv1_3_conv", "C"
            widths = [self.filters(f"conv1_{number}_conv") for number in (1, 2, 3)]
            if widths != [widths[2] // 2, widths[2] // 2, widths[2]]:
                tiered = " (timm's tiered stem, as in resnet26t)" if widths[0] < widths[1] else ""
                raise ValueError(
                    f"a stem of three convolutions with {widths} filters{tiered}, which this "
                    "package does not have. In its C stems, the first two convolutions have half "
                    "as many filters as the third"
                )
        elif self.filters(first, 0) == 3:
            fields["stem"] = "cifar"
        stem_filters = self.filters(last)
        if stem_filters != fields["filters"][0]:
            fields["stem_filters"] = stem_filters
        return self.filters(first, 2)

    def cardinality(self, fields: dict[str, Any]) -> None:
        inner = self.filters("conv2_block1_2_conv")
        groups = max(1, inner // self.filters("conv2_block1_2_conv", 2))
        fields["groups"] = groups
        fields["width_per_group"] = 64 * inner // (fields["filters"][0] * groups)

    def version(self) -> dict[str, Any]:
        if "version" in self.origin.fields:
            return {}
        if self.family in ("keras_applications", "caffe"):
            self.notes.append(
                "strides on the first 1x1 of a bottleneck (v1), as in the original and "
                "keras.applications"
            )
            return {"version": "v1"}
        self.notes.append("strides on the 3x3 of a bottleneck (v1.5), as in torchvision and timm")
        return {}

    def preactivation(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"version": "v2"}
        if self.family == "keras_applications":
            fields["preact_layout"] = "unit_norm_stride_last"
            self.notes.append("strides in the last block of a stage, as in keras.applications")
        elif not {"conv1_bn", "conv1_gn", "conv1_3_bn", "conv1_3_gn"} & self.layers.keys():
            fields["preact_layout"] = "unit_norm"
        return fields

    def shortcuts(self, blocks: tuple[int, ...], stem_changes: bool) -> dict[str, Any]:
        """Return the fields of the shortcut; `stem_changes` is whether B projects in block 1."""
        fields: dict[str, Any] = {}
        projections = sum(name.endswith("_0_conv") for name in self.layers)
        if not projections:
            fields["shortcut"] = "A"
            self.notes.append("shortcuts padded with zero channels (A): there are no projections")
        elif projections == sum(blocks) and (sum(blocks) > len(blocks) or not stem_changes):
            fields["shortcut"] = "C"
        naming = self.checkpoint.naming
        if naming.average:
            fields["downsample"] = "average"
        elif naming.layout == "timm_resnetv2" and naming.deep_stem and projections:
            fields["downsample"] = "average"
            self.notes.append("D shortcuts, which timm's v2 networks with a C stem have")
        return fields

    def se_ratio(self, outputs: list[int]) -> float:
        widths = [
            self.filters(f"conv{stage}_block1_se_reduce") for stage in range(2, len(outputs) + 2)
        ]
        for ratio in (1 / 16, 1 / 8, 1 / 4, 1 / 2, widths[-1] / outputs[-1]):
            if [multiple_of_8(output * ratio) for output in outputs] == widths:
                return ratio
        raise ValueError(f"squeeze-and-excitation of {widths} channels has no common ratio")

    def pixels(self, v2: bool, channels: int) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
        """Return mean and standard deviation of RGB in [0, 255], and whether the stem takes BGR."""
        metadata, keras = self.checkpoint.metadata, self.family == "keras_applications"
        if self.has_pixel_constants:
            return _numbers(metadata["mean"], channels), _numbers(metadata["std"], channels), False
        mean: Sequence[float] = IMAGENET_MEAN
        std: Sequence[float] = IMAGENET_STD
        bgr = False
        note: str | None = "ImageNet's mean and standard deviation"
        if self.origin.constants is not None:
            (mean, std), note = self.origin.constants, None
        elif not v2 and (keras or self.family == "caffe"):
            mean, std, bgr = CAFFE_MEAN, (1.0,) * 3, True
            note = "BGR minus ImageNet's mean, as in the original network"
        elif v2 and (keras or self.family == "torch"):
            mean = std = (127.5,) * 3
            note = "(RGB - 127.5) / 127.5, as in the v2 networks of keras.applications and timm"
        if note is not None:
            self.notes.append(f"pixels: {note}")
        if channels != len(mean) == 3:
            # As in the builder: every channel gets the mean of the three colors.
            mean, std = ((sum(values) / 3,) * channels for values in (mean, std))
        return tuple(mean), tuple(std), bgr and channels == 3

    def find_family(self) -> Family:
        layout = self.checkpoint.naming.layout
        if layout == "caffe":
            return "caffe"
        if layout != "keras":
            return "torch"
        stem_bias = self.checkpoint.array("conv1_conv", "bias") is not None
        # This package's networks may have a bias in the stem, too, but have other first layers.
        own_layers = {"image", "normalization"} & self.checkpoint.other_layers
        return "keras_applications" if stem_bias and not own_layers else "keras_resnet"


def _numbers(text: str, channels: int) -> tuple[float, ...]:
    """Parse the mean or standard deviation in this package's files: JSON, one per channel."""
    values = parse_json(text)
    valid = isinstance(values, list) and len(values) in (3, channels)
    if not valid or any(type(n) not in (int, float) or not abs(n) < 1e6 for n in values):
        raise ValueError(f"an invalid mean or standard deviation of pixels: {text[:80]!r}")
    return tuple(values)
