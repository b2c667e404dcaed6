"""Preparing a data set: its images, shuffled once, as TFRecord shards with checksums."""

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
from keras_resnet.data.sources.parts import PARTS
from keras_resnet.data.threads import map_in_threads
from keras_resnet.support.checks import check_integer, some_of
from keras_resnet.support.files import finish_publishing, publish
from keras_resnet.support.fingerprints import fingerprint, fingerprint_of_file
from keras_resnet.support.progress import Progress, unseen
from keras_resnet.support.unfinished import UnfinishedWork, read_json, write_json

#: Where unfinished work lies, inside the output directory.
WORK_DIRECTORY = ".preparing"

#: Large enough that disks read them at full speed, small enough to be divided among workers.
_SHARD_BYTES = 150_000_000

#: As many as names of five digits allow.
_MOST_SHARDS = 99_999

#: Images that the number of shards is estimated from.
_SAMPLE = 64

_SHARD_NAME = re.compile(rf"({'|'.join(PARTS)})-\d+-of-\d+")


class _Task(NamedTuple):
    """A shard and the records that it is made of."""

    name: str
    part: str
    source: Source
    indices: np.ndarray


def prepare(
    parts: Mapping[str, Source],
    output: str | os.PathLike[str],
    *,
    shards: Mapping[str, int] | None = None,
    short_side: int | None = None,
    seed: int = 0,
    skip_unreadable: bool = False,
    overwrite: bool = False,
    progress: Progress = unseen,
) -> dict[str, Any]:
    """Writes a data set as TFRecord shards, `dataset.json`, an index and checksums.

    Unfinished work lies in `output/.preparing`. Called again with the same arguments, shards that
    are finished there and have the right checksum are kept; the result has the same bytes as that
    of an uninterrupted run. Only when all is done does anything get its final name.

    Args:
        parts: `"train"` and, if there are any, `"validation"` and `"test"`, of the same classes.
        output: directory for the results.
        shards: number of shards per part; by default so many that each has about 150 MB.
        short_side: pixels of the shorter side that larger images are reduced to; None keeps every
            file bit for bit. See `keras_resnet.data.shards.example.stored_image`.
        seed: of the order of the records.
        skip_unreadable: whether unreadable images are left out and listed, not an error.
        overwrite: whether earlier results, and unfinished work of other arguments, are replaced.
        progress: is told how far the work is.

    Returns:
        The contents of `dataset.json`.

    Raises:
        ValueError: an argument is wrong, an image is unreadable, the unfinished work there is of
            other arguments, or another process is at it.
        FileExistsError: there are results, and `overwrite` is not set.
        OSError: something cannot be read or written.
    """
    output = Path(output).absolute()
    _check(parts, short_side, seed)
    numbers = {
        part: _number_of_shards(source, (shards or {}).get(part), short_side)
        for part, source in parts.items()
    }
    tasks = [
        task for part, source in parts.items() for task in _tasks(part, source, numbers[part], seed)
    ]
    arguments = {
        **{part: _identity(source, numbers[part]) for part, source in parts.items()},
        "short_side": short_side,
        "seed": seed,
        "skip_unreadable": skip_unreadable,
        # Another version may encode the same image in other bytes.
        "pillow": PIL.__version__,
    }
    names = [task.name for task in tasks]
    work = _UnfinishedShards(output / WORK_DIRECTORY, output)
    with work.held():
        finish_publishing(work.directory)
        done, same = work.published(), work.arguments() == arguments
        if done is not None and (same or not overwrite):
            # A process was killed when nothing else was left to do.
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
            {part: [finished[task.name] for task in tasks if task.part == part] for part in parts},
            parts["train"].class_names,
            parts["train"].class_ids,
            seed=seed,
            short_side=short_side,
        )
        _publish(work, output, names)
    return dataset


def refuse_existing(output: str | os.PathLike[str], overwrite: bool) -> None:
    """Raises FileExistsError if a directory has a prepared data set that is not to be replaced."""
    if (Path(output) / DATASET_FILE).exists() and not overwrite:
        raise FileExistsError(
            f"Expected a directory without a data set. Received: {output}. Pass `overwrite=True`"
        )


