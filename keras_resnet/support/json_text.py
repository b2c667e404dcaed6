"""Reading of untrusted JSON, with limits of length, depth and number of values."""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

from keras_resnet.support.placeholders import START, placeholder

#: Limits: bytes, values and depth; several times those of Keras' config of ResNet-1202.
_LONGEST, _MOST_VALUES, _DEEPEST = 2**25, 2**21, 100


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: the text is not JSON, or exceeds a limit.
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
        OSError: the file cannot be read.
        ValueError: the file is not JSON, exceeds a limit, or is a web page or Git LFS pointer.
    """
    with path.open("rb") as file:
        content = file.read(_LONGEST + 1)
    if reason := placeholder(content[:START]):
        raise ValueError(reason)
    return parse_json(content)


def finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by `None` in nested data."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
