"""The parts of a training recipe as data: optimizer, schedule, loss, average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from keras_resnet.support.checks import check_choice, check_number, store_integers

OptimizerName = Literal["sgd", "lars", "lamb", "adam", "adamw", "rmsprop"]
Decay = Literal["coupled", "decoupled"]
MomentumForm = Literal["caffe", "torch"]
VariableKind = Literal["kernels", "biases", "norms"]
ScheduleName = Literal[
    "constant", "step", "multi-step", "plateau", "cosine", "polynomial", "piecewise-linear"
]
Unit = Literal["epochs", "steps"]
LossName = Literal["cross-entropy", "binary-cross-entropy"]
ClassWeights = Literal["equal", "balanced"]


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer of a recipe.

    Args:
        name: `"sgd"`, `"lars"` (You et al. 2017), `"lamb"` (You et al. 2020), `"adam"`, `"adamw"`
            or `"rmsprop"`.
        learning_rate: peak learning rate for a global batch size of `reference_batch_size`.
        reference_batch_size: global batch size that `learning_rate` is meant for. With another
            batch size, the learning rate is multiplied by the ratio of the two: the linear scaling
            rule (Goyal et al. 2017, section 2.1). None: the learning rate is not scaled.
        momentum: momentum of SGD, LARS and RMSprop, in [0, 1].
        nesterov: whether SGD and LARS use Nesterov momentum.
        form: momentum update of SGD and LARS. `"caffe"`: `v = momentum * v + learning_rate * g`,
            `w -= v`; `"torch"`: `v = momentum * v + g`, `w -= learning_rate * v`. The two differ
            after the learning rate has changed (Goyal et al. 2017, section 3).
        weight_decay: strength of the weight decay per step; see `decay`.
        decay: `"coupled"`: `weight_decay * w` is added to the gradient, as in Caffe and torch (L2);
            `"decoupled"`: `learning_rate * weight_decay * w` is subtracted from the weight
            (Loshchilov and Hutter 2019). LAMB includes the decay in its trust ratio either way.
        decay_on: kinds of variables that decay: `"kernels"`, `"biases"`, `"norms"` (scales and
            shifts of normalization layers).
        beta_1: decay rate of the first moment, for LAMB, Adam and AdamW.
        beta_2: decay rate of the second moment, for LAMB, Adam, AdamW and RMSprop.
        epsilon: small constant for numerical stability, for all optimizers except SGD.
        trust_coefficient: factor of the trust ratio of LARS.
        clip_norm: upper limit of the global gradient norm. None: gradients are not clipped.
        accumulation: number of batches whose gradients are averaged for one optimizer step. The
            global batch size of the recipe counts the images of all of them.
        rate_groups: factors of the learning rate for some layers: `stem`, `C2` to `C5`, `head`, or
            a pattern of variable names, e.g. `{"stem": 0.01, "*_bn/*": 0.5}`.

    Raises:
        ValueError: If a field has an invalid value.
    """

    name: OptimizerName = "sgd"
    learning_rate: float = 0.1
    reference_batch_size: int | None = None
    momentum: float = 0.9
    nesterov: bool = False
    form: MomentumForm = "caffe"
    weight_decay: float = 0.0
    decay: Decay = "coupled"
    decay_on: tuple[VariableKind, ...] = ("kernels",)
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-6
    trust_coefficient: float = 0.001
    clip_norm: float | None = None
    accumulation: int = 1
    rate_groups: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("optimizer.name", self.name, get_args(OptimizerName))
        check_choice("optimizer.decay", self.decay, get_args(Decay))
        check_choice("optimizer.form", self.form, get_args(MomentumForm))
        if self.name == "adamw" and self.weight_decay and self.decay != "decoupled":
            raise ValueError(
                "Expected `optimizer.decay` to be 'decoupled' with `optimizer.name` 'adamw'. "
                f"Received: {self.decay!r}. Use 'adam' for coupled weight decay"
            )
        _check_numbers(self, "optimizer", "learning_rate weight_decay epsilon trust_coefficient")
        _check_numbers(self, "optimizer", "momentum beta_1 beta_2", high=1)
        _check_numbers(self, "optimizer", "clip_norm", low=1e-12)
        if not isinstance(self.nesterov, bool):
            raise ValueError(
                f"Expected `optimizer.nesterov` to be true or false. Received: {self.nesterov!r}"
            )
        store_integers(self, ("reference_batch_size", "accumulation"), prefix="optimizer.")
        kinds = tuple([self.decay_on] if isinstance(self.decay_on, str) else self.decay_on)
        for kind in kinds:
            check_choice("optimizer.decay_on", kind, get_args(VariableKind))
        object.__setattr__(self, "decay_on", kinds)
        if not isinstance(self.rate_groups, Mapping):
            raise ValueError(
                "Expected `optimizer.rate_groups` to map groups to factors. "
                f"Received: {self.rate_groups!r}"
            )
        for group, factor in self.rate_groups.items():
            check_number(f"optimizer.rate_groups[{group!r}]", factor)
        object.__setattr__(self, "rate_groups", MappingProxyType(dict(self.rate_groups)))


