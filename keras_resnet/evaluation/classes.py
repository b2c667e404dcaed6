"""Mapping of a model's output columns to the classes of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_resnet.images.labels import dataset_classes, indices_of
from keras_resnet.support.checks import some_of


class Classes:
    """Names of classes, in the order of their indices, and their ids if they have any."""

    def __init__(
        self, count: int, names: Sequence[str] | None = None, ids: Sequence[str] | None = None
    ) -> None:
        """Takes what a model or a data set knows; 1,000 classes without names are ImageNet's."""
        if names is None and count == 1000:
            names, ids = dataset_classes("imagenet")
        self.are_named = names is not None
        self.names = tuple(names) if names is not None else tuple(map(str, range(count)))
        self.ids = None if ids is None else tuple(ids)

    def __len__(self) -> int:
        return len(self.names)


def columns_of(model: Classes, data: Classes, match_names: bool) -> np.ndarray | None:
    """The column of the model's output for every class of the data.

    Args:
        model: what the model answers.
        data: what the images are labelled with.
        match_names: whether classes are found by id, name, or index written as a number
            (ImageNet-V2's folders), whatever their order; classes that the data does not have are
            left out of the answers then.

    Returns:
        `(classes of the data,)`, int; None if they are the model's own, in the same order.

    Raises:
        ValueError: the classes are not the same, or not in the same order, and are not to be
            matched; or a class of the data is none of the model's.
    """
    pairs = [(model.names, data.names)]
    if model.ids and data.ids:
        pairs.insert(0, (model.ids, data.ids))
    if not match_names:
        unnamed = not (model.are_named and data.are_named) and len(model) == len(data)
        if unnamed or any(own == theirs for own, theirs in pairs):
            return None
        raise ValueError(_difference(model, data))
    every = [*pairs, (tuple(map(str, range(len(model)))), data.names)]
    found = [_found(own, theirs) for own, theirs in every]
    best = min(found, key=lambda result: len(result[1]))
    if best[1]:
        raise ValueError(
            f"Expected classes that the model has, by name. Received: {some_of(best[1])}, which "
            f"are none, or several, of the model's {len(model)} ({some_of(model.names)})"
        )
    return np.array(best[0])


def _found(model: Sequence[str], data: Sequence[str]) -> tuple[list[int], list[str]]:
    """Indices of the data's classes among the model's, and the names that are not there."""
    places = indices_of(model)
    return [places[name] for name in data if name in places], [x for x in data if x not in places]


def _difference(model: Classes, data: Classes) -> str:
    """Return a sentence about how the classes differ."""
    only_model = [name for name in model.names if name not in set(data.names)]
    only_data = [name for name in data.names if name not in set(model.names)]
    sides = ((only_model, "the model"), (only_data, "the data"))
    lists = [f"{some_of(names)} only in {where}" for names, where in sides if names]
    if not lists:
        place = next(
            i for i, (a, b) in enumerate(zip(model.names, data.names, strict=True)) if a != b
        )
        lists = [
            f"the same classes in another order (class {place} is {model.names[place]} in the "
            f"model and {data.names[place]} in the data)"
        ]
    count = "1 class" if len(data) == 1 else f"{len(data)} classes"
    return (
        f"Expected data with the model's {len(model)} classes, in their order. Received: {count}, "
        f"{'; '.join(lists)}. To match them by name, pass `match_names=True`"
    )
