"""Figures against answers that were computed by hand: five images, three classes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from keras_resnet.evaluation import Evaluation, metrics

#: Right, right, wrong (2 taken for 0), right, wrong (0 taken for 1).
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.5, 0.2]],
    np.float32,
)
LABELS = np.array([0, 1, 2, 2, 0])


def report_of(probabilities: np.ndarray = PROBABILITIES, labels: np.ndarray = LABELS, **fields):
    names = tuple(f"{index}.png" for index in range(len(labels)))
    return Evaluation(
        ("net",),
        "data",
        {"name": "single"},
        ("a", "b", "c"),
        names,
        labels,
        probabilities,
        **fields,
    )


def test_shares_and_loss() -> None:
    report = report_of()
    assert (report.images, report.accuracy) == (5, 0.6)
    assert report.top1_error == pytest.approx(0.4)
    assert report.top5_error == 0
    expected = -(2 * math.log(0.8) + math.log(0.6) + math.log(0.1) + math.log(0.3)) / 5
    assert report.loss == pytest.approx(expected, rel=1e-6)


def test_report_has_the_interval_of_three_of_five() -> None:
    # (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with z = 1.959964.
    assert report_of().top1_interval == pytest.approx((0.23072, 0.88238), abs=1e-5)


def test_confusion_and_figures_of_every_class() -> None:
    report = report_of()
    assert report.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    first, second, third = report.per_class
    assert first == {"name": "a", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert second["precision"] == 0.5
    assert second["recall"] == 1
    assert second["f1"] == pytest.approx(2 / 3)
    assert (third["precision"], third["recall"], third["support"]) == (1, 0.5, 2)
    assert report.largest_confusions == [("a", "b", 1), ("c", "a", 1)]


def test_most_confident_mistakes_come_first() -> None:
    (first, second) = report_of().mistakes
    assert first == (2, "2.png", "c", "a", pytest.approx(0.7))
    assert second == (4, "4.png", "a", "b", pytest.approx(0.5))


def test_expected_calibration_error() -> None:
    report = report_of()
    # Bins are 1/15 wide: 0.8 and 0.8 share one (12/15 is its upper bound), the others have their
    # own. |0.8 - 1| * 2, |0.6 - 1|, |0.7 - 0|, |0.5 - 0|, over five images.
    assert report.expected_calibration_error == pytest.approx((0.4 + 0.4 + 0.7 + 0.5) / 5, rel=1e-5)
    assert sum(row.images for row in report.calibration) == 5
    assert len(report.calibration) == 15


def test_bounds_of_bins_belong_to_the_bin_below() -> None:
    rows = metrics.calibration_bins(np.array([0.0, 0.5, 1.0]), np.array([True, True, False]), 2)
    assert [row.images for row in rows] == [2, 1]
    assert rows[0].confidence == 0.25
    assert rows[1].accuracy == 0


def test_equal_probabilities_go_to_the_first_class_and_nan_is_wrong() -> None:
    probabilities = np.array([[0.5, 0.5], [0.5, 0.5], [np.nan, 1.0]])
    ranks = metrics.ranks_of_right_class(probabilities, np.array([0, 1, 1]))
    assert ranks.tolist() == [0, 1, 2]


def test_any_of_several_right_classes_counts() -> None:
    targets = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1], [0, 1, 0]], bool)
    report = report_of(targets=targets)
    assert report.accuracy == 1
    assert report.confusion.tolist() == [[2, 0, 0], [0, 2, 0], [0, 0, 1]]
    assert report.largest_confusions == []


def test_notes_say_what_figures_hide() -> None:
    always_a = np.tile(np.array([[0.9, 0.1, 0.0]], np.float32), (5, 1))
    assert report_of(always_a).notes == ["Every image is classified as a."]
    assert report_of(labels=np.array([0, 1, 1, 0, 1])).notes == [
        "There are no images of c: recall, precision and F1 of these are not meaningful."
    ]
    one = report_of(labels=np.zeros(5, int))
    assert one.notes == [
        "All images are of one class, a: accuracy is its recall. How often other classes are "
        "predicted as this class is not measured; metrics of the other classes are not meaningful."
    ]
    assert one.accuracy == pytest.approx(one.per_class[0]["recall"])
    assert one.per_class[2]["recall"] is None
    assert "unreadable: 2 images" in report_of(unreadable={"x": "y", "z": "y"}).notes[0]
    stated = {
        "top1": 80.5,
        "protocol": {"size": 224, "resize": 256, "interpolation": "bicubic"},
        "source": "a sheet",
    }
    report = report_of(published=stated)
    assert report.notes[0] == "Published with resize 256, crop 224, bicubic: a sheet."
    first, second = report.figures()[:2]
    assert first[:2] == ("top-1 accuracy", "60.00%")
    assert first[3] == "80.50%"
    assert second[:2] == ("top-1 error", "40.00%")
    assert second[3] == "19.50%"


def test_notes_on_many_classes_name_five() -> None:
    names = tuple(f"class {index}" for index in range(1000))
    labels = np.arange(7)
    report = report_of(np.eye(1000, dtype=np.float32)[:7], labels)
    report = dataclasses.replace(report, class_names=names)
    assert report.notes[0] == (
        "Only 7 of 1,000 classes have images (class 0, class 1, class 2, class 3, class 4 and 2 "
        "more): recall, precision and F1 of the others are not meaningful."
    )
    assert max(map(len, report.notes)) < 200
    from keras_resnet.evaluation.page import evaluation_page

    page = evaluation_page(report)
    assert "993 classes without images and predictions are left out." in page
    assert page.count('data-label="precision"') == 7


def test_mcnemar() -> None:
    first = np.array([1, 1, 1, 1, 1, 0, 0], bool)
    second = np.array([0, 0, 0, 0, 0, 0, 1], bool)
    # Of six discordant images, at most one for one side: 2 * (1 + 6) / 64.
    assert metrics.mcnemar(first, second) == pytest.approx(14 / 64)
    assert metrics.mcnemar(first, first) == 1
