"""ILSVRC-2012 as published: two tars, or their extracted files."""

from __future__ import annotations

import contextlib
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np

from keras_resnet.data.sources.base import Record, Source
from keras_resnet.data.sources.folder import ImageFiles, load_folder
from keras_resnet.data.sources.imagenet_labels import validation_synsets
from keras_resnet.images.decode import SUFFIXES, find_images
from keras_resnet.images.labels import are_wordnet_ids, imagenet_classes, names_and_ids
from keras_resnet.support.placeholders import text_instead
from keras_resnet.support.progress import Progress, unseen

#: Number of images of ILSVRC-2012 (Russakovsky et al. 2015, table 2).
_TRAINING_IMAGES, _VALIDATION_IMAGES = 1_281_167, 50_000


@dataclass(frozen=True)
class ArchivedImages:
    """A `Source` of images inside an uncompressed tar, which is not extracted.

    Attributes:
        path: path of the tar.
        members: names of the images.
        ranges: offset and length in bytes of each image, `(n, 2)`, int64.
        labels: label of each image, `(n,)`, int32.
        class_names: one name per class.
        class_ids: identifiers of the classes, or None.
        name: name in reports.
    """

    path: Path
    members: list[str]
    ranges: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...] | None
    name: str

    @property
    def files(self) -> tuple[str]:
        return (str(self.path),)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> Record:
        offset, length = self.ranges[index].tolist()
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            data = os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)
        if len(data) != length:
            raise ValueError(
                f"Expected {length} bytes of {self.members[index]}. Received: {len(data)} bytes "
                f"from {self.path}, which is shorter than before. Copy it again"
            )
        return Record(data, int(self.labels[index]))

    def name_of(self, index: int) -> str:
        return f"{self.path.name}/{self.members[index]}"


class _Listing(NamedTuple):
    """The images of one split before their labels are known.

    Attributes:
        names: paths of files, or names of members of a tar.
        synsets: WordNet id of each image.
        ranges: as in `ArchivedImages`; None for files.
    """

    names: list[str]
    synsets: list[str]
    ranges: np.ndarray | None


def load_imagenet(
    train: Path,
    validation: Path,
    validation_labels: Path | None = None,
    *,
    check_counts: bool = True,
    progress: Progress = unseen,
) -> tuple[Source, Source]:
    """List the training and the validation images of ILSVRC-2012, without extracting the tars.

    Images are sorted by class, then by name, so that all forms of the data have the same order. The
    classes are those of the training split, in the order of their WordNet ids.

    Args:
        train: the tar of one tar per class, or a directory with a folder per class.
        validation: the tar of all images, a directory of all images, or a directory with a folder
            per class.
        validation_labels: the file of labels of validation images without class folders; see
            `validation_synsets`.
        check_counts: whether an incomplete data set is an error.
        progress: called with a description and the share of the work that is done.

    Raises:
        ValueError: the data are incomplete or differ from the published ones.
        OSError: a file cannot be read.
    """
    train_list = _folders(train) if train.is_dir() else _nested_archive(train, progress)
    if validation.is_dir() and validation_labels is None:
        validation_list = _folders(validation)
    else:
        validation_list = _flat(validation, validation_labels, progress)
    ids = tuple(sorted(set(train_list.synsets)))
    if check_counts:
        _check_counts(len(train_list.names), len(validation_list.names), ids)
    unknown = sorted(set(validation_list.synsets) - set(ids))
    if unknown:
        raise ValueError(
            f"Expected validation images of the {len(ids)} classes of {train}. Received: "
            f"{unknown[0]} (one of {len(unknown)} others) in {validation}"
        )
    return (
        _source(train, train_list, ids, "imagenet (training)"),
        _source(validation, validation_list, ids, "imagenet (validation)"),
    )


def _check_counts(train: int, validation: int, ids: Sequence[str]) -> None:
    published = [wordnet_id for wordnet_id, _ in imagenet_classes()]
    expected = _TRAINING_IMAGES, _VALIDATION_IMAGES, len(published)
    if (train, validation, len(ids)) != expected:
        described = [
            f"{a:,} training images, {b:,} validation images and {c:,} classes"
            for a, b, c in (expected, (train, validation, len(ids)))
        ]
        raise ValueError(
            f"Expected {described[0]}. Received: {described[1]}. Check the downloads, or pass "
            "`check_counts=False` to use a subset of ImageNet"
        )
    if sorted(published) != list(ids):
        other = min(set(ids) - set(published))
        raise ValueError(
            f"Expected the classes of ILSVRC-2012. Received: {other}, which is not one"
        )


