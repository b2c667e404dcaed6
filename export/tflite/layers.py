"""The Keras layers that the operators of a converted model come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_resnet.export.model import ExportedModel, check_kept_layers
from keras_resnet.export.tflite.flatbuffer import builtin, constant
from keras_resnet.export.tflite.private import BuiltinOperator
from keras_resnet.export.tracing import leaf_layers

_CASTS = (BuiltinOperator.QUANTIZE, BuiltinOperator.DEQUANTIZE)


class LayerNames:
    """Map from the operators of a converted model to the Keras layers that they compute.

    `tracing.traced_as` gives every layer a scope with its name, and the name of an operator's
    output tensor has the scopes of all layers that were fused into the operator.
    """

    def __init__(self, exported: ExportedModel) -> None:
        self.model = model = exported.model
        self._order = {layer.name: index for index, layer in enumerate(leaf_layers(model))}
        names = getattr(model, "output_names", None) or list(self._order)[-1:]
        self._outputs = dict(zip(exported.outputs, names, strict=False))

    def of_output(self, name: str) -> str | None:
        """Return the layer that computes an output of the signature."""
        return self._outputs.get(name)

    def of_tensor(self, name: str) -> tuple[str, ...]:
        """Return the layers in a tensor's name, in the order of the network."""
        found = set()
        for part in name.split(";"):
            scopes = [scope for scope in part.split("/")[:-1] if scope in self._order]
            found.update(scopes[-1:])
        return self._in_order(found)

    def _in_order(self, layers: set[str]) -> tuple[str, ...]:
        return tuple(sorted(layers, key=self._order.__getitem__))

    def of_operators(self, model: Any) -> list[tuple[str, ...]]:
        """Return the layers of every operator of a model, in its order; empty if not known."""
        graph = model.subgraphs[0]
        ends = {end.tensorIndex: end.name.decode() for end in model.signatureDefs[0].outputs}
        for operator in reversed(graph.operators):
            if operator.outputs[0] in ends and builtin(model, operator) in _CASTS:
                ends[operator.inputs[0]] = ends[operator.outputs[0]]
        found = []
        for operator in graph.operators:
            layers = self.of_tensor(graph.tensors[operator.outputs[0]].name.decode())
            if operator.outputs[0] in ends:
                # The converter names outputs after the signature, but not the operator's constants.
                constants = [i for i in operator.inputs if constant(model, i) is not None]
                texts = [graph.tensors[i].name.decode() for i in constants]
                last = self.of_output(ends[operator.outputs[0]])
                known = {last} if last is not None and last in self._order else set()
                layers = self._in_order(known.union(layers, *map(self.of_tensor, texts)))
            found.append(layers)
        return found


def nodes_of(layers: Sequence[str], model: Any, names: LayerNames) -> list[str]:
    """Return the names of the output tensors of the operators that compute the layers.

    Raises:
        ValueError: the network has no such layer, or the layer has no operator of its own.
    """
    operators = list(zip(model.subgraphs[0].operators, names.of_operators(model), strict=True))
    check_kept_layers(layers, names.model, {layer for _, found in operators for layer in found})
    tensors = model.subgraphs[0].tensors
    return [
        tensors[operator.outputs[0]].name.decode()
        for operator, found in operators
        if set(found) & set(layers)
    ]
