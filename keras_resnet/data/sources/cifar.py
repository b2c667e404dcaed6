"""CIFAR-10 and CIFAR-100 as published: https://www.cs.toronto.edu/~kriz/cifar.html."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_resnet.data.sources.memory import LabeledImages
from keras_resnet.data.sources.parts import Parts
from keras_resnet.support.placeholders import START, placeholder, text_instead

_PIXELS = 3 * 32 * 32

#: The largest file in the archives has 155 MB. What claims to be larger is not read.
_LARGEST = 2**28


class _Version(NamedTuple):
    """One of the published archives.

    Attributes:
        directory: that is in the archive.
        classes: how many there are.
        meta: file with the names of the classes.
        labels: key of the labels in a pickle; for a binary version, bytes of labels in front of the
            pixels of an image. The last one is the label.
    """

    directory: str
    classes: int
    meta: str
    labels: str | int

    @property
    def train(self) -> list[str]:
        """Files of the training part, in their order."""
        names = [f"data_batch_{number}" for number in range(1, 6)]
        return [self._file(name) for name in (names if self.classes == 10 else ["train"])]

    @property
    def test(self) -> str:
        return self._file("test_batch" if self.classes == 10 else "test")

    @property
    def files(self) -> list[str]:
        return [*self.train, self.test, self.meta]

    def _file(self, name: str) -> str:
        return f"{name}.bin" if isinstance(self.labels, int) else name


_VERSIONS = (
    _Version("cifar-10-batches-py", 10, "batches.meta", "labels"),
    _Version("cifar-10-batches-bin", 10, "batches.meta.txt", 1),
    _Version("cifar-100-python", 100, "meta", "fine_labels"),
    _Version("cifar-100-binary", 100, "fine_label_names.txt", 2),
)
_FILES = {name for version in _VERSIONS for name in version.files}


def load_cifar(path: str) -> Parts:
    """Reads CIFAR-10 or CIFAR-100 (its fine labels), of Krizhevsky 2009, into memory.

    Pickles of the python version may put together arrays, lists and dicts, and nothing else: they
    cannot run code.

    Args:
        path: an original archive (`cifar-10-python.tar.gz`, …), what is in it, or a directory with
            either. Python and binary versions have the same images.

    Returns:
        The training part of 50,000 and the test part of 10,000 images. Classes are in the order of
        the published labels, which the metadata in the archive has; it is not always that of the
        sorted names.

    Raises:
        ValueError: there is no CIFAR, more than one, files are missing, damaged or truncated.
        OSError: a file cannot be read.
    """
    try:
        place = _place(Path(path))
        if place.is_file():
            files = _in_archive(place)
        else:
            there = {name for name in _FILES if (place / name).is_file()}
            wanted = _version_of(there, place).files
            files = {name: (place / name).read_bytes() for name in wanted}
    except OSError as error:
        message = f"Expected CIFAR files that can be read. Received: {path} ({error})"
        raise OSError(message) from error
    for name, data in files.items():
        if reason := placeholder(data[:START]):
            raise ValueError(f"Expected a file of CIFAR. Received: {path}: {name}, {reason}")
    version = _version_of(files.keys(), place)
    names = _class_names(version, files[version.meta], f"{path}: {version.meta}")

    def part(members: Sequence[str], name: str) -> LabeledImages:
        batches = [_batch(version, files[member], f"{path}: {member}") for member in members]
        images = np.concatenate([rows for rows, _ in batches]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([labels for _, labels in batches])
        return LabeledImages(
            np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels, names, None, name
        )

    return Parts(
        part(version.train, f"cifar:{path} (training)"),
        test=lambda: part([version.test], f"cifar:{path} (test)"),
    )


def _place(path: Path) -> Path:
    """The archive, or the directory with the files, that a path stands for."""
    if path.is_file() or _has_files(path):
        return path
    below = (path / version.directory for version in _VERSIONS)
    places = [place for place in below if _has_files(place)]
    if not places and path.is_dir():
        places = sorted(path.glob("cifar-10*.tar.gz"))
    if not places:
        reason = "which has neither" if path.is_dir() else "which does not exist"
        raise ValueError(
            "Expected an archive of CIFAR-10 or CIFAR-100, or a directory with it or with what is "
            f"in it. Received: {path}, {reason}"
        )
    _check_one([place.name for place in places], path)
    return places[0]


def _has_files(directory: Path) -> bool:
    return any((directory / name).is_file() for name in _FILES)


def _check_one(names: Sequence[str], path: Path) -> None:
    if len(names) > 1:
        raise ValueError(
            f"Expected one version of CIFAR. Received: {path}, with {', '.join(names)}. Pass the "
            "path of one of them"
        )


def _version_of(files: Set[str], where: Path) -> _Version:
    if not files:
        raise ValueError(
            "Expected the files of CIFAR-10 or CIFAR-100, such as data_batch_1. Received: "
            f"{where}, which has none of them"
        )
    complete = [version for version in _VERSIONS if files >= {*version.files}]
    _check_one([version.directory for version in complete], where)
    if complete:
        return complete[0]
    version = max(_VERSIONS, key=lambda version: len(files & {*version.files}))
    missing = [name for name in version.files if name not in files]
    raise ValueError(
        f"Expected all files of {version.directory}. Received: {where} without {', '.join(missing)}"
    )


def _in_archive(path: Path) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    if instead := text_instead(path):
        raise ValueError(f"Expected an archive of CIFAR. Received: {path}, {instead}")
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                file = archive.extractfile(member) if name in _FILES and member.isfile() else None
                if file is None:
                    continue
                if member.size > _LARGEST:
                    raise tarfile.ReadError(f"{name} has {member.size} bytes")
                contents[name] = file.read()
                if len(contents[name]) != member.size:
                    raise EOFError(f"{name} is truncated")
            # The checksum stands behind the end of the archive.
            while archive.fileobj and archive.fileobj.read(2**20):
                pass
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"Expected a whole archive of CIFAR. Received: {path}, which is damaged or none "
            f"({error})"
        ) from error
    return contents


def _class_names(version: _Version, data: bytes, where: str) -> tuple[str, ...]:
    listed: Any = data.splitlines()
    if isinstance(version.labels, str):
        listed = _unpickled(data, where).get(f"{version.labels.removesuffix('s')}_names")
    names: list[str] = []
    if isinstance(listed, list) and all(isinstance(name, (bytes, str)) for name in listed):
        decoded = (name if isinstance(name, str) else name.decode("latin1") for name in listed)
        names = [name.strip() for name in decoded if name.strip()]
    if len(set(names)) != version.classes:
        raise ValueError(
            f"Expected the names of {version.classes} classes. Received: {where}, with "
            f"{len(set(names))}. Get the archive again"
        )
    return tuple(names)


def _batch(version: _Version, data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `(n, 3072)`, uint8, and labels `(n,)` of one file."""
    if isinstance(version.labels, int):
        rows, labels = _read_binary(version.labels, data, where)
    else:
        rows, labels = _read_pickle(version.labels, data, where)
    if not 0 <= labels.min() <= labels.max() < version.classes:
        raise ValueError(
            f"Expected labels in [0, {version.classes - 1}]. Received: {where}, with labels in "
            f"[{labels.min()}, {labels.max()}]"
        )
    return rows, labels


