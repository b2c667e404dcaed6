"""Optional dependencies: imported where they are used, named with the pip line if missing."""

from __future__ import annotations

import importlib
from typing import Any

#: Module -> (extra that brings it, what does not work without it).
OPTIONAL = {
    "tf2onnx": ("export", "writing ONNX"),
    "onnx": ("export", "writing ONNX"),
    "onnxruntime": ("export", "running and verifying ONNX"),
    "ai_edge_litert": ("export", "running and verifying TFLite"),
    "tensorflow_model_optimization": (
        "compression",
        "quantization-aware training, pruning, clustering",
    ),
    "tf_keras": ("compression", "quantization-aware training, pruning, clustering"),
}


def require(module: str) -> Any:
    """Imports and returns `module` (possibly dotted), which comes with an extra.

    Raises:
        ImportError: it is not installed; the message is one sentence with the pip line.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        extra, purpose = OPTIONAL[package]
        raise ImportError(
            f"{purpose[0].upper()}{purpose[1:]} needs the package `{package}`, which is not "
            f"installed: run `pip install 'keras-resnets[{extra}]'`.",
            name=package,
        ) from error
