"""Image files on disk: a folder per class."""

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
from keras_resnet.data.sources.parts import (
    PARTS,
    Parts,
    named_parts,
    open_parts,
    part_of,
    warn_of_left_out,
)
from keras_resnet.images.decode import SUFFIXES, is_other_image, some_others
from keras_resnet.images.formats import CONVERT, OTHER_SUFFIXES
from keras_resnet.images.labels import alike_names, names_and_ids
from keras_resnet.support.checks import some_of


@dataclass(frozen=True)
class ImageFiles:
    """Image files with their labels, a `Source`. Only what is being read is in memory."""

    paths: list[str]
    labels: np.ndarray
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...] | None = None
    name: str = "image files"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        path = Path(self.paths[index])
        # Reading a pipe or a device might never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        return Record(path.read_bytes(), int(self.labels[index]))

    def name_of(self, index: int) -> str:
        return self.paths[index]

    def path_of(self, index: int) -> str:
        return self.paths[index]


def load_folder(path: str) -> Parts:
    """Lists the images of a directory with one folder per class.

    Class names are the names of the folders, sorted as text by code points: `10` comes before `2`.
    If all of them are WordNet ids (`n01440764`), they are the class ids, and the names are those of
    ImageNet's classes; ids that are not among these are their own names.

    An image is a file with an image suffix at any depth below a class folder. Hidden files and
    folders are left out; links are followed, but not to a folder that they are in.

    Args:
        path: the directory; or one with folders that are named as parts usually are (`part_of`),
            in itself or in the only folder in it, each with the same class folders.

    Raises:
        ValueError: there is no such directory, it has no class folders, one of them has no images
            or seems to be no class, two have the same ones, the parts have different classes, or
            a folder beside them has their classes, too.
        OSError: a directory cannot be read.
    """
    root = Path(path)
    parts = _parts_in(root)
    if not parts:
        return Parts(_images_of(root))
    train = parts.get("train")
    return open_parts({part: partial(_part, parts[part], train) for part in parts})


def _parts_in(root: Path, deeper: bool = True) -> dict[str, Path]:
    """The folders of the parts, in the order of `PARTS`; none if there are only classes."""
    folders = _folders_in(root)
    found = {part_of(name) for name in folders}
    if len(folders) == 1 and found == {None} and deeper:
        return _parts_in(root / folders[0], deeper=False)
    # Beside other folders, one called so may be a class.
    if None in found and not ("train" in found and len(found) > 2):
        return {}
    named = named_parts(folders, str(root))
    parts = {part: _classes_in(root / name) for part, name in named.items()}
    if None in found:
        _check_no_parts(root, [name for name in folders if part_of(name) is None], parts["train"])
    return parts


def _classes_in(folder: Path) -> Path:
    """Find the class folders of a part: in it, or deeper as in `seg_train/seg_train`."""
    inner = _folders_in(folder)
    same = len(inner) == 1 and part_of(inner[0]) == part_of(folder.name)
    return folder / inner[0] if same else folder


def _check_no_parts(root: Path, others: Sequence[str], train: Path) -> None:
    """Refuses folders beside the parts that hold the classes of one; warns of all others."""
    classes = _folders_in(train)
    for name in others:
        inner: list[str] = []
        with contextlib.suppress(OSError):  # Nobody may read `lost+found`.
            inner = _folders_in(_classes_in(root / name))
        if inner and inner == classes:
            raise ValueError(
                f"Expected usual names of parts, such as {', '.join(PARTS)}. Received: {root}, "
                f"where {name} has the class folders of {train.relative_to(root)}. Rename it, or "
                "move it elsewhere"
            )
    warn_of_left_out(others, f"folder:{root}")


def _part(folder: Path, train: Path | None) -> ImageFiles:
    """The images of a part, which must have the class folders of the training part, if any."""
    expected, received = set(_folders_in(train or folder)), set(_folders_in(folder))
    differences = [
        f"{some_of(sorted(extra))} only in {where}"
        for extra, where in ((expected - received, train), (received - expected, folder))
        if extra and received
    ]
    if differences:
        alike = ", in another case or Unicode form" if alike_names(expected | received) else ""
        raise ValueError(
            "Expected the same class folders in all parts. Received: "
            f"{' and '.join(differences)}{alike}"
        )
    return _images_of(folder)


def _images_of(root: Path) -> ImageFiles:
    folders = _folders_in(root)
    if not folders:
        loose = [entry.name for entry in _entries(str(root)) if _has_suffix(entry.name)]
        where = f"images such as {loose[0]} directly in" if loose else "none in"
        raise ValueError(
            f"Expected one folder of images per class. Received: {where} {root}. Put the images of "
            "every class into a folder with its name"
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
    """The images of every class folder; no folder is followed into two of them."""
    real = os.path.realpath(root)
    # Through a link to one of these, a class would get the images of others.
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
    """Refuses folders that hold classes, or parts of them, where they should be classes."""
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
            part_of(folder)
            or len({part_of(name) for name in names} - {None}) > 1
            or (len(found) > 1 and len(set(inner.values())) == 1)
        )
    ]
    if doubtful:
        raise ValueError(
            "Expected one folder of images per class, inside of those of the parts if there are "
            f"any. Received: {root}, with nothing but folders in {some_of(doubtful)}, such as "
            f"{some_of(sorted(inner[doubtful[0]]), 2)}. If these are the classes, pass one of the "
            "folders around them, or name those train, validation and test; if not, move the "
            "images of every class directly into its folder"
        )


def _folders_in(root: Path) -> list[str]:
    return [entry.name for entry in _entries(str(root)) if _is_folder(entry)]


def _images_below(directory: str, above: tuple[str, ...], visited: list[str]) -> Iterator[str]:
    """Yield the files that `find_images` looks at, in its order, without a disk access for each.

    Images in formats that are not read are among them.

    Folders that are not followed are those `above`; the others are noted as `visited`, by their
    real paths.
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
    # Of images, reading says it.
    is_link = not is_folder and entry.is_symlink() and not _has_suffix(entry.name)
    if is_link and not Path(entry.path).exists():
        warnings.warn(f"{entry.path} is left out: it is a link to nothing", stacklevel=2)
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
