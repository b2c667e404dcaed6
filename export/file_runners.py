"""Runners for TFLite files (in LiteRT) and ONNX files (in ONNX Runtime)."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.export import metadata
from keras_resnet.export.outputs import SIGNATURE
from keras_resnet.export.report.timing_worker import only
from keras_resnet.export.runner import Runner, as_type, channels_last
from keras_resnet.models.foreign import FOR_INTEGERS, Hint, Layout, find_layout
from keras_resnet.models.info import ModelInfo
from keras_resnet.models.pixels import PIXEL_FORMATS, format_of_constants, format_of_range
from keras_resnet.support.cores import usable_cores
from keras_resnet.support.extras import require
from keras_resnet.support.quiet import quiet


class TFLiteRunner(Runner):
    """Runner of a TFLite file in LiteRT, whose interpreter runs one batch at a time: calls wait."""

    format = "TFLite"

    def __init__(self, path: Path, cut: bool = False) -> None:
        self._lock = threading.Lock()
        interpreter = require("ai_edge_litert.interpreter").Interpreter
        with quiet(), warnings.catch_warnings():
            # The interpreter warns about memory, but an image classifier needs little of it.
            warnings.filterwarnings("ignore", message=".*experimental_preserve_all_tensors")
            self._interpreter = interpreter(
                model_path=str(path),
                num_threads=usable_cores(),
                experimental_preserve_all_tensors=cut,
            )
            self._interpreter.allocate_tensors()
            self._input, self._ends = self._find_ends()
        if cut:
            self._cut(path)
        info = metadata.of_tflite(path)
        self.is_own, self.info = info is not None, info or ModelInfo()
        shape = tuple(None if side < 0 else int(side) for side in self._input["shape_signature"])
        if not self.is_own:
            self.layout = find_layout(shape, default="NHWC")
            self._read_metadata(path)
        self.input_shape = channels_last(shape, self.layout)
        self.outputs = tuple(self._ends)
        self.ranks = tuple(len(end["shape"]) for end in self._ends.values())
        self.width = int(self._ends[self.outputs[0]]["shape"][-1])

    def _find_ends(self) -> tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]]:
        """Return the details of the only input, and those of the outputs by name."""
        keys = list(self._interpreter.get_signature_list())
        details = self._interpreter.get_input_details()
        ends = {end["name"]: end for end in self._interpreter.get_output_details()}
        # Files of old converters have no signature: their outputs go by the tensors' names.
        self._signature = None
        if SIGNATURE in keys or len(keys) == 1:
            key = SIGNATURE if SIGNATURE in keys else keys[0]
            self._signature = self._interpreter.get_signature_runner(key)
            self._input_name = only(list(self._signature.get_input_details()), "input")
            ends = self._signature.get_output_details()
        return only(details, "input"), ends

    def _cut(self, path: Path) -> None:
        """Make the input of the last dense layer the only output."""
        from keras_resnet.export.tflite.inspect import dense_input

        index = dense_input(path)
        (found,) = (x for x in self._interpreter.get_tensor_details() if x["index"] == index)
        self._ends, self._signature, self.is_cut = {found["name"]: found}, None, True

    def _read_metadata(self, path: Path) -> None:
        """Read the pixel format and the class names of a file that another package wrote."""
        from keras_resnet.export.tflite.flatbuffer import read
        from keras_resnet.export.tflite.standard_metadata import standard_metadata

        found = standard_metadata(read(path), path)
        if found.labels is not None:
            self.info = ModelInfo(class_names=found.labels)
        self.output_range = _range_of(next(iter(self._ends.values())))
        limits = _range_of(self._input)
        self.takes_integers = limits is None and np.issubdtype(self._input["dtype"], np.integer)
        if found.mean is not None and found.std is not None:
            pixels = format_of_constants(found.mean.tolist(), found.std.tolist())
            self.hint = Hint(pixels, "as the metadata of the file says")
        elif self.takes_integers:
            self.hint = FOR_INTEGERS
        elif limits is not None and (known := format_of_range(*limits)) is not None:
            low, high = limits
            self.hint = Hint(known, f"as its input is quantized to [{low:.3g}, {high:.3g}]")

    def run(self, batch: np.ndarray) -> Sequence[Any]:
        from keras_resnet.export.tflite.inspect import dequantize_output, quantize_input

        pixels = quantize_input(batch, self._input)
        with self._lock:
            if self._signature is not None:
                values = self._signature(**{self._input_name: pixels})
            else:
                values = self._run_without_signature(pixels)
        return [dequantize_output(values[name], end) for name, end in self._ends.items()]

    def _run_without_signature(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        index = self._input["index"]
        if self._interpreter.get_input_details()[0]["shape"].tolist() != list(pixels.shape):
            self._interpreter.resize_tensor_input(index, pixels.shape)
            self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(index, pixels)
        self._interpreter.invoke()
        return {
            name: self._interpreter.get_tensor(end["index"]) for name, end in self._ends.items()
        }


def _range_of(details: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the smallest and largest number that a quantized tensor can hold; None for others."""
    from keras_resnet.export.tflite.inspect import dequantize_output

    dtype, scales = np.dtype(details["dtype"]), details["quantization_parameters"]["scales"]
    if not len(scales) or not np.issubdtype(dtype, np.integer):
        return None
    ends = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max])
    low, high = dequantize_output(ends.astype(dtype), details).tolist()
    return low, high


