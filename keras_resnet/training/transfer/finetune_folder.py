"""What fine-tuning writes: a folder per stage, and what holds of all stages together."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from keras_resnet.data import Source
from keras_resnet.models.info import get_info
from keras_resnet.support.files import partial_directory, publish
from keras_resnet.training.recipes.recipe import Recipe
from keras_resnet.training.run.card import CardFacts, model_card
from keras_resnet.training.run.environment import describe_environment
from keras_resnet.training.run.folder import RunFolder
from keras_resnet.training.run.trainer import TrainResult

if TYPE_CHECKING:
    from keras_resnet.training.transfer.baselines import Baselines
    from keras_resnet.training.transfer.finetune import Stage


@dataclass(frozen=True)
class FinetuneFacts:
    """What a model card tells of a fine-tuning.

    Attributes:
        network: with its new head.
        data: training and validation images.
        recipe: that the stages' own were made of.
        stages: each with its recipe and what came of it.
        bn: what batch normalisation did.
        seed: of all stages.
        dtype: of the computations.
        baselines: accuracies without training, if they were found.
    """

    network: keras.Model
    data: tuple[Source, Source]
    recipe: Recipe
    stages: Sequence[tuple[Stage, Recipe, TrainResult]]
    bn: str
    seed: int
    dtype: str
    baselines: Baselines | None


class FinetuneFolder:
    """The folder of a fine-tuning, or none.

    Args:
        path: of the folder; None: nothing is written.
        settings: what must not change when it goes on, fit for JSON.

    Attributes:
        path: of the folder, if there is one.

    Raises:
        ResumeError: the folder holds another fine-tuning, or something else.
    """

    def __init__(self, path: str | os.PathLike[str] | None, settings: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self._folder = None if path is None else RunFolder(path)
        self._settings = dict(settings)
        self._before: dict[str, Any] = {}
        if self._folder is not None:
            folder = self._folder
            results = (folder.history_file, folder.best_file, folder.last_file)
            started = any(folder.path.glob("[0-9]*-*")) or any(map(Path.is_file, results))
            self._before = folder.claim(self._settings, "fine-tuning", started)

    def known_baselines(self) -> dict[str, Any] | None:
        """Those that were found before an interruption."""
        return self._before.get("baselines")

    def write_baselines(self, found: Baselines) -> None:
        """Keeps them for the same call after an interruption."""
        if self._folder is not None:
            self._folder.write_config({**self._settings, "baselines": found.to_dict()})

    def stage(self, number: int, downto: str) -> Path | None:
        """The folder of a stage."""
        return None if self.path is None else self.path / f"{number}-{downto}"

    def check(self, result: TrainResult) -> None:
        """Makes sure that a stage that is done has left its best network.

        Raises:
            OSError: somebody has removed it.
        """
        if result.folder is None:
            return
        best = RunFolder(result.folder).best_file
        if not best.is_file():
            raise OSError(
                f"Expected the best network of a finished stage. Received: no {best}. Remove "
                f"{result.folder}, and the same call does that stage again"
            )

    def finish(self, facts: FinetuneFacts) -> None:
        """Writes what holds of all stages together."""
        if self._folder is None or self.path is None:
            return
        results = [result for *_, result in facts.stages]
        joined: dict[str, list[float]] = {}
        for result in results:
            for name, values in result.history.items():
                joined.setdefault(name, []).extend(values)
        best = max(results, key=lambda result: result.best)
        epochs_before = sum(len(r.history["loss"]) for r in results[: results.index(best)])
        self._folder.write_history(joined)
        self._folder.write_plot(joined, f"{facts.network.name}, {facts.recipe.name}")
        self._folder.write_card(_card(facts, joined, epochs_before + best.best_epoch))
        with partial_directory(self.path) as staging:
            moves = {}
            for file, result in (
                (self._folder.best_file, best),
                (self._folder.last_file, results[-1]),
            ):
                assert result.folder is not None
                shutil.copyfile(result.folder / file.name, staging / file.name)
                moves[staging / file.name] = file
            publish(moves)


def _card(facts: FinetuneFacts, history: Mapping[str, Sequence[float]], best_epoch: int) -> str:
    train_data, validation_data = facts.data
    config = get_info(facts.network).config
    duration = float(sum(stage.epochs for stage, *_ in facts.stages))
    card = model_card(
        CardFacts(
            network=facts.network.name,
            config={} if config is None else dict(config),
            parameters=facts.network.count_params(),
            input_shape=facts.network.input_shape[1:],
            # Folders above the data are nobody's business.
            data=train_data.name.rpartition("/")[2],
            class_names=train_data.class_names,
            images=(len(train_data), len(validation_data)),
            recipe=dataclasses.replace(facts.recipe, duration=duration, unit="epochs"),
            history=history,
            best_epoch=best_epoch,
            seed=facts.seed,
            dtype=facts.dtype,
            stages=len(facts.stages),
            environment=describe_environment(),
        )
    )
    lines = [
        "## Stages",
        "",
        "| stage | trained, from the head down to | epochs | peak learning rate | best accuracy |",
        "| --- | --- | --- | --- | --- |",
    ]
    for number, (stage, recipe, result) in enumerate(facts.stages, 1):
        epochs, rate = len(result.history["loss"]), recipe.learning_rate
        cells = (number, stage.downto, epochs, f"{rate:g}", f"{100 * result.best:.2f} %")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", f"Batch normalisation: {facts.bn}."]
    if facts.baselines is not None:
        lines += ["", "Without training the network:", "", str(facts.baselines)]
    return card + "\n" + "\n".join(lines) + "\n"
