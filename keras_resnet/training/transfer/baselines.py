"""Baselines of transfer: classifiers on a network's vectors as they are."""

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

#: Inverse strengths of regularization that the linear probe is tried with, the strongest first.
STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0)

#: So many images of each source are looked at, unless another number is asked for.
LIMIT = 5000

#: With fewer images of a class, there is no fifth of them to choose the strength on.
_HELD_OUT = 5

#: Steps of the linear probe. One that has not quite converged is as good a baseline.
_STEPS = 300


@dataclass(frozen=True)
class Baselines:
    """Accuracies on a task, 0 to 1, that need no training of the network.

    Attributes:
        linear_probe: of a linear classifier of the network's vectors.
        nearest_neighbours: of a vote of the most similar training images.
        majority: of always naming the commonest training class.
        neighbours: how many vote.
        train_images: images that the first two have learned from.
        validation_images: images that they were judged on.
    """

    linear_probe: float
    nearest_neighbours: float
    majority: float
    neighbours: int
    train_images: int
    validation_images: int

    def to_dict(self) -> dict[str, Any]:
        """Everything in it, as JSON takes it."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return (
            f"Linear probe: {self.linear_probe:.2%}, {self.neighbours} nearest neighbors: "
            f"{self.nearest_neighbours:.2%}, commonest class: {self.majority:.2%}\n"
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
    """Return the vectors that a network's classifier sees of a source's images.

    One batch of images is held at a time, and those that the pipeline has ready.

    Args:
        model: a flat network of this package, with or without head.
        source: the images.
        protocol: how they are prepared; by default what the model knows about itself, else what is
            usual for its size.
        batch_size: images that go through the network at once.
        limit: at most so many images, as many of every class that has enough; None for all.
        seed: which ones.
        max_bad_fraction: of unreadable images, which are left out, that are put up with.
        progress: is told after every batch.
        network: what `pooled` has made of the model, so that several calls compile it once.

    Returns:
        Vectors `(n, channels)`, float32, and labels `(n,)`, int32, in the order of the source.

    Raises:
        ValueError: If there are no images, or images without a label, or the limit is less than one
            image per class; or the network takes others than square images with 3 channels; or an
            argument is wrong.
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
    # Padded, so that the network is compiled for one shape.
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
    neighbours: int = 20,
    protocol: EvalProtocol | None = None,
    batch_size: int = 32,
    max_bad_fraction: float = 0.01,
    progress: Progress = unseen,
) -> Baselines:
    """Judge the vectors of a network on a task, without changing the network.

    The linear probe is a logistic regression of standardized vectors, whose regularization is the
    best of `STRENGTHS` on a fifth of the training vectors that is held out for that, or 1 where a
    class has fewer than five. The neighbors' votes count by cosine distance. Where `limit` changes
    the shares of the classes, the probe and both accuracies weigh images so that the shares are the
    sources' own; the votes do not. `majority` is of all validation images.

    Args:
        model: a flat network of this package, with or without head.
        train: images to learn from.
        validation: images to judge on, of the same classes.
        limit: of images of each source, as many of every class that has enough; None for all.
        seed: which ones, and which are held out.
        neighbours: that vote; at most as many as the smallest class has images.
        protocol: as in `vectors`.
        batch_size: as in `vectors`.
        max_bad_fraction: as in `vectors`.
        progress: is told what is being done, and which share is done.

    Raises:
        ValueError: If the sources have different classes, fewer than two classes have training
            images, or as in `vectors`.
        TooManyBadRecordsError: If too many images cannot be read.
    """
    if train.class_names != validation.class_names:
        raise ValueError(
            "Expected training and validation images of the same classes. Received: "
            f"{len(train.class_names)} in {train.name}, {len(validation.class_names)} others in "
            f"{validation.name}"
        )
    check_integer("neighbours", neighbours)
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
    votes = min(neighbours, int(np.unique(y, return_counts=True)[1].min()))
    nearest = KNeighborsClassifier(votes, weights="distance", metric="cosine").fit(x, y)
    commonest = np.bincount(train.labels, minlength=len(train.class_names)).argmax()
    return Baselines(
        linear_probe=float(probe.score(others, truth, weights)),
        nearest_neighbours=float(nearest.score(others, truth, weights)),
        majority=float(np.mean(validation.labels == commonest)),
        neighbours=votes,
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
            f"with {int(labels[without[0]])} for {source.name_of(int(without[0]))} and "
            f"{len(without)} such labels in all. Leave these images out"
        )


def _check_classes(labels: np.ndarray, source: Source) -> None:
    if len(np.unique(labels)) < 2:
        raise ValueError(
            "Expected training images of at least two classes. Received: "
            f"{len(labels)} images of one class in {source.name}"
        )


def _balanced(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Indices, sorted, of at most `limit` images, as many of every class that has enough."""
    counts = np.bincount(labels)
    classes = np.flatnonzero(counts)
    if not is_integer(limit, len(classes)):
        raise ValueError(
            f"Expected `limit` to be an integer of at least {len(classes)}, one image per class. "
            f"Received: {limit!r}"
        )
    if limit >= len(labels):
        return np.arange(len(labels))
    # What small classes leave goes to the others.
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
    """Return weights of some images of a source, by which classes count as much as in it."""
    classes = len(source.class_names)
    there, here = (np.bincount(some, minlength=classes) for some in (source.labels, labels))
    weights = (there / np.maximum(here, 1))[labels]
    return np.asarray(weights / weights.mean())


def _probe(x: np.ndarray, y: np.ndarray, weights: np.ndarray, seed: int) -> Any:
    """Return a linear classifier with the best regularization."""
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
