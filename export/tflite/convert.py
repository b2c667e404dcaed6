"""Writers of TFLite files in float32, float16, dynamic range and integers.

The files have built-in operators only. Every writer also writes the result of `inspect.describe` to
a JSON file: `model-int8.json` beside `model-int8.tflite`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.export.metadata import into_tflite
from keras_resnet.export.model import ExportedModel
from keras_resnet.export.outputs import IMAGE, SIGNATURE
from keras_resnet.export.tflite import inspect, quantize
from keras_resnet.export.tflite.flatbuffer import parse, serialize
from keras_resnet.export.tflite.kernels import keep_properties
from keras_resnet.export.tflite.layers import LayerNames, nodes_of
from keras_resnet.export.tflite.ranges import with_ranges
from keras_resnet.support.quiet import quiet
from keras_resnet.weights.layers import pixel_constants


def write_float32(exported: ExportedModel, path: Path) -> None:
    """Write a file with float32 weights and activations."""
    _write(exported, path, _float_model(exported))


def write_float16(exported: ExportedModel, path: Path) -> None:
    """Write a file with float16 weights; CPUs compute in float32, GPU delegates in float16."""
    _write(exported, path, _converted(exported, [tf.lite.Optimize.DEFAULT], [tf.float16]))


def write_dynamic(exported: ExportedModel, path: Path) -> None:
    """Write a file with int8 weights; activations are quantized by their range in each image."""
    _write(exported, path, _converted(exported, [tf.lite.Optimize.DEFAULT]))


def write_int8(exported: ExportedModel, path: Path) -> None:
    """Write a file with int8 weights and activations, and float32 input and outputs."""
    _write_integers(exported, path, tf.float32)


def write_int8_io(exported: ExportedModel, path: Path) -> None:
    """Write a file with int8 weights, activations, input and outputs; the input is pixels - 128."""
    _write_integers(exported, path, tf.int8)


def write_uint8_io(exported: ExportedModel, path: Path) -> None:
    """Write a file with int8 weights and activations, and uint8 input and outputs.

    Raises:
        ValueError: as in `write_int8`; or the scale of the input is not 1, or its zero point not 0.
    """
    _write_integers(exported, path, tf.uint8)
    image = inspect.describe(path)["inputs"][0]
    if (image["dtype"], image["scale"], image["zero_point"]) != ("uint8", 1.0, 0):
        raise ValueError(
            "Expected an input that takes raw uint8 pixels: scale 1, zero point 0. Received: "
            f"{image['dtype']}, scale {image['scale']}, zero point {image['zero_point']}. Export "
            "to `tflite-int8` or `tflite-int8-io` instead"
        )


def write_int16x8(exported: ExportedModel, path: Path) -> None:
    """Write a file with int8 weights, int16 activations, and float32 input and outputs."""
    _write_integers(exported, path, None)


def calibrated_model(exported: ExportedModel) -> bytes:
    """Return a float TFLite model with the ranges of its activations.

    Raises:
        ValueError: there are neither calibration images nor learned ranges, or the model needs an
            operator that is not built in.
    """
    return exported.cached(
        "calibrated.tflite", lambda: with_ranges(exported, _float_model(exported))
    )


def _float_model(exported: ExportedModel) -> bytes:
    return exported.cached("float.tflite", lambda: _converted(exported))


def _write_integers(exported: ExportedModel, path: Path, ends: Any) -> None:
    """Write a file with integer weights and activations.

    `ends` is the type of the input and the outputs for int8 activations, or None for int16
    activations with float32 input and outputs.
    """
    content, keep = calibrated_model(exported), exported.options.keep_float
    nodes = nodes_of(keep, parse(content), LayerNames(exported))
    if ends is not None:
        quantized = quantize.quantized_int8(content, ends, nodes)
    else:
        quantized = quantize.quantized_int16x8(content)
        if keep:
            quantized = quantize.with_float_operators(quantized, content, nodes)
    _write(exported, path, quantized)
    # The quantizer leaves operators without an integer form in float, without a warning.
    found = [op for op in inspect.float_operators(path) if not set(keep) & set(op.layers)]
    if found:
        operators = ", ".join(sorted({item.operator for item in found}))
        layers = ", ".join(dict.fromkeys(layer for item in found for layer in item.layers))
        raise ValueError(
            "Expected a network whose operators all have integer forms in TFLite. Received: one "
            f"with {operators}, which would stay in float, in the layers {layers}. Pass these "
            "layers as `keep_float`, or choose another target"
        )


def _converted(
    exported: ExportedModel, optimizations: list[Any] | None = None, types: list[Any] | None = None
) -> bytes:
    """Convert a model; raise ValueError if it needs operators that are not built in."""
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(exported.saved_model), signature_keys=[SIGNATURE]
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.target_spec.supported_types = types or []
    converter.optimizations = optimizations or []
    content = b""
    with quiet():
        try:
            content = converter.convert()
            codes = parse(content).operatorCodes
            custom = ", ".join(
                sorted(code.customCode.decode() for code in codes if code.customCode)
            )
        except Exception as error:
            # The converter explains at length how to allow such operators: report their names only.
            named = re.search(r"(?:TF Select|Flex|Custom) ops: ([^\n]+)", str(error))
            if named is None:
                raise
            custom = named[1].strip()
    if custom:
        raise ValueError(
            "Expected a network that TFLite's built-in operators can express, as phones have no "
            f"others. Received: one that needs {custom}"
        )
    return content


def _write(exported: ExportedModel, path: Path, content: bytes) -> None:
    model = parse(content)
    keep_properties(model, exported)
    _name_tensors(model, exported)
    path.write_bytes(serialize(model))
    text = json.dumps(inspect.describe(path), indent=2, ensure_ascii=False)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def _name_tensors(model: Any, exported: ExportedModel) -> None:
    """Name tensors after Keras layers and the signature, and add the metadata."""
    graph = model.subgraphs[0]
    names = LayerNames(exported)
    seen: dict[str, int] = {}
    for operator, layers in zip(graph.operators, names.of_operators(model), strict=True):
        if layers:
            name = ";".join(layers)
            seen[name] = seen.get(name, 0) + 1
            number = f":{seen[name]}" if seen[name] > 1 else ""
            graph.tensors[operator.outputs[0]].name = f"{name}{number}".encode()
    # Runtimes without support for signatures use the names of tensors.
    graph.tensors[graph.inputs[0]].name = IMAGE.encode()
    layers_of_outputs = {}
    # The outputs of the graph may have another order than those of the signature.
    for end in model.signatureDefs[0].outputs:
        graph.tensors[end.tensorIndex].name = end.name
        layers_of_outputs[end.name.decode()] = names.of_output(end.name.decode())
    further = {"pixels": _pixels(exported.model), "layers": layers_of_outputs}
    into_tflite(model, exported.info, further)


def _pixels(model: keras.Model) -> dict[str, Any]:
    """Return the description of the input's pixels and of their normalization in the graph."""
    known: dict[str, Any] = {"range": [0, 255], "layout": "NHWC"}
    if model.input_shape[-1] == 3:
        known["channels"] = "RGB"
    for network in (model, *(part for part in model.layers if isinstance(part, keras.Model))):
        layers = [layer for layer in network.layers if layer.name == "normalization"]
        if layers and layers[0].get_config().get("mean") is not None:
            mean, std = pixel_constants(network) or ([], [])
            return {**known, "normalization_in_graph": {"mean": mean, "std": std}}
        scaling = [x for x in network.layers if isinstance(x, keras.layers.Rescaling)]
        if scaling:
            pair = {key: np.asarray(getattr(scaling[0], key)) for key in ("scale", "offset")}
            values = {key: value.tolist() for key, value in pair.items()}
            return {**known, "normalization_in_graph": values}
    return known
