"""Check that pruned and clustered kernels keep their properties in TFLite files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_resnet.export.model import ExportedModel
from keras_resnet.export.tflite.flatbuffer import builtin, constant, set_constant
from keras_resnet.export.tflite.inspect import distinct_values, kernel_index
from keras_resnet.export.tflite.layers import LayerNames
from keras_resnet.export.tflite.private import BuiltinOperator
from keras_resnet.models.info import KernelProperty, compressed_kernels

_INT8_MAX = 127


class _Kernel(NamedTuple):
    """Kernel in a file.

    Attributes:
        layer: name of the Keras layer.
        values: values in the Keras layer, with output channels first.
        written: values in the file, of the same shape.
        tensor: tensor in the file.
        bias: index of the bias tensor; -1 if there is none.
    """

    layer: str
    values: np.ndarray
    written: np.ndarray
    tensor: Any
    bias: int


def keep_properties(model: Any, exported: ExportedModel) -> None:
    """Keep the zeros of pruned kernels and the few distinct weights of clustered kernels in a file.

    In integers, each output channel has a scale of its own, from its largest weight. A weight that
    the channels of a clustered kernel share would become as many integers as there are channels.
    Therefore all channels get the scale of the largest one, from before batch normalization was
    folded into the kernel. In float, folding multiplies each channel by a factor, so that the
    number of distinct weights holds for each channel.

    Args:
        model: TFLite model as objects, with the converter's names; changed in place.
        exported: the exported model.

    Raises:
        ValueError: a zero has become another number, or a kernel has more distinct weights. The
            message names the layer.
    """
    wanted = dict(compressed_kernels(exported.model))
    for kernel in _kernels(model, exported):
        distinct = wanted.pop(kernel.layer, KernelProperty(None, 0)).distinct
        written = kernel.written
        if distinct is not None and written.dtype == np.int8:
            written = _share_steps(model, kernel)
        lost = np.count_nonzero(written[kernel.values == 0])
        if lost:
            raise ValueError(
                f"Expected the zeros of layer {kernel.layer!r} to stay zeros. Received: {lost:,} "
                "other numbers in the TFLite file"
            )
        if distinct is not None:
            # A channel whose normalization has a scale of zero is all zeros.
            filled = written[written.any(axis=(1, 2, 3))] if written.any() else written
            if (found := distinct_values(filled)) > distinct:
                raise ValueError(
                    f"Expected at most {distinct} distinct weights in layer {kernel.layer!r}. "
                    f"Received: {found} in the TFLite file"
                )
    if wanted:
        raise ValueError(
            "Expected an operator in the TFLite file for every pruned or clustered layer, to check "
            f"its weights. Received: none for {', '.join(wanted)}"
        )


def _kernels(model: Any, exported: ExportedModel) -> Iterator[_Kernel]:
    graph = model.subgraphs[0]
    known = {layer.name: layer for layer in exported.model.layers if hasattr(layer, "kernel")}
    names = LayerNames(exported).of_operators(model)
    for operator, layers in zip(graph.operators, names, strict=True):
        if builtin(model, operator) not in (
            BuiltinOperator.CONV_2D,
            BuiltinOperator.FULLY_CONNECTED,
        ):
            continue
        index = kernel_index(model, operator)
        written = constant(model, index)
        found = [known[layer] for layer in layers if layer in known]
        if len(found) != 1 or written is None:
            continue
        kernel = np.asarray(keras.ops.convert_to_numpy(found[0].kernel), np.float32)
        values = _four_sides(np.moveaxis(kernel, -1, 0))
        if values.size != written.size:
            continue
        bias = int(operator.inputs[2]) if len(operator.inputs) > 2 else -1
        written = _four_sides(written)
        yield _Kernel(found[0].name, values, written, graph.tensors[index], bias)


def _four_sides(kernel: np.ndarray) -> np.ndarray:
    return kernel if kernel.ndim == 4 else kernel.reshape(len(kernel), 1, 1, -1)


def _share_steps(model: Any, kernel: _Kernel) -> np.ndarray:
    """Give all channels of an integer kernel the scale of the largest one before folding.

    Return the new integers in the file.
    """
    written, largest = kernel.written, np.abs(kernel.values).max(axis=(1, 2, 3))
    if not largest.any():
        return written
    scales = np.asarray(kernel.tensor.quantization.scale)
    if scales.size == 1:
        # All channels share a scale already, and nothing was folded.
        empty, factors = np.zeros(len(written), bool), np.ones(1)
    else:
        empty = (largest == 0) | ~written.any(axis=(1, 2, 3))
        factors = np.where(empty, 1.0, largest.max() / np.where(empty, 1.0, largest))
    new = np.round(kernel.values / largest.max() * _INT8_MAX)
    # Batch normalization with a negative scale has changed the sign of a channel.
    new *= np.where((written * kernel.values).sum(axis=(1, 2, 3), keepdims=True) < 0, -1, 1)
    new[empty] = 0
    integers = new.astype(np.int8)
    set_constant(model, kernel.tensor, integers)
    kernel.tensor.quantization.scale = (scales * factors).astype(np.float32)
    values = constant(model, kernel.bias)
    if values is not None and values.dtype != np.float32 and scales.size > 1:
        bias = model.subgraphs[0].tensors[kernel.bias]
        set_constant(model, bias, np.round(values / factors).astype(values.dtype))
        bias.quantization.scale = (np.asarray(bias.quantization.scale) * factors).astype(np.float32)
    return integers
