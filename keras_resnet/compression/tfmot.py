"""Compression of the tf_keras twin of a network by tensorflow-model-optimization.

tensorflow-model-optimization wraps the layers of the twin, the caller trains it, and the result is
a Keras 3 network with the compressed layers of this package, for `strip` and `export`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_resnet.compression.clustering import cluster, with_positive_scales
from keras_resnet.compression.fusion import fused_groups
from keras_resnet.compression.layers import ranges
from keras_resnet.compression.pruning import prune
from keras_resnet.compression.quantization import quantize_aware
from keras_resnet.compression.rebuild import kernels, with_options
from keras_resnet.compression.twin import copy_from_twin, to_tf_keras
from keras_resnet.models.info import compressed_kernels
from keras_resnet.support.extras import require

_LEGACY = "TF_USE_LEGACY_KERAS"

#: Layers that it does not support by default: those with a range of their outputs only, and those
#: without any.
_OUTPUT_ONLY, _UNTOUCHED = ("Normalization", "Rescaling"), ("keras_resnet>Pad", "Pad")

#: Prefixes of the variables of its wrappers that may contain an output range, the best one first.
_RANGES = ("output", "post_activation", "pre_activation")

#: End of the messages that refuse a network or an option.
REMEDY = "Use the native engine, which supports it"


def load_tfmot() -> Any:
    """Import tensorflow-model-optimization without changing `tf.keras`.

    The import sets `TF_USE_LEGACY_KERAS`, which makes `tf.keras` Keras 2 in child processes, and in
    this process if nothing has used it yet.

    Raises:
        ImportError: If tensorflow-model-optimization or tf_keras is not installed.
    """
    import tensorflow as tf

    require("tf_keras")
    _ = tf.keras.Model  # Loaded at its first use; from now on, it is Keras 3.
    before = os.environ.get(_LEGACY)
    try:
        return require("tensorflow_model_optimization")
    finally:
        if before is None:
            os.environ.pop(_LEGACY, None)
        else:
            os.environ[_LEGACY] = before


class TfmotNetwork:
    """A network with a twin that tensorflow-model-optimization has wrapped for training.

    Attributes:
        twin: the wrapped `tf_keras` model, which returns logits.
        positive: names of the batch normalization layers whose scales must not become negative.
        callback: a callback for the training loop, which calls `on_train_begin` before the first
            step and `on_epoch_end` after the last; None: there is none.
    """

    def __init__(
        self,
        model: keras.Model,
        wrap: Callable[[Any], Any],
        back: Callable[[TfmotNetwork], keras.Model],
        *,
        logits: keras.Model,
        positive: Sequence[str] = (),
        callback: Any = None,
    ) -> None:
        self._model, self._back = model, back
        self.positive, self.callback = frozenset(positive), callback
        try:
            self.twin = wrap(to_tf_keras(logits))
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                "Expected a network that tensorflow-model-optimization can compress. Received: "
                f"{model.name!r} ({' '.join(str(error).split())}). {REMEDY}"
            ) from error
        if callback is not None:
            callback.set_model(self.twin)

    def to_keras(self) -> keras.Model:
        """Return the twin as a Keras 3 network with compressed layers."""
        return self._back(self)

    def round_kernels(self) -> None:
        """Update the ranges of kernels, which otherwise lag behind by a step of training."""
        import tensorflow as tf

        values = {place_of(weight): weight for weight in self.twin.weights}
        for place, low in values.items():
            layer, _, name = place.rpartition("/")
            if name == "kernel_min":
                kernel = values[f"{layer.removeprefix('quant_')}/kernel"]
                axes = list(range(len(kernel.shape) - 1)) if low.shape.rank else None
                largest = tf.reduce_max(tf.abs(kernel), axes)
                low.assign(-largest)
                values[f"{layer}/kernel_max"].assign(largest)

    def plain(self, stripped: Any) -> keras.Model:
        """Return a copy of the plain network with the weights of a stripped twin."""
        copy = with_options(self._model, {})
        copy_from_twin(stripped, copy)
        return copy


def pruning_network(
    model: keras.Model,
    logits: Callable[[keras.Model], keras.Model],
    sparsity: float,
    end: int,
    *,
    every: int = 1,
    skip: Sequence[str] = (),
) -> TfmotNetwork:
    """Prepare pruning of single weights with `PolynomialDecay`, the schedule of `GradualPruning`.

    Args:
        model: a plain network with trained weights; it is not changed.
        logits: function that returns a copy of a plain network with logits as outputs.
        sparsity: final share of zeros in every kernel, in [0, 1).
        end: step at which the final share is reached, a multiple of `every`.
        every: steps between two updates of the masks.
        skip: names of layers that are not pruned.

    Raises:
        ValueError: If the twin cannot be made.
        ImportError: If a package is not installed.
    """
    _refuse_compressed(model)
    api = load_tfmot().sparsity.keras
    schedule = api.PolynomialDecay(0.0, sparsity, begin_step=0, end_step=end, frequency=every)

    def wrapped(layer: Any) -> Any:
        return api.prune_low_magnitude(layer, pruning_schedule=schedule)

    def back(network: TfmotNetwork) -> keras.Model:
        # With a sparsity of 0, masks cover exactly the weights that are zero.
        return prune(network.plain(api.strip_pruning(network.twin)), 0, skip=skip)

    return TfmotNetwork(
        model,
        lambda twin: _with_wrapped_kernels(twin, wrapped, skip),
        back,
        logits=logits(model),
        callback=api.UpdatePruningStep(),
    )


def clustering_network(
    model: keras.Model,
    logits: Callable[[keras.Model], keras.Model],
    clusters: int,
    *,
    skip: Sequence[str] = (),
) -> TfmotNetwork:
    """Prepare clustering, initialized with equidistant values, with mean gradients.

    As in `cluster`, scales of batch normalization after clustered layers are made non-negative
    first. Arguments and errors are those of `pruning_network`; `clusters` is from 2 to 256.
    """
    _refuse_compressed(model)
    load_tfmot()
    wrapper = require("tensorflow_model_optimization.python.core.clustering.keras.cluster_wrapper")
    api = load_tfmot().clustering.keras
    names = [layer.name for layer in kernels(model) if layer.name not in skip]
    model, norms = with_positive_scales(model, names)

    def wrapped(layer: Any) -> Any:
        if np.prod(layer.kernel.shape) <= clusters:
            return layer  # It has no more weights than that.
        return wrapper.ClusterWeights(
            layer,
            clusters,
            api.CentroidInitialization.LINEAR,
            # The sum over thousands of weights would give steps far too large.
            cluster_gradient_aggregation=wrapper.GradientAggregation.AVG,
        )

    def back(network: TfmotNetwork) -> keras.Model:
        # There are no more values than clusters, so they do not change.
        return cluster(network.plain(api.strip_clustering(network.twin)), clusters, skip=skip)

    return TfmotNetwork(
        model,
        lambda twin: _with_wrapped_kernels(twin, wrapped, skip),
        back,
        logits=logits(model),
        positive=norms,
    )


def quantizing_network(
    model: keras.Model, logits: Callable[[keras.Model], keras.Model], images: np.ndarray
) -> TfmotNetwork:
    """Prepare quantization-aware training with the default 8-bit scheme.

    Ranges of activations are initialized with `images`, as in `quantize_aware`. From the default
    ranges of tensorflow-model-optimization, -6 to 6, adapting them would take thousands of steps.
    The learned ranges become those of the resulting network.

    Args:
        model: as in `pruning_network`.
        logits: as in `pruning_network`.
        images: as in `quantize_aware`.

    Raises:
        ValueError: If tensorflow-model-optimization does not support a layer, such as batch
            normalization that does not follow a convolution, as in v2.
        ImportError: If a package is not installed.
    """
    _refuse_compressed(model)
    aware = quantize_aware(model, images)
    alone = [name for group in fused_groups(model).values() for name in group[:1]]
    norms = [x for x in map(model.get_layer, alone) if "Normalization" in type(x).__name__]
    if norms := [x.name for x in norms if isinstance(x, keras.layers.BatchNormalization)]:
        raise ValueError(
            "Expected a network in which batch normalization follows convolutions only, as in v1, "
            "for quantization-aware training by tensorflow-model-optimization. Received: "
            f"{model.name!r}, in which {norms[0]} does not. {REMEDY}"
        )

    def back(network: TfmotNetwork) -> keras.Model:
        values = {place_of(weight): weight for weight in network.twin.weights}
        _assign(aware, values)
        for name, ends in _ends(network.twin, ranges(aware)).items():
            ranges(aware)[name].low.assign(ends[0].numpy())
            ranges(aware)[name].high.assign(ends[1].numpy())
        return with_options(aware, {})

    network = TfmotNetwork(model, _quantized, back, logits=logits(model))
    found = _ends(network.twin, ranges(aware))
    if missing := sorted(ranges(aware).keys() - found.keys()):
        raise ValueError(
            "Expected a network in which tensorflow-model-optimization learns a range for every "
            f"tensor of int8 files. Received: {model.name!r}, where it has none for "
            f"{', '.join(missing)}. {REMEDY}"
        )
    for name, (low, high) in found.items():
        low.assign(np.asarray(ranges(aware)[name].low))
        high.assign(np.asarray(ranges(aware)[name].high))
    # Images are rounded, too, but within these ends 8 bits represent them exactly.
    outside = [layer for layer in network.twin.layers if type(layer).__name__ == "QuantizeLayer"]
    for weight in (weight for layer in outside for weight in layer.weights):
        if weight.name.endswith(("_min:0", "_max:0")):
            is_high = weight.name.endswith("_max:0")
            weight.assign(images.max() if is_high else min(0, images.min()))
    network.round_kernels()
    return network


def _refuse_compressed(model: keras.Model) -> None:
    if compressed_kernels(model):
        raise ValueError(
            "Expected a network without zeros or shared values from an earlier compression, which "
            f"tensorflow-model-optimization would lose. Received: {model.name!r}. {REMEDY}"
        )


def _with_wrapped_kernels(twin: Any, wrapped: Callable[[Any], Any], skip: Sequence[str]) -> Any:
    """Return the twin with all convolutions and dense layers except `skip` wrapped."""
    tf_keras = require("tf_keras")
    kinds = (tf_keras.layers.Conv2D, tf_keras.layers.Dense)

    def chosen(layer: Any) -> Any:
        # DepthwiseConv2D is a subclass of Conv2D without a `kernel`.
        has_kernel = type(layer) in kinds and layer.name not in skip
        return wrapped(layer) if has_kernel else layer

    return tf_keras.models.clone_model(twin, clone_function=chosen)


def _quantized(twin: Any) -> Any:
    load_tfmot()
    place = "tensorflow_model_optimization.python.core.quantization.keras"
    configs = require(f"{place}.default_8bit.default_8bit_quantize_configs")
    api = load_tfmot().quantization.keras
    tf_keras = require("tf_keras")

    def annotated(layer: Any) -> Any:
        kind, config = type(layer).__name__, None
        if kind in _OUTPUT_ONLY:
            config = configs.Default8BitOutputQuantizeConfig()
        elif kind in _UNTOUCHED:
            config = configs.NoOpQuantizeConfig()
        return api.quantize_annotate_layer(layer, config)

    with api.quantize_scope({kind.__name__: kind for kind in map(type, twin.layers)}):
        return api.quantize_apply(tf_keras.models.clone_model(twin, clone_function=annotated))


def place_of(weight: Any) -> str:
    """Return the layer and name of a variable, such as `conv1_conv/kernel`."""
    return "/".join(weight.name.partition(":")[0].split("/")[-2:])


def _assign(model: keras.Model, values: Mapping[str, Any]) -> None:
    """Set the weights of a model to those of the twin, except for ranges."""
    for layer in model.layers:
        for weight in layer.weights:
            value = values.get(f"{layer.name}/{weight.name}")
            if value is not None:
                weight.assign(value.numpy())
            elif weight.name not in ("low", "high"):
                raise ValueError(
                    f"Expected a twin with the weight {layer.name}/{weight.name}. Received: "
                    f"{', '.join(values)}"
                )
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def _ends(twin: Any, names: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return layer name -> the variables with the ends of its output range."""
    values = {place_of(weight): weight for weight in twin.weights}
    found = {}
    for name in names:
        for kind in _RANGES:
            low, high = (values.get(f"quant_{name}/{kind}_{end}") for end in ("min", "max"))
            if low is not None and high is not None:
                found[name] = (low, high)
                break
    return found
