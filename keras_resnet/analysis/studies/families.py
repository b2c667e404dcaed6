"""Configs of the networks that the training studies compare, without importing Keras."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_resnet.networks.config import ResNetConfig, Shortcut
from keras_resnet.networks.table import cifar_config, get_config
from keras_resnet.support.checks import check_integer

#: Depths of the ImageNet networks with basic blocks in He et al. 2015; none is 6n+2.
IMAGENET_DEPTHS = (18, 34)


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


def check_network_fields(fields: Mapping[str, Any]) -> None:
    """Raise ValueError if a recipe sets a field of the networks that the studies set."""
    if taken := [name for name in fields if name in _STUDIED]:
        raise ValueError(
            "Expected a recipe without the network fields that the study sets. Received: "
            f"network.{taken[0]}={fields[taken[0]]}. Leave it out; depths and width are arguments "
            "of the study"
        )


def default_width(data: str) -> float:
    """Return the default factor of the number of filters for a source of images."""
    return 0.25 if data == "digits" else 1.0


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
