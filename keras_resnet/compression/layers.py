"""Layers whose kernels are pruned, clustered or rounded while they train, and observed ranges.

Saved models with them need this package; `strip` gives the plain model back.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import keras
import numpy as np
from keras import ops

#: Which weights share a step: those of an output channel, or all of a kernel.
Rounding = Literal["channel", "tensor"]

#: The most values that the weights of a layer can share: their numbers are bytes.
MOST_VALUES = 256

#: Of the name of an `ActivationRange`, behind that of the layer whose outputs it rounds.
RANGE_SUFFIX = "_range"

#: Below it, a step would be no number that float32 can divide by.
_SMALLEST = 1e-12

_register = keras.saving.register_keras_serializable(package="keras_resnet")


@_register
class ActivationRange(keras.layers.Layer):
    """Rounds activations to the 256 values that int8 has between two ends, which it observes.

    In training, the ends move toward the smallest and largest activation of every batch, and are
    those of the first batch if they were both 0; 0 is always between them, and one of the 256
    values. Gradients pass within the ends (Jacob et al.
    2018, arXiv:1712.05877, section 3.1). The shape stays as it is.

    Args:
        momentum: share of an end that stays at every batch.
        observing: whether the ends move in training, if the layer is trainable.
        **keywords: those of `keras.layers.Layer`.
    """

    def __init__(self, momentum: float = 0.99, observing: bool = True, **keywords: Any) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"Expected `momentum` in [0, 1). Received: {momentum}")
        super().__init__(**keywords)
        self.momentum = momentum
        # Apart from `trainable`, which whoever thaws a network sets.
        self.observing = observing
        self.measured: tuple[float, float] | None = None

    def build(self, input_shape: Any) -> None:
        # The mean, as replicas see parts of a batch.
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
            # With nothing between the ends, no gradient would pass for many batches.
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
    """Meanwhile, ranges let activations through as they are; then they are what they have seen.

    The model has to be called as a function, `model(images)`.
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
    """Common base of both kinds of layers with kernels; it comes before the plain layer.

    A kernel goes through three steps, each of which may be left out: its values become those of a
    few shared ones, some become zero, all are rounded to int8. All of that is in float32; in mixed
    precision, what comes out is cast to the layer's compute dtype.

    Args:
        pruned: pattern in which the `mask`, of the kernel's shape, has its zeros, see `prune`;
            None: there is no mask.
        clusters: how many values the weights share, `centroids`; `assignments` has their numbers.
            0: weights have values of their own.
        rounding: whether weights are rounded to int8, and which share a step.
        observed: options of the `ActivationRange` that rounds what comes before the activation;
            None: there is none.
        *arguments: those of the plain layer.
        **keywords: likewise.
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
        # A kernel that was cast to half precision first would be rounded by another step than that
        # of its artifact.
        return super().add_weight(*arguments, **keywords, autocast=False)

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        fixed = {"shape": self.kernel.shape, "trainable": False, "dtype": "uint8"}
        if self.pruned:
            self.mask = self.add_weight(initializer="ones", name="mask", **fixed)
        if self.clusters:
            # What trains are the values that the kernel shares, not the kernel.
            self.kernel.trainable = False
            self.centroids = self.add_weight((self.clusters,), "zeros", name="centroids")
            self.assignments = self.add_weight(initializer="zeros", name="assignments", **fixed)
        if self.range is not None:
            self.range.build(self.compute_output_shape(input_shape))

    @abstractmethod
    def _product(self, inputs: Any, kernel: Any) -> Any:
        """Return the layer's output without bias and activation."""

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
        # The methods of Keras' own layers know the kernel and the bias only.
        for variable in self._own_variables():
            store[variable.name] = variable

    def load_own_variables(self, store: MutableMapping[str, Any]) -> None:
        for variable in self._own_variables():
            variable.assign(store[variable.name])

    def _own_variables(self) -> list[Any]:
        """Return the variables of the layer itself; Keras saves those of its range apart."""
        others = set() if self.range is None else {id(weight) for weight in self.range.weights}
        return [weight for weight in self.weights if id(weight) not in others]

    def _compressed(self, kernel: Any) -> Any:
        """Return the kernel that the layer computes with, of the shape and dtype of `kernel`."""
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
        """Return the centroids, which learn from the means of what their weights would learn.

        The gradient of a shared value is the sum over its weights, thousands of them: steps that no
        learning rate for weights is made for. With the mean, a step is that of the weights
        themselves, projected onto the kernels with these shared values.
        """
        kept = ops.cast(self.mask, "float32") if self.pruned else ops.ones(places.shape)
        counts = ops.segment_sum(ops.ravel(kept), ops.ravel(places), self.clusters)
        fixed = ops.stop_gradient(self.centroids)
        return fixed + (self.centroids - fixed) / ops.maximum(ops.cast(counts, fixed.dtype), 1)

    def unrounded_kernel(self) -> np.ndarray:
        """Return the layer's own kernel, clustered and pruned, but not rounded; float32."""
        kernel = ops.convert_to_tensor(self.kernel, "float32")
        return np.asarray(ops.convert_to_numpy(self._shared_and_pruned(kernel)))

    def final_kernel(self) -> np.ndarray:
        """Return the kernel that the layer computes with, float32."""
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
            # Keras writes down neither for layers within layers.
            names = ("momentum", "observing", "trainable")
            own["observed"] = {name: getattr(self.range, name) for name in names}
        return {**super().get_config(), **own}


def _rounded(kernel: Any, rounding: Rounding) -> Any:
    """Round to 255 values around 0, as weights are stored in TFLite and ONNX."""
    axes = tuple(range(len(kernel.shape) - 1)) if rounding == "channel" else None
    # The largest weight is one of the values, so that rounding anew changes nothing.
    largest = ops.stop_gradient(ops.max(ops.abs(ops.cast(kernel, "float32")), axis=axes))
    largest = ops.maximum(largest, _SMALLEST)
    return keras.quantizers.fake_quant_with_min_max_vars(
        kernel, -largest, largest, narrow_range=True, axis=-1 if rounding == "channel" else None
    )


@_register
class CompressedConv2D(_Compressed, keras.layers.Conv2D):
    """A convolution, grouped or not, with a compressed kernel `(height, width, channels, filters)`.

    `channels` are those of one group.
    """

    def _product(self, inputs: Any, kernel: Any) -> Any:
        return self.convolution_op(inputs, kernel)


@_register
class CompressedDense(_Compressed, keras.layers.Dense):
    """A dense layer with a compressed kernel `(inputs, units)`."""

    def _product(self, inputs: Any, kernel: Any) -> Any:
        return ops.matmul(inputs, kernel)


#: Plain layer -> compressed one.
KINDS: dict[type, type] = {
    keras.layers.Conv2D: CompressedConv2D,
    keras.layers.Dense: CompressedDense,
}


def compressed_layers(model: keras.Model) -> Sequence[Any]:
    """Return the layers of a model whose kernels are compressed, in the order of the network."""
    return [layer for layer in model.layers if isinstance(layer, _Compressed)]


def ranges(model: keras.Model) -> dict[str, ActivationRange]:
    """Return the observed ranges of a model by the names of the layers whose activations they are of."""
    found: dict[str, ActivationRange] = {}
    for layer in model.layers:
        if isinstance(layer, ActivationRange):
            found[layer.name.removesuffix(RANGE_SUFFIX)] = layer
        elif isinstance(layer, _Compressed) and layer.range is not None:
            found[layer.name] = layer.range
    return found