@dataclass(frozen=True)
class ScheduleConfig:
    """The schedule of the learning rate, as a factor of its peak.

    Args:
        name: `"constant"`; `"step"` (times `factor` every `every` units); `"multi-step"` (times
            `factor` at each of `milestones`); `"plateau"` (times `factor` when the validation error
            has not fallen by `threshold` for `patience` epochs); `"cosine"` (half a period, from
            the end of the warm-up to the end of training; Loshchilov and Hutter 2017);
            `"polynomial"` (of degree `power`, over the same span); `"piecewise-linear"` (linear
            interpolation of `points`).
        unit: unit of all times in the schedule: `"epochs"` (fractions are allowed) or optimizer
            `"steps"`.
        warmup: duration of the warm-up, in which the learning rate grows linearly to its peak
            (Goyal et al. 2017, section 2.2). Milestones count from the start of training, warm-up
            included.
        warmup_from: learning rate at the start of the warm-up, as a factor of the peak; or
            `"unscaled"`: the learning rate before linear scaling, as in Goyal et al.
        counts_warmup: whether `"cosine"` and `"polynomial"` span the whole training, warm-up
            included, as in timm. The learning rate is then slightly below its peak when the warm-up
            ends.
        milestones: times at which `"multi-step"` lowers the learning rate, ascending.
        every: time between two changes of `"step"`.
        factor: factor of each change of `"step"`, `"multi-step"` and `"plateau"`.
        patience: epochs without a lower error after which `"plateau"` lowers the learning rate.
        threshold: amount by which an error, in [0, 1], must be lower than the lowest one so far to
            count for `"plateau"`.
        end: factor of the peak at the end of `"cosine"` and `"polynomial"`.
        power: exponent of `"polynomial"`.
        points: pairs of a time and a factor of the peak for `"piecewise-linear"`, ascending in
            time.
        low_until_error: the warm-up of He et al. 2015, section 4.2, for 110 layers: the learning
            rate is multiplied by `low_factor` until the training error, averaged since the start of
            the epoch, falls below this value, e.g. 0.8. None: no such warm-up.
        low_factor: factor of the learning rate during the warm-up of `low_until_error`.

    Raises:
        ValueError: If a field has an invalid value.
    """

    name: ScheduleName = "constant"
    unit: Unit = "epochs"
    warmup: float = 0.0
    warmup_from: float | Literal["unscaled"] = 0.0
    counts_warmup: bool = False
    milestones: tuple[float, ...] = ()
    every: float = 30.0
    factor: float = 0.1
    patience: int = 5
    threshold: float = 1e-3
    end: float = 0.0
    power: float = 2.0
    points: tuple[tuple[float, float], ...] = ()
    low_until_error: float | None = None
    low_factor: float = 0.1

    def __post_init__(self) -> None:
        check_choice("schedule.name", self.name, get_args(ScheduleName))
        check_choice("schedule.unit", self.unit, get_args(Unit))
        _check_numbers(self, "schedule", "warmup factor threshold end low_factor")
        _check_numbers(self, "schedule", "every power", low=1e-9)
        _check_numbers(self, "schedule", "low_until_error", high=1)
        if self.warmup_from != "unscaled":
            _check_numbers(self, "schedule", "warmup_from", high=1)
        if not isinstance(self.counts_warmup, bool):
            raise ValueError(
                "Expected `schedule.counts_warmup` to be true or false. "
                f"Received: {self.counts_warmup!r}"
            )
        store_integers(self, ("patience",), prefix="schedule.")
        object.__setattr__(self, "milestones", tuple(self.milestones))
        object.__setattr__(self, "points", tuple(tuple(point) for point in self.points))
        for value in self.milestones:
            check_number("schedule.milestones", value)
        if any(len(point) != 2 for point in self.points):
            raise ValueError(
                "Expected `schedule.points` to be pairs of a time and a factor. "
                f"Received: {self.points!r}"
            )
        for value in (number for point in self.points for number in point):
            check_number("schedule.points", value)
        times = [point[0] for point in self.points]
        for name, values in (("milestones", list(self.milestones)), ("points", times)):
            if values != sorted(set(values)):
                raise ValueError(
                    f"Expected `schedule.{name}` to ascend. Received: {getattr(self, name)!r}"
                )
        needed = {"multi-step": "milestones", "piecewise-linear": "points"}.get(self.name)
        if needed is not None and not getattr(self, needed):
            raise ValueError(
                f"Expected `schedule.{needed}` of a {self.name} schedule. Received: ()"
            )


