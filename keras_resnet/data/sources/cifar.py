"""CIFAR-10 and CIFAR-100 as published: https://www.cs.toronto.edu/~kriz/cifar.html."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.data.sources.memory import LabeledImages

_PIXELS = 3 * 32 * 32

#: The largest file in the archives has 155 MB. What claims to be larger is not read.
_LARGEST = 2**28


@dataclass(frozen=True)
class _Version:
    """One of the published archives.

    Attributes:
        name: what its home page calls it.
        folder: that is in the archive.
        train: files of the training part, in their order.
        test: file of the test part.
        meta: file with the names of the classes.
        classes: how many there are.
        labels: key of the labels in a pickle; for the binary version, bytes of labels in front of
            the pixels of an image. The last one is the label.
        names: key of the class names in a pickle.
    """

    name: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    classes: int
    labels: str | int
    names: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.meta)


_VERSIONS = (
    _Version(
        "CIFAR-10 python version",
        "cifar-10-batches-py",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test_batch",
        "batches.meta",
        10,
        "labels",
        "label_names",
    ),
    _Version(
        "CIFAR-10 binary version",
        "cifar-10-batches-bin",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test_batch.bin",
        "batches.meta.txt",
        10,
        1,
    ),
    _Version(
        "CIFAR-100 python version",
        "cifar-100-python",
        ("train",),
        "test",
        "meta",
        100,
        "fine_labels",
        "fine_label_names",
    ),
    _Version(
        "CIFAR-100 binary version",
        "cifar-100-binary",
        ("train.bin",),
        "test.bin",
        "fine_label_names.txt",
        100,
        2,
    ),
)

#: Reads one of a set of files, whose names are the keys.
_Files = Mapping[str, Callable[[], bytes]]


def load_cifar(path: str) -> tuple[LabeledImages, LabeledImages]:
    """Reads CIFAR-10 or CIFAR-100 (its fine labels), of Krizhevsky 2009, into memory.

    Pickles of the python version may put together arrays, lists and dicts, and nothing else: they
    cannot run code.

    Args:
        path: an original archive (`cifar-10-python.tar.gz`, …), what is in it, or a directory with
            either. Python and binary versions have the same images.

    Returns:
        The training part and the test part. Classes are in the order of the published labels, which
        the metadata in the archive has; it is not always that of the sorted names.

    Raises:
        ValueError: there is no CIFAR, more than one, files are missing, damaged or truncated.
        OSError: a file cannot be read.
    """
    version, files = _find(Path(path))
    names = _class_names(version, files[version.meta](), f"{path}: {version.meta}")

    def part(members: Sequence[str], name: str) -> LabeledImages:
        read = _read_binary if isinstance(version.labels, int) else _read_pickle
        batches = [read(version, files[member](), f"{path}: {member}") for member in members]
        images = np.concatenate([rows for rows, _ in batches]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([labels for _, labels in batches]).astype(np.int32)
        return LabeledImages(
            np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels, names, None, name
        )

    return (
        part(version.train, f"cifar:{path} (training)"),
        part([version.test], f"cifar:{path} (test)"),
    )


def _find(path: Path) -> tuple[_Version, _Files]:
    """Which version is there, and how its files are read."""
    try:
        if path.is_file():
            return _version_of(_in_archive(path), path)
        places = [path, *(path / version.folder for version in _VERSIONS)]
        found = [place for place in places if any(_known(_in_directory(place)))]
        if found:
            # The directory itself comes before what is below it.
            chosen = found[:1] if found[0] == path else found
            _check_one([place.name for place in chosen], path)
            return _version_of(_in_directory(chosen[0]), chosen[0])
        archives = sorted(path.glob("cifar-10*.tar.gz")) if path.is_dir() else []
    except OSError as error:
        message = f"Expected CIFAR files that can be read. Received: {path} ({error})"
        raise OSError(message) from error
    if not archives:
        reason = "which has neither" if path.is_dir() else "which does not exist"
        raise ValueError(
            "Expected an archive of CIFAR-10 or CIFAR-100, or a directory with it or with what is "
            f"in it. Received: {path}, {reason}"
        )
    _check_one([archive.name for archive in archives], path)
    return _version_of(_in_archive(archives[0]), archives[0])


def _check_one(names: Sequence[str], path: Path) -> None:
    if len(names) > 1:
        raise ValueError(
            f"Expected one version of CIFAR. Received: {path}, with {', '.join(names)}. Pass the "
            "path of one of them"
        )


def _known(files: _Files) -> Iterator[_Version]:
    """Versions of which there is any file."""
    return (version for version in _VERSIONS if any(name in files for name in version.files))


def _version_of(files: _Files, where: Path) -> tuple[_Version, _Files]:
    """The version that files are of."""
    known = list(_known(files))
    if not known:
        raise ValueError(
            "Expected the files of CIFAR-10 or CIFAR-100, such as data_batch_1. Received: "
            f"{where}, which has none of them"
        )
    complete = [version for version in known if all(name in files for name in version.files)]
    _check_one([version.name for version in complete], where)
    if complete:
        return complete[0], files
    version = max(known, key=lambda version: sum(name in files for name in version.files))
    missing = [name for name in version.files if name not in files]
    raise ValueError(
        f"Expected all files of the {version.name}. Received: {where} without {', '.join(missing)}"
    )


def _in_directory(path: Path) -> _Files:
    names = {name for version in _VERSIONS for name in version.files}
    return {name: (path / name).read_bytes for name in sorted(names) if (path / name).is_file()}


def _in_archive(path: Path) -> _Files:
    """The known files of an archive, read at once: going back in one is slow."""
    names = {name for version in _VERSIONS for name in version.files}
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                file = archive.extractfile(member) if name in names and member.isfile() else None
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
    return {name: io.BytesIO(content).getvalue for name, content in contents.items()}


def _class_names(version: _Version, data: bytes, where: str) -> tuple[str, ...]:
    if isinstance(version.labels, int):
        listed: Any = [line for line in data.splitlines() if line.strip()]
    else:
        listed = _unpickled(data, where).get(version.names)
    valid = isinstance(listed, list) and all(isinstance(name, (bytes, str)) for name in listed)
    names = (
        [name if isinstance(name, str) else name.decode("latin1") for name in listed]
        if valid
        else []
    )
    if len(set(names)) != version.classes:
        raise ValueError(
            f"Expected the names of {version.classes} classes. Received: {where}, with "
            f"{len(set(names))}. Get the archive again"
        )
    return tuple(name.strip() for name in names)


def _read_binary(version: _Version, data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    before = int(version.labels)
    if not data or len(data) % (before + _PIXELS):
        raise ValueError(
            f"Expected a multiple of {before + _PIXELS} bytes, as many as an image has. Received: "
            f"{where}, with {len(data)}: it is truncated or damaged. Get the archive again"
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, before + _PIXELS)
    labels = rows[:, before - 1]
    _check_labels(labels, version, where)
    return rows[:, before:], labels


def _read_pickle(version: _Version, data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    batch = _unpickled(data, where)
    rows, listed = batch.get("data"), batch.get(str(version.labels))
    if (
        type(rows) is not np.ndarray
        or rows.dtype != np.uint8
        or rows.shape[1:] != (_PIXELS,)
        or not len(rows)
    ):
        shape = f"{rows.dtype} {rows.shape}" if type(rows) is np.ndarray else type(rows).__name__
        raise ValueError(
            f"Expected `data` of shape (n, {_PIXELS}), uint8. Received: {where}, with {shape}"
        )
    if not isinstance(listed, list) or any(type(label) is not int for label in listed):
        raise ValueError(f"Expected a list `{version.labels}` of integers. Received: {where}")
    if len(listed) != len(rows):
        raise ValueError(
            f"Expected one label per image. Received: {where}, with {len(rows)} images and "
            f"{len(listed)} labels"
        )
    _check_labels(listed, version, where)
    return rows, np.array(listed)


def _check_labels(labels: Sequence[int] | np.ndarray, version: _Version, where: str) -> None:
    low, high = min(labels), max(labels)
    if not 0 <= low <= high < version.classes:
        raise ValueError(
            f"Expected labels in [0, {version.classes - 1}]. Received: {where}, with labels in "
            f"[{low}, {high}]"
        )


#: What rebuilds arrays from pickles. NumPy 2 has moved it, and gives it away here.
_RECONSTRUCT = np.zeros(0).__reduce__()[0]

#: The one in C reserves what memory a pickle claims.
_PythonUnpickler: Any = vars(pickle)["_Unpickler"]


class _Unpickler(_PythonUnpickler):
    """Python's own unpickler, without imports."""

    def find_class(self, module: str, name: str) -> Any:
        allowed: Mapping[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
            ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            # Python 3 writes bytes so in protocol 2. Other codecs would be imported.
            ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
        }
        if (module, name) not in allowed:
            raise _RefusedError(f"{module}.{name}")
        return allowed[module, name]


class _RefusedError(Exception):
    """A pickle asks for something by name that it does not need."""


def _unpickled(data: bytes, where: str) -> dict[str, Any]:
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
