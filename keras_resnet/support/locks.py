"""File locks between processes, which end with the process that holds them."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

#: Error numbers of file systems without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class BusyError(ValueError):
    """Error for a lock that another process holds; the message is like `process 12 on host`."""


@contextlib.contextmanager
def locked(file: Path) -> Iterator[Callable[[], bool]]:
    """Hold a lock file, and remove it at the end.

    Yields:
        A function that returns whether the file still exists and is the same.

    Raises:
        BusyError: another process or thread holds the lock.
        OSError: the file cannot be created.
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
            with contextlib.suppress(OSError):  # Windows cannot remove open files.
                file.unlink(missing_ok=True)
        lock.release()


def _acquired(file: Path) -> tuple[filelock.BaseFileLock | None, str]:
    """Return the lock, or `None` if another process holds it; and who holds it, if known."""
    owner = _owner(file)
    lock: filelock.BaseFileLock = filelock.FileLock(file)
    try:
        try:
            lock.acquire(timeout=0)
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            # A soft lock contains its owner, and is removed when it is released.
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
