"""Checkpoints of a training run: whole, or not there, whenever the process or machine dies."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save_file

from keras_resnet.support.checks import check_integer
from keras_resnet.support.files import partial_directory, remove_leftovers, replace_durably

_deserialize: Any = safetensors.deserialize

#: safetensors' names of the types that a run may have, as numpy's.
_TYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(bool),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"F{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"u{size}") for size in (1, 2, 4, 8)},
}

_NAME = re.compile(r"step-(\d{10,})\.safetensors")
_VERSION = "1"
_BLANK = b"0" * 64

#: Quotes inside of strings are escaped in JSON, so that this can be nothing but the entry itself.
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')


class ResumeError(ValueError):
    """A run cannot be continued with what was asked for."""


@dataclass(eq=False)
class RunState:
    """All that a training run needs to go on as if it had never stopped.

    Attributes:
        arrays: by name, of bool, int8 to int64, uint8 to uint64, float16, bfloat16, float32 or
            float64, and of any shape, `()` and sizes of zero included. Weights, optimizer state.
        values: what JSON can say, NaN and infinities included: step, epoch, history, best epoch,
            state of the schedule and of random numbers. NumPy's numbers become Python's, tuples
            lists.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


class Checkpoints:
    """The newest states of a run, one file `step-0000000123.safetensors` for each.

    A file is written under a temporary name, flushed to the disk and renamed, so that it is there
    whole or not at all. Its metadata hold the values as JSON and a SHA-256 of the whole file (with
    zeros in the place of the digest), which any flipped bit changes. SHA-256 because processors
    of the last years compute it at over 1 GB/s, and older ones at 0.4 GB/s: less than half a second
    for ResNet-50 with momentum.

    Args:
        folder: where they are; made when the first one is saved. One process at a time writes here.
        keep: how many of the newest stay, at least 1. With 1 there is none to fall back to.

    Raises:
        ValueError: `keep` is less than 1.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 3) -> None:
        check_integer("keep", keep)
        self.folder = Path(folder)
        self.keep = keep

    def save(self, step: int, state: RunState) -> Path:
        """Writes a checkpoint, then removes the oldest beyond `keep`, and damaged newer ones.

        Args:
            step: how many were taken. A checkpoint of the same step is replaced.
            state: what to write.

        Returns:
            The path of the file.

        Raises:
            ResumeError: a whole checkpoint of a later step is there: this run is not its
                continuation.
            ValueError: a name, array or value cannot be written, or the folder cannot be.
            OSError: the disk is full. The earlier checkpoints are untouched.
        """
        check_integer("step", step, 0)
        path = self.folder / f"step-{step:010d}.safetensors"
        arrays = {name: _storable(name, value) for name, value in state.arrays.items()}
        values = json.dumps(plain_json(state.values, "values"))
        metadata = {"version": _VERSION, "values": values, "sha256": _BLANK.decode()}
        damaged = self._damaged_after(int(step))
        with partial_directory(self.folder) as staging:
            partial = staging / path.name
            # safetensors makes files that nobody else can read; other files are as the umask says.
            partial.touch()
            mode = partial.stat().st_mode
            save_file(arrays, partial, metadata)
            partial.chmod(mode)
            with partial.open("r+b") as file:
                place, _, digest = _digest(file)
                file.seek(place)
                file.write(digest)
            replace_durably(partial, path)
        for old in (*damaged, *self.paths()[: -self.keep]):
            if old != path:
                old.unlink(missing_ok=True)
        return path

    def latest(self) -> tuple[Path, RunState] | None:
        """Reads the newest checkpoint that is whole, and warns of damaged newer ones.

        Returns:
            Its path and state; None if there are no checkpoints at all.

        Raises:
            OSError: there are checkpoints, but all are damaged, or one cannot be opened.
            ResumeError: a later version of this package wrote it.
        """
        damaged: list[str] = []
        for path in reversed(self.paths()):
            try:
                state = _read(path)
            except FileNotFoundError:
                continue  # The run that writes here has removed it meanwhile.
            except _DamagedError as error:
                damaged.append(f"{path.name} ({error})")
                continue
            if damaged:
                verb = "is" if len(damaged) == 1 else "are"
                warnings.warn(
                    f"{', '.join(damaged)} in {self.folder} {verb} damaged, falling back to "
                    f"{path.name}",
                    stacklevel=2,
                )
            return path, state
        if damaged:
            raise OSError(
                f"Expected a whole checkpoint in {self.folder}. Received: damaged ones only: "
                f"{', '.join(damaged)}. Bring back a copy of one, or remove them to start anew"
            )
        return None

    def paths(self) -> list[Path]:
        """The files of the checkpoints, damaged ones included, by step."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(
            (path for path in found if _NAME.fullmatch(path.name) and path.is_file()), key=_step_of
        )

    def clear_partial(self) -> None:
        """Removes what killed processes have begun to write; for the start of a run."""
        remove_leftovers(self.folder, age=0)

    def _damaged_after(self, step: int) -> list[Path]:
        """The damaged checkpoints of later steps, from which a run has fallen back."""
        damaged = []
        for path in self.paths():
            if _step_of(path) <= step:
                continue
            try:
                _read(path)
            except _DamagedError:
                damaged.append(path)
            else:
                raise ResumeError(
                    f"Expected a step of at least {_step_of(path)}, of which {self.folder} has a "
                    f"checkpoint. Received: {step}. Resume from it, or train in another folder"
                )
        return damaged


