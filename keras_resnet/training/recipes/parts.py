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
        learning_rate: its peak, for `reference_batch_size` images per step.
        reference_batch_size: the linear scaling rule (Goyal et al. 2017, section 2.1): with
            another global batch size, the learning rate is multiplied by their ratio. None: it
            is what it is.
        momentum: of SGD, LARS and RMSprop.
        nesterov: whether the momentum is Nesterov's, of SGD and LARS.
        form: of their momentum: `"caffe"`: `v = momentum * v + learning_rate * g`, `w -= v`;
            `"torch"`: `v = momentum * v + g`, `w -= learning_rate * v`. They differ after the
            learning rate has changed (Goyal et al. 2017, section 3).
        weight_decay: per step; what it does depends on `decay`.
        decay: `"coupled"`: `weight_decay * w` is added to the gradient, as Caffe and torch do (L2);
            `"decoupled"`: `learning_rate * weight_decay * w` is subtracted from the weight
            (Loshchilov and Hutter 2019). LAMB takes it into its trust ratio either way.
        decay_on: kinds of variables that decay: `"kernels"`, `"biases"`, `"norms"` (scales and
            shifts of normalisations).
        beta_1: of LAMB and Adam.
        beta_2: of LAMB and Adam; the averaging of RMSprop.
        epsilon: of LARS, LAMB, Adam and RMSprop.
        trust_coefficient: of LARS.
        clip_norm: largest norm of all gradients together; None: they are not clipped.
        accumulation: so many batches are averaged for one step of the optimizer; the global batch
            size of the recipe counts all of them.
        rate_groups: multiplies the learning rate of some layers: `stem`, `C2` to `C5`, `head`, or a
            pattern of variables' names, e.g. `{"stem": 0.01, "*_bn/*": 0.5}`.

    Raises:
        ValueError: a field has another value than these.
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
                "Expected `optimizer.decay` of adamw to be decoupled; adam's may be coupled. "
                f"Received: {self.decay}"
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
            `"polynomial"` (of degree `power`, over the same span; but see `counts_warmup`);
            `"piecewise-linear"` (through `points`).
        unit: of all times here: `"epochs"` (fractions are welcome) or optimizer `"steps"`.
        warmup: how long the learning rate grows linearly to its peak (Goyal et al. 2017, section
            2.2). Milestones count from the start of training, warm-up included.
        warmup_from: where the warm-up starts, as a factor of the peak; or `"unscaled"`: at the
            learning rate before linear scaling, as Goyal et al. do.
        counts_warmup: whether `"cosine"` and `"polynomial"` begin with the training, as in timm, so
            that the end of the warm-up finds them a little below their peak.
        milestones: of `"multi-step"`, ascending.
        every: of `"step"`.
        factor: of `"step"`, `"multi-step"` and `"plateau"`.
        patience: of `"plateau"`, in epochs.
        threshold: of `"plateau"`: by how much an error counts as lower, in points of error in
            [0, 1].
        end: the factor at the end, of `"cosine"` and `"polynomial"`.
        power: of `"polynomial"`.
        points: of `"piecewise-linear"`: pairs of a time and a factor, ascending in time.
        low_until_error: the second kind of warm-up (He et al. 2015, section 4.2, for 110 layers):
            the learning rate is multiplied by `low_factor` until the training error of an epoch so
            far is below this, e.g. 0.8. None: there is no such warm-up.
        low_factor: see `low_until_error`.

    Raises:
        ValueError: a field has another value than these.
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
        name: `"cross-entropy"` over classes that exclude each other, or `"binary-cross-entropy"`
            for every class on its own (Wightman et al. 2021, for mixed images).
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016,
            section 7). It is not applied in validation.
        target_threshold: of binary cross-entropy: mixed targets above it become 1, others 0. None:
            they stay shares.
        class_weights: what the images of a class count in training: `"equal"`, or `"balanced"`:
            inversely to how many there are, one in the mean.
        l2_sp: in the place of weight decay, a pull towards the weights that training starts from
            (Li et al. 2018, arXiv:1802.01483): `l2_sp / 2` times the squared distance of trained
            kernels is added; of the head's, that from zero.

    Raises:
        ValueError: a field has another value than these.
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
                "Expected `loss.target_threshold` with binary-cross-entropy only. "
                f"Received: {self.target_threshold} with {self.name}"
            )


@dataclass(frozen=True)
class AverageConfig:
    """Exponential moving average of the weights, moving statistics of BN included.

    Args:
        decay: share that the average keeps at an update. 0: no average is taken.
        every: steps between updates.

    Raises:
        ValueError: a field has another value than these.
    """

    decay: float = 0.0
    every: int = 1

    def __post_init__(self) -> None:
        _check_numbers(self, "average", "decay", high=1)
        store_integers(self, ("every",), prefix="average.")


def _check_numbers(
    part: Any, prefix: str, names: str, low: float = 0.0, high: float = math.inf
) -> None:
    """Checks fields, named with spaces between, which may be None where that is the default."""
    for name in names.split():
        value = getattr(part, name)
        if value is not None or type(part).__dataclass_fields__[name].default is not None:
            check_number(f"{prefix}.{name}", value, low, high)
