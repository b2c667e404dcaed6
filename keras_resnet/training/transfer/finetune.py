"""`finetune()`: a trained network learns another task, stage by stage."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_resnet.data import DataConfig, Source, load_data
from keras_resnet.files import partial_directory, publish
from keras_resnet.model_info import get_info
from keras_resnet.terminal import console
from keras_resnet.training.recipe_table import find_recipe
from keras_resnet.training.recipes import Recipe, override
from keras_resnet.training.run_folder import RunFolder
from keras_resnet.training.run_state import ResumeError, fingerprint_difference
from keras_resnet.training.trainer import TrainResult, train
from keras_resnet.training.transfer.baselines import Baselines, baselines
from keras_resnet.training.transfer.freezing import BNMode, freeze, unfreeze
from keras_resnet.training.transfer.heads import check_image_size, replace_head

#: Of a class with this many times the images of another one, training is told.
_IMBALANCED = 3.0


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
    report: Callable[[str], None] = console.print,
    **keywords: Any,
) -> FinetuneResult:
    """Gives a network a head for the classes of a data set and trains it, head first.

    Every stage is a run of `train` in a folder of its own, `1-head` and so on, so that the same
    call goes on after an interruption. `out_dir` itself gets `best.keras`, `last.keras`,
    `history.csv`, `history.png` and `model_card.md` of all stages together, and `finetune.json`.

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
        seed: of the head, data order and augmentation.
        report: is told what happens, in sentences.
        **keywords: those of `train`, but for `epochs` and `resume`.

    Raises:
        ValueError: network, data and stages do not go together, or as for `train`.
        ResumeError: `out_dir` holds another fine-tuning.
    """
    if not stages:
        raise ValueError("Expected at least one stage. Received: none")
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    sources, settings = _open(data)
    keras.utils.set_random_seed(seed)
    network = _with_head(model, sources[0], dropout)
    check_image_size(network)
    if (found := _imbalance(sources[0])) is not None:
        report(found)
    run = _Folder(out_dir, stages, bn, dropout, seed)
    compared = run.baselines()
    if compared is None and compare:
        compared = baselines(network, *sources, seed=seed)
        run.write(compared)
    if compared is not None:
        report(str(compared))
    results = []
    for number, stage in enumerate(stages, 1):
        freeze(network, "backbone", bn=bn)
        what = unfreeze(network, None if stage.downto == "backbone" else stage.downto, bn=bn)
        report(f"Stage {number} of {len(stages)}. {what}")
        results.append(
            train(
                network,
                sources if settings is None else dataclasses.replace(settings),
                _recipe_of(recipe, stage),
                run.stage(number, stage),
                epochs=stage.epochs,
                seed=seed,
                **keywords,
            )
        )
    run.finish(results)
    best = max(result.best for result in results)
    if compared is not None:
        gain = 100 * (best - max(compared.linear_probe, compared.nearest_neighbours))
        report(f"Best: {best:.2%}, {gain:+.1f} points to the better baseline.")
    return FinetuneResult(network, tuple(results), best, compared, run.path)


def _open(
    data: tuple[Source, Source] | DataConfig | str,
) -> tuple[tuple[Source, Source], DataConfig | None]:
    if isinstance(data, str):
        data = DataConfig(data)
    return (load_data(data), data) if isinstance(data, DataConfig) else (data, None)


def _with_head(model: keras.Model, source: Source, dropout: float) -> keras.Model:
    names = tuple(source.class_names)
    if get_info(model).class_names == names and model.output_shape[-1] == len(names):
        return model
    return replace_head(model, len(names), names=names, dropout=dropout)


def _imbalance(source: Source) -> str | None:
    """A sentence on classes with far fewer images than others."""
    counts = Counter(source.labels.tolist())
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    if many < _IMBALANCED * few:
        return None
    names = source.class_names
    return (
        f"Classes are imbalanced: {many:,} images of {names[most]}, {few:,} of {names[least]}. "
        "`loss.class_weights=balanced` lets each class weigh the same."
    )


def _recipe_of(recipe: Recipe, stage: Stage) -> Recipe:
    rate = recipe.optimizer.learning_rate * stage.rate
    groups = recipe.optimizer.rate_groups
    if stage.downto == "head":
        # Nothing else trains, and groups have to reach something.
        groups = {key: factor for key, factor in groups.items() if key == "head"}
    return override(
        recipe, {"optimizer.learning_rate": rate, "optimizer.rate_groups": dict(groups)}
    )


class _Folder:
    """The folder of a fine-tuning, or none."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        stages: Sequence[Stage],
        bn: str,
        dropout: float,
        seed: int,
    ) -> None:
        self.path = None if path is None else Path(path)
        self._folder = None if path is None else RunFolder(path)
        self._settings: dict[str, Any] = {
            "stages": [dataclasses.asdict(stage) for stage in stages],
            "bn": bn,
            "dropout": dropout,
            "seed": seed,
        }
        self._before = None if self._folder is None else self._folder.read_config()
        if self._before is not None:
            known = {name: self._before.get(name) for name in self._settings}
            if changes := fingerprint_difference(known, self._settings):
                raise ResumeError(
                    f"Expected the fine-tuning that {self.path} holds, to go on with it. Received: "
                    f"{'; '.join(changes)}. Choose another folder, or the same settings"
                )
        elif self._folder is not None:
            self._folder.write_config(self._settings)

    def baselines(self) -> Baselines | None:
        """Those that were found before an interruption."""
        values = (self._before or {}).get("baselines")
        return None if values is None else Baselines(**values)

    def write(self, found: Baselines) -> None:
        if self._folder is not None:
            self._folder.write_config({**self._settings, "baselines": found.to_dict()})

    def stage(self, number: int, stage: Stage) -> Path | None:
        """The folder of a stage."""
        return None if self.path is None else self.path / f"{number}-{stage.downto}"

    def finish(self, results: Sequence[TrainResult]) -> None:
        """Writes what holds of all stages together."""
        if self._folder is None or self.path is None:
            return
        joined: dict[str, list[float]] = {}
        for result in results:
            for name, values in result.history.items():
                joined.setdefault(name, []).extend(values)
        self._folder.write_history(joined)
        self._folder.write_plot(joined, "fine-tuning, all stages")
        best = max(results, key=lambda result: result.best)
        with partial_directory(self.path) as staging:
            moves = {}
            for file, result in (
                (self._folder.best_file, best),
                (self._folder.last_file, results[-1]),
                (self._folder.card_file, results[-1]),
            ):
                assert result.folder is not None
                shutil.copyfile(result.folder / file.name, staging / file.name)
                moves[staging / file.name] = file
            publish(moves)
