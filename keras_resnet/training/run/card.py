"""Model cards: descriptions of trained networks in Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_resnet.support.intervals import FEW_IMAGES, margin_of
from keras_resnet.support.text import markdown
from keras_resnet.training.recipes.recipe import BY_USER, Recipe
from keras_resnet.training.recipes.table import RECIPES

_MOST_CLASSES = 50

#: Fields of the recipe that are listed even if they have their defaults.
_ALWAYS = {
    "duration",
    "unit",
    "batch_size",
    "optimizer.name",
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "schedule.name",
    "loss.name",
    "augmentation.crop",
}


_FRONT_MATTER = """---
library_name: keras
pipeline_tag: image-classification
tags:
  - image-classification
  - keras
  - keras-resnets
  - resnet
metrics:
  - accuracy
---"""


@dataclass(frozen=True)
class CardFacts:
    """The facts that a model card is written from.

    Args:
        network: name of the network, e.g. `"resnet20"`.
        config: fields of the `ResNetConfig` that the network was built from.
        parameters: number of parameters, including moving statistics.
        input_shape: shape of an image, `(height, width, channels)`; None for any size.
        data: name of the data set, without paths that should stay private.
        class_names: names of the classes in the order of the outputs.
        images: number of training and validation images.
        recipe: the recipe that was used, before `in_steps`.
        history: quantity -> one value per finished epoch, such as `val_accuracy` in [0, 1].
        best_epoch: epoch of `best.keras`, counted from 1; None: there is no such file.
        seed: random seed of the run.
        dtype: precision of the computations, e.g. `"bfloat16"`.
        environment: result of `describe_environment`.
        phases: number of phases of fine-tuning, each with the whole schedule of the recipe; 0: the
            network was not fine-tuned.
    """

    network: str
    config: Mapping[str, Any]
    parameters: int
    input_shape: tuple[int | None, ...]
    data: str
    class_names: Sequence[str]
    images: tuple[int, int]
    recipe: Recipe
    history: Mapping[str, Sequence[float]]
    best_epoch: int | None
    seed: int
    dtype: str
    environment: Mapping[str, Any]
    phases: int = 0


def model_card(facts: CardFacts) -> str:
    """Return a model card in Markdown, with YAML front matter for Hugging Face.

    Fields of the recipe that differ from the recipe in `RECIPES` are marked.
    """
    sections = (
        _FRONT_MATTER,
        f"# {markdown(facts.network)} trained on {markdown(facts.data)}\n\n{_summary(facts)}",
        f"## Results\n\n{_results(facts)}",
        f"## Published results\n\n{_published(facts)}",
        f"## How to load it\n\n{_loading(facts)}",
        f"## Network\n\n{_network(facts)}",
        f"## Data\n\n{_data(facts)}",
        f"## Recipe\n\n{_recipe(facts)}",
        f"## Environment\n\n{_environment(facts)}",
    )
    return "\n\n".join(sections) + "\n"


def _summary(facts: CardFacts) -> str:
    epochs = _epochs(facts)
    phases = f"{facts.phases} phase{'' if facts.phases == 1 else 's'}"
    text = (
        f"A classifier of images into {len(facts.class_names)} classes, with {facts.parameters:,} "
        f"parameters, {f'fine-tuned in {phases}' if facts.phases else 'trained'} for {epochs} "
        f"epoch{'' if epochs == 1 else 's'} by the recipe `{facts.recipe.name}` of keras-resnets."
    )
    changed = sum(marked for *_, marked in _recipe_fields(facts.recipe))
    if changed:
        fields = "field of the recipe was" if changed == 1 else "fields of the recipe were"
        text += f" {changed} {fields} changed for this run; see below."
    return text


def _results(facts: CardFacts) -> str:
    epochs = _epochs(facts)
    if not epochs:
        return "There are no results, as no epoch was finished."
    rows = [("`last.keras`", epochs)]
    if facts.best_epoch is not None:
        rows.append(("`best.keras`", facts.best_epoch))
    names = [name for name in facts.history if name != "learning_rate"]
    table = _table(
        ("file", "epoch", *names),
        (
            (file, str(epoch), *(_figure(name, facts.history[name][epoch - 1]) for name in names))
            for file, epoch in rows
        ),
    )
    text = (
        f"{table}\n\nColumns that begin with `val_` are results on the {facts.images[1]:,} "
        "validation images; the others are means over an epoch of augmented training images, "
        "computed while the weights changed."
    )
    if facts.images[1] < FEW_IMAGES:
        margin = 100 * margin_of(facts.images[1])
        text += f" With so few images, accuracies are accurate to about ±{margin:.0f} points only."
    if facts.best_epoch is not None:
        text += (
            " `best.keras` is the model of the epoch with the highest validation accuracy. As it "
            "was chosen by these images, its accuracy on other images is probably slightly lower."
        )
    if facts.recipe.average.decay:
        text += " Moving averages of the weights were validated and saved."
    if facts.recipe.precise_bn:
        text += (
            " The statistics of batch normalization in `last.keras` were recomputed after the last "
            "epoch, so its results differ slightly from these."
        )
    return text


def _published(facts: CardFacts) -> str:
    recipe = facts.recipe
    if not recipe.expected:
        return "No published results are known for this recipe."
    network = RECIPES.get(recipe.name, recipe).network
    same = network.items() <= facts.config.items()
    known = facts.network if same else None
    rows = [
        (markdown(name) + (" (this network)" if name == known else ""), f"{value:.2f} %")
        for name, value in recipe.expected.items()
    ]
    text = f"With the recipe `{recipe.name}` as published, top-1 accuracy:\n\n" + _table(
        ("network", "accuracy"), rows
    )
    if not same:
        fields = ", ".join(f"{name}: {_json(value)}" for name, value in network.items())
        text += f"\n\nThe published networks have settings that differ from this one: {fields}."
    if any(marked for *_, marked in _recipe_fields(recipe)):
        text += "\n\nThis run changed the recipe, so its results may differ."
    return text + "\n\nThese results hold for the data set and protocol of the publication."


def _loading(facts: CardFacts) -> str:
    file = "last.keras" if facts.best_epoch is None else "best.keras"
    shape = ", ".join("any" if size is None else str(size) for size in facts.input_shape)
    return f"""```python
import keras_resnet

model = keras_resnet.load_model("{file}")
```

