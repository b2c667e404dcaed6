from __future__ import annotations

import numpy as np
import pytest

from keras_resnet.export import Limits
from keras_resnet.export.verify import compare, disagreements

EXPECTED = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]], np.float32)


def test_comparison_counts_by_hand() -> None:
    received = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]], np.float32)
    comparison = compare(EXPECTED, received, np.array([0, 1, 0, 0]))
    assert comparison.images == 4
    assert comparison.max_error == pytest.approx(0.2, abs=1e-6)
    assert comparison.mean_error == pytest.approx(0.05, abs=1e-6)
    assert comparison.agreement == 0.75
    assert (comparison.keras_accuracy, comparison.accuracy) == (0.75, 0.5)
    assert compare(EXPECTED, received).accuracy is None


def test_every_limit_is_enforced_and_inclusive() -> None:
    received = EXPECTED.copy()
    received[2] = [0.4, 0.6]
    comparison = compare(EXPECTED, received, np.array([0, 1, 0, 0]))
    assert disagreements(comparison, Limits(0.21, 0.75, 0.25)) == []
    assert len(disagreements(comparison, Limits(max_error=0.19))) == 1
    assert (
        "agreement 75.00%, required 76%" in disagreements(comparison, Limits(min_agreement=0.76))[0]
    )
    assert (
        "accuracy 50.00% against 75.00%"
        in disagreements(comparison, Limits(max_accuracy_drop=0.24))[0]
    )
    assert len(disagreements(comparison, Limits(0.19, 0.76, 0.24))) == 3


def test_better_accuracy_is_no_drop_and_nan_is_no_agreement() -> None:
    better = compare(EXPECTED, EXPECTED[:, ::-1], np.array([1, 0, 1, 0]))
    assert better.accuracy == 1.0 - 0.0
    assert disagreements(better, Limits(max_accuracy_drop=0.0)) == []
    broken = compare(EXPECTED, np.full_like(EXPECTED, np.nan))
    assert disagreements(broken, Limits()) == ["its probabilities are not finite"]


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 2\). Received: \(4, 3\)"):
        compare(EXPECTED, np.zeros((4, 3)))
