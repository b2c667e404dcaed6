"""The table of export targets: what is written, by whom, and how exactly it has to agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_resnet.export import layouts, onnx, saved_model, serving, tflite
from keras_resnet.export.comparison import Limits
from keras_resnet.export.signature import ExportOptions, ExportSource
from keras_resnet.extras import require


@dataclass(frozen=True)
class Target:
    """A kind of artifact.

    Attributes:
        name: what the user asks for.
        file_name: name of the file or directory that is written.
        write: writes the artifact to a path, and its companions beside it.
        limits: what verification allows.
        modules: optional modules that writing and running it needs.
        needs_calibration: whether calibration images are required.
        companions: names of further files that `write` may leave beside the artifact.
        versioned: whether the directory has a version of the model in each of its directories;
            others stay when one is written.
        operators: counts the operators of its graph.
        float_layers: names the layers that a quantized artifact computes in float.
        layer_errors: says how much each layer hurts a quantized artifact, worst first.
    """

    name: str
    file_name: str
    write: Callable[[ExportSource, Path], None]
    limits: Limits
    modules: tuple[str, ...] = ()
    needs_calibration: bool = False
    companions: tuple[str, ...] = ()
    versioned: bool = False
    operators: Callable[[Path], Mapping[str, int]] | None = None
    float_layers: Callable[[Path], tuple[str, ...]] | None = None
    layer_errors: Callable[[ExportSource, np.ndarray], Mapping[str, float]] | None = None

    def place(self, options: ExportOptions) -> str:
        """Path of the artifact in the export directory."""
        return f"{self.file_name}/{options.version}" if self.versioned else self.file_name

    def require_modules(self) -> None:
        """Raises an `ImportError` with the pip line if a package is missing."""
        for module in self.modules:
            require(module)


_EXACT = Limits(max_error=1e-4, min_agreement=1.0)
_HALF = Limits(max_error=1e-2)
_INTEGER = Limits(min_agreement=0.98, max_accuracy_drop=0.01)
_LITERT = ("ai_edge_litert",)
_SERVING = ("tensorflow_serving",)
_ONNX = ("tf2onnx", "onnx", "onnxruntime")

TARGETS = {
    target.name: target
    for target in (
        Target(
            "saved_model",
            "saved_model",
            saved_model.write,
            _EXACT,
            _SERVING,
            companions=(serving.BATCHING_CONFIG, serving.MODELS_CONFIG),
            versioned=True,
        ),
        Target("tflite-float32", "model-float32.tflite", tflite.write_float32, _EXACT, _LITERT),
        Target("tflite-float16", "model-float16.tflite", tflite.write_float16, _HALF, _LITERT),
        Target("tflite-dynamic", "model-dynamic.tflite", tflite.write_dynamic, _INTEGER, _LITERT),
        Target(
            "tflite-int8",
            "model-int8.tflite",
            tflite.write_int8,
            _INTEGER,
            _LITERT,
            needs_calibration=True,
        ),
        Target("onnx", "model.onnx", onnx.write_float32, _EXACT, _ONNX),
        Target("triton-onnx", "triton-onnx", layouts.write_triton_onnx, _EXACT, _ONNX),
        Target(
            "triton-saved_model",
            "triton-saved_model",
            layouts.write_triton_saved_model,
            _EXACT,
            _SERVING,
        ),
        Target("kserve-onnx", "kserve-onnx", layouts.write_kserve_onnx, _EXACT, _ONNX),
        Target(
            "kserve-saved_model",
            "kserve-saved_model",
            layouts.write_kserve_saved_model,
            _EXACT,
            _SERVING,
        ),
    )
}
