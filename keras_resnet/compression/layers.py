"""Layers with pruned, clustered or rounded kernels, and observed ranges of activations.

Loading a saved model with such layers needs this package; `strip` returns the plain model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import keras
import numpy as np
from keras import ops

#: Weights that share a quantization step: those of an output channel, or all of a kernel.
Rounding = Literal["channel", "tensor"]

#: Largest number of values that the weights of a layer can share, as indices are bytes.
MOST_VALUES = 256

#: Suffix of the name of an `ActivationRange`, after the name of the layer whose outputs it rounds.
RANGE_SUFFIX = "_range"

#: Smallest width of a range, so that float32 can divide by its step.
_SMALLEST = 1e-12

_register = keras.saving.register_keras_serializable(package="keras_resnet")


@_register
class ActivationRange(keras.layers.Layer):
    """Rounding of activations to the 256 values of int8 in a range that is observed in training.

    In training, the ends of the range move toward the smallest and largest activation of every
    batch; if both are 0, they become those of the batch. The range always includes 0, which is one
    of the 256 values. Gradients pass for activations within the range (Jacob et al. 2018,
    arXiv:1712.05877, section 3.1). The output has the shape of the input.

    Args:
        momentum: share of an end that is kept at every batch, in [0, 1).
        observing: whether the range changes in training, provided that the layer is trainable.
        **keywords: arguments of `keras.layers.Layer`.
    """

    def __init__(self, momentum: float = 0.99, observing: bool = True, **keywords: Any) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"Expected `momentum` in [0, 1). Received: {momentum}")
        super().__init__(**keywords)
        self.momentum = momentum
        # Separate from `trainable`, which `unfreeze` sets.
        self.observing = observing
        self.measured: tuple[float, float] | None = None

    def build(self, input_shape: Any) -> None:
        # Averaged over replicas, each of which sees a part of a batch.
        end = {"trainable": False, "dtype": "float32", "autocast": False, "aggregation": "mean"}
        self.low = self.add_weight((), "zeros", name="low", **end)
        self.high = self.add_weight((), "zeros", name="high", **end)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if self.measured is not None:
            values = np.asarray(ops.convert_to_numpy(inputs), np.float32)
            low, high = self.measured
            self.measured = min(low, float(values.min())), max(high, float(values.max()))
            return inputs
        low, high = ops.convert_to_tensor(self.low), ops.convert_to_tensor(self.high)
        if training and self.trainable and self.observing:
            values = ops.stop_gradient(ops.cast(inputs, "float32"))
            # An empty range would let no gradient pass for many batches.
            kept = self.momentum * ops.cast(low < high, "float32")
            low = self._moved(self.low, ops.minimum(ops.min(values), 0.0), kept)
            high = self._moved(self.high, ops.maximum(ops.max(values), 0.0), kept)
        return keras.quantizers.fake_quant_with_min_max_vars(
            inputs, low, ops.maximum(high, low + _SMALLEST)
        )

    def _moved(self, end: keras.Variable, value: Any, kept: Any) -> Any:
        moved = end * kept + value * (1 - kept)
        end.assign(moved)
        return moved

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {"momentum": self.momentum, "observing": self.observing}
        return {**super().get_config(), **own}


@contextmanager
def measuring(layers: Iterable[ActivationRange]) -> Iterator[None]:
    """Set ranges to those of the activations of all model calls inside the context.

    Inside the context, activations are not rounded, and the model has to be called directly:
    `model(images)`.
    """
    layers = list(layers)
    for layer in layers:
        layer.measured = (0.0, 0.0)
    try:
        yield
        for layer in layers:
            low, high = layer.measured or (0.0, 0.0)
            layer.low.assign(low)
            layer.high.assign(high)
    finally:
        for layer in layers:
            layer.measured = None


class _Compressed(keras.layers.Layer):
    """Mixin with a compressed kernel for a plain layer, which it comes before.

    A kernel is compressed in up to three steps: weights are replaced by a few shared values, some
    become zero, and all are rounded to int8 values. The steps are computed in float32; in mixed
    precision, the result is cast to the compute dtype of the layer.

    Args:
        pruned: pattern of the zeros in `mask`, which has the shape of the kernel; see `prune`.
            None: there is no mask.
        clusters: number of shared values, which are the weight `centroids`; the weight
            `assignments` contains their indices. 0: weights are not shared.
        rounding: weights that share a quantization step; None: weights are not rounded.
        observed: options of the `ActivationRange` that rounds the values before the activation;
            None: there is none.
        *arguments: arguments of the plain layer.
        **keywords: arguments of the plain layer.
    """

    def __init__(
        self,
        *arguments: Any,
        pruned: str | None = None,
        clusters: int = 0,
        rounding: Rounding | None = None,
        observed: Mapping[str, Any] | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(*arguments, **keywords)
        if clusters and not 2 <= clusters <= MOST_VALUES:
            raise ValueError(
                f"Expected from 2 to {MOST_VALUES} `clusters`, or 0. Received: {clusters}"
            )
        if rounding not in (None, *get_args(Rounding)):
            raise ValueError(
                f"Expected `rounding` 'channel', 'tensor' or None. Received: {rounding!r}"
            )
        self.pruned, self.clusters, self.rounding = pruned, clusters, rounding
        self.range = None
        if observed is not None:
            self.range = ActivationRange(name="range", dtype="float32", **observed)

    def add_weight(self, *arguments: Any, **keywords: Any) -> Any:
        # After a cast to half precision, a kernel would be rounded by another step than in its
        # artifact.
        return super().add_weight(*arguments, **keywords, autocast=False)

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        fixed = {"shape": self.kernel.shape, "trainable": False, "dtype": "uint8"}
        if self.pruned:
            self.mask = self.add_weight(initializer="ones", name="mask", **fixed)
        if self.clusters:
            # The shared values are trained, not the kernel.
            self.kernel.trainable = False
            self.centroids = self.add_weight((self.clusters,), "zeros", name="centroids")
            self.assignments = self.add_weight(initializer="zeros", name="assignments", **fixed)
        if self.range is not None:
            self.range.build(self.compute_output_shape(input_shape))

    @abstractmethod
    def _product(self, inputs: Any, kernel: Any) -> Any:
        """Return the output of the layer without bias and activation."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        kernel = ops.cast(self._compressed(self.kernel), self.compute_dtype)
        outputs = self._product(inputs, kernel)
        if self.use_bias:
            outputs = outputs + ops.cast(self.bias, outputs.dtype)
        if self.range is not None:
            outputs = self.range(outputs, training=training)
        return outputs if self.activation is None else self.activation(outputs)

    @keras.layers.Layer.trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Layer.trainable.fset(self, value)
        if self.built and self.clusters:
            self.kernel.trainable = False

    def save_own_variables(self, store: MutableMapping[str, Any]) -> None:
        # The methods of Keras' layers save only kernel and bias.
        for variable in self._own_variables():
            store[variable.name] = variable

    def load_own_variables(self, store: MutableMapping[str, Any]) -> None:
        for variable in self._own_variables():
            variable.assign(store[variable.name])

    def _own_variables(self) -> list[Any]:
        """Return the variables of the layer without those of its range, which Keras saves."""
        others = set() if self.range is None else {id(weight) for weight in self.range.weights}
        return [weight for weight in self.weights if id(weight) not in others]

    def _compressed(self, kernel: Any) -> Any:
        """Return the kernel after clustering, pruning and rounding."""
        kernel = self._shared_and_pruned(kernel)
        return kernel if self.rounding is None else _rounded(kernel, self.rounding)

    def _shared_and_pruned(self, kernel: Any) -> Any:
        if self.clusters:
            places = ops.cast(self.assignments, "int32")
            kernel = ops.cast(ops.take(self._values(places), places), kernel.dtype)
        if self.pruned:
            kernel = kernel * ops.cast(self.mask, kernel.dtype)
        return kernel

    def _values(self, places: Any) -> Any:
        """Return the centroids, with the mean instead of the sum of their weights' gradients.

        The sum over thousands of weights would give steps far too large for usual learning rates.
        The mean gives the step of the weights themselves, projected onto kernels with these shared
        values.
        """
        kept = ops.cast(self.mask, "float32") if self.pruned else ops.ones(places.shape)
        counts = ops.segment_sum(ops.ravel(kept), ops.ravel(places), self.clusters)
        fixed = ops.stop_gradient(self.centroids)
        return fixed + (self.centroids - fixed) / ops.maximum(ops.cast(counts, fixed.dtype), 1)

    def unrounded_kernel(self) -> np.ndarray:
        """Return the clustered and pruned kernel before rounding, float32."""
        kernel = ops.convert_to_tensor(self.kernel, "float32")
        return np.asarray(ops.convert_to_numpy(self._shared_and_pruned(kernel)))

    def final_kernel(self) -> np.ndarray:
        """Return the clustered, pruned and rounded kernel, float32."""
        kernel = ops.convert_to_tensor(self.kernel, "float32")
        return np.asarray(ops.convert_to_numpy(self._compressed(kernel)))

    def get_config(self) -> dict[str, Any]:
        own: dict[str, Any] = {
            "pruned": self.pruned,
            "clusters": self.clusters,
            "rounding": self.rounding,
            "observed": None,
        }
        if self.range is not None:
            # Keras saves neither for nested layers.
            names = ("momentum", "observing", "trainable")
            own["observed"] = {name: getattr(self.range, name) for name in names}
        return {**super().get_config(), **own}


