"""Options of a compression, which can be checked without importing Keras."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from keras_resnet.support.checks import check_choice, check_number

Method = Literal["prune", "cluster", "qat"]

#: Implementation: this package, or tensorflow-model-optimization with the network's tf_keras twin.
Engine = Literal["native", "tfmot"]

#: Option -> the only method that uses it.
_OWNERS: dict[str, Method] = {
    "sparsity": "prune",
    "pattern": "prune",
    "clusters": "cluster",
    "frozen_bn": "qat",
    "settle": "qat",
}

#: Options with the epochs of further phases of `"qat"`.
_PHASES = ("frozen_bn", "settle")

_SPARSITY = 0.8

#: Weights that are pruned together: single weights; 2 of every 4 input channels; or blocks of 4
#: adjacent output channels.
Pattern = Literal["unstructured", "2:4", "block"]


@dataclass(frozen=True)
class CompressionOptions:
    """Options of a compression.

    Attributes:
        methods: one or more of `"prune"`, `"cluster"` and `"qat"` (quantization-aware training), in
            this order. Each method keeps the results of those before.
        sparsity: share of zeros, in [0, 1), which is reached gradually; with the pattern `"2:4"`,
            it is one half from the start.
        pattern: weights that are pruned together; see `prune`.
        clusters: number of different weights per layer; see `cluster`.
        epochs: epochs of training for each method.
        frozen_bn: epochs of training after `"qat"` with frozen batch normalization, while ranges
            are still observed; 0: none.
        settle: epochs of training after that with frozen batch normalization and fixed ranges; 0:
            none.
        rate: factor of the recipe's learning rate.
        skip: names of layers that are not compressed; with `"qat"`, they stay in float. The first
            convolution is never pruned.
        engine: implementation: `"native"` (this package) or `"tfmot"`
            (tensorflow-model-optimization with the network's tf_keras twin). The latter supports a
            single method in float32: `"qat"` of v1 networks, `"prune"` of single weights, or
            `"cluster"`.

    Raises:
        ValueError: If a field has an invalid value.
    """

    methods: tuple[Method, ...] = ("qat",)
    sparsity: float = _SPARSITY
    pattern: Pattern = "unstructured"
    clusters: int = 16
    epochs: float = 3.0
    frozen_bn: float = 0.0
    settle: float = 1.0
    rate: float = 0.1
    skip: tuple[str, ...] = ()
    engine: Engine = "native"

    def __post_init__(self) -> None:
        check_choice("engine", self.engine, get_args(Engine))
        check_choice("pattern", self.pattern, get_args(Pattern))
        order = [method for method in get_args(Method) if method in self.methods]
        if list(self.methods) != order or not order:
            raise ValueError(
                f"Expected `methods` among {', '.join(get_args(Method))}, in this order. Received: "
                f"{', '.join(map(str, self.methods)) or 'none'}"
            )
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"Expected `sparsity` in [0, 1). Received: {self.sparsity}")
        if self.pattern == "2:4" and self.sparsity not in (0.5, _SPARSITY):
            raise ValueError(
                f"Expected `sparsity` to be 0.5 with the pattern '2:4'. Received: {self.sparsity}"
            )
        for field in dataclasses.fields(self):
            owner, value = _OWNERS.get(field.name), getattr(self, field.name)
            # Phases of 0 epochs are allowed with all methods.
            usual = (field.default, 0) if field.name in _PHASES else (field.default,)
            if owner not in (None, *self.methods) and value not in usual:
                raise ValueError(
                    f"Expected `{field.name}` with the method {owner} only. Received: "
                    f"{', '.join(self.methods)}"
                )
        for name in ("epochs", "rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Expected `{name}` above 0. Received: {getattr(self, name)}")
        for name in _PHASES:
            check_number(name, getattr(self, name))
