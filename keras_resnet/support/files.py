"""Writing so that nothing is lost: under a temporary name first, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: leftovers of killed processes stay there.
    fcntl = None  # type: ignore[assignment]

PARTIAL_PREFIX = ".partial-"

#: With less than this left, a failed write failed for want of space, whatever the library that
#: wrote says.
_FULL = 64 * 1024

#: Younger temporary directories are never taken for leftovers: their lock may be about to be taken.
_LEFTOVER_AGE = 60


@contextlib.contextmanager
def partial_directory(parent: Path) -> Iterator[Path]:
    """A temporary directory inside `parent`: on the same disk, so that renaming is atomic.

    It is removed on every way out; what should stay has to be moved out of it with `publish`. What
    killed processes have left in `parent` is removed, too: a living one holds a lock on its own.

    Raises:
        ValueError: `parent` cannot be written to.
        OSError: the disk filled up, here or inside the block.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(parent)
        path = Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=parent))
    except OSError as error:
        _raise_if_full(parent, error)
        raise ValueError(
            f"Expected a directory that can be written to. Received: {parent} ({error.strerror})"
        ) from error
    try:
        with _locked(path):
            yield path
    except Exception as error:
        _raise_if_full(parent, error)
        raise
    finally:
        shutil.rmtree(path, ignore_errors=True)


def check_new(path: Path, overwrite: bool) -> None:
    """Raises FileExistsError if there is a file at `path` that is not to be overwritten."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"Expected a new file. Received: {path}. Pass --overwrite")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; the file appears at `path` when the block ends without error.

    Raises:
        ValueError: the directory cannot be written to.
        OSError: the disk filled up.
    """
    with partial_directory(path.absolute().parent) as staging:
        yield staging / path.name
        publish({staging / path.name: path.absolute()})


def publish(moves: Mapping[Path, Path]) -> None:
    """Renames files or directories from `moves`' keys to its values, all of them or none.

    What is there already is moved aside first, put back if anything fails, and removed in the end.
    SIGINT and SIGTERM wait until it is done. Only a SIGKILL in between can leave some of the old
    ones aside, in a directory `.replaced-…`, where they are kept.

    Args:
        moves: new path -> final path; all on one disk.

    Raises:
        OSError: a rename failed; everything is where it was.
    """
    parents = {destination.parent for destination in moves.values()}
    for parent in parents:
        parent.mkdir(parents=True, exist_ok=True)
    with _signals_deferred():
        aside = Path(tempfile.mkdtemp(prefix=".replaced-", dir=next(iter(parents))))
        undo: list[tuple[Path, Path]] = []
        try:
            for number, (source, destination) in enumerate(moves.items()):
                if destination.exists():
                    undo.append((destination.replace(aside / str(number)), destination))
                undo.append((source.replace(destination), source))
        except OSError:
            for now, before in reversed(undo):
                now.replace(before)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def replace_durably(source: Path, destination: Path) -> None:
    """Renames a file on the same disk, in one step that a crash of the machine survives, too.

    What was at `destination` is there until the whole new file is.

    Raises:
        OSError: the disk filled up, or the rename failed; `destination` is what it was.
    """
    _synchronize(source, os.O_RDWR)
    source.replace(destination)
    if fcntl is not None:  # Windows cannot open directories.
        _synchronize(destination.parent, os.O_RDONLY)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a directory."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _raise_if_full(parent: Path, error: Exception) -> None:
    """Raises a clear error if `error` comes of a full disk.

    HDF5, zip and TensorFlow writers each report that in their own words, or in none. Where one
    partial directory lies inside another, the outer one names the user's own directory in the end.
    """
    try:
        full = shutil.disk_usage(parent).free < _FULL
    except OSError:
        full = False
    reported = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    if not full and not reported:
        return
    disks = f"{parent} is" if full else f"{parent} or that of {tempfile.gettempdir()} is"
    message = f"The disk of {disks} full. Free some space and run again"
    raise OSError(errno.ENOSPC, message) from error


def _synchronize(path: Path, flags: int) -> None:
    """Waits until the disk has the contents of a file or directory."""
    with _opened(path, flags) as descriptor:
        os.fsync(descriptor)


@contextlib.contextmanager
def _opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Holds a lock on a directory that ends with the process, however the process ends."""
    if fcntl is None:
        yield
        return
    with _opened(directory) as descriptor:
        with contextlib.suppress(OSError):  # Some network disks have no locks.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def remove_leftovers(parent: Path, age: float = _LEFTOVER_AGE) -> None:
    """Removes the temporary directories in `parent` whose processes were killed.

    Args:
        parent: what `partial_directory` was called with.
        age: of the youngest that are removed, in seconds. Below the default, only where no other
            process can be about to lock its own.
    """
    if fcntl is None:
        return
    for leftover in parent.glob(f"{PARTIAL_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime < age:
                continue
            with _opened(leftover) as descriptor:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Delivers SIGINT and SIGTERM after the block. Other threads are never interrupted anyway."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for waiting in received:
            signal.raise_signal(waiting)
