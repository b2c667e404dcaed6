"""The file of a checkpoint: all that a run needs to go on, and a digest that shows any damage."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save_file

from keras_resnet.support.json_text import parse_json

_deserialize: Any = safetensors.deserialize

#: safetensors' names of the types that a run may have, as numpy's.
_TYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(bool),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"F{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"u{size}") for size in (1, 2, 4, 8)},
}

_VERSION = "1"
_BLANK = b"0" * 64

#: Quotes inside of strings are escaped in JSON, so that this can be nothing but the entry itself.
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')


class ResumeError(ValueError):
    """A run cannot be continued with what was asked for."""


class ChangedError(ResumeError):
    """What was asked for differs from what the folder holds: every difference is a line."""

    has_lines = True


class DamagedError(Exception):
    """A file is not what was written; the message says how that shows."""


@dataclass(eq=False)
class RunState:
    """All that a training run needs to go on as if it had never stopped.

    Attributes:
        arrays: by name, of bool, integers, float16, bfloat16, float32 or float64, and of any shape,
            `()` and sizes of zero included. Weights, optimizer state.
        values: what JSON can say, NaN and infinities included: step, epoch, history, best epoch,
            state of the schedule.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def write_checkpoint(path: Path, state: RunState) -> None:
    """Writes `path`, which the caller renames into place once it is whole.

    Its metadata hold the values as JSON and a SHA-256 of the whole file (with zeros in the place of
    the digest), which any flipped bit changes. SHA-256 because processors of the last years compute
    it at over 1 GB/s, and older ones at 0.4 GB/s: less than half a second for ResNet-50 with
    momentum.

    Raises:
        OSError: the disk is full.
    """
    metadata = {"version": _VERSION, "values": json.dumps(state.values), "sha256": _BLANK.decode()}
    # safetensors makes files that nobody else can read; other files are as the umask says.
    path.touch()
    mode = path.stat().st_mode
    # Nor does it ask how arrays lie in memory.
    save_file(
        {name: np.asarray(value, order="C") for name, value in state.arrays.items()}, path, metadata
    )
    path.chmod(mode)
    with path.open("r+b") as file:
        place, _, digest = _digest(file)
        file.seek(place)
        file.write(digest)


def read_checkpoint(path: Path) -> RunState:
    """Reads what `write_checkpoint` wrote.

    Raises:
        DamagedError: it is not what was written.
        ResumeError: a later version of this package wrote it.
        OSError: it cannot be opened; that says nothing about its contents.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        if error.errno == errno.EIO:
            raise DamagedError("the disk cannot read it") from error
        raise
    _, there, digest = _digest(io.BytesIO(content))
    if there != digest:
        raise DamagedError("its SHA-256 is another")
    header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
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
    return RunState(arrays, parse_json(metadata["values"]))


def _digest(file: BinaryIO) -> tuple[int, bytes, bytes]:
    """Return the place of the digest in a file, the digest there, and the expected one, in hex.

    The hash covers every byte: the length of the header, the header with zeros in the place of the
    digest, and the data.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = file.read(8)
    header_size = int.from_bytes(length, "little")
    if len(length) < 8 or header_size > size - 8:
        raise DamagedError(f"it ends after {size} bytes" if size else "it is empty")
    header = file.read(header_size)
    found = list(_DIGEST.finditer(header))
    if len(found) != 1:
        raise DamagedError("its metadata have no SHA-256")
    start, end = found[0].span(1)
    hasher = hashlib.sha256(length + header[:start] + _BLANK + header[end:])
    while block := file.read(2**20):
        hasher.update(block)
    return len(length) + start, found[0][1], hasher.hexdigest().encode()
