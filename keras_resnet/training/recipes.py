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


#: `quick-digits` is our own: ResNet-20 on the 1,437 training digits within a minute on two cores. Momentum, weight
#: decay and padding are those of He et al. 2015, section 4.2.
RECIPES = {
    "quick-digits": Recipe(
        epochs=12,
        batch_size=64,
        learning_rate=0.1,
        warmup_epochs=1,
        momentum=0.9,
        weight_decay=1e-4,
        padding=4,
    ),
}
