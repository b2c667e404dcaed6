"""A recipe resolved for one network and one data set: image sizes, batches and steps."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from keras_resnet.data import DataConfig, Source, load_data, steps_per_epoch
from keras_resnet.data.identity import identity_of
from keras_resnet.images.protocol import DEFAULT_SIZE, EvalProtocol
from keras_resnet.models.info import class_count, get_info
from keras_resnet.networks.config import ResNetConfig
from keras_resnet.support.fingerprints import fingerprint_of_weights
from keras_resnet.support.terminal import console
from keras_resnet.training.devices.strategies import require_whole_executions
from keras_resnet.training.recipes.recipe import BY_USER, Recipe


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe resolved for one network and one data set.

    Attributes:
        recipe: the recipe with all times in optimizer steps.
        training: config of the training batches. If gradients are accumulated, several batches make
            one optimizer step.
        evaluation: config of the validation batches.
        batches_per_epoch: training batches per epoch.
        total: training batches of the whole training.
    """

    recipe: Recipe
    training: DataConfig
    evaluation: DataConfig
    batches_per_epoch: int
    total: int

    @property
    def size(self) -> int | Literal["any"]:
        """The size of all images, or `"any"` if training and evaluation differ."""
        size = self.training.size
        return size if size == self.evaluation.size else "any"

    def segments(self, taken: int) -> list[tuple[int, int, int]]:
        """Return the calls of `fit` that remain after `taken` batches.

        All epochs of a call of `fit` have the same length, so the rest of an interrupted epoch and
        a partial last epoch need a call each.

        Returns:
            One tuple `(first epoch, epoch to stop before, batches per epoch)` per call.
        """
        result = []
        while taken < self.total:
            epoch, within = divmod(taken, self.batches_per_epoch)
            left = self.total - taken
            if within or left < self.batches_per_epoch:
                batches, last = min(self.batches_per_epoch - within, left), epoch + 1
            else:
                batches, last = self.batches_per_epoch, self.total // self.batches_per_epoch
            result.append((epoch, last, batches))
            taken += batches * (last - epoch)
        return result


def open_data(
    data: tuple[Source, Source] | DataConfig | str, max_bad_fraction: float | None = None
) -> tuple[tuple[Source, Source], DataConfig]:
    """Return the training and validation source, and the config that `resolve_recipe` completes."""
    if isinstance(data, str):
        data = DataConfig(data)
    config = data if isinstance(data, DataConfig) else DataConfig(data[0].name)
    if max_bad_fraction is not None:
        config = dataclasses.replace(config, max_bad_fraction=max_bad_fraction)
    return load_data(data, console.print) if isinstance(data, DataConfig) else data, config


def resolve_recipe(
    model: keras.Model,
    source: Source,
    recipe: Recipe,
    *,
    config: DataConfig | None = None,
    epochs: float | None = None,
    seed: int = 0,
    workers: int = 1,
    steps_per_execution: int = 1,
) -> ResolvedRecipe:
    """Resolve a recipe for a network and a data set.

    If the network takes images of another size than the recipe, the image sizes of the recipe are
    scaled in proportion.

    Args:
        model: the classifier.
        source: training images.
        recipe: the recipe.
        config: data config; the recipe, the model and `seed` replace some of its fields. None: the
            defaults of `DataConfig`.
        epochs: length of training in epochs instead of the recipe's; the schedule is scaled in
            proportion.
        seed: random seed of data order and augmentation.
        workers: number of processes that share every batch.
        steps_per_execution: batches that are run between two callbacks.

    Raises:
        ValueError: If recipe, network and data do not fit together.
    """
    check_image_shape(model)
    threshold = recipe.loss.target_threshold
    if threshold is not None and model.output_shape[-1] == 1:
        raise ValueError(
            "Expected no `loss.target_threshold` for a network with a single output unit, whose "
            f"two classes are mutually exclusive. Received: {threshold:g}. Set it to None, or "
            "build the network with `classes=2`"
        )
    accumulation = recipe.optimizer.accumulation
    # Batches whose gradients are accumulated for one step may belong to two epochs.
    batch_size = recipe.batch_size // accumulation
    if batch_size > len(source):
        raise ValueError(_batch_too_large(source, recipe))
    protocol, train_size = sizes(model, recipe)
    training = dataclasses.replace(
        config or DataConfig(source.name),
        size=train_size,
        protocol=None,
        batch_size=batch_size,
        augmentation=recipe.augmentation,
        seed=seed,
    )
    evaluation = dataclasses.replace(training, size=protocol.size, protocol=protocol)
    batches = steps_per_epoch(source, training, workers)
    recipe = recipe.in_steps(batches / accumulation)
    if epochs is not None:
        if not epochs > 0:
            raise ValueError(f"Expected `epochs` to be positive. Received: {epochs}")
        recipe = recipe.lasting(max(1, round(epochs * batches / accumulation)))
    total = int(recipe.duration) * accumulation
    require_whole_executions(batches, steps_per_execution, "batches of an epoch")
    require_whole_executions(total, steps_per_execution, "batches of the training")
    every = recipe.average.every * accumulation
    if recipe.average.decay and every % steps_per_execution:
        raise ValueError(
            "Expected `steps_per_execution` to divide the batches between two updates of the "
            f"average of the weights, {every}. Received: {steps_per_execution}"
        )
    return ResolvedRecipe(recipe, training, evaluation, batches, total)


