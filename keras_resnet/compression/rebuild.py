"""Conversion between plain networks and networks with compressed layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_resnet.compression.layers import (
    KINDS,
    RANGE_SUFFIX,
    ActivationRange,
    compressed_layers,
    ranges,
)
from keras_resnet.models.info import (
    CompressedKernels,
    KernelProperty,
    LearnedRanges,
    compressed_kernels,
    get_info,
    learned_ranges,
    set_info,
)
from keras_resnet.models.outputs import bare
from keras_resnet.networks.graph import allow_depth, graph_config, inputs_of
from keras_resnet.support.fingerprints import fingerprint_of_weights

_HALF = ("bfloat16", "float16")
_OPTIONS = ("pruned", "clusters", "rounding", "observed")


def check_flat(model: keras.Model) -> None:
    """Raise ValueError unless `model` is a flat functional model with float32 weights.

    Raises:
        ValueError: If the model is not functional, contains a model, calls a layer several times,
            or has weights in half precision.
    """
    nested = [x.name for x in getattr(model, "layers", ()) if isinstance(x, keras.Model)]
    if not isinstance(model, keras.Model) or not hasattr(model, "operations") or nested:
        inside = f", which contains the model {nested[0]!r}" if nested else ""
        raise ValueError(
            "Expected a flat functional model, such as one from `keras_resnet.build`. Received: "
            f"{getattr(model, 'name', model)!r} ({type(model).__name__}){inside}"
        )
    for entry in graph_config(model):
        if len(entry["inbound_nodes"]) > 1:
            raise ValueError(
                "Expected a network that calls every layer once. Received: "
                f"{model.name!r}, which calls {entry['name']!r} {len(entry['inbound_nodes'])} times"
            )
    # Half precision would round compressed weights again.
    half = [x for x in model.weights if keras.backend.standardize_dtype(x.dtype) in _HALF]
    if half:
        raise ValueError(
            "Expected weights in float32. Received: "
            f"{model.name!r}, of which {half[0].path} is {half[0].dtype}. Use the policy "
            "'mixed_bfloat16' instead of 'bfloat16'"
        )


def check_skip(skip: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise ValueError if `skip` contains a name that is not in `known`, the names of `what`."""
    if unknown := sorted({*skip}.difference(known)):
        raise ValueError(f"Expected `skip` to name {what}. Received: {', '.join(unknown)}")


