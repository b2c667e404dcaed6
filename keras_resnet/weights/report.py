"""The report of loading weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_resnet.support.text import printable


@dataclass(frozen=True)
class LoadReport:
    """Report of the weights of a file and of a model.

    Attributes:
        source: path of the file.
        layout: layout of the names in the file, such as `"torchvision"`.
        loaded: layer -> keys of its arrays in the file, in the order of its weights.
        adapted: layer -> how its arrays were changed to fit.
        skipped: key -> why it was not loaded.
        missing: weights of the model, such as `predictions/kernel`, that kept their values.
        unexpected: keys that belong to no layer of the model.
        notes: assumptions by convention, and conversions.
        tag: tag of the registered checkpoint; `None` for other files.
    """

    source: str
    layout: str
    loaded: Mapping[str, tuple[str, ...]]
    adapted: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tag: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        as_json: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return as_json

    def __str__(self) -> str:
        arrays = sum(len(keys) for keys in self.loaded.values())
        lines = [
            f"{self.tag or printable(self.source)}: {arrays} arrays into {len(self.loaded)} "
            f"layers, names of {self.layout}"
        ]
        lines += [f"adapted  {layer}: {how}" for layer, how in self.adapted.items()]
        lines += [f"skipped  {key}: {why}" for key, why in self.skipped.items()]
        lines += [f"missing  {name}" for name in self.missing]
        lines += [f"unexpected  {key}" for key in self.unexpected]
        lines += [f"note     {note}" for note in self.notes]
        return "\n".join(lines)
