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
from keras_resnet.data.sources.splits import Splits
from keras_resnet.support.placeholders import START, placeholder, text_instead

_PIXELS = 3 * 32 * 32

#: Larger files are not read; the largest file in the archives has 155 MB.
_LARGEST = 2**28


class _Version(NamedTuple):
    """One of the published archives.

    Attributes:
        directory: name of the directory in the archive.
        classes: number of classes.
        meta: name of the file with the class names.
        labels: for a Python version, the key of the labels in a pickle; for a binary version, the
            number of label bytes before the pixels of an image, the last of which is the label.
    """

    directory: str
    classes: int
    meta: str
    labels: str | int

    @property
    def train(self) -> list[str]:
        """Files of the training split, in their order."""
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


def load_cifar(path: str) -> Splits:
    """Read CIFAR-10, or CIFAR-100 with its fine labels, into memory (Krizhevsky 2009).

    The pickles of the Python version cannot run code: they may build arrays, lists and dicts only.

    Args:
        path: an original archive, such as `cifar-10-python.tar.gz`, its extracted directory, or a
            directory that contains either. Python and binary versions have the same images.

    Returns:
        A training split of 50,000 and a test split of 10,000 images. The classes are in the order
        of the published labels, which is not always the alphabetical order of their names.

    Raises:
        ValueError: there is no version of CIFAR or more than one, or a file is missing, damaged or
            truncated.
        OSError: a file cannot be read.
    """
    try:
        location = _find(Path(path))
        if location.is_file():
            files = _read_archive(location)
        else:
            present = {name for name in _FILES if (location / name).is_file()}
            needed = _version_of(present, location).files
            files = {name: (location / name).read_bytes() for name in needed}
    except OSError as error:
        message = f"Expected CIFAR files that can be read. Received: {path} ({error})"
        raise OSError(message) from error
    for name, data in files.items():
        if reason := placeholder(data[:START]):
            raise ValueError(f"Expected a file of CIFAR. Received: {path}: {name}, {reason}")
    version = _version_of(files.keys(), location)
    names = _class_names(version, files[version.meta], f"{path}: {version.meta}")

    def split(members: Sequence[str], name: str) -> LabeledImages:
        batches = [_batch(version, files[member], f"{path}: {member}") for member in members]
        images = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([labels for _, labels in batches])
        return LabeledImages(
            np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels, names, None, name
        )

    return Splits(
        split(version.train, f"cifar:{path} (training)"),
        test=lambda: split([version.test], f"cifar:{path} (test)"),
    )


def _find(path: Path) -> Path:
    """Return the archive, or the directory of its extracted files, at or below a path."""
    if path.is_file() or _has_files(path):
        return path
    below = (path / version.directory for version in _VERSIONS)
    found = [directory for directory in below if _has_files(directory)]
    if not found and path.is_dir():
        found = sorted(path.glob("cifar-10*.tar.gz"))
    if not found:
        reason = "which has neither" if path.is_dir() else "which does not exist"
        raise ValueError(
            "Expected an archive of CIFAR-10 or CIFAR-100, or a directory with the archive or its "
            f"extracted files. Received: {path}, {reason}"
        )
    _check_one([location.name for location in found], path)
    return found[0]


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


def _read_archive(path: Path) -> dict[str, bytes]:
    """Return the contents of CIFAR's files in an archive, by name."""
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
            # Read to the end, where the checksum of the archive is verified.
            while archive.fileobj and archive.fileobj.read(2**20):
                pass
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"Expected a complete archive of CIFAR. Received: {path}, which is damaged or not an "
            f"archive ({error}). Download it again"
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
            f"{len(set(names))}. Download the archive again"
        )
    return tuple(names)


def _batch(version: _Version, data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels, `(n, 3072)`, uint8, and the labels, `(n,)`, of one file."""
    if isinstance(version.labels, int):
        pixels, labels = _read_binary(version.labels, data, where)
    else:
        pixels, labels = _read_pickle(version.labels, data, where)
    if not 0 <= labels.min() <= labels.max() < version.classes:
        raise ValueError(
            f"Expected labels in [0, {version.classes - 1}]. Received: {where}, with labels in "
            f"[{labels.min()}, {labels.max()}]"
        )
    return pixels, labels


def _read_binary(label_bytes: int, data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    size = label_bytes + _PIXELS
    if not data or len(data) % size:
        raise ValueError(
            f"Expected a multiple of {size} bytes, the size of a record. Received: {where} of "
            f"{len(data)} bytes, which is truncated or damaged. Download the archive again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    return records[:, label_bytes:], records[:, label_bytes - 1]


def _read_pickle(key: str, data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    batch = _unpickled(data, where)
    pixels, labels = batch.get("data"), batch.get(key)
    is_array = isinstance(pixels, np.ndarray)
    is_valid = is_array and pixels.dtype == np.uint8 and pixels.shape[1:] == (_PIXELS,)
    if not is_valid or not len(pixels):
        found = f"{pixels.dtype} {pixels.shape}" if is_array else type(pixels).__name__
        raise ValueError(
            f"Expected `data` of shape (n, {_PIXELS}), uint8. Received: {where}, with {found}"
        )
    if not isinstance(labels, list) or any(type(label) is not int for label in labels):
        raise ValueError(f"Expected a list `{key}` of integers. Received: {where}")
    if len(labels) != len(pixels):
        raise ValueError(
            f"Expected one label per image. Received: {where}, with {len(pixels)} images and "
            f"{len(labels)} labels"
        )
    return pixels, np.array(labels)


#: NumPy's private function that rebuilds arrays from pickles, which NumPy 2 has moved.
_RECONSTRUCT = np.zeros(0).__reduce__()[0]

#: All names that the published pickles use.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # Python 3 pickles bytes with this function in protocol 2. The original would import codecs.
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
}

#: The unpickler written in Python: the one in C allocates as much memory as a pickle claims.
_PythonUnpickler: Any = vars(pickle)["_Unpickler"]


class _Unpickler(_PythonUnpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"{module}.{name}")
        return _ALLOWED[module, name]


class _RefusedError(Exception):
    """Raised for a name in a pickle that is not allowed."""


def _unpickled(data: bytes, where: str) -> Any:
    """Return a pickled dict, with keys as str; Python 2 has pickled them as bytes."""
    try:
        # In a truncated pickle, a name could be incomplete and look like one that is not allowed.
        if not data.endswith(pickle.STOP):
            raise EOFError
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except _RefusedError as error:
        raise ValueError(
            f"Expected a pickle of arrays and lists. Received: {where}, which calls `{error}`. It "
            "was not run; download the archive from its home page"
        ) from error
    # Damaged pickles raise all kinds of errors: KeyError, IndexError, MemoryError, …
    except Exception as error:
        raise ValueError(
            f"Expected a complete pickle. Received: {where}, which is truncated or damaged "
            f"({type(error).__name__}). Download the archive again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"Expected a pickled dict. Received: {where}, with a {type(content).__name__}"
        )
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): value
        for key, value in content.items()
    }
