"""TFLite: float32, float16, dynamic-range and full int8, made of built-in operators only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.lite.tools import flatbuffer_utils

from keras_resnet.export.signature import IMAGE, SIGNATURE, ExportSource
from keras_resnet.quiet import quiet


def write_float32(source: ExportSource, path: Path) -> None:
    """Writes weights and arithmetic in float32."""
    _write(source, path, _converter(source))


def write_float16(source: ExportSource, path: Path) -> None:
    """Writes weights in float16; CPUs compute in float32, GPU delegates in float16."""
    converter = _converter(source)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    _write(source, path, converter)


def write_dynamic(source: ExportSource, path: Path) -> None:
    """Writes weights in int8; activations are quantized on the fly, by their range in each image."""
    converter = _converter(source)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    _write(source, path, converter)


def write_int8(source: ExportSource, path: Path) -> None:
    """Writes weights and activations in int8 with ranges from the calibration images; input and output stay float."""
    images = source.calibration
    if images is None:
        raise ValueError("Expected calibration images for int8. Received: none")

    def representative_images() -> Iterator[dict[str, Any]]:
        for image in images:
            yield {IMAGE: image[None]}

    converter = _converter(source)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative_images
    # Without this an operator that has no integer form would stay in float, silently.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    _write(source, path, converter)


def _converter(source: ExportSource) -> Any:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(source.saved_model), signature_keys=[SIGNATURE])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter


def _write(source: ExportSource, path: Path, converter: Any) -> None:
    with quiet():
        content = converter.convert()
    _refuse_custom_operators(content)
    path.write_bytes(_named(content, source.output_name))


def _refuse_custom_operators(content: bytes) -> None:
    """A mobile runtime has the built-in operators only; Flex operators would need TensorFlow inside the app."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    custom = sorted(code.customCode.decode() for code in model.operatorCodes if code.customCode)
    if custom:
        raise ValueError(
            f"Expected a network of built-in TFLite operators. Received: {', '.join(custom)}, which no plain mobile "
            "runtime has"
        )


def _named(content: bytes, output: str) -> bytes:
    """Names the graph's own input and output tensors like the signature's, for runtimes that know no signatures."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].name = IMAGE.encode()
    graph.tensors[graph.outputs[0]].name = output.encode()
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
