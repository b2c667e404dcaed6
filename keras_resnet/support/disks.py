"""Detection of full disks, with one message for the errors of all libraries."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

#: If fewer bytes are free, a failed write is attributed to the full disk, which HDF5, zip and NumPy
#: report differently or not at all.
_FULL = 64 * 1024

_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
_WORDS = ("No space left", "Disk quota exceeded")


class DiskFullError(OSError):
    """Error for a full disk. The message names the disk, its free space and what to do.

    Attributes:
        folders: directories on the disk that are written to; of several disks, any may be full.
        trouble: predicate of the message, such as "is full".
        spaces: free bytes and size of each disk at the time of the error, before any clean-up.
    """

    folders: tuple[Path, ...] = ()
    trouble = "is full"
    spaces: Mapping[int | None, tuple[int, int]] = {}


def raise_if_full(error: BaseException, *folders: Path, only_reported: bool = False) -> None:
    """Raise a `DiskFullError` if a full disk caused `error`.

    Args:
        error: error of writing.
        folders: directories or files, existing or not, that the caller writes. The directory of
            temporary files is always checked, too.
        only_reported: whether `error` or its cause must report a full disk. If not, a full disk is
            assumed to be the cause, unless `error` is a refusal of this package.

    Raises:
        DiskFullError: a disk is full.
    """
    chain = list(_chain(error))
    known = next((e for e in chain if isinstance(e, DiskFullError)), None)
    if known is not None:
        # Name the caller's directory on the same disk, which the user knows.
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
    # Refusals of this package have other causes.
    refusal = isinstance(error, (FileExistsError, ImportError)) or str(error).startswith("Expected")
    if only_reported or refusal:
        return
    if full:
        raise _full_disk(full[:1]) from error


def check_temporary_space(needed: int, purpose: str) -> None:
    """Raise a `DiskFullError` if there is not enough room for temporary files.

    Args:
        needed: number of bytes.
        purpose: content of the files, for the message.
    """
    folders = _temporary()
    if folders and _space(folders[0])[0] < needed:
        raise _full_disk(folders, f"has no room for the {_size(needed)} of {purpose}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its causes and its contexts."""
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
    except OSError:  # No directory of temporary files is writable.
        return []


def _existing(folder: Path) -> Path:
    """Return `folder`, or its nearest existing parent."""
    folder = folder.absolute()
    return next((place for place in (folder, *folder.parents) if place.exists()), folder)


def _device(folder: Path) -> int | None:
    try:
        return _existing(folder).stat().st_dev
    except OSError:
        return None


def _space(folder: Path) -> tuple[int, int]:
    """Return the free bytes and the size of a directory's disk."""
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
    """Return the error for directories on a full disk; `before` is their space, if it is known."""
    temporary = _temporary()
    spaces = {_device(x): before.get(_device(x)) or _space(x) for x in folders}
    # Keep the first directory of each disk, which is the caller's.
    places = list({_device(folder): folder for folder in reversed(folders)}.values())[::-1]
    described = [_described(x, *spaces[_device(x)]) for x in places]
    words = [
        f"temporary files, {text}," if x in temporary else text
        for x, text in zip(places, described, strict=True)
    ]
    advice = [] if places == temporary else ["choose an output on another disk"]
    if {_device(place) for place in places} & {_device(place) for place in temporary}:
        advice.append("set TMPDIR to a directory on another disk")
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
        # Three digits of anything larger would be 1000.
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
