from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_resnet.training.metrics import Accuracy, hits, make_metrics

#: Rows of four logits with ties, infinities and NaN.
TIES = np.array(
    [
        [0, 0, 0, 0],
        [1, 2, 2, 0],
        [-np.inf, 3, -np.inf, np.inf],
        [np.nan] * 4,
        [1, np.nan, 2, 0],
        [4, 3, 2, 1],
    ],
    "float32",
)


def first_classes(logits: np.ndarray, k: int) -> np.ndarray:
    """The `k` first classes of every row; -9 where it contains NaN."""
    found = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    return np.where(np.isnan(logits).any(-1, keepdims=True), -9, found)


@pytest.mark.parametrize("k", [1, 2, 4, 5])
@pytest.mark.parametrize("label", [-1, 0, 1, 2, 3, 4])
def test_hits_with_ties_nan_and_strange_labels(k: int, label: int) -> None:
    labels = np.full(len(TIES), label)
    expected = (first_classes(TIES, k) == label).any(-1)
    np.testing.assert_array_equal(hits(labels, TIES, k), expected)
    np.testing.assert_array_equal(hits(labels[:, None].astype("float32"), TIES, k), expected)


def test_the_largest_share_is_the_label() -> None:
    shares = np.array([[0.1, 0.6, 0.3, 0], [0.5, 0, 0, 0.5], [0, 0, 0.2, 0.8]], "float32")
    logits = TIES[[1, 5, 1]]
    np.testing.assert_array_equal(hits(shares, logits), [True, True, False])
    assert np.array(hits(shares, keras.ops.cast(logits, "bfloat16"))).tolist() == [1, 1, 0]


def test_weighted_accuracy_over_batches() -> None:
    metric = Accuracy()
    logits = TIES[[1, 5, 5, 0]]
    metric.update_state(np.array([1, 0, 1, 0]), logits, np.array([1, 1, 1, 0], "float32"))
    assert float(metric.result()) == pytest.approx(2 / 3)
    metric.update_state(np.array([[3], [3], [3], [0]]), logits, np.ones((4, 1), "float32"))
    assert float(metric.result()) == pytest.approx(3 / 7)
    metric.reset_state()
    metric.update_state(np.eye(4)[[1, 0, 1, 0]], logits)
    assert float(metric.result()) == pytest.approx(3 / 4)


def test_make_metrics_and_serialization() -> None:
    assert [metric.name for metric in make_metrics(5)] == ["accuracy"]
    first, fifth = make_metrics(6)
    assert (first.name, fifth.name) == ("accuracy", "top5_accuracy")
    copy = keras.metrics.deserialize(keras.metrics.serialize(fifth))
    assert isinstance(copy, Accuracy)
    assert (copy.k, copy.name) == (5, "top5_accuracy")
    logits = np.arange(6, dtype="float32")[None]
    for label, expected in ((0, 0.0), (1, 1.0)):
        copy.reset_state()
        copy.update_state(np.array([label]), logits)
        assert float(copy.result()) == expected


def test_refusals() -> None:
    with pytest.raises(ValueError, match="Expected `k` to be an integer of at least 1"):
        Accuracy(0)
