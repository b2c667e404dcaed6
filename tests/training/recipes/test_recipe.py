from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

import keras_resnet
from keras_resnet import ResNetConfig
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.training.recipes.parts import (
    AverageConfig,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from keras_resnet.training.recipes.recipe import Recipe, fields_of, override, recipe_from_dict
from keras_resnet.training.recipes.table import RECIPES, find_recipe

NAMES = list(RECIPES)


def set_values(recipe: Recipe) -> set[str]:
    """Dotted names of what differs from the defaults of the dataclasses."""
    values = recipe.as_dict()
    defaults = Recipe("default", 1, 1).as_dict()
    # Every recipe has a length and a batch size, whatever they are.
    found = {"duration", "batch_size", *(f"network.{field}" for field in values["network"])}
    for name in fields_of(recipe):
        part, _, field = name.partition(".")
        if part in ("duration", "batch_size", "network"):
            continue
        if not field:
            found |= {name} if values[name] != defaults[name] else set()
        elif values[part] is not None and (
            defaults[part] is None or values[part][field] != defaults[part][field]
        ):
            found.add(name)
    return found | ({"expected"} if recipe.expected else set())


@pytest.mark.parametrize("name", NAMES)
def test_every_value_that_a_recipe_sets_has_a_source(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name
    assert set_values(recipe) <= set(recipe.citations)
    known = {"", "expected", *fields_of(recipe), *(f"network.{key}" for key in recipe.network)}
    assert set(recipe.citations) <= known
    assert all(len(source) > 8 for source in recipe.citations.values())


def test_what_counts_as_set() -> None:
    """So that the test above cannot pass because it finds nothing."""
    found = set_values(RECIPES["goyal2017"])
    assert found == {
        *("duration", "batch_size", "network.zero_init_residual", "expected"),
        *("optimizer.reference_batch_size", "optimizer.nesterov", "optimizer.form"),
        "optimizer.weight_decay",
        *("optimizer.decay_on", "schedule.name", "schedule.milestones", "schedule.warmup"),
        *("schedule.warmup_from", "augmentation.crop", "augmentation.flip"),
        *("protocol.size", "protocol.resize", "protocol.interpolation"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_recipes_survive_json_and_name_networks(name: str) -> None:
    recipe = RECIPES[name]
    read = recipe_from_dict(json.loads(json.dumps(recipe.as_dict(), allow_nan=False)))
    assert read == dataclasses.replace(recipe, citations={}, expected={})
    assert set(recipe.expected) <= set(keras_resnet.list_models())
    assert all(50 < accuracy < 100 for accuracy in recipe.expected.values())
    ResNetConfig("basic", (1, 1), (8, 16), stem="cifar").replace(**recipe.network)


def test_values_of_the_sources() -> None:
    v2 = RECIPES["torchvision-v2"]
    # 1 - (1 - 0.99998) * (8 GPUs * 128 images * 32 steps) / 600 epochs.
    assert v2.average.decay == pytest.approx(1 - 0.00002 * 54.6133333, abs=1e-9)
    assert (v2.train_size, v2.protocol) == (176, EvalProtocol(224, 232))
    assert RECIPES["goyal2017"].learning_rate == pytest.approx(3.2)
    assert RECIPES["nvidia-rn50v15"].learning_rate == pytest.approx(2.048)
    assert RECIPES["nvidia-rn50v15"].optimizer.weight_decay == 3.0517578125e-05
    assert RECIPES["rsb-a3"].protocol == EvalProtocol(224, 235, "bicubic")
    assert (RECIPES["rsb-a3"].train_size, RECIPES["rsb-a1"].train_size) == (160, None)
    assert RECIPES["he2015-imagenet"].network == {"version": "v1"}
    for name in ("rsb-a1", "rsb-a2", "rsb-a3"):
        how = RECIPES[name].augmentation
        assert (how.auto, how.auto_layers) == ("timm-randaugment", 2)
        assert (how.auto_magnitude, how.auto_deviation) == (6 if name == "rsb-a3" else 7, 0.5)
        assert (how.auto_probability, how.fill) == (0.5, (124, 116, 104))
        assert RECIPES[name].schedule.counts_warmup
        assert RECIPES[name].network["zero_init_residual"]
    assert (v2.augmentation.auto, v2.augmentation.fill) == ("trivialaugment-wide", (0, 0, 0))
    assert not v2.schedule.counts_warmup
    padded = {
        name: r.augmentation.fill for name, r in RECIPES.items() if r.augmentation.crop == "pad"
    }
    assert padded == {
        **dict.fromkeys(("quick-digits", "quick-cifar10"), (0, 0, 0)),
        **dict.fromkeys(("he2015-cifar10", "he2015-cifar10-110", "he2016-cifar"), (125, 123, 114)),
    }
    forms = {name for name, r in RECIPES.items() if r.optimizer.form == "torch"}
    assert forms == {
        *("he2016-cifar", "he2016-imagenet", "goyal2017", "nvidia-rn50v15"),
        *("torchvision-v1", "torchvision-v2"),
    }
    assert RECIPES["he2015-cifar10-110"].schedule.low_until_error == 0.8
    pillow = {name for name, recipe in RECIPES.items() if recipe.augmentation.antialias}
    assert pillow == {"torchvision-v1", "torchvision-v2", "rsb-a1", "rsb-a2", "rsb-a3"}


def test_unknown_names_are_answered_with_the_known() -> None:
    assert find_recipe("rsb-a2") is RECIPES["rsb-a2"]
    with pytest.raises(ValueError, match=r"'gyal2017'. Did you mean goyal2017\?$"):
        find_recipe("gyal2017")


def test_override_changes_a_copy_and_says_so() -> None:
    old = RECIPES["goyal2017"]
    new = override(
        old,
        {
            "optimizer.learning_rate": 0.2,
            "schedule.milestones": [10, 20],
            "batch_size": 512,
            "network.stochastic_depth": 0.1,
            "protocol.size": 128,
        },
    )
    assert new.learning_rate == pytest.approx(0.4)
    assert new.schedule.milestones == (10, 20)
    assert new.network == {"zero_init_residual": True, "stochastic_depth": 0.1}
    assert new.protocol == EvalProtocol(128, 256)
    assert new.expected == old.expected
    changed = {name for name in new.citations if new.citations[name] != old.citations.get(name)}
    assert {new.citations[name] for name in changed} == {"set by the user"}
    assert changed == {
        *("optimizer.learning_rate", "schedule.milestones", "batch_size", "protocol.size"),
        "network.stochastic_depth",
    }
    assert (old.learning_rate, old.schedule.milestones) == (3.2, (30, 60, 80))


def test_override_of_a_protocol_that_there_is_not() -> None:
    new = override(RECIPES["he2015-cifar10"], {"protocol.resize": 300})
    assert new.protocol == EvalProtocol(224, 300)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("optimizer.lr", 0.1, r"Did you mean optimizer.learning_rate\?$"),
        ("learning_rate", 0.1, "Received: 'learning_rate'"),
        ("name", "mine", "Received: 'name'"),
        ("optimizer", {}, "Received: 'optimizer'"),
        ("optimizer.learning_rate", -1, "`optimizer.learning_rate` to be a number at least 0"),
        ("optimizer.learning_rate", "fast", "Received: 'fast'"),
        ("schedule.milestones", [20, 10], "`schedule.milestones` to ascend"),
        ("augmentation.crop", "square", "`crop` to be one of"),
        ("batch_size", 1.5, "`batch_size` to be an integer of at least 1"),
    ],
)
def test_override_refuses(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(RECIPES["goyal2017"], {name: value})


def test_in_steps_counts_every_time_in_steps() -> None:
    recipe = RECIPES["goyal2017"].in_steps(157)
    assert (recipe.duration, recipe.unit, recipe.schedule.unit) == (14_130, "steps", "steps")
    assert recipe.schedule.warmup == 785
    assert recipe.schedule.milestones == (4710, 9420, 12_560)
    assert recipe.in_steps(3) == recipe
    mixed = RECIPES["he2015-imagenet"].in_steps(5005)
    assert mixed.duration == 600_000
    assert mixed.schedule.every == 30 * 5005
    points = ScheduleConfig("piecewise-linear", points=((0.5, 1), (2, 0)))
    own = Recipe("own", 2.25, 8, schedule=points).in_steps(10)
    assert own.schedule.points == ((5, 1), (20, 0))
    assert own.duration == 22  # round(22.5)


def test_lasting_compresses_the_schedule() -> None:
    recipe = RECIPES["goyal2017"].lasting(9)
    assert recipe.duration == 9
    assert recipe.schedule.warmup == pytest.approx(0.5)
    assert recipe.schedule.milestones == pytest.approx((3, 6, 8))
    steps = RECIPES["he2015-cifar10"].lasting(640)
    assert steps.schedule.milestones == pytest.approx((320, 480))
    with pytest.raises(ValueError, match="a duration in steps, a schedule in epochs"):
        RECIPES["he2015-imagenet"].lasting(10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe("own", 0, 8), "`duration` to be a number at least"),
        (lambda: Recipe("own", 1, 0), "`batch_size` to be an integer of at least 1"),
        (lambda: Recipe("own", 1, 8, unit="days"), "`unit` to be one of"),  # type: ignore[arg-type]
        (
            lambda: Recipe("own", 1, 8, optimizer=OptimizerConfig(accumulation=3)),
            "a multiple of `optimizer.accumulation`. Received: 8 and 3",
        ),
        (lambda: OptimizerConfig(learning_rate=math.nan), "`optimizer.learning_rate`"),
        (lambda: OptimizerConfig("sdg"), "`optimizer.name` to be one of"),  # type: ignore[arg-type]
        (lambda: OptimizerConfig(decay_on=("bias",)), "one of .*'bias'"),  # type: ignore[arg-type]
        (lambda: OptimizerConfig(rate_groups={"stem": -1}), "rate_groups"),
        (lambda: ScheduleConfig("multi-step"), "`schedule.milestones` of a multi-step schedule"),
        (lambda: ScheduleConfig("piecewise-linear"), "`schedule.points`"),
        (lambda: ScheduleConfig(warmup_from=1.5), "`schedule.warmup_from`"),
        (lambda: ScheduleConfig(counts_warmup=1), "`schedule.counts_warmup` to be true or false"),
        (lambda: LossConfig(target_threshold=0.2), "unless `loss.name` is 'binary-"),
        (lambda: AverageConfig(decay=1.5), "`average.decay`"),
        (lambda: AverageConfig(every=0), "`average.every`"),
    ],
)
def test_impossible_values_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