class ONNXRunner(Runner):
    """Runner of an ONNX file, in ONNX Runtime on the CPU."""

    format = "ONNX"

    def __init__(self, path: Path, cut: bool = False) -> None:
        onnxruntime = require("onnxruntime")
        options = onnxruntime.SessionOptions()
        # By default, ONNX Runtime uses all cores of the machine, even those this process may not.
        options.intra_op_num_threads = usable_cores()
        content: str | bytes = str(path)
        if cut:
            from keras_resnet.export.onnx.inspect import dense_input_model

            content, self.is_cut = dense_input_model(path), True
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        entry = only(self._session.get_inputs(), "input")
        self._input = entry.name
        if entry.type not in _ONNX_TYPES:
            raise ValueError(
                f"its input {entry.name!r} is a {entry.type}, which cannot hold pixels"
            )
        self._dtype = np.dtype(_ONNX_TYPES[entry.type])
        shape = tuple(side if isinstance(side, int) else None for side in entry.shape)
        info, layout = metadata.of_onnx(self._session)
        self.is_own, self.info = info is not None, info or ModelInfo()
        if self.is_own:
            self.layout = Layout(layout == "NCHW", "as its metadata says")
        else:
            self.layout = find_layout(shape, default=None)
            self.takes_integers = np.issubdtype(self._dtype, np.integer)
            self.hint = _hint_of_onnx(self._session, self.takes_integers)
        self.input_shape = channels_last(shape, self.layout)
        ends = self._session.get_outputs()
        self._names = self.outputs = tuple(output.name for output in ends)
        self.ranks = tuple(len(output.shape) for output in ends)
        width = ends[0].shape[-1] if ends[0].shape else None
        self.width = width if isinstance(width, int) else None

    def run(self, batch: np.ndarray) -> Sequence[Any]:
        return self._session.run(self._names, {self._input: as_type(batch, self._dtype)})


#: NumPy dtypes of inputs that can hold pixels, by ONNX Runtime's names.
_ONNX_TYPES = {
    f"tensor({name})": dtype
    for name, dtype in (
        *(("float", "float32"), ("double", "float64"), ("float16", "float16")),
        *((kind, kind) for kind in ("uint8", "int8", "int32", "int64")),
    )
}

#: Pixel formats by the ranges that ONNX defines in its metadata (`docs/MetadataProps.md` of onnx).
_ONNX_RANGES = {
    "nominalrange_0_255": "raw",
    "normalized_0_1": "unit",
    "normalized_1_1": "tf",
}


def _hint_of_onnx(session: Any, takes_integers: bool) -> Hint | None:
    """Return the pixel format that a file of another package asks for, if it tells."""
    entries = session.get_modelmeta().custom_metadata_map
    known = {key.lower(): value.lower() for key, value in entries.items()}
    found = _ONNX_RANGES.get(known.get("image.nominalpixelrange", ""))
    # None of these formats has its channels in BGR order.
    if found is not None and known.get("image.bitmappixelformat", "rgb8") in ("rgb8", "gray8"):
        return Hint(PIXEL_FORMATS[found], "as the metadata of the file says")
    return FOR_INTEGERS if takes_integers else None
