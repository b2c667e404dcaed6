"""Comparison of two networks, which must be equal for weights to compute the same.

The shapes of weights do not show strides and shortcuts, so networks are compared layer by layer
before any weights are copied.
"""

from __future__ import annotations

import re
from typing import Any

import keras

from keras_resnet.networks.graph import inputs_of
from keras_resnet.networks.plan import Conv, NetworkPlan, Norm
from keras_resnet.support.checks import some_of

#: Layer -> properties that must be equal.
Description = dict[str, dict[str, Any]]

#: Name that stands for all layers of blur pooling.
BLUR = "blur pooling"


def describe(model: keras.Model) -> Description:
    """Describe a model of this package, with the normalization of its pixels and its head."""
    pitches = _pitches(model)
    result: Description = {}
    for layer in model.layers:
        name, config = layer.name, layer.get_config()
        stem_or_head = re.match(r"pool1_|normalization$|predictions$", name)
        if not stem_or_head and not (re.match(r"conv\d+_|post_", name) and layer.weights):
            # Of the layers without weights, only additions and average pooling must match.
            if isinstance(layer, keras.layers.Add) or name.endswith("_0_pool"):
                result[name] = {}
            continue
        result[name] = {key: config[key] for key in ("groups",) if key in config}
        if layer.weights:
            result[name]["weights"] = [tuple(weight.shape) for weight in layer.weights]
        if max(config.get("kernel_size", (1,))) > 1:
            result[name]["pitch"] = pitches[name]
    if any("_blur" in layer.name for layer in model.layers):
        result[BLUR] = {}
    return result


def describe_plan(network: NetworkPlan) -> Description:
    """Describe a planned network: layers with weights, additions and average pooling."""
    result: Description = {}
    reduced = 1
    for conv in network.stem:
        reduced = _describe_conv(result, conv, reduced)
    reduced *= 2 if network.pool else 1
    for block in network.blocks:
        if block.preactivation_norm is not None:
            _describe_norm(result, block.preactivation_norm)
        if block.projection is not None:
            _describe_conv(result, block.projection, reduced)
            if block.average_strides is not None:
                result[f"{block.name}_0_pool"] = {}
        for conv in block.convs:
            reduced = _describe_conv(result, conv, reduced)
        for conv in block.gate.convs if block.gate else ():
            weights = [(1, 1, conv.input_filters, conv.filters), (conv.filters,)]
            result[conv.name] = {"groups": 1, "weights": weights}
        if block.shortcut is not None:
            result[f"{block.name}_{'add' if block.preactivation is None else 'out'}"] = {}
    if network.final_norm is not None:
        _describe_norm(result, network.final_norm)
    return result


def _describe_conv(result: Description, conv: Conv, reduced: int) -> int:
    """Add a convolution and its normalization; return the input pixels per position after it."""
    size = conv.kernel_size
    kernel = (size, size, conv.input_filters // conv.groups, conv.filters)
    weights = [kernel, (conv.filters,)] if conv.bias else [kernel]
    pitch = {"pitch": reduced * conv.dilation} if size > 1 else {}
    result[f"{conv.name}_conv"] = {"groups": conv.groups, "weights": weights, **pitch}
    if conv.norm is not None:
        _describe_norm(result, conv.norm)
    return reduced * conv.strides


def _describe_norm(result: Description, norm: Norm) -> None:
    groups = {} if norm.groups is None else {"groups": norm.groups}
    result[norm.name] = {**groups, "weights": [(norm.filters,)] * (2 if groups else 4)}


def differences(saved: Description, own: Description, ignored: set[str]) -> str | None:
    """Describe the differences, for the end of a message; return `None` if there are none.

    Args:
        saved: description of the network of the weights.
        own: description of the model.
        ignored: names that may differ or be missing.
    """
    changed = {name for name in own.keys() & saved.keys() if own[name] != saved[name]}
    changed -= ignored
    absent, extra = own.keys() - saved.keys() - ignored, saved.keys() - own.keys() - ignored
    same_else = all({**own[name], "pitch": 0} == {**saved[name], "pitch": 0} for name in changed)
    if changed and same_else and not absent and not extra:
        first = min(changed)
        return (
            f"its strides are elsewhere: {first} sees pixels {saved[first]['pitch']} apart, the "
            f"model's {own[first]['pitch']}; in bottlenecks, `version` decides (v1 or v1.5)"
        )
    problems = {"it lacks": absent, "it also has": extra, "it has another": changed}
    for problem, found in problems.items():
        parts = [f"{name} {saved.get(name) or ''}".strip() for name in sorted(found)]
        if parts:
            return f"{problem} {some_of(parts, 3)}"
    return None


def _pitches(model: keras.Model) -> dict[str, int]:
    """Return the distance, in input pixels, of neighbors under each layer's kernel.

    Dilation in place of an earlier stride does not change it.
    """
    layers = {layer.name: layer.get_config() for layer in model.layers}
    reduced: dict[str, int] = {}
    pitches = {}
    for name, inputs in inputs_of(model).items():
        before = max((reduced[layer] for layer in inputs), default=1)
        config = layers.get(name, {})
        pitches[name] = before * max(config.get("dilation_rate", (1,)))
        reduced[name] = before * max(config.get("strides", (1,)))
    return pitches