def _rounded(kernel: Any, rounding: Rounding) -> Any:
    """Round a kernel to 255 values around 0, as in TFLite and ONNX."""
    axes = tuple(range(len(kernel.shape) - 1)) if rounding == "channel" else None
    # The largest weight is one of the values, so rounding again changes nothing.
    largest = ops.stop_gradient(ops.max(ops.abs(ops.cast(kernel, "float32")), axis=axes))
    largest = ops.maximum(largest, _SMALLEST)
    return keras.quantizers.fake_quant_with_min_max_vars(
        kernel, -largest, largest, narrow_range=True, axis=-1 if rounding == "channel" else None
    )


@_register
class CompressedConv2D(_Compressed, keras.layers.Conv2D):
    """A convolution with a compressed kernel `(height, width, channels per group, filters)`."""

    def _product(self, inputs: Any, kernel: Any) -> Any:
        return self.convolution_op(inputs, kernel)


@_register
class CompressedDense(_Compressed, keras.layers.Dense):
    """A dense layer with a compressed kernel `(inputs, units)`."""

    def _product(self, inputs: Any, kernel: Any) -> Any:
        return ops.matmul(inputs, kernel)


#: Plain layer class -> compressed layer class.
KINDS: dict[type, type] = {
    keras.layers.Conv2D: CompressedConv2D,
    keras.layers.Dense: CompressedDense,
}


def compressed_layers(model: keras.Model) -> Sequence[Any]:
    """Return the layers with compressed kernels, in the order of the network."""
    return [layer for layer in model.layers if isinstance(layer, _Compressed)]


def ranges(model: keras.Model) -> dict[str, ActivationRange]:
    """Return the observed ranges by the names of the layers whose activations they round."""
    found: dict[str, ActivationRange] = {}
    for layer in model.layers:
        if isinstance(layer, ActivationRange):
            found[layer.name.removesuffix(RANGE_SUFFIX)] = layer
        elif isinstance(layer, _Compressed) and layer.range is not None:
            found[layer.name] = layer.range
    return found
