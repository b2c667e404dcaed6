"""The table of export targets: what is written, by whom, and how exactly it has to agree."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_resnet.export.comparison import Limits
from keras_resnet.support.extras import require
from keras_resnet.support.suggest import did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from keras_resnet.export.model import ExportedModel
    from keras_resnet.export.options import ExportOptions

#: Writes an artifact to a path.
Writer = Callable[["ExportedModel", Path], None]

#: What the writer of SavedModels leaves beside them, for TF Serving.
BATCHING_CONFIG, MODELS_CONFIG = "batching.config", "models.config"


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
    operators: Callable[[Path], Mapping[str, int]] = lambda path: {}
    float_layers: Callable[[Path], tuple[str, ...]] = lambda path: ()
    layer_errors: Callable[[ExportedModel, np.ndarray], Mapping[str, float]] | None = None

    def place(self, options: ExportOptions) -> str:
        """Path of the artifact in the export directory."""
        return f"{self.file_name}/{options.version}" if self.versioned else self.file_name

    def require_modules(self) -> None:
        """Raises an `ImportError` with the pip line if a package is missing."""
        for module in self.modules:
            require(module)


def _function(place: str, *first: Any) -> Callable[..., Any]:
    """A function such as `"onnx.half:write_float16"`, whose module is imported when it is called.

    So the table can be read without TensorFlow. `first`: arguments before those of the call.
    """

    def call(*arguments: Any, **keywords: Any) -> Any:
        module, _, name = place.partition(":")
        functions = importlib.import_module(f"keras_resnet.export.{module}")
        return getattr(functions, name)(*first, *arguments, **keywords)

    return call


_EXACT = Limits(max_error=1e-4, min_agreement=1.0, min_cosine=0.9999)
_HALF = Limits(max_error=1e-2, min_cosine=0.999)
_INTEGER = Limits(min_agreement=0.95, max_accuracy_drop=0.01, min_cosine=0.95)
_FEW_PIXELS = 16 * 224 * 224
_SERVING = ("tensorflow_serving",)
_ONNX = ("tf2onnx", "onnx", "onnxruntime")


def _integers(package: str, largest: int) -> dict[str, Any]:
    """Return the further fields of a row if activations are integers, too.

    `package` is `"tflite"` or `"onnx"`, `largest` the largest integer that a weight becomes.
    """
    return {
        "limits": _INTEGER,
        "needs_calibration": True,
        "float_layers": _function(f"{package}.inspect:float_layers"),
        "layer_errors": functools.partial(_function("errors:layer_errors"), largest=largest),
    }


def _tflite(kind: str, **further: Any) -> Target:
    """A `.tflite` file with its description as JSON beside it."""
    return Target(
        f"tflite-{kind}",
        f"model-{kind}.tflite",
        _function(f"tflite.convert:write_{kind.replace('-', '_')}"),
        modules=("ai_edge_litert",),
        companions=(f"model-{kind}.json",),
        operators=_function("tflite.inspect:operators"),
        **further,
    )


def _onnx(kind: str, writer: str, **further: Any) -> Target:
    return Target(
        f"onnx{kind}",
        f"model{kind}.onnx",
        _function(f"onnx.{writer}"),
        modules=_ONNX,
        operators=_function("onnx.inspect:operators"),
        **further,
    )


def _for_server(server: str, artifact: str, modules: tuple[str, ...]) -> Target:
    """A folder that a server loads, around a SavedModel or an ONNX file."""
    name = f"{server}-{artifact}"
    write = _function(f"servers.layouts:write_{server}", artifact)
    return Target(name, name, write, _EXACT, modules, max_pixels=_FEW_PIXELS)


_TFLITE_INT8 = _integers("tflite", 127)

TARGETS = {
    target.name: target
    for target in (
        Target(
            "saved_model",
            "saved_model",
            _function("servers.saved_model:write"),
            _EXACT,
            _SERVING,
            companions=(BATCHING_CONFIG, MODELS_CONFIG),
            versioned=True,
            operators=_function("servers.saved_model:operators"),
        ),
        _tflite("float32", limits=_EXACT),
        _tflite("float16", limits=_HALF),
        _tflite("dynamic", limits=_INTEGER),
        _tflite("int8", **_TFLITE_INT8),
        _tflite("int8-io", **_TFLITE_INT8),
        _tflite("uint8-io", **_TFLITE_INT8),
        # LiteRT has no fast kernels for it: a ResNet-50 takes seconds per image.
        _tflite("int16x8", max_pixels=_FEW_PIXELS, **_TFLITE_INT8),
        _onnx("", "convert:write_float32", limits=_EXACT),
        _onnx("-float16", "half:write_float16", limits=_HALF),
        _onnx("-int8", "quantize:write_int8", **_integers("onnx", 64)),
        _for_server("triton", "onnx", _ONNX),
        _for_server("triton", "saved_model", _SERVING),
        _for_server("kserve", "onnx", _ONNX),
        _for_server("kserve", "saved_model", _SERVING),
    )
}


def check_targets(names: Iterable[str]) -> None:
    """Raises ValueError if there is no target of one of these names; says which was meant."""
    for name in names:
        if name not in TARGETS:
            hint = did_you_mean(name, TARGETS, f"There are {', '.join(TARGETS)}")
            raise ValueError(f"Expected the name of a target. Received: {name!r}{hint}")
