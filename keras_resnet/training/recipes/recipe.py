"""Training recipes as data. The table of them is in `table.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, get_args

from keras_resnet.data.config import Augmentation
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.networks.config import FIELDS
from keras_resnet.support.checks import check_choice, check_number, store_integers
from keras_resnet.support.suggest import did_you_mean
from keras_resnet.training.recipes.parts import (
    AverageConfig,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
    Unit,
)

#: The citation of what `override` changed.
BY_USER = "set by the user"


@dataclass(frozen=True)
class Recipe:
    """A training recipe; `keras-resnet recipes NAME` prints one with its citations.

    Args:
        name: as in `RECIPES`.
        duration: length of training, in `unit`.
        unit: `"epochs"` or optimizer `"steps"`; an epoch that is cut short counts as one.
        batch_size: global: images per optimizer step, over all workers, replicas and accumulated
            batches.
        optimizer: how weights are updated.
        schedule: how the learning rate changes.
        loss: what is minimised.
        augmentation: how training images are varied.
        train_size: height and width of training images; None: those of evaluation.
        protocol: how images are prepared for evaluation; None: as the data config says.
        average: the moving average of the weights, which is what is evaluated and saved.
        patience: training ends early after so many epochs without a better validation accuracy;
            None: it does not.
        precise_bn: so many training batches from which BN's statistics are computed anew before
            the last weights are saved (He et al. 2015's released models); 0: the moving ones stay.
        network: fields of `ResNetConfig` that the recipe sets where it builds the network.
        citations: where values come from: dotted field -> citation; `""` is the recipe as a whole.
        expected: published results with it: network -> top-1 accuracy in percent, for comparison.

    Raises:
        ValueError: a field has another value than these.
    """

    name: str
    duration: float
    batch_size: int
    unit: Unit = "epochs"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    train_size: int | None = None
    protocol: EvalProtocol | None = None
    average: AverageConfig = field(default_factory=AverageConfig)
    patience: int | None = None
    precise_bn: int = 0
    network: Mapping[str, Any] = field(default_factory=dict)
    citations: Mapping[str, str] = field(default_factory=dict, repr=False)
    expected: Mapping[str, float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_number("duration", self.duration, 1e-9)
        check_choice("unit", self.unit, get_args(Unit))
        store_integers(self, ("batch_size", "patience", "train_size"))
        store_integers(self, ("precise_bn",), 0)
        if self.batch_size % self.optimizer.accumulation:
            raise ValueError(
                "Expected `batch_size` to be a multiple of `optimizer.accumulation`. Received: "
                f"{self.batch_size} and {self.optimizer.accumulation}"
            )
        if self.loss.l2_sp and self.optimizer.weight_decay:
            raise ValueError(
                "Expected either `loss.l2_sp`, which pulls to the weights at the start, or "
                "`optimizer.weight_decay`, which pulls to zero. Received: "
                f"{self.loss.l2_sp:g} and {self.optimizer.weight_decay:g}. Set one of them to 0"
            )
        for name in ("network", "citations", "expected"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def learning_rate(self) -> float:
        """The peak rate at this `batch_size`, by the linear scaling rule if the recipe has it."""
        reference = self.optimizer.reference_batch_size
        return self.optimizer.learning_rate * (self.batch_size / reference if reference else 1.0)

    def in_steps(self, steps_per_epoch: float) -> Recipe:
        """The same recipe with every time counted in optimizer steps."""
        steps = {"epochs": steps_per_epoch, "steps": 1}
        duration = max(1, round(self.duration * steps[self.unit]))
        schedule = _stretched(self.schedule, steps[self.schedule.unit], "steps")
        return dataclasses.replace(self, duration=duration, unit="steps", schedule=schedule)

    def lasting(self, duration: float) -> Recipe:
        """The same recipe for another length of training, in the same unit.

        Warm-up and milestones keep their share of the whole. (To change one of them alone, use
        `override`.)

        Raises:
            ValueError: schedule and duration are not in the same unit; see `in_steps`.
        """
        if self.schedule.unit != self.unit:
            raise ValueError(
                "Expected a recipe whose times have one unit. Received: a duration in "
                f"{self.unit}, a schedule in {self.schedule.unit}. Use `in_steps` first"
            )
        schedule = _stretched(self.schedule, duration / self.duration, self.unit)
        return dataclasses.replace(self, duration=duration, schedule=schedule)

    def as_dict(self) -> dict[str, Any]:
        """All fields but `citations` and `expected`, fit for JSON; `recipe_from_dict` reads it."""
        values: dict[str, Any] = _plain(self)
        for name in ("citations", "expected"):
            del values[name]
        return values


def _stretched(schedule: ScheduleConfig, factor: float, unit: Unit) -> ScheduleConfig:
    return dataclasses.replace(
        schedule,
        unit=unit,
        warmup=schedule.warmup * factor,
        every=schedule.every * factor,
        milestones=tuple(time * factor for time in schedule.milestones),
        points=tuple((time * factor, rate) for time, rate in schedule.points),
    )


def _plain(value: Any) -> Any:
    """Dataclasses and mappings become dicts, tuples lists."""
    if dataclasses.is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


_PARTS: dict[str, type] = {
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "loss": LossConfig,
    "augmentation": Augmentation,
    "average": AverageConfig,
    "protocol": EvalProtocol,
}


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """The recipe that `Recipe.as_dict` wrote.

    Raises:
        ValueError: a field is unknown or has a value that it cannot have.
    """
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        part = _PARTS.get(name)
        arguments[name] = part(**value) if part and isinstance(value, Mapping) else value
    return Recipe(**arguments)


def fields_of(recipe: Recipe) -> list[str]:
    """The dotted names that `override` takes, but for those inside of `network`."""
    names = []
    for name in recipe.as_dict():
        if name in _PARTS:
            names += [f"{name}.{item.name}" for item in dataclasses.fields(_PARTS[name])]
        elif name != "name":
            names.append(name)
    return names


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with other values in some fields.

    Args:
        recipe: the one to start from.
        changes: dotted names -> values, e.g. `{"optimizer.learning_rate": 0.2}`. A field of a
            protocol that the recipe does not have starts from `EvalProtocol()`;
            `network.FIELD` is any field of `ResNetConfig`.

    Raises:
        ValueError: a field is unknown or has a value that it cannot have.
    """
    values = recipe.as_dict()
    known = [*fields_of(recipe), *(f"network.{field}" for field in FIELDS)]
    citations = dict(recipe.citations)
    for name, value in changes.items():
        part, _, rest = name.partition(".")
        if name not in known:
            hint = did_you_mean(name, known, "`keras-resnet recipes NAME` shows them")
            raise ValueError(f"Expected a field of a recipe. Received: {name!r}{hint}")
        if rest:
            # Only the protocol can be None.
            before = _plain(EvalProtocol()) if values[part] is None else values[part]
            values[part] = {**before, rest: value}
        else:
            values[name] = value
        citations[name] = BY_USER
    return recipe_from_dict({**values, "citations": citations, "expected": recipe.expected})