def _read_binary(before: int, data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    if not data or len(data) % (before + _PIXELS):
        raise ValueError(
            f"Expected a multiple of {before + _PIXELS} bytes, as many as an image has. Received: "
            f"{where}, with {len(data)}: it is truncated or damaged. Get the archive again"
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, before + _PIXELS)
    return rows[:, before:], rows[:, before - 1]


def _read_pickle(key: str, data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    batch = _unpickled(data, where)
    rows, labels = batch.get("data"), batch.get(key)
    is_array = isinstance(rows, np.ndarray)
    if not is_array or rows.dtype != np.uint8 or rows.shape[1:] != (_PIXELS,) or not len(rows):
        found = f"{rows.dtype} {rows.shape}" if is_array else type(rows).__name__
        raise ValueError(
            f"Expected `data` of shape (n, {_PIXELS}), uint8. Received: {where}, with {found}"
        )
    if not isinstance(labels, list) or any(type(label) is not int for label in labels):
        raise ValueError(f"Expected a list `{key}` of integers. Received: {where}")
    if len(labels) != len(rows):
        raise ValueError(
            f"Expected one label per image. Received: {where}, with {len(rows)} images and "
            f"{len(labels)} labels"
        )
    return rows, np.array(labels)


#: What rebuilds arrays from pickles. NumPy 2 has moved it, and gives it away here.
_RECONSTRUCT = np.zeros(0).__reduce__()[0]

#: All that the published pickles ask for by name.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # Python 3 writes bytes so in protocol 2. Other codecs would be imported.
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
}

#: Python's own unpickler: the one in C reserves what memory a pickle claims.
_PythonUnpickler: Any = vars(pickle)["_Unpickler"]


class _Unpickler(_PythonUnpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"{module}.{name}")
        return _ALLOWED[module, name]


class _RefusedError(Exception):
    """A pickle asks for something by name that it does not need."""


def _unpickled(data: bytes, where: str) -> Any:
    """A pickled dict; its keys may be bytes, which they are in Python 2."""
    try:
        # Without the end, half a name would look like a wrong one.
        if not data.endswith(pickle.STOP):
            raise EOFError
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except _RefusedError as error:
        raise ValueError(
            f"Expected a pickle of arrays and lists. Received: {where}, which asks for `{error}`. "
            "It was not run; get the archive from its home page"
        ) from error
    # Damaged pickles raise whatever comes: KeyError, IndexError, MemoryError, …
    except Exception as error:
        raise ValueError(
            f"Expected a whole pickle. Received: {where}, which is truncated or damaged "
            f"({type(error).__name__}). Get the archive again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"Expected a pickled dict. Received: {where}, with a {type(content).__name__}"
        )
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): value
        for key, value in content.items()
    }
