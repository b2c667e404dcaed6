"""The folder of a fine-tuning: one folder per phase, and the files of all phases together."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_resnet.support.files import partial_directory, publish
from keras_resnet.training.run.folder import RunFolder
from keras_resnet.training.run.trainer import TrainResult


class FinetuneFolder:
    """The folder of a fine-tuning, or none.

    Args:
        path: of the folder; None: nothing is written.
        settings: what must not change when it goes on, fit for JSON.

    Attributes:
        path: of the folder, if there is one.
        baselines: those that were found before an interruption.

    Raises:
        ResumeError: the folder holds another fine-tuning, or something else.
    """

    def __init__(self, path: str | os.PathLike[str] | None, settings: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.baselines: dict[str, Any] | None = None
        self._folder = None if path is None else RunFolder(path)
        self._settings = settings
        if self._folder is not None:
            folder = self._folder
            results = (folder.history_file, folder.best_file, folder.last_file)
            started = any(folder.path.glob("[0-9]*-*")) or any(map(Path.is_file, results))
            self.baselines = folder.claim(settings, "fine-tuning", started).get("baselines")

    def keep_baselines(self, baselines: Mapping[str, Any]) -> None:
        """Keeps them for the same call after an interruption."""
        if self._folder is not None:
            self._folder.write_config({**self._settings, "baselines": baselines})

    def of_phase(self, number: int, downto: str) -> Path | None:
        """The folder of a phase, counted from 1."""
        return None if self.path is None else self.path / f"{number}-{downto}"

    def finish(
        self,
        results: Sequence[TrainResult],
        history: Mapping[str, Sequence[float]],
        title: str,
        card: str,
    ) -> None:
        """Writes the files of all phases together.

        Args:
            results: of the phases.
            history: of all of them, one after the other.
            title: of the plot.
            card: text of the model card.
        """
        if self._folder is None or self.path is None:
            return
        self._folder.write_history(history)
        self._folder.write_plot(history, title)
        self._folder.write_card(card)
        best = max(results, key=lambda result: result.best)
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


def check_best(result: TrainResult) -> None:
    """Makes sure that a finished phase has left its best network.

    Raises:
        OSError: somebody has removed it.
    """
    if result.folder is not None:
        best = RunFolder(result.folder).best_file
        if not best.is_file():
            raise OSError(
                f"Expected the best network of a finished phase. Received: no {best}. Remove "
                f"{result.folder}, and the same call does that phase again"
            )
