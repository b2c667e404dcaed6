"""Conversion of plain networks to networks with compressed layers, and back."""

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
    """Refuses what is no functional model, has a model inside, or weights in half precision.

    Raises:
        ValueError: If it is so.
    """
    nested = [x.name for x in getattr(model, "layers", ()) if isinstance(x, keras.Model)]
    if not isinstance(model, keras.Model) or not hasattr(model, "operations") or nested:
        inside = f" with the model {nested[0]!r} inside" if nested else ""
        raise ValueError(
            "Expected a flat functional model, such as `keras_resnet.build` makes. Received: "
            f"{getattr(model, 'name', model)!r} ({type(model).__name__}){inside}"
        )
    for entry in graph_config(model):
        if len(entry["inbound_nodes"]) > 1:
            raise ValueError(
                "Expected a network that calls every layer once. Received: "
                f"{model.name!r}, which calls {entry['name']!r} {len(entry['inbound_nodes'])} times"
            )
    # Half precision would round once more what was rounded or shared.
    half = [x for x in model.weights if keras.backend.standardize_dtype(x.dtype) in _HALF]
    if half:
        raise ValueError(
            "Expected weights in float32, which the policy 'mixed_bfloat16' has, too. Received: "
            f"{model.name!r}, of which {half[0].path} is {half[0].dtype}"
        )


def check_skip(skip: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise ValueError if `skip` names others than `known`, which are `what`."""
    if unknown := sorted({*skip}.difference(known)):
        raise ValueError(f"Expected `skip` to name {what}. Received: {', '.join(unknown)}")


def kernels(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of a flat model that have a kernel that can be compressed."""
    return [layer for layer in model.layers if type(layer) in (*KINDS, *KINDS.values())]


def with_options(
    model: keras.Model,
    options: Mapping[str, Mapping[str, Any]],
    observed: Mapping[str, Any] | None = None,
) -> keras.Model:
    """Return a copy of a flat model with some layers compressed, weights and what is known included.

    Args:
        model: a plain model, or one with compressed layers already, whose options stay.
        options: layer -> options of `CompressedConv2D` or `CompressedDense` that change.
        observed: layers that get an `ActivationRange` behind them -> its options.
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
    """Make the plain Keras model that a compressed one stands for.

    Kernels are pruned, clustered and rounded for good. Ranges of activations go into what the model
    knows about itself, and from there into its int8 artifacts, for as long as its weights stay.

    Args:
        model: from `quantize_aware`, `prune` or `cluster`; it stays as it is. Of a plain one, a
            copy is made.

    Raises:
        ValueError: If the model is not a flat functional one.
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
    # What is known of a network that was stripped before goes on being known.
    properties = dict(compressed_kernels(model))
    properties |= {
        layer.name: KernelProperty(
            # Zeros of pruning are one more.
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
    allow_depth(len(model.layers))
    # Not of the model itself, which Keras would compile anew, with whatever it was compiled with.
    plain = bare(model)
    plain = keras.Model(plain.input, plain.output, name=model.name)
    copy = keras.models.clone_model(plain, clone_function=copied, call_function=call)
    # By name: layers and variables are not the same in both.
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
                # It computes with tensors that it derives from its weights.
                layer.finalize_state()
    set_info(copy, get_info(model))
    return copy


#: What compressed layers have, and plain ones have not.
_NEW = ("mask", "centroids", "assignments", "range/low", "range/high")


def _own_path(weight: Any, layer: keras.layers.Layer) -> str:
    """Return the path of a weight below its layer, which may have been made within scopes."""
    parts = weight.path.split("/")
    places = [index for index, part in enumerate(parts) if part == layer.name]
    return "/".join(parts[places[-1] + 1 :] if places else parts[-1:])
