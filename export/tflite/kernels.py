"""Pruned and clustered kernels in TFLite files: what they were made for has to hold there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from keras_resnet.compression.fusion import fused_groups
from keras_resnet.export.source import ExportSource
from keras_resnet.export.tflite.quantize import LayerNames, builtin, is_constant
from keras_resnet.models.info import KernelProperty, compressed_kernels

_OPS = schema.BuiltinOperator
_TYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
}
_INT8_MAX = 127


@dataclass(frozen=True)
class _Kernel:
    """A kernel in a file.

    Attributes:
        layer: the Keras layer.
        values: of the Keras layer, output channels first, as in the file.
        tensor: in the file.
        bias: in the file; None: there is none.
    """

    layer: str
    values: np.ndarray
    tensor: Any
    bias: Any | None


def keep_properties(model: Any, source: ExportSource) -> None:
    """Makes sure that zeros are zeros and clustered weights have few values in a file, too.

    In integers, every output channel has a step of its own, by its own largest weight; of shared
    values, that would make as many integers as there are channels. So all channels of a clustered
    kernel get the step of the largest one, before batch normalisation was folded into it. In float,
    the values are multiplied with the scale of each channel: there are few in each channel.

    Args:
        model: a TFLite model as objects, with the converter's names; it is changed.
        source: what it was made from.

    Raises:
        ValueError: zeros are no zeros any more, or there are more values; the message says where.
    """
    wanted = dict(compressed_kernels(source.model))
    for kernel in _kernels(model, source):
        distinct = wanted.pop(kernel.layer, KernelProperty(None, 0)).distinct
        if distinct is not None and kernel.tensor.type == schema.TensorType.INT8:
            _share_steps(model, kernel)
        written = _array(model, kernel.tensor)
        lost = np.count_nonzero(written[kernel.values == 0])
        if lost:
            raise ValueError(
                f"Expected the zeros of layer {kernel.layer!r} to stay zeros. Received: {lost:,} "
                "others in the TFLite file"
            )
        if distinct is not None:
            # A channel whose normalisation has a scale of zero is all zeros.
            found = _most_values(written[written.any(axis=(1, 2, 3))] if written.any() else written)
            if found > distinct:
                raise ValueError(
                    f"Expected at most {distinct} different weights in layer {kernel.layer!r}. "
                    f"Received: {found} in the TFLite file"
                )
    if wanted:
        raise ValueError(
            "Expected an operator in the TFLite file for every pruned or clustered layer, to check "
            f"its weights. Received: none for {', '.join(wanted)}"
        )


def _most_values(written: np.ndarray) -> int:
    """Of integers, how many there are; of floats, the most in a channel."""
    if written.dtype == np.int8:
        return len(np.unique(written))
    return max(len(np.unique(channel)) for channel in written)


def _kernels(model: Any, source: ExportSource) -> Iterator[_Kernel]:
    graph = model.subgraphs[0]
    names = LayerNames(source)
    known = {layer.name: layer for layer in source.model.layers if hasattr(layer, "kernel")}
    made = {int(operator.outputs[0]): operator for operator in graph.operators}
    groups = fused_groups(source.model) if len(known) and _is_flat(source.model) else {}
    for operator, layers in zip(graph.operators, names.of_operators(model), strict=True):
        if builtin(model, operator) not in (_OPS.CONV_2D, _OPS.FULLY_CONNECTED):
            continue
        tensor = graph.tensors[operator.inputs[1]]
        before = made.get(int(operator.inputs[1]))
        if before is not None and builtin(model, before) == _OPS.DEQUANTIZE:
            # Half precision.
            tensor = graph.tensors[before.inputs[0]]
        found = [known[layer] for layer in layers if layer in known]
        if not found:
            # Of a grouped convolution, the name of its ReLU may be all that is left.
            found = [known[x] for layer in layers for x in groups.get(layer, ()) if x in known]
        if len(found) != 1 or not is_constant(model, tensor) or tensor.type not in _TYPES:
            continue
        values = _channels_first(found[0])
        if values.size != np.prod(tensor.shape):
            continue
        bias = None
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            bias = graph.tensors[operator.inputs[2]]
        yield _Kernel(found[0].name, values, tensor, bias)


def _is_flat(model: keras.Model) -> bool:
    nested = any(isinstance(layer, keras.Model) for layer in model.layers)
    return hasattr(model, "operations") and not nested


def _channels_first(layer: Any) -> np.ndarray:
    kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float32)
    kernel = np.moveaxis(kernel, -1, 0)
    return kernel.reshape(len(kernel), 1, 1, -1) if kernel.ndim == 2 else kernel


def _array(model: Any, tensor: Any) -> np.ndarray:
    data = np.frombuffer(bytes(model.buffers[tensor.buffer].data), _TYPES[tensor.type])
    shape = [int(side) for side in tensor.shape]
    return data.reshape(shape if len(shape) == 4 else (shape[0], 1, 1, -1))


def _share_steps(model: Any, kernel: _Kernel) -> None:
    """Gives all channels of a kernel in integers the step of the largest one before folding."""
    largest = np.abs(kernel.values).max(axis=(1, 2, 3))
    if not largest.any():
        return
    written, scales = _array(model, kernel.tensor), np.asarray(kernel.tensor.quantization.scale)
    empty = (largest == 0) | ~written.any(axis=(1, 2, 3))
    factors = np.where(empty, 1.0, largest.max() / np.where(empty, 1.0, largest))
    if scales.size == 1:
        # One step for all already, and no folding.
        factors = np.ones(1)
        empty = np.zeros(len(written), bool)
    new = np.round(kernel.values / largest.max() * _INT8_MAX)
    # Where a scale is negative after all, what follows tells.
    new *= np.where((written * kernel.values).sum(axis=(1, 2, 3), keepdims=True) < 0, -1, 1)
    new[empty] = 0
    model.buffers[kernel.tensor.buffer].data = _bytes(new.astype(np.int8))
    kernel.tensor.quantization.scale = (scales * factors).astype(np.float32)
    bias = kernel.bias
    if bias is not None and bias.type != schema.TensorType.FLOAT32 and scales.size > 1:
        values = np.frombuffer(bytes(model.buffers[bias.buffer].data), _TYPES[bias.type])
        model.buffers[bias.buffer].data = _bytes(np.round(values / factors).astype(values.dtype))
        bias.quantization.scale = (np.asarray(bias.quantization.scale) * factors).astype(np.float32)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.frombuffer(values.tobytes(), np.uint8)
