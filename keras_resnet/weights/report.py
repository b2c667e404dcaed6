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
    """The outcome for every weight of a file and of a model.

    Attributes:
        source: the file or tag.
        layout: whose names the file uses.
        loaded: layer -> keys whose arrays it took, in the order of its weights.
        adapted: layer -> how its arrays were changed to fit.
        skipped: key -> why it was left alone.
        missing: weights of the model, `layer/kernel`, that kept their values; with `strict` only
            those that an adaptation leaves out.
        unexpected: keys that mean no layer of the model.
        notes: what is not in the file, and was decided by convention.
        tag: the registered checkpoint, if it is one.
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
        """Everything in it, as JSON has it."""
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
