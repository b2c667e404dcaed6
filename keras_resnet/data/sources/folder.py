"""Image files in one folder per class."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from keras_resnet.data.sources.base import Record
from keras_resnet.data.sources.splits import (
    SPLITS,
    Splits,
    named_splits,
    open_splits,
    split_of,
    warn_of_left_out,
)
from keras_resnet.images.decode import SUFFIXES, is_other_image, some_others
from keras_resnet.images.formats import CONVERT, OTHER_SUFFIXES
from keras_resnet.images.labels import alike_names, names_and_ids
from keras_resnet.support.checks import some_of


@dataclass(frozen=True)
class ImageFiles:
    """A `Source` of image files.

    Args:
        paths: path of every image.
        labels: label of every image, `(n,)`, int32.
        class_names: one name per class.
        class_ids: identifiers of the classes, or None.
        name: name in reports.
    """

    paths: list[str]
    labels: np.ndarray
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...] | None = None
    name: str = "image files"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        path = Path(self.paths[index])
        # Reading from a pipe or a device may never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        return Record(path.read_bytes(), int(self.labels[index]))

    def name_of(self, index: int) -> str:
        return self.paths[index]

    def path_of(self, index: int) -> str:
        return self.paths[index]


def load_folder(path: str) -> Splits:
    """List the images of a directory with one folder per class.

    Class names are the folder names, sorted as text by code points: `10` comes before `2`. If all
    folders are named by WordNet ids (`n01440764`), these are the class ids, and the class names are
    ImageNet's; classes that ImageNet does not have are named by their ids.

    Every file with the suffix of an image format at any depth below a class folder is an image.
    Hidden files and folders are ignored. Links are followed, except to a folder that contains the
    link.

    Args:
        path: a directory of class folders; or a directory with a folder per split, each with the
            same class folders. The folders of splits have common names (`split_of`), and may be in
            the only folder of the directory.

    Raises:
        ValueError: the directory does not exist or has no class folders; a class folder has no
            images, does not seem to be a class, or has the same images as another one; the splits
            have different classes; or a folder that is not of a split has the same classes.
        OSError: a directory cannot be read.
    """
    root = Path(path)
    folders = _split_folders(root)
    if not folders:
        return Splits(_images_of(root))
    train = folders.get("train")
    return open_splits({name: partial(_split, folder, train) for name, folder in folders.items()})


def _split_folders(root: Path, deeper: bool = True) -> dict[str, Path]:
    """Return split -> folder, in the order of `SPLITS`; empty if all folders are classes."""
    folders = _folders_in(root)
    found = {split_of(name) for name in folders}
    if len(folders) == 1 and found == {None} and deeper:
        return _split_folders(root / folders[0], deeper=False)
    # A class may have the name of a split: with other folders, require training and another split.
    if None in found and not ("train" in found and len(found) > 2):
        return {}
    named = named_splits(folders, str(root))
    splits = {split: _classes_in(root / name) for split, name in named.items()}
    if None in found:
        others = [name for name in folders if split_of(name) is None]
        _check_not_splits(root, others, splits["train"])
    return splits


def _classes_in(folder: Path) -> Path:
    """Return the folder of a split's classes, which may be nested, as in `seg_train/seg_train`."""
    inner = _folders_in(folder)
    is_nested = len(inner) == 1 and split_of(inner[0]) == split_of(folder.name)
    return folder / inner[0] if is_nested else folder


def _check_not_splits(root: Path, others: Sequence[str], train: Path) -> None:
    """Raise ValueError if a folder that names no split has its classes; warn of the others."""
    classes = _folders_in(train)
    for name in others:
        inner: list[str] = []
        with contextlib.suppress(OSError):  # Only root may read `lost+found`.
            inner = _folders_in(_classes_in(root / name))
        if inner and inner == classes:
            raise ValueError(
                f"Expected common names of splits, such as {', '.join(SPLITS)}. Received: {root}, "
                f"where {name} has the class folders of {train.relative_to(root)}. Rename it, or "
                "move it elsewhere"
            )
    warn_of_left_out(others, f"folder:{root}")


def _split(folder: Path, train: Path | None) -> ImageFiles:
    """Return the images of a split, which must have the class folders of the training split."""
    expected, received = set(_folders_in(train or folder)), set(_folders_in(folder))
    differences = [
        f"{some_of(sorted(extra))} only in {where}"
        for extra, where in ((expected - received, train), (received - expected, folder))
        if extra and received
    ]
    if differences:
        alike = ", in another case or Unicode form" if alike_names(expected | received) else ""
        raise ValueError(
            "Expected the same class folders in all splits. Received: "
            f"{' and '.join(differences)}{alike}. Rename, add or remove them"
        )
    return _images_of(folder)


