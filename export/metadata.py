"""Metadata in artifacts: class names, evaluation protocol and the rest of `ModelInfo`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_resnet.models.info import ENTRY, FILE_NAME, ModelInfo
from keras_resnet.support.json_text import parse_json

#: Entry of an ONNX file for the layout of its input.
_LAYOUT = f"{ENTRY}.layout"

#: Folder for files that the graph does not read; those that it reads are in `assets`.
_SAVED_MODEL_FOLDER = "assets.extra"


def into_saved_model(directory: Path, info: ModelInfo) -> None:
    """Write metadata as a JSON file; `directory` has `saved_model.pb`."""
    folder = directory / _SAVED_MODEL_FOLDER
    folder.mkdir(exist_ok=True)
    (folder / FILE_NAME).write_text(info.to_json(), encoding="utf-8")


def of_saved_model(directory: Path) -> ModelInfo | None:
    """Return this package's metadata of a SavedModel; None if it has none."""
    path = directory / _SAVED_MODEL_FOLDER / FILE_NAME
    return ModelInfo.from_json(path.read_text("utf-8")) if path.is_file() else None


def into_tflite(model: Any, info: ModelInfo, further: Mapping[str, Any] | None = None) -> None:
    """Add metadata to a TFLite model, which `flatbuffer.parse` returned.

    `further` holds entries besides the fields of `ModelInfo`.
    """
    from keras_resnet.export.tflite.private import schema

    text = json.dumps({**json.loads(info.to_json()), **(further or {})}, ensure_ascii=False)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(text.encode())
    entry.name, entry.buffer = ENTRY.encode(), len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]


def of_tflite(path: Path) -> ModelInfo | None:
    """Return this package's metadata of a TFLite file; None if it has none."""
    from keras_resnet.export.tflite.flatbuffer import read

    entry = entry_of_tflite(read(path))
    return ModelInfo.from_json(json.dumps(entry)) if entry else None


def entry_of_tflite(model: Any) -> dict[str, Any]:
    """Return this package's metadata of a TFLite model as a dictionary; `{}` if it has none."""
    for entry in model.metadata or []:
        if entry.name == ENTRY.encode():
            values = parse_json(bytes(model.buffers[entry.buffer].data))
            return values if isinstance(values, dict) else {}
    return {}


def into_onnx(proto: Any, info: ModelInfo, layout: str) -> None:
    """Add metadata to an ONNX model; `layout` is `"NHWC"` or `"NCHW"`."""
    for key, value in ((ENTRY, info.to_json()), (_LAYOUT, layout)):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value


def of_onnx(session: Any) -> tuple[ModelInfo | None, str]:
    """Return this package's metadata of an ONNX model, None if it has none, and its layout.

    `session` is an ONNX Runtime session of the model.
    """
    entries = session.get_modelmeta().custom_metadata_map
    text = entries.get(ENTRY)
    return ModelInfo.from_json(text) if text else None, entries.get(_LAYOUT, "NHWC")
