"""Image files and labels listed in a CSV file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_resnet.data.sources.folder import ImageFiles
from keras_resnet.data.sources.splits import SPLITS, Splits, open_splits, split_of
from keras_resnet.images.label_files import delimiter_of, read_text

_INTEGER = re.compile(r"[+-]?[0-9]+")


class _Row(NamedTuple):
    path: str
    label: str
    split: str


def load_csv(path: str) -> Splits:
    """List the images of a CSV file with a header and the columns `path` and `label`.

    Labels are class names. The classes are sorted as numbers if all labels are integers, otherwise
    as text. An optional column `split` has common names of splits (`split_of`). Other columns are
    ignored. Listed files may be missing: reading them raises an OSError.

    Args:
        path: path of the CSV file, whose encoding `read_text` detects. The delimiter is a comma,
            semicolon or tab. Relative paths in the file are relative to its directory.

    Raises:
        ValueError: the file does not exist, is not such a CSV file, has an incomplete row, or no
            listed file exists.
        OSError: the file cannot be read.
    """
    file = Path(path)
    rows = list(_read(file))
    if not rows:
        raise ValueError(f"Expected a row per image after the header. Received: {file}, with none")
    if not any(Path(row.path).exists() for row in rows):
        raise ValueError(
            "Expected image files at paths relative to the CSV file. Received: "
            f"{file}, where none of {len(rows)} exists, such as {rows[0].path}"
        )
    are_numbers = all(_INTEGER.fullmatch(row.label) for row in rows)
    names = tuple(
        sorted(
            {row.label for row in rows},
            key=lambda label: (int(label) if are_numbers else 0, label),
        )
    )
    numbers = {name: number for number, name in enumerate(names)}

    def images_of(split: str) -> ImageFiles:
        chosen = [row for row in rows if row.split == split]
        labels = np.array([numbers[row.label] for row in chosen], np.int32)
        return ImageFiles(
            [row.path for row in chosen], labels, names, None, f"csv:{file} ({split})"
        )

    return open_splits({split: partial(images_of, split) for split in {row.split for row in rows}})


def _read(file: Path) -> Iterator[_Row]:
    try:
        yield from _rows(read_text(file), file)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ValueError(f"Expected a CSV file. Received: {file} ({error.strerror})") from error
    except OSError as error:
        message = f"Expected a CSV file that can be read. Received: {file} ({error.strerror})"
        raise OSError(message) from error
    except csv.Error as error:
        raise ValueError(f"Expected a CSV file. Received: {file} ({error})") from error


def _rows(text: str, file: Path) -> Iterator[_Row]:
    lines, delimiter = io.StringIO(text, newline=""), delimiter_of(text)
    reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
    columns = [column.strip() for column in reader.fieldnames or ()]
    reader.fieldnames = columns
    missing = [f"`{column}`" for column in ("path", "label") if column not in columns]
    if missing:
        raise ValueError(
            f"Expected a header with the columns `path` and `label`. Received: {file} without "
            f"{' and '.join(missing)}; its first row is {', '.join(columns) or 'empty'}"
        )
    for row in reader:
        where = f"{file}, line {reader.line_num}"
        if None in row:
            raise ValueError(
                f"Expected {len(columns)} fields in every row, as in the header. Received: "
                f"{len(columns) + len(row[None])} in {where}. Put fields with {delimiter!r} into "
                "quotes"
            )
        path, label = row["path"] or "", (row["label"] or "").strip()
        for column, value in (("path", path), ("label", label)):
            if not value:
                raise ValueError(
                    f"Expected a `{column}` in every row. Received: an empty one in {where}"
                )
        name = (row["split"] or "").strip() if "split" in columns else "train"
        split = split_of(name)
        if split is None:
            raise ValueError(
                f"Expected `split` to be one of {', '.join(SPLITS)}, or a common name of one of "
                f"them. Received: {name!r} in {where}"
            )
        yield _Row(str(file.parent / path), label, split)
