"""Table of the export targets: the writer, limits and requirements of each."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
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

#: Function that writes an artifact to a path.
Writer = Callable[["ExportedModel", Path], None]

#: Configuration files for TF Serving, which are written beside a SavedModel.
BATCHING_CONFIG, MODELS_CONFIG = "batching.config", "models.config"


@dataclass(frozen=True)
class Target:
    """Kind of artifact that a model can be exported to; `TARGETS` has all of them by name.

    Examples:
        >>> TARGETS["tflite-int8"].limits
        Limits(max_error=None, min_agreement=0.95, max_accuracy_drop=0.01, min_cosine=0.95)

    Attributes:
        name: name of the target, such as `"tflite-int8"`.
        file_name: name of the artifact's file or directory.
        write: function that writes the artifact to a path, and its companions beside it.
        limits: limits that the artifact is verified with.
        modules: optional modules for writing and running the artifact.
        needs_calibration: whether the artifact needs ranges of activations: from calibration images
            or from quantization-aware training.
        companions: names of further files that `write` may create beside the artifact.
        versioned: whether the artifact is a directory with a subdirectory for each version of the
            model. Writing one version keeps the others.
        max_pixels: largest total of pixels (images times height times width) to verify the artifact
            on; `None`: no limit. Set for slow artifacts, and for those whose content is also
            verified as another target.
        operators: function that counts the operators of an artifact by name.
        float_layers: function that returns the names of the layers that a quantized artifact
            computes in float.
        layer_errors: function that measures how much each layer of a quantized artifact changes
            the outputs, by layer name, largest error first; `None` for float artifacts.
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
        """Return the artifact's path relative to the export directory."""
        return f"{self.file_name}/{options.version}" if self.versioned else self.file_name

    def require_modules(self) -> None:
        """Raise ImportError, with the command to install it, if a package is missing."""
        for module in self.modules:
            require(module)


def _function(place: str, *first: Any) -> Callable[..., Any]:
    """Return a function that imports and calls one such as `"onnx.half:write_float16"`.

    The table can then be read without TensorFlow. `first` are arguments before those of the call.
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
    """Return the fields of targets whose weights and activations are integers.

    `package` is `"tflite"` or `"onnx"`, `largest` the largest integer of a weight.
    """
    return {
        "limits": _INTEGER,
        "needs_calibration": True,
        "float_layers": _function(f"{package}.inspect:float_layers"),
        "layer_errors": functools.partial(_function("errors:layer_errors"), largest=largest),
    }


def _tflite(kind: str, **further: Any) -> Target:
    """Return the target of a `.tflite` file, with its description in a JSON file beside it."""
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
    """Return the target of a directory for a server with a SavedModel or an ONNX file in it."""
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
        # LiteRT has no fast int16 kernels: a ResNet-50 takes seconds per image.
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
    """Raise ValueError, with the nearest name, if one of these is not the name of a target."""
    for name in names:
        if name not in TARGETS:
            hint = did_you_mean(name, TARGETS, f"There are {', '.join(TARGETS)}")
            raise ValueError(f"Expected the name of a target. Received: {name!r}{hint}")


def choose_targets(
    targets: Sequence[str] | None, calibrated: bool, keep_float: Sequence[str]
) -> list[Target]:
    """Return the targets of an export, or the default ones, without repetitions.

    Args:
        targets: names of targets; None for the default.
        calibrated: whether there are ranges for integers.
        keep_float: names of layers that integer artifacts compute in float.

    Raises:
        ValueError: a target is unknown, or the arguments do not fit each other.
        ImportError: a package for a target is not installed.
    """
    if targets is None:
        targets = ("saved_model", "onnx", "tflite-int8" if calibrated else "tflite-float32")
    if not targets or isinstance(targets, str):
        raise ValueError(f"Expected a list of `targets`. Received: {targets!r}")
    check_targets(targets)
    chosen = [TARGETS[name] for name in dict.fromkeys(targets)]
    for target in chosen:
        if target.needs_calibration and not calibrated:
            raise ValueError(
                f"Expected `calibration` images for the target {target.name!r}, to measure the "
                "ranges of its activations. Received: none. Pass images like those the network "
                "will see"
            )
        target.require_modules()
    if keep_float and not any(target.needs_calibration for target in chosen):
        raise ValueError(
            "Expected `keep_float` together with an integer target, such as tflite-int8. Received: "
            f"{keep_float!r} for {', '.join(target.name for target in chosen)}"
        )
    return chosen
