"""Baselines of transfer: classifiers on the vectors of a fixed network."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from keras_resnet.data import BadRecords, DataConfig, Source, evaluation_batches
from keras_resnet.data.sources.base import Subset
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.models.info import get_info
from keras_resnet.models.input import ModelInput
from keras_resnet.networks.features import pooled
from keras_resnet.support.checks import check_integer, is_integer
from keras_resnet.support.progress import Progress, unseen
from keras_resnet.training.run.fitting import bad_records_named
from keras_resnet.training.run.resolved import check_image_shape

#: Inverse regularization strengths to try for the linear probe, the strongest first.
STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0)

#: Default for the largest number of images of a source.
LIMIT = 5000

#: One fifth of the images of each class is held out to choose the regularization strength.
_HELD_OUT = 5

#: Iterations of the linear probe. It is still a good baseline if it has not quite converged.
_STEPS = 300


@dataclass(frozen=True)
class Baselines:
    """Accuracies on a task, in [0, 1], without training the network.

    Attributes:
        linear_probe: accuracy of a linear classifier on the vectors of the network.
        nearest_neighbors: accuracy of a vote of the most similar training images.
        majority: accuracy of always predicting the most common training class.
        neighbors: number of training images that vote.
        train_images: number of training images for the first two.
        validation_images: number of validation images for the first two.
    """

    linear_probe: float
    nearest_neighbors: float
    majority: float
    neighbors: int
    train_images: int
    validation_images: int

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes as JSON-serializable data."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return (
            f"Linear probe: {self.linear_probe:.2%}, {self.neighbors} nearest neighbors: "
            f"{self.nearest_neighbors:.2%}, most common class: {self.majority:.2%}\n"
            f"from {self.train_images:,} training images, on {self.validation_images:,} "
            "validation images"
        )


def vectors(
    model: keras.Model,
    source: Source,
    *,
    protocol: EvalProtocol | None = None,
    batch_size: int = 32,
    limit: int | None = None,
    seed: int = 0,
    max_bad_fraction: float = 0.01,
    progress: Progress = unseen,
    network: keras.Model | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of a source's images that the classifier of a network takes as inputs.

    Only one batch of images, and those prefetched by the pipeline, are in memory at a time.

    Args:
        model: a flat network of this package, with or without head.
        source: the images.
        protocol: evaluation protocol; None: that of the model, or the usual one for its image size.
        batch_size: images that are run at once.
        limit: largest number of images, divided equally among the classes; None for all images.
        seed: random seed of the choice of images.
        max_bad_fraction: largest share of unreadable images, in [0, 1]; they are skipped.
        progress: called after every batch with a text and the share that is done.
        network: result of `pooled` for the model, so that several calls compile it only once.

    Returns:
        Vectors `(n, channels)`, float32, and labels `(n,)`, int32, in the order of the source.

    Raises:
        ValueError: If there are no images, an image has no label, `limit` is less than one image
            per class, the network does not take square images with 3 channels, or another argument
            has an invalid value.
        TooManyBadRecordsError: If too many images cannot be read.
    """
    check_image_shape(model)
    shape = (None, *model.input_shape[1:])
    protocol = ModelInput(shape, get_info(model), protocol).protocol
    config = DataConfig(
        "vectors",
        size=protocol.size,
        batch_size=batch_size,
        protocol=protocol,
        max_bad_fraction=max_bad_fraction,
    )
    _check_labels(source)
    if limit is not None:
        source = Subset(source, _balanced(source.labels, limit, seed), source.name)
    bad = BadRecords(source.name, len(source), config.max_bad_fraction)
    network = pooled(model) if network is None else network
    # Padded, so that the network is compiled for a single shape.
    batches = evaluation_batches(source, config, pad=True, bad=bad)
    found, labels, steps = [], [], int(batches.cardinality())
    with bad_records_named(bad):
        for step, (images, classes, weights) in enumerate(batches, 1):
            present = weights.numpy() > 0
            found.append(np.asarray(network.predict_on_batch(images.numpy()), np.float32)[present])
            labels.append(classes.numpy()[present])
            progress(f"vectors of {source.name}", step / steps)
    return np.concatenate(found), np.concatenate(labels)