def _batch_too_large(source: Source, recipe: Recipe) -> str:
    count, accumulation = len(source), recipe.optimizer.accumulation
    by_user = recipe.citations.get("batch_size") == BY_USER
    origin = "" if by_user else f", from the recipe {recipe.name}"
    parts = f" in {accumulation} parts" if accumulation > 1 else ""
    # The largest power of two that is at most a quarter of the images.
    several = min(count, 1 << (max(2, count // 4).bit_length() - 1))
    return (
        f"Expected batches of at most the {count:,} training images of {source.name}. Received: "
        f"`batch_size={recipe.batch_size}`{parts}{origin}. Set `batch_size` to at most "
        f"{accumulation * count}; `batch_size={accumulation * several}` gives "
        f"{-(-count // several)} batches per epoch"
    )


def check_classes(model: keras.Model, source: Source) -> None:
    """Raise ValueError if the classes of a network are not those of a source.

    Raises:
        ValueError: If the number of classes differs, or they are in another order.
    """
    classes, known_classes = len(source.class_names), class_count(model)
    if classes < 2:
        raise ValueError(
            f"Expected images of at least two classes. Received: {source.name} with {classes}"
        )
    if known_classes != classes:
        raise ValueError(
            f"Expected a model for the {classes} classes of {source.name}. Received: "
            f"{model.name}, with {known_classes} classes. Build it with "
            f"`classes={classes}`, or replace its head with `replace_head` or "
            "`keras-resnet finetune`"
        )
    names, known = tuple(source.class_names), get_info(model).class_names
    if known is not None and known != names and set(known) == set(names):
        place = next(index for index in range(classes) if known[index] != names[index])
        raise ValueError(
            f"Expected the classes of {source.name} in the order of the model's outputs. Received: "
            f"{names[place]!r} where {model.name} has {known[place]!r}. Use `finetune`, which "
            "replaces the head for this order"
        )


def check_image_shape(model: keras.Model) -> None:
    """Raise ValueError unless a network takes square images with 3 channels."""
    _, height, width, channels = model.input_shape
    if height != width or channels != 3:
        shape = "x".join(map(str, (height, width, channels)))
        raise ValueError(
            "Expected a network for square images with 3 channels, which data sources provide. "
            f"Received: {model.name!r} for {shape}. Train it with `model.fit` and your own dataset"
        )


def sizes(model: keras.Model, recipe: Recipe) -> tuple[EvalProtocol, int]:
    """Return the evaluation protocol and the size of training images."""
    side = model.input_shape[1]
    protocol = recipe.protocol
    if protocol is None:
        protocol = get_info(model).protocol or EvalProtocol.of_size(side or DEFAULT_SIZE)
    train_size = recipe.train_size or protocol.size
    if side is not None and side != protocol.size:
        train_size = round(train_size * (side / protocol.size))
        protocol = protocol.scaled_to(side)
    return protocol, train_size


def identity(
    model: keras.Model,
    data: tuple[Source, Source],
    resolved: ResolvedRecipe,
    seed: int,
    dtype: str | None,
    start: Sequence[np.ndarray] | None = None,
) -> dict[str, Any]:
    """Return the settings that must not change when a run is resumed, as JSON-serializable data.

    `start` contains the weights that the loss pulls to, if it does.
    """
    shapes = [(weight.path.split("/")[-1], tuple(weight.shape)) for weight in model.weights]
    config = get_info(model).config
    known = {
        "name": model.name,
        "config": None if config is None else dict(config),
        "weights": hashlib.sha256(repr(shapes).encode()).hexdigest()[:16],
    }
    if start is not None:
        known["weights_at_start"] = fingerprint_of_weights(start)[:16]
    return {
        "model": known,
        "recipe": resolved.recipe.as_dict(),
        "train_data": identity_of(data[0]),
        "validation_data": identity_of(data[1]),
        "train_size": resolved.training.size,
        "protocol": dataclasses.asdict(resolved.evaluation.eval_protocol),
        "seed": seed,
        "dtype": dtype,
    }


#: Values of fields that identities of earlier versions lack; see `RunFolder.claim`.
DEFAULTS = {
    "model": {"config": dataclasses.asdict(ResNetConfig("basic", (1,), (1,)))},
    "recipe": Recipe("", duration=1, batch_size=1).as_dict(),
    "protocol": dataclasses.asdict(EvalProtocol()),
}
