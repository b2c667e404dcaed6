"""The networks that the training studies compare, and how by default; no Keras is imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_resnet.networks.config import ResNetConfig, Shortcut
from keras_resnet.networks.table import cifar_config, get_config
from keras_resnet.support.checks import check_integer
from keras_resnet.training.recipes.recipe import Recipe, override
from keras_resnet.training.recipes.table import find_recipe

#: The depths of He et al. 2015 with basic blocks on ImageNet; none of them is 6n+2.
IMAGENET_DEPTHS = (18, 34)

#: How the digits are trained on by default: found by trying.
_DIGITS = {"batch_size": 64, "optimizer.learning_rate": 0.1}

#: For how many epochs, by study: either is to take minutes.
DIGITS_EPOCHS = {"degradation": 18, "shortcuts": 12}


def check_cifar_depth(depth: int, others: str = "") -> None:
    """Raise ValueError if no CIFAR network of basic blocks has this depth; it names the nearest."""
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
        depth: 18 or 34 for the ImageNet networks, 6n+2 for the CIFAR ones (He et al. 2015, sections
            3.3 and 4.2).
        shortcut: `"A"`, `"B"` or `"C"`; None: a plain network.
        fields: other fields of `ResNetConfig`.

    Raises:
        ValueError: no such network.
    """
    check_integer("depth", depth)
    if depth in IMAGENET_DEPTHS:
        # The row of the plain network takes no shortcut, and that of the residual one takes None.
        return get_config(f"resnet{depth}").replace(shortcut=shortcut, **fields)
    check_cifar_depth(depth, " or the ImageNet networks' 18 and 34")
    return cifar_config(depth, shortcut=shortcut, **fields)


#: Fields of the networks that the studies set themselves.
_STUDIED = ("block", "blocks", "filters", "shortcut", "stem", "width")


def gradient_configs(
    depths: Sequence[int], width: float, fields: Mapping[str, Any]
) -> dict[tuple[int, bool], ResNetConfig]:
    """Return the networks of a study of gradients, by depth and whether they have shortcuts.

    Args:
        depths: weighted layers, 6n+2.
        width: multiplies the filters.
        fields: of all networks; `shortcut` is that of the residual ones.

    Raises:
        ValueError: a depth or field is impossible, or the study sets the field itself.
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
            "Expected `shortcut` of the residual networks, A, B or C; plain ones are compared in "
            "any case. Received: none"
        )
    return {
        (depth, shortcut is not None): cifar_config(depth, shortcut=shortcut, width=width, **others)
        for depth in depths
        for shortcut in (residual, None)
    }


def check_network_fields(fields: Mapping[str, Any]) -> None:
    """Raise ValueError if `fields` has one that the studies set themselves."""
    if taken := [name for name in fields if name in _STUDIED]:
        raise ValueError(
            "Expected a network whose options leave to the study what it compares. Received: "
            f"{taken[0]}={fields[taken[0]]}. Leave it out; depths and width are arguments of the "
            "study"
        )


def default_width(data: str) -> float:
    """Return what the width of networks is multiplied by for a source of images by default."""
    return 0.25 if data == "digits" else 1.0


def default_size(data: str, config: ResNetConfig) -> int:
    """Return the height and width of images that a study takes: the digits are 8x8 pixels.

    ImageNet's networks, which divide them by 32, take the digits enlarged to 64x64.
    """
    if data != "digits":
        return config.default_size
    return 8 if config.stem == "cifar" else 64


def default_recipe(study: str, data: str, config: ResNetConfig, size: int) -> Recipe:
    """Return the recipe that a study takes: the papers', but for the digits one of minutes.

    Args:
        study: a key of `DIGITS_EPOCHS`.
        data: the name of the source.
        config: one of the networks.
        size: height and width of the images.
    """
    if data != "digits":
        kind = "cifar10" if config.stem == "cifar" else "imagenet"
        return find_recipe(f"he2015-{kind}")
    # An eighth of the side, as for CIFAR's images.
    padding = max(1, round(size / 8))
    changes = {"duration": DIGITS_EPOCHS[study], "augmentation.padding": padding}
    return override(find_recipe("quick-digits"), {**_DIGITS, **changes})


def check_depths(depths: Sequence[int]) -> tuple[int, ...]:
    """Return at least two different depths of one family of networks, in ascending order.

    Raises:
        ValueError: there are fewer, an impossible one, or some of either family.
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
    """Return the seeds; raise ValueError if there are none, one recurs or one is out of range."""
    found = tuple(check_integer("seeds", seed, 0) for seed in seeds)
    if not found or len(set(found)) < len(found) or max(found) >= 2**32:
        raise ValueError(
            "Expected at least one seed, each once and below 2^32, such as 0,1,2. Received: "
            f"{', '.join(map(str, found)) or 'none'}"
        )
    return found
