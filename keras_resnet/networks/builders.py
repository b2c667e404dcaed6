"""The builders that are named after the networks of the table."""

from __future__ import annotations

import inspect
import os
from typing import Any, Protocol

import keras

from keras_resnet.networks.builder import build
from keras_resnet.networks.config import ResNetConfig
from keras_resnet.networks.table import ROWS, cifar_config, get_config
from keras_resnet.weights.find import is_path
from keras_resnet.weights.registry import WeightsEntry, find_weights, list_weights


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


def _network(builder_name: str) -> Builder:
    """The builder of a row of the table."""
    variant, config = builder_name.lower(), ROWS[builder_name]
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


ResNet18 = _network("ResNet18")
ResNet34 = _network("ResNet34")
ResNet50 = _network("ResNet50")
ResNet101 = _network("ResNet101")
ResNet152 = _network("ResNet152")
ResNet200 = _network("ResNet200")
PlainNet18 = _network("PlainNet18")
PlainNet34 = _network("PlainNet34")
ResNet18V2 = _network("ResNet18V2")
ResNet34V2 = _network("ResNet34V2")
ResNet50V2 = _network("ResNet50V2")
ResNet101V2 = _network("ResNet101V2")
ResNet152V2 = _network("ResNet152V2")
ResNet200V2 = _network("ResNet200V2")
WideResNet50_2 = _network("WideResNet50_2")
WideResNet101_2 = _network("WideResNet101_2")
ResNeXt50_32x4d = _network("ResNeXt50_32x4d")
ResNeXt101_32x8d = _network("ResNeXt101_32x8d")
ResNeXt101_64x4d = _network("ResNeXt101_64x4d")
ResNet50C = _network("ResNet50C")
ResNet18D = _network("ResNet18D")
ResNet34D = _network("ResNet34D")
ResNet50D = _network("ResNet50D")
ResNet101D = _network("ResNet101D")
ResNet152D = _network("ResNet152D")
ResNet200D = _network("ResNet200D")
SEResNet18 = _network("SEResNet18")
SEResNet34 = _network("SEResNet34")
SEResNet50 = _network("SEResNet50")
SEResNet101 = _network("SEResNet101")
SEResNet152 = _network("SEResNet152")
ResNetBlur50 = _network("ResNetBlur50")
ResNet50_GN = _network("ResNet50_GN")
ResNet20 = _network("ResNet20")
ResNet32 = _network("ResNet32")
ResNet44 = _network("ResNet44")
ResNet56 = _network("ResNet56")
ResNet110 = _network("ResNet110")
ResNet1202 = _network("ResNet1202")
PlainNet20 = _network("PlainNet20")
PlainNet32 = _network("PlainNet32")
PlainNet44 = _network("PlainNet44")
PlainNet56 = _network("PlainNet56")
PlainNet110 = _network("PlainNet110")
ResNet110V2 = _network("ResNet110V2")
ResNet164V2 = _network("ResNet164V2")
ResNet1001V2 = _network("ResNet1001V2")
WideResNet28_10 = _network("WideResNet28_10")