@dataclass(frozen=True)
class LossConfig:
    """The loss of a recipe.

    Args:
        name: `"cross-entropy"` of mutually exclusive classes, or `"binary-cross-entropy"` of every
            class separately (Wightman et al. 2021, for mixed images).
        label_smoothing: share of the target that is spread over all classes, in [0, 1] (Szegedy et
            al. 2016, section 7). It is not applied in validation.
        target_threshold: threshold of binary cross-entropy, in [0, 1]: mixed targets above it
            become 1, all others 0. None: targets are not changed.
        class_weights: weights of the classes in training: `"equal"`, or `"balanced"`: inversely
            proportional to the number of images of a class, with a mean of 1 over the images.
        l2_sp: strength of the L2-SP penalty, which replaces weight decay (Li et al. 2018,
            arXiv:1802.01483). `l2_sp / 2` times the squared distance of the trained kernels from
            their values at the start of training is added to the loss; for the kernel of the head,
            the distance from zero.

    Raises:
        ValueError: If a field has an invalid value.
    """

    name: LossName = "cross-entropy"
    label_smoothing: float = 0.0
    target_threshold: float | None = None
    class_weights: ClassWeights = "equal"
    l2_sp: float = 0.0

    def __post_init__(self) -> None:
        check_choice("loss.name", self.name, get_args(LossName))
        check_choice("loss.class_weights", self.class_weights, get_args(ClassWeights))
        _check_numbers(self, "loss", "l2_sp")
        _check_numbers(self, "loss", "label_smoothing target_threshold", high=1)
        if self.target_threshold is not None and self.name != "binary-cross-entropy":
            raise ValueError(
                "Expected no `loss.target_threshold` unless `loss.name` is 'binary-cross-entropy'. "
                f"Received: {self.target_threshold} with {self.name!r}"
            )


@dataclass(frozen=True)
class AverageConfig:
    """An exponential moving average of the weights, including the moving statistics of BN.

    Args:
        decay: share of the average that each update keeps, in [0, 1]. 0: no average is taken.
        every: optimizer steps between two updates.

    Raises:
        ValueError: If a field has an invalid value.
    """

    decay: float = 0.0
    every: int = 1

    def __post_init__(self) -> None:
        _check_numbers(self, "average", "decay", high=1)
        store_integers(self, ("every",), prefix="average.")


def _check_numbers(
    part: Any, prefix: str, names: str, low: float = 0.0, high: float = math.inf
) -> None:
    """Check the fields in the space-separated `names`; None is allowed where it is the default."""
    for name in names.split():
        value = getattr(part, name)
        if value is not None or type(part).__dataclass_fields__[name].default is not None:
            check_number(f"{prefix}.{name}", value, low, high)
