"""The report of an evaluation."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import sklearn.metrics
from rich.table import Table

from keras_resnet.data.sources.base import Source
from keras_resnet.evaluation import metrics
from keras_resnet.images.decode import read_image
from keras_resnet.support import terminal
from keras_resnet.support.checks import some_of
from keras_resnet.support.intervals import wilson_interval
from keras_resnet.support.json_text import finite

#: Numbers of `probabilities` that `to_dict` has; of more of them, JSON becomes too large.
LARGEST_TABLE = 500_000

#: How many confusions and mistakes a report lists.
LISTED = 20

_FIGURES = (
    *("accuracy", "top1_error", "top1_interval", "top5_accuracy", "top5_error", "top5_interval"),
    *("loss", "images", "expected_calibration_error"),
)


class Confusion(NamedTuple):
    """The number of images of one class that were taken for another."""

    label: str
    prediction: str
    images: int


class Mistake(NamedTuple):
    """An image that was classified wrongly.

    Attributes:
        row: its row in `Evaluation.probabilities`.
        image: what the data set calls it.
        label: its class.
        prediction: the class that was the most probable one.
        probability: that of `prediction`.
    """

    row: int
    image: str
    label: str
    prediction: str
    probability: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The answers of a classifier to labelled images, and what follows from them.

    Attributes:
        models: names of what was evaluated: one, or the members of an ensemble.
        data: name of the images' source.
        protocol: what was averaged over, and sizes and interpolation of every member.
        class_names: one per column of `probabilities`.
        image_names: one per image.
        labels: `(n,)`, int, the right class of every image; of several, the data set's own.
        probabilities: `(n, classes)`, float32.
        targets: `(n, classes)`, bool, where images have several right classes; else None.
        unreadable: image -> reason, of those that could not be read and so are not counted.
        unlabelled: how many images were left out because their label file has no class for them.
        seconds: of reading and computing.
        published: accuracies that the source of the weights states, in percent, with protocol and
            source; None of other models.
        source: the images.
        source_rows: `(n,)`, where in the source each image is.
        given_notes: those of `notes` that are of images and models.
    """

    models: tuple[str, ...]
    data: str
    protocol: Mapping[str, Any]
    class_names: tuple[str, ...]
    image_names: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    targets: np.ndarray | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)
    unlabelled: int = 0
    seconds: float = 0.0
    published: Mapping[str, Any] | None = None
    source: Source | None = None
    source_rows: np.ndarray | None = None
    given_notes: tuple[str, ...] = ()

    def pixels(self, index: int) -> np.ndarray | None:
        """An image again, `(height, width, 3)`, uint8, RGB; None if it cannot be read any more."""
        if self.source is None or self.source_rows is None:
            return None
        try:
            return read_image(self.source[int(self.source_rows[index])].data)
        except (OSError, ValueError):
            return None

    @property
    def images(self) -> int:
        """The number of images that were counted."""
        return len(self.labels)

    @functools.cached_property
    def _ranks(self) -> np.ndarray:
        return metrics.ranks_of_right_class(self.probabilities, self.labels, self.targets)

    @functools.cached_property
    def predictions(self) -> np.ndarray:
        """The most probable class of every image, `(n,)`."""
        return self.probabilities.argmax(axis=1)

    @property
    def is_right(self) -> np.ndarray:
        """Whether every image's top-1 class is right, `(n,)`, bool."""
        return self._ranks == 0

    @property
    def accuracy(self) -> float:
        """Share of images whose top-1 class is right, 0 to 1."""
        return float(self.is_right.mean())

    @property
    def top5_accuracy(self) -> float:
        """Share of images with a right class among the five most probable ones, 0 to 1."""
        return float((self._ranks < min(5, len(self.class_names))).mean())

    @property
    def top1_error(self) -> float:
        """1 - `accuracy`."""
        return 1 - self.accuracy

    @property
    def top5_error(self) -> float:
        """1 - `top5_accuracy`; with up to five classes, 0 says nothing."""
        return 1 - self.top5_accuracy

    @property
    def top1_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of `accuracy`."""
        return wilson_interval(int(self.is_right.sum()), self.images)

    @property
    def top5_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of `top5_accuracy`."""
        return wilson_interval(round(self.top5_accuracy * self.images), self.images)

    @property
    def loss(self) -> float:
        """Mean cross-entropy of `labels`, in nats."""
        return metrics.cross_entropy(self.probabilities, self.labels)

    @functools.cached_property
    def calibration(self) -> list[metrics.CalibrationBin]:
        """Images by their top-1 probability, in 15 bins of equal width."""
        return metrics.calibration_bins(self.probabilities.max(axis=1), self.is_right)

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of top-1 probability and accuracy over 15 bins of equal width, 0 to 1."""
        return metrics.expected_calibration_error(self.calibration)

    @property
    def _true_classes(self) -> np.ndarray:
        """Choose among several right classes: the predicted one if it is one of them."""
        return np.where(self.is_right, self.predictions, self.labels)

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """Images by class (rows) and predicted class (columns): `(classes, classes)`, int."""
        every = np.arange(len(self.class_names))
        matrix: np.ndarray = sklearn.metrics.confusion_matrix(
            self._true_classes, self.predictions, labels=every
        )
        return matrix

    @functools.cached_property
    def per_class(self) -> list[dict[str, Any]]:
        """`name`, `precision`, `recall`, `f1` and `support` of every class."""
        return metrics.per_class_figures(self._true_classes, self.predictions, self.class_names)

    @property
    def largest_confusions(self) -> list[Confusion]:
        """The most frequent pairs of a class and another one that was predicted."""
        matrix = self.confusion.copy()
        np.fill_diagonal(matrix, 0)
        order = np.argsort(-matrix, axis=None, kind="stable")[:LISTED]
        pairs = (np.unravel_index(place, matrix.shape) for place in order)
        names = self.class_names
        return [Confusion(names[i], names[j], int(matrix[i, j])) for i, j in pairs if matrix[i, j]]

    @property
    def mistakes(self) -> list[Mistake]:
        """The wrongly classified images, the most confident ones first."""
        wrong = np.flatnonzero(~self.is_right)
        confidences = self.probabilities[wrong, self.predictions[wrong]]
        return [
            Mistake(
                int(index),
                self.image_names[index],
                self.class_names[self.labels[index]],
                self.class_names[self.predictions[index]],
                float(self.probabilities[index, self.predictions[index]]),
            )
            for index in wrong[np.argsort(-confidences, kind="stable")][:LISTED]
        ]

    @property
    def notes(self) -> list[str]:
        """Sentences that a reader of the figures should know."""
        found = list(self.given_notes)
        if self.published is not None:
            how = protocol_in_words(self.published["protocol"])
            found.append(f"Published with {how}: {self.published['source']}.")
        if self.unreadable:
            found.append(
                f"{_images(len(self.unreadable))} could not be read, and not counted: "
                f"{some_of(list(self.unreadable), 3)}."
            )
        if self.unlabelled:
            found.append(f"{_images(self.unlabelled)} without a label, and not counted.")
        found += self._notes_on_classes()
        if len(set(self.predictions.tolist())) == 1 and self.images > 1:
            answer = self.class_names[self.predictions[0]]
            found.append(f"Every image is classified as {answer}.")
        if np.isnan(self.probabilities).any():
            count = int(np.isnan(self.probabilities).any(axis=1).sum())
            found.append(
                f"{_images(count)} with NaN among the probabilities, and counted as wrong."
            )
        if self.probabilities.size > LARGEST_TABLE:
            found.append(
                "evaluation.json lacks the probabilities: `keras-resnet evaluate --predictions` or "
                "`save_predictions` writes all of them."
            )
        return found

    def _notes_on_classes(self) -> list[str]:
        """Return notes about classes without images, and the figures that do not exist for them."""
        supports = np.bincount(self.labels, minlength=len(self.class_names))
        present = [name for name, n in zip(self.class_names, supports, strict=True) if n]
        empty = [name for name, n in zip(self.class_names, supports, strict=True) if not n]
        if len(present) == 1:
            return [
                f"All images are of one class, {present[0]}: accuracy is its recall, and says "
                "nothing of how often other classes are taken for it. Figures of the other classes "
                "mean nothing."
            ]
        if not empty:
            return []
        without = "recall, precision and F1 of the others mean nothing"
        if len(empty) > len(present):
            some = f"Only {len(present):,} of {len(supports):,} classes have images"
            return [f"{some} ({some_of(present)}): {without}."]
        return [
            f"There are no images of {some_of(empty)}: {without.replace('the others', 'these')}."
        ]

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data for JSON; figures that do not exist are None."""
        small = self.probabilities.size <= LARGEST_TABLE
        values: dict[str, Any] = {
            "models": list(self.models),
            "data": self.data,
            "protocol": dict(self.protocol),
            **{name: getattr(self, name) for name in _FIGURES},
            "published": self.published,
            "unreadable": dict(self.unreadable),
            "unlabelled": self.unlabelled,
            "images_per_second": self.images / self.seconds if self.seconds else None,
            "notes": self.notes,
            "class_names": list(self.class_names),
            "per_class": self.per_class,
            "confusion": self.confusion.tolist(),
            "largest_confusions": [pair._asdict() for pair in self.largest_confusions],
            "calibration": [row._asdict() for row in self.calibration],
            "mistakes": [mistake._asdict() for mistake in self.mistakes],
            "predictions": self.rows(),
            "probabilities": self.probabilities.tolist() if small else None,
        }
        return finite(values)

    def rows(self) -> list[dict[str, Any]]:
        """A row per image: its name, label, prediction, that one's probability, whether right."""
        top = self.probabilities.max(axis=1)
        return [
            {
                "image": name,
                "label": self.class_names[label],
                "prediction": self.class_names[prediction],
                "probability": float(probability),
                "right": bool(right),
            }
            for name, label, prediction, probability, right in zip(
                self.image_names, self.labels, self.predictions, top, self.is_right, strict=True
            )
        ]

    def to_table(self) -> Table:
        """The main figures for a terminal."""
        table = terminal.table(("figure", "measured", "95 % interval", "published"))
        for row in self.figures():
            table.add_row(*row)
        return table

    def figures(self) -> list[tuple[str, str, str, str]]:
        """Name, value, interval and published value of the main figures, in words."""
        published = self.published or {}

        def share(name: str, value: float, interval: tuple[float, float], stated: Any) -> Any:
            low, high = interval
            words = f"{low:.2%} to {high:.2%}"
            return name, f"{value:.2%}", words, "–" if stated is None else f"{stated:.2f}%"

        def both(of: str, accuracy: float, interval: tuple[float, float]) -> list[Any]:
            stated = published.get(of.replace("-", ""))
            reverse = (1 - interval[1], 1 - interval[0])
            return [
                share(f"{of} accuracy", accuracy, interval, stated),
                share(f"{of} error", 1 - accuracy, reverse, stated and 100 - stated),
            ]

        rows = both("top-1", self.accuracy, self.top1_interval)
        if len(self.class_names) > 5:
            rows += both("top-5", self.top5_accuracy, self.top5_interval)
        calibration = self.expected_calibration_error
        return [
            *rows,
            ("loss", f"{self.loss:.4f}", "", "–"),
            ("expected calibration error", f"{calibration:.2%}", "", "–"),
            ("images", f"{self.images:,}", "", "–"),
        ]


def protocol_in_words(how: Mapping[str, Any]) -> str:
    """Return the sizes and interpolation of an `EvalProtocol` that is given as a dict."""
    return f"resize {how['resize']}, crop {how['size']}, {how['interpolation']}"


def _images(count: int) -> str:
    return f"{count:,} image{'s' if count > 1 else ''}"
