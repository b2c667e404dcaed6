"""Suggestions of similar names in messages about unknown names."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

#: Names in other libraries -> possible names here.
_ALIASES: dict[str, tuple[str, ...]] = {
    "lr": ("learning_rate",),
    "wd": ("weight_decay",),
    "bs": ("batch_size",),
    "epochs": ("duration",),
    "optimizer": ("optimizer.name",),
    "scheduler": ("schedule.name",),
    "schedule": ("schedule.name",),
    "ema": ("average.decay",),
    "early_stopping": ("patience",),
    "drop_path_rate": ("stochastic_depth",),
    "survival_probability": ("stochastic_depth",),
    "dilation": ("output_stride",),
    "cardinality": ("groups",),
    "depths": ("blocks",),
    "num_classes": ("classes",),
    "pretrained": ("weights",),
    "checkpoint": ("weights",),
    "image_size": ("input_shape", "size"),
    "img_size": ("input_shape", "size"),
    "activation": ("classifier_activation",),
    "dataset": ("data",),
    "val": ("validation",),
    "bf16": ("bfloat16",),
    "fp16": ("float16",),
    "fp32": ("float32",),
    "half": ("float16",),
    "set": ("net",),
    "tf": ("saved_model",),
    "litert": ("tflite",),
}
#: Limit of suggestions; more do not help.
_MOST = 8


def key_of(name: str) -> str:
    """Return a name in lower case, without spaces, hyphens and underscores."""
    return _plain(name).replace("_", "")


def _plain(name: str) -> str:
    return re.sub(r"[-\s]", "_", name.lower())


def nearest(value: object, choices: Iterable[str]) -> list[str]:
    """Return the choices that are similar to `value`; empty if there are none.

    These are the same name in another spelling or the meaning of an alias; else all names that
    begin or end with it, such as `optimizer.momentum` for `momentum`; else the most similar name.
    """
    known = {key_of(choice): choice for choice in choices}
    if not isinstance(value, str) or not value:
        return []
    last = _plain(value.rpartition(".")[2])
    candidates = (value, *_ALIASES.get(_plain(value), ()), last, *_ALIASES.get(last, ()))
    for name in candidates:
        if (key := key_of(name)) in known:
            return [known[key]]
        part = re.escape(_plain(name))
        longer = re.compile(rf"{part}[_.:/].+|.+[_.:/]{part}")
        family = [choice for choice in known.values() if longer.fullmatch(_plain(choice))]
        if 0 < len(family) <= _MOST:
            return family
    for choice in reversed(list(known.values())):
        known.setdefault(key_of(choice.rpartition(".")[2]), choice)
    return [known[key] for key in difflib.get_close_matches(key_of(value), known, n=1)]


def nearest_file(name: str, names: Iterable[str]) -> list[str]:
    """Return the most similar file name, compared without suffixes, in a list that may be empty.

    Among files that differ in their suffixes only, the one with the suffix of `name` is chosen.
    """
    by_stem: dict[str, str] = {}
    for known in names:
        stem = key_of(Path(known).stem)
        if stem not in by_stem or Path(known).suffix == Path(name).suffix:
            by_stem[stem] = known
    found = difflib.get_close_matches(key_of(Path(name).stem), by_stem, n=1)
    return [by_stem[stem] for stem in found]


def did_you_mean_beside(path: Path, fits: Callable[[Path], bool]) -> str:
    """Return the end of a message about a path where nothing is.

    Args:
        path: what was received.
        fits: whether something beside it may have been meant.

    Returns:
        `". Did you mean NAME?"` with the most similar name beside it, or nothing.
    """
    # A folder that cannot be listed tells nothing.
    with contextlib.suppress(OSError):
        beside = sorted(other.name for other in path.parent.iterdir() if fits(other))
        if found := nearest_file(path.name, beside):
            return f". Did you mean {found[0]}?"
    return ""


def did_you_mean(value: object, choices: Iterable[str], otherwise: str = "") -> str:
    """Return the end of a message about an unknown name: a suggestion.

    Args:
        value: the unknown name.
        choices: all known names.
        otherwise: a sentence without full stop, used if no name is similar.

    Returns:
        `". Did you mean learning_rate?"`, `". OTHERWISE"` or `""`.
    """
    if found := nearest(value, choices):
        *some, last = found
        return f". Did you mean {', '.join(some)}{' or ' * bool(some)}{last}?"
    return f". {otherwise}" if otherwise else ""
