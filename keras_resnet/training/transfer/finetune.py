"""`finetune()`: training of a pretrained network for another task, in phases."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import keras
import numpy as np

from keras_resnet.data import DataConfig, Source, load_data
from keras_resnet.data.identity import defaults_of_earlier, identity_of
from keras_resnet.models.info import class_count, get_info
from keras_resnet.models.untrained import untrained_part, warn_if_untrained
from keras_resnet.support.checks import some_of
from keras_resnet.support.files import partial_directory, publish
from keras_resnet.support.fingerprints import fingerprint_of_weights
from keras_resnet.support.intervals import accuracy_in_words
from keras_resnet.support.progress import Say, unseen
from keras_resnet.support.terminal import console, print_lines, progress_bar
from keras_resnet.training.devices.choices import StrategyName
from keras_resnet.training.devices.cluster import cluster_from
from keras_resnet.training.devices.strategies import DeviceSetup
from keras_resnet.training.recipes.recipe import Recipe
from keras_resnet.training.recipes.table import find_recipe
from keras_resnet.training.run.card import CardFacts, model_card
from keras_resnet.training.run.copy import precision_of
from keras_resnet.training.run.environment import describe_environment
from keras_resnet.training.run.folder import RunFolder
from keras_resnet.training.run.resolved import DEFAULTS, resolve_recipe, sizes
from keras_resnet.training.run.trainer import TrainResult, train
from keras_resnet.training.transfer.choices import PHASES, BNMode, Phase
from keras_resnet.training.transfer.heads import check_image_size, replace_head
from keras_resnet.training.transfer.phases import phase_recipes, thaw

if TYPE_CHECKING:
    # Imports scikit-learn, which nothing else in training needs.
    from keras_resnet.training.transfer.baselines import Baselines

#: Classes with fewer images than the largest class divided by this number are reported as rare.
_RARE = 3

#: Largest number of rare classes that a message names.
_NAMED = 10


@dataclass(frozen=True)
class FinetuneResult:
    """The result of fine-tuning.

    Attributes:
        model: the network with the head for the new classes and its final weights.
        phases: result of `train` for each phase.
        best: highest validation accuracy, in [0, 1].
        baselines: accuracies without training the network; None with `compare=False`.
        folder: output folder; None if there is none.
    """

    model: keras.Model
    phases: tuple[TrainResult, ...]
    best: float
    baselines: Baselines | None
    folder: Path | None


class TrainOptions(TypedDict, total=False):
    """Arguments of `train` that apply to all phases."""

    strategy: StrategyName | DeviceSetup
    dtype: str | None
    synchronized_bn: bool
    callbacks: Sequence[keras.callbacks.Callback]
    checkpoint_every: int | None
    keep: int
    steps_per_execution: int
    jit_compile: bool | None
    profile: tuple[int, int] | None
    max_bad_fraction: float | None


def finetune(
    model: keras.Model,
    data: tuple[Source, Source] | DataConfig | str,
    out_dir: str | os.PathLike[str] | None = None,
    *,
    recipe: Recipe | str = "finetune",
    phases: Sequence[Phase] = PHASES,
    bn: BNMode = "frozen",
    dropout: float = 0.0,
    compare: bool = True,
    seed: int = 0,
    say: Say = print_lines,
    **options: Unpack[TrainOptions],
) -> FinetuneResult:
    """Fine-tune a network for the classes of a data set: first its head, then all layers.

    Every phase is a run of `train` in its own subfolder, such as `1-head`, and starts with the last
    weights of the previous phase. The same call resumes an interrupted fine-tuning; load the
    network again for it, as the weights of `model` have changed. Another network or other data are
    refused. `out_dir` gets `best.keras` (the best of all phases), `last.keras`, `config.json`, and
    `history.csv`, `history.png` and `model_card.md` for all phases.

    If the recipe has `loss.l2_sp`, every phase pulls to the initial weights of `model`. Each key of
    `optimizer.rate_groups` is used in the phases in which one of its variables is trained.

    Args:
        model: a flat network of this package with trained weights. Its layers become part of the
            result. A head for the same classes is kept, any other head is replaced.
        data: as for `train`.
        out_dir: output folder; None: nothing is written.
        recipe: as for `train`; the lengths of the phases replace its duration.
        phases: the phases of training, in order; by default 3 epochs of the head, then 7 epochs of
            all layers with a tenth of the learning rate.
        bn: `"frozen"`: batch normalization keeps its statistics, scale and shift; `"training"`: it
            is trained with the layers around it.
        dropout: rate of dropout before a new head, in [0, 1).
        compare: whether to compute the accuracies of a linear probe and of nearest neighbors first;
            see `baselines`.
        seed: random seed of the head, data order and augmentation; also set for Python, NumPy and
            Keras.
        say: called with sentences about the progress.
        **options: further arguments of `train`, for all phases. Fine-tuning with several workers is
            not supported.

    Returns:
        The fine-tuned network, the results of the phases, and the baselines.

    Raises:
        ValueError: If network, data and phases do not fit together, or as for `train`.
        TypeError: If an option is not an argument of `train`.
        ResumeError: If `out_dir` holds another fine-tuning, or something else.
        OSError: If the best network of a finished phase is missing, or as for `train`.

    Examples:
        >>> model = keras_resnet.ResNet50(weights="imagenet")
        >>> result = finetune(model, "folder:flowers", "runs/flowers")
        >>> result.model.save("flowers.keras")
    """
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    _check(model, phases, options)
    data = DataConfig(data) if isinstance(data, str) else data
    sources = load_data(data, say) if isinstance(data, DataConfig) else data
    keras.utils.set_random_seed(seed)
    network = with_head(model, sources[0], dropout)
    recipes = phase_recipes(network, recipe, phases, bn)
    for phase, own in zip(phases, recipes, strict=True):
        together = options.get("steps_per_execution", 1)
        resolve_recipe(network, sources[0], own, epochs=phase.epochs, steps_per_execution=together)
    check_image_size(network)
    if (found := _imbalance(sources[0], recipe)) is not None:
        say(found)
    # `stages` is an earlier name of the phases, kept to resume existing folders.
    asked: dict[str, Any] = {"stages": [dataclasses.asdict(phase) for phase in phases], "bn": bn}
    settings = {**_identity(model, network, sources), **asked, "dropout": dropout, "seed": seed}
    folder = None if out_dir is None else RunFolder(out_dir)
    with contextlib.nullcontext() if folder is None else folder.held():
        known = {} if folder is None else _claimed(folder, settings)
        compared = None
        if compare:
            limit = options.get("max_bad_fraction", getattr(data, "max_bad_fraction", None))
            compared = _compared(network, sources, limit, recipe, seed, known.get("baselines"))
            if folder is not None:
                # For the same call after an interruption.
                folder.write_config({**settings, "baselines": compared.to_dict()})
            say(str(compared))
        start = network.get_weights() if recipe.loss.l2_sp else None
        results: list[TrainResult] = []
        for number, (phase, own) in enumerate(zip(phases, recipes, strict=True), 1):
            say(f"Phase {number} of {len(phases)}. {thaw(network, phase, bn)}")
            path = None if folder is None else folder.path / f"{number}-{phase.downto}"
            result = train(
                network, data, own, path, epochs=phase.epochs, seed=seed, pull_to=start, **options
            )
            _check_best(result)
            results.append(result)
        if folder is not None:
            done = list(zip(phases, recipes, results, strict=True))
            dtype = options.get("dtype")
            _finish(folder, network, sources, recipe, done, bn, seed, dtype, compared)
    best = max(result.best for result in results)
    if compared is not None:
        say(_gain(best, compared, len(sources[1])))
    return FinetuneResult(network, tuple(results), best, compared, folder.path if folder else None)


def _gain(best: float, compared: Baselines, images: int) -> str:
    """Return a sentence about the best accuracy and its gain over the baselines."""
    gain = 100 * (best - max(compared.linear_probe, compared.nearest_neighbors))
    words = accuracy_in_words(best, images)
    return f"Best: {words}, {gain:+.1f} points compared with the better baseline."


def _check(model: keras.Model, phases: Sequence[Phase], options: TrainOptions) -> None:
    """Raise errors that would occur later, and warn about random weights."""
    if untrained_part(model) == "weights":
        warn_if_untrained(model.name, "weights", stacklevel=3)
    if not phases:
        raise ValueError("Expected at least one phase. Received: none")
    known = TrainOptions.__annotations__
    if unknown := [name for name in options if name not in known]:
        raise TypeError(
            f"Expected options among {', '.join(known)}. Received: {', '.join(unknown)}"
        )
    strategy = options.get("strategy")
    if isinstance(strategy, DeviceSetup):
        workers = strategy.workers
    else:
        # Each process of `keras-resnet launch`, Slurm or others would train alone.
        cluster = cluster_from(None, None, os.environ)
        workers = 1 if cluster is None else cluster.workers
    if workers > 1:
        raise ValueError(
            f"Expected a single process for fine-tuning. Received: {workers} workers. Start one "
            "process, or use the functions `freeze`, `unfreeze` and `train`"
        )


def with_head(model: keras.Model, source: Source, dropout: float = 0.0) -> keras.Model:
    """Return `model` if its head is for the classes of `source`, else a model with a new head.

    Raises:
        ValueError: If `dropout` is not 0 although the head is kept, or as for `replace_head`.
    """
    names, info = tuple(source.class_names), get_info(model)
    # A head for labels or values may have outputs of the same names.
    is_classifier = info.task is None and class_count(model) == len(names)
    if is_classifier and info.class_names == names:
        if dropout:
            raise ValueError(
                "Expected no `dropout` for a model with a head for the same classes, which is "
                f"kept. Received: {dropout}"
            )
        return model
    return replace_head(model, len(names), names=names, dropout=dropout)


def _identity(
    model: keras.Model, network: keras.Model, data: tuple[Source, Source]
) -> dict[str, Any]:
    """Return the identity of network, weights and data of a fine-tuning, JSON-serializable."""
    # Without the weights of the head if it is new, as these follow from the seed.
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
    """Return a sentence about rare classes, the rarest first; None if there are none."""
    names = source.class_names
    labels = np.asarray(source.labels)
    counts = np.bincount(labels[(labels >= 0) & (labels < len(names))], minlength=len(names))
    most = int(counts.argmax())
    rare = [int(i) for i in counts.argsort(kind="stable") if _RARE * counts[i] < counts[most]]
    if not rare:
        return None
    told = some_of([f"{counts[index]:,} of {names[index]}" for index in rare], _NAMED)
    balanced = recipe.loss.class_weights == "balanced"
    return (
        f"Classes are imbalanced: {counts[most]:,} training images of {names[most]}, "
        f"but {told}. "
        + ("" if balanced else "With `loss.class_weights=balanced`, ")
        + ("Each class weighs the same." if balanced else "each class would weigh the same.")
    )


def _compared(
    network: keras.Model,
    sources: tuple[Source, Source],
    max_bad_fraction: float | None,
    recipe: Recipe,
    seed: int,
    known: Mapping[str, Any] | None,
) -> Baselines:
    """Return the baselines of the network: `known` ones from before an interruption, or new."""
    from keras_resnet.training.transfer.baselines import LIMIT, Baselines, baselines

    if known is not None:
        # An earlier spelling, kept to resume existing folders.
        return Baselines(**{key.replace("bours", "bors"): known[key] for key in known})
    # Images are prepared as in validation.
    keywords: dict[str, Any] = {"protocol": sizes(network, recipe)[0]}
    if max_bad_fraction is not None:
        keywords["max_bad_fraction"] = max_bad_fraction
    # At least one image of every class.
    limit = max(LIMIT, len(sources[0].class_names))
    with contextlib.ExitStack() as stack:
        # Without a terminal, every batch would print a line.
        step = stack.enter_context(progress_bar("Baselines")) if console.is_terminal else unseen
        return baselines(network, *sources, limit=limit, seed=seed, progress=step, **keywords)


def _claimed(folder: RunFolder, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write the settings, or check that they are the same; return the other content of the file."""
    phase = {"stages": dataclasses.asdict(Phase("head", 1))}
    earlier = defaults_of_earlier(settings, folder.read_config())
    return folder.claim(settings, "fine-tuning", {**DEFAULTS, **phase, **earlier}, replaces=True)


