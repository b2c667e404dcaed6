"""The output folder of a training run: its files, and how they are written whole."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_resnet.support.files import partial_directory, remove_leftovers, replace_durably
from keras_resnet.training.run.history_plot import history_plot
from keras_resnet.training.run.state import (
    Checkpoints,
    ResumeError,
    fingerprint_difference,
    plain_json,
)

_EPOCH = "epoch"


class RunFolder:
    """The output folder of a training run.

    Every file is written under a temporary name and renamed, so that one that is there is whole.

    Args:
        path: of the folder; it need not exist.

    Attributes:
        path: of the folder.
        config_file: `config.json`, what was asked for.
        environment_file: `environment.json`, where it runs; see `describe_environment`.
        checkpoints_folder: `checkpoints`.
        best_file: `best.keras`, the model of the best epoch.
        last_file: `last.keras`, the model as it was last.
        history_file: `history.csv`, one row per epoch.
        tensorboard_folder: `tensorboard`.
        plot_file: `history.png`.
        card_file: `model_card.md`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.environment_file = self.path / "environment.json"
        self.checkpoints_folder = self.path / "checkpoints"
        self.best_file = self.path / "best.keras"
        self.last_file = self.path / "last.keras"
        self.history_file = self.path / "history.csv"
        self.tensorboard_folder = self.path / "tensorboard"
        self.plot_file = self.path / "history.png"
        self.card_file = self.path / "model_card.md"

    def checkpoints(self, keep: int = 3) -> Checkpoints:
        """The checkpoints in it; see `Checkpoints`."""
        return Checkpoints(self.checkpoints_folder, keep)

    def clear_partial(self) -> None:
        """Removes what killed processes have begun to write; for the start of a run."""
        for folder in (self.path, self.checkpoints_folder):
            remove_leftovers(folder, age=0)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes `config.json`.

        Raises:
            ValueError: JSON cannot say it, or the folder cannot be written to.
            OSError: the disk is full.
        """
        self._write(self.config_file, _json(config, "config"))

    def read_config(self) -> dict[str, Any] | None:
        """The contents of `config.json`; None if there is none.

        Raises:
            OSError: it is not what `write_config` wrote.
        """
        return _read_json(self.config_file)

    def claim(self, settings: Mapping[str, Any], what: str, started: bool) -> dict[str, Any]:
        """Notes in `config.json` what is made in the folder, or makes sure that it is the same.

        Settings of what never started, such as those of a call that was refused, are replaced.

        Args:
            settings: what must not change when it goes on, fit for JSON.
            what: a noun for messages, such as `"fine-tuning"`.
            started: whether the folder has more of it than `config.json`.

        Returns:
            What `config.json` has besides these settings.

        Raises:
            ResumeError: the folder holds another one, or something else.
            ValueError: JSON cannot say the settings, or the folder cannot be written to.
            OSError: the disk is full, or `config.json` is damaged.
        """
        before = self.read_config()
        if before is not None:
            # What never started is replaced only if it was of the same kind.
            if not settings.keys() <= before.keys():
                raise ResumeError(
                    f"Expected a folder for a {what}. Received: {self.path}, whose "
                    f"{self.config_file.name} is of something else. Choose another folder"
                )
            known = {name: before.pop(name) for name in settings}
            changes = fingerprint_difference(known, settings)
            if not changes:
                return before
            if started:
                raise ResumeError(
                    f"Expected the {what} that {self.path} holds, to go on with it. Received: "
                    f"{'; '.join(changes)}. Load the same network again and keep the settings, or "
                    "choose another folder"
                )
        self.write_config(settings)
        return {}

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Writes `environment.json`; where a run goes on elsewhere, `earlier` in it has the others.

        Raises:
            ValueError: JSON cannot say it, or the folder cannot be written to.
            OSError: the disk is full, or what is there is damaged.
        """
        before = _read_json(self.environment_file) or {}
        earlier = before.pop("earlier", [])
        now = plain_json(environment, "environment")
        if before and before != now:
            earlier = [*earlier, before]
        self._write(
            self.environment_file, _json(now | ({"earlier": earlier} if earlier else {}), "")
        )

    def write_history(self, history: Mapping[str, Sequence[float]]) -> None:
        """Writes `history.csv` anew: columns `epoch`, from 1, and those of the history.

        Numbers have all their digits; what is no number is `nan`, infinities are `inf`.

        Args:
            history: one value per epoch of every quantity; as all rows are written, none is there
                twice or missing after a resume.

        Raises:
            ValueError: columns have different lengths, or the folder cannot be written to.
            OSError: the disk is full.
        """
        counts = {name: len(values) for name, values in history.items()}
        if len(set(counts.values())) > 1 or _EPOCH in history:
            raise ValueError(
                f"Expected as many values in each column, none of them called {_EPOCH}. "
                f"Received: {counts}"
            )
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([_EPOCH, *history])
        for number, row in enumerate(zip(*history.values(), strict=True), 1):
            writer.writerow([number, *(repr(float(value)) for value in row)])
        self._write(self.history_file, text.getvalue())

    def read_history(self) -> dict[str, list[float]]:
        """What `write_history` was given; nothing if there is no file.

        Raises:
            OSError: the file is not what it wrote.
        """
        if not self.history_file.is_file():
            return {}
        try:
            text = self.history_file.read_text(encoding="utf-8")
            names, *rows = csv.reader(io.StringIO(text))
            if names[:1] != [_EPOCH] or any(len(row) != len(names) for row in rows):
                raise ValueError("its columns are not those of a history")
            return {
                name: [float(row[index]) for row in rows] for index, name in enumerate(names[1:], 1)
            }
        except ValueError as error:
            raise OSError(
                f"Expected the history of a training run. Received: {self.history_file} ({error})"
            ) from error

    def write_plot(self, history: Mapping[str, Sequence[float]], title: str = "") -> None:
        """Draws `history.png`; see `history_plot`.

        Raises:
            ValueError: there is no epoch to draw, or the folder cannot be written to.
            OSError: the disk is full.
        """
        figure = history_plot(history, title)
        with partial_directory(self.path) as staging:
            new = staging / self.plot_file.name
            figure.savefig(new, dpi=120)
            replace_durably(new, self.plot_file)

    def write_card(self, text: str) -> None:
        """Writes `model_card.md`; see `model_card`.

        Raises:
            ValueError: the folder cannot be written to.
            OSError: the disk is full.
        """
        self._write(self.card_file, text)

    def write_model(self, model: Any, file: Path) -> None:
        """Saves a Keras model as `file`, one of `best_file` and `last_file`.

        Raises:
            ValueError: the folder cannot be written to.
            OSError: the disk is full.
        """
        with partial_directory(file.parent) as staging:
            new = staging / file.name
            model.save(new)
            replace_durably(new, file)

    def _write(self, file: Path, text: str) -> None:
        with partial_directory(self.path) as staging:
            new = staging / file.name
            # Names of files that are not UTF-8 become escapes, which JSON reads back.
            new.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
            replace_durably(new, file)


def _json(values: Mapping[str, Any], where: str) -> str:
    # NaN, which Python would write, is not JSON.
    text = json.dumps(plain_json(values, where), indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n"


def _read_json(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OSError(f"Expected a file of JSON. Received: {file} ({error})") from error
    if not isinstance(values, dict):
        raise OSError(f"Expected a JSON object. Received: {file}")
    return values
