"""A prepared data set: its shards, and the files beside them that describe them."""

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

#: What `dataset.json` calls its own format.
FORMAT = "keras_resnet TFRecord shards, version 1"

#: Files beside the shards: what they consist of; length and label of every record; and checksums in
#: the format of `sha256sum`.
DATASET_FILE, INDEX_FILE, CHECKSUMS_FILE = "dataset.json", "index.npy", "checksums.sha256"

#: A row of the index: bytes of the record and its label, from 0. Little-endian on every machine.
INDEX_DTYPE = np.dtype([("length", "<i8"), ("label", "<i4")])


class StoredRecord(NamedTuple):
    """An encoded image with its label, as a shard stores it.

    Attributes:
        example: a serialized `tf.train.Example`; None if the image is unreadable and left out.
        label: of the image, from 0; -1 of one that is left out.
        name: what reports call it.
    """

    example: bytes | None
    label: int
    name: str


@dataclasses.dataclass(frozen=True)
class Shard:
    """A finished shard; `dataclasses.asdict` is fit for JSON.

    Attributes:
        name: of the file.
        bytes: its size.
        sha256: its checksum, in hexadecimal digits.
        lengths: bytes of every record.
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
    """Writes a shard under a temporary name and renames it.

    Raises:
        OSError: it cannot be written, for instance because the disk is full.
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
    parts: Mapping[str, Sequence[Shard]],
    class_names: Sequence[str],
    class_ids: Sequence[str] | None,
    **settings: int | None,
) -> dict[str, Any]:
    """Writes the files beside the shards.

    Args:
        directory: where the shards are.
        parts: the shards of each part, in their order.
        class_names: one name per class.
        class_ids: identifiers of the classes, if there are any.
        settings: what else `dataset.json` shall say.

    Returns:
        The contents of `dataset.json`.
    """
    described = {}
    for part, shards in parts.items():
        labels = np.array([label for shard in shards for label in shard.labels], np.int64)
        described[part] = {
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
    every = [shard for shards in parts.values() for shard in shards]
    index = np.zeros(sum(len(shard.lengths) for shard in every), INDEX_DTYPE)
    index["length"] = [length for shard in every for length in shard.lengths]
    index["label"] = [label for shard in every for label in shard.labels]
    np.save(directory / INDEX_FILE, index)
    sums = {shard.name: shard.sha256 for shard in every}
    sums |= {name: fingerprint_of_file(directory / name) for name in (DATASET_FILE, INDEX_FILE)}
    lines = [f"{checksum}  {name}\n" for name, checksum in sums.items()]
    (directory / CHECKSUMS_FILE).write_text("".join(lines))
    return dataset


class _Entry(NamedTuple):
    """Size and number of records of a shard, and its first row in the index."""

    size: int
    records: int
    first: int


class PreparedDataset:
    """The files beside the shards of a data set.

    Attributes:
        class_names: one name per class.
        class_ids: identifiers of the classes, if there are any.
        label_offset: the label in the records of the class with index 0.
    """

    def __init__(self, directory: Path, described: Any) -> None:
        """Takes what `dataset.json` says.

        Raises:
            KeyError, TypeError: it is not as `data prepare` writes it.
        """
        self._directory = directory
        ids = described["class_ids"]
        self.class_names = tuple(described["class_names"])
        self.class_ids = None if ids is None else tuple(ids)
        self.label_offset = int(described["label_offset"])
        self._entries: dict[str, _Entry] = {}
        self._records = 0
        for part in described["parts"].values():
            for shard in part["shards"]:
                entry = _Entry(int(shard["bytes"]), int(shard["records"]), self._records)
                self._entries[shard["name"]] = entry
                self._records += entry.records

    def check_present(self, paths: Sequence[Path]) -> None:
        """Raises a ValueError if these are not all shards of the data set."""
        missing = sorted(set(self._entries) - {path.name for path in paths})
        if missing:
            raise ValueError(
                f"Expected the files of {self._directory / DATASET_FILE}. Received: {len(paths)}, "
                f"without {missing[0]} (one of {len(missing)})"
            )

    def index_of(self, paths: Sequence[Path]) -> tuple[list[np.ndarray] | None, np.ndarray | None]:
        """Bytes of every record, per shard, and labels of all, `(n,)`, int32.

        Both are None if there is no index, which only makes reading slower.

        Raises:
            ValueError: a shard is not of this data set or of another size, or the index is damaged.
        """
        for path in paths:
            self._check_size(path)
        if not (self._directory / INDEX_FILE).is_file():
            return None, None
        index = self._read_index()
        lengths, labels = [], []
        for path in paths:
            size, records, first = self._entries[path.name]
            rows = index[first : first + records]
            if int(rows["length"].sum()) + records * FRAME_BYTES != size:
                self._refuse_index(f"which does not fit {path.name}")
            lengths.append(rows["length"].astype(np.int64))
            labels.append(rows["label"].astype(np.int32))
        all_labels = np.concatenate(labels)
        classes = len(self.class_names)
        if not ((all_labels >= 0) & (all_labels < classes)).all():
            self._refuse_index(f"with labels that are not among {classes} classes")
        return lengths, all_labels

    def _check_size(self, path: Path) -> None:
        if path.name not in self._entries:
            raise ValueError(
                f"Expected files of {self._directory / DATASET_FILE}. Received: {path.name}, which "
                "is not in it. Remove it, or prepare the data set again"
            )
        expected, received = self._entries[path.name].size, path.stat().st_size
        if received != expected:
            if instead := text_instead(path):
                raise ValueError(f"Expected a TFRecord file. Received: {path}, {instead}")
            raise ValueError(
                f"Expected {expected:,} bytes, as {DATASET_FILE} says. Received: {received:,} in "
                f"{path}. Copy it again, or prepare the data set again"
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
            "index, without which opening takes longer"
        )


def read_description(directory: Path) -> PreparedDataset | None:
    """Return the content of `dataset.json` in a directory; None if `data prepare` did not write it.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
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
