"""The output folder of a training run: its files, and how they are written whole."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.support.checks import check_integer, differences, some_of
from keras_resnet.support.files import held, recover, whole_file
from keras_resnet.support.json_text import load_json
from keras_resnet.support.text import printable
from keras_resnet.training.run.checkpoint import (
    ChangedError,
    DamagedError,
    ResumeError,
    RunState,
    read_checkpoint,
    write_checkpoint,
)
from keras_resnet.training.run.history_plot import history_plot

#: Of `config.json`; raised where a value in it gets another meaning. A field that is added needs
#: nothing: absent, it has its default. Files from before there were formats have none.
FORMAT = 1

_EPOCH = "epoch"

#: So many differences from what a folder holds are named.
_NAMED = 10
_CHECKPOINT = re.compile(r"step-(\d{10,})\.safetensors")


class RunFolder:
    """The output folder of a training run.

    Every file is written under a temporary name, flushed to the disk and renamed, so that it is
    there whole or not at all. One process at a time writes here, see `held`. Whatever writes raises
    ValueError if the folder cannot be written to, and OSError if the disk is full, or if the folder
    was moved or removed while it was held.

    Args:
        path: of the folder; it need not exist.
        keep: how many of the newest checkpoints stay, at least 1. With 1 there is none to fall back
            to.

    Attributes:
        path: of the folder.
        config_file: `config.json`, what was asked for.
        environment_file: `environment.json`, where it runs; see `describe_environment`.
        checkpoints_folder: `checkpoints`, with a file `step-0000000123.safetensors` for each.
        best_file: `best.keras`, the model of the best epoch.
        last_file: `last.keras`, the model as it was last.
        history_file: `history.csv`, one row per epoch.
        tensorboard_folder: `tensorboard`.
        plot_file: `history.png`.
        card_file: `model_card.md`.

    Raises:
        ValueError: `keep` is less than 1.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int = 3) -> None:
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
        self._keep = check_integer("keep", keep)
        self._is_there: Callable[[], bool] = lambda: True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the folder against other processes while a run writes there, and makes it.

        What killed processes have begun to write is removed.

        Raises:
            ValueError: another process is at work there, or there are folders in the place of
                files, or files in that of folders.
        """
        with held(self.path) as self._is_there:
            self._check_kinds()
            recover(self.checkpoints_folder)
            yield

    def _check_kinds(self) -> None:
        inside = self.checkpoints_folder
        checkpoints = inside.iterdir() if inside.is_dir() else ()
        files = [
            *(self.config_file, self.environment_file, *self._results),
            *(path for path in checkpoints if _CHECKPOINT.fullmatch(path.name)),
        ]
        for kind, wrong in (
            ("file", [path for path in files if path.is_dir()]),
            ("folder", [p for p in (inside, self.tensorboard_folder) if p.is_file()]),
        ):
            if wrong:
                raise ValueError(
                    f"Expected a {kind} or nothing. Received: {wrong[0]}, which is none. Move it "
                    "away, or choose another folder"
                )

    @property
    def _results(self) -> tuple[Path, ...]:
        models = (self.best_file, self.last_file)
        return (*models, self.history_file, self.plot_file, self.card_file)

    def results(self) -> list[str]:
        """Names of what a run, its phases and its checkpoints have left in the folder."""
        phases = self.path.glob("[0-9]*-*/config.json")
        found = [*phases, *self.checkpoints(), *(file for file in self._results if file.exists())]
        return [str(path.relative_to(self.path)) for path in found]

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes `config.json`, whose values are dicts, lists, strings, numbers, booleans, None."""
        self._write(self.config_file, _json({"format": FORMAT, **config}))

    def read_config(self) -> dict[str, Any] | None:
        """Return the content of `config.json`; None if there is none.

        Raises:
            OSError: it is not what `write_config` wrote.
            ResumeError: a later version of this package wrote it.
        """
        config = _read_json(self.config_file)
        if config is not None and (format_ := config.pop("format", 0)) > FORMAT:
            raise ResumeError(
                f"Expected a {self.config_file.name} of format {FORMAT}. Received: "
                f"{self.config_file}, of format {format_}. Update keras-resnets"
            )
        return config

    def claim(
        self,
        settings: Mapping[str, Any],
        what: str,
        defaults: Mapping[str, Any],
        *,
        replaces: bool = False,
        others: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Notes in `config.json` what is made in the folder, or makes sure that it is the same.

        Args:
            settings: what must not change when it goes on, fit for JSON.
            what: a noun for messages, such as `"fine-tuning"`.
            defaults: what settings have that are absent in the folder; see `differences`.
            replaces: whether settings of what never started, such as those of a call that was
                refused, are replaced.
            others: names of results besides those of `results`.

        Returns:
            What `config.json` has besides these settings.

        Raises:
            ChangedError: the folder holds another one.
            ResumeError: it holds something else, or nobody knows what.
            OSError: `config.json` is damaged.
        """
        before = self.read_config()
        results = [*self.results(), *(name for name in others if (self.path / name).exists())]
        if before is None and results:
            raise ResumeError(
                f"Expected {self.config_file.name}, which says what {self.path} holds. Received: "
                f"none beside {some_of(results)}. Bring it back, or choose another folder"
            )
        if before is not None:
            # What never started is replaced only if it was of the same kind.
            if not settings.keys() <= before.keys() | defaults.keys():
                raise ResumeError(
                    f"Expected a folder for a {what}. Received: {self.path}, whose "
                    f"{self.config_file.name} is of something else. Choose another folder"
                )
            known = {name: before.pop(name) for name in settings if name in before}
            changes = differences(known, *(json.loads(_json(x)) for x in (settings, defaults)))
            if not changes:
                return before
            if results or not replaces:
                named = [printable(change) for change in changes[:_NAMED]]
                more = [f"and {len(changes) - _NAMED} more"] if len(changes) > _NAMED else []
                lines = "\n".join(f"  {line}" for line in named + more)
                raise ChangedError(
                    f"Expected the {what} that {self.path} holds, to go on with it. Received: "
                    f"another one. What differs, saved → given:\n{lines}\n"
                    "Go on with the same network, data and settings, or choose another folder"
                )
        self.write_config(settings)
        return {}

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Writes `environment.json`; where a run goes on elsewhere, `earlier` in it has the others.

        What is damaged there is replaced, with a warning.
        """
        try:
            before = _read_json(self.environment_file) or {}
            earlier = list(before.pop("earlier", []))
        except (OSError, TypeError) as error:
            warnings.warn(f"{self.environment_file} is written anew: {error}", stacklevel=2)
            before, earlier = {}, []
        if before and before != json.loads(_json(environment)):
            earlier = [*earlier, before]
        others = {"earlier": earlier} if earlier else {}
        self._write(self.environment_file, _json({**environment, **others}))

    def write_history(self, history: Mapping[str, Sequence[float]]) -> None:
        """Writes `history.csv` anew: columns `epoch`, from 1, and those of the history.

        Numbers have all their digits; what is no number is `nan`, infinities are `inf`.

        Args:
            history: one value per epoch of every quantity; as all rows are written, none is there
                twice or missing after a resume.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([_EPOCH, *history])
        for number, row in enumerate(zip(*history.values(), strict=True), 1):
            writer.writerow([number, *(repr(float(value)) for value in row)])
        self._write(self.history_file, text.getvalue())

    def write_plot(self, history: Mapping[str, Sequence[float]], title: str = "") -> None:
        """Draws `history.png`; see `history_plot`."""
        figure = history_plot(history, title)
        self._put(self.plot_file, lambda new: figure.savefig(new, dpi=120))

    def write_card(self, text: str) -> None:
        """Writes `model_card.md`; see `model_card`."""
        self._write(self.card_file, text)

    def write_model(self, model: Any, file: Path) -> None:
        """Saves a Keras model as `file`, one of `best_file` and `last_file`."""
        self._put(file, model.save)

    def checkpoints(self) -> list[Path]:
        """The files of the checkpoints, damaged ones included, by step."""
        folder = self.checkpoints_folder
        found = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
        return sorted((path for path in found if _CHECKPOINT.fullmatch(path.name)), key=_step_of)

    def save(self, step: int, state: RunState) -> Path:
        """Writes a checkpoint, then removes the oldest beyond `keep`, and damaged newer ones.

        Args:
            step: how many were taken. A checkpoint of the same step is replaced.
            state: what to write.

        Returns:
            The path of the file.

        Raises:
            ResumeError: a whole checkpoint of a later step is there: this run is not its
                continuation.
            OSError: the disk is full. The earlier checkpoints are untouched.
        """
        path = self.checkpoints_folder / f"step-{step:010d}.safetensors"
        damaged = self._damaged_after(step)
        self._put(path, lambda new: write_checkpoint(new, state))
        for old in (*damaged, *self.checkpoints()[: -self._keep]):
            if old != path:
                old.unlink(missing_ok=True)
        return path

    def latest(self) -> tuple[Path, RunState] | None:
        """Reads the newest checkpoint that is whole, and warns of damaged newer ones.

        Returns:
            Its path and state; None if there are no checkpoints at all.

        Raises:
            OSError: there are checkpoints, but all are damaged, or one cannot be opened.
            ResumeError: a later version of this package wrote it.
        """
        damaged: list[str] = []
        for path in reversed(self.checkpoints()):
            try:
                state = read_checkpoint(path)
            except FileNotFoundError:
                continue  # The run that writes here has removed it meanwhile.
            except DamagedError as error:
                damaged.append(f"{path.name} ({error})")
                continue
            if damaged:
                verb = "is" if len(damaged) == 1 else "are"
                warnings.warn(
                    f"{', '.join(damaged)} in {path.parent} {verb} damaged, falling back to "
                    f"{path.name}",
                    stacklevel=2,
                )
            return path, state
        if damaged:
            raise OSError(
                f"Expected a whole checkpoint in {self.checkpoints_folder}. Received: damaged ones "
                f"only: {', '.join(damaged)}. Bring back a copy of one, or remove them to start "
                "anew"
            )
        return None

    def _put(self, file: Path, write: Callable[[Path], Any]) -> None:
        if not self._is_there():
            raise OSError(
                f"Expected {self.path} to stay in its place during the run. Received: a folder "
                "that was moved or removed. Move it back, and the same call goes on from its last "
                "checkpoint"
            )
        with whole_file(file) as new:
            write(new)

    def _write(self, file: Path, text: str) -> None:
        # Names of files that are not UTF-8 become escapes, which JSON reads back.
        keywords = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
        self._put(file, lambda new: new.write_text(text, **keywords))

    def _damaged_after(self, step: int) -> list[Path]:
        """The damaged checkpoints of later steps, from which a run has fallen back."""
        later = [path for path in self.checkpoints() if _step_of(path) > step]
        for path in later:
            try:
                read_checkpoint(path)
            except DamagedError:
                continue
            raise ResumeError(
                f"Expected a step of at least {_step_of(path)}, of which {path.parent} has a "
                f"checkpoint. Received: {step}. Resume from it, or train in another folder"
            )
        return later


def _json(values: Mapping[str, Any]) -> str:
    # NaN, which Python would write, is not JSON.
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    return f"{text}\n"


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise ValueError(f"Expected values that JSON takes. Received: {value!r}")


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _read_json(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        values = load_json(file)
    except ValueError as error:
        raise OSError(f"Expected a file of JSON. Received: {file} ({error})") from error
    if not isinstance(values, dict):
        raise OSError(f"Expected a JSON object. Received: {file}")
    return values