def _images_of(root: Path) -> ImageFiles:
    folders = _folders_in(root)
    if not folders:
        loose = [entry.name for entry in _entries(str(root)) if _has_suffix(entry.name)]
        where = f"images such as {loose[0]} directly in" if loose else "none in"
        raise ValueError(
            f"Expected one folder of images per class. Received: {where} {root}. Put the images of "
            "every class into a folder with the name of the class"
        )
    listed = _found_in(root, folders)
    found = {x: [path for path in listed[x] if not is_other_image(path)] for x in listed}
    others = [x for name in listed if found[name] != listed[name] for x in listed[name]]
    others = list(filter(is_other_image, others))
    unread = f"{some_others(others)}. {CONVERT}" if others else ""
    empty = [folder for folder, paths in found.items() if not paths]
    if empty:
        which = "none of them" if len(empty) == len(folders) else f"none in {some_of(empty)}"
        raise ValueError(
            f"Expected images ({', '.join(sorted(SUFFIXES))}) in every class folder. Received: "
            f"{root}, with {which}{f', but {unread}' if unread else ''}"
        )
    if unread:
        warnings.warn(f"folder:{root}: left out {unread}", stacklevel=2)
    _check_are_classes(root, found)
    names, ids = names_and_ids(folders)
    counts = [len(paths) for paths in found.values()]
    labels = np.repeat(np.arange(len(folders), dtype=np.int32), counts)
    paths = list(itertools.chain(*found.values()))
    return ImageFiles(paths, labels, names, ids, f"folder:{root}")


def _found_in(root: Path, folders: Sequence[str]) -> dict[str, list[str]]:
    """Return class folder -> its images; no folder may be reached from two class folders."""
    real = os.path.realpath(root)
    # Links to these folders are not followed: a class would get the images of other classes.
    above = (real, *map(str, Path(real).parents))
    classes: dict[str, str] = {}
    found = {}
    for folder in folders:
        visited: list[str] = []
        found[folder] = list(_images_below(str(root / folder), above, visited))
        for place in visited:
            if (other := classes.setdefault(place, folder)) != folder:
                raise ValueError(
                    f"Expected every image in one class. Received: {root}, where {other} and "
                    f"{folder} lead to the same folder {place}. Remove one of the links"
                )
    return found


def _check_are_classes(root: Path, found: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError if class folders seem to contain classes, or splits of a class."""
    inner: dict[str, frozenset[str]] = {}
    for folder, paths in found.items():
        start = len(str(root / folder)) + 1
        only_folders = all(os.sep in path[start:] for path in paths)
        names = (path[start:].partition(os.sep)[0] for path in paths if only_folders)
        inner[folder] = frozenset(names)
    doubtful = [
        folder
        for folder, names in inner.items()
        if len(names) > 1
        and (
            split_of(folder)
            or len({split_of(name) for name in names} - {None}) > 1
            or (len(found) > 1 and len(set(inner.values())) == 1)
        )
    ]
    if doubtful:
        raise ValueError(
            "Expected one folder of images per class, inside the folders of the splits if there "
            f"are any. Received: {root}, with only folders in {some_of(doubtful)}, such as "
            f"{some_of(sorted(inner[doubtful[0]]), 2)}. If these are the classes, pass one of the "
            "folders that contain them, or name those train, validation and test; if not, move the "
            "images of every class directly into its folder"
        )


def _folders_in(root: Path) -> list[str]:
    return [entry.name for entry in _entries(str(root)) if _is_folder(entry)]


def _images_below(directory: str, above: tuple[str, ...], visited: list[str]) -> Iterator[str]:
    """Yield the files below a directory with the suffix of an image, formats not read included.

    The order is that of `find_images`. Files are not accessed.

    Args:
        directory: the directory.
        above: real paths of the folders that are not followed.
        visited: list to which the real paths of the followed folders are appended.
    """
    real = os.path.realpath(directory)
    if real in above:
        return
    visited.append(real)
    for entry in _entries(directory):
        if _is_folder(entry):
            yield from _images_below(entry.path, (*above, real), visited)
        elif _has_suffix(entry.name):
            yield entry.path


def _has_suffix(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    return suffix in SUFFIXES or suffix in OTHER_SUFFIXES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        is_folder = entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:  # A link to itself.
            raise _unreadable(entry.path, error) from error
        is_folder = False
    # A broken link with the suffix of an image is found when it is read.
    is_link = not is_folder and entry.is_symlink() and not _has_suffix(entry.name)
    if is_link and not Path(entry.path).exists():
        warnings.warn(f"{entry.path} is left out: it is a broken link", stacklevel=2)
    return is_folder


def _unreadable(path: str, error: OSError) -> OSError:
    return OSError(f"Expected a directory that can be read. Received: {path} ({error.strerror})")


def _entries(directory: str) -> list[os.DirEntry[str]]:
    """Return the entries of a directory that are not hidden, sorted by name."""
    try:
        with os.scandir(directory) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"Expected a directory of images. Received: {directory} ({error.strerror})"
        ) from error
    except OSError as error:
        raise _unreadable(directory, error) from error
    return sorted(shown, key=lambda entry: entry.name)
