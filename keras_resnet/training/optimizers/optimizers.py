"""Optimizers with weight decay and learning rates per group of variables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import keras
from keras import ops

from keras_resnet.support.checks import check_choice, check_number
from keras_resnet.training.optimizers.groups import GroupedUpdates, rate_multipliers, variable_kind
from keras_resnet.training.recipes.parts import (
    Decay,
    MomentumForm,
    OptimizerConfig,
    OptimizerName,
    VariableKind,
)

_register = keras.saving.register_keras_serializable(package="keras_resnet")


@_register
class SGD(GroupedUpdates, keras.optimizers.SGD):
    """SGD with momentum.

    Args:
        learning_rate: a float or a schedule.
        momentum: momentum, in [0, 1].
        nesterov: whether to use Nesterov momentum.
        form: momentum update: `"caffe"` (He et al. 2015, Keras) or `"torch"` (fb.resnet.torch,
            torchvision, timm); see `OptimizerConfig`.
        **keywords: arguments of `GroupedUpdates` and `keras.optimizers.SGD`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        form: MomentumForm = "caffe",
        **keywords: Any,
    ) -> None:
        check_choice("form", form, get_args(MomentumForm))
        super().__init__(
            learning_rate=learning_rate, momentum=float(momentum), nesterov=nesterov, **keywords
        )
        self.form = form

    def step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if self.momentum == 0:
            super().step(gradient, variable, learning_rate)
            return
        caffe = self.form == "caffe"
        push = ops.multiply(gradient, learning_rate) if caffe else gradient
        slot = self.momentums[self.index_of(variable)]
        velocity = ops.add(ops.multiply(slot, self.momentum), push)
        self.assign(slot, velocity)
        if self.nesterov:
            velocity = ops.add(push, ops.multiply(velocity, self.momentum))
        change = velocity if caffe else ops.multiply(velocity, learning_rate)
        self.assign_sub(variable, change)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "form": self.form}


@_register
class LARS(SGD):
    """SGD whose gradients are scaled layer by layer (You et al. 2017).

    For variables of the kinds in `decay_on`, the gradient (weight decay included) is multiplied by
    `trust_coefficient * |w| / (|g| + weight_decay * |w| + epsilon)`, or by 1 if `w` or `g` is zero.
    All other variables are updated as in `SGD`, like in MLPerf's reference. Decoupled weight decay
    is not part of the ratio.

    Args:
        learning_rate: a float or a schedule.
        trust_coefficient: factor of the ratio, at least 0.
        epsilon: constant for numerical stability, at least 0.
        **keywords: arguments of `SGD`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        trust_coefficient: float = 0.001,
        epsilon: float = 0.0,
        **keywords: Any,
    ) -> None:
        check_number("trust_coefficient", trust_coefficient)
        check_number("epsilon", epsilon)
        super().__init__(learning_rate=learning_rate, **keywords)
        self.trust_coefficient = trust_coefficient
        self.epsilon = epsilon

    def regularized(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        if not self.is_selected(variable):
            return super().regularized(gradient, variable, learning_rate)
        weight_norm, gradient_norm = _norm(variable), _norm(gradient)
        coupled = self.weight_decay if self.decay == "coupled" else 0.0
        whole = ops.add(gradient_norm, ops.multiply(weight_norm, coupled))
        ratio = _ratio(
            ops.multiply(weight_norm, self.trust_coefficient),
            ops.add(whole, self.epsilon),
            where=ops.logical_and(ops.greater(weight_norm, 0), ops.greater(gradient_norm, 0)),
        )
        return ops.multiply(super().regularized(gradient, variable, learning_rate), ratio)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "trust_coefficient": self.trust_coefficient,
            "epsilon": self.epsilon,
        }


@_register
class Lamb(GroupedUpdates, keras.optimizers.Lamb):
    """LAMB (You et al. 2020): Adam whose updates are scaled layer by layer.

    Weight decay is included in the update before its norm is computed, as in the paper's algorithm
    2, for either value of `decay`; `keras.optimizers.Lamb` leaves it out. Updates of variables of
    the kinds in `decay_on` are multiplied by `|w| / |update|`, or by 1 if either is zero; all other
    variables are updated as in Adam, like in timm.

    Takes the arguments of `GroupedUpdates` and `keras.optimizers.Lamb`.
    """

    def regularized(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        return gradient

    def step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        mean, square = self.moments_of(variable)
        new_mean = _blend(mean, gradient, self.beta_1)
        new_square = _blend(square, ops.square(gradient), self.beta_2)
        self.assign(mean, new_mean)
        self.assign(square, new_square)
        count = ops.cast(ops.add(self.iterations, 1), variable.dtype)
        deviation = ops.sqrt(ops.divide(new_square, _bias_correction(self.beta_2, count)))
        update = ops.divide(
            ops.divide(new_mean, _bias_correction(self.beta_1, count)),
            ops.add(deviation, self.epsilon),
        )
        if self.is_selected(variable):
            update = ops.add(update, ops.multiply(variable, self.weight_decay))
            norm, update_norm = _norm(variable), _norm(update)
            both = ops.logical_and(ops.greater(norm, 0), ops.greater(update_norm, 0))
            update = ops.multiply(update, _ratio(norm, update_norm, where=both))
        self.assign_sub(variable, ops.multiply(update, learning_rate))


@_register
class Adam(GroupedUpdates, keras.optimizers.Adam):
    """Adam. Takes the arguments of `GroupedUpdates` and `keras.optimizers.Adam`."""


@_register
class AdamW(GroupedUpdates, keras.optimizers.AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Takes the arguments of `GroupedUpdates` and `keras.optimizers.AdamW`.

    Raises:
        ValueError: If `decay` is coupled, or another argument has an invalid value.
    """

    def __init__(
        self, learning_rate: Any = 0.001, *, decay: Decay = "decoupled", **keywords: Any
    ) -> None:
        if decay == "coupled" and keywords.get("weight_decay"):
            raise ValueError(
                "Expected the `decay` of AdamW to be 'decoupled'. Received: 'coupled'. Use Adam "
                "for coupled weight decay"
            )
        super().__init__(learning_rate, decay=decay, **keywords)


