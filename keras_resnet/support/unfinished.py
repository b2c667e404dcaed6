"""Long work whose finished parts survive the end of the process."""

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

    A journal in the directory contains the arguments of the work. Every file is renamed into place,
    so that it is complete or missing.
    """

    _journal = "journal.json"

    def __init__(self, directory: Path, output: Path) -> None:
        """Initialize without reading the directory.

        Args:
            directory: directory of the parts until all are finished.
            output: path of the results, for messages.
        """
        self.directory = directory
        self._output = output

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Create the directory, and hold it against other processes.

        Raises:
            ValueError: the directory cannot be written to, or another process holds it.
        """
        try:
            with held(self.directory, self._output):
                yield
        finally:
            with contextlib.suppress(OSError):
                self.directory.rmdir()  # It is empty if no work has begun.

    def arguments(self) -> Any:
        """Return the arguments that `begin` got; `None` if no work has begun."""
        return read_json(self.directory / self._journal)

    def begin(self, arguments: Mapping[str, Any]) -> None:
        """Discard all parts and begin new work.

        Args:
            arguments: everything that the results depend on, as data for JSON.
        """
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK_FILE:
                path.unlink()
        write_json(self.directory / self._journal, arguments)

    def remove(self) -> None:
        """Remove the directory in one step, so that a part of it is never taken for other work."""
        with partial_directory(self.directory.parent) as leftover:
            self.directory.rename(leftover / self.directory.name)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; `None` if it is missing or incomplete."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file under a temporary name and rename it."""
    write_durably(path, lambda partial: partial.write_text(json.dumps(data, indent=1) + "\n"))


def write_durably(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write` with a temporary path beside `path`, and rename the file to `path`.

    Raises:
        OSError: the disk is full; the new file is removed.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        write(partial)
        replace_durably(partial, path)
    except Exception as error:
        # Check before the file is removed, which frees space.
        try:
            raise_if_full(error, path.parent)
        finally:
            partial.unlink(missing_ok=True)
        raise