def fingerprint_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Says in which values two nested mappings differ, one line each.

    Args:
        old: of the run, as JSON gives it back.
        new: of what is asked for now. Tuples equal lists, 1 equals 1.0, NaN equals NaN, and None
            is a value like any other.

    Returns:
        Lines such as `"recipe.optimizer.learning_rate: 0.1 in the run, now 0.2"`, in the order of
        `old`, then of `new`; none if they agree.
    """
    lines = []
    for key in (*old, *(key for key in new if key not in old)):
        before, now = (side.get(key, _ABSENT) for side in (old, new))
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            lines += [f"{key}.{line}" for line in fingerprint_difference(before, now)]
        elif not _same(before, now):
            was, is_ = ("absent" if value is _ABSENT else repr(value) for value in (before, now))
            lines.append(f"{key}: {was} in the run, now {is_}")
    return lines


_ABSENT = object()


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return not fingerprint_difference(left, right)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    both_nan = all(isinstance(value, float) and math.isnan(value) for value in (left, right))
    return both_nan or bool(left == right)


def plain_json(value: Any, where: str) -> Any:
    """`value` as JSON gives it back: of dicts, lists, strings, numbers, true, false and None.

    Args:
        value: mappings, tuples, lists and NumPy's numbers are turned into those.
        where: what messages call it.

    Raises:
        ValueError: it has something else in it.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain_json(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise ValueError(
        f"Expected `{where}` to be of dicts with string keys, lists, strings, numbers, true, false "
        f"and None. Received: {value!r}"
    )


class _DamagedError(Exception):
    """A file is not what was written; the message says how that shows."""


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _storable(name: str, value: Any) -> np.ndarray:
    # safetensors writes memory as it lies there, in whatever order.
    array = np.asarray(value, order="C")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not isinstance(name, str) or name == "__metadata__" or array.dtype not in _TYPES.values():
        raise ValueError(
            "Expected arrays by name (not __metadata__), of bool, integers, float16, bfloat16, "
            f"float32 or float64. Received: {name!r} of {array.dtype}"
        )
    return array


def _digest(file: BinaryIO) -> tuple[int, bytes, bytes]:
    """Where the digest is in a file, which one is there, and the one that should be, both in hex.

    The hash covers every byte: the length of the header, the header with zeros in the place of the
    digest, and the data.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = file.read(8)
    header_size = int.from_bytes(length, "little")
    if len(length) < 8 or header_size > size - 8:
        raise _DamagedError(f"it ends after {size} bytes" if size else "it is empty")
    header = file.read(header_size)
    found = list(_DIGEST.finditer(header))
    if len(found) != 1:
        raise _DamagedError("its metadata have no SHA-256")
    start, end = found[0].span(1)
    hasher = hashlib.sha256(length + header[:start] + _BLANK + header[end:])
    while block := file.read(2**20):
        hasher.update(block)
    return len(length) + start, found[0][1], hasher.hexdigest().encode()


def _read(path: Path) -> RunState:
    """Reads a checkpoint.

    Raises:
        _DamagedError: it is not what was written.
        ResumeError: a later version of this package wrote it.
        OSError: it cannot be opened; that says nothing about its contents.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        if error.errno == errno.EIO:
            raise _DamagedError("the disk cannot read it") from error
        raise
    _, there, digest = _digest(io.BytesIO(content))
    if there != digest:
        raise _DamagedError("its SHA-256 is another")
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header["__metadata__"]
    if metadata.get("version") != _VERSION:
        raise ResumeError(
            f"Expected a checkpoint of version {_VERSION}. Received: {path}, of version "
            f"{metadata.get('version')}. Update keras-resnets"
        )
    arrays = {}
    for name, tensor in _deserialize(content):
        array = np.frombuffer(tensor["data"], _TYPES[tensor["dtype"]])
        arrays[name] = array.reshape(tensor["shape"])
    return RunState(arrays, json.loads(metadata["values"]))
