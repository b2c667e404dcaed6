"""JSON: from elsewhere, a short text can mean endless depth, or gigabytes of objects."""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

from keras_resnet.support.placeholders import START, placeholder

#: Bytes, values and depth: several times those of ResNet-1202 as Keras describes it.
_LONGEST, _MOST_VALUES, _DEEPEST = 2**25, 2**21, 100


def parse_json(text: str | bytes) -> Any:
    """Parse a text in JSON.

    Raises:
        ValueError: it is no JSON, or longer or deeper than what this package reads.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"JSON of {len(text):,} bytes, more than {_LONGEST:,}")
    text = text if isinstance(text, str) else text.decode("utf-8-sig")
    bare = re.sub('"[^"]*"', "", text.replace("\\\\", "").replace('\\"', ""))
    values = sum(map(bare.count, "[{:,"))
    if values > _MOST_VALUES:
        raise ValueError(f"JSON of {values:,} values, more than {_MOST_VALUES:,}")
    brackets = re.sub("[^][{}]", "", bare)
    depth = max(accumulate(1 if mark in "[{" else -1 for mark in brackets), default=0)
    if depth > _DEEPEST:
        raise ValueError(f"JSON that is nested {depth:,} deep, more than {_DEEPEST}")
    return json.loads(text)


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: as `parse_json`; or it is a web page or a pointer in the place of the file.
    """
    with path.open("rb") as file:
        content = file.read(_LONGEST + 1)
    if reason := placeholder(content[:START]):
        raise ValueError(reason)
    return parse_json(content)


def finite(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON has no words for."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
