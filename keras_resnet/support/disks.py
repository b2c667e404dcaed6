"""Full disks: one message for all that writes, whatever the library that wrote says."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

#: With less than this left, in bytes, a failed write failed for want of space: HDF5, zip and
#: NumPy's writers each report that in their own words, or in none.
_FULL = 64 * 1024

_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
_WORDS = ("No space left", "Disk quota exceeded")


class DiskFullError(OSError):
    """A disk is full. The message names it, says how much is free, and what to do.

    Attributes:
        folders: what is written to on it; of several disks, either may be meant.
        trouble: what is wrong with it, in words.
        spaces: bytes that were free on each disk, and all of them, when it happened: what is
            cleaned up afterwards makes room.
    """

    folders: tuple[Path, ...] = ()
    trouble = "is full"
    spaces: Mapping[int | None, tuple[int, int]] = {}


def raise_if_full(error: BaseException, *folders: Path, only_reported: bool = False) -> None:
    """Raise a `DiskFullError` if `error`, or what caused it, comes of a full disk.

    Args:
        error: what went wrong.
        folders: where the caller writes; a file, or what does not exist yet, stands for its
            folder. The folder of temporary files, where libraries write, may be meant as well.
        only_reported: whether `error` has to say that a disk is full. If not, it is enough that one
            is, unless `error` is about something else.

    Raises:
        DiskFullError: a disk is full.
    """
    chain = list(_chain(error))
    known = next((e for e in chain if isinstance(e, DiskFullError)), None)
    if known is not None:
        # The caller's folder is one that the user knows.
        own = {_device(folder): folder for folder in reversed(folders)}
        temporary = _temporary()
        places = [x if x in temporary else own.get(_device(x), x) for x in known.folders]
        raise _full_disk(places, known.trouble, known.spaces) from error
    candidates = list(dict.fromkeys([*folders, *_temporary()]))
    full = [folder for folder in candidates if _space(folder)[0] < _FULL and _space(folder)[1]]
    if any(_reports(e) for e in chain):
        names = [Path(str(name)) for e in chain if (name := getattr(e, "filename", None))]
        named = [place for place in candidates if names and _device(place) == _device(names[0])]
        raise _full_disk(
            (named or full or [name.parent for name in names])[:1] or candidates
        ) from error
    # Refusals of this package are about something else.
    refusal = isinstance(error, (FileExistsError, ImportError)) or str(error).startswith("Expected")
    if only_reported or refusal:
        return
    if full:
        raise _full_disk(full[:1]) from error


def check_temporary_space(needed: int, purpose: str) -> None:
    """Raise a `DiskFullError` if there is no room for temporary files of so many bytes.

    Args:
        needed: bytes.
        purpose: what takes them.
    """
    folders = _temporary()
    if folders and _space(folders[0])[0] < needed:
        raise _full_disk(folders, f"has no room for the {_size(needed)} of {purpose}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and what was being handled then."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _reports(error: BaseException) -> bool:
    return getattr(error, "errno", None) in _ERRNOS or any(x in str(error) for x in _WORDS)


def _temporary() -> list[Path]:
    try:
        return [Path(tempfile.gettempdir())]
    except OSError:  # None can be written to.
        return []


def _existing(folder: Path) -> Path:
    """The folder, or the closest one above it that there is."""
    folder = folder.absolute()
    return next((place for place in (folder, *folder.parents) if place.exists()), folder)


def _device(folder: Path) -> int | None:
    try:
        return _existing(folder).stat().st_dev
    except OSError:
        return None


def _space(folder: Path) -> tuple[int, int]:
    """Bytes that are free on its disk, and all of them."""
    try:
        usage = shutil.disk_usage(_existing(folder))
    except OSError:
        return _FULL, 0
    return usage.free, usage.total


def _full_disk(
    folders: Sequence[Path],
    trouble: str = DiskFullError.trouble,
    before: Mapping[int | None, tuple[int, int]] = DiskFullError.spaces,
) -> DiskFullError:
    """The error; of several disks, either may be meant. `before` is their space if it is known."""
    temporary = _temporary()
    spaces = {_device(x): before.get(_device(x)) or _space(x) for x in folders}
    # Of two folders on one disk, the first is the caller's.
    places = list({_device(folder): folder for folder in reversed(folders)}.values())[::-1]
    described = [_described(x, *spaces[_device(x)]) for x in places]
    words = [
        f"temporary files, {text}," if x in temporary else text
        for x, text in zip(places, described, strict=True)
    ]
    advice = [] if places == temporary else ["choose an output on another disk"]
    if {_device(place) for place in places} & {_device(place) for place in temporary}:
        advice.append("set TMPDIR to a folder on another disk")
    result = DiskFullError(
        errno.ENOSPC,
        f"The disk of {' or that of '.join(words)} {trouble}. "
        f"{', or '.join(['Free some space and run again', *advice])}",
    )
    result.folders, result.trouble, result.spaces = tuple(places), trouble, spaces
    return result


def _described(folder: Path, free: int, total: int) -> str:
    place = _existing(folder)
    mount = next((p for p in (place, *place.parents) if os.path.ismount(p)), place)
    return f"{folder} (mounted at {mount}, {_size(free)} free of {_size(total)})"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
