"""Preparing a data set: its pictures, shuffled once, as TFRecord shards with checksums."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import PIL

from keras_resnet.data.shards.format import (
    DATASET_FILE,
    FORMAT,
    INDEX_DTYPE,
    INDEX_FILE,
    LABEL_OFFSET,
    Shard,
    StoredRecord,
    serialized_example,
    stored_picture,
    write_shard,
)
from keras_resnet.data.sources.base import Source
from keras_resnet.support.checks import check_integer
from keras_resnet.support.cores import usable_cores
from keras_resnet.support.files import publish
from keras_resnet.support.fingerprints import fingerprint_of_file
from keras_resnet.support.progress import Progress, unseen
from keras_resnet.support.unfinished import UnfinishedWork, read_json, write_json

PARTS = ("train", "validation")

#: Where unfinished work lies, inside the output directory.
WORK_DIRECTORY = ".preparing"

#: In the format of `sha256sum`.
CHECKSUMS_FILE = "checksums.sha256"

#: Large enough that disks read them at full speed, small enough to be divided among workers.
_SHARD_BYTES = 150_000_000

#: As many as names of five digits allow.
_MOST_SHARDS = 99_999

#: Pictures that the number of shards is estimated from.
_SAMPLE = 64

#: Pictures in memory per thread, of which it is working on one.
_AHEAD = 4

Item = TypeVar("Item")
Result = TypeVar("Result")

_SHARD_NAME = re.compile(rf"({'|'.join(PARTS)})-\d+-of-\d+")


@dataclasses.dataclass(frozen=True)
class _Task:
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
        parts: `"train"` and, if there is one, `"validation"`, of the same classes.
        output: directory for the results.
        shards: number of shards per part; by default so many that each has about 150 MB.
        short_side: pixels of the shorter side that larger pictures are reduced to; None keeps every
            file bit for bit. See `keras_resnet.data.shards.format.stored_picture`.
        seed: of the order of the records.
        skip_unreadable: whether unreadable pictures are left out and listed, not an error.
        overwrite: whether earlier results, and unfinished work of other arguments, are replaced.
        progress: is told how far the work is.

    Returns:
        The contents of `dataset.json`.

    Raises:
        ValueError: an argument is wrong, a picture is unreadable, the unfinished work there is of
            other arguments, or another process is at it.
        FileExistsError: there are results, and `overwrite` is not set.
        OSError: something cannot be read or written.
    """
    output = Path(output).absolute()
    refuse_existing(output, overwrite)
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
        # Another version may encode the same picture in other bytes.
        "pillow": PIL.__version__,
    }
    names = [task.name for task in tasks]
    work = _UnfinishedShards(output / WORK_DIRECTORY, output)
    _refuse_others(output, names, work, overwrite)
    with work.held():
        work.resume(arguments, overwrite)
        finished = work.finished(names, progress)
        for shard in _written(work, tasks, finished, short_side, skip_unreadable, progress):
            finished[shard.name] = shard
        dataset = _describe(parts, tasks, finished, seed=seed, short_side=short_side)
        _write_companions(work.directory, dataset, [finished[name] for name in names])
        _publish(work, output, names)
    return dataset


def refuse_existing(output: str | os.PathLike[str], overwrite: bool) -> None:
    """Raises FileExistsError if a directory has a prepared data set that is not to be replaced."""
    if (Path(output) / DATASET_FILE).exists() and not overwrite:
        raise FileExistsError(
            f"Expected a directory without a data set. Received: {output}. Pass --overwrite"
        )


class _UnfinishedShards(UnfinishedWork):
    """Finished shards, each with an entry; believed in with the size and checksum of the entry."""

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
                f"{', '.join(changes)}. Pass the same ones, or --overwrite to discard that work"
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
            # A process that was killed while renaming has left some under their final names.
            for path in (self.directory / name, self._output / name):
                if _is_whole(path, shard):
                    path.replace(self.directory / name)
                    found[name] = shard
                    break
        return found

    def half_published(self, names: Sequence[str]) -> set[str]:
        """Which of these shards have left the directory before all was done."""
        return {
            name
            for name in names
            if self._entry(name).exists() and not (self.directory / name).exists()
        }

    def record(self, shard: Shard) -> None:
        """Notes that a shard is finished."""
        write_json(self._entry(shard.name), dataclasses.asdict(shard))

    def _entry(self, name: str) -> Path:
        return self.directory / f"{name}.json"


def _is_whole(path: Path, shard: Shard) -> bool:
    return (
        path.is_file()
        and path.stat().st_size == shard.bytes
        and fingerprint_of_file(path) == shard.sha256
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def _check(parts: Mapping[str, Source], short_side: int | None, seed: int) -> None:
    if not parts or "train" not in parts or not set(parts) <= set(PARTS):
        raise ValueError(
            f"Expected the part 'train' and perhaps 'validation'. Received: {sorted(parts)}"
        )
    train = parts["train"]
    for part, source in parts.items():
        if len(source) == 0:
            raise ValueError(f"Expected pictures for {part}. Received: none in {source.name}")
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
                f"pictures of {source.name}. Received: {number}"
            )
        return number
    sizes = []
    for index in np.unique(np.linspace(0, len(source) - 1, _SAMPLE).astype(int)).tolist():
        # Whether these are an error is decided later.
        with contextlib.suppress(OSError, ValueError):
            name = source.name_of(index)
            sizes.append(len(stored_picture(source[index].data, name, short_side).data))
    return max(1, min(len(source), round(np.mean(sizes or [0]) * len(source) / _SHARD_BYTES)))


