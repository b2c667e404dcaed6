"""Reading of class names from text, tables and JSON."""

from __future__ import annotations

import codecs
import csv
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_resnet.images.labels import are_wordnet_ids, names_and_ids
from keras_resnet.support.checks import some_of
from keras_resnet.support.json_text import parse_json
from keras_resnet.support.placeholders import START, placeholder

#: A line such as `0 cat`, `1: cat`, `2. cat` or `n02123045 tabby`.
_KEYED = re.compile(r"(\d+|n\d{8})[ \t]*[\s:;,=.)][ \t]*(.+)")

#: Column headings in tables, in lower case; the first match is used.
_NAMES = ("name", "class_name", "label_name", "class", "label", "category")
_KEYS = ("index", "class_index", "class_id", "id", "label_id", "number", "wnid", "synset", "label")

Classes = tuple[tuple[str, ...], tuple[str, ...] | None]

_KINDS = (
    "a name per line, perhaps after its number or WordNet id; a .csv or .tsv table of them; or a "
    ".json list of names, or object of number and name"
)


def read_class_names(path: Path) -> Classes:
    """Read class names, in the order of a model's outputs.

    Text is UTF-8, or UTF-16 with a byte order mark. The formats are

    - text with one name per line. All lines may start with numbers from 0 or 1, which then give the
      order, or with WordNet ids. Empty lines at the end are ignored.
    - `.csv` and `.tsv` tables with a name, and a number or id. The columns have common headings, or
      no headings and the name last.
    - `.json` with a list of names, an object of numbers and names in either order, or
      keras.applications' object of numbers and `[id, name]`.

    Equal names cause a warning unless the classes have ids.

    Args:
        path: path of the file; its suffix tells the format.

    Returns:
        Names of the classes, and their ids or `None`. If the file contains WordNet ids only, the
        names are ImageNet's.

    Raises:
        ValueError: the file has none of these formats, a name is missing, or a number or id is
            missing or repeated.
        OSError: the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        pairs = _pairs_of_json(read_text(path), path)
    elif suffix in (".csv", ".tsv"):
        pairs = _pairs_of_table(read_text(path), path)
    else:
        pairs = _pairs_of_lines(read_lines(path))
    keys, names = [key for key, _ in pairs], [name for _, name in pairs]
    ids: tuple[str, ...] | None = None
    if pairs and None not in keys:
        if are_wordnet_ids(keys):
            ids = tuple(keys)
        else:
            names = _in_order(keys, names, path)
    elif names and are_wordnet_ids(names):
        known, ids = names_and_ids(names)
        names = list(known)
    if not all(names) or not names:
        reason = "an empty name" if names else "none"
        raise ValueError(f"Expected names of classes. Received: {path}, with {reason}")
    if twice := _repeated(ids or ()):
        raise ValueError(f"Expected different ids. Received: {path}, with {some_of(twice)} twice")
    if ids is None and (twice := _repeated(names)):
        warnings.warn(
            f"{path} has several classes of the same name, without ids to tell them apart: "
            f"{some_of(twice)}",
            stacklevel=2,
        )
    return tuple(names), ids


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark, without the mark.

    Raises:
        ValueError: the file has another encoding, or is a web page or a Git LFS pointer.
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    if reason := placeholder(data[:START]):
        raise ValueError(f"Expected a text file. Received: {path}, {reason}")
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected a text in UTF-8. Received: {path} ({error})") from error


def delimiter_of(table: str) -> str:
    """Return the most frequent of comma, semicolon and tab in the first line of a table."""
    first = table.lstrip().partition("\n")[0]
    return max(",;\t", key=first.count)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, stripped, without empty lines at the end.

    Raises:
        ValueError: a line before the end is empty, so that the count would be wrong, or the file is
            not a text, see `read_text`.
        OSError: the file cannot be read.
    """
    lines = [line.strip() for line in re.split(r"\r\n|\n|\r", read_text(path).rstrip())]
    lines = lines if lines != [""] else []
    if "" in lines:
        raise ValueError(
            f"Expected no empty line before the end. Received: {path}, where line "
            f"{lines.index('') + 1} is empty"
        )
    return lines


def _pairs_of_lines(lines: Sequence[str]) -> list[tuple[Any, str]]:
    matches = [_KEYED.fullmatch(line) for line in lines]
    keys = [match[1] for match in matches if match]
    names = [match[2] for match in matches if match]
    # Otherwise the numbers are parts of the names, as in `3 doors` and `5 doors`.
    numbered = _count(keys) and len(set(names)) > len(names) / 2
    if len(keys) == len(lines) and (numbered or are_wordnet_ids(keys)):
        return [(match[1], match[2].strip()) for match in matches if match]
    return [(None, line) for line in lines]


def _pairs_of_table(text: str, path: Path) -> list[tuple[Any, str]]:
    rows = [
        [cell.strip() for cell in row]
        for row in csv.reader(
            text.splitlines(), delimiter=delimiter_of(text), skipinitialspace=True
        )
        if any(map(str.strip, row))
    ]
    heading = [cell.lower() for cell in rows[0]] if rows else []
    name = next((heading.index(known) for known in _NAMES if known in heading), None)
    if name is not None:
        others = (heading.index(known) for known in _KEYS if known in heading)
        key = next((column for column in others if column != name), None)
        rows = rows[1:]
    else:
        key, name = (0, 1) if len(heading) == 2 else (None, 0)
    width = len(heading)
    if (width > 2 and key is None) or any(len(row) != width for row in rows):
        raise ValueError(f"Expected {_KINDS}. Received: {path}, a table of {width} columns")
    return [(None if key is None else row[key], row[name]) for row in rows]


def _pairs_of_json(text: str, path: Path) -> list[tuple[Any, str]]:
    try:
        content = parse_json(text)
    except ValueError as error:
        raise ValueError(f"Expected JSON. Received: {path} ({error})") from error
    if isinstance(content, Mapping):
        pairs = list(content.items())
        if all(type(value) is int for value in content.values()):
            pairs = [(str(number), name) for name, number in pairs]
        if all(isinstance(value, list) and len(value) == 2 for _, value in pairs):
            ordered = _in_order([key for key, _ in pairs], [value for _, value in pairs], path)
            pairs = list(map(tuple, ordered))
    else:
        pairs = [(None, value) for value in content] if isinstance(content, list) else [(0, 0)]
    if not all(isinstance(value, str) for _, value in pairs):
        raise ValueError(f"Expected {_KINDS}. Received: {path}, with other JSON")
    return [(key, value.strip()) for key, value in pairs]


def _in_order(keys: Sequence[str], values: Sequence[Any], path: Path) -> list[Any]:
    """Return the values in the order of their numbers, which start at 0 or 1."""
    if not _count(keys):
        raise ValueError(
            f"Expected classes that are numbered from 0 or 1. Received: {path}, with the numbers "
            f"{some_of([str(key) for key in keys])}"
        )
    return [values[index] for index in sorted(range(len(keys)), key=lambda at: int(keys[at]))]


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _count(keys: Sequence[str]) -> bool:
    numbers = sorted(int(key) for key in keys if str(key).isdecimal())
    return bool(keys) and numbers in (list(range(len(keys))), list(range(1, len(keys) + 1)))
