"""Choices of fine-tuning for the command line. Importing it imports no Keras."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

BNMode = Literal["frozen", "training"]


@dataclass(frozen=True)
class Phase:
    """A phase of fine-tuning, with a learning rate schedule of its own.

    Attributes:
        downto: lowest level that is trained, together with everything above: `"head"`, `"C5"` to
            `"C2"`, or `"stem"` or `"backbone"` for all layers.
        epochs: length of the phase in epochs.
        rate: factor of the recipe's learning rate.

    Raises:
        ValueError: If `epochs` or `rate` is not positive.
    """

    downto: str
    epochs: float
    rate: float = 1.0

    def __post_init__(self) -> None:
        for name in ("epochs", "rate"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
                raise ValueError(f"Expected `{name}` of a phase above 0. Received: {value!r}")


#: First the new head, whose gradients would damage the layers below; then all layers.
PHASES = (Phase("head", 3), Phase("backbone", 7, 0.1))
