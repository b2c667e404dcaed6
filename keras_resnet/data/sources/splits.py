"""The splits of a data set: training, validation and test, and the names they are known by."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from keras_resnet.data.sources.base import Source, Subset
from keras_resnet.support.checks import some_of

#: The names of the splits, in their order.
SPLITS = ("train", "validation", "test")

#: Common names of splits, in any case and with additions such as a year: `Training_Set`, `val2017`.
_COMMON = re.compile(
    r"(?:seg)?[\W\d_]*"
    r"(?:(?P<train>train(?:ing)?)"
    r"|(?P<validation>val(?:id(?:at(?:e|ion))?)?|dev(?:elopment)?|eval(?:uation)?)"
    r"|(?P<test>test(?:s|ing)?|hold[-_ ]?out))"
    r"[\W\d_]*(?:set|data|dataset|images?|split)?[\W\d_]*",
    re.IGNORECASE,
)


class Splits(NamedTuple):
    """The splits of a data set.

    Attributes:
        train: the training split; empty if the data set has only other splits.
        validation: the validation split, by which to choose for instance the best epoch; None if
            there is none.
        test: function that opens the test split, which is for the final metrics only; None if there
            is none. Its files are neither listed nor read before.
    """

    train: Source
    validation: Source | None = None
    test: Callable[[], Source] | None = None


def split_of(name: str) -> str | None:
    """Return the split that a name stands for, such as `validation` for `dev`; None if none."""
    match = _COMMON.fullmatch(name)
    return match and match.lastgroup


def named_splits(names: Iterable[str], where: str) -> dict[str, str]:
    """Return split -> name for the names that stand for splits, in the order of `SPLITS`.

    Args:
        names: names, such as those of folders.
        where: the place of the names, for messages.

    Raises:
        ValueError: two names stand for the same split.
    """
    found: dict[str, str] = {}
    for name in names:
        split = split_of(name)
        if split is not None and found.setdefault(split, name) != name:
            raise ValueError(
                f"Expected one name for the {split} split. Received: {where}, with {found[split]} "
                f"and {name}. Rename or remove one of them"
            )
    return {split: found[split] for split in SPLITS if split in found}


def warn_of_left_out(names: Iterable[str], where: str) -> None:
    """Warn that files or folders in `where` are not read because their names name no split."""
    if names := list(names):
        warnings.warn(
            f"Left out of {where}: {some_of(names)}. Their names do not belong to one of the "
            f"splits {', '.join(SPLITS)}; rename them if they should be read",
            stacklevel=2,
        )


def open_splits(openers: Mapping[str, Callable[[], Source]]) -> Splits:
    """Open the splits of a data set, except the test split.

    Args:
        openers: split -> function that opens it; at least one. Without `"train"`, the training
            split is empty and has the classes of another split.
    """
    test = openers.get("test")
    validation = openers["validation"]() if "validation" in openers else None
    if "train" in openers:
        return Splits(openers["train"](), validation, test)
    other = validation or openers["test"]()
    empty = Subset(other, np.zeros(0, np.int64), f"{other.name} without a training split")
    return Splits(empty, validation, test)
