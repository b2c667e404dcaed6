from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from keras_resnet.training.optimizers.rates import learning_rates, total_steps
from keras_resnet.training.optimizers.schedules import make_schedule
from keras_resnet.training.recipes.recipe import Recipe
from keras_resnet.training.recipes.table import RECIPES

GOLDEN = Path(__file__).parents[2] / "golden" / "recipes.json"

#: Training images: of the digits, of CIFAR, of ImageNet.
DIGITS, CIFAR, IMAGENET = 1_437, 50_000, 1_281_167


def images_of(recipe: Recipe) -> int:
    if recipe.name == "quick-digits":
        return DIGITS
    return CIFAR if "cifar" in recipe.name else IMAGENET


def chosen_steps(recipe: Recipe, per_epoch: int) -> list[int]:
    """The ends, the middle of the warm-up, ninths of the whole, and both sides of its thirds."""
    total = total_steps(recipe, per_epoch)
    warmup = round(recipe.in_steps(per_epoch).schedule.warmup)
    steps = {0, 1, warmup // 2, warmup, total - 1}
    steps |= {total * ninth // 9 for ninth in range(9)}
    steps |= {total * third // 3 - 1 for third in (1, 2)}
    if recipe.unit == "steps" and total == 64_000:
        steps |= {399, 400, 31_999, 32_000, 47_999, 48_000}
    return sorted(steps)


def described(recipe: Recipe) -> dict[str, Any]:
    per_epoch = math.ceil(images_of(recipe) / recipe.batch_size)
    steps = chosen_steps(recipe, per_epoch)
    rates = learning_rates(recipe, per_epoch, steps)
    return {
        "steps": total_steps(recipe, per_epoch),
        "weight_decay": recipe.optimizer.weight_decay,
        "decay": recipe.optimizer.decay,
        "decay_on": list(recipe.optimizer.decay_on),
        "momentum": recipe.optimizer.momentum,
        "nesterov": recipe.optimizer.nesterov,
        "label_smoothing": recipe.loss.label_smoothing,
        # Libraries of mathematics differ in the last digits.
        "learning_rate": {
            str(step): float(f"{rate:.9g}") for step, rate in zip(steps, rates, strict=True)
        },
    }


def test_golden_recipes() -> None:
    """What trains. `make golden` rewrites the file; review the diff."""
    values = {name: described(recipe) for name, recipe in RECIPES.items()}
    if os.environ.get("KERAS_RESNET_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(values, indent=1) + "\n")
    assert values == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("name", RECIPES)
def test_keras_gives_the_golden_rates(name: str) -> None:
    recipe = RECIPES[name]
    schedule = make_schedule(recipe, math.ceil(images_of(recipe) / recipe.batch_size))
    rates = json.loads(GOLDEN.read_text())[name]["learning_rate"]
    assert len(rates) >= 9
    for step, rate in rates.items():
        assert float(schedule(int(step))) == pytest.approx(rate, rel=1e-6)
