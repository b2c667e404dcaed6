"""Preparation of a data set: its images, shuffled once, as TFRecord shards with checksums."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import PIL

from keras_resnet.data.identity import identity_of
from keras_resnet.data.shards.dataset import (
    CHECKSUMS_FILE,
    DATASET_FILE,
    FORMAT,
    INDEX_FILE,
    Shard,
    StoredRecord,
    write_description,
    write_shard,
)
from keras_resnet.data.shards.example import serialized_example, stored_image
from keras_resnet.data.sources.base import Source
from keras_resnet.data.sources.splits import SPLITS
from keras_resnet.data.threads import map_in_threads
from keras_resnet.support.checks import check_integer, some_of
from keras_resnet.support.files import finish_publishing, publish
from keras_resnet.support.fingerprints import fingerprint, fingerprint_of_file
from keras_resnet.support.progress import Progress, unseen
from keras_resnet.support.unfinished import UnfinishedWork, read_json, write_json

#: Directory of unfinished work inside the output directory.
WORK_DIRECTORY = ".preparing"

#: Default size of a shard: large enough for disks to read it at full speed, small enough for many
#: workers to share a data set.
_SHARD_BYTES = 150_000_000

#: The largest number of shards, as names have five digits.
_MOST_SHARDS = 99_999

#: Images from which the number of shards is estimated.
_SAMPLE = 64

_SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})-\d+-of-\d+")


class _Task(NamedTuple):
    """A shard to write, with the indices of its records in the source."""

    name: str
    split: str
    source: Source
    indices: np.ndarray


def prepare(
    splits: Mapping[str, Source],
    output: str | os.PathLike[str],
    *,
    shards: Mapping[str, int] | None = None,
    short_side: int | None = None,
    seed: int = 0,
    skip_unreadable: bool = False,
    overwrite: bool = False,
    progress: Progress = unseen,
) -> dict[str, Any]:
    """Write a data set as TFRecord shards, `dataset.json`, an index and checksums.

    Unfinished work is kept in `output/.preparing`. A call with the same arguments resumes it: the
    shards that are finished and have the right checksum are kept, and the result has the same bytes
    as that of an uninterrupted call. Files get their final names only after all are written.

    Args:
        splits: `"train"` and optionally `"validation"` and `"test"` -> source, of the same classes.
        output: directory for the results.
        shards: number of shards of each split; by default one per 150 MB.
        short_side: largest short side in pixels, to which larger images are shrunk; None keeps
            the size. See `keras_resnet.data.shards.example.stored_image`.
        seed: seed of the order of the records, from 0 to 2**32 - 1.
        skip_unreadable: whether unreadable images are left out and listed rather than an error.
        overwrite: whether to replace earlier results and unfinished work of other arguments.
        progress: called with a description and the share of the work that is done.

    Returns:
        The contents of `dataset.json`.

    Raises:
        ValueError: an argument is invalid, an image is unreadable, the unfinished work in `output`
            has other arguments, or another process is writing there.
        FileExistsError: `output` contains results, and `overwrite` is not set.
        OSError: a file cannot be read or written.
    """
    output = Path(output).absolute()
    _check(splits, short_side, seed)
    numbers = {
        split: _number_of_shards(source, (shards or {}).get(split), short_side)
        for split, source in splits.items()
    }
    tasks = [
        task
        for split, source in splits.items()
        for task in _tasks(split, source, numbers[split], seed)
    ]
    arguments = {
        **{split: _identity(source, numbers[split]) for split, source in splits.items()},
        "short_side": short_side,
        "seed": seed,
        "skip_unreadable": skip_unreadable,
        # Other versions of Pillow may encode an image to other bytes.
        "pillow": PIL.__version__,
    }
    names = [task.name for task in tasks]
    work = _UnfinishedShards(output / WORK_DIRECTORY, output)
    with work.held():
        finish_publishing(work.directory)
        done, same = work.published(), work.arguments() == arguments
        if done is not None and (same or not overwrite):
            # An earlier process was killed after publishing, before it removed its work.
            work.remove()
            if same:
                return done
        refuse_existing(output, overwrite)
        _refuse_others(output, names, overwrite)
        work.resume(arguments, overwrite)
        finished = work.finished(names, progress)
        _write_missing(work, tasks, finished, short_side, skip_unreadable, progress)
        dataset = write_description(
            work.directory,
            {
                split: [finished[task.name] for task in tasks if task.split == split]
                for split in splits
            },
            splits["train"].class_names,
            splits["train"].class_ids,
            seed=seed,
            short_side=short_side,
        )
        _publish(work, output, names)
    return dataset


def refuse_existing(output: str | os.PathLike[str], overwrite: bool) -> None:
    """Raise FileExistsError if a directory has a prepared data set, unless `overwrite` is set."""
    if (Path(output) / DATASET_FILE).exists() and not overwrite:
        raise FileExistsError(
            f"Expected a directory without a prepared data set. Received: {output}. Choose another "
            "one, or pass `overwrite=True` to replace the data set"
        )


class _UnfinishedShards(UnfinishedWork):
    """The finished shards of unfinished work, each with a file of its size and checksum."""

    def resume(self, arguments: Mapping[str, Any], overwrite: bool) -> None:
        """Keep the unfinished work if it has the same arguments; otherwise discard it.

        Raises:
            ValueError: the unfinished work has other arguments, and `overwrite` is not set.
        """
        before = self.arguments()
        if before == arguments:
            return
        if before is not None and not overwrite:
            old, new = _flat(before), _flat(arguments)
            changes = [
                f"{key} {new.get(key)} (before: {old.get(key)})"
                for key in {**old, **new}
                if old.get(key) != new.get(key)
            ]
            raise ValueError(
                f"Expected the arguments of the unfinished work in {self.directory}. Received: "
                f"{some_of(changes)}. Pass the same ones, or `overwrite=True` to discard that work"
            )
        self.begin(arguments)

    def finished(self, names: Sequence[str], progress: Progress) -> dict[str, Shard]:
        """Return the shards with these names that are finished and undamaged, by name."""
        found = {}
        for name in names:
            entry = read_json(self._entry(name))
            if entry is None:
                continue
            shard = Shard(**entry)
            progress(f"checking {name}", 0.0)
            path = self.directory / name
            is_whole = path.is_file() and path.stat().st_size == shard.bytes
            if is_whole and fingerprint_of_file(path) == shard.sha256:
                found[name] = shard
        return found

    def published(self) -> dict[str, Any] | None:
        """Return the contents of the output's `dataset.json` if this work wrote all its shards."""
        dataset, shards = _earlier(self._output)
        for shard in shards:
            name, place = shard["name"], self._output / shard["name"]
            made = read_json(self._entry(name)) or {}
            is_whole = place.is_file() and place.stat().st_size == shard["bytes"]
            if made.get("sha256") != shard["sha256"] or not is_whole:
                return None
            if (self.directory / name).exists():
                return None
        return dataset if shards else None

    def record(self, shard: Shard) -> None:
        """Save the size and checksum of a finished shard."""
        write_json(self._entry(shard.name), dataclasses.asdict(shard))

    def _entry(self, name: str) -> Path:
        return self.directory / f"{name}.json"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as a flat one, with keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        is_nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if is_nested else {f"{prefix}{key}": value}
    return flat


