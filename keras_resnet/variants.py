"""The table of networks and the builders that are named after them."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import inspect
import os
from typing import Any, Protocol, get_args

import keras
import numpy as np

from keras_resnet.builder import build
from keras_resnet.config import ResNetConfig, Version
from keras_resnet.weights.registry import WeightsEntry, find_weights, list_weights
from keras_resnet.weights.sources import is_path

_FILTERS = (64, 128, 256, 512)


def cifar_config(depth: int, block: str = "basic", **fields: Any) -> ResNetConfig:
    """The config of the CIFAR network with `depth` weighted layers.

    Three stages of 16, 32 and 64 filters on 32x32 images; shortcut A unless `fields` say otherwise
    (He et al. 2015, section 4.2).

    Args:
        depth: 6n+2 for basic blocks, 9n+2 for bottlenecks.
        block: `"basic"` or `"bottleneck"`.
        fields: other fields of `ResNetConfig`.

    Raises:
        ValueError: no such network.
    """
    per_n = 9 if block == "bottleneck" else 6
    if not isinstance(depth, (int, np.integer)) or depth < per_n + 2 or (depth - 2) % per_n:
        raise ValueError(
            f"Expected `depth` to be {per_n}n+2 with `block={block!r}` "
            "(6n+2 for basic blocks, 9n+2 for bottlenecks). "
            f"Received: depth={depth}"
        )
    config = ResNetConfig(
        block,  # type: ignore[arg-type]  # The config checks it.
        (int(depth - 2) // per_n,) * 3,
        (16, 32, 64),
        stem="cifar",
        shortcut="A",
    )
    return config.replace(**fields)


def _cifar_v2(depth: int) -> ResNetConfig:
    """The bottleneck networks of He et al. 2016, with the strides of resnet-1k-layers."""
    return cifar_config(depth, "bottleneck", version="v2", shortcut="B", preact_stride="1x1")


#: Blocks per stage of the ImageNet networks: He et al. 2015, Table 1; 200: He et al. 2016.
_BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_BOTTLENECK = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


def _imagenet(depth: int, **fields: Any) -> ResNetConfig:
    if depth in _BASIC:
        return ResNetConfig("basic", _BASIC[depth], _FILTERS, **fields)
    return ResNetConfig("bottleneck", _BOTTLENECK[depth], _FILTERS, **fields)


#: Every network by the name that `list_models` gives it.
VARIANTS: dict[str, ResNetConfig] = {}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the networks that match a shell-style pattern, such as `resnet*`."""
    return [name for name in VARIANTS if fnmatch.fnmatch(name, pattern.lower())]


def get_config(name: str, /, **overrides: Any) -> ResNetConfig:
    """The config of the network called `name`, with some fields replaced.

    Raises:
        ValueError: unknown name or field, an impossible network, or a shortcut for a plain network.
    """
    if not isinstance(name, str) or name not in VARIANTS:
        names = difflib.get_close_matches(str(name), VARIANTS, n=5) or list_models()
        raise ValueError(
            f"Expected a network of `list_models()`, such as {', '.join(names)}. Received: {name!r}"
        )
    config = VARIANTS[name]
    if config.shortcut is None and overrides.get("shortcut") is not None:
        residual = name.replace("plainnet", "resnet")
        raise ValueError(
            f"Expected `shortcut=None` for the plain network `{name}`. "
            f"Received: shortcut={overrides['shortcut']!r}. "
            f"Use `{residual}` for a network with shortcuts"
        )
    return config.replace(**overrides)


def weights_config(entry: WeightsEntry, **overrides: Any) -> ResNetConfig:
    """The config of a registered checkpoint's network, with the constants of its pixels."""
    fields = {**entry.config, "mean": entry.mean, "std": entry.std, **overrides}
    return get_config(entry.model, **fields)


def _resolve(
    variant: str, weights: str | os.PathLike[str] | None, overrides: dict[str, Any]
) -> tuple[ResNetConfig, str | os.PathLike[str] | None]:
    """The config of a network that may take registered weights, and the full tag of those."""
    if weights is None or is_path(weights):
        return get_config(variant, **overrides), weights
    entry = find_weights(str(weights), variant)
    if entry.model != variant:
        raise ValueError(
            f"Expected weights of `{variant}`, such as {', '.join(list_weights(f'{variant}.*'))}. "
            f"Received: weights={weights!r}, which are of `{entry.model}`"
        )
    return weights_config(entry, **overrides), entry.tag


