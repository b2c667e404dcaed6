"""Networks and defaults of the training studies, without importing Keras."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_resnet.networks.config import ResNetConfig, Shortcut
from keras_resnet.networks.table import cifar_config, get_config
from keras_resnet.support.checks import check_integer
from keras_resnet.training.recipes.recipe import Recipe, override
from keras_resnet.training.recipes.table import find_recipe

#: Depths of the ImageNet networks with basic blocks in He et al. 2015; none is 6n+2.
IMAGENET_DEPTHS = (18, 34)

#: Recipe fields for the digits, found by trial.
_DIGITS = {"batch_size": 64, "optimizer.learning_rate": 0.1}

#: Epochs on the digits, by study, for trainings that take minutes.
DIGITS_EPOCHS = {"degradation": 18, "shortcuts": 12}


def check_cifar_depth(depth: int, others: str = "") -> None:
    """Raise ValueError, naming the nearest depths, if no basic CIFAR network has this depth."""
    check_integer("depth", depth)
    if depth < 8 or (depth - 2) % 6:
        below = max(8, depth - (depth - 2) % 6)
        nearest = [below] if depth < 8 else [below, below + 6]
        raise ValueError(
            f"Expected depths of 6n+2 layers (8, 14, 20, …){others}. Received: {depth}. Nearest: "
            f"{' or '.join(map(str, nearest))}"
        )


def basic_config(depth: int, shortcut: Shortcut | None, **fields: Any) -> ResNetConfig:
    """Return the config of a network of basic blocks with `depth` weighted layers.

    Args:
        depth: 18 or 34 for ImageNet networks, 6n+2 for CIFAR networks (He et al. 2015, sections 3.3
            and 4.2).
        shortcut: `"A"`, `"B"` or `"C"`; None for a plain network.
        fields: other fields of `ResNetConfig`.

    Raises:
        ValueError: there is no such network.
    """
    check_integer("depth", depth)
    if depth in IMAGENET_DEPTHS:
        # `replace` on the residual network's config: the plain network's allows no shortcut.
        return get_config(f"resnet{depth}").replace(shortcut=shortcut, **fields)
    check_cifar_depth(depth, " or the ImageNet networks' 18 and 34")
    return cifar_config(depth, shortcut=shortcut, **fields)


#: Fields of `ResNetConfig` that the studies set.
_STUDIED = ("block", "blocks", "filters", "shortcut", "stem", "width")


def gradient_configs(
    depths: Sequence[int], width: float, fields: Mapping[str, Any]
) -> dict[tuple[int, bool], ResNetConfig]:
    """Return the configs of a gradient study by depth and whether they have shortcuts.

    Args:
        depths: numbers of weighted layers, 6n+2.
        width: factor of the number of filters.
        fields: fields of `ResNetConfig` of all networks; `shortcut` applies to the residual
            networks only.

    Raises:
        ValueError: a depth or field is invalid, or the study sets the field.
    """
    if not depths:
        raise ValueError(f"Expected `depths` to have at least one depth. Received: {depths!r}")
    for depth in depths:
        check_cifar_depth(depth)
    others = {name: value for name, value in fields.items() if name != "shortcut"}
    check_network_fields(others)
    residual = fields.get("shortcut", "A")
    if residual is None:
        raise ValueError(
            "Expected `shortcut` A, B or C for the residual networks; plain networks are always "
            "compared. Received: none"
        )
    return {
        (depth, shortcut is not None): cifar_config(depth, shortcut=shortcut, width=width, **others)
        for depth in depths
        for shortcut in (residual, None)
    }


def check_network_fields(fields: Mapping[str, Any]) -> None:
    """Raise ValueError if `fields` has a field of the networks that the studies set."""
    if taken := [name for name in fields if name in _STUDIED]:
        raise ValueError(
            "Expected a network without the fields that the study sets. Received: "
            f"{taken[0]}={fields[taken[0]]}. Leave it out; depths and width are arguments of the "
            "study"
        )


def default_width(data: str) -> float:
    """Return the default factor of the number of filters for a source of images."""
    return 0.25 if data == "digits" else 1.0


def default_size(data: str, config: ResNetConfig) -> int:
    """Return the default height and width of a study's images.

    The digits have 8x8 pixels. ImageNet networks, which reduce images by a factor of 32, take them
    enlarged to 64x64.
    """
    if data != "digits":
        return config.default_size
    return 8 if config.stem == "cifar" else 64


def default_recipe(study: str, data: str, config: ResNetConfig, size: int) -> Recipe:
    """Return the default recipe of a study: the paper's, or one that takes minutes on the digits.

    Args:
        study: a key of `DIGITS_EPOCHS`.
        data: name of the source.
        config: config of one of the networks.
        size: height and width of the images.
    """
    if data != "digits":
        kind = "cifar10" if config.stem == "cifar" else "imagenet"
        return find_recipe(f"he2015-{kind}")
    # An eighth of the size, as for CIFAR: 4 of 32 pixels.
    padding = max(1, round(size / 8))
    changes = {"duration": DIGITS_EPOCHS[study], "augmentation.padding": padding}
    return override(find_recipe("quick-digits"), {**_DIGITS, **changes})


def check_depths(depths: Sequence[int]) -> tuple[int, ...]:
    """Return different depths of one family of networks, in ascending order.

    Raises:
        ValueError: there are fewer than two depths, an impossible one, or depths of both families.
    """
    found = tuple(sorted(set(depths)))
    for depth in found:
        basic_config(depth, None)
    if len(found) < 2:
        raise ValueError(
            "Expected at least two different depths to compare, such as 20,56. Received: "
            f"{', '.join(map(str, depths)) or 'none'}"
        )
    if len({depth in IMAGENET_DEPTHS for depth in found}) > 1:
        raise ValueError(
            "Expected depths of one family: 18,34 for ImageNet's networks, or 6n+2 layers for "
            f"CIFAR's. Received: {', '.join(map(str, found))}"
        )
    return found


def check_seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    """Return the seeds; raise ValueError if there are none or one repeats or is out of range."""
    found = tuple(check_integer("seeds", seed, 0) for seed in seeds)
    if not found or len(set(found)) < len(found) or max(found) >= 2**32:
        raise ValueError(
            "Expected at least one seed, all different and below 2^32, such as 0,1,2. Received: "
            f"{', '.join(map(str, found)) or 'none'}"
        )
    return found