def baselines(
    model: keras.Model,
    train: Source,
    validation: Source,
    *,
    limit: int | None = LIMIT,
    seed: int = 0,
    neighbors: int = 20,
    protocol: EvalProtocol | None = None,
    batch_size: int = 32,
    max_bad_fraction: float = 0.01,
    progress: Progress = unseen,
) -> Baselines:
    """Return accuracies on a task from the vectors of a network, without training the network.

    The linear probe is a logistic regression on standardized vectors. Its inverse regularization
    strength is the best of `STRENGTHS` on a held-out fifth of the training vectors, or 1 if a class
    has fewer than five. Votes of nearest neighbors are weighted by cosine distance. If `limit`
    changes the shares of the classes, the probe and both accuracies weight images to restore these
    shares; the votes do not. `majority` is computed on all validation images.

    Args:
        model: a flat network of this package, with or without head.
        train: training images.
        validation: validation images of the same classes.
        limit: largest number of images per source, as in `vectors`; None for all images.
        seed: random seed of the choice of images and of the held-out part.
        neighbors: number of nearest neighbors that vote, at most the number of images in the
            smallest class.
        protocol: as in `vectors`.
        batch_size: as in `vectors`.
        max_bad_fraction: as in `vectors`.
        progress: called with a text and the share that is done.

    Raises:
        ValueError: If the sources have different classes, fewer than two classes have training
            images, or as in `vectors`.
        TooManyBadRecordsError: If too many images cannot be read.
    """
    if train.class_names != validation.class_names:
        raise ValueError(
            "Expected training and validation images of the same classes. Received: "
            f"{len(train.class_names)} classes in {train.name}, {len(validation.class_names)} "
            f"different ones in {validation.name}"
        )
    check_integer("neighbors", neighbors)
    for source in (train, validation):
        _check_labels(source)
    _check_classes(train.labels, train)

    options: dict[str, Any] = {
        "protocol": protocol,
        "batch_size": batch_size,
        "limit": limit,
        "seed": seed,
        "max_bad_fraction": max_bad_fraction,
        "network": pooled(model),
    }
    x, y = vectors(model, train, progress=lambda w, d: progress(w, 0.45 * d), **options)
    _check_classes(y, train)
    others, truth = vectors(
        model, validation, progress=lambda w, d: progress(w, 0.45 + 0.45 * d), **options
    )
    progress("linear probe and nearest neighbors", 0.9)
    weights = _weights(truth, validation)
    probe = _probe(x, y, _weights(y, train), seed)
    votes = min(neighbors, int(np.unique(y, return_counts=True)[1].min()))
    nearest = KNeighborsClassifier(votes, weights="distance", metric="cosine").fit(x, y)
    most_common = np.bincount(train.labels, minlength=len(train.class_names)).argmax()
    return Baselines(
        linear_probe=float(probe.score(others, truth, weights)),
        nearest_neighbors=float(nearest.score(others, truth, weights)),
        majority=float(np.mean(validation.labels == most_common)),
        neighbors=votes,
        train_images=len(y),
        validation_images=len(truth),
    )


def _check_labels(source: Source) -> None:
    labels, classes = np.asarray(source.labels), len(source.class_names)
    if not len(labels):
        raise ValueError(f"Expected labeled images. Received: none in {source.name}")
    without = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(without):
        raise ValueError(
            f"Expected labels from 0 to {classes - 1} for all images. Received: {source.name}, "
            f"with {len(without)} other labels, such as {int(labels[without[0]])} for "
            f"{source.name_of(int(without[0]))}. Leave these images out"
        )


def _check_classes(labels: np.ndarray, source: Source) -> None:
    if len(np.unique(labels)) < 2:
        raise ValueError(
            "Expected training images of at least two classes. Received: "
            f"{len(labels)} images of one class in {source.name}"
        )


def _balanced(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Return sorted indices of at most `limit` images, divided equally among the classes."""
    counts = np.bincount(labels)
    classes = np.flatnonzero(counts)
    if not is_integer(limit, len(classes)):
        raise ValueError(
            f"Expected `limit` to be an integer of at least {len(classes)}, one image per class. "
            f"Received: {limit!r}"
        )
    if limit >= len(labels):
        return np.arange(len(labels))
    # The share that small classes do not use goes to the other classes.
    share, left = limit // len(classes), limit
    for done, count in enumerate(np.sort(counts[classes])):
        share = left // (len(classes) - done)
        if count > share:
            break
        left -= count
    random = np.random.default_rng(seed)
    members = (np.flatnonzero(labels == label) for label in classes)
    chosen = [random.choice(own, min(share, len(own)), replace=False) for own in members]
    return np.sort(np.concatenate(chosen))


def _weights(labels: np.ndarray, source: Source) -> np.ndarray:
    """Return weights of some images that restore the shares of the classes in their source."""
    classes = len(source.class_names)
    there, here = (np.bincount(some, minlength=classes) for some in (source.labels, labels))
    weights = (there / np.maximum(here, 1))[labels]
    return np.asarray(weights / weights.mean())


def _probe(x: np.ndarray, y: np.ndarray, weights: np.ndarray, seed: int) -> Any:
    """Return a linear classifier with the best regularization strength."""
    if np.unique(y, return_counts=True)[1].min() < _HELD_OUT:
        return _fitted(x, y, weights, 1.0)
    part, rest = train_test_split(
        np.arange(len(y)), test_size=1 / _HELD_OUT, stratify=y, random_state=seed
    )
    scores = [
        _fitted(x[part], y[part], weights[part], strength).score(x[rest], y[rest], weights[rest])
        for strength in STRENGTHS
    ]
    return _fitted(x, y, weights, STRENGTHS[int(np.argmax(scores))])


def _fitted(x: np.ndarray, y: np.ndarray, weights: np.ndarray, strength: float) -> Any:
    classifier = LogisticRegression(C=strength, max_iter=_STEPS)
    probe = make_pipeline(StandardScaler(), classifier)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(x, y, logisticregression__sample_weight=weights)