class _UnfinishedShards(UnfinishedWork):
    """Finished shards, each with an entry; they count if they have its size and checksum."""

    def resume(self, arguments: Mapping[str, Any], overwrite: bool) -> None:
        """Takes up what is there if it is of the same arguments, and starts anew otherwise.

        Raises:
            ValueError: there is work of other arguments, and `overwrite` is not set.
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
        """The shards of these names that are done and undamaged, by name."""
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
        """Return the content of the output's `dataset.json`, if its shards are those made here."""
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
        """Notes that a shard is finished."""
        write_json(self._entry(shard.name), dataclasses.asdict(shard))

    def _entry(self, name: str) -> Path:
        return self.directory / f"{name}.json"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def _check(parts: Mapping[str, Source], short_side: int | None, seed: int) -> None:
    if not parts or "train" not in parts or not set(parts) <= set(PARTS):
        raise ValueError(
            "Expected the part 'train' and perhaps 'validation' and 'test'. "
            f"Received: {sorted(parts)}"
        )
    train = parts["train"]
    if len(train.class_names) < 2:
        raise ValueError(
            f"Expected images of at least 2 classes. Received: {train.name}, with "
            f"{', '.join(train.class_names) or 'none'}"
        )
    for part, source in parts.items():
        if len(source) == 0:
            raise ValueError(f"Expected images for {part}. Received: none in {source.name}")
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
        # Whether these are an error is decided later.
        with contextlib.suppress(OSError, ValueError):
            name = source.name_of(index)
            sizes.append(len(stored_image(source[index].data, name, short_side).data))
    return max(1, min(len(source), round(np.mean(sizes or [0]) * len(source) / _SHARD_BYTES)))


def _tasks(part: str, source: Source, number: int, seed: int) -> Iterator[_Task]:
    # Unlike its successor, this generator gives the same numbers in every version of NumPy.
    order = np.random.RandomState(seed).permutation(len(source))
    for shard, indices in enumerate(np.array_split(order, number)):
        yield _Task(f"{part}-{shard:05d}-of-{number:05d}", part, source, indices)


def _identity(source: Source, shards: int) -> dict[str, Any]:
    """Identifies a part, so that only work with the same images and labels is taken up."""
    return {
        **identity_of(source),
        "labels": fingerprint(source.labels),
        "class_ids": source.class_ids and list(source.class_ids),
        "shards": shards,
    }


def _refuse_others(output: Path, names: Sequence[str], overwrite: bool) -> None:
    """Raises if files are there that would be replaced unasked, or taken for the data set's."""
    beside = (INDEX_FILE, CHECKSUMS_FILE)
    allowed = {*_earlier_names(output), *names, *beside} if overwrite else set()
    others = sorted(
        path.name
        for path in output.glob("*")
        if (_SHARD_NAME.fullmatch(path.name) or path.name in beside) and path.name not in allowed
    )
    if others:
        raise FileExistsError(
            f"Expected a directory without shards of another origin. Received: {output} with "
            f"{others[0]} (one of {len(others)}). Remove them, or choose another directory"
        )


def _earlier(output: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the content of an earlier result's `dataset.json`, and its entry for each shard."""
    dataset = read_json(output / DATASET_FILE) or {}
    if dataset.get("format") != FORMAT:
        return {}, []
    return dataset, [shard for part in dataset["parts"].values() for shard in part["shards"]]


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
    """Makes the shards that are not finished yet, and adds them to `finished`."""
    missing = [task for task in tasks if task.name not in finished]
    total = sum(len(task.indices) for task in tasks)
    done = total - sum(len(task.indices) for task in missing)

    def counted(name: str, records: Iterator[StoredRecord]) -> Iterator[StoredRecord]:
        nonlocal done
        for record in records:
            # Files and pipes get a line per call.
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
        # A missing file, a damaged record, a damaged image.
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
            own = itertools.islice(records, len(task.indices))
            shard = write_shard(work.directory / task.name, counted(task.name, own))
            work.record(shard)
            finished[task.name] = shard


def _publish(work: _UnfinishedShards, output: Path, names: Sequence[str]) -> None:
    """Gives the results their final names and removes what they replace."""
    # Last: its presence says that the results are complete.
    order = (*names, INDEX_FILE, CHECKSUMS_FILE, DATASET_FILE)
    publish(work.directory, order, _earlier_names(output))
    work.remove()
