"""Work that takes hours: what is finished of it survives whatever ends the process."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_resnet.support.disks import raise_if_full
from keras_resnet.support.files import LOCK_FILE, held, partial_directory, replace_durably


class UnfinishedWork:
    """The finished parts of long work, in a directory that one process at a time holds.

    A journal in it says what they are parts of. Every file is renamed into place, so that it is
    whole or missing.
    """

    _journal = "journal.json"

    def __init__(self, directory: Path, output: Path) -> None:
        """Looks nowhere yet.

        Args:
            directory: where the parts are kept until all are finished.
            output: where the results will be, for messages.
        """
        self.directory = directory
        self._output = output

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Makes the directory and holds it against other processes.

        Raises:
            ValueError: it cannot be written to, or another process holds it.
        """
        try:
            with held(self.directory, self._output):
                yield
        finally:
            with contextlib.suppress(OSError):
                self.directory.rmdir()  # Nothing has begun.

    def arguments(self) -> Any:
        """Return what the parts depend on, as `begin` was given it; None if nothing has begun."""
        return read_json(self.directory / self._journal)

    def begin(self, arguments: Mapping[str, Any]) -> None:
        """Discards what is there and begins new work.

        Args:
            arguments: everything that the results depend on, fit for JSON.
        """
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK_FILE:
                path.unlink()
        write_json(self.directory / self._journal, arguments)

    def remove(self) -> None:
        """Removes the directory: at once, so that it is never taken for the rest of something."""
        with partial_directory(self.directory.parent) as leftover:
            self.directory.rename(leftover / self.directory.name)


def read_json(path: Path) -> Any:
    """Return a file's content; None if it is missing or incomplete, as after a power failure."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def write_json(path: Path, data: Any) -> None:
    """Writes a file under a temporary name and renames it."""
    write_durably(path, lambda partial: partial.write_text(json.dumps(data, indent=1) + "\n"))


def write_durably(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` make a file under a temporary name beside `path`, and renames it.

    Raises:
        OSError: the disk filled up; of the new file, nothing is left.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        write(partial)
        replace_durably(partial, path)
    except Exception as error:
        # Removing the file makes room.
        try:
            raise_if_full(error, path.parent)
        finally:
            partial.unlink(missing_ok=True)
        raise
