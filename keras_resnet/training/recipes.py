"""Training recipes as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with momentum, warm-up then cosine.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per optimizer step.
        learning_rate: at the end of warm-up.
        warmup_epochs: epochs of linear warm-up from 0.
        momentum: of SGD.
        weight_decay: coupled (L2), on kernels only.
        padding: black pixels around an image before it is cropped back at random.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    warmup_epochs: float
    momentum: float
    weight_decay: float
    padding: int


#: `quick-digits` is our own: ResNet-20 on the 1,437 training digits within two minutes on two
#: cores. Momentum and padding are those of He et al. 2015, section 4.2; in only 450 steps their
#: weight decay of 1e-4 would do next to nothing.
RECIPES = {
    "quick-digits": Recipe(
        epochs=10,
        batch_size=32,
        learning_rate=0.05,
        warmup_epochs=1,
        momentum=0.9,
        weight_decay=1e-3,
        padding=4,
    ),
}
