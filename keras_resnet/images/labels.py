"""Class names of data sets, and decoding of predictions."""

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

#: Models whose predictions may be meaningless -> a function that returns the reason, or `None` once
#: the model is trained. `keras_resnet.build` adds networks with 1,000 classes.
PERHAPS_UNTRAINED: weakref.WeakKeyDictionary[Any, Callable[[Any], str | None]]
PERHAPS_UNTRAINED = weakref.WeakKeyDictionary()

_WORDNET_ID = re.compile(r"n[0-9]{8}")


@functools.cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """Return WordNet id and name of the 1,000 classes of ILSVRC-2012, in the order of the ids.

    All published classifiers have this order. A name is the first lemma of the id in WordNet 3.0,
    with spaces. Two cranes, two maillots, and the cardigan and the Cardigan (a dog) have longer
    names, so that all names are different.
    """
    file = importlib.resources.files("keras_resnet.images") / "imagenet_classes.tsv"
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return tuple((wordnet_id, name) for wordnet_id, name in rows)


#: Classes of CIFAR-10, in the order of the labels in the original archive.
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
    """Return the class names of `"imagenet"` or `"cifar10"`, and the class ids or `None`."""
    if dataset == "cifar10":
        return CIFAR10_CLASSES, None
    ids, names = zip(*imagenet_classes(), strict=True)
    return names, ids


def names_and_ids(classes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Return names and ids for classes that are given by names or by WordNet ids.

    Args:
        classes: names or WordNet ids.

    Returns:
        Names, and ids if all `classes` are WordNet ids, else `None`. The name for an id is
        ImageNet's; an id that is not in ImageNet is its own name.
    """
    if not are_wordnet_ids(classes):
        return tuple(classes), None
    known = dict(imagenet_classes())
    return tuple(known.get(wordnet_id, wordnet_id) for wordnet_id in classes), tuple(classes)


def are_wordnet_ids(names: Sequence[str]) -> bool:
    """Return whether all `names` are WordNet ids of nouns, such as `n01440764`."""
    return all(_WORDNET_ID.fullmatch(name) for name in names)


def indices_of(names: Sequence[str]) -> dict[str, int]:
    """Return the index of each name that only one class has."""
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
    """Return the classes with the highest scores, as `keras.applications` does.

    Args:
        predictions: scores, such as probabilities or logits: an array or tensor `(n, classes)`.
        top: number of classes per row; all classes if there are fewer.
        class_names: name of each class; by default ImageNet's, for predictions of 1,000 classes. By
            default, a warning names networks of this process that have random weights.
        class_ids: id of each class, with `class_names`; by default the index of the class.

    Returns:
        A list of tuples `(id, name, score)` for each row, highest score first, and the lower class
        index first among equal scores. The ids are strings; ImageNet's are WordNet ids.

    Raises:
        ValueError: `predictions` has another shape, `class_names` or `class_ids` another length, or
            `top` is not an integer of at least 1.

    Examples:
        >>> keras_resnet.decode_predictions([[0.2, 0.8]], top=1, class_names=["cat", "dog"])
        [[('1', 'dog', 0.8)]]
    """
    check_integer("top", top)
    scores = _scores(predictions)
    count = scores.shape[1]
    if class_names is None and class_ids is None and count == 1000:
        class_ids, class_names = zip(*imagenet_classes(), strict=True)
        _warn_if_untrained()
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


def _warn_if_untrained() -> None:
    """Warn about each untrained model, as the predictions may be its own and mean nothing."""
    for model, reason_of in list(PERHAPS_UNTRAINED.items()):
        if reason := reason_of(model):
            warnings.warn(f"If these are predictions of {model.name}: {reason}", stacklevel=3)
        else:
            del PERHAPS_UNTRAINED[model]


def _scores(predictions: Any) -> np.ndarray:
    """Convert predictions to a float64 array `(n, classes)`."""
    try:
        if not isinstance(predictions, (np.ndarray, list, tuple)):
            # Keras imports TensorFlow, which arrays do not need.
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