also restores the class names, and loads networks of any depth. Keras alone can load the file, too:

```python
import keras

model = keras.saving.load_model("{file}")
```

The model takes batches of images of shape ({shape})."""


def _network(facts: CardFacts) -> str:
    rows = [("parameters", f"{facts.parameters:,}"), ("computed in", facts.dtype)]
    rows += [(name, f"`{_json(value)}`") for name, value in facts.config.items()]
    return _table((facts.network, "value"), rows)


def _data(facts: CardFacts) -> str:
    names = [markdown(name) for name in facts.class_names]
    listed = ", ".join(names[:_MOST_CLASSES])
    if len(names) > _MOST_CLASSES:
        listed += f" and {len(names) - _MOST_CLASSES} more; the model file contains all of them"
    training, validation = facts.images
    return (
        f"{markdown(facts.data)}: {training:,} training and {validation:,} validation images.\n\n"
        f"Classes, in the order of the outputs: {listed}."
    )


def _recipe(facts: CardFacts) -> str:
    recipe = facts.recipe
    defaults = dict(_flat(Recipe("", duration=1, batch_size=1).as_dict()))
    rows = (
        (f"**{name}**" if marked else name, f"`{_json(value)}`", source)
        for name, value, source, marked in _recipe_fields(recipe)
        if source or name in _ALWAYS or defaults.get(name) != value
    )
    whole = recipe.citations.get("")
    intro = [
        f"`{recipe.name}`, with seed {facts.seed}.",
        f"Source: {markdown(whole)}." if whole else "",
        f"The peak learning rate at this batch size is {recipe.learning_rate:g}.",
        "Fields that this run changed are in bold. Fields that are not listed have their defaults; "
        f"`config.json`{' of each phase' if facts.phases else ''} contains all of them.",
        "Every phase used the whole schedule, scaled to its own epochs." if facts.phases else "",
    ]
    table = _table(("field", "value", "source"), rows)
    return f"{' '.join(filter(None, intro))}\n\n{table}"


def _environment(facts: CardFacts) -> str:
    rows = []
    for name, value in facts.environment.items():
        if isinstance(value, Mapping):
            rows += [(str(key), str(item)) for key, item in value.items() if item is not None]
        elif isinstance(value, (list, tuple)):
            rows.append((name, ", ".join(map(str, value))))
        else:
            rows.append((name, str(value)))
    return _table(("item", "version or value"), [(key, markdown(value)) for key, value in rows])


def _recipe_fields(recipe: Recipe) -> list[tuple[str, Any, str, bool]]:
    """Return name, value, source, and whether the run changed it, for each field of a recipe."""
    table = RECIPES.get(recipe.name)
    published = None if table is None else dict(_flat(table.as_dict()))
    rows = []
    for name, value in _flat(recipe.as_dict()):
        # `Recipe.lasting` also changes this time in schedules that do not use it.
        if name == "name" or (name == "schedule.every" and recipe.schedule.name != "step"):
            continue
        source = recipe.citations.get(name, "")
        marked = source == BY_USER
        if published is not None and published.get(name) != value:
            before = f"`{_json(published[name])}`" if name in published else "nothing"
            source = f"{BY_USER if marked else 'changed for this run'}; the recipe has {before}"
            marked = True
        rows.append((name, value, markdown(source) if not marked else source, marked))
    return rows


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the dotted names and values of nested mappings."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _epochs(facts: CardFacts) -> int:
    return min((len(values) for values in facts.history.values()), default=0)


def _figure(name: str, value: float) -> str:
    if not math.isfinite(value):
        return "not finite"
    return f"{100 * value:.2f} %" if name.endswith("accuracy") else f"{value:.4g}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=list)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
