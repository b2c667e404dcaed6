"""Optimizers whose weight decay is the papers'."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="keras_resnet")
class SGD(keras.optimizers.SGD):
    """SGD with momentum and coupled weight decay (L2), as Caffe and torch define it.

    The decay is added to the gradient before the momentum: `g <- g + coupled_weight_decay * w`.
        Keras' own
    `SGD(weight_decay=)` decays the weights directly; at momentum 0.9 that is about ten times
    weaker.

    A model that was compiled with it and saved needs this package to load; `compile=False` does
    without.

    Args:
        learning_rate: a float or a schedule.
        momentum: He et al. 2015 use 0.9.
        nesterov: whether the momentum is Nesterov's.
        coupled_weight_decay: 1e-4 in He et al. 2015.
        decay_vectors: whether BN scales and shifts and biases (the variables of less than two
            dimensions) decay as well. Goyal et al. 2017, section 5.1: they do not. A rule rather
            than a list of variables, so that it survives saving and loading.
        **keywords: those of `keras.optimizers.SGD`; `weight_decay` is refused, as it would decay
            twice.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        coupled_weight_decay: float = 0.0,
        decay_vectors: bool = False,
        **keywords: Any,
    ) -> None:
        if keywords.get("weight_decay"):
            raise ValueError(
                "Expected `coupled_weight_decay`; `keras.optimizers.SGD` decays decoupled. "
                f"Received: weight_decay={keywords['weight_decay']}"
            )
        if coupled_weight_decay < 0:
            raise ValueError(
                "Expected `coupled_weight_decay` to be at least 0. "
                f"Received: {coupled_weight_decay}"
            )
        super().__init__(
            learning_rate=learning_rate, momentum=momentum, nesterov=nesterov, **keywords
        )
        self.coupled_weight_decay = coupled_weight_decay
        self.decay_vectors = decay_vectors

    def decays(self, variable: Any) -> bool:
        """Whether `variable` decays."""
        return self.coupled_weight_decay > 0 and (self.decay_vectors or len(variable.shape) > 1)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if self.decays(variable):
            decay = keras.ops.cast(self.coupled_weight_decay, variable.dtype)
            gradient = keras.ops.add(gradient, keras.ops.multiply(variable, decay))
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("weight_decay", None)
        return {
            **config,
            "coupled_weight_decay": self.coupled_weight_decay,
            "decay_vectors": self.decay_vectors,
        }
