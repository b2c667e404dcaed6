"""tensorflow-model-optimization at work on the tf_keras twin of a network.

A network goes there as its twin, is wrapped, trained by whoever calls this, and comes back as a
Keras 3 network with the compressed layers of this package, so that `strip` and `export` go on with
it as with any other.
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

#: What it does not know, but can quantize if it is told that only the output has a range, or not
#: even that.
_OUTPUT_ONLY, _UNTOUCHED = ("Normalization", "Rescaling"), ("keras_resnet>Pad", "Pad")

#: Variables of its wrappers that may hold the range of what a layer puts out, the best one first.
_RANGES = ("output", "post_activation", "pre_activation")

#: How a sentence ends that refuses a network or an option.
REMEDY = "Use the native engine, which can"


def load_tfmot() -> Any:
    """Import tensorflow-model-optimization without changing `tf.keras` for this process.

    Importing it sets `TF_USE_LEGACY_KERAS`, by which `tf.keras` becomes Keras 2 in this process, if
    nothing has used it yet, and in every process that this one starts.

    Raises:
        ImportError: If it is not installed, or tf_keras is not.
    """
    import tensorflow as tf

    require("tf_keras")
    _ = tf.keras.Model  # It is loaded when it is first used, and is Keras 3 from now on.
    before = os.environ.get(_LEGACY)
    try:
        return require("tensorflow_model_optimization")
    finally:
        if before is None:
            os.environ.pop(_LEGACY, None)
        else:
            os.environ[_LEGACY] = before


class TfmotNetwork:
    """A network whose twin tensorflow-model-optimization has wrapped, ready to be trained.

    Attributes:
        twin: the wrapped `tf_keras` model; it puts out logits.
        positive: names of the batch normalizations whose scales have to stay at least 0.
        callback: for the training loop: `on_train_begin` before the first step, `on_epoch_end`
            after the last; None: there is none.
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
        """Return the Keras 3 network, with compressed layers, that the twin is now."""
        return self._back(self)

    def round_kernels(self) -> None:
        """Let kernels be rounded, without training, as they are now instead of one step ago."""
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
    """Prepare pruning of single weights, along `PolynomialDecay`, the schedule of `GradualPruning`.

    Args:
        model: a plain network with trained weights; it stays as it is.
        logits: makes the network that is trained, with equal layers, of a plain one.
        sparsity: share of zeros in every kernel in the end, in [0, 1).
        end: step at which it is reached, a multiple of `every`.
        every: steps between two times that weights are pruned.
        skip: names of layers that stay dense.

    Raises:
        ValueError: If the twin cannot be made.
        ImportError: If a package is missing.
    """
    _refuse_compressed(model)
    api = load_tfmot().sparsity.keras
    schedule = api.PolynomialDecay(0.0, sparsity, begin_step=0, end_step=end, frequency=every)

    def wrapped(layer: Any) -> Any:
        return api.prune_low_magnitude(layer, pruning_schedule=schedule)

    def back(network: TfmotNetwork) -> keras.Model:
        # At no sparsity, masks have what is zero already.
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
    """Prepare clustering, from values at equal distances on, with the mean of weights' gradients.

    As in `cluster`, scales of batch normalization behind clustered layers are made positive first.
    Arguments and errors are those of `pruning_network`; `clusters` is from 2 to 256.
    """
    _refuse_compressed(model)
    load_tfmot()
    wrapper = require("tensorflow_model_optimization.python.core.clustering.keras.cluster_wrapper")
    api = load_tfmot().clustering.keras
    names = [layer.name for layer in kernels(model) if layer.name not in skip]
    model, norms = with_positive_scales(model, names)

    def wrapped(layer: Any) -> Any:
        if np.prod(layer.kernel.shape) <= clusters:
            return layer  # It has not more values than that already.
        return wrapper.ClusterWeights(
            layer,
            clusters,
            api.CentroidInitialization.LINEAR,
            # The sum over thousands of weights makes steps that no learning rate is made for.
            cluster_gradient_aggregation=wrapper.GradientAggregation.AVG,
        )

    def back(network: TfmotNetwork) -> keras.Model:
        # Its values are few already, so that they stay.
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
    """Prepare quantization-aware training by the default 8-bit scheme.

    Ranges of activations start from those on `images`, as in `quantize_aware`; from where
    tensorflow-model-optimization starts, -6 and 6, they would take thousands of steps. Those
    that it has learned become the ranges of the network that comes back.

    Args:
        model: as of `pruning_network`.
        logits: likewise.
        images: as of `quantize_aware`.

    Raises:
        ValueError: If tensorflow-model-optimization has no int8 form of a layer, such as batch
            normalization that does not follow a convolution, as in v2.
        ImportError: If a package is missing.
    """
    _refuse_compressed(model)
    aware = quantize_aware(model, images)
    alone = [name for group in fused_groups(model).values() for name in group[:1]]
    norms = [x for x in map(model.get_layer, alone) if "Normalization" in type(x).__name__]
    if norms := [x.name for x in norms if isinstance(x, keras.layers.BatchNormalization)]:
        raise ValueError(
            "Expected a network whose batch normalizations all follow convolutions, as in v1, for "
            "quantization-aware training by tensorflow-model-optimization. Received: "
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
    # It rounds images, too; between these ends, 8 bits hold all that they have.
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
            "Expected a network without zeros or shared values of an earlier compression, which "
            f"tensorflow-model-optimization would lose. Received: {model.name!r}. {REMEDY}"
        )


def _with_wrapped_kernels(twin: Any, wrapped: Callable[[Any], Any], skip: Sequence[str]) -> Any:
    """Return the twin with all convolutions and dense layers wrapped, but for those in `skip`."""
    tf_keras = require("tf_keras")
    kinds = (tf_keras.layers.Conv2D, tf_keras.layers.Dense)

    def chosen(layer: Any) -> Any:
        # A depthwise convolution is a kind of convolution, and has no `kernel`.
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
    """Layer and name of a variable, such as `conv1_conv/kernel`."""
    return "/".join(weight.name.partition(":")[0].split("/")[-2:])


def _assign(model: keras.Model, values: Mapping[str, Any]) -> None:
    """Set the weights of the layers that a plain network has, too."""
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
    """Layer -> the variables with the ends of the range of what it puts out."""
    values = {place_of(weight): weight for weight in twin.weights}
    found = {}
    for name in names:
        for kind in _RANGES:
            low, high = (values.get(f"quant_{name}/{kind}_{end}") for end in ("min", "max"))
            if low is not None and high is not None:
                found[name] = (low, high)
                break
    return found
