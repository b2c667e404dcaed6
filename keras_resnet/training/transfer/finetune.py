"""`finetune()`: a trained network learns another task, stage by stage."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import keras
import numpy as np

from keras_resnet.data import DataConfig, Source, load_data
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.models.info import get_info
from keras_resnet.support.fingerprints import fingerprint_of_weights
from keras_resnet.support.progress import Say, unseen
from keras_resnet.support.terminal import console, progress_bar
from keras_resnet.training.devices.cluster import cluster_from
from keras_resnet.training.devices.strategies import Setup, StrategyName
from keras_resnet.training.optimizers.groups import rate_multipliers
from keras_resnet.training.recipes.recipe import Recipe, override
from keras_resnet.training.recipes.table import find_recipe
from keras_resnet.training.run.copy import precision_of
from keras_resnet.training.run.resolved import identity_of, resolve_recipe, sizes
from keras_resnet.training.run.trainer import TrainResult, train
from keras_resnet.training.transfer.finetune_folder import FinetuneFacts, FinetuneFolder
from keras_resnet.training.transfer.freezing import BNMode, FreezeReport, freeze, unfreeze
from keras_resnet.training.transfer.heads import check_image_size, replace_head

if TYPE_CHECKING:
    # Brings scikit-learn, which nothing else of training needs.
    from keras_resnet.training.transfer.baselines import Baselines

#: Training is told of classes with fewer images than the largest one divided by this.
_RARE = 3

#: So many of them are named.
_NAMED = 10


@dataclass(frozen=True)
class Stage:
    """A part of fine-tuning, with a learning-rate schedule of its own.

    Attributes:
        downto: what trains: from the head down to this level: `"head"`, `"C5"` to `"C2"`,
            `"stem"` or `"backbone"`, which is everything.
        epochs: how long.
        rate: what the recipe's learning rate is multiplied by.

    Raises:
        ValueError: `epochs` or `rate` is not positive.
    """

    downto: str
    epochs: float
    rate: float = 1.0

    def __post_init__(self) -> None:
        for name in ("epochs", "rate"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
                raise ValueError(f"Expected `{name}` of a stage above 0. Received: {value!r}")


#: The new head first, as its gradients would spoil what is below; then everything, gently.
STAGES = (Stage("head", 3), Stage("backbone", 7, 0.1))


@dataclass(frozen=True)
class FinetuneResult:
    """What fine-tuning left behind.

    Attributes:
        model: the network with the head for the new classes and its last weights.
        stages: what each stage's `train` returned.
        best: highest accuracy on the validation images.
        baselines: accuracies without any training of the network; None if they were not wanted.
        folder: where the files are, if there is a folder.
    """

    model: keras.Model
    stages: tuple[TrainResult, ...]
    best: float
    baselines: Baselines | None
    folder: Path | None


class TrainOptions(TypedDict, total=False):
    """Arguments of `train` that hold for all stages."""

    strategy: StrategyName | Setup
    dtype: str | None
    synchronized_bn: bool
    callbacks: Sequence[keras.callbacks.Callback]
    checkpoint_every: int | None
    keep: int
    steps_per_execution: int
    jit_compile: bool | None
    profile: tuple[int, int] | None


def finetune(
    model: keras.Model,
    data: tuple[Source, Source] | DataConfig | str,
    out_dir: str | os.PathLike[str] | None = None,
    *,
    recipe: Recipe | str = "finetune",
    stages: Sequence[Stage] = STAGES,
    bn: BNMode = "frozen",
    dropout: float = 0.0,
    compare: bool = True,
    seed: int = 0,
    say: Say = console.print,
    **options: Unpack[TrainOptions],
) -> FinetuneResult:
    """Gives a network a head for the classes of a data set and trains it, head first.

    Every stage is a run of `train` in a folder of its own, `1-head` and so on, so that the same
    call goes on after an interruption. For that, load the network again, as the weights of `model`
    have been trained by then; another network or other data are refused. A stage begins with the
    last weights of the one before. `out_dir` itself gets `best.keras`, the best of all stages,
    `last.keras`, `history.csv`, `history.png` and `model_card.md` of all stages together, and
    `config.json`.

    Where the recipe has `loss.l2_sp`, every stage pulls to the weights of `model`, not to those of
    the stage before. Keys of its `optimizer.rate_groups` count in the stages in which something of
    theirs trains.

    Args:
        model: a flat network of this package with trained weights; its layers become part of the
            result. A head for the same classes is kept, any other one is replaced.
        data: as for `train`.
        out_dir: folder for the files; None: nothing is written.
        recipe: as for `train`; its duration counts for nothing, that of the stages does.
        stages: what trains when, one after the other.
        bn: `"frozen"`: batch normalisation keeps its statistics, scale and shift throughout;
            `"training"`: it trains with the layers around it.
        dropout: rate before a new head.
        compare: whether the accuracies of a linear classifier and of nearest neighbours on the
            network's vectors are found first.
        seed: of the head, data order and augmentation; sets Python's, NumPy's and Keras' own, too.
        say: is told what happens, in sentences.
        **options: those of `train`. Several workers cannot fine-tune together.

    Raises:
        ValueError: network, data and stages do not go together, or as for `train`.
        TypeError: an option is none of `train`'s.
        ResumeError: `out_dir` holds another fine-tuning, or something else.
        OSError: the best network of a finished stage is gone, or as for `train`.
    """
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    _check(stages, options)
    sources, settings = _open(data)
    keras.utils.set_random_seed(seed)
    network = with_head(model, sources[0], dropout)
    recipes = _recipes(network, recipe, stages, bn)
    for stage, own in zip(stages, recipes, strict=True):
        together = options.get("steps_per_execution", 1)
        resolve_recipe(network, sources[0], own, epochs=stage.epochs, steps_per_execution=together)
    check_image_size(network)
    if (found := _imbalance(sources[0], recipe)) is not None:
        say(found)
    asked = {"stages": [dataclasses.asdict(stage) for stage in stages], "bn": bn}
    start_and_data = _identity(model, network, sources)
    folder = FinetuneFolder(out_dir, {**start_and_data, **asked, "dropout": dropout, "seed": seed})
    protocol = sizes(network, recipe)[0]
    compared = _compared(network, sources, settings, protocol, folder, seed) if compare else None
    if compared is not None:
        say(str(compared))
    start = network.get_weights() if recipe.loss.l2_sp else None
    results: list[TrainResult] = []
    for number, (stage, own) in enumerate(zip(stages, recipes, strict=True), 1):
        say(f"Stage {number} of {len(stages)}. {_thaw(network, stage, bn)}")
        results.append(
            train(
                network,
                sources if settings is None else settings,
                own,
                folder.stage(number, stage.downto),
                epochs=stage.epochs,
                seed=seed,
                pull_to=start,
                **options,
            )
        )
        folder.check(results[-1])
    done = list(zip(stages, recipes, results, strict=True))
    dtype = precision_of(network, options.get("dtype"))
    folder.finish(FinetuneFacts(network, sources, recipe, done, bn, seed, dtype, compared))
    best = max(result.best for result in results)
    if compared is not None:
        gain = 100 * (best - max(compared.linear_probe, compared.nearest_neighbours))
        say(f"Best: {best:.2%}, {gain:+.1f} points to the better baseline.")
    return FinetuneResult(network, tuple(results), best, compared, folder.path)


def _check(stages: Sequence[Stage], options: TrainOptions) -> None:
    """Refuses early what only a later stage would refuse."""
    if not stages:
        raise ValueError("Expected at least one stage. Received: none")
    known = TrainOptions.__annotations__
    if unknown := [name for name in options if name not in known]:
        raise TypeError(
            f"Expected options of `train` for all stages: {', '.join(known)}. "
            f"Received: {', '.join(unknown)}"
        )
    strategy = options.get("strategy")
    if isinstance(strategy, Setup):
        workers = strategy.workers
    else:
        # As `keras-resnet launch`, Slurm and others set them: each process would train alone.
        cluster = cluster_from(None, None, os.environ)
        workers = 1 if cluster is None else cluster.workers
    if workers > 1:
        raise ValueError(
            f"Expected one process to fine-tune. Received: {workers} workers. Use `freeze`, "
            "`unfreeze` and `train`"
        )


def _open(
    data: tuple[Source, Source] | DataConfig | str,
) -> tuple[tuple[Source, Source], DataConfig | None]:
    if isinstance(data, str):
        data = DataConfig(data)
    return (load_data(data), data) if isinstance(data, DataConfig) else (data, None)


def with_head(model: keras.Model, source: Source, dropout: float = 0.0) -> keras.Model:
    """`model` itself if its head is for the classes of `source`, by name; else with a new head.

    Raises:
        ValueError: there is to be dropout before a head that is kept, or as for `replace_head`.
    """
    names, info = tuple(source.class_names), get_info(model)
    # A head for labels or values may have the same names.
    is_classifier = info.task is None and model.output_shape[-1] == len(names)
    if is_classifier and info.class_names == names:
        if dropout:
            raise ValueError(
                "Expected no `dropout` where the head is kept, as the model has one for the same "
                f"classes. Received: {dropout}"
            )
        return model
    return replace_head(model, len(names), names=names, dropout=dropout)


def _identity(
    model: keras.Model, network: keras.Model, data: tuple[Source, Source]
) -> dict[str, Any]:
    """What is trained on what, fit for JSON; of the weights, those that come with `model`."""
    # An old head that is replaced counts for nothing, the new one follows from the seed.
    own = {id(weight) for weight in model.weights}
    kept = [weight.numpy() for weight in network.weights if id(weight) in own]
    config = get_info(model).config
    return {
        "model": {
            "name": model.name,
            "config": None if config is None else dict(config),
            "weights_at_start": fingerprint_of_weights(kept)[:16],
        },
        "train_data": identity_of(data[0]),
        "validation_data": identity_of(data[1]),
    }


def _imbalance(source: Source, recipe: Recipe) -> str | None:
    """A sentence on classes with far fewer images than the largest, the rarest first."""
    names = source.class_names
    labels = np.asarray(source.labels)
    counts = np.bincount(labels[(labels >= 0) & (labels < len(names))], minlength=len(names))
    most = int(counts.argmax())
    rare = [int(i) for i in counts.argsort(kind="stable") if _RARE * counts[i] < counts[most]]
    if not rare:
        return None
    told = ", ".join(f"{counts[index]:,} of {names[index]}" for index in rare[:_NAMED])
    more = f" and {len(rare) - _NAMED} more" if len(rare) > _NAMED else ""
    balanced = recipe.loss.class_weights == "balanced"
    return (
        f"Classes are imbalanced: {counts[most]:,} training images of {names[most]}, "
        f"but {told}{more}. "
        + ("" if balanced else "With `loss.class_weights=balanced`, ")
        + ("Each class weighs the same." if balanced else "each class would weigh the same.")
    )


def _recipes(
    network: keras.Model, recipe: Recipe, stages: Sequence[Stage], bn: BNMode
) -> list[Recipe]:
    """The recipe of each stage; refuses impossible ones before anything trains."""
    trained = []
    for stage in stages:
        _thaw(network, stage, bn)
        trained.append([weight.path for weight in network.trainable_weights])
    groups = recipe.optimizer.rate_groups
    rate_multipliers(list(dict.fromkeys(itertools.chain(*trained))), groups)
    result = []
    for stage, paths in zip(stages, trained, strict=True):
        # In their order, as the first key that matches counts.
        reached: dict[str, float] = {}
        for key, factor in groups.items():
            with contextlib.suppress(ValueError):
                rate_multipliers(paths, {**reached, key: factor})
                reached[key] = factor
        rate = recipe.optimizer.learning_rate * stage.rate
        changes = {"optimizer.learning_rate": rate, "optimizer.rate_groups": reached}
        result.append(override(recipe, changes))
    return result


def _thaw(network: keras.Model, stage: Stage, bn: BNMode) -> FreezeReport:
    freeze(network, "backbone", bn=bn)
    return unfreeze(network, stage.downto, bn=bn)


def _compared(
    network: keras.Model,
    sources: tuple[Source, Source],
    settings: DataConfig | None,
    protocol: EvalProtocol,
    folder: FinetuneFolder,
    seed: int,
) -> Baselines:
    """What the network is worth as it is: found now, or before an interruption."""
    from keras_resnet.training.transfer.baselines import LIMIT, Baselines, baselines

    if (known := folder.known_baselines()) is not None:
        return Baselines(**known)
    # Prepared as in validation; and of every class, there is an image at least.
    limit = max(LIMIT, len(sources[0].class_names))
    keywords: dict[str, Any] = {"protocol": protocol, "limit": limit}
    if settings is not None:
        keywords["max_bad_fraction"] = settings.max_bad_fraction
    with contextlib.ExitStack() as stack:
        # Elsewhere, every batch would be a line.
        step = stack.enter_context(progress_bar("Baselines")) if console.is_terminal else unseen
        found = baselines(network, *sources, seed=seed, progress=step, **keywords)
    folder.write_baselines(found)
    return found