def versions(name: str) -> list[str]:
    """The versions that the network called `name` can have, its own first."""
    own = get_config(name).version
    found: list[str] = [own]
    for version in get_args(Version):
        if version != own:
            with contextlib.suppress(ValueError):
                found.append(get_config(name, version=version).version)
    return found


def create_model(variant: str, **keywords: Any) -> keras.Model:
    """Builds the network called `variant` (see `list_models`).

    `keywords` are those of `keras_resnet.build`, and fields of `ResNetConfig` to replace, e.g.
    `create_model("resnet50", classes=10, version="v1", shortcut="C")`.

    Raises:
        ValueError: an unknown or impossible argument.
    """
    overrides, arguments = split_keywords(keywords)
    arguments["name"] = arguments.get("name") or variant
    config, weights = _resolve(variant, arguments.pop("weights", None), overrides)
    return build(config, weights=weights, **arguments)


def cifar_resnet(depth: int, block: str = "basic", **keywords: Any) -> keras.Model:
    """Builds the CIFAR network with `depth` weighted layers: 6n+2, or 9n+2 with bottlenecks.

    Args:
        depth: weighted layers, such as 26, or 29 with `block="bottleneck"`.
        block: `"basic"` or `"bottleneck"`.
        keywords: those of `keras_resnet.build`, and fields of `ResNetConfig`, e.g.
            `cifar_resnet(29, "bottleneck", version="v2", shortcut="B", classes=100)`. The shortcut
            is A by default.

    Raises:
        ValueError: no such network, or another impossible argument.
    """
    overrides, arguments = split_keywords(keywords)
    arguments["name"] = arguments.get("name") or f"cifar_resnet{depth}"
    return build(cifar_config(depth, block, **overrides), **arguments)


