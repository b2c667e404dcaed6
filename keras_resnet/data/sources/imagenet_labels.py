"""Labels of ImageNet's validation images, from the kinds of file in which they are published."""

from __future__ import annotations

import csv
import io
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keras_resnet.images.label_files import read_lines
from keras_resnet.images.labels import are_wordnet_ids

_META, _GROUND_TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"

#: `ILSVRC2012_val_00000001`: the number is the line in files with one class per line.
_NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})")

_KINDS = (
    "a WordNet id per line, Kaggle's LOC_val_solution.csv, the archive of the devkit, or its "
    f"{_GROUND_TRUTH} in a folder with its {_META}"
)


def validation_synsets(path: Path, stems: Sequence[str]) -> list[str]:
    """Return the WordNet ids of validation images.

    Args:
        path: a text file with the WordNet ids of the images 1, 2, … one per line; Kaggle's CSV file
            with the columns `ImageId,PredictionString`; `ILSVRC2012_devkit_t12.tar.gz`; or the
            ground truth of the devkit, with its `meta.mat` in the same folder. The last two require
            SciPy.
        stems: file names of the images without suffix, such as `ILSVRC2012_val_00000001`.

    Raises:
        ValueError: the file is none of these, or lacks the label of an image.
        ImportError: SciPy is missing.
        OSError: a file cannot be read.
    """
    synset_of = _lookup(path)
    synsets = [synset_of(stem) or "" for stem in stems]
    if "" in synsets:
        stem = stems[synsets.index("")]
        raise ValueError(f"Expected the class of {stem} in {path}. Received: none for it")
    return synsets


def _lookup(path: Path) -> Callable[[str], str | None]:
    if path.is_file() and tarfile.is_tarfile(path):
        return _by_number(_from_devkit(path))
    lines = read_lines(path)
    if lines and lines[0].startswith("ImageId,"):
        rows = [row for row in csv.reader(lines[1:]) if len(row) == 2]
        return {stem: (words.split() or [""])[0] for stem, words in rows}.get
    if lines and are_wordnet_ids(lines):
        return _by_number(lines)
    meta = path.with_name(_META)
    if lines and all(line.isdecimal() for line in lines) and meta.is_file():
        return _by_number(_from_ground_truth(lines, meta.read_bytes(), meta))
    raise ValueError(f"Expected validation labels: {_KINDS}. Received: {path}")


def _by_number(synsets: Sequence[str]) -> Callable[[str], str | None]:
    def lookup(stem: str) -> str | None:
        match = _NUMBERED.fullmatch(stem)
        if match is None:
            raise ValueError(
                "Expected validation images named like ILSVRC2012_val_00000001.JPEG, as the file "
                f"lists labels by number. Received: {stem}"
            )
        number = int(match[1])
        return synsets[number - 1] if 1 <= number <= len(synsets) else None

    return lookup


def _from_devkit(path: Path) -> list[str]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                if name in (_META, _GROUND_TRUTH) and member.isreg():
                    file = archive.extractfile(member)
                    assert file is not None
                    found[name] = file.read()
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"Expected a complete archive. Received: {path} ({error})") from error
    if len(found) < 2:
        raise ValueError(
            f"Expected the archive of the devkit, with {_META} and {_GROUND_TRUTH}. Received: "
            f"{path}, with {', '.join(found) or 'neither'}"
        )
    return _from_ground_truth(found[_GROUND_TRUTH].decode().split(), found[_META], path)


def _from_ground_truth(numbers: Sequence[str], meta: bytes, where: Path) -> list[str]:
    """Return the WordNet ids of the devkit's class numbers, whose order is used nowhere else."""
    try:
        import scipy.io  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(
            f"Reading {_META} requires SciPy, which is not installed: run `pip install scipy`, or "
            "pass another file of labels."
        ) from error
    try:
        table: Any = scipy.io.loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        rows = zip(table["ILSVRC2012_ID"], table["WNID"], strict=True)
        synsets = {int(number): str(wordnet_id) for number, wordnet_id in rows}
    # Damaged files make SciPy raise all kinds of errors.
    except Exception as error:
        raise ValueError(
            f"Expected the devkit's {_META} with the table `synsets`. Received: {where} "
            f"({type(error).__name__}: {error})"
        ) from error
    unknown = next((number for number in numbers if int(number) not in synsets), None)
    if unknown is not None:
        raise ValueError(
            f"Expected class numbers that are in {where}. Received: {unknown} in {_GROUND_TRUTH}"
        )
    return [synsets[int(number)] for number in numbers]
