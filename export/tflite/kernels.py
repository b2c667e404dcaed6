"""Pruned and clustered kernels in TFLite files: what they were made for has to hold there."""

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
    """A kernel in a file, output channels first."""

    layer: str
    #: Those of the Keras layer, and those in the file, in the same shape.
    values: np.ndarray
    written: np.ndarray
    tensor: Any
    #: Index of its tensor; -1: there is none.
    bias: int


def keep_properties(model: Any, exported: ExportedModel) -> None:
    """Makes sure that zeros are zeros and clustered weights have few values in a file, too.

    In integers, every output channel has a step of its own, by its own largest weight; of shared
    values, that would make as many integers as there are channels. So all channels of a clustered
    kernel get the step of the largest one, before batch normalisation was folded into it. In float,
    the values are multiplied with the scale of each channel: there are few in each channel.

    Args:
        model: a TFLite model as objects, with the converter's names; it is changed.
        exported: what it was made from.

    Raises:
        ValueError: zeros are no zeros any more, or there are more values; the message says where.
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
                "others in the TFLite file"
            )
        if distinct is not None:
            # A channel whose normalisation has a scale of zero is all zeros.
            filled = written[written.any(axis=(1, 2, 3))] if written.any() else written
            if (found := distinct_values(filled)) > distinct:
                raise ValueError(
                    f"Expected at most {distinct} different weights in layer {kernel.layer!r}. "
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
    """Gives all channels of a kernel in integers the step of the largest one before folding.

    Returns the integers that are in the file then.
    """
    written, largest = kernel.written, np.abs(kernel.values).max(axis=(1, 2, 3))
    if not largest.any():
        return written
    scales = np.asarray(kernel.tensor.quantization.scale)
    if scales.size == 1:
        # One step for all already, and no folding.
        empty, factors = np.zeros(len(written), bool), np.ones(1)
    else:
        empty = (largest == 0) | ~written.any(axis=(1, 2, 3))
        factors = np.where(empty, 1.0, largest.max() / np.where(empty, 1.0, largest))
    new = np.round(kernel.values / largest.max() * _INT8_MAX)
    # Where a scale is negative after all, what follows tells.
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
