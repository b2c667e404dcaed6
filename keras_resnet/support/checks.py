"""Checks of single arguments, worded alike everywhere."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np


def some_of(names: Sequence[str], shown: int = 5) -> str:
    """The first names, and how many there are besides, for messages."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raises ValueError if `value` is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"Expected `{name}` to be one of {choices}. Received: {value!r}")


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
