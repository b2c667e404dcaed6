"""The identity of a data set, by which interrupted work recognizes it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.data.sources.base import Source, Subset
from keras_resnet.data.sources.memory import LabeledImages
from keras_resnet.data.threads import map_in_threads
from keras_resnet.support.fingerprints import fingerprint, fingerprint_of_file

#: Files of so many bytes in all are read to know them again: less than a second on most disks.
_CHEAP = 2**27

#: Disks and networks answer several questions at once; threads, and files that each takes.
_THREADS, _CHUNK = 16, 256


def identity_of(source: Source) -> dict[str, Any]:
    """Return a value that changes when the images or classes of a source do; fit for JSON.

    Image files count with their names and states (`states_of`), class by class, so that it can be
    said which of them changed; other files by their states; images in memory by their pixels. Of
    sources of other kinds, only the names of the images are known.
    """
    return {
        "source": source.name,
        "images": len(source),
        "classes": list(source.class_names),
        **_contents_of(source),
    }


#: What identities of before contents were noted do not have.
_CONTENTS = ("files", "pixels", "chosen", "names")


def defaults_of_earlier(
    settings: Mapping[str, Any], earlier: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Stands in for the contents of data in settings of before they were noted.

    Warns that nobody knows whether they are the same, if these are such settings.

    Args:
        settings: what is asked for, with `identity_of` as `train_data` and `validation_data`.
        earlier: what was noted.
    """
    found: dict[str, Any] = {}
    for part in ("train_data", "validation_data"):
        before = (earlier or {}).get(part)
        if isinstance(before, Mapping) and before.keys().isdisjoint(_CONTENTS):
            found[part] = settings[part]
    if found:
        warn_of_unknown_contents()
    return found


def warn_of_unknown_contents() -> None:
    """Warns where work goes on that is from before `identity_of` noted contents."""
    warnings.warn(
        "The run is from before the contents of images were noted: whether they are the same as "
        "then is not known",
        stacklevel=4,
    )


def states_of(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return a value that changes when one of these files is replaced.

    Returns:
        The hash of each one's contents, if all have no more than 128 MiB together; else its size
        and the time of its last change. `missing` where there is none.
    """
    sizes_and_times = list(map_in_threads(_size_and_time, paths, workers=_THREADS, chunk=_CHUNK))
    if sum(size for size, _ in sizes_and_times) > _CHEAP:
        return ["missing" if size < 0 else f"{size} {time}" for size, time in sizes_and_times]
    return list(map_in_threads(_hash, paths, workers=_THREADS, chunk=_CHUNK))


def _size_and_time(path: str | os.PathLike[str]) -> tuple[int, int]:
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return -1, 0
    return found.st_size, found.st_mtime_ns


def _hash(path: str | os.PathLike[str]) -> str:
    # Reading a pipe or a device might never end.
    try:
        return fingerprint_of_file(Path(path)) if Path(path).is_file() else "missing"
    except (OSError, ValueError):
        return "missing"


def _contents_of(source: Source) -> dict[str, Any]:
    path_of = getattr(source, "path_of", lambda _: None)
    paths: list[Any] = [path_of(index) for index in range(len(source))]
    if paths and None not in paths:
        return {"labels": _labels(source), "files": dict(_by_class(source, paths))}
    if isinstance(source, LabeledImages):
        return {"labels": _labels(source), "pixels": _short(source.images)}
    if isinstance(source, Subset):
        chosen = {"labels": _labels(source), "chosen": _short(source.indices)}
        return {**_contents_of(source.source), **chosen}
    if files := getattr(source, "files", ()):
        states = zip(map(str, files), states_of(files), strict=True)
        return {"files": {path: _in_words([state]) for path, state in states}}
    return {"names": _short("\0".join(map(source.name_of, range(len(source)))))}


def _by_class(source: Source, paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    states = states_of(paths)
    order = np.argsort(source.labels, kind="stable")
    ends = np.searchsorted(source.labels[order], np.arange(len(source.class_names) + 1))
    for name, start, end in zip(source.class_names, ends[:-1], ends[1:], strict=True):
        own = order[start:end].tolist()
        names = _short("\0".join(paths[index] for index in own))
        yield name, f"{len(own)} images, names {names}, {_in_words([states[i] for i in own])}"


def _in_words(states: Sequence[str]) -> str:
    """The states of several files, shortened."""
    if not any(" " in state for state in states):
        return f"contents {_short(chr(0).join(states))}"
    sizes, times = (
        _short("\0".join(state.split(" ")[place] for state in states if " " in state))
        for place in (0, 1)
    )
    return f"sizes {sizes}, times {times}"


def without_times(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity without times, which copies on another machine need not share."""
    result: dict[str, Any] = json.loads(
        re.sub(r", times \w+", "", json.dumps(known, default=np.generic.item))
    )
    return result


def _labels(source: Source) -> str:
    return hashlib.sha256(source.labels.tobytes()).hexdigest()[:16]


def _short(content: str | np.ndarray) -> str:
    if isinstance(content, str):
        return hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()[:12]
    return fingerprint(content)[:12]
