from __future__ import annotations

import math

import pytest

from keras_resnet.training import warmup_cosine


def test_rates_at_chosen_steps() -> None:
    schedule = warmup_cosine(0.4, warmup_steps=10, total_steps=110)
    expected = {0: 0.0, 5: 0.2, 10: 0.4, 35: 0.2 * (1 + math.cos(math.pi / 4)), 60: 0.2, 110: 0.0}
    assert {step: float(schedule(step)) for step in expected} == pytest.approx(expected, abs=1e-6)


def test_without_warm_up_the_peak_comes_first() -> None:
    schedule = warmup_cosine(0.4, warmup_steps=0, total_steps=100)
    assert [float(schedule(step)) for step in (0, 50, 100)] == pytest.approx(
        [0.4, 0.2, 0.0], abs=1e-6
    )


def test_warm_up_has_to_end_before_the_training() -> None:
    with pytest.raises(ValueError, match="warmup_steps=100, total_steps=100"):
        warmup_cosine(0.1, 100, 100)
