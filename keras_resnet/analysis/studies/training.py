"""Training of several networks with the same recipe, each with several seeds."""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_resnet.analysis.complexity import Complexity, complexity
from keras_resnet.analysis.studies.curves import NetworkCurves
from keras_resnet.analysis.studies.families import (
    check_network_fields,
    default_recipe,
    default_size,
)
from keras_resnet.data import DataConfig, Source, load_data
from keras_resnet.data.sources.load import load_splits
from keras_resnet.networks.builder import build
from keras_resnet.networks.config import ResNetConfig
from keras_resnet.support.progress import Progress, Say
from keras_resnet.training.recipes.recipe import Recipe, override
from keras_resnet.training.recipes.table import find_recipe
from keras_resnet.training.run.callbacks import DivergedError
from keras_resnet.training.run.environment import describe_environment
from keras_resnet.training.run.resolved import ResolvedRecipe, resolve_recipe
from keras_resnet.training.run.trainer import train


@dataclass(frozen=True)
class Setting:
    """The settings that all networks of a study share.

    Attributes:
        train: the training images.
        test: held-out images, not used for any choice: the test split of the data, or the
            validation split if there is no test split.
        recipe: the recipe.
        epochs: length of each training; None: that of the recipe.
        size: height and width of the images, in pixels.
        max_bad_fraction: share of the images that may be unreadable; None: the default of `train`.
    """

    train: Source
    test: Source
    recipe: Recipe
    epochs: float | None
    size: int
    max_bad_fraction: float | None = None

    def facts(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        splits = {"training": self.train, "test": self.test}
        return {
            "data": {key: {"name": x.name, "images": len(x)} for key, x in splits.items()},
            "classes": list(self.train.class_names),
            "image_size": self.size,
            "epochs": self.epochs,
            "recipe": self.recipe.as_dict(),
            "environment": describe_environment(),
        }


def make_setting(
    study: str,
    data: str,
    config: ResNetConfig,
    size: int | None,
    recipe: Recipe | str | None,
    epochs: float | None,
    say: Say,
    max_bad_fraction: float | None = None,
) -> Setting:
    """Open the data of a study, and choose the size and the recipe if they are None.

    Raises:
        ValueError: there is no such source or recipe, or the recipe sets a field that the study
            sets.
        OSError: the source cannot be read.
    """
    size = size or default_size(data, config)
    if recipe is None:
        recipe = default_recipe(study, data, config, size)
    elif isinstance(recipe, str):
        recipe = find_recipe(recipe)
    check_network_fields(recipe.network)
    if recipe.patience is not None:
        # No early stopping: all networks are trained for the same number of epochs.
        recipe = override(recipe, {"patience": None})
    data_config = DataConfig(data, size=size)
    splits = load_splits(data_config)
    if splits.test is not None and len(splits.train):
        train_split, test_split = splits.train, splits.test()
    else:
        train_split, test_split = load_data(data_config, say)
    return Setting(train_split, test_split, recipe, epochs, size, max_bad_fraction)


def train_networks(
    configs: Mapping[str, ResNetConfig],
    setting: Setting,
    seeds: Sequence[int],
    say: Say,
    progress: Progress,
) -> tuple[NetworkCurves, ...]:
    """Train every network with every seed.

    Args:
        configs: name -> config of the network.
        setting: the settings that all trainings share.
        seeds: seeds of initialization, data order and augmentation.
        say: called with the estimated time before the first training, and with a sentence about
            every training that diverges.
        progress: called after every batch with a description and the share of the work.

    Raises:
        ValueError: the networks, data and recipe do not fit together.
        DivergedError: all trainings diverged: their losses became infinite, NaN or far too large.
            Single ones are recorded in `NetworkCurves`.
    """
    configs = {name: config.replace(**setting.recipe.network) for name, config in configs.items()}
    costs = {name: _cost(config, setting) for name, config in configs.items()}
    expected = _estimate(configs, costs, setting)
    total = len(seeds) * sum(start + work for start, work in expected.values())
    say(
        f"{_count(len(configs) * len(seeds), 'training')} ({_count(len(configs), 'network')}, "
        f"{_count(len(seeds), 'seed')}) on {len(setting.train):,} images of "
        f"{setting.size}x{setting.size} pixels: about {_words(total)} on this machine, estimated "
        "from a few timed steps."
    )
    found: list[NetworkCurves] = []
    before = 0.0
    for name, config in configs.items():
        start, work = expected[name]
        runs = []
        for seed in seeds:

            def tell(
                share: float,
                text: str = f"{name}, seed {seed}",
                done: float = before + start,
                work: float = work,
            ) -> None:
                progress(text, (done + share * work) / total)

            runs.append(_train(name, config, setting, seed, tell))
            if runs[-1].diverged:
                say(f"Diverged: {runs[-1].diverged}.")
            before += start + work
        cost = costs[name]
        found.append(
            NetworkCurves(
                name,
                cost.depth,
                config.shortcut,
                cost.params,
                cost.macs,
                tuple(run.train_errors for run in runs),
                tuple(run.test_errors for run in runs),
                statistics.median(step for run in runs for step in run.steps),
                tuple(seed for seed, run in zip(seeds, runs, strict=True) if run.diverged),
            )
        )
    if all(len(network.diverged) == len(seeds) for network in found):
        raise DivergedError(runs[-1].diverged)
    return tuple(found)


@dataclass(frozen=True)
class _Run:
    """The errors of every epoch, the seconds of every step, and the reason if training diverged."""

    train_errors: tuple[float, ...]
    test_errors: tuple[float, ...]
    steps: tuple[float, ...]
    diverged: str


class _Steps(keras.callbacks.Callback):
    """Callback that times the steps, collects the errors and reports the progress."""

    def __init__(self, total: int, tell: Any) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.errors: dict[str, list[float]] = {"accuracy": [], "val_accuracy": []}
        self._total, self._tell, self._begun = total, tell, 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._begun = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self._begun)
        self._tell(len(self.seconds) / self._total)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # Collected here, as `fit` returns nothing if a later epoch diverges.
        for key, errors in self.errors.items():
            errors.append(1 - logs[key])


