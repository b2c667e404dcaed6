"""Checks of single arguments, worded alike everywhere."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from keras_resnet.support.suggest import did_you_mean

#: Suffixes of files of whole Keras models: Keras' own format, and the older one of `model.save`.
MODEL_SUFFIXES = (".keras", ".h5", ".hdf5")

_ABSENT = object()
_NONE: Mapping[str, Any] = {}


def some_of(names: Sequence[str], shown: int = 5) -> str:
    """The first names, and how many there are besides, for messages."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raises ValueError if `value` is not one of `choices`; says which was probably meant."""
    if value not in choices:
        words = (choice for choice in choices if isinstance(choice, str))
        raise ValueError(
            f"Expected `{name}` to be one of {choices}. "
            f"Received: {value!r}{did_you_mean(value, words)}"
        )


def is_integer(value: Any, least: int = 1) -> bool:
    """Whether `value` is an integer, Python's or NumPy's, of at least `least`; booleans are not."""
    integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return integer and int(value) >= least


def check_integer(name: str, value: Any, least: int = 1) -> int:
    """Returns `value` as an `int`; raises ValueError if it is no integer of at least `least`."""
    if not is_integer(value, least):
        raise ValueError(
            f"Expected `{name}` to be an integer of at least {least}. Received: {value!r}"
        )
    return int(value)


def store_integers(config: Any, names: Collection[str], least: int = 1, prefix: str = "") -> None:
    """Checks the integer fields of a frozen dataclass, which may be None where that is the default.

    NumPy's integers become `int`, which JSON takes.

    Raises:
        ValueError: a field is no integer of at least `least`.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None or type(config).__dataclass_fields__[name].default is not None:
            object.__setattr__(config, name, check_integer(prefix + name, value, least))


def check_number(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> None:
    """Raises ValueError if `value` is no finite number in `[low, high]`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise ValueError(f"Expected `{name}` to be a number {bounds}. Received: {value!r}")


def differences(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    defaults: Mapping[str, Any] = _NONE,
    words: str = "{} → {}",
) -> list[str]:
    """Says in which values two nested mappings differ, one line each.

    Args:
        old: of the run, as JSON gives it back.
        new: of what is asked for now, as JSON gives it back. None is a value like any other.
        defaults: what stands for values that `old` lacks, as it is from before they existed; of a
            list, for those of each of its mappings.
        words: what is said of an old value and a new one.

    Returns:
        Lines such as `"recipe.optimizer.learning_rate: 0.1 → 0.2"`, in the order of
        `old`, then of `new`; none if they agree.
    """
    lines = []
    for key in (*old, *(key for key in new if key not in old)):
        default = defaults.get(key, _ABSENT)
        before, now = old.get(key, default), new.get(key, _ABSENT)
        inner = default if isinstance(default, Mapping) else _NONE
        pairs = [(key, before, now)]
        if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
            pairs = [(f"{key}[{i}]", *pair) for i, pair in enumerate(zip(before, now, strict=True))]
        if all(isinstance(side, Mapping) for _, *sides in pairs for side in sides):
            for name, was, is_ in pairs:
                lines += [f"{name}.{line}" for line in differences(was, is_, inner, words)]
        elif before != now:
            values = ("absent" if value is _ABSENT else repr(value) for value in (before, now))
            lines.append(f"{key}: {words.format(*values)}")
    return lines
