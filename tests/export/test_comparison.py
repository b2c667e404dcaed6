from __future__ import annotations

import numpy as np
import pytest

from keras_resnet.export import Limits
from keras_resnet.export.comparison import compare, compare_features, disagreements, measured

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
    assert not comparison.not_measured


def test_limits_of_what_was_not_measured_are_kept_by_nobody() -> None:
    without_labels = compare(EXPECTED, EXPECTED)
    limits = Limits(min_agreement=0.9, max_accuracy_drop=0.1)
    said = ["accuracy not measured: there are no labels"]
    assert disagreements(without_labels, limits) == said
    assert measured(limits, without_labels) == Limits(min_agreement=0.9)
    maps = compare_features({"C3": EXPECTED}, {"C3": EXPECTED})
    assert [words.partition(":")[0] for words in disagreements(maps, limits)] == [
        "agreement not measured", "accuracy not measured"
    ]  # fmt: skip
    assert measured(limits, maps) == Limits()


def test_a_single_column_agrees_where_it_says_the_same() -> None:
    expected = np.array([[0.9], [0.2], [0.6], [0.4]])
    comparison = compare(expected, np.array([[0.6], [0.1], [0.4], [0.3]]), np.array([1, 0, 1, 1]))
    assert comparison.agreement == 0.75
    assert (comparison.keras_accuracy, comparison.accuracy) == (0.75, 0.5)


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
    assert disagreements(broken, Limits()) == ["its output is not finite"]


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 2\). Received: \(4, 3\)"):
        compare(EXPECTED, np.zeros((4, 3)))


def test_cosine_and_top5_by_hand() -> None:
    expected = np.array([[0.6, 0.8, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]], np.float32)
    received = np.array([[0.8, 0.6, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 5]], np.float32)
    comparison = compare(expected, received)
    assert comparison.cosine == pytest.approx((0.96 + 1) / 2)
    assert comparison.top5_agreement == 1.0
    # The five likeliest of the first row are 1, 0 and, as the others are equal, 2, 3, 4.
    received[0] = [0, 0, 0, 0, 0, 0.7, 0.3]
    assert compare(expected, received).top5_agreement == pytest.approx((3 / 5 + 1) / 2)
    assert compare(EXPECTED, EXPECTED).top5_agreement is None
    assert "cosine 0.5000, required 0.9" in disagreements(
        compare(expected, received), Limits(min_cosine=0.9)
    )


def test_the_worst_feature_map_counts() -> None:
    random = np.random.default_rng(0)
    expected = {"C2": random.uniform(-4, 4, (3, 2, 2, 5)), "C3": np.zeros((3, 1, 1, 7))}
    assert compare_features(expected, expected).cosine == pytest.approx(1)
    off = {**expected, "C2": expected["C2"] + 0.1 * np.abs(expected["C2"]).max()}
    comparison = compare_features(expected, off)
    assert comparison.max_error == pytest.approx(0.1)
    assert comparison.mean_error == pytest.approx(0.1)
    assert 0.5 < comparison.cosine < 0.9999
    assert (comparison.agreement, comparison.accuracy) == (None, None)
    assert "output error 0.1, allowed 0.01" in disagreements(comparison, Limits(0.01))[0]
    dead = compare_features(expected, {**expected, "C2": np.zeros((3, 2, 2, 5))})
    assert dead.cosine == 0
    with pytest.raises(ValueError, match="Expected outputs C2, C3. Received: C2"):
        compare_features(expected, {"C2": expected["C2"]})
