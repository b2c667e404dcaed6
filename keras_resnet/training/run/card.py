"""Model cards: a description of a trained network in words and tables."""

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

#: Fields of the recipe that are listed even if they are the defaults.
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
        config: what it was built from, such as the fields of its `ResNetConfig`.
        parameters: how many it has, moving statistics included.
        input_shape: of one image, `(height, width, channels)`; None: of any size.
        data: the name of the data set; no path that should stay private.
        class_names: in the order of the model's outputs.
        images: of training and of validation.
        recipe: as it was used, before `in_steps`.
        history: one value per finished epoch of every quantity, such as `val_accuracy` in [0, 1].
        best_epoch: that of `best.keras`, from 1; None: there is none.
        seed: of the run.
        dtype: of the computations, e.g. `"bfloat16"`.
        environment: what `describe_environment` gives.
        phases: of fine-tuning, each with the recipe's whole schedule; 0: it is no fine-tuning.
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
    """Writes a model card: Markdown, with the YAML front matter that Hugging Face reads.

    Fields of the recipe that are not those of the table `RECIPES` are marked, whoever changed them.
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
        return "No epoch was finished, so there are none."
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
        f"{table}\n\nFigures that begin with `val_` are of the {facts.images[1]:,} images of "
        "validation, the others are means over an epoch of augmented training images, taken while "
        "the weights changed."
    )
    if facts.images[1] < FEW_IMAGES:
        margin = 100 * margin_of(facts.images[1])
        text += f" On so few images, an accuracy is known to about ±{margin:.0f} points only."
    if facts.best_epoch is not None:
        text += (
            " `best.keras` is of the epoch with the highest accuracy in validation. It was chosen "
            "by those same images, so that its accuracy on others is likely to be a little lower."
        )
    if facts.recipe.average.decay:
        text += " Validated and saved are moving averages of the weights."
    if facts.recipe.precise_bn:
        text += (
            " The statistics of batch normalisation in `last.keras` were computed anew after the "
            "last epoch, so that its figures differ a little from these."
        )
    return text


def _published(facts: CardFacts) -> str:
    recipe = facts.recipe
    if not recipe.expected:
        return "None are known for this recipe, so there is nothing to compare with."
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
        text += f"\n\nThey are of networks with other settings than this one: {fields}."
    if any(marked for *_, marked in _recipe_fields(recipe)):
        text += "\n\nThis run changed the recipe, so it need not reach them."
    return text + "\n\nThey hold for the data set of the publication, evaluated as there."


def _loading(facts: CardFacts) -> str:
    file = "last.keras" if facts.best_epoch is None else "best.keras"
    shape = ", ".join("any" if size is None else str(size) for size in facts.input_shape)
    return f"""```python
import keras_resnet

model = keras_resnet.load_model("{file}")
```

brings the names of the classes back, too, and loads networks of any depth. Keras alone loads the
file as well:

```python
import keras

model = keras.saving.load_model("{file}")
```

The model takes batches of images of the shape ({shape})."""


def _network(facts: CardFacts) -> str:
    rows = [("parameters", f"{facts.parameters:,}"), ("computed in", facts.dtype)]
    rows += [(name, f"`{_json(value)}`") for name, value in facts.config.items()]
    return _table((facts.network, "value"), rows)


def _data(facts: CardFacts) -> str:
    names = [markdown(name) for name in facts.class_names]
    listed = ", ".join(names[:_MOST_CLASSES])
    if len(names) > _MOST_CLASSES:
        listed += f" and {len(names) - _MOST_CLASSES} more; the model's file has them all"
    training, validation = facts.images
    return (
        f"{markdown(facts.data)}: {training:,} images to train on, {validation:,} to validate.\n\n"
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
        "Fields that this run changed are in bold. Those that are not listed have their defaults; "
        f"`config.json`{' of each phase' if facts.phases else ''} has all.",
        "Every phase went through the whole schedule in its own epochs." if facts.phases else "",
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
    return _table(("what", "version or value"), [(key, markdown(value)) for key, value in rows])


def _recipe_fields(recipe: Recipe) -> list[tuple[str, Any, str, bool]]:
    """Dotted name, value, source, and whether the run changed it, of each field of a recipe."""
    table = RECIPES.get(recipe.name)
    published = None if table is None else dict(_flat(table.as_dict()))
    rows = []
    for name, value in _flat(recipe.as_dict()):
        # `Recipe.lasting` changes the interval of steps even where there are none.
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
