"""Fingerprints (hashes) of arrays, texts and files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def fingerprint(*parts: str | np.ndarray | None) -> str:
    """Return the SHA-256 of texts, and of arrays with dtype and shape, in hexadecimal digits."""
    known = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, np.ndarray) else np.frombuffer(str(part).encode(), "u1")
        known.update(f"{content.dtype}{content.shape}".encode())
        # Hashed without a copy, as arrays may take most of the memory.
        known.update(np.ascontiguousarray(content).reshape(-1).view(np.uint8).data)
    return known.hexdigest()


def fingerprint_of_weights(weights: Iterable[Any]) -> str:
    """Return the SHA-256 of the values of arrays or variables, in hexadecimal digits."""
    known = hashlib.sha256()
    for weight in weights:
        known.update(np.ascontiguousarray(weight).tobytes())
    return known.hexdigest()


def fingerprint_of_file(path: Path, algorithm: str = "sha256") -> str:
    """Return the hash of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        # Some systems forbid MD5 unless it is marked as not for security.
        return hashlib.file_digest(
            file, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()


def fingerprint_of_artifact(path: Path) -> str:
    """Return the SHA-256 of the names and contents of a file or of all files in a directory."""
    known = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        known.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
        known.update(bytes.fromhex(fingerprint_of_file(file)))
    return known.hexdigest()