def _check_best(result: TrainResult) -> None:
    """Raise OSError if the best network of a finished phase was removed."""
    if result.folder is not None and not (best := RunFolder(result.folder).best_file).is_file():
        raise OSError(
            f"Expected the best network of a finished phase. Received: no {best}. Remove "
            f"{result.folder}, and the same call repeats that phase"
        )


def _finish(
    folder: RunFolder,
    network: keras.Model,
    data: tuple[Source, Source],
    recipe: Recipe,
    done: Sequence[tuple[Phase, Recipe, TrainResult]],
    bn: BNMode,
    seed: int,
    dtype: str | None,
    baselines: Baselines | None,
) -> None:
    """Write the files for all phases together."""
    results = [result for *_, result in done]
    history: dict[str, list[float]] = {}
    for result in results:
        for name, values in result.history.items():
            history.setdefault(name, []).extend(values)
    best = max(results, key=lambda result: result.best)
    epochs_before = sum(len(r.history["loss"]) for r in results[: results.index(best)])
    facts = CardFacts(
        network=network.name,
        config=dict(get_info(network).config or {}),
        parameters=network.count_params(),
        input_shape=network.input_shape[1:],
        # Parent folders of the data may be private.
        data=data[0].name.rpartition("/")[2],
        class_names=data[0].class_names,
        images=(len(data[0]), len(data[1])),
        recipe=dataclasses.replace(
            recipe, duration=float(sum(phase.epochs for phase, *_ in done)), unit="epochs"
        ),
        history=history,
        best_epoch=epochs_before + best.best_epoch,
        seed=seed,
        dtype=precision_of(network, dtype),
        phases=len(done),
        environment=describe_environment(),
    )
    with partial_directory(folder.path) as staging:
        new = RunFolder(staging)
        for file, result in ((new.best_file, best), (new.last_file, results[-1])):
            assert result.folder is not None
            shutil.copyfile(result.folder / file.name, file)
        new.write_history(history)
        new.write_plot(history, f"{network.name}, {recipe.name}")
        new.write_card(model_card(facts) + _card_of_phases(done, bn, baselines))
        publish(staging, new.results())


def _card_of_phases(
    done: Sequence[tuple[Phase, Recipe, TrainResult]], bn: BNMode, baselines: Baselines | None
) -> str:
    """Return the section of the model card about the phases of fine-tuning."""
    lines = [
        "",
        "## Phases",
        "",
        "| phase | trained, from the head down to | epochs | peak learning rate | best accuracy |",
        "| --- | --- | --- | --- | --- |",
    ]
    for number, (phase, recipe, result) in enumerate(done, 1):
        epochs, rate = len(result.history["loss"]), recipe.learning_rate
        cells = (number, phase.downto, epochs, f"{rate:g}", f"{100 * result.best:.2f} %")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", f"Batch normalization: {bn}."]
    if baselines is not None:
        lines += ["", "Without training the network:", "", str(baselines)]
    return "\n".join(lines) + "\n"