def kernels(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of a flat model with kernels that can be compressed."""
    return [layer for layer in model.layers if type(layer) in (*KINDS, *KINDS.values())]


def with_options(
    model: keras.Model,
    options: Mapping[str, Mapping[str, Any]],
    observed: Mapping[str, Any] | None = None,
) -> keras.Model:
    """Return a copy of a flat model, including its weights and info, with some layers compressed.

    Args:
        model: a plain model, or one with compressed layers, whose options are kept.
        options: layer name -> options of `CompressedConv2D` or `CompressedDense` to change.
        observed: layer name -> options of an `ActivationRange` to add after the layer.
    """
    observed = observed or {}

    def copied(layer: keras.Layer) -> keras.Layer:
        config, kind = layer.get_config(), type(layer)
        if layer.name in options:
            kind = KINDS.get(kind, kind)
            config = {**config, **options[layer.name]}
        return kind.from_config(config)

    def call(layer: Any, *arguments: Any, **keywords: Any) -> Any:
        outputs = layer(*arguments, **keywords)
        if layer.name in observed:
            name = f"{layer.name}{RANGE_SUFFIX}"
            outputs = ActivationRange(name=name, dtype="float32", **observed[layer.name])(outputs)
        return outputs

    return _copy(model, copied, call)


def strip(model: keras.Model) -> keras.Model:
    """Return the plain Keras model that is equivalent to a compressed model.

    Its kernels are pruned, clustered and rounded. Ranges of activations become part of the model's
    info, and are used for its int8 artifacts as long as the weights do not change.

    Args:
        model: a model from `quantize_aware`, `prune` or `cluster`; it is not changed. A plain model
            is copied.

    Returns:
        A model of core Keras layers, with layers of the same names.

    Raises:
        ValueError: If the model is not a flat functional model.
    """
    check_flat(model)
    back: dict[Any, Any] = {new: old for old, new in KINDS.items()}
    shared = {layer.name for layer in compressed_layers(model) if layer.clusters}
    constrained = {name for name, before in inputs_of(model).items() if shared.intersection(before)}
    constrained &= {x.name for x in model.layers if isinstance(x, keras.layers.BatchNormalization)}

    def copied(layer: keras.Layer) -> keras.Layer:
        config, kind = layer.get_config(), back.get(type(layer), type(layer))
        if layer.name in constrained:
            config["gamma_constraint"] = None
        if kind is not type(layer):
            config = {key: value for key, value in config.items() if key not in _OPTIONS}
        return kind.from_config(config)

    def call(layer: Any, *arguments: Any, **keywords: Any) -> Any:
        if isinstance(layer, ActivationRange):
            return arguments[0]
        return layer(*arguments, **keywords)

    result = _copy(model, copied, call)
    for layer in compressed_layers(model):
        result.get_layer(layer.name).kernel.assign(layer.final_kernel())
    weights = fingerprint_of_weights(result.get_weights())
    # Properties of a network that was stripped before are kept.
    properties = dict(compressed_kernels(model))
    properties |= {
        layer.name: KernelProperty(
            # Zero is an additional value in a pruned layer.
            layer.clusters + bool(layer.pruned) if layer.clusters else None,
            int(np.count_nonzero(layer.final_kernel() == 0)) if layer.pruned else 0,
        )
        for layer in compressed_layers(model)
        if layer.clusters or layer.pruned
    }
    values = {name: (float(layer.low), float(layer.high)) for name, layer in ranges(model).items()}
    values = values or dict(learned_ranges(model) or {})
    known = dataclasses.replace(
        get_info(model),
        ranges=LearnedRanges(values, weights) if values else None,
        kernels=CompressedKernels(properties, weights) if properties else None,
    )
    set_info(result, known)
    return result


def _copy(
    model: keras.Model, copied: Callable[[Any], Any], call: Callable[..., Any]
) -> keras.Model:
    """Return a copy of a model with the layers of `copied`, called by `call`."""
    allow_depth(len(model.layers))
    # A new model of the same graph, as Keras would compile a clone like the model itself.
    plain = bare(model)
    plain = keras.Model(plain.input, plain.output, name=model.name)
    copy = keras.models.clone_model(plain, clone_function=copied, call_function=call)
    # Weights are matched by name, as layers and variables differ.
    before = {layer.name: layer for layer in model.layers}
    for layer in copy.layers:
        if layer.name in before:
            known = {_own_path(weight, layer): weight for weight in before[layer.name].weights}
            for weight in layer.weights:
                path = _own_path(weight, layer)
                if path in known:
                    weight.assign(known[path])
                elif path not in _NEW:
                    raise ValueError(
                        f"Expected a weight {path!r} in layer {layer.name!r} to copy. Received: "
                        f"{', '.join(known) or 'none'}"
                    )
            if isinstance(layer, keras.layers.Normalization):
                # The layer computes with tensors that it derives from its weights.
                layer.finalize_state()
    set_info(copy, get_info(model))
    return copy


#: Weights that only compressed layers have.
_NEW = ("mask", "centroids", "assignments", "range/low", "range/high")


def _own_path(weight: Any, layer: keras.layers.Layer) -> str:
    """Return the path of a weight relative to its layer, which may be inside name scopes."""
    parts = weight.path.split("/")
    places = [index for index, part in enumerate(parts) if part == layer.name]
    return "/".join(parts[places[-1] + 1 :] if places else parts[-1:])
