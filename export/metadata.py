"""Metadata inside artifacts: class names and the protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_resnet.models.info import ENTRY, FILE_NAME, ModelInfo
from keras_resnet.support.json_text import parse_json

#: Entry of an ONNX file: in which order the sides of its images are.
_LAYOUT = f"{ENTRY}.layout"

#: Files here are not TensorFlow's: `assets` belongs to the graph.
_SAVED_MODEL_FOLDER = "assets.extra"


def into_saved_model(directory: Path, info: ModelInfo) -> None:
    """Writes a JSON file beside `saved_model.pb`; `directory` is the version's."""
    folder = directory / _SAVED_MODEL_FOLDER
    folder.mkdir(exist_ok=True)
    (folder / FILE_NAME).write_text(info.to_json(), encoding="utf-8")


def of_saved_model(directory: Path) -> ModelInfo | None:
    """Read the JSON file of a SavedModel; None if it has none."""
    path = directory / _SAVED_MODEL_FOLDER / FILE_NAME
    return ModelInfo.from_json(path.read_text("utf-8")) if path.is_file() else None


def into_tflite(model: Any, info: ModelInfo, further: Mapping[str, Any] | None = None) -> None:
    """Adds an entry to the metadata of a TFLite model, as an object of its flatbuffer.

    `further`: what else is known, by names that `ModelInfo` does not have.
    """
    from keras_resnet.export.tflite.private import schema

    text = json.dumps({**json.loads(info.to_json()), **(further or {})}, ensure_ascii=False)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(text.encode())
    entry.name, entry.buffer = ENTRY.encode(), len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]


def of_tflite(path: Path) -> ModelInfo | None:
    """Read our metadata of a TFLite file; None if it has none."""
    from keras_resnet.export.tflite.flatbuffer import read

    entry = entry_of_tflite(read(path))
    return ModelInfo.from_json(json.dumps(entry)) if entry else None


def entry_of_tflite(model: Any) -> dict[str, Any]:
    """Our entry in the metadata of a TFLite flatbuffer, as it was given; `{}` if there is none."""
    for entry in model.metadata or []:
        if entry.name == ENTRY.encode():
            values = parse_json(bytes(model.buffers[entry.buffer].data))
            return values if isinstance(values, dict) else {}
    return {}


def into_onnx(proto: Any, info: ModelInfo, layout: str) -> None:
    """Adds entries to the metadata of an ONNX model; `layout` is `"NHWC"` or `"NCHW"`."""
    for key, value in ((ENTRY, info.to_json()), (_LAYOUT, layout)):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value


def of_onnx(session: Any) -> tuple[ModelInfo | None, str]:
    """Read our metadata and the image layout of an ONNX Runtime session's model.

    None if it has none of ours.
    """
    entries = session.get_modelmeta().custom_metadata_map
    text = entries.get(ENTRY)
    return ModelInfo.from_json(text) if text else None, entries.get(_LAYOUT, "NHWC")
