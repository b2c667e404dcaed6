"""The files that `data prepare` writes beside its shards, as their reader needs them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.data.shards.format import DATASET_FILE, FORMAT, INDEX_DTYPE, INDEX_FILE
from keras_resnet.data.shards.random_access import FRAME_BYTES
from keras_resnet.data.sources.tfrecord_classes import Classes

#: Size and number of records of a shard, and its first row in the index.
_Entry = tuple[int, int, int]


class Dataset:
    """A prepared data set.

    Attributes:
        classes: how labels in its records are understood.
    """

    def __init__(self, directory: Path, described: Any) -> None:
        """Takes what `dataset.json` says.

        Raises:
            KeyError, TypeError: it is not as `data prepare` writes it.
        """
        self._directory = directory
        ids = described["class_ids"]
        self.classes = Classes(
            tuple(described["class_names"]),
            None if ids is None else tuple(ids),
            int(described["label_offset"]),
        )
        self._entries: dict[str, _Entry] = {}
        self._records = 0
        for part in described["parts"].values():
            for shard in part["shards"]:
                entry = int(shard["bytes"]), int(shard["records"]), self._records
                self._entries[shard["name"]] = entry
                self._records += entry[1]

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
        if len(all_labels) and not 0 <= all_labels.min() <= all_labels.max() < len(
            self.classes.names
        ):
            self._refuse_index(f"with labels that are not among {len(self.classes.names)} classes")
        return lengths, all_labels

    def _check_size(self, path: Path) -> None:
        if path.name not in self._entries:
            raise ValueError(
                f"Expected files of {self._directory / DATASET_FILE}. Received: {path.name}, which "
                "is not in it. Remove it, or prepare the data set again"
            )
        expected, received = self._entries[path.name][0], path.stat().st_size
        if received != expected:
            raise ValueError(
                f"Expected {expected:,} bytes, as {DATASET_FILE} says. Received: {received:,} in "
                f"{path}. Copy it again, or prepare the data set again"
            )

    def _read_index(self) -> np.ndarray:
        try:
            index = np.load(self._directory / INDEX_FILE, allow_pickle=False)
        except (ValueError, EOFError) as error:
            self._refuse_index(f"which cannot be read: {error}")
        if index.shape != (self._records,) or index.dtype != INDEX_DTYPE:
            self._refuse_index(f"an array {index.shape} of {index.dtype}")
        return index

    def _refuse_index(self, reason: str) -> Any:
        raise ValueError(
            f"Expected the index of {self._records:,} records. Received: "
            f"{self._directory / INDEX_FILE}, {reason}. Prepare the data set again, or remove the "
            "index, without which opening takes longer"
        )


def read_dataset(directory: Path) -> Dataset | None:
    """What `dataset.json` in a directory says; None if it is not one of `data prepare`.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    path = directory / DATASET_FILE
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(described, dict) or described.get("format") != FORMAT:
            return None
        return Dataset(directory, described)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected {DATASET_FILE} as `keras-resnet data prepare` writes it. Received: {path} "
            f"({type(error).__name__}: {error})"
        ) from error
