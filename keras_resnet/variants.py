"""The table of networks and the builders that are named after them."""

from __future__ import annotations

import fnmatch
import inspect
import os
from typing import Any, Protocol

import keras

from keras_resnet.builder import build
from keras_resnet.config import ResNetConfig

_FILTERS = (64, 128, 256, 512)
_CIFAR_FILTERS = (16, 32, 64)


def _basic(*blocks: int, **fields: Any) -> ResNetConfig:
    return ResNetConfig("basic", blocks, _FILTERS, **fields)


def _bottleneck(*blocks: int, **fields: Any) -> ResNetConfig:
    return ResNetConfig("bottleneck", blocks, _FILTERS, **fields)


def _cifar(depth: int, **fields: Any) -> ResNetConfig:
    """The 6n+2-layer networks of He et al. 2015, section 4.2; shortcut A is the paper's choice."""
    return ResNetConfig(
        "basic",
        ((depth - 2) // 6,) * 3,
        _CIFAR_FILTERS,
        stem="cifar",
        **{"shortcut": "A", **fields},
    )


#: Every network by name. Blocks per stage: He et al. 2015, Table 1; CIFAR: section 4.2.
VARIANTS: dict[str, ResNetConfig] = {
    "resnet18": _basic(2, 2, 2, 2),
    "resnet34": _basic(3, 4, 6, 3),
    "resnet50": _bottleneck(3, 4, 6, 3),
    "resnet101": _bottleneck(3, 4, 23, 3),
    "resnet152": _bottleneck(3, 8, 36, 3),
    "plainnet18": _basic(2, 2, 2, 2, shortcut=None),
    "plainnet34": _basic(3, 4, 6, 3, shortcut=None),
    # Zagoruyko and Komodakis 2016: the 3x3 convolutions of the bottlenecks are twice as wide.
    "wideresnet50_2": _bottleneck(3, 4, 6, 3, width_per_group=128),
    "wideresnet101_2": _bottleneck(3, 4, 23, 3, width_per_group=128),
    # Xie et al. 2016: cardinality x width of a group.
    "resnext50_32x4d": _bottleneck(3, 4, 6, 3, groups=32, width_per_group=4),
    "resnext101_32x8d": _bottleneck(3, 4, 23, 3, groups=32, width_per_group=8),
    "resnext101_64x4d": _bottleneck(3, 4, 23, 3, groups=64, width_per_group=4),
    "resnet20": _cifar(20),
    "resnet32": _cifar(32),
    "resnet44": _cifar(44),
    "resnet56": _cifar(56),
    "resnet110": _cifar(110),
    "plainnet20": _cifar(20, shortcut=None),
    "plainnet32": _cifar(32, shortcut=None),
    "plainnet44": _cifar(44, shortcut=None),
    "plainnet56": _cifar(56, shortcut=None),
    "plainnet110": _cifar(110, shortcut=None),
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the networks that match a shell-style pattern, such as `resnet*`."""
    return [name for name in VARIANTS if fnmatch.fnmatch(name, pattern.lower())]


def get_config(name: str, **overrides: Any) -> ResNetConfig:
    """The config of the network called `name`, with some fields replaced.

    Raises:
        ValueError: unknown name or field, an impossible network, or a shortcut for a plain network.
    """
    if name not in VARIANTS:
        raise ValueError(f"Expected a network among {list_models()}. Received: {name!r}")
    config = VARIANTS[name]
    if config.shortcut is None and overrides.get("shortcut") is not None:
        residual = name.replace("plainnet", "resnet")
        raise ValueError(
            f"Expected `shortcut=None` for the plain network `{name}`. "
            f"Received: shortcut={overrides['shortcut']!r}. "
            f"Use `{residual}` for a network with shortcuts"
        )
    return config.replace(**overrides)


def create_model(variant: str, **keywords: Any) -> keras.Model:
    """Builds the network called `variant` (see `list_models`).

    `keywords` are those of `keras_resnet.build`, and fields of `ResNetConfig` to replace, e.g.
    `create_model("resnet50", classes=10, version="v1", shortcut="C")`.

    Raises:
        ValueError: an unknown or impossible argument.
    """
    arguments = inspect.signature(build).parameters.keys() - {"config"}
    overrides = {key: value for key, value in keywords.items() if key not in arguments}
    for_build = {key: value for key, value in keywords.items() if key in arguments}
    for_build["name"] = keywords.get("name") or variant
    return build(get_config(variant, **overrides), **for_build)


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


def _builder(builder_name: str) -> Builder:
    variant = builder_name.lower()
    config = VARIANTS[variant]

    def build_variant(
        include_top: bool = True,
        weights: str | os.PathLike[str] | None = None,
        input_tensor: Any = None,
        input_shape: tuple[int | None, int | None, int] | None = None,
        pooling: str | None = None,
        classes: int = config.default_classes,
        classifier_activation: Any = "softmax",
        name: str | None = None,
        *,
        include_preprocessing: bool = True,
        dtype: Any = None,
        **config_overrides: Any,
    ) -> keras.Model:
        return build(
            get_config(variant, **config_overrides),
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


ResNet18 = _builder("ResNet18")
ResNet34 = _builder("ResNet34")
ResNet50 = _builder("ResNet50")
ResNet101 = _builder("ResNet101")
ResNet152 = _builder("ResNet152")
PlainNet18 = _builder("PlainNet18")
PlainNet34 = _builder("PlainNet34")
WideResNet50_2 = _builder("WideResNet50_2")
WideResNet101_2 = _builder("WideResNet101_2")
ResNeXt50_32x4d = _builder("ResNeXt50_32x4d")
ResNeXt101_32x8d = _builder("ResNeXt101_32x8d")
ResNeXt101_64x4d = _builder("ResNeXt101_64x4d")
ResNet20 = _builder("ResNet20")
ResNet32 = _builder("ResNet32")
ResNet44 = _builder("ResNet44")
ResNet56 = _builder("ResNet56")
ResNet110 = _builder("ResNet110")
PlainNet20 = _builder("PlainNet20")
PlainNet32 = _builder("PlainNet32")
PlainNet44 = _builder("PlainNet44")
PlainNet56 = _builder("PlainNet56")
PlainNet110 = _builder("PlainNet110")