@_register
class RMSprop(GroupedUpdates, keras.optimizers.RMSprop):
    """RMSprop, with epsilon inside the square root.

    Takes the arguments of `GroupedUpdates` and `keras.optimizers.RMSprop`.
    """


def make_optimizer(config: OptimizerConfig, learning_rate: Any) -> GroupedUpdates:
    """Return the optimizer that `config` describes.

    Args:
        config: optimizer settings; `learning_rate` and `reference_batch_size` are ignored.
        learning_rate: a float, or a `LearningRateSchedule` of optimizer steps.
    """

    def fields(*names: str) -> dict[str, Any]:
        return {name: getattr(config, name) for name in names}

    if isinstance(learning_rate, (int, float)):
        learning_rate = float(learning_rate)
    sgd = fields("momentum", "nesterov", "form")
    adam = fields("beta_1", "beta_2", "epsilon")
    known: dict[OptimizerName, tuple[type[GroupedUpdates], dict[str, Any]]] = {
        "sgd": (SGD, sgd),
        "lars": (LARS, sgd | fields("trust_coefficient", "epsilon")),
        "lamb": (Lamb, adam),
        "adam": (Adam, adam),
        "adamw": (AdamW, adam),
        "rmsprop": (RMSprop, fields("momentum", "epsilon") | {"rho": config.beta_2}),
    }
    optimizer, own = known[config.name]
    return optimizer(
        learning_rate,
        **own,
        **fields("weight_decay", "decay", "decay_on", "rate_groups"),
        global_clipnorm=config.clip_norm,
        gradient_accumulation_steps=config.accumulation if config.accumulation > 1 else None,
    )


_NAMES: dict[VariableKind, tuple[str, str]] = {
    "kernels": ("kernel", "kernels"),
    "biases": ("bias", "biases"),
    "norms": ("norm scale or shift", "norm scales and shifts"),
}


def describe(optimizer: Any, variables: Sequence[Any]) -> str:
    """Describe in one or two sentences which variables decay and which learning rates differ.

    Args:
        optimizer: a `GroupedUpdates`, or a `LossScaleOptimizer` around one.
        variables: the trainable variables of the model.

    Returns:
        For example "Weight decay 0.0001 (coupled) on 20 kernels; not on 1 bias and 38 norm scales
        and shifts. Learning rate times 0.1 for 3 variables."
    """
    inner: GroupedUpdates = getattr(optimizer, "inner_optimizer", optimizer)
    paths = [variable.path for variable in variables]
    decayed = set(inner.decayed(variables))
    said = "No weight decay"
    if decayed:
        way = "in the trust ratio" if isinstance(inner, Lamb) else inner.decay
        said = f"Weight decay {inner.weight_decay:g} ({way}) on {_counted(decayed)}"
        if others := _counted(path for path in paths if path not in decayed):
            said += f"; not on {others}"
    counts = Counter(rate_multipliers(paths, inner.rate_groups))
    rates = ", ".join(
        f"{factor:g} for {count} variable{'s' if count > 1 else ''}"
        for factor, count in sorted(counts.items())
        if factor != 1
    )
    return f"{said}. Learning rate times {rates}." if rates else f"{said}."


def _counted(paths: Iterable[str]) -> str:
    counts = Counter(map(variable_kind, paths))
    words = [f"{counts[kind]} {_NAMES[kind][counts[kind] > 1]}" for kind in _NAMES if counts[kind]]
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _norm(values: Any) -> Any:
    return ops.sqrt(ops.sum(ops.square(values)))


def _ratio(numerator: Any, denominator: Any, where: Any) -> Any:
    """Return the ratio where `where` is true, and 1 elsewhere."""
    return ops.where(where, ops.divide(numerator, ops.where(where, denominator, 1.0)), 1.0)


def _blend(average: Any, value: Any, keep: float) -> Any:
    return ops.add(average, ops.multiply(ops.subtract(value, average), 1 - keep))


def _bias_correction(beta: float, count: Any) -> Any:
    """Return `1 - beta**count`, avoiding a cancellation that would cost float32 five digits."""
    return ops.negative(ops.expm1(ops.multiply(count, math.log(beta)))) if beta else 1.0
