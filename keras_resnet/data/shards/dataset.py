"""A prepared data set: its shards, and the files that describe them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from keras_resnet.data.shards.example import LABEL_OFFSET
from keras_resnet.data.shards.random_access import FRAME_BYTES
from keras_resnet.support.files import partial_directory
from keras_resnet.support.fingerprints import fingerprint_of_file
from keras_resnet.support.json_text import load_json
from keras_resnet.support.placeholders import check_binary, text_instead
from keras_resnet.support.unfinished import write_json

#: The value of `format` in `dataset.json`.
FORMAT = "keras_resnet TFRecord shards, version 1"

#: Files in the directory of the shards: the description of the data set; the length and label of
#: every record; and checksums in the format of `sha256sum`.
DATASET_FILE, INDEX_FILE, CHECKSUMS_FILE = "dataset.json", "index.npy", "checksums.sha256"

#: An entry of the index: length of a record in bytes, and its label, from 0; little-endian.
INDEX_DTYPE = np.dtype([("length", "<i8"), ("label", "<i4")])


class StoredRecord(NamedTuple):
    """An encoded image with its label, as it is stored in a shard.

    Attributes:
        example: a serialized `tf.train.Example`; None for an unreadable image, which is left out.
        label: label of the image, from 0; -1 for an unreadable image.
        name: name of the image in reports.
    """

    example: bytes | None
    label: int
    name: str


@dataclasses.dataclass(frozen=True)
class Shard:
    """A finished shard; `dataclasses.asdict` of it is JSON-serializable.

    Attributes:
        name: name of the file.
        bytes: size of the file.
        sha256: checksum of the file, in hexadecimal digits.
        lengths: length of every record, in bytes.
        labels: label of every record, from 0.
        skipped: names of the unreadable images that were left out.
    """

    name: str
    bytes: int
    sha256: str
    lengths: list[int]
    labels: list[int]
    skipped: list[str]


def write_shard(path: Path, records: Iterable[StoredRecord]) -> Shard:
    """Write a shard under a temporary name, then rename it.

    Args:
        path: path of the shard.
        records: the records to write.

    Raises:
        OSError: the file cannot be written, for instance because the disk is full.
    """
    import tensorflow as tf

    lengths: list[int] = []
    labels: list[int] = []
    skipped: list[str] = []
    with partial_directory(path.parent) as staging:
        partial = staging / path.name
        with tf.io.TFRecordWriter(str(partial)) as writer:
            for record in records:
                if record.example is None:
                    skipped.append(record.name)
                    continue
                writer.write(record.example)
                lengths.append(len(record.example))
                labels.append(record.label)
        size, checksum = partial.stat().st_size, fingerprint_of_file(partial)
        partial.replace(path)
    return Shard(path.name, size, checksum, lengths, labels, skipped)


def write_description(
    directory: Path,
    splits: Mapping[str, Sequence[Shard]],
    class_names: Sequence[str],
    class_ids: Sequence[str] | None,
    **settings: int | None,
) -> dict[str, Any]:
    """Write the files that describe a data set's shards.

    Args:
        directory: directory of the shards.
        splits: name of each split -> its shards, in their order.
        class_names: one name per class.
        class_ids: identifiers of the classes, or None.
        settings: further entries of `dataset.json`.

    Returns:
        The contents of `dataset.json`.
    """
    described = {}
    for split, shards in splits.items():
        labels = np.array([label for shard in shards for label in shard.labels], np.int64)
        described[split] = {
            "records": len(labels),
            "class_counts": np.bincount(labels, minlength=len(class_names)).tolist(),
            "skipped": [name for shard in shards for name in shard.skipped],
            "shards": [
                {
                    "name": shard.name,
                    "records": len(shard.lengths),
                    "bytes": shard.bytes,
                    "sha256": shard.sha256,
                }
                for shard in shards
            ],
        }
    dataset: dict[str, Any] = {
        "format": FORMAT,
        "class_names": list(class_names),
        "class_ids": None if class_ids is None else list(class_ids),
        "label_offset": LABEL_OFFSET,
        **settings,
        "parts": described,
    }
    write_json(directory / DATASET_FILE, dataset)
    all_shards = [shard for shards in splits.values() for shard in shards]
    index = np.zeros(sum(len(shard.lengths) for shard in all_shards), INDEX_DTYPE)
    index["length"] = [length for shard in all_shards for length in shard.lengths]
    index["label"] = [label for shard in all_shards for label in shard.labels]
    np.save(directory / INDEX_FILE, index)
    sums = {shard.name: shard.sha256 for shard in all_shards}
    sums |= {name: fingerprint_of_file(directory / name) for name in (DATASET_FILE, INDEX_FILE)}
    lines = [f"{checksum}  {name}\n" for name, checksum in sums.items()]
    (directory / CHECKSUMS_FILE).write_text("".join(lines))
    return dataset


class _Entry(NamedTuple):
    """Size in bytes and number of records of a shard, and its first entry in the index."""

    size: int
    records: int
    first: int


class PreparedDataset:
    """The description of a data set's shards.

    Args:
        directory: directory of the shards.
        described: contents of `dataset.json`.

    Attributes:
        class_names: one name per class.
        class_ids: identifiers of the classes, or None.
        label_offset: label in the records of the class with index 0.

    Raises:
        KeyError, TypeError: `described` is not as `data prepare` writes it.
    """

    def __init__(self, directory: Path, described: Any) -> None:
        self._directory = directory
        ids = described["class_ids"]
        self.class_names = tuple(described["class_names"])
        self.class_ids = None if ids is None else tuple(ids)
        self.label_offset = int(described["label_offset"])
        self._entries: dict[str, _Entry] = {}
        self._records = 0
        for split in described["parts"].values():
            for shard in split["shards"]:
                entry = _Entry(int(shard["bytes"]), int(shard["records"]), self._records)
                self._entries[shard["name"]] = entry
                self._records += entry.records

    def check_present(self, paths: Sequence[Path]) -> None:
        """Raise ValueError if a shard of the data set is not among these files."""
        missing = sorted(set(self._entries) - {path.name for path in paths})
        if missing:
            raise ValueError(
                f"Expected all shards listed in {self._directory / DATASET_FILE}. Received: "
                f"{len(paths)} files without {missing[0]} (one of {len(missing)}). Copy the "
                "missing ones, or prepare the data set again"
            )

    def index_of(self, paths: Sequence[Path]) -> tuple[list[np.ndarray] | None, np.ndarray | None]:
        """Return the lengths of the records of each shard, and the labels of all, `(n,)`, int32.

        Both are None if there is no index, which only makes opening the data set slower.

        Args:
            paths: the shards.

        Raises:
            ValueError: a file is not a shard of this data set or has another size, or the index is
                damaged.
        """
        for path in paths:
            self._check_size(path)
        if not (self._directory / INDEX_FILE).is_file():
            return None, None
        index = self._read_index()
        lengths, labels = [], []
        for path in paths:
            size, records, first = self._entries[path.name]
            entries = index[first : first + records]
            if int(entries["length"].sum()) + records * FRAME_BYTES != size:
                self._refuse_index(f"which does not fit {path.name}")
            lengths.append(entries["length"].astype(np.int64))
            labels.append(entries["label"].astype(np.int32))
        all_labels = np.concatenate(labels)
        classes = len(self.class_names)
        if not ((all_labels >= 0) & (all_labels < classes)).all():
            self._refuse_index(f"with labels that are not among {classes} classes")
        return lengths, all_labels

    def _check_size(self, path: Path) -> None:
        if path.name not in self._entries:
            raise ValueError(
                f"Expected shards listed in {self._directory / DATASET_FILE}. Received: "
                f"{path.name}, which is not. Remove it, or prepare the data set again"
            )
        expected, received = self._entries[path.name].size, path.stat().st_size
        if received != expected:
            if instead := text_instead(path):
                raise ValueError(f"Expected a TFRecord file. Received: {path}, {instead}")
            raise ValueError(
                f"Expected a file of {expected:,} bytes, as in {DATASET_FILE}. Received: {path} of "
                f"{received:,} bytes. Copy it again, or prepare the data set again"
            )

    def _read_index(self) -> np.ndarray:
        try:
            check_binary(self._directory / INDEX_FILE)
            index: np.ndarray = np.load(self._directory / INDEX_FILE, allow_pickle=False)
        except (ValueError, EOFError) as error:
            self._refuse_index(f"which cannot be read: {error}")
        if index.shape != (self._records,) or index.dtype != INDEX_DTYPE:
            self._refuse_index(f"an array {index.shape} of {index.dtype}")
        return index

    def _refuse_index(self, reason: str) -> NoReturn:
        raise ValueError(
            f"Expected the index of {self._records:,} records. Received: "
            f"{self._directory / INDEX_FILE}, {reason}. Prepare the data set again, or remove the "
            "index, which makes opening the data set slower"
        )


def read_description(directory: Path) -> PreparedDataset | None:
    """Return the data set of a directory; None if its `dataset.json` is not of `data prepare`.

    Raises:
        ValueError: `dataset.json` is damaged.
        OSError: `dataset.json` cannot be read.
    """
    path = directory / DATASET_FILE
    try:
        described = load_json(path)
        if not isinstance(described, dict) or described.get("format") != FORMAT:
            return None
        return PreparedDataset(directory, described)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Expected {DATASET_FILE} as `keras-resnet data prepare` writes it. Received: {path} "
            f"({type(error).__name__}: {error})"
        ) from error