def _check(splits: Mapping[str, Source], short_side: int | None, seed: int) -> None:
    if "train" not in splits or not set(splits) <= set(SPLITS):
        raise ValueError(
            "Expected the split 'train' and optionally 'validation' and 'test'. "
            f"Received: {sorted(splits)}"
        )
    train = splits["train"]
    if len(train.class_names) < 2:
        raise ValueError(
            f"Expected images of at least 2 classes. Received: {train.name}, with "
            f"{', '.join(train.class_names) or 'none'}"
        )
    for split, source in splits.items():
        if len(source) == 0:
            raise ValueError(f"Expected images for {split}. Received: none in {source.name}")
        for field in ("class_names", "class_ids"):
            expected, received = getattr(train, field), getattr(source, field)
            if expected != received:
                raise ValueError(
                    f"Expected the same classes in {train.name} and {source.name}. Received: "
                    f"{len(expected or ())} and {len(received or ())} {field} that differ"
                )
    if short_side is not None:
        check_integer("short_side", short_side)
    if not 0 <= seed < 2**32:
        raise ValueError(f"Expected `seed` to be from 0 to 2**32 - 1. Received: {seed}")


def _number_of_shards(source: Source, number: int | None, short_side: int | None) -> int:
    if number is not None:
        if not 1 <= number <= min(len(source), _MOST_SHARDS):
            raise ValueError(
                f"Expected from 1 to {min(len(source), _MOST_SHARDS)} shards for the {len(source)} "
                f"images of {source.name}. Received: {number}"
            )
        return number
    sizes = []
    for index in np.unique(np.linspace(0, len(source) - 1, _SAMPLE).astype(int)).tolist():
        # Unreadable images are handled when the shards are written.
        with contextlib.suppress(OSError, ValueError):
            name = source.name_of(index)
            sizes.append(len(stored_image(source[index].data, name, short_side).data))
    return max(1, min(len(source), round(np.mean(sizes or [0]) * len(source) / _SHARD_BYTES)))


