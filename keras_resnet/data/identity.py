"""By what a data set is known again when work on it goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
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
    """What changes when the images of a source do, with the names of its classes; fit for JSON.

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


def states_of(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """What changes when another file is put in the place of one of these.

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
        return {"labels": _short(source.labels), "files": dict(_by_class(source, paths))}
    if isinstance(source, LabeledImages):
        return {"labels": _short(source.labels), "pixels": _short(source.images)}
    if isinstance(source, Subset):
        return {**_contents_of(source.source), "chosen": _short(source.indices)}
    if files := getattr(source, "files", ()):
        states = dict(zip(map(str, files), states_of(files), strict=True))
        return {"files": {path: _short(state) for path, state in states.items()}}
    return {"names": _short("\0".join(map(source.name_of, range(len(source)))))}


def _by_class(source: Source, paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    states = states_of(paths)
    order = np.argsort(source.labels, kind="stable")
    ends = np.searchsorted(source.labels[order], np.arange(len(source.class_names) + 1))
    for name, start, end in zip(source.class_names, ends[:-1], ends[1:], strict=True):
        own = order[start:end].tolist()
        names = _short("\0".join(paths[index] for index in own))
        contents = _short("\0".join(states[index] for index in own))
        yield name, f"{len(own)} images, names {names}, contents {contents}"


def _short(content: str | np.ndarray) -> str:
    if isinstance(content, str):
        return hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()[:12]
    return fingerprint(content)[:12]
