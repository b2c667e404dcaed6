"""TFLite: float32, float16, dynamic-range and integers, made of built-in operators only.

Every writer writes a JSON file beside the artifact, `model-int8.json` beside `model-int8.tflite`:
what `inspect.describe` says of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.export.metadata import into_tflite
from keras_resnet.export.source import IMAGE, SIGNATURE, ExportSource
from keras_resnet.export.tflite import inspect, quantize
from keras_resnet.export.tflite.dilation import fuse_dilated_convolutions
from keras_resnet.export.tflite.kernels import keep_properties
from keras_resnet.export.tflite.quantize import LayerNames, parse, serialize
from keras_resnet.export.tflite.ranges import with_ranges
from keras_resnet.support.quiet import quiet
from keras_resnet.weights.layers import pixel_constants


def write_float32(source: ExportSource, path: Path) -> None:
    """Writes weights and arithmetic in float32."""
    _write(source, path, _float_model(source))


def write_float16(source: ExportSource, path: Path) -> None:
    """Writes weights in float16; CPUs compute in float32, GPU delegates in float16."""
    converter = _converter(source)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    _write(source, path, _convert(converter))


def write_dynamic(source: ExportSource, path: Path) -> None:
    """Writes weights in int8; activations are quantized by their range in each image."""
    converter = _converter(source)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    _write(source, path, _convert(converter))


def write_int8(source: ExportSource, path: Path) -> None:
    """Writes weights and activations in int8; input and outputs are float32."""
    _write_int8(source, path, tf.float32)


def write_int8_io(source: ExportSource, path: Path) -> None:
    """The same with int8 input and outputs; the input is the pixels minus 128."""
    _write_int8(source, path, tf.int8)


def write_uint8_io(source: ExportSource, path: Path) -> None:
    """The same with uint8 input and outputs; the input is the pixels as they are.

    Raises:
        ValueError: as for the others, or the input's scale is not 1 or its zero point not 0.
    """
    _write_int8(source, path, tf.uint8)
    image = inspect.describe(path)["inputs"][0]
    if (image["dtype"], image["scale"], image["zero_point"]) != ("uint8", 1.0, 0):
        raise ValueError(
            "Expected an input that takes raw uint8 pixels: scale 1, zero point 0. Received: "
            f"{image['dtype']}, scale {image['scale']}, zero point {image['zero_point']}, from the "
            "converter. Export with int8 or float input instead"
        )


def write_int16x8(source: ExportSource, path: Path) -> None:
    """Writes weights in int8 and activations in int16; input and outputs are float32."""
    content = calibrated_model(source)
    keep = source.options.keep_float
    nodes = quantize.nodes_of(keep, parse(content), LayerNames(source))
    quantized = quantize.quantized_int16x8(content)
    if keep:
        quantized = quantize.with_float_operators(quantized, content, nodes)
    _write(source, path, quantized)
    _refuse_floats(path, keep)


def calibrated_model(source: ExportSource) -> bytes:
    """A float TFLite model with the ranges of its activations.

    Raises:
        ValueError: neither calibration images nor learned ranges are there, or an operator is not
            built in.
    """
    return source.cached("calibrated.tflite", lambda: with_ranges(source, _float_model(source)))


def _float_model(source: ExportSource) -> bytes:
    def make() -> bytes:
        model = parse(_convert(_converter(source)))
        fuse_dilated_convolutions(model)
        return serialize(model)

    return source.cached("float.tflite", make)


def _write_int8(source: ExportSource, path: Path, ends: Any) -> None:
    content = calibrated_model(source)
    keep = source.options.keep_float
    nodes = quantize.nodes_of(keep, parse(content), LayerNames(source))
    _write(source, path, quantize.quantized_int8(content, ends, nodes))
    _refuse_floats(path, keep)


def _refuse_floats(path: Path, keep: Sequence[str]) -> None:
    """An operator that has no integer form stays in float, silently."""
    found = [op for op in inspect.float_operators(path) if not set(keep) & set(op.layers)]
    if found:
        operators = ", ".join(sorted({item.operator for item in found}))
        layers = ", ".join(dict.fromkeys(layer for item in found for layer in item.layers))
        raise ValueError(
            "Expected a network whose operators all have integer forms in TFLite. Received: one "
            f"with {operators}, which would stay in float, in the layers {layers}. Name these in "
            "`keep_float`, or choose another precision"
        )


def _converter(source: ExportSource) -> Any:
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(source.saved_model), signature_keys=[SIGNATURE]
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter


def _convert(converter: Any) -> bytes:
    """Converts, and refuses what is no built-in operator: a plain mobile runtime has no other."""
    content = b""
    with quiet():
        try:
            content = converter.convert()
            custom = _custom_operators(content)
        except Exception as error:
            # The converter explains at length how to allow such operators; which ones they are is
            # what matters.
            named = re.search(r"(?:TF Select|Flex|Custom) ops: ([^\n]+)", str(error))
            if named is None:
                raise
            custom = named[1].strip()
    if custom:
        raise ValueError(
            "Expected a network that TFLite's built-in operators can express: a plain mobile "
            f"runtime has no other. Received: one that needs {custom}"
        )
    return content


def _custom_operators(content: bytes) -> str:
    codes = parse(content).operatorCodes
    return ", ".join(sorted(code.customCode.decode() for code in codes if code.customCode))


def _write(source: ExportSource, path: Path, content: bytes) -> None:
    path.write_bytes(_finished(content, source))
    text = json.dumps(inspect.describe(path), indent=2, ensure_ascii=False)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def _finished(content: bytes, source: ExportSource) -> bytes:
    """Names tensors after Keras layers and signature, and adds what is known about the model."""
    model = parse(content)
    keep_properties(model, source)
    graph = model.subgraphs[0]
    names = LayerNames(source)
    seen: dict[str, int] = {}
    for operator, layers in zip(graph.operators, names.of_operators(model), strict=True):
        if layers:
            name = ";".join(layers)
            seen[name] = seen.get(name, 0) + 1
            number = f":{seen[name]}" if seen[name] > 1 else ""
            graph.tensors[operator.outputs[0]].name = f"{name}{number}".encode()
    # Runtimes without signatures go by the graph's own names.
    graph.tensors[graph.inputs[0]].name = IMAGE.encode()
    layers_of_outputs = {}
    # The graph's outputs may be in another order than the signature's.
    for end in model.signatureDefs[0].outputs:
        graph.tensors[end.tensorIndex].name = end.name
        layers_of_outputs[end.name.decode()] = names.of_output(end.name.decode())
    into_tflite(model, source.info, {"pixels": _pixels(source.model), "layers": layers_of_outputs})
    return serialize(model)


def _pixels(model: keras.Model) -> dict[str, Any]:
    """What the input is, and how the graph normalises it."""
    known: dict[str, Any] = {"range": [0, 255], "layout": "NHWC"}
    if model.input_shape[-1] == 3:
        known["channels"] = "RGB"
    for network in (model, *(part for part in model.layers if isinstance(part, keras.Model))):
        layers = [layer for layer in network.layers if layer.name == "normalization"]
        if layers and layers[0].get_config().get("mean") is not None:
            mean, std = pixel_constants(network) or ([], [])
            return {**known, "normalisation_in_graph": {"mean": mean, "std": std}}
        scaling = [x for x in network.layers if isinstance(x, keras.layers.Rescaling)]
        if scaling:
            values = {key: np.asarray(getattr(scaling[0], key)) for key in ("scale", "offset")}
            values = {key: value.tolist() for key, value in values.items()}
            return {**known, "normalisation_in_graph": values}
    return known
