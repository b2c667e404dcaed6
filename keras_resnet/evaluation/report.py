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

#: The largest number of probabilities that `to_dict` includes, to keep the JSON file small.
LARGEST_TABLE = 500_000

#: Number of confusions and mistakes in a report.
LISTED = 20

_METRICS = (
    *("accuracy", "top1_error", "top1_interval", "top5_accuracy", "top5_error", "top5_interval"),
    *("loss", "images", "expected_calibration_error"),
)


class Confusion(NamedTuple):
    """The number of images of the class `label` that were predicted as `prediction`."""

    label: str
    prediction: str
    images: int


class Mistake(NamedTuple):
    """A misclassified image.

    Attributes:
        row: row of the image in `Evaluation.probabilities`.
        image: name of the image.
        label: class of the image.
        prediction: predicted class.
        probability: probability of the predicted class.
    """

    row: int
    image: str
    label: str
    prediction: str
    probability: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The predictions of a classifier for labeled images, and the metrics computed from them.

    Attributes:
        models: name of the model, or names of the members of an ensemble.
        data: name of the source of the images.
        protocol: name and settings of the protocol, with the sizes and interpolation of each model.
        class_names: one name per column of `probabilities`.
        image_names: one name per image.
        labels: correct class of every image, `(n,)`, int; if there are several, preferably the
            label in the source.
        probabilities: probability of every class, `(n, classes)`, float32.
        targets: all correct classes, `(n, classes)`, bool; None if every image has one.
        unreadable: image name -> reason, for the images that could not be read; not counted.
        unlabeled: number of images without a class in the label file; not counted.
        seconds: time of reading and computing.
        published: published accuracies in percent, with their protocol and reference; None for
            models without published weights.
        source: the images.
        source_rows: index of every image in `source`, `(n,)`.
        given_notes: the notes about images and models, which are part of `notes`.
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
    unlabeled: int = 0
    seconds: float = 0.0
    published: Mapping[str, Any] | None = None
    source: Source | None = None
    source_rows: np.ndarray | None = None
    given_notes: tuple[str, ...] = ()

    def pixels(self, index: int) -> np.ndarray | None:
        """Return an image, `(height, width, 3)`, uint8, RGB; None if it can no longer be read."""
        if self.source is None or self.source_rows is None:
            return None
        try:
            return read_image(self.source[int(self.source_rows[index])].data)
        except (OSError, ValueError):
            return None

    @property
    def images(self) -> int:
        """Number of evaluated images."""
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
        """Return whether the top-1 class of each image is correct, `(n,)`, bool."""
        return self._ranks == 0

    @property
    def accuracy(self) -> float:
        """Share of images whose top-1 class is correct, 0 to 1."""
        return float(self.is_right.mean())

    @property
    def top5_accuracy(self) -> float:
        """Share of images with a correct class among the five most probable ones, 0 to 1."""
        return float((self._ranks < min(5, len(self.class_names))).mean())

    @property
    def top1_error(self) -> float:
        """1 - `accuracy`."""
        return 1 - self.accuracy

    @property
    def top5_error(self) -> float:
        """1 - `top5_accuracy`; always 0 with at most five classes."""
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
        """The images grouped by their top-1 probability into 15 bins of equal width."""
        return metrics.calibration_bins(self.probabilities.max(axis=1), self.is_right)

    @property
    def expected_calibration_error(self) -> float:
        """Mean difference of top-1 probability and accuracy in `calibration`, 0 to 1."""
        return metrics.expected_calibration_error(self.calibration)

    @property
    def _true_classes(self) -> np.ndarray:
        """One correct class per image: the predicted class if it is correct, else the label."""
        return np.where(self.is_right, self.predictions, self.labels)

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """Number of images by class (row) and predicted class (column), `(classes, classes)`."""
        matrix: np.ndarray = sklearn.metrics.confusion_matrix(
            self._true_classes, self.predictions, labels=np.arange(len(self.class_names))
        )
        return matrix

    @functools.cached_property
    def per_class(self) -> list[dict[str, Any]]:
        """`name`, `precision`, `recall`, `f1` and `support` of every class."""
        return metrics.per_class_metrics(self._true_classes, self.predictions, self.class_names)

    @property
    def largest_confusions(self) -> list[Confusion]:
        """The most frequent pairs of a class and a wrong prediction, the most frequent first."""
        matrix = self.confusion.copy()
        np.fill_diagonal(matrix, 0)
        order = np.argsort(-matrix, axis=None, kind="stable")[:LISTED]
        pairs = (np.unravel_index(position, matrix.shape) for position in order)
        names = self.class_names
        return [Confusion(names[i], names[j], int(matrix[i, j])) for i, j in pairs if matrix[i, j]]

    @property
    def mistakes(self) -> list[Mistake]:
        """The misclassified images, the most confident predictions first."""
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
        """Sentences about the data and the models that the metrics depend on."""
        found = list(self.given_notes)
        if self.published is not None:
            protocol = protocol_in_words(self.published["protocol"])
            found.append(f"Published with {protocol}: {self.published['source']}.")
        if self.unreadable:
            found.append(
                f"Not counted, as unreadable: {_images(len(self.unreadable))}, such as "
                f"{some_of(list(self.unreadable), 3)}."
            )
        if self.unlabeled:
            found.append(f"Not counted, as unlabeled: {_images(self.unlabeled)}.")
        found += self._notes_on_classes()
        if len(set(self.predictions.tolist())) == 1 and self.images > 1:
            answer = self.class_names[self.predictions[0]]
            found.append(f"Every image is classified as {answer}.")
        if np.isnan(self.probabilities).any():
            count = int(np.isnan(self.probabilities).any(axis=1).sum())
            found.append(f"Counted as misclassified, as a probability is NaN: {_images(count)}.")
        if self.probabilities.size > LARGEST_TABLE:
            found.append(
                "evaluation.json does not contain the probabilities, of which there are too many: "
                "`keras-resnet evaluate --predictions` or `save_predictions` writes them."
            )
        return found

    def _notes_on_classes(self) -> list[str]:
        """Return the notes about classes without images, whose metrics are undefined."""
        supports = np.bincount(self.labels, minlength=len(self.class_names))
        present = [name for name, n in zip(self.class_names, supports, strict=True) if n]
        empty = [name for name, n in zip(self.class_names, supports, strict=True) if not n]
        if len(present) == 1:
            return [
                f"All images are of one class, {present[0]}: accuracy is its recall. How often "
                "other classes are predicted as this class is not measured; metrics of the other "
                "classes are not meaningful."
            ]
        if not empty:
            return []
        without = "recall, precision and F1 of the others are not meaningful"
        if len(empty) > len(present):
            some = f"Only {len(present):,} of {len(supports):,} classes have images"
            return [f"{some} ({some_of(present)}): {without}."]
        return [
            f"There are no images of {some_of(empty)}: {without.replace('the others', 'these')}."
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics and predictions as plain data for JSON; undefined metrics are None."""
        small = self.probabilities.size <= LARGEST_TABLE
        values: dict[str, Any] = {
            "models": list(self.models),
            "data": self.data,
            "protocol": dict(self.protocol),
            **{name: getattr(self, name) for name in _METRICS},
            "published": self.published,
            "unreadable": dict(self.unreadable),
            "unlabeled": self.unlabeled,
            "images_per_second": self.images / self.seconds if self.seconds else None,
            "notes": self.notes,
            "class_names": list(self.class_names),
            "per_class": self.per_class,
            "confusion": self.confusion.tolist(),
            "largest_confusions": [pair._asdict() for pair in self.largest_confusions],
            "calibration": [each._asdict() for each in self.calibration],
            "mistakes": [mistake._asdict() for mistake in self.mistakes],
            "predictions": self.rows(),
            "probabilities": self.probabilities.tolist() if small else None,
        }
        return finite(values)

    def rows(self) -> list[dict[str, Any]]:
        """Return the predictions, one dict per image.

        The keys are `image`, `label`, `prediction`, `probability` (of the prediction) and `right`.
        """
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
        """Return a table of the main metrics for a terminal."""
        table = terminal.table(("metric", "measured", "95 % interval", "published"))
        for row in self.figures():
            table.add_row(*row)
        return table

    def figures(self) -> list[tuple[str, str, str, str]]:
        """Return the name, value, interval and published value of the main metrics, as text."""
        published = self.published or {}

        def share(name: str, value: float, interval: tuple[float, float], stated: Any) -> Any:
            low, high = interval
            words = f"{low:.2%} to {high:.2%}"
            return name, f"{value:.2%}", words, "–" if stated is None else f"{stated:.2f}%"

        def accuracy_and_error(
            top: str, accuracy: float, interval: tuple[float, float]
        ) -> list[Any]:
            stated = published.get(top.replace("-", ""))
            reverse = (1 - interval[1], 1 - interval[0])
            return [
                share(f"{top} accuracy", accuracy, interval, stated),
                share(f"{top} error", 1 - accuracy, reverse, stated and 100 - stated),
            ]

        rows = accuracy_and_error("top-1", self.accuracy, self.top1_interval)
        if len(self.class_names) > 5:
            rows += accuracy_and_error("top-5", self.top5_accuracy, self.top5_interval)
        calibration = self.expected_calibration_error
        return [
            *rows,
            ("loss", f"{self.loss:.4f}", "", "–"),
            ("expected calibration error", f"{calibration:.2%}", "", "–"),
            ("images", f"{self.images:,}", "", "–"),
        ]


def protocol_in_words(protocol: Mapping[str, Any]) -> str:
    """Return the sizes and interpolation of an `EvalProtocol`, given as a dict, as text."""
    return f"resize {protocol['resize']}, crop {protocol['size']}, {protocol['interpolation']}"


def _images(count: int) -> str:
    return f"{count:,} image{'s' if count > 1 else ''}"
