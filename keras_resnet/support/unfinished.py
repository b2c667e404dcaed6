"""Work that takes hours: what is finished of it survives whatever ends the process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from keras_resnet.data.shards import Shard, sha256_of

#: Where unfinished work lies, inside the output directory.
WORK_DIRECTORY = ".preparing"

_JOURNAL, _LOCK = "journal.json", "lock"

#: Is told what is being done, and the share of the work that is done, 0 to 1.
Report = Callable[[str, float], None]


class UnfinishedWork:
    """Finished shards in a hidden directory, and a journal of them.

    The journal is a file with the arguments of the work and one per finished shard; each is renamed
    into place, so that it is whole or missing. Shards are believed in only with the size and the
    checksum that are noted there.

    Attributes:
        directory: where they are.
    """

    def __init__(self, output: Path) -> None:
        """Looks nowhere yet.

        Args:
            output: where the results will be.
        """
        self._output = output
        self.directory = output / WORK_DIRECTORY

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Makes the directory and holds it against other processes.

        Raises:
            ValueError: it cannot be written to, or another process holds it.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                "Expected a directory that can be written to. "
                f"Received: {self._output} ({error.strerror})"
            ) from error
        lock = filelock.FileLock(self.directory / _LOCK)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise ValueError(
                f"Expected one process at a time. Received: {self._output}, where another one is "
                "preparing a data set. Wait for it, or choose another directory"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def begin(self, arguments: Mapping[str, Any], overwrite: bool) -> None:
        """Takes up what is there if it is of the same arguments, and starts anew otherwise.

        Args:
            arguments: everything that the results depend on, fit for JSON.
            overwrite: whether work of other arguments is discarded.

        Raises:
            ValueError: there is work of other arguments.
        """
        before = read_json(self.directory / _JOURNAL)
        if before == arguments:
            return
        if before is not None and not overwrite:
            old, new = _flat(before), _flat(arguments)
            changes = [
                f"{key} {new.get(key)} (before: {old.get(key)})"
                for key in {**old, **new}
                if old.get(key) != new.get(key)
            ]
            raise ValueError(
                f"Expected the arguments of the unfinished work in {self.directory}. Received: "
                f"{', '.join(changes)}. Pass the same ones, or --overwrite to discard that work"
            )
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()
        write_json(self.directory / _JOURNAL, arguments)

    def finished(self, names: Sequence[str], report: Report) -> dict[str, Shard]:
        """The shards of these names that are done and undamaged, by name."""
        found = {}
        for name in names:
            entry = read_json(self._entry(name))
            if entry is None:
                continue
            shard = Shard(**entry)
            report(f"checking {name}", 0.0)
            # A process that was killed while renaming has left some under their final names.
            for path in (self.directory / name, self._output / name):
                if _is_whole(path, shard):
                    path.replace(self.directory / name)
                    found[name] = shard
                    break
        return found

    def half_published(self, names: Sequence[str]) -> set[str]:
        """Which of these shards have left the directory before all was done."""
        return {
            name
            for name in names
            if self._entry(name).exists() and not (self.directory / name).exists()
        }

    def record(self, shard: Shard) -> None:
        """Notes in the journal that a shard is finished."""
        write_json(self._entry(shard.name), dataclasses.asdict(shard))

    def remove(self) -> None:
        """Removes the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _entry(self, name: str) -> Path:
        return self.directory / f"{name}.json"


def read_json(path: Path) -> Any:
    """What a file says; None if it is missing, or no whole file, as after a power failure."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def write_json(path: Path, data: Any) -> None:
    """Writes a file under a temporary name and renames it."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(data, indent=1) + "\n")
    partial.replace(path)


def _is_whole(path: Path, shard: Shard) -> bool:
    return path.is_file() and path.stat().st_size == shard.bytes and sha256_of(path) == shard.sha256


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat
