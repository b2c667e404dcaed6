from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet.training.optimizers.rates import learning_rates, total_steps
from keras_resnet.training.optimizers.schedules import Plateau, RecipeSchedule, make_schedule
from keras_resnet.training.recipes.parts import OptimizerConfig, ScheduleConfig
from keras_resnet.training.recipes.recipe import Recipe

from ...conftest import Run


def recipe(
    schedule: ScheduleConfig, duration: float = 10, rate: float = 0.4, **fields: Any
) -> Recipe:
    optimizer = fields.pop("optimizer", OptimizerConfig(learning_rate=rate))
    return Recipe("own", duration, 32, optimizer=optimizer, schedule=schedule, **fields)


COSINE_35 = 0.2 * (1 + math.cos(math.pi / 4))

# 10 steps an epoch, a peak of 0.4; all values by hand.
BY_HAND = {
    "constant": (ScheduleConfig(), {0: 0.4, 50: 0.4, 99: 0.4}),
    "plateau": (ScheduleConfig("plateau"), {0: 0.4, 99: 0.4}),
    "step": (
        ScheduleConfig("step", every=3, factor=0.5),
        {0: 0.4, 29: 0.4, 30: 0.2, 59: 0.2, 60: 0.1, 99: 0.05},
    ),
    "multi-step": (
        ScheduleConfig("multi-step", milestones=(3, 6.05)),
        {0: 0.4, 29: 0.4, 30: 0.04, 59: 0.04, 60: 0.004, 99: 0.004},
    ),
    "multi-step in steps": (
        ScheduleConfig("multi-step", unit="steps", milestones=(3, 6)),
        {2: 0.4, 3: 0.04, 5: 0.04, 6: 0.004},
    ),
    "cosine": (ScheduleConfig("cosine"), {0: 0.4, 25: COSINE_35, 50: 0.2, 100: 0.0, 120: 0.0}),
    "cosine after warm-up": (
        ScheduleConfig("cosine", warmup=2, warmup_from=0.5, end=0.1),
        {0: 0.2, 10: 0.3, 20: 0.4, 60: 0.22, 100: 0.04},
    ),
    "cosine from the start of the warm-up": (
        ScheduleConfig("cosine", warmup=2, counts_warmup=True),
        {0: 0.0, 10: 0.2, 20: 0.2 * (1 + math.cos(math.pi / 5)), 50: 0.2, 100: 0.0},
    ),
    "polynomial from the start of the warm-up": (
        ScheduleConfig("polynomial", warmup=2, counts_warmup=True, power=1),
        {0: 0.0, 10: 0.2, 20: 0.32, 50: 0.2, 100: 0.0},
    ),
    "polynomial": (
        ScheduleConfig("polynomial", warmup=2, end=0.5),
        {0: 0.0, 5: 0.1, 20: 0.4, 60: 0.25, 100: 0.2},
    ),
    "linear": (ScheduleConfig("polynomial", power=1), {0: 0.4, 75: 0.1}),
    "piecewise-linear": (
        ScheduleConfig("piecewise-linear", points=((1, 0.5), (2, 1), (8, 0))),
        {0: 0.2, 10: 0.2, 15: 0.3, 20: 0.4, 50: 0.2, 80: 0.0, 99: 0.0},
    ),
    "a jump between two steps": (
        ScheduleConfig("piecewise-linear", unit="steps", points=((0, 0.1), (4, 0.1), (5, 1))),
        {0: 0.04, 4: 0.04, 5: 0.4, 99: 0.4},
    ),
    "milestones count from the start": (
        ScheduleConfig("multi-step", warmup=2, milestones=(3,)),
        {19: 0.38, 20: 0.4, 29: 0.4, 30: 0.04},
    ),
}


def test_a_cosine_that_counts_the_warmup_is_timms() -> None:
    """`tests/fixtures/make_auto_augment.py` has asked it."""
    with np.load(Path(__file__).parents[2] / "fixtures" / "auto_augment.npz") as file:
        expected = file["cosine"]
    cosine = ScheduleConfig("cosine", warmup=5, warmup_from=0.02, counts_warmup=True, end=2e-4)
    found = learning_rates(recipe(cosine, 40, 5e-3), 1, range(40))
    assert found == pytest.approx(expected.tolist(), rel=1e-9)


@pytest.mark.parametrize("name", BY_HAND)
def test_values_by_hand(name: str) -> None:
    schedule, expected = BY_HAND[name]
    steps = list(expected)
    exact = learning_rates(recipe(schedule), 10, steps)
    assert exact == pytest.approx(list(expected.values()), rel=1e-12, abs=1e-15)
    in_keras = make_schedule(recipe(schedule), 10)
    values = [keras.ops.convert_to_numpy(in_keras(step)) for step in steps]
    assert {value.dtype.name for value in values} == {"float32"}
    assert [float(value) for value in values] == pytest.approx(exact, rel=1e-6, abs=1e-9)
    assert min(values) >= 0


def test_unscaled_warm_up_starts_at_the_rate_before_scaling() -> None:
    """Goyal et al. 2017: from 0.1 to 0.1 * 8192 / 256 = 3.2."""
    optimizer = OptimizerConfig(learning_rate=0.1, reference_batch_size=8)
    schedule = ScheduleConfig(warmup=2, warmup_from="unscaled")
    rates = learning_rates(recipe(schedule, optimizer=optimizer), 10, [0, 10, 20, 50])
    assert rates == pytest.approx([0.1, 0.25, 0.4, 0.4])
    small = OptimizerConfig(learning_rate=0.1, reference_batch_size=64)
    assert learning_rates(recipe(schedule, optimizer=small), 10, [0, 10, 30]) == [0.05] * 3


