"""Options of a compression, checked without Keras before anything is loaded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from keras_resnet.support.checks import check_choice, check_number

Method = Literal["prune", "cluster", "qat"]

#: What trains: this package, or tensorflow-model-optimization on the network's tf_keras twin.
Engine = Literal["native", "tfmot"]

#: Option -> the only method that it counts for.
_OWNERS: dict[str, Method] = {
    "sparsity": "prune",
    "pattern": "prune",
    "clusters": "cluster",
    "frozen_bn": "qat",
    "settle": "qat",
}

#: Further phases of `"qat"`, in epochs.
_PHASES = ("frozen_bn", "settle")

_SPARSITY = 0.8

#: Which weights are pruned together: each by itself; 2 of every 4 input channels; or 4 neighboring
#: output channels at a time.
Pattern = Literal["unstructured", "2:4", "block"]


@dataclass(frozen=True)
class CompressionOptions:
    """Options of a compression.

    Attributes:
        methods: `"prune"`, `"cluster"` and `"qat"` (quantization-aware training), or some of them;
            they are applied in this order, each keeping what those before have reached.
        sparsity: share of zeros in [0, 1), reached step by step; with the pattern `"2:4"`, it is
            one half, at once.
        pattern: which weights are pruned together, see `prune`.
        clusters: different weights of a layer, see `cluster`.
        epochs: of training, for each method.
        frozen_bn: of training after `"qat"`, with batch normalization fixed and ranges that still
            follow; 0: none.
        settle: of training after that, with ranges and batch normalization fixed; 0: none.
        rate: what the recipe's learning rate is multiplied by.
        skip: names of layers that are left alone; with `"qat"`, they stay in float. The first
            convolution is never pruned.
        engine: what trains: `"native"`, this package; or `"tfmot"`, tensorflow-model-optimization
            on the network's tf_keras twin. The latter does one method at a time: `"qat"` of v1
            networks, `"prune"` of single weights, or `"cluster"`, in float32.

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
                f"Expected no `sparsity` but 0.5 with the pattern '2:4'. Received: {self.sparsity}"
            )
        for field in dataclasses.fields(self):
            owner, value = _OWNERS.get(field.name), getattr(self, field.name)
            # A further phase of no epochs is none, whatever the method.
            usual = (field.default, 0) if field.name in _PHASES else (field.default,)
            if owner not in (None, *self.methods) and value not in usual:
                raise ValueError(
                    f"Expected `{field.name}` with the method {owner}. Received: "
                    f"{', '.join(self.methods)}"
                )
        for name in ("epochs", "rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Expected `{name}` above 0. Received: {getattr(self, name)}")
        for name in _PHASES:
            check_number(name, getattr(self, name))
