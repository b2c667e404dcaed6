"""Image files on disk: a folder per class."""

from __future__ import annotations

import errno
import itertools
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_resnet.data.sources.base import Record
from keras_resnet.images.decode import SUFFIXES
from keras_resnet.images.labels import imagenet_classes
from keras_resnet.support.checks import some_of

#: Names of the validation part beside `train`; the first that is there is taken.
VALIDATION_FOLDERS = ("validation", "val", "test")

_WORDNET_ID = re.compile(r"n[0-9]{8}")


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


def load_folder(path: str) -> tuple[ImageFiles, ImageFiles | None]:
    """Lists the images of a directory with one folder per class.

    Class names are the names of the folders, sorted as text by code points: `10` comes before `2`.
    If all of them are WordNet ids (`n01440764`), they are the class ids, and the names are those of
    ImageNet's classes; ids that are not among these are their own names.

    An image is a file with an image suffix at any depth below a class folder. Hidden files and
    folders are left out; links are followed, but not in a circle.

    Args:
        path: the directory; or one with the parts `train` and `validation`, `val` or `test` (the
            first of these that is there), each with the same class folders.

    Returns:
        The training part and the validation part, None if there is only one part.

    Raises:
        ValueError: there is no such directory, it has no class folders, one of them has
            no images, or the parts have different classes.
        OSError: a directory cannot be read.
    """
    root = Path(path)
    parts = [root / name for name in VALIDATION_FOLDERS if (root / name).is_dir()]
    if not (root / "train").is_dir() or not parts:
        return _images_of(root), None
    train, validation = root / "train", parts[0]
    first, second = set(_folders_in(train)), set(_folders_in(validation))
    differences = [
        f"{some_of(sorted(extra))} only in {where}"
        for extra, where in ((first - second, train), (second - first, validation))
        if extra
    ]
    if differences:
        raise ValueError(
            "Expected the same class folders for training and validation. Received: "
            f"{' and '.join(differences)}"
        )
    return _images_of(train), _images_of(validation)


def _images_of(root: Path) -> ImageFiles:
    folders = _folders_in(root)
    if not folders:
        loose = [entry.name for entry in _entries(str(root)) if _has_suffix(entry.name)]
        where = f"images such as {loose[0]} directly in" if loose else "none in"
        raise ValueError(
            f"Expected one folder of images per class. Received: {where} {root}. Put the images of "
            "every class into a folder with its name"
        )
    found = [list(_images_below(str(root / folder))) for folder in folders]
    empty = [folder for folder, paths in zip(folders, found, strict=True) if not paths]
    if empty:
        which = "none of them" if len(empty) == len(folders) else f"none in {some_of(empty)}"
        raise ValueError(
            f"Expected images ({', '.join(sorted(SUFFIXES))}) in every class folder. Received: "
            f"{root}, with {which}"
        )
    if folders == ["train"]:
        raise ValueError(
            "Expected one folder per class, or `train` beside one of "
            f"{', '.join(VALIDATION_FOLDERS)}. Received: {root}, with `train` alone. Pass "
            f"{root / 'train'}"
        )
    names, ids = names_and_ids(folders)
    labels = np.repeat(np.arange(len(folders), dtype=np.int32), [len(paths) for paths in found])
    return ImageFiles(list(itertools.chain(*found)), labels, names, ids, f"folder:{root}")


def names_and_ids(classes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Names of classes, and their ids if all are called by WordNet ids.

    Ids get ImageNet's names; one that is not among its classes is its own name.
    """
    if not are_wordnet_ids(classes):
        return tuple(classes), None
    known = dict(imagenet_classes())
    return tuple(known.get(wordnet_id, wordnet_id) for wordnet_id in classes), tuple(classes)


def are_wordnet_ids(names: Sequence[str]) -> bool:
    """Whether all of these are WordNet ids of nouns, such as `n01440764`."""
    return all(_WORDNET_ID.fullmatch(name) for name in names)


def _folders_in(root: Path) -> list[str]:
    return [entry.name for entry in _entries(str(root)) if _is_folder(entry)]


def _images_below(directory: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """What `find_images` lists, in the same order, without asking the disk about every file."""
    real = os.path.realpath(directory)
    for entry in _entries(directory) if real not in above else ():
        if _is_folder(entry):
            yield from _images_below(entry.path, (*above, real))
        elif _has_suffix(entry.name):
            yield entry.path


def _has_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # A link to itself.
            return False
        raise _unreadable(entry.path, error) from error


def _unreadable(path: str, error: OSError) -> OSError:
    return OSError(f"Expected a directory that can be read. Received: {path} ({error.strerror})")


def _entries(directory: str) -> list[os.DirEntry[str]]:
    """What is in a directory and not hidden, sorted by name."""
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
