"""Mapping of a model's output columns to the classes of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_resnet.images.labels import dataset_classes, indices_of
from keras_resnet.support.checks import some_of


class Classes:
    """The names and ids of the classes of a model or data set, in the order of their indices.

    Args:
        count: number of classes.
        names: one name per class, if known. 1,000 classes without names are taken for ImageNet's.
        ids: identifiers of the classes, such as WordNet ids, or None.
    """

    def __init__(
        self, count: int, names: Sequence[str] | None = None, ids: Sequence[str] | None = None
    ) -> None:
        if names is None and count == 1000:
            names, ids = dataset_classes("imagenet")
        self.are_named = names is not None
        self.names = tuple(names) if names is not None else tuple(map(str, range(count)))
        self.ids = None if ids is None else tuple(ids)

    def __len__(self) -> int:
        return len(self.names)


def columns_of(model: Classes, data: Classes, match_names: bool) -> np.ndarray | None:
    """Return the column of the model's output for every class of the data.

    Args:
        model: classes of the model.
        data: classes of the data.
        match_names: whether to match the classes by id, by name, or by an index as a name (the
            folders of ImageNet-V2), in any order. Predictions are then limited to the classes of
            the data.

    Returns:
        `(classes of the data,)`, int; None if the data have the model's classes in the same order.

    Raises:
        ValueError: with `match_names`, the model lacks a class of the data; without it, the classes
            or their order differ.
    """
    pairs = [(model.names, data.names)]
    if model.ids and data.ids:
        pairs.insert(0, (model.ids, data.ids))
    if not match_names:
        unnamed = not (model.are_named and data.are_named) and len(model) == len(data)
        if unnamed or any(of_model == of_data for of_model, of_data in pairs):
            return None
        raise ValueError(_difference(model, data))
    indices = tuple(map(str, range(len(model))))
    matches = [_match(*pair) for pair in (*pairs, (indices, data.names))]
    columns, unknown = min(matches, key=lambda match: len(match[1]))
    if unknown:
        raise ValueError(
            f"Expected classes with the name of one class of the model. Received: "
            f"{some_of(unknown)}, which are the names of none, or of several, of the model's "
            f"{len(model)} classes ({some_of(model.names)})"
        )
    return np.array(columns)


def _match(model: Sequence[str], data: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the indices of the data's names among the model's, and the names that are missing."""
    indices = indices_of(model)
    return [indices[x] for x in data if x in indices], [x for x in data if x not in indices]


def _difference(model: Classes, data: Classes) -> str:
    """Return the message about the difference between the classes of the model and of the data."""
    only_model = [name for name in model.names if name not in set(data.names)]
    only_data = [name for name in data.names if name not in set(model.names)]
    sides = ((only_model, "the model"), (only_data, "the data"))
    lists = [f"{some_of(names)} only in {where}" for names, where in sides if names]
    if not lists:
        index = next(
            i for i, (a, b) in enumerate(zip(model.names, data.names, strict=True)) if a != b
        )
        lists = [
            f"the same classes in another order (class {index} is {model.names[index]} in the "
            f"model and {data.names[index]} in the data)"
        ]
    count = "1 class" if len(data) == 1 else f"{len(data)} classes"
    return (
        f"Expected data with the model's {len(model)} classes, in their order. Received: {count}, "
        f"{'; '.join(lists)}. To match them by name, pass `match_names=True`"
    )
