"""The recipes, networks and images that options name; and the export of a network."""

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
    """Return the recipe, or that of this name, with what `--set` and `--batch-size` say.

    Args:
        recipe: the recipe, or its name.
        settings: the values of `--set`.
        batch_size: that of `--batch-size`.
        fields: of the network, as `network_options` returns them.
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
    """Return the fields of `ResNetConfig` that `--version`, `--shortcut` and `--net` set.

    Raises:
        ValueError: there is no such field, or no such value of one that is a word.
    """
    from keras_resnet.networks.config import CHOICES, FIELDS

    fields = parse_settings(net, "--net")
    for field, value in (("version", version), ("shortcut", shortcut)):
        if value is not None:
            fields[field] = None if value == "none" else value
    if unknown := sorted(fields.keys() - set(FIELDS)):
        hint = did_you_mean(unknown[0], FIELDS) or _place_of(unknown[0])
        raise ValueError(f"Expected `--net` with a field of networks. Received: {unknown[0]}{hint}")
    for field in CHOICES.keys() & fields.keys():
        check_choice(field, fields[field], CHOICES[field])
    return fields


def _place_of(name: str) -> str:
    """The end of the message about what is no field of networks: what says it instead."""
    for argument in nearest(name, ("classes", "size", "weights")):
        option = in_options(f"`{argument}`")
        if "--" in option:
            return f". Pass {option}"
        if argument == "classes":
            return ". The data or the weights decide how many classes there are"
    return ". `keras-resnet info NAME --json` shows the fields, as `config`"


def set_by_user(recipe: Recipe, *prefixes: str) -> list[str]:
    """Return the fields with one of these prefixes that the user has changed."""
    from keras_resnet.training.recipes.recipe import BY_USER

    given = recipe.citations.items()
    return [name for name, by in given if name.startswith(prefixes) and by == BY_USER]


def seed_everything(seed: int, deterministic: bool | None) -> None:
    """Seeds weights and augmentation; without GPUs, the same bits come out every time."""
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
    """Both parts of a data set; `show` prints how large they are."""
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
    """Prints what a Python function says, in the words of the command."""
    print_lines(in_options(text))


def network_fields(name: str, recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe and the options of networks change in the network of that name.

    Raises:
        ValueError: the recipe is for networks of another kind than the name says.
    """
    from keras_resnet.networks.config import ResNetConfig
    from keras_resnet.networks.table import get_config

    own, given = get_config(name), set_by_user(recipe, "network.")
    for field, value in recipe.network.items():
        default = getattr(ResNetConfig, field, None)
        if f"network.{field}" not in given and getattr(own, field) not in (default, value):
            raise ValueError(
                f"Expected a network with `{field}={value!r}`, as the recipe {recipe.name} has it. "
                f"Received: {name}, with {getattr(own, field)!r}. Choose another recipe, or pass "
                f"`--net {field}={getattr(own, field)}`"
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
    """The network of that name for the classes of the data, and both parts of the data."""
    from keras_resnet.networks.builders import create_model
    from keras_resnet.networks.table import get_config

    fields = network_fields(name, recipe)
    side = size or get_config(name, **fields).default_size
    parts = load_images(data, side, validation_fraction, show)
    arguments: dict[str, Any] = {"weights": weights, "input_shape": (side, side, 3)}
    classes = len(parts[0].class_names)
    return create_model(name, classes=classes, **arguments, **fields), parts


def fields_for(model: str, recipe: Recipe) -> dict[str, Any]:
    """Return what changes in a network by name; of a file, what was asked to change."""
    if not model.endswith(MODEL_SUFFIXES):
        return network_fields(model, recipe)
    return {
        name.removeprefix("network."): recipe.network[name.removeprefix("network.")]
        for name in set_by_user(recipe, "network.")
    }


def check_for_recipe(
    model: str, weights: str | None, size: int | None, recipe: Recipe, *, trained: bool = False
) -> tuple[str, dict[str, Any]]:
    """Do what `check_model` does; return the model, and what the recipe changes in its network."""
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
    """Load a file of a Keras model, or build a network by name, by default with random weights.

    Random weights are those of `seed`. Other arguments and errors are those of `check_model`.
    """
    model = check_model(model, weights, size, fields)
    with quiet():
        import keras

        from keras_resnet.models.saving import load_model
        from keras_resnet.networks.builders import create_model
    if model.endswith(MODEL_SUFFIXES):
        return load_model(model, compile=False)
    if weights is None:
        # The same ones every time, so that an export that was interrupted goes on.
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
    """Exports, prints the report, and then raises the error that there may have been.

    Args:
        network: what is exported.
        output: the folder.
        targets: names; without any, those that `export` has by default.
        as_json: whether the report is JSON for a program.
        keywords: those of `export`.
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
    # Without a new artifact, that of the export to be replaced is still there.
    if not as_json and (failure is None or not keywords.get("overwrite")):
        console.print(f"Report: {output / 'export.html'} and {output / 'export.json'}")
    if failure is not None:
        raise failure