def _build(name: str, config: ResNetConfig, setting: Setting) -> keras.Model:
    with warnings.catch_warnings():
        # Hide the warning that the images are small for the network, which holds for all networks.
        warnings.filterwarnings("ignore", message="The last stage sees")
        return build(
            config,
            input_shape=(setting.size, setting.size, 3),
            classes=len(setting.train.class_names),
            name=name,
        )


def _resolved(model: keras.Model, setting: Setting, seed: int = 0) -> ResolvedRecipe:
    return resolve_recipe(model, setting.train, setting.recipe, epochs=setting.epochs, seed=seed)


def _train(name: str, config: ResNetConfig, setting: Setting, seed: int, tell: Any) -> _Run:
    keras.utils.set_random_seed(seed)
    model = _build(name, config, setting)
    resolved = _resolved(model, setting, seed)
    steps, diverged = _Steps(resolved.total, tell), ""
    try:
        train(
            model,
            (setting.train, setting.test),
            setting.recipe,
            epochs=setting.epochs,
            seed=seed,
            callbacks=[steps],
            max_bad_fraction=setting.max_bad_fraction,
            verbose=False,
        )
    except DivergedError as error:
        diverged = f"{name} with seed {seed}: {error}"
        guessing = 1 - 1 / len(setting.train.class_names)
        epochs = math.ceil(resolved.total / resolved.batches_per_epoch)
        for errors in steps.errors.values():
            errors += [guessing] * (epochs - len(errors))
    training, test = map(tuple, steps.errors.values())
    return _Run(training, test, tuple(steps.seconds), diverged)


def _cost(config: ResNetConfig, setting: Setting) -> Complexity:
    shape = (setting.size, setting.size, 3)
    return complexity(config, shape, len(setting.train.class_names))


def _estimate(
    configs: Mapping[str, ResNetConfig], costs: Mapping[str, Complexity], setting: Setting
) -> dict[str, tuple[float, float]]:
    """Estimate the seconds to compile and to run one training of each network.

    The estimate is based on a few timed steps of the cheapest network. The time of a step is taken
    as proportional to the multiply-accumulate operations, that of compilation to the depth.
    """
    name = min(costs, key=lambda name: costs[name].macs)
    model = _build(name, configs[name], setting)
    resolved = _resolved(model, setting)
    batch = resolved.training.batch_size
    # For large images, time only part of a batch.
    probe = min(batch, max(8, 2**20 // setting.size**2))
    first, step = _probe(model, probe)
    step *= batch / probe
    epochs = resolved.total / resolved.batches_per_epoch
    # A forward pass takes a third of a training step.
    evaluation = len(setting.test) / batch * step / 3
    work = resolved.total * step + epochs * evaluation
    layers, macs = costs[name].depth, costs[name].macs
    # The evaluation is compiled as well, in a third of the time.
    return {
        key: (4 / 3 * first * cost.depth / layers, work * cost.macs / macs)
        for key, cost in costs.items()
    }


def _probe(model: keras.Model, images: int) -> tuple[float, float]:
    """Return the seconds of the first step, which compiles the graph, and of a later step."""
    model.compile("sgd", "sparse_categorical_crossentropy")
    pixels, labels = np.zeros((images, *model.input_shape[1:]), np.uint8), np.zeros(images, int)
    seconds = []
    for _ in range(4):
        begin = time.perf_counter()
        model.train_on_batch(pixels, labels)
        seconds.append(time.perf_counter() - begin)
    return seconds[0], min(seconds[1:])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _words(seconds: float) -> str:
    """Return a rounded duration as text."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