def _tasks(split: str, source: Source, number: int, seed: int) -> Iterator[_Task]:
    # `RandomState` returns the same numbers in all versions of NumPy, its successor may not.
    order = np.random.RandomState(seed).permutation(len(source))
    for shard, indices in enumerate(np.array_split(order, number)):
        yield _Task(f"{split}-{shard:05d}-of-{number:05d}", split, source, indices)


def _identity(source: Source, shards: int) -> dict[str, Any]:
    """Return the identity of a split, so that only work with the same data is resumed."""
    return {
        **identity_of(source),
        "labels": fingerprint(source.labels),
        "class_ids": source.class_ids and list(source.class_ids),
        "shards": shards,
    }


def _refuse_others(output: Path, names: Sequence[str], overwrite: bool) -> None:
    """Raise FileExistsError if files would be replaced unasked or mistaken for shards."""
    described_in = (INDEX_FILE, CHECKSUMS_FILE)
    allowed = {*_earlier_names(output), *names, *described_in} if overwrite else set()
    others = sorted(
        path.name
        for path in output.glob("*")
        if (_SHARD_NAME.fullmatch(path.name) or path.name in described_in)
        and path.name not in allowed
    )
    if others:
        raise FileExistsError(
            f"Expected a directory without shards of another data set. Received: {output} with "
            f"{others[0]} (one of {len(others)}). Remove them, or choose another directory"
        )


def _earlier(output: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the contents of an earlier `dataset.json`, and its entry for each shard."""
    dataset = read_json(output / DATASET_FILE) or {}
    if dataset.get("format") != FORMAT:
        return {}, []
    return dataset, [shard for split in dataset["parts"].values() for shard in split["shards"]]


def _earlier_names(output: Path) -> set[str]:
    return {shard["name"] for shard in _earlier(output)[1]}


def _write_missing(
    work: _UnfinishedShards,
    tasks: Sequence[_Task],
    finished: dict[str, Shard],
    short_side: int | None,
    skip_unreadable: bool,
    progress: Progress,
) -> None:
    """Write the shards that are not finished yet, and add them to `finished`."""
    missing = [task for task in tasks if task.name not in finished]
    total = sum(len(task.indices) for task in tasks)
    done = total - sum(len(task.indices) for task in missing)

    def counted(name: str, records: Iterator[StoredRecord]) -> Iterator[StoredRecord]:
        nonlocal done
        for record in records:
            # Only once per percent, as every call prints a line without a terminal.
            if done * 100 // total != (done + 1) * 100 // total:
                progress(f"writing {name}", (done + 1) / total)
            done += 1
            yield record

    def stored(item: tuple[Source, int]) -> StoredRecord:
        source, index = item
        name = source.name_of(index)
        try:
            data, label = source[index]
            image = stored_image(data, name, short_side)
        # A missing file, a damaged record or a damaged image.
        except (OSError, ValueError):
            if not skip_unreadable:
                raise
            return StoredRecord(None, -1, name)
        synset = source.class_ids[label] if source.class_ids else None
        text, filename = source.class_names[label], PurePosixPath(name).name
        return StoredRecord(serialized_example(image, label, text, synset, filename), label, name)

    items = ((task.source, index) for task in missing for index in task.indices.tolist())
    with contextlib.closing(map_in_threads(stored, items)) as records:
        for task in missing:
            of_task = itertools.islice(records, len(task.indices))
            shard = write_shard(work.directory / task.name, counted(task.name, of_task))
            work.record(shard)
            finished[task.name] = shard


def _publish(work: _UnfinishedShards, output: Path, names: Sequence[str]) -> None:
    """Give the results their final names, and remove the files that they replace."""
    # dataset.json comes last: its presence means that the results are complete.
    order = (*names, INDEX_FILE, CHECKSUMS_FILE, DATASET_FILE)
    publish(work.directory, order, _earlier_names(output))
    work.remove()
