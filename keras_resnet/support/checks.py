"""Checks of single arguments, with the same messages everywhere."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from keras_resnet.support.suggest import did_you_mean

#: Suffixes of whole Keras models: Keras' current format and its older HDF5 format.
MODEL_SUFFIXES = (".keras", ".h5", ".hdf5")

_ABSENT = object()
_NONE: Mapping[str, Any] = {}


def some_of(names: Sequence[str], shown: int = 5) -> str:
    """List the first names for a message, with the number of the others."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raise ValueError if `value` is not one of `choices`; suggest a similar one."""
    if value not in choices:
        words = (choice for choice in choices if isinstance(choice, str))
        raise ValueError(
            f"Expected `{name}` to be one of {choices}. "
            f"Received: {value!r}{did_you_mean(value, words)}"
        )


def is_integer(value: Any, least: int = 1) -> bool:
    """Return whether `value` is an integer of at least `least`; NumPy's count, booleans not."""
    integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return integer and int(value) >= least


def check_integer(name: str, value: Any, least: int = 1) -> int:
    """Return `value` as an `int`; raise ValueError unless it is an integer of at least `least`."""
    if not is_integer(value, least):
        raise ValueError(
            f"Expected `{name}` to be an integer of at least {least}. Received: {value!r}"
        )
    return int(value)


def store_integers(config: Any, names: Collection[str], least: int = 1, prefix: str = "") -> None:
    """Check integer fields of a frozen dataclass, and store them as `int`, which JSON supports.

    Args:
        config: the dataclass.
        names: names of the fields; `None` is accepted where it is the default.
        least: smallest accepted value.
        prefix: prefix of the names in messages.

    Raises:
        ValueError: a field is not an integer of at least `least`.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None or type(config).__dataclass_fields__[name].default is not None:
            object.__setattr__(config, name, check_integer(prefix + name, value, least))


def check_number(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> None:
    """Raise ValueError unless `value` is a finite number in `[low, high]`."""
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
    """Describe the differences between two nested mappings, one line for each value.

    Args:
        old: saved mapping, as parsed from JSON.
        new: current mapping, as parsed from JSON.
        defaults: values for keys that are missing in `old`, as earlier versions did not save them;
            for a list of mappings, defaults of each mapping.
        words: format of an old and a new value.

    Returns:
        Lines such as `"recipe.optimizer.learning_rate: 0.1 → 0.2"`, in the order of `old`, then of
        `new`; empty if the mappings are equal.
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
