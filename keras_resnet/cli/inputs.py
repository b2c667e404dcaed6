"""Recipes, networks and images from the options of commands, and the export of a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_resnet.cli.checks import check_model
from keras_resnet.cli.options import parse_settings, print_report
from keras_resnet.cli.wording import in_options
from keras_resnet.support.checks import MODEL_SUFFIXES, check_choice
from keras_resnet.support.quiet import quiet
from keras_resnet.support.suggest import did_you_mean, nearest
from keras_resnet.support.terminal import console, print_lines, progress_bar

if TYPE_CHECKING:
    import keras

    from keras_resnet.data import Source
    from keras_resnet.training import Recipe


def recipe_of(
    recipe: str | Recipe,
    settings: list[str] | None,
    batch_size: int | None,
    fields: Mapping[str, Any] | None = None,
) -> Recipe:
    """Return a recipe with the changes of `--set`, `--batch-size` and the network's options.

    Args:
        recipe: the recipe, or its name.
        settings: values of `--set`.
        batch_size: value of `--batch-size`.
        fields: fields of the network, from `network_options`.
    """
    from keras_resnet.training.recipes.recipe import override
    from keras_resnet.training.recipes.table import find_recipe

    changes = parse_settings(settings, "--set")
    if batch_size is not None:
        changes["batch_size"] = batch_size
    changes |= {f"network.{field}": value for field, value in (fields or {}).items()}
    return override(find_recipe(recipe) if isinstance(recipe, str) else recipe, changes)


def network_options(
    version: str | None, shortcut: str | None, net: list[str] | None
) -> dict[str, Any]:
    """Return the fields of `ResNetConfig` from `--version`, `--shortcut` and `--net`.

    Raises:
        ValueError: there is no such field, or no such value of one that is a word.
    """
    from keras_resnet.networks.config import CHOICES, FIELDS

    fields = parse_settings(net, "--net")
    for field, value in (("version", version), ("shortcut", shortcut)):
        if value is not None:
            fields[field] = None if value == "none" else value
    if unknown := sorted(fields.keys() - set(FIELDS)):
        hint = did_you_mean(unknown[0], FIELDS) or _field_hint(unknown[0])
        raise ValueError(
            f"Expected `--net` with a field of ResNetConfig. Received: {unknown[0]}{hint}"
        )
    for field in CHOICES.keys() & fields.keys():
        check_choice(field, fields[field], CHOICES[field])
    return fields


def _field_hint(name: str) -> str:
    """Return a hint at what to use instead of an unknown field of networks."""
    for argument in nearest(name, ("classes", "size", "weights")):
        option = in_options(f"`{argument}`")
        if "--" in option:
            return f". Pass {option}"
        if argument == "classes":
            return ". The data or the weights decide how many classes there are"
    return ". `keras-resnet info NAME --json` shows all fields, as `config`"


def set_by_user(recipe: Recipe, *prefixes: str) -> list[str]:
    """Return the names, with one of these prefixes, of the fields that the user has set."""
    from keras_resnet.training.recipes.recipe import BY_USER

    given = recipe.citations.items()
    return [name for name, by in given if name.startswith(prefixes) and by == BY_USER]


def seed_everything(seed: int, deterministic: bool | None) -> None:
    """Seed all random numbers; by default, make operations deterministic if there is no GPU."""
    with quiet():
        import keras
        import tensorflow as tf
    if deterministic is None:
        deterministic = not tf.config.list_physical_devices("GPU")
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)


def load_images(
    data: str, side: int | None, validation_fraction: float, show: bool = True
) -> tuple[Source, Source]:
    """Return the training and the validation part of a data set; `show` prints their sizes."""
    from keras_resnet.data import DataConfig, load_data
    from keras_resnet.images.protocol import DEFAULT_SIZE
    from keras_resnet.support.progress import unsaid

    parts = load_data(
        DataConfig(data, size=side or DEFAULT_SIZE, validation_fraction=validation_fraction),
        say if show else unsaid,
    )
    if show:
        console.print(
            f"{parts[0].name}: {len(parts[0]):,} images to train on, {len(parts[1]):,} to "
            f"validate, {len(parts[0].class_names)} classes."
        )
    return parts


def say(text: str) -> None:
    """Print a message of a Python function, with options in place of arguments."""
    print_lines(in_options(text))


def network_fields(name: str, recipe: Recipe) -> dict[str, Any]:
    """Return the fields that a recipe and the options change in the network of that name.

    Raises:
        ValueError: the recipe sets a field to another value than the named network has.
    """
    from keras_resnet.networks.config import ResNetConfig
    from keras_resnet.networks.table import get_config

    config, given = get_config(name), set_by_user(recipe, "network.")
    for field, value in recipe.network.items():
        default, named = getattr(ResNetConfig, field, None), getattr(config, field)
        if f"network.{field}" not in given and named not in (default, value):
            raise ValueError(
                f"Expected a network with `{field}={value!r}`, as the recipe {recipe.name} needs. "
                f"Received: {name}, with {named!r}. Choose another recipe, or pass "
                f"`--net {field}={named}`"
            )
    get_config(name, **recipe.network)
    return dict(recipe.network)


def new_network(
    name: str,
    data: str,
    size: int | None,
    validation_fraction: float,
    recipe: Recipe,
    weights: str | None = None,
    show: bool = True,
) -> tuple[keras.Model, tuple[Source, Source]]:
    """Return a new network for the classes of the data, and both parts of the data."""
    from keras_resnet.networks.builders import create_model
    from keras_resnet.networks.table import get_config

    fields = network_fields(name, recipe)
    side = size or get_config(name, **fields).default_size
    parts = load_images(data, side, validation_fraction, show)
    arguments: dict[str, Any] = {"weights": weights, "input_shape": (side, side, 3)}
    classes = len(parts[0].class_names)
    return create_model(name, classes=classes, **arguments, **fields), parts


def fields_for(model: str, recipe: Recipe) -> dict[str, Any]:
    """Return the fields to change in a network; for a file, those that the user has set."""
    if not model.endswith(MODEL_SUFFIXES):
        return network_fields(model, recipe)
    return {
        name.removeprefix("network."): recipe.network[name.removeprefix("network.")]
        for name in set_by_user(recipe, "network.")
    }


def check_for_recipe(
    model: str, weights: str | None, size: int | None, recipe: Recipe, *, trained: bool = False
) -> tuple[str, dict[str, Any]]:
    """Call `check_model`; return the model, and the fields that the recipe changes in it."""
    if not model.endswith(MODEL_SUFFIXES):
        model = check_model(model, weights, size, trained=trained)
    changed = fields_for(model, recipe)
    return check_model(model, weights, size, changed, trained=trained), changed


def load_network(
    model: str,
    weights: str | None,
    size: int | None = None,
    fields: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> keras.Model:
    """Load the file of a Keras model, or build a network by name.

    Without `weights`, a network by name has random weights from `seed`. The other arguments and
    errors are those of `check_model`.
    """
    model = check_model(model, weights, size, fields)
    with quiet():
        import keras

        from keras_resnet.models.saving import load_model
        from keras_resnet.networks.builders import create_model
    if model.endswith(MODEL_SUFFIXES):
        return load_model(model, compile=False)
    if weights is None:
        # The same weights every time, so that an interrupted export can resume.
        keras.utils.set_random_seed(seed)
    shape = None if size is None else (size, size, 3)
    return create_model(model, weights=weights, input_shape=shape, **(fields or {}))


def export_network(
    network: keras.Model,
    output: Path,
    targets: list[str],
    as_json: bool = False,
    **keywords: Any,
) -> None:
    """Export a network and print the report.

    Args:
        network: network to export.
        output: directory for the artifacts.
        targets: names of targets; empty for the default of `export`.
        as_json: whether to print the report as JSON.
        keywords: further arguments of `export`.

    Raises:
        ExportError: an artifact disagrees with Keras or cannot be made; the report is printed
            before.
    """
    with quiet():
        from keras_resnet.export import ExportError, export
    failure = None
    with progress_bar("Exporting", hidden=as_json) as step:
        try:
            report = export(network, output, targets or None, progress=step, **keywords)
        except ExportError as error:
            report, failure = error.report, error
    print_report(report, as_json)
    # If no new artifact agrees, the directory has the report of the earlier export.
    if not as_json and (failure is None or not keywords.get("overwrite")):
        console.print(f"Report: {output / 'export.html'} and {output / 'export.json'}")
    if failure is not None:
        raise failure
