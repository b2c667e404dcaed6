"""The table of export targets: what is written, by whom, and how exactly it has to agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from keras_resnet.export import onnx, saved_model, tflite
from keras_resnet.export.signature import ExportSource
from keras_resnet.export.verify import Limits
from keras_resnet.extras import require


@dataclass(frozen=True)
class Target:
    """A kind of artifact.

    Attributes:
        name: what the user asks for.
        file_name: name of the file or directory that is written.
        write: writes the artifact to a path.
        limits: what verification allows.
        modules: optional modules that writing and running it needs.
        needs_calibration: whether calibration images are required.
    """

    name: str
    file_name: str
    write: Callable[[ExportSource, Path], None]
    limits: Limits
    modules: tuple[str, ...] = ()
    needs_calibration: bool = False

    def require_modules(self) -> None:
        """Raises an `ImportError` with the pip line if a package is missing."""
        for module in self.modules:
            require(module)


_EXACT = Limits(max_error=1e-4, min_agreement=1.0)
_HALF = Limits(max_error=1e-2)
_INTEGER = Limits(min_agreement=0.98, max_accuracy_drop=0.01)
_LITERT = ("ai_edge_litert",)
_ONNX = ("tf2onnx", "onnx", "onnxruntime")

TARGETS = {
    target.name: target
    for target in (
        Target("saved_model", "saved_model", saved_model.write, _EXACT),
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
    )
}
