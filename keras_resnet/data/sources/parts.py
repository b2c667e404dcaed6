"""The parts of a data set: what they are for, and the names that they go by."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from keras_resnet.data.sources.base import Source, Subset
from keras_resnet.support.checks import some_of

#: Names of the parts, in their order.
PARTS = ("train", "validation", "test")

#: What people call them, in any case, with a year or `set` or the like: `Training_Set`, `val2017`.
_USUAL = re.compile(
    r"(?:seg)?[\W\d_]*"
    r"(?:(?P<train>train(?:ing)?)"
    r"|(?P<validation>val(?:id(?:at(?:e|ion))?)?|dev(?:elopment)?|eval(?:uation)?)"
    r"|(?P<test>test(?:s|ing)?|hold[-_ ]?out))"
    r"[\W\d_]*(?:set|data|dataset|images?|split)?[\W\d_]*",
    re.IGNORECASE,
)


class Parts(NamedTuple):
    """A data set as its source divides it.

    Attributes:
        train: to train on. Empty if there is another part alone.
        validation: to choose by, such as the best epoch; None if there is none.
        test: opens what is only for a last figure; None if there is no such part. Nothing of it is
            listed or read before.
    """

    train: Source
    validation: Source | None = None
    test: Callable[[], Source] | None = None


def part_of(name: str) -> str | None:
    """Return the part that a usual name stands for, such as `validation` for `valid` and `dev`."""
    match = _USUAL.fullmatch(name)
    return match and match.lastgroup


def named_parts(names: Iterable[str], where: str) -> dict[str, str]:
    """Select the names that stand for parts: part -> name, in the order of `PARTS`.

    Raises:
        ValueError: two of them, in `where`, stand for the same part.
    """
    found: dict[str, str] = {}
    for name in names:
        part = part_of(name)
        if part is not None and found.setdefault(part, name) != name:
            raise ValueError(
                f"Expected one name for the {part} part. Received: {where}, with {found[part]} and "
                f"{name}. Rename or remove one of them"
            )
    return {part: found[part] for part in PARTS if part in found}


def warn_of_left_out(names: Iterable[str], where: str) -> None:
    """Warns that these, in `where`, are not read, if there are any, as their names tell no part."""
    if names := list(names):
        warnings.warn(
            f"Left out of {where}: {some_of(names)}. By their names they belong to none of the "
            f"parts {', '.join(PARTS)}; rename them if they do",
            stacklevel=2,
        )


def open_parts(openers: Mapping[str, Callable[[], Source]]) -> Parts:
    """The parts that these functions open, at least one; a test part stays closed.

    Beside a part alone, the training part is an empty one, of the same classes.
    """
    test = openers.get("test")
    validation = openers["validation"]() if "validation" in openers else None
    if "train" in openers:
        return Parts(openers["train"](), validation, test)
    other = validation or openers["test"]()
    empty = Subset(other, np.zeros(0, np.int64), f"{other.name} without a training part")
    return Parts(empty, validation, test)
