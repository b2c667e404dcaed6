"""TFLite: float32, float16, dynamic-range and full int8, made of built-in operators only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.lite.tools import flatbuffer_utils

from keras_resnet.export.metadata import into_tflite
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
    """Writes weights in int8; activations are quantized by their range in each image."""
    converter = _converter(source)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    _write(source, path, converter)


def write_int8(source: ExportSource, path: Path) -> None:
    """Writes weights and activations in int8; input and output stay float."""
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
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(source.saved_model), signature_keys=[SIGNATURE]
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter


def _write(source: ExportSource, path: Path, converter: Any) -> None:
    path.write_bytes(_finished(_convert(converter), source))


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
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    return ", ".join(
        sorted(code.customCode.decode() for code in model.operatorCodes if code.customCode)
    )


def _finished(content: bytes, source: ExportSource) -> bytes:
    """Names the graph's own ends like the signature's, for runtimes without signatures."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].name = IMAGE.encode()
    # The graph's outputs may be in another order than the signature's.
    for end in model.signatureDefs[0].outputs:
        graph.tensors[end.tensorIndex].name = end.name
    into_tflite(model, source.info)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
