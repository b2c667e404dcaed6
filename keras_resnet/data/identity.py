"""The identity of a data set, which interrupted work checks before it resumes."""

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

#: Files of at most this total size are identified by a hash of their contents, which takes less
#: than a second on most disks.
_HASHED_BYTES = 2**27

#: Threads that inspect files, and files per task: disks and networks serve requests in parallel.
_THREADS, _CHUNK = 16, 256


def identity_of(source: Source) -> dict[str, Any]:
    """Return a JSON-serializable value that changes when a source's images or classes change.

    Image files are identified by their names and states (`states_of`), class by class, so that a
    message can name the class that changed; files of several records by their states; images in
    memory by their pixels; images of other sources by their names alone.
    """
    return {
        "source": source.name,
        "images": len(source),
        "classes": list(source.class_names),
        **_contents_of(source),
    }


#: Keys of the contents, which identities saved by earlier versions of this package lack.
_CONTENTS = ("files", "pixels", "chosen", "names")


def defaults_of_earlier(
    settings: Mapping[str, Any], earlier: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the data identities to use for saved settings that lack the contents of the data.

    Warn that the contents cannot be compared if there are such settings.

    Args:
        settings: the requested settings, with an `identity_of` as `train_data` and as
            `validation_data`.
        earlier: the saved settings.
    """
    found: dict[str, Any] = {}
    for key in ("train_data", "validation_data"):
        before = (earlier or {}).get(key)
        if isinstance(before, Mapping) and before.keys().isdisjoint(_CONTENTS):
            found[key] = settings[key]
    if found:
        warn_of_unknown_contents()
    return found


def warn_of_unknown_contents() -> None:
    """Warn that a resumed run was saved before `identity_of` included the contents."""
    warnings.warn(
        "This run was saved by an earlier version, which did not record the contents of the "
        "images: whether they have changed since is not known",
        stacklevel=4,
    )


def states_of(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return, for each file, a text that changes when the file is replaced.

    Returns:
        The hash of the contents of each file if all files together have at most 128 MiB; otherwise
        its size and the time of its last modification. `"missing"` for a file that does not exist.
    """
    sizes_and_times = list(map_in_threads(_size_and_time, paths, workers=_THREADS, chunk=_CHUNK))
    if sum(size for size, _ in sizes_and_times) > _HASHED_BYTES:
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
        return {"files": {path: _summary([state]) for path, state in states}}
    return {"names": _short("\0".join(map(source.name_of, range(len(source)))))}


def _by_class(source: Source, paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    states = states_of(paths)
    order = np.argsort(source.labels, kind="stable")
    ends = np.searchsorted(source.labels[order], np.arange(len(source.class_names) + 1))
    for name, start, end in zip(source.class_names, ends[:-1], ends[1:], strict=True):
        indices = order[start:end].tolist()
        names = _short("\0".join(paths[i] for i in indices))
        summary = _summary([states[i] for i in indices])
        yield name, f"{len(indices)} images, names {names}, {summary}"


def _summary(states: Sequence[str]) -> str:
    """Return a short text that changes with any of these states."""
    if not any(" " in state for state in states):
        return f"contents {_short(chr(0).join(states))}"
    sizes, times = (
        _short("\0".join(state.split(" ")[place] for state in states if " " in state))
        for place in (0, 1)
    )
    return f"sizes {sizes}, times {times}"


def without_times(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity without modification times, which copies of the files may not share."""
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