def _tasks(part: str, source: Source, number: int, seed: int) -> Iterator[_Task]:
    # Unlike its successor, this generator gives the same numbers in every version of NumPy.
    order = np.random.RandomState(seed).permutation(len(source))
    for shard, indices in enumerate(np.array_split(order, number)):
        yield _Task(f"{part}-{shard:05d}-of-{number:05d}", part, source, indices)


def _identity(source: Source, shards: int) -> dict[str, Any]:
    """What a part of unfinished work is recognised by."""
    digest = hashlib.sha256(source.labels.astype("<i4").tobytes())
    for index in range(len(source)):
        digest.update(source.name_of(index).encode(errors="surrogateescape") + b"\0")
    digest.update(json.dumps([source.class_names, source.class_ids]).encode())
    return {
        "source": source.name,
        "records": len(source),
        "names_and_labels": digest.hexdigest(),
        "shards": shards,
    }


def _refuse_others(
    output: Path, names: Sequence[str], work: _UnfinishedShards, overwrite: bool
) -> None:
    """Raises if shards are there that would be replaced unasked, or taken for the data set's."""
    allowed = work.half_published(names)
    if overwrite:
        allowed |= {*_earlier_shards(output), *names}
    others = sorted(
        path.name
        for path in output.glob("*")
        if _SHARD_NAME.fullmatch(path.name) and path.name not in allowed
    )
    if others:
        raise FileExistsError(
            f"Expected a directory without shards of another origin. Received: {output} with "
            f"{others[0]} (one of {len(others)}). Remove them, or choose another directory"
        )


def _earlier_shards(output: Path) -> list[str]:
    """Names of the shards of an earlier result."""
    dataset = read_json(output / DATASET_FILE) or {}
    if dataset.get("format") != FORMAT:
        return []
    return [shard["name"] for part in dataset["parts"].values() for shard in part["shards"]]


def _written(
    work: _UnfinishedShards,
    tasks: Sequence[_Task],
    finished: Mapping[str, Shard],
    short_side: int | None,
    skip_unreadable: bool,
    progress: Progress,
) -> Iterator[Shard]:
    """Makes the shards that are not finished yet."""
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
        return _stored(*item, short_side, skip_unreadable)

    items = ((task.source, index) for task in missing for index in task.indices.tolist())
    with contextlib.closing(_in_order(stored, items)) as records:
        for task in missing:
            own = itertools.islice(records, len(task.indices))
            shard = write_shard(work.directory / task.name, counted(task.name, own))
            work.record(shard)
            yield shard


def _stored(
    source: Source, index: int, short_side: int | None, skip_unreadable: bool
) -> StoredRecord:
    name = source.name_of(index)
    try:
        data, label = source[index]
        picture = stored_picture(data, name, short_side)
    # A missing file, a damaged record, a damaged picture.
    except (OSError, ValueError):
        if not skip_unreadable:
            raise
        return StoredRecord(None, -1, name)
    synset = source.class_ids[label] if source.class_ids else None
    text, filename = source.class_names[label], PurePosixPath(name).name
    return StoredRecord(serialized_example(picture, label, text, synset, filename), label, name)


def _in_order(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[Result, None, None]:
    """Maps in threads, in the order of the items, with few results waiting."""
    workers = usable_cores()
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    waiting: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _describe(
    parts: Mapping[str, Source],
    tasks: Sequence[_Task],
    finished: Mapping[str, Shard],
    **settings: int | None,
) -> dict[str, Any]:
    """The contents of `dataset.json`."""
    train = parts["train"]
    described: dict[str, Any] = {}
    for part in parts:
        own = [finished[task.name] for task in tasks if task.part == part]
        labels = np.concatenate([np.array(shard.labels, np.int64) for shard in own])
        described[part] = {
            "records": len(labels),
            "class_counts": np.bincount(labels, minlength=len(train.class_names)).tolist(),
            "skipped": [name for shard in own for name in shard.skipped],
            "shards": [
                {
                    "name": shard.name,
                    "records": len(shard.lengths),
                    "bytes": shard.bytes,
                    "sha256": shard.sha256,
                }
                for shard in own
            ],
        }
    return {
        "format": FORMAT,
        "class_names": list(train.class_names),
        "class_ids": None if train.class_ids is None else list(train.class_ids),
        "label_offset": LABEL_OFFSET,
        **settings,
        "parts": described,
    }


def _write_companions(work: Path, dataset: dict[str, Any], shards: Sequence[Shard]) -> None:
    """Writes the files beside the shards."""
    write_json(work / DATASET_FILE, dataset)
    index = np.zeros(sum(len(shard.lengths) for shard in shards), INDEX_DTYPE)
    index["length"] = [length for shard in shards for length in shard.lengths]
    index["label"] = [label for shard in shards for label in shard.labels]
    np.save(work / INDEX_FILE, index)
    sums = {shard.name: shard.sha256 for shard in shards}
    sums |= {name: fingerprint_of_file(work / name) for name in (DATASET_FILE, INDEX_FILE)}
    lines = [f"{checksum}  {name}\n" for name, checksum in sums.items()]
    (work / CHECKSUMS_FILE).write_text("".join(lines))


def _publish(work: _UnfinishedShards, output: Path, names: Sequence[str]) -> None:
    """Gives the results their final names and removes what they replace."""
    replaced = set(_earlier_shards(output)) - set(names)
    # Last: its presence says that the results are complete.
    order = (*names, INDEX_FILE, CHECKSUMS_FILE, DATASET_FILE)
    publish({work.directory / name: output / name for name in order})
    for name in replaced:
        (output / name).unlink(missing_ok=True)
    work.remove()
