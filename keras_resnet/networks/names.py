"""The stage, block and level of a layer, read from its name.

`plan` gives the names. In a model that was saved, loaded, fine-tuned or compressed, the name is the
only information about the place of a layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Place(NamedTuple):
    """The place of a layer in its network.

    Attributes:
        stage: number of the stage, from 2, as in conv2_x.
        block: number of the block in its stage, from 1.
        part: the rest of the name, such as `1_conv`, `preact_bn` or `out`.
    """

    stage: int
    block: int
    part: str


def place_of(layer: str) -> Place | None:
    """Return the place of a layer from its name; `None` for layers outside of residual blocks.

    `conv2_block1_1_conv` is part `1_conv` of block 1 of stage 2.
    """
    found = re.match(r"conv(\d+)_block(\d+)_(.*)", layer)
    return found and Place(int(found[1]), int(found[2]), found[3])


def levels_of(layers: Iterable[str]) -> dict[str, str | None]:
    """Return the level of each layer of a network.

    Levels are `"stem"`, `"C2"` and so on, and `"head"`. The normalization after the last stage of a
    pre-activation network belongs to that stage: it is trained with the backbone, and stays when
    the head is replaced.

    Args:
        layers: names of all layers of the network.

    Returns:
        Levels by layer name, in the order of `layers`; `None` for layers that are not named as in
        `keras_resnet.build`.
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