def test_steps_are_optimizer_steps_of_fractional_epochs_too() -> None:
    own = recipe(ScheduleConfig("multi-step", milestones=(3,)), duration=4)
    assert (total_steps(own, 10), total_steps(own, 2.5)) == (40, 10)
    # Epoch 3 starts at step 7.5, which the nearer of two steps stands for.
    assert learning_rates(own, 2.5, [6, 7, 8])[::2] == pytest.approx([0.4, 0.04])
    own = recipe(ScheduleConfig("multi-step", unit="steps", milestones=(20,)), 30, unit="steps")
    assert total_steps(own, 7) == 30
    assert learning_rates(own, 7, [19, 20]) == pytest.approx([0.4, 0.04])


@pytest.mark.parametrize("name", ["step", "multi-step", "cosine", "polynomial"])
def test_late_steps_are_as_precise_as_early_ones(name: Any) -> None:
    """In float32, 1 + cos would lose everything about the last thousand of 600,000 steps."""
    schedule = ScheduleConfig(
        name, unit="steps", warmup=1000, milestones=(599_998,), every=599_999, factor=0.5
    )
    own = recipe(schedule, 600_000, unit="steps")
    steps = [0, 1, 999, 1000, 300_000, 599_000, 599_997, 599_998, 599_999]
    in_keras = make_schedule(own, 1)
    values = [float(in_keras(step)) for step in steps]
    assert values == pytest.approx(learning_rates(own, 1, steps), rel=1e-6, abs=0)
    if name == "cosine":
        # sin(pi / 2 * left)^2 with one step of 599,000 left.
        assert values[-1] == pytest.approx(0.4 * (math.pi / 2 / 599_000) ** 2, rel=1e-6)


def test_optimizer_follows_it_in_a_graph_and_saves_it() -> None:
    import tensorflow as tf

    own = recipe(ScheduleConfig("cosine", warmup=2))
    optimizer = keras.optimizers.SGD(make_schedule(own, 10))
    variable = keras.Variable([0.0])
    optimizer.build([variable])

    @tf.function
    def update() -> None:
        optimizer.apply([tf.ones((1,))])

    for _ in range(25):
        update()
    expected = -sum(learning_rates(own, 10, range(25)))
    assert float(variable.numpy()[0]) == pytest.approx(expected, rel=1e-6)
    saved = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    loaded = keras.optimizers.deserialize(saved)
    assert isinstance(loaded._learning_rate, RecipeSchedule)
    assert float(loaded._learning_rate(60)) == float(make_schedule(own, 10)(60)) > 0


@pytest.mark.full
def test_jax_gives_the_same_values(run_new_python: Run) -> None:
    pytest.importorskip("jax")
    code = """
import json, sys, jax, keras, numpy
from keras_resnet.training.optimizers.schedules import RecipeSchedule
assert keras.backend.backend() == "jax"
for config in json.loads(sys.argv[1]):
    schedule, steps = RecipeSchedule.from_config(config), numpy.array([0, 13, 55, 99])
    print(json.dumps([*jax.jit(schedule)(steps).tolist(), float(schedule(55))]))
"""
    recipes = [recipe(schedule) for schedule, _ in BY_HAND.values()]
    configs = json.dumps([make_schedule(own, 10).get_config() for own in recipes])
    done = run_new_python(code, configs, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(recipes)
    for own, line in zip(recipes, lines, strict=True):
        rates = learning_rates(own, 10, (0, 13, 55, 99, 55))
        assert json.loads(line) == pytest.approx(rates, rel=1e-6, abs=1e-8)


def test_warm_up_has_to_end_before_the_training() -> None:
    own = recipe(ScheduleConfig(warmup=10))
    for use in (lambda: make_schedule(own, 10), lambda: learning_rates(own, 10, [0])):
        with pytest.raises(ValueError, match="a warm-up of 100 steps in a training of 100"):
            use()


def test_plateau_lowers_the_rate_after_so_many_epochs_without_a_lower_error() -> None:
    plateau = Plateau(factor=0.1, patience=2, threshold=0.01)
    assert plateau.factor == 1
    errors = {
        0.50: 1.0,
        0.40: 1.0,
        0.395: 1.0,  # lower, but by less than the threshold
        0.391: 0.1,
        0.38: 0.1,
        0.45: 0.1,
        0.46: 0.01,  # two more epochs without
        0.47: 0.01,
        math.nan: 0.001,
    }
    assert [plateau.update(error) for error in errors] == pytest.approx(list(errors.values()))


def test_plateau_goes_on_where_it_was() -> None:
    errors = [0.5, 0.6, 0.6, 0.4, 0.4, 0.4, 0.4, 0.4, 0.3, 0.3]
    whole = Plateau(0.5, 3, 0.0)
    factors = [whole.update(error) for error in errors]
    assert factors == [1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]
    for split in range(len(errors)):
        first, second = Plateau(0.5, 3, 0.0), Plateau(0.5, 3, 0.0)
        for error in errors[:split]:
            first.update(error)
        second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
        assert second.factor == first.factor
        assert [second.update(error) for error in errors[split:]] == factors[split:]