def _source(path: Path, listing: _Listing, ids: tuple[str, ...], name: str) -> Source:
    keys = list(zip(listing.synsets, map(_basename, listing.names), strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    labels = np.searchsorted(ids, [listing.synsets[index] for index in order]).astype(np.int32)
    names = [listing.names[index] for index in order]
    classes, _ = names_and_ids(ids)
    if listing.ranges is None:
        return ImageFiles(names, labels, classes, ids, name)
    return ArchivedImages(path, names, listing.ranges[order], labels, classes, ids, name)


def _folders(path: Path) -> _Listing:
    images = load_folder(str(path)).train
    assert isinstance(images, ImageFiles)
    if images.class_ids is None:
        raise ValueError(
            "Expected folders named by WordNet ids, such as n01440764. Received: "
            f"{path}, with {images.class_names[0]}"
        )
    synsets = [images.class_ids[label] for label in images.labels.tolist()]
    return _Listing(images.paths, synsets, None)


def _flat(path: Path, labels: Path | None, progress: Progress) -> _Listing:
    if labels is None:
        raise ValueError(
            f"Expected `validation_labels` for {path}, whose images are not in class folders. "
            "Received: none"
        )
    if path.is_dir():
        names, ranges = [str(image) for image in find_images([path])], None
    else:
        progress(f"listing {path.name}", 0.0)
        with _tar(path) as archive:
            found = list(_images_in(archive, path.stat().st_size))
        names = [name for name, *_ in found]
        ranges = np.array([bounds for _, *bounds in found], np.int64).reshape(-1, 2)
    stems = [PurePosixPath(_basename(name)).stem for name in names]
    return _Listing(names, validation_synsets(labels, stems), ranges)


def _nested_archive(path: Path, progress: Progress) -> _Listing:
    """List the images of a tar of uncompressed tars, one per class."""
    names: list[str] = []
    synsets: list[str] = []
    ranges: list[tuple[int, int]] = []
    size = path.stat().st_size
    shown = -1
    with _tar(path) as outer:
        for member in _files_in(outer, size):
            synset = PurePosixPath(member.name).stem
            if not member.name.endswith(".tar") or not are_wordnet_ids([synset]):
                raise ValueError(
                    "Expected a tar of tars named by WordNet ids, such as n01440764.tar. "
                    f"Received: {path}, with {member.name}"
                )
            # Only every tenth percent, as every call prints a line without a terminal.
            if (percent := member.offset * 100 // size) > shown:
                progress(f"listing {path.name}", 0.0)
                shown = percent + 9
            with _tar(path / member.name, outer.extractfile(member)) as inner:
                for name, offset, length in _images_in(inner, member.size):
                    names.append(f"{synset}/{name}")
                    synsets.append(synset)
                    ranges.append((member.offset_data + offset, length))
    return _Listing(names, synsets, np.array(ranges, np.int64).reshape(-1, 2))


@contextlib.contextmanager
def _tar(path: Path, file: IO[bytes] | None = None) -> Iterator[tarfile.TarFile]:
    """Open an uncompressed tar at a path, or inside another tar as a file."""
    try:
        with tarfile.open(path if file is None else None, "r:", file) as archive:
            yield archive
    except tarfile.TarError as error:
        reason = (text_instead(path) if file is None else None) or error
        raise ValueError(
            f"Expected a complete, uncompressed tar. Received: {path} ({reason})"
        ) from error


def _files_in(archive: tarfile.TarFile, size: int) -> Iterator[tarfile.TarInfo]:
    """Yield the regular files in a tar of `size` bytes."""
    for member in archive:
        if member.isreg():
            if member.offset_data + member.size > size:
                raise tarfile.ReadError(f"{member.name} ends beyond the end of the file")
            yield member


def _images_in(archive: tarfile.TarFile, size: int) -> Iterator[tuple[str, int, int]]:
    """Yield the name without directories, the offset and the length of every image in a tar."""
    for member in _files_in(archive, size):
        name = _basename(member.name)
        if PurePosixPath(name).suffix.lower() in SUFFIXES and not name.startswith("."):
            yield name, member.offset_data, member.size


def _basename(name: str) -> str:
    return name.replace(os.sep, "/").rpartition("/")[2]
