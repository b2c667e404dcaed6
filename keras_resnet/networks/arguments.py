"""Checks of the head, the input shape and the image size before a network is built or counted."""

from __future__ import annotations

import warnings
from typing import Any

from keras_resnet.networks.plan import NetworkPlan
from keras_resnet.support.checks import check_integer, is_integer

#: Height and width of the last feature map below which accuracy suffers.
SMALL_FINAL_MAP = 4


def check_head(include_top: bool, pooling: str | None, classes: int | None) -> None:
    """Raise ValueError if no head has these arguments of `build`."""
    if pooling not in (None, "avg", "max"):
        raise ValueError(
            f"Expected `pooling` to be None, 'avg' or 'max'. Received: pooling={pooling!r}"
        )
    if include_top and pooling is not None:
        raise ValueError(
            "Expected `pooling=None` with `include_top=True`, which always averages. "
            f"Received: pooling={pooling!r}. Pass `include_top=False` to get pooled features"
        )
    if classes is not None:
        check_integer("classes", classes)


def check_shape(shape: Any) -> None:
    """Raise ValueError unless `shape` is `(height, width, channels)`; sides may be `None`."""
    valid = isinstance(shape, (tuple, list)) and len(shape) == 3 and is_integer(shape[2])
    if not valid or not all(side is None or is_integer(side) for side in shape[:2]):
        raise ValueError(
            "Expected an input shape (height, width, channels), channels last, with at least one "
            f"channel; height and width may be None. Received: {shape}"
        )


def check_size(
    network: NetworkPlan, size: tuple[int | None, int | None], *, warn: bool = True
) -> None:
    """Check that images of a size have enough pixels for a network.

    Args:
        network: the plan of the network.
        size: height and width of the images in pixels; `None` where any size is accepted.
        warn: whether to warn if the last feature map is smaller than `SMALL_FINAL_MAP`.

    Raises:
        ValueError: a layer would have to halve the resolution of a single pixel.
    """
    known = [side for side in size if side is not None]
    smallest, cifar = network.strides // 2 + 1, network.pool is None
    if known and min(known) < smallest:
        other = "" if cifar else ", or pass `stem='cifar'`, which reduces them four times less"
        raise ValueError(
            f"Expected images of at least {smallest}x{smallest} pixels: this network reduces them "
            f"by {network.strides}. Received: {size[0]}x{size[1]}. Enlarge the images{other}"
        )
    if warn and known and -(-min(known) // network.strides) < SMALL_FINAL_MAP:
        height, width = ("any" if side is None else -(-side // network.strides) for side in size)
        remedy = "Enlarge the images" if cifar else "Pass `stem='cifar'` for small images"
        images = "x".join(str(side or "any") for side in size)
        warnings.warn(
            f"The last stage sees {images} images as {height}x{width} positions, which costs "
            f"accuracy. {remedy}.",
            stacklevel=3,
        )
