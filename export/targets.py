"""The table of export targets: what is written, by whom, and how exactly it has to agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_resnet.export.comparison import Limits
from keras_resnet.export.onnx import convert as onnx, inspect as onnx_inspect
from keras_resnet.export.onnx.half import write_float16
from keras_resnet.export.onnx.quantize import layer_errors as onnx_layer_errors, write_int8
from keras_resnet.export.servers import layouts, saved_model, tf_serving
from keras_resnet.export.source import ExportOptions, ExportSource
from keras_resnet.export.tflite import convert as tflite, inspect as tflite_inspect
from keras_resnet.export.tflite.errors import layer_errors as tflite_layer_errors
from keras_resnet.support.extras import require

#: Writes an artifact to a path.
Writer = Callable[[ExportSource, Path], None]


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
        max_pixels: at most so many pixels (height times width) are used to verify it: fewer images
            where running them is slow, or where the same artifact is verified as another target.
        operators: counts the operators of its graph.
        float_layers: names the layers that a quantized artifact computes in float.
        layer_errors: says how much each layer hurts a quantized artifact, worst first.
    """

    name: str
    file_name: str
    write: Writer
    limits: Limits
    modules: tuple[str, ...] = ()
    needs_calibration: bool = False
    companions: tuple[str, ...] = ()
    versioned: bool = False
    max_pixels: int | None = None
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


_EXACT = Limits(max_error=1e-4, min_agreement=1.0, min_cosine=0.9999)
_HALF = Limits(max_error=1e-2, min_cosine=0.999)
_INTEGER = Limits(min_agreement=0.95, max_accuracy_drop=0.01, min_cosine=0.95)
_FEW_PIXELS = 16 * 224 * 224
_SERVING = ("tensorflow_serving",)
_LITERT = ("ai_edge_litert",)
_ONNX = ("tf2onnx", "onnx", "onnxruntime")


def _tflite(
    kind: str,
    write: Writer,
    limits: Limits,
    calibrated: bool = False,
    max_pixels: int | None = None,
) -> Target:
    """A `.tflite` file with its description as JSON beside it."""
    return Target(
        f"tflite-{kind}",
        f"model-{kind}.tflite",
        write,
        limits,
        _LITERT,
        calibrated,
        companions=(f"model-{kind}.json",),
        max_pixels=max_pixels,
        operators=tflite_inspect.operators,
        float_layers=tflite_inspect.float_layers if calibrated else None,
        layer_errors=tflite_layer_errors if calibrated else None,
    )


def _onnx(kind: str, write: Writer, limits: Limits, calibrated: bool = False) -> Target:
    return Target(
        f"onnx{kind}",
        f"model{kind}.onnx",
        write,
        limits,
        _ONNX,
        calibrated,
        operators=onnx_inspect.operators,
        float_layers=onnx_inspect.float_layers if calibrated else None,
        layer_errors=onnx_layer_errors if calibrated else None,
    )


def _for_server(name: str, write: Writer, modules: tuple[str, ...]) -> Target:
    return Target(name, name, write, _EXACT, modules, max_pixels=_FEW_PIXELS)


TARGETS = {
    target.name: target
    for target in (
        Target(
            "saved_model",
            "saved_model",
            saved_model.write,
            _EXACT,
            _SERVING,
            companions=(tf_serving.BATCHING_CONFIG, tf_serving.MODELS_CONFIG),
            versioned=True,
            operators=saved_model.operators,
        ),
        _tflite("float32", tflite.write_float32, _EXACT),
        _tflite("float16", tflite.write_float16, _HALF),
        _tflite("dynamic", tflite.write_dynamic, _INTEGER),
        _tflite("int8", tflite.write_int8, _INTEGER, calibrated=True),
        _tflite("int8-io", tflite.write_int8_io, _INTEGER, calibrated=True),
        _tflite("uint8-io", tflite.write_uint8_io, _INTEGER, calibrated=True),
        # LiteRT has no fast kernels for it: a ResNet-50 takes seconds per image.
        _tflite("int16x8", tflite.write_int16x8, _INTEGER, calibrated=True, max_pixels=_FEW_PIXELS),
        _onnx("", onnx.write_float32, _EXACT),
        _onnx("-float16", write_float16, _HALF),
        _onnx("-int8", write_int8, _INTEGER, calibrated=True),
        _for_server("triton-onnx", layouts.write_triton_onnx, _ONNX),
        _for_server("triton-saved_model", layouts.write_triton_saved_model, _SERVING),
        _for_server("kserve-onnx", layouts.write_kserve_onnx, _ONNX),
        _for_server("kserve-saved_model", layouts.write_kserve_saved_model, _SERVING),
    )
}
