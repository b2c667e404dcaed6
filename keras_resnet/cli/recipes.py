"""`keras-resnet recipes`: show the training recipes with the sources of their values."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.cli import options
from keras_resnet.cli.inputs import recipe_of
from keras_resnet.cli.options import print_json
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console, table

if TYPE_CHECKING:
    from keras_resnet.training.recipes.recipe import Recipe

_IMAGENET_IMAGES = 1_281_167
_CIFAR_IMAGES = 50_000


@options.app.command(rich_help_panel=options.DATA)
def recipes(
    name: Annotated[
        str | None, typer.Argument(help="The name of a recipe. By default, all are listed.")
    ] = None,
    settings: options.RecipeSettings = None,
    batch_size: options.BatchSize = None,
    images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Print the learning rates for this number of training images. By default, that of "
            "ImageNet, or of CIFAR for recipes that pad and crop.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also print the fields that have their defaults.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """List the training recipes, or print one with the sources of its values and its schedule."""
    if name is None:
        given = {
            "--set": settings,
            "--batch-size": batch_size,
            "--images": images,
            "--all": everything,
        }
        if names := [option for option, value in given.items() if value]:
            raise ValueError(
                "Expected the name of a recipe with these options, such as in "
                f"`keras-resnet recipes goyal2017`. Received: {', '.join(names)} alone"
            )
        _list(as_json)
        return
    recipe = recipe_of(name, settings, batch_size)
    images = images or (_CIFAR_IMAGES if recipe.augmentation.crop == "pad" else _IMAGENET_IMAGES)
    with quiet():
        rates = _rates(recipe, images)
    if as_json:
        print_json({**_described(recipe), "schedule": rates})
    else:
        _print_fields(recipe, everything)
        _print_rates(recipe, rates)


def _list(as_json: bool) -> None:
    with quiet():
        from keras_resnet.training.recipes.table import RECIPES
    recipes = list(RECIPES.values())
    if as_json:
        print_json({recipe.name: _described(recipe) for recipe in recipes})
        return
    columns = ("recipe", "optimizer", "schedule", "top-1 %", "length", "batch", "rate")
    optional = ("rate", "batch", "length")
    rows = table(columns, left=4, wrap=("schedule", "top-1 %"), optional=optional)
    for recipe in recipes:
        words = (recipe.name, recipe.optimizer.name, recipe.schedule.name, _expected(recipe))
        length = f"{recipe.duration:,g} {recipe.unit}"
        rows.add_row(*words, length, f"{recipe.batch_size:,}", f"{recipe.learning_rate:g}")
    console.print(rows)
    console.print(
        "top-1: published accuracies. rate: largest learning rate, for this batch size. "
        "`keras-resnet recipes NAME` prints a recipe with its sources."
    )


def _expected(recipe: Recipe) -> str:
    pairs = recipe.expected.items()
    return ", ".join(f"{network} {accuracy:g}" for network, accuracy in pairs) or "-"


def _described(recipe: Recipe) -> dict[str, Any]:
    return {
        "recipe": recipe.as_dict(),
        "peak_learning_rate": recipe.learning_rate,
        "sources": dict(recipe.citations),
        "expected": dict(recipe.expected),
    }


def _print_fields(recipe: Recipe, everything: bool) -> None:
    """Print the values that have a source or differ from the defaults, or `everything`."""
    from keras_resnet.images.protocol import EvalProtocol
    from keras_resnet.training.recipes.recipe import Recipe as RecipeClass, fields_of

    values = recipe.as_dict()
    defaults = RecipeClass("", recipe.duration, recipe.batch_size, protocol=EvalProtocol())
    default_values = defaults.as_dict()
    unused = ("network",) if recipe.protocol else ("network", "protocol.")
    names = [name for name in fields_of(recipe) if not name.startswith(unused)]
    names += [f"network.{field}" for field in recipe.network]
    rows = table(("field", "value", "source"), left=3, wrap=("value", "source"))
    left_out = 0
    for name in names:
        part, _, field = name.partition(".")
        value = values[part][field] if field else values[part]
        default = default_values[part].get(field) if field else default_values[part]
        is_default = part != "network" and value == default
        has_source = name in ("duration", "batch_size") or name in recipe.citations
        if is_default and not has_source and not everything:
            left_out += 1
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        rows.add_row(name, text, recipe.citations.get(name, "default"))
    if recipe.expected:
        source = recipe.citations.get("expected", "")
        rows.add_row("expected, top-1 %", _expected(recipe), source)
    console.print(f"{recipe.name}: {recipe.citations.get('', 'no source')}")
    console.print(rows)
    if left_out:
        console.print(f"{left_out} other fields have their defaults; `--all` prints them.")


def _rates(recipe: Recipe, images: int) -> dict[str, Any]:
    """Return the learning rate at the steps where the schedule changes, as data for JSON."""
    from keras_resnet.training.optimizers.rates import learning_rates, total_steps

    per_epoch = math.ceil(images / recipe.batch_size)
    total = total_steps(recipe, per_epoch)
    schedule = recipe.in_steps(per_epoch).schedule
    times = [0, schedule.warmup, *(total * part / 4 for part in (1, 2, 3)), total - 1]
    if schedule.name == "multi-step":
        times += schedule.milestones
    elif schedule.name == "piecewise-linear":
        times += [time for time, _ in schedule.points]
    elif schedule.name == "step":
        times += [count * schedule.every for count in range(1, 4)]
    steps = sorted({round(time) for time in times if round(time) < total})
    rates = learning_rates(recipe, per_epoch, steps)
    entries = [
        {"step": step, "epoch": step / per_epoch, "learning_rate": rate}
        for step, rate in zip(steps, rates, strict=True)
    ]
    counts = {"images": images, "steps_per_epoch": per_epoch, "steps": total}
    return {**counts, "learning_rates": entries}


def _print_rates(recipe: Recipe, data: dict[str, Any]) -> None:
    steps, per_epoch, images = (data[key] for key in ("steps", "steps_per_epoch", "images"))
    console.print(f"{steps:,} steps, {per_epoch:,} an epoch of {images:,} images")
    rows = table(("step", "epoch", "learning rate"), left=0)
    for entry in data["learning_rates"]:
        rate = f"{entry['learning_rate']:.6g}"
        rows.add_row(f"{entry['step']:,}", f"{entry['epoch']:.2f}", rate)
    console.print(rows)
    schedule = recipe.schedule
    if schedule.name == "plateau":
        console.print(
            f"The rate is multiplied by {schedule.factor:g} when the validation error stops "
            "falling: these steps are not known in advance."
        )
    if (error := schedule.low_until_error) is not None:
        low = schedule.low_factor
        console.print(
            f"The rate is multiplied by {low:g} until the training error is below {error:.0%}."
        )
