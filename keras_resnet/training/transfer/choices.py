"""Choices of fine-tuning for the command line. Importing it imports no Keras."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

BNMode = Literal["frozen", "training"]


@dataclass(frozen=True)
class Phase:
    """A part of fine-tuning, with a learning-rate schedule of its own.

    Attributes:
        downto: what trains: from the head down to this level: `"head"`, `"C5"` to `"C2"`,
            `"stem"` or `"backbone"`, which is everything.
        epochs: how long.
        rate: what the recipe's learning rate is multiplied by.

    Raises:
        ValueError: `epochs` or `rate` is not positive.
    """

    downto: str
    epochs: float
    rate: float = 1.0

    def __post_init__(self) -> None:
        for name in ("epochs", "rate"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
                raise ValueError(f"Expected `{name}` of a phase above 0. Received: {value!r}")


#: The new head first, as its gradients would spoil what is below; then everything, gently.
PHASES = (Phase("head", 3), Phase("backbone", 7, 0.1))
