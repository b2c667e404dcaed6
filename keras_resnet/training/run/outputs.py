"""What a training run writes: a folder with checkpoints, models, figures and a card, or nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_resnet.data import Source
from keras_resnet.models.info import get_info
from keras_resnet.support.terminal import console
from keras_resnet.training.recipes.recipe import Recipe
from keras_resnet.training.run.card import CardFacts, model_card
from keras_resnet.training.run.environment import describe_environment
from keras_resnet.training.run.folder import RunFolder
from keras_resnet.training.run.run import Run
from keras_resnet.training.run.state import ResumeError, fingerprint_difference


class Outputs:
    """Writes a run's folder, if it has one.

    Attributes:
        path: of the folder; None: nothing is written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        model: keras.Model,
        data: tuple[Source, Source],
        keep: int,
        *,
        writes: bool = True,
    ) -> None:
        """Takes the caller's model, which is what is saved, and how many checkpoints stay.

        Of several workers one writes; all of them read the checkpoint that they go on from.
        """
        self.path = None if path is None else Path(path)
        self._folder = None if path is None else RunFolder(path)
        self._checkpoints = None if self._folder is None else self._folder.checkpoints(keep)
        self._model, self._data, self._writes = model, data, writes
        self._last: Path | None = None

    def open(self, identity: Mapping[str, Any], resume: bool) -> None:
        """Makes the folder, or makes sure that what it holds is this run.

        Raises:
            ResumeError: it holds another one.
            ValueError: it holds a run, and is not to be resumed; or it cannot be written to.
        """
        if self._folder is None or self._checkpoints is None:
            return
        before = self._folder.read_config()
        if before is not None and not resume:
            raise ValueError(
                f"Expected a folder without a training run. Received: {self.path}. Choose another "
                "one, or go on with it"
            )
        if before is not None:
            changes = fingerprint_difference(before, identity)
            if changes:
                raise ResumeError(
                    f"Expected the run that {self.path} holds, to go on with it. Received: "
                    f"{'; '.join(changes)}. Choose another folder, or the same settings"
                )
        if not self._writes:
            return
        self._folder.clear_partial()
        self._folder.write_config(identity)
        self._folder.write_environment(describe_environment())

    def restore(self, run: Run) -> None:
        """Goes back to the newest whole checkpoint, if there is any."""
        found = self._checkpoints and self._checkpoints.latest()
        if found:
            self._last, state = found
            run.restore(state)
            if self._writes:
                console.print(
                    f"Going on with {self.path}: {run.batches} of {run.total} batches, "
                    f"{run.finished_epochs} of {run.epochs} epochs are done."
                )

    def save(self, run: Run) -> None:
        """Writes a checkpoint; every worker has to call it, as metrics are gathered from all."""
        if self._checkpoints is None:
            return
        state = run.state()
        if self._writes:
            self._last = self._checkpoints.save(run.batches, state)

    def last_good(self) -> str:
        """A sentence about the newest checkpoint."""
        return f"The last checkpoint is {self._last}." if self._last else "There is no checkpoint."

    def kept(self) -> str:
        """What somebody who ended the run needs to know; empty if there is no checkpoint."""
        return (
            f"The last checkpoint is {self._last}; run the same again to go on"
            if self._last
            else ""
        )

    def tensorboard(self, profile: tuple[int, int] | None) -> list[keras.callbacks.Callback]:
        """The callback that writes TensorBoard's files."""
        if self._folder is None or not self._writes:
            return []
        return [
            keras.callbacks.TensorBoard(
                str(self._folder.tensorboard_folder),
                write_graph=False,
                profile_batch=profile or 0,
            )
        ]

    def write_epoch(self, run: Run, is_best: bool) -> None:
        """Writes the figures, and the model, which has the right weights, if it is the best."""
        if self._folder is None or not self._writes:
            return
        self._folder.write_history(run.history)
        self._folder.write_plot(run.history, f"{self._model.name}, {run.recipe.name}")
        if is_best:
            self._folder.write_model(self._model, self._folder.best_file)

    def finish(self, run: Run, recipe: Recipe, seed: int, dtype: str) -> None:
        """Writes the model, which has the last weights, and its card."""
        if self._folder is None or not self._writes:
            return
        train_data, validation_data = self._data
        config = get_info(self._model).config
        card = model_card(
            CardFacts(
                network=self._model.name,
                config={} if config is None else dict(config),
                parameters=self._model.count_params(),
                input_shape=self._model.input_shape[1:],
                data=_public_name(train_data.name),
                class_names=train_data.class_names,
                images=(len(train_data), len(validation_data)),
                recipe=recipe,
                history=run.history,
                best_epoch=run.best_epoch,
                seed=seed,
                dtype=dtype,
                environment=describe_environment(),
            )
        )
        self._folder.write_model(self._model, self._folder.last_file)
        self._folder.write_card(card)


def _public_name(source: str) -> str:
    """The name of a source without the folders above it, which are nobody's business."""
    scheme, colon, path = source.partition(":")
    return f"{scheme}{colon}{path.rpartition('/')[2] if colon else ''}"
