"""A training recipe as data; `table.py` has the table of all recipes."""

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

#: The citation of a field that `override` changed.
BY_USER = "set by the user"


@dataclass(frozen=True)
class Recipe:
    """A training recipe; `keras-resnet recipes NAME` prints one with its citations.

    Args:
        name: name of the recipe, its key in `RECIPES`.
        duration: length of training, in `unit`.
        unit: `"epochs"` or optimizer `"steps"`; a partial epoch counts as one epoch.
        batch_size: global batch size: images per optimizer step, over all workers, replicas and
            accumulated batches.
        optimizer: the optimizer and its settings.
        schedule: schedule of the learning rate.
        loss: the loss and its settings.
        augmentation: augmentation of the training images.
        train_size: height and width of training images; None: those of evaluation images.
        protocol: evaluation protocol; None: that of the model, or the usual one for its image size.
        average: moving average of the weights. If there is one, it is what is evaluated and saved.
        patience: number of epochs without a better validation accuracy after which training ends
            early; None: it never ends early.
        precise_bn: number of training batches from which the statistics of BN are recomputed before
            the last weights are saved, as for the models that He et al. 2015 released; 0: the
            moving statistics are saved.
        network: fields of `ResNetConfig` that the recipe sets when it builds the network.
        citations: sources of the values: dotted field -> citation; `""` is the recipe as a whole.
        expected: published results of the recipe: network -> top-1 accuracy in percent.

    Raises:
        ValueError: If a field has an invalid value.
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
                "Expected either `loss.l2_sp`, which pulls weights to their initial values, or "
                "`optimizer.weight_decay`, which pulls them to zero. Received: both, "
                f"{self.loss.l2_sp:g} and {self.optimizer.weight_decay:g}. Set one of them to 0"
            )
        for name in ("network", "citations", "expected"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def learning_rate(self) -> float:
        """The peak learning rate at this `batch_size`, scaled linearly if the recipe says so."""
        reference = self.optimizer.reference_batch_size
        return self.optimizer.learning_rate * (self.batch_size / reference if reference else 1.0)

    def in_steps(self, steps_per_epoch: float) -> Recipe:
        """Return the recipe with all times in optimizer steps."""
        steps = {"epochs": steps_per_epoch, "steps": 1}
        duration = max(1, round(self.duration * steps[self.unit]))
        schedule = _stretched(self.schedule, steps[self.schedule.unit], "steps")
        return dataclasses.replace(self, duration=duration, unit="steps", schedule=schedule)

    def lasting(self, duration: float) -> Recipe:
        """Return the recipe for another length of training, in the same unit.

        Warm-up and milestones are scaled in proportion. To change one time alone, use `override`.

        Raises:
            ValueError: If schedule and duration are not in the same unit; see `in_steps`.
        """
        if self.schedule.unit != self.unit:
            raise ValueError(
                "Expected a recipe whose duration and schedule have the same unit. Received: a "
                f"duration in {self.unit}, a schedule in {self.schedule.unit}. Use `in_steps` first"
            )
        schedule = _stretched(self.schedule, duration / self.duration, self.unit)
        return dataclasses.replace(self, duration=duration, schedule=schedule)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields except `citations` and `expected` as JSON-serializable data."""
        values: dict[str, Any] = _plain(self)
        for name in ("citations", "expected"):
            del values[name]
        return values


def _stretched(schedule: ScheduleConfig, factor: float, unit: Unit) -> ScheduleConfig:
    """Return the schedule with all times multiplied by `factor`."""
    return dataclasses.replace(
        schedule,
        unit=unit,
        warmup=schedule.warmup * factor,
        every=schedule.every * factor,
        milestones=tuple(time * factor for time in schedule.milestones),
        points=tuple((time * factor, rate) for time, rate in schedule.points),
    )


def _plain(value: Any) -> Any:
    """Convert dataclasses and mappings to dicts, and tuples to lists."""
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
    """Return the recipe that `Recipe.as_dict` wrote.

    Raises:
        ValueError: If a field is unknown or has an invalid value.
    """
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        part = _PARTS.get(name)
        arguments[name] = part(**value) if part and isinstance(value, Mapping) else value
    return Recipe(**arguments)


def fields_of(recipe: Recipe) -> list[str]:
    """Return the dotted names that `override` takes, except those in `network`."""
    names = []
    for name in recipe.as_dict():
        if name in _PARTS:
            names += [f"{name}.{item.name}" for item in dataclasses.fields(_PARTS[name])]
        elif name != "name":
            names.append(name)
    return names


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return a recipe with some fields changed.

    Changed fields are cited as set by the user.

    Args:
        recipe: the recipe to change.
        changes: dotted names -> values, e.g. `{"optimizer.learning_rate": 0.2}`.
            `network.FIELD` is any field of `ResNetConfig`. If the recipe has no protocol, fields of
            `protocol` change those of `EvalProtocol()`.

    Raises:
        ValueError: If a field is unknown or has an invalid value.
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
