"""Fingerprints: by what arrays, texts and files are known again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def fingerprint(*parts: str | np.ndarray | None) -> str:
    """SHA-256 of texts and of arrays with their dtypes and shapes, in hexadecimal digits."""
    known = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, np.ndarray) else np.frombuffer(str(part).encode(), "u1")
        known.update(f"{content.dtype}{content.shape}".encode())
        # Bytes in place: arrays may be most of what fits into memory.
        known.update(np.ascontiguousarray(content).reshape(-1).view(np.uint8).data)
    return known.hexdigest()


def fingerprint_of_weights(weights: Iterable[Any]) -> str:
    """SHA-256 of the values of weights, arrays or variables, in hexadecimal digits."""
    known = hashlib.sha256()
    for weight in weights:
        known.update(np.ascontiguousarray(weight).tobytes())
    return known.hexdigest()


def fingerprint_of_file(path: Path, algorithm: str = "sha256") -> str:
    """Hash of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        # Not for security: some systems forbid MD5 otherwise.
        return hashlib.file_digest(
            file, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()


def fingerprint_of_artifact(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a directory."""
    known = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        known.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
        known.update(bytes.fromhex(fingerprint_of_file(file)))
    return known.hexdigest()
