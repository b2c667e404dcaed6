"""Names of ImageNet's classes, and predictions in words."""

from __future__ import annotations

import functools
import importlib.resources
import itertools
import re
import unicodedata
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from keras_resnet.support.checks import check_integer

#: Models whose answers should not get ImageNet's names -> what says why, or None once they may.
#: `keras_resnet.build` notes the networks of 1,000 classes that it gives random weights.
DOUBTFUL: weakref.WeakKeyDictionary[Any, Callable[[Any], str | None]]
DOUBTFUL = weakref.WeakKeyDictionary()

_WORDNET_ID = re.compile(r"n[0-9]{8}")


@functools.cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """WordNet id and name of the 1,000 classes of ILSVRC-2012, in the order of their indices.

    That is the order of the WordNet ids, which all published classifiers have. A name is the first
    lemma of the id in WordNet 3.0, with spaces, except that two cranes, two maillots and the
    cardigan and the Cardigan (a dog) are told apart, so that all names differ.
    """
    file = importlib.resources.files("keras_resnet.images") / "imagenet_classes.tsv"
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return tuple((wordnet_id, name) for wordnet_id, name in rows)


#: In the order of the original archive's labels.
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def dataset_classes(dataset: str) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Names of the classes of `"imagenet"` or `"cifar10"`, and their ids if they have any."""
    if dataset == "cifar10":
        return CIFAR10_CLASSES, None
    ids, names = zip(*imagenet_classes(), strict=True)
    return names, ids


def names_and_ids(classes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Names of classes, and their ids if all are called by WordNet ids.

    Ids get ImageNet's names; one that is not among its classes is its own name.
    """
    if not are_wordnet_ids(classes):
        return tuple(classes), None
    known = dict(imagenet_classes())
    return tuple(known.get(wordnet_id, wordnet_id) for wordnet_id in classes), tuple(classes)


def are_wordnet_ids(names: Sequence[str]) -> bool:
    """Whether all of these are WordNet ids of nouns, such as `n01440764`."""
    return all(_WORDNET_ID.fullmatch(name) for name in names)


def indices_of(names: Sequence[str]) -> dict[str, int]:
    """The index of every name but of those that several classes have, which tell none of them."""
    counts = Counter(names)
    return {name: index for index, name in enumerate(names) if counts[name] == 1}


def alike_names(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Group the names that differ only in case, Unicode form or outer spaces."""

    def form(name: str) -> str:
        return unicodedata.normalize("NFKC", name).casefold().strip()

    groups = itertools.groupby(sorted(names, key=form), form)
    return [group for _, own in groups if len(group := tuple(own)) > 1]


def decode_predictions(
    predictions: Any,
    top: int = 5,
    class_names: Sequence[str] | None = None,
    class_ids: Sequence[str] | None = None,
) -> list[list[tuple[str, str, float]]]:
    """The classes with the highest scores, in words, as keras.applications gives them.

    Args:
        predictions: `(n, classes)`, an array or tensor of scores: probabilities or logits.
        top: how many classes per row; all of them if there are fewer.
        class_names: name of each class. By default, predictions of 1,000 classes are ImageNet's;
            a warning names the networks of this process that have random weights.
        class_ids: id of each class, with `class_names`.

    Returns:
        For each row, highest score first (of equal scores, the lower class index first), tuples of
        an id, a name and the score. The id is the WordNet id of ImageNet's classes, and with
        `class_names` the class index as a string (names may be equal, ids never are), unless there
        are `class_ids`.

    Raises:
        ValueError: `predictions` has another shape, `class_names` another length, or `top` is no
            integer of at least 1.
    """
    check_integer("top", top)
    scores = _scores(predictions)
    count = scores.shape[1]
    if class_names is None and class_ids is None and count == 1000:
        class_ids, class_names = zip(*imagenet_classes(), strict=True)
        _warn_of_doubts()
    if class_names is None:
        raise ValueError(
            "Expected predictions of ImageNet's 1000 classes, or `class_names`. Received: "
            f"predictions of {count} classes. Pass their names as `class_names`"
        )
    for field, values in (("class_names", class_names), ("class_ids", class_ids)):
        if values is not None and (isinstance(values, str) or len(values) != count):
            received = repr(values) if isinstance(values, str) else len(values)
            raise ValueError(
                f"Expected `{field}` to be {count} names, one per column of the predictions. "
                f"Received: {received}"
            )
    ids = range(count) if class_ids is None else class_ids
    orders = np.argsort(-scores, axis=-1, kind="stable")[:, :top]
    return [
        [(str(ids[index]), str(class_names[index]), float(row[index])) for index in order]
        for row, order in zip(scores, orders, strict=True)
    ]


def _warn_of_doubts() -> None:
    """Warns of every model whose predictions these may be, though they mean nothing."""
    for model, reason_of in list(DOUBTFUL.items()):
        if reason := reason_of(model):
            warnings.warn(f"If these are predictions of {model.name}: {reason}", stacklevel=3)
        else:
            del DOUBTFUL[model]


def _scores(predictions: Any) -> np.ndarray:
    """The predictions as float64 `(n, classes)`."""
    try:
        if not isinstance(predictions, (np.ndarray, list, tuple)):
            # Imported here: Keras brings TensorFlow, which arrays do without.
            import keras

            predictions = keras.ops.convert_to_numpy(predictions)
        scores = np.asarray(predictions, np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Expected predictions of shape (n, classes). Received: no array of numbers: {error}"
        ) from error
    if scores.ndim != 2:
        raise ValueError(
            f"Expected predictions of shape (n, classes). Received: {scores.shape}. Put a single "
            "prediction into a batch: `predictions[numpy.newaxis]`"
        )
    return scores
