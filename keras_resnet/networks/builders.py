"""The builders that are named after the networks of the table."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any, Protocol

import keras

from keras_resnet.networks.builder import build
from keras_resnet.networks.config import FIELDS, ResNetConfig
from keras_resnet.networks.table import ROWS, cifar_config, find_name, get_config
from keras_resnet.support.suggest import did_you_mean
from keras_resnet.weights.registry import WeightsEntry
from keras_resnet.weights.source import find_weights_of, is_path


def weights_config(entry: WeightsEntry, **overrides: Any) -> ResNetConfig:
    """The config of a registered checkpoint's network, with the constants of its pixels."""
    fields = {**entry.config, "mean": entry.mean, "std": entry.std, **overrides}
    return get_config(entry.model, **fields)


def _arguments(variant: str, keywords: dict[str, Any]) -> dict[str, Any]:
    """All arguments of `build` for the network called `variant`, which may take registered weights.

    Args:
        variant: a name of `list_models`.
        keywords: arguments of `build` and fields of `ResNetConfig`, mixed.
    """
    overrides, arguments = split_keywords(keywords)
    variant = find_name(variant)
    arguments["name"] = arguments.get("name") or variant
    weights = arguments.get("weights")
    if weights is None or is_path(weights):
        return {"config": get_config(variant, **overrides), **arguments}
    entry = find_weights_of(variant, str(weights))
    return {**arguments, "config": weights_config(entry, **overrides), "weights": entry.tag}


def create_model(variant: str, **keywords: Any) -> keras.Model:
    """Builds the network called `variant` (see `list_models`; `ResNet-50` is `resnet50`, too).

    `keywords` are those of `keras_resnet.build`, and fields of `ResNetConfig` to replace, e.g.
    `create_model("resnet50", classes=10, version="v1", shortcut="C")`.

    Raises:
        ValueError: an unknown or impossible argument.
    """
    return build(**_arguments(variant, keywords))


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
    """Return fields of the config, and arguments of `build`.

    Raises:
        ValueError: one is neither; the message says what was probably meant.
    """
    names = inspect.signature(build).parameters.keys() - {"config"}
    if unknown := sorted(keywords.keys() - names - set(FIELDS)):
        hint = did_you_mean(unknown[0], (*names, *FIELDS))
        raise ValueError(
            "Expected arguments of `keras_resnet.build` and fields of `ResNetConfig`. "
            f"Received: {', '.join(unknown)}{hint}"
        )
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


def _builder(name: str) -> Builder:
    """The builder called `name` of the row of the table that has this name."""
    variant, config = name.lower(), ROWS[name]
    own = inspect.signature(Builder.__call__)
    signature = own.replace(
        parameters=[
            parameter.replace(default=config.default_classes) if key == "classes" else parameter
            for key, parameter in own.parameters.items()
            if key != "self"
        ]
    )

    def build_variant(*arguments: Any, **keywords: Any) -> keras.Model:
        try:
            given = signature.bind(*arguments, **keywords).arguments
        except TypeError as error:
            raise TypeError(f"{name}(): {error}") from None
        given.setdefault("classes", config.default_classes)
        fields = given.pop("config_overrides", {})
        return build(**_arguments(variant, {**given, **fields}))

    build_variant.__signature__ = signature  # type: ignore[attr-defined]
    build_variant.__name__ = build_variant.__qualname__ = name
    build_variant.__doc__ = f"""Builds {name}: {config.depth} weighted layers,
    {config.block} blocks.

    Images `(batch, height, width, channels)`, uint8 or float, RGB in [0, 255]; by default
    {config.default_size}x{config.default_size}x3 and {config.default_classes} classes.
    The arguments are those of `keras_resnet.build`; `config_overrides` replace fields of
    {config}.
    """
    return build_variant


globals().update({name: _builder(name) for name in ROWS})

if TYPE_CHECKING:
    # Type checkers do not see the names above; the public ones are in the package's stub.
    def __getattr__(name: str) -> Builder: ...
