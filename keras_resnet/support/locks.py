"""One process at a time: locks that end with the process, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

#: What file systems without locks say.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class BusyError(ValueError):
    """Another process holds a lock. The message says which, such as `process 12 on host`."""


@contextlib.contextmanager
def locked(file: Path) -> Iterator[Callable[[], bool]]:
    """Holds a lock file, and removes it in the end.

    Yields:
        A function that says whether the file is still there, and not another one of its name.

    Raises:
        BusyError: another process holds it, or another thread.
        OSError: it cannot be made.
    """
    lock, owner = _acquired(file)
    if lock is None:
        raise BusyError(f"process {owner}" if owner else "another process")
    held = Path(lock.lock_file).stat()

    def is_there() -> bool:
        try:
            return os.path.samestat(Path(lock.lock_file).stat(), held)
        except OSError:
            return False

    try:
        yield is_there
    finally:
        if is_there():
            with contextlib.suppress(OSError):  # Windows keeps files that are open.
                file.unlink(missing_ok=True)
        lock.release()


def _acquired(file: Path) -> tuple[filelock.BaseFileLock | None, str]:
    """The lock, or None if it is held; and who holds it, if that is known."""
    owner = _owner(file)
    lock: filelock.BaseFileLock = filelock.FileLock(file)
    try:
        try:
            lock.acquire(timeout=0)
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            # That of its own kind: it says itself whose it is, and is removed when it is released.
            file = file.with_name(f"{file.name}.soft")
            owner = _owner(file)
            lock = filelock.SoftFileLock(file)
            lock.acquire(timeout=0)
        else:
            with contextlib.suppress(OSError):  # Windows locks the content, too.
                file.write_text(f"{os.getpid()}\n{platform.node()}\n")
    except filelock.Timeout:
        return None, owner
    return lock, owner


def _owner(file: Path) -> str:
    try:
        return " on ".join(file.read_text().split()[:2])
    except (OSError, ValueError):
        return ""
