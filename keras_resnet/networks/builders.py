"""Builders of the networks in the table, by name."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any, Protocol

import keras

from keras_resnet.networks.builder import build
from keras_resnet.networks.config import FIELDS, ResNetConfig
from keras_resnet.networks.table import ROWS, cifar_config, find_name, get_config
from keras_resnet.support.suggest import did_you_mean
from keras_resnet.weights.path_or_tag import find_weights_of, is_path
from keras_resnet.weights.registry import WeightsEntry


def weights_config(entry: WeightsEntry, **overrides: Any) -> ResNetConfig:
    """Return the config of a registered checkpoint's network, with its own mean and std."""
    fields = {**entry.config, "mean": entry.mean, "std": entry.std, **overrides}
    return get_config(entry.model, **fields)


def _arguments(variant: str, keywords: dict[str, Any]) -> dict[str, Any]:
    """Return all arguments of `build` for the network called `variant`.

    Args:
        variant: a name of `list_models`.
        keywords: arguments of `build` and fields of `ResNetConfig`. If `weights` is a tag, the
            config is that of the registered checkpoint.
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
    """Build a network by name.

    Args:
        variant: a name of `list_models()`; case, hyphens and underscores do not matter, so
            `"ResNet-50"` is `"resnet50"`.
        keywords: arguments of `keras_resnet.build`, and fields of `ResNetConfig` to replace.

    Returns:
        A `keras.Model`, see `keras_resnet.build`.

    Raises:
        ValueError: the name or an argument is unknown, or the network is impossible.

    Examples:
        >>> model = keras_resnet.create_model("resnet20", classes=5, shortcut="B")
        >>> model.input_shape, model.output_shape
        ((None, 32, 32, 3), (None, 5))
    """
    return build(**_arguments(variant, keywords))


def cifar_resnet(depth: int, block: str = "basic", **keywords: Any) -> keras.Model:
    """Build the CIFAR network with `depth` weighted layers (He et al. 2015, section 4.2).

    It has three stages of 16, 32 and 64 filters, and by default shortcut A, images of 32x32 pixels
    and 10 classes.

    Args:
        depth: number of weighted layers: 6n+2, such as 26; 9n+2, such as 29, with bottlenecks.
        block: `"basic"` or `"bottleneck"`.
        keywords: arguments of `keras_resnet.build`, and fields of `ResNetConfig` to replace.

    Returns:
        A `keras.Model`, see `keras_resnet.build`.

    Raises:
        ValueError: no network has this depth, or an argument is unknown or impossible.

    Examples:
        >>> model = keras_resnet.cifar_resnet(11, "bottleneck", version="v2", classes=100)
        >>> model.output_shape
        (None, 100)
    """
    overrides, arguments = split_keywords(keywords)
    arguments["name"] = arguments.get("name") or f"cifar_resnet{depth}"
    return build(cifar_config(depth, block, **overrides), **arguments)


def split_keywords(keywords: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split keywords into fields of `ResNetConfig` and arguments of `build`.

    Raises:
        ValueError: a keyword is neither; the message suggests a similar one.
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
    """Signature of the builders: as in `keras.applications`, then keyword-only arguments."""

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
    """Return the builder of the table's row `name`."""
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
    size, classes = config.default_size, config.default_classes
    build_variant.__doc__ = f"""Build {name}: {config.depth} weighted layers, {config.block} blocks.

    The model takes images `(batch, height, width, channels)`, uint8 or float, RGB in [0, 255]. By
    default they are {size}x{size}x3, of {classes} classes.

    Args:
        config_overrides: fields to replace in
            `{config}`.

    The other arguments, the result and the errors are those of `keras_resnet.build`.
    """
    return build_variant


globals().update({name: _builder(name) for name in ROWS})

if TYPE_CHECKING:
    # Type checkers cannot see names that are set in `globals()`.
    def __getattr__(name: str) -> Builder: ...
