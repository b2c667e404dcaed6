"""Writing so that nothing is lost: under a temporary name first, then renamed onto the final one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

#: Temporary names are `.partial-<process id>-<random>`, so that leftovers of killed processes can be recognised.
PARTIAL_PREFIX = ".partial-"

#: With less than this left, a failed write failed for want of space, whatever the library that wrote says.
_FULL = 64 * 1024


@contextlib.contextmanager
def partial_directory(parent: Path) -> Iterator[Path]:
    """A temporary directory inside `parent` (on the same disk, so that renaming out of it is atomic).

    It is removed on every way out; what should stay has to be moved out of it with `publish`. What processes that no
    longer run have left in `parent` is removed, too.

    Raises:
        OSError: `parent` cannot be written to, or the disk filled up inside the block.
    """
    path = _make_partial(parent)
    try:
        yield path
    except Exception as error:
        # HDF5, zip and TensorFlow writers each report a full disk in their own words, or in none.
        if "No space left" in str(error) or shutil.disk_usage(parent).free < _FULL:
            raise OSError(
                errno.ENOSPC, f"The disk that holds {parent} is full. Free some space and run again"
            ) from error
        raise
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _make_partial(parent: Path) -> Path:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(parent)
        return Path(tempfile.mkdtemp(prefix=f"{PARTIAL_PREFIX}{os.getpid()}-", dir=parent))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise type(error)(
            error.errno, f"Expected a directory that can be written to. Received: {parent} ({reason})"
        ) from error


def _remove_leftovers(parent: Path) -> None:
    for leftover in parent.glob(f"{PARTIAL_PREFIX}*"):
        process = leftover.name.removeprefix(PARTIAL_PREFIX).partition("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(leftover, ignore_errors=True)


def publish(source: Path, destination: Path) -> None:
    """Renames the file or directory `source` to `destination`, replacing what is there.

    A file is replaced in one step. A directory cannot be: the old one is moved aside first, put back if the new one
    cannot take its place, and removed afterwards.
    """
    if not destination.exists() or not (destination.is_dir() or source.is_dir()):
        destination.parent.mkdir(parents=True, exist_ok=True)
        source.replace(destination)
        return
    with partial_directory(destination.parent) as aside:
        old = destination.replace(aside / "old")
        try:
            source.replace(destination)
        except BaseException:
            old.replace(destination)
            raise


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a directory."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
