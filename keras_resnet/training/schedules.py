"""Learning-rate schedules, in optimizer steps."""

from __future__ import annotations

import keras


def warmup_cosine(
    peak: float, warmup_steps: int, total_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up from 0 to `peak`, then half a cosine down to 0 at `total_steps`.

    The warm-up lasts `warmup_steps` optimizer steps (Goyal et al. 2017, section 2.2); the cosine is
    that of Loshchilov and Hutter 2017 (SGDR) without restarts.

    Raises:
        ValueError: the warm-up does not end before the training.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            "Expected `warmup_steps` to be at least 0 and less than `total_steps`. "
            f"Received: warmup_steps={warmup_steps}, total_steps={total_steps}"
        )
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else peak,
        decay_steps=total_steps - warmup_steps,
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
