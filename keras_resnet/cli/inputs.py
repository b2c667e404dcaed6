"""What options stand for: recipes, networks and images; and the export of a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_resnet.cli.options import parse_settings, print_report
from keras_resnet.cli.wording import in_options
from keras_resnet.support.checks import MODEL_SUFFIXES
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console, print_lines, progress_bar

if TYPE_CHECKING:
    import keras

    from keras_resnet.data import Source
    from keras_resnet.training import Recipe


def recipe_of(recipe: str | Recipe, settings: list[str] | None, batch_size: int | None) -> Recipe:
    """The recipe, or that of this name, with what `--set` and `--batch-size` say."""
    with quiet():
        from keras_resnet.training.recipes.recipe import override
        from keras_resnet.training.recipes.table import find_recipe
    changes = parse_settings(settings, none="none")
    if batch_size is not None:
        changes["batch_size"] = batch_size
    return override(find_recipe(recipe) if isinstance(recipe, str) else recipe, changes)


def set_by_user(recipe: Recipe, *prefixes: str) -> list[str]:
    """The fields with one of these prefixes that `--set` has changed."""
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
    """What a recipe and `--set network.…` change in the network of that name.

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
                f"`--set network.{field}={getattr(own, field)}`"
            )
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


def load_network(
    model: str,
    weights: str | None,
    size: int | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
) -> keras.Model:
    """A file of a Keras model, or a network by name, by default with the random weights of `seed`.

    Raises:
        ValueError: there is a file, and arguments that only networks by name have.
    """
    with quiet():
        import keras

        from keras_resnet.models.saving import load_model
        from keras_resnet.networks.builders import create_model
    if not model.endswith(MODEL_SUFFIXES):
        if weights is None:
            # The same ones every time, so that an export that was interrupted goes on.
            keras.utils.set_random_seed(seed)
        shape = None if size is None else (size, size, 3)
        fields = {} if recipe is None else network_fields(model, recipe)
        return create_model(model, weights=weights, input_shape=shape, **fields)
    changed = [] if recipe is None else set_by_user(recipe, "network.")
    if changed or size is not None:
        raise ValueError(
            "Expected neither `--size` nor `--set network.…` with a file of a model, whose network "
            f"is built. Received: {', '.join(changed) or f'--size {size}'}"
        )
    if weights is not None:
        raise ValueError(
            "Expected no `--weights` with a file of a model, which has its own. "
            f"Received: --weights {weights}"
        )
    return load_model(model, compile=False)


def check_weights(model: str, weights: str | None) -> None:
    """Refuses a network by name without weights."""
    if not model.endswith(MODEL_SUFFIXES) and weights is None:
        raise ValueError(
            "Expected `--weights` with the name of a network, which has random ones without. "
            f"Received: {model} alone"
        )


def check_targets(text: str) -> list[str]:
    """The names of targets, which are separated by commas; `all` stands for every one."""
    with quiet():
        from keras_resnet.export import TARGETS
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return list(TARGETS)
    unknown = [name for name in names if name not in TARGETS]
    if unknown or not names:
        raise ValueError(
            f"Expected targets among {', '.join(TARGETS)}, or all. Received: "
            f"{', '.join(unknown) or 'none'}"
        )
    return names


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
