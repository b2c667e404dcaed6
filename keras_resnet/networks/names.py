"""Names of layers, read: the stage, block and level that a layer belongs to.

`plan` gives the names. A model that was saved, loaded, fine-tuned or compressed has nothing but
them to say which layer is where.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Place(NamedTuple):
    """The place of a layer in its network: stage and block.

    Attributes:
        stage: its number, from 2 on, as in conv2_x.
        block: its number in the stage, from 1 on.
        part: the rest of the name: `1_conv`, `preact_bn`, `out`.
    """

    stage: int
    block: int
    part: str


def place_of(layer: str) -> Place | None:
    """The place that a layer's name says; None if it is of no residual block.

    `conv2_block1_1_conv` is part `1_conv` of block 1 of stage 2.
    """
    found = re.match(r"conv(\d+)_block(\d+)_(.*)", layer)
    return found and Place(int(found[1]), int(found[2]), found[3])


def levels_of(layers: Iterable[str]) -> dict[str, str | None]:
    """The level of every layer of a network, by its name.

    Levels are `"stem"`, `"C2"` and so on, and `"head"`. The norm behind the last stage of a
    pre-activation network belongs to that stage: it is trained with the backbone and outlives a
    change of the head.

    Args:
        layers: names of layers; the last stage is the highest among them.

    Returns:
        Level by name, in the same order; None for names that say none, such as those of a user.
    """
    places = {layer: place_of(layer) for layer in layers}
    last = max((place.stage for place in places.values() if place), default=None)
    levels: dict[str, str | None] = {}
    for layer, place in places.items():
        level = f"C{place.stage}" if place else None
        if re.match(r"(conv|pool)1_", layer):
            level = "stem"
        elif last is not None and re.fullmatch(r"post_(bn|gn|relu)(_range)?", layer):
            level = f"C{last}"
        elif layer == "predictions":
            level = "head"
        levels[layer] = level
    return levels