def split_keywords(keywords: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of the config, and arguments of `build`."""
    names = inspect.signature(build).parameters.keys() - {"config"}
    arguments = {key: value for key, value in keywords.items() if key in names}
    return {key: value for key, value in keywords.items() if key not in names}, arguments


class Builder(Protocol):
    """The named builders' signature: that of `keras.applications`, then keyword-only extras."""

    def __call__(
        self,
        include_top: bool = True,
        weights: str | os.PathLike[str] | None = None,
        input_tensor: Any = None,
        input_shape: tuple[int | None, int | None, int] | None = None,
        pooling: str | None = None,
        classes: int = ...,
        classifier_activation: Any = "softmax",
        name: str | None = None,
        *,
        include_preprocessing: bool = True,
        dtype: Any = None,
        **config_overrides: Any,
    ) -> keras.Model: ...


def _network(builder_name: str, config: ResNetConfig) -> Builder:
    """Enters a network into the table; returns its builder."""
    variant = builder_name.lower()
    VARIANTS[variant] = config
    default_classes = config.default_classes

    def build_variant(
        include_top: bool = True,
        weights: str | os.PathLike[str] | None = None,
        input_tensor: Any = None,
        input_shape: tuple[int | None, int | None, int] | None = None,
        pooling: str | None = None,
        classes: int = default_classes,
        classifier_activation: Any = "softmax",
        name: str | None = None,
        *,
        include_preprocessing: bool = True,
        dtype: Any = None,
        **config_overrides: Any,
    ) -> keras.Model:
        config, weights = _resolve(variant, weights, config_overrides)
        return build(
            config,
            include_top,
            weights,
            input_tensor,
            input_shape,
            pooling,
            classes,
            classifier_activation,
            name or variant,
            include_preprocessing=include_preprocessing,
            dtype=dtype,
        )

    build_variant.__name__ = build_variant.__qualname__ = builder_name
    build_variant.__doc__ = f"""Builds {builder_name}: {config.depth} weighted layers,
    {config.block} blocks.

    Images `(batch, height, width, channels)`, uint8 or float, RGB in [0, 255]; by default
    {config.default_size}x{config.default_size}x3 and {config.default_classes} classes.
    The arguments are those of `keras_resnet.build`; `config_overrides` replace fields of
    {config}.
    """
    return build_variant


ResNet18 = _network("ResNet18", _imagenet(18))
ResNet34 = _network("ResNet34", _imagenet(34))
ResNet50 = _network("ResNet50", _imagenet(50))
ResNet101 = _network("ResNet101", _imagenet(101))
ResNet152 = _network("ResNet152", _imagenet(152))
ResNet200 = _network("ResNet200", _imagenet(200))
PlainNet18 = _network("PlainNet18", _imagenet(18, shortcut=None))
PlainNet34 = _network("PlainNet34", _imagenet(34, shortcut=None))
ResNet18V2 = _network("ResNet18V2", _imagenet(18, version="v2"))
ResNet34V2 = _network("ResNet34V2", _imagenet(34, version="v2"))
ResNet50V2 = _network("ResNet50V2", _imagenet(50, version="v2"))
ResNet101V2 = _network("ResNet101V2", _imagenet(101, version="v2"))
ResNet152V2 = _network("ResNet152V2", _imagenet(152, version="v2"))
ResNet200V2 = _network("ResNet200V2", _imagenet(200, version="v2"))

# Zagoruyko and Komodakis 2016: the 3x3 convolutions of the bottlenecks are twice as wide.
WideResNet50_2 = _network("WideResNet50_2", _imagenet(50, width_per_group=128))
WideResNet101_2 = _network("WideResNet101_2", _imagenet(101, width_per_group=128))

# Xie et al. 2016: cardinality x width of a group.
ResNeXt50_32x4d = _network("ResNeXt50_32x4d", _imagenet(50, groups=32, width_per_group=4))
ResNeXt101_32x8d = _network("ResNeXt101_32x8d", _imagenet(101, groups=32, width_per_group=8))
ResNeXt101_64x4d = _network("ResNeXt101_64x4d", _imagenet(101, groups=64, width_per_group=4))

# He et al. 2019: C stem, and D shortcut on top of it. Their names count the stem as one layer.
ResNet50C = _network("ResNet50C", _imagenet(50, stem="C"))
ResNet18D = _network("ResNet18D", _imagenet(18, stem="C", downsample="average"))
ResNet34D = _network("ResNet34D", _imagenet(34, stem="C", downsample="average"))
ResNet50D = _network("ResNet50D", _imagenet(50, stem="C", downsample="average"))
ResNet101D = _network("ResNet101D", _imagenet(101, stem="C", downsample="average"))
ResNet152D = _network("ResNet152D", _imagenet(152, stem="C", downsample="average"))
ResNet200D = _network("ResNet200D", _imagenet(200, stem="C", downsample="average"))

# Hu et al. 2018.
SEResNet18 = _network("SEResNet18", _imagenet(18, se_ratio=1 / 16))
SEResNet34 = _network("SEResNet34", _imagenet(34, se_ratio=1 / 16))
SEResNet50 = _network("SEResNet50", _imagenet(50, se_ratio=1 / 16))
SEResNet101 = _network("SEResNet101", _imagenet(101, se_ratio=1 / 16))
SEResNet152 = _network("SEResNet152", _imagenet(152, se_ratio=1 / 16))

# Zhang 2019; Wu and He 2018.
ResNetBlur50 = _network("ResNetBlur50", _imagenet(50, blur_pool=True))
ResNet50_GN = _network("ResNet50_GN", _imagenet(50, norm="group"))

# He et al. 2015, section 4.2.
ResNet20 = _network("ResNet20", cifar_config(20))
ResNet32 = _network("ResNet32", cifar_config(32))
ResNet44 = _network("ResNet44", cifar_config(44))
ResNet56 = _network("ResNet56", cifar_config(56))
ResNet110 = _network("ResNet110", cifar_config(110))
ResNet1202 = _network("ResNet1202", cifar_config(1202))
PlainNet20 = _network("PlainNet20", cifar_config(20, shortcut=None))
PlainNet32 = _network("PlainNet32", cifar_config(32, shortcut=None))
PlainNet44 = _network("PlainNet44", cifar_config(44, shortcut=None))
PlainNet56 = _network("PlainNet56", cifar_config(56, shortcut=None))
PlainNet110 = _network("PlainNet110", cifar_config(110, shortcut=None))

# He et al. 2016.
ResNet110V2 = _network("ResNet110V2", cifar_config(110, version="v2"))
ResNet164V2 = _network("ResNet164V2", _cifar_v2(164))
ResNet1001V2 = _network("ResNet1001V2", _cifar_v2(1001))

# Zagoruyko and Komodakis 2016; they count the three projections among the 28 layers.
WideResNet28_10 = _network(
    "WideResNet28_10",
    ResNetConfig("basic", (4, 4, 4), (160, 320, 640), version="v2", stem="cifar", stem_filters=16),
)
