"""The output folder of a training run."""

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
from keras_resnet.training.run.history_plot import history_plot
from keras_resnet.training.run.state_file import (
    ChangedError,
    DamagedError,
    ResumeError,
    RunState,
    read_state,
    write_state,
)

#: Format of `config.json`, increased when the meaning of a value changes. A new field needs no new
#: format, as absent fields have their defaults. The first files had no format.
FORMAT = 1

_EPOCH = "epoch"

#: Largest number of differences that a message names.
_NAMED = 10
_STATE_FILE = re.compile(r"step-(\d{10,})\.safetensors")


class RunFolder:
    """The output folder of a training run.

    Every file is written under a temporary name, flushed to disk and renamed, so it is either
    complete or absent. Only one process at a time may write to the folder; see `held`. Methods that
    write raise ValueError if the folder is not writable, and OSError if the disk is full or if the
    folder was moved or removed while it was held.

    Args:
        path: path of the folder, which need not exist.
        keep: number of the newest states to keep, at least 1. With 1, there is no other state if
            that one is damaged.

    Attributes:
        path: path of the folder.
        config_file: `config.json`, the settings.
        environment_file: `environment.json`, versions and devices; see `describe_environment`.
        states_folder: `checkpoints`, with a file such as `step-0000000123.safetensors` per state.
        best_file: `best.keras`, the model of the best epoch.
        last_file: `last.keras`, the final model.
        history_file: `history.csv`, one row per epoch.
        tensorboard_folder: `tensorboard`.
        plot_file: `history.png`.
        card_file: `model_card.md`.

    Raises:
        ValueError: If `keep` is less than 1.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int = 3) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.environment_file = self.path / "environment.json"
        self.states_folder = self.path / "checkpoints"
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
        """Create the folder and lock it against other processes inside the context.

        Incomplete files of killed processes are removed.

        Raises:
            ValueError: If another process uses the folder, or a file of the run is a folder or
                vice versa.
        """
        with held(self.path) as self._is_there:
            self._check_kinds()
            recover(self.states_folder)
            yield

    def _check_kinds(self) -> None:
        inside = self.states_folder
        checkpoints = inside.iterdir() if inside.is_dir() else ()
        files = [
            *(self.config_file, self.environment_file, *self._results),
            *(path for path in checkpoints if _STATE_FILE.fullmatch(path.name)),
        ]
        for kind, wrong in (
            ("file", [path for path in files if path.is_dir()]),
            ("folder", [p for p in (inside, self.tensorboard_folder) if p.is_file()]),
        ):
            if wrong:
                raise ValueError(
                    f"Expected a {kind} or nothing. Received: {wrong[0]}, which is not a {kind}. "
                    "Move it away, or choose another folder"
                )

    @property
    def _results(self) -> tuple[Path, ...]:
        models = (self.best_file, self.last_file)
        return (*models, self.history_file, self.plot_file, self.card_file)

    def results(self) -> list[str]:
        """Return the names of all results in the folder: of states, phases and finished files."""
        phases = self.path.glob("[0-9]*-*/config.json")
        found = [*phases, *self.state_files(), *(file for file in self._results if file.exists())]
        return [str(path.relative_to(self.path)) for path in found]

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write `config.json`; the values must be JSON-serializable."""
        self._write(self.config_file, _json({"format": FORMAT, **config}))

    def read_config(self) -> dict[str, Any] | None:
        """Return the content of `config.json`; None if there is no such file.

        Raises:
            OSError: If the file is damaged.
            ResumeError: If a later version of this package wrote the file.
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
        """Write settings to `config.json`, or check that it contains the same settings.

        Args:
            settings: settings that must not change when the work is resumed, JSON-serializable.
            what: a noun for messages, such as `"fine-tuning"`.
            defaults: values of settings that are absent in the folder; see `differences`.
            replaces: whether to replace other settings if there are no results yet.
            others: names of further results besides those of `results`.

        Returns:
            The content of `config.json` apart from `settings`.

        Raises:
            ChangedError: If the folder was made with other settings.
            ResumeError: If it was made for another purpose, or has results but no `config.json`.
            OSError: If `config.json` is damaged.
        """
        before = self.read_config()
        results = [*self.results(), *(name for name in others if (self.path / name).exists())]
        if before is None and results:
            raise ResumeError(
                f"Expected {self.config_file.name}, which says what {self.path} contains. "
                f"Received: none beside {some_of(results)}. Restore it, or choose another folder"
            )
        if before is not None:
            # Settings of another kind of work are never replaced.
            if not settings.keys() <= before.keys() | defaults.keys():
                raise ResumeError(
                    f"Expected a folder for a {what}. Received: {self.path}, whose "
                    f"{self.config_file.name} is that of something else. Choose another folder"
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
                    f"Expected the settings of the {what} in {self.path}, to resume it. Received: "
                    f"others. Differences, saved → given:\n{lines}\n"
                    "Use the same network, data and settings, or choose another folder"
                )
        self.write_config(settings)
        return {}

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Write `environment.json`.

        If a run is resumed in another environment, the previous ones are kept as `earlier`, and a
        warning names the differences. A damaged file is replaced with a warning.
        """
        try:
            before = _read_json(self.environment_file) or {}
            earlier = list(before.pop("earlier", []))
        except (OSError, TypeError) as error:
            warnings.warn(f"{self.environment_file} is replaced: {error}", stacklevel=2)
            before, earlier = {}, []
        if before and (changes := differences(before, json.loads(_json(environment)))):
            earlier = [*earlier, before]
            if self.state_files():
                warnings.warn(
                    f"The run in {self.path} is resumed in another environment "
                    f"({', '.join(map(printable, changes))}). Its weights will not be "
                    "bit-identical to those of an uninterrupted run",
                    stacklevel=2,
                )
        others = {"earlier": earlier} if earlier else {}
        self._write(self.environment_file, _json({**environment, **others}))

    def write_history(self, history: Mapping[str, Sequence[float]]) -> None:
        """Write `history.csv` with the columns `epoch`, from 1, and those of the history.

        Numbers are written with all digits, non-finite ones as `nan` and `inf`.

        Args:
            history: quantity -> one value per epoch. All rows are rewritten, so none is missing or
                repeated in a resumed run.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([_EPOCH, *history])
        for number, row in enumerate(zip(*history.values(), strict=True), 1):
            writer.writerow([number, *(repr(float(value)) for value in row)])
        self._write(self.history_file, text.getvalue())

    def write_plot(self, history: Mapping[str, Sequence[float]], title: str = "") -> None:
        """Draw `history.png`; see `history_plot`."""
        figure = history_plot(history, title)
        self._put(self.plot_file, lambda new: figure.savefig(new, dpi=120))

    def write_card(self, text: str) -> None:
        """Write `model_card.md`; see `model_card`."""
        self._write(self.card_file, text)

    def write_model(self, model: Any, file: Path) -> None:
        """Save a Keras model as `file`, either `best_file` or `last_file`."""
        self._put(file, model.save)

    def state_files(self) -> list[Path]:
        """Return the state files, including damaged ones, in the order of their steps."""
        folder = self.states_folder
        found = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
        return sorted((path for path in found if _STATE_FILE.fullmatch(path.name)), key=_step_of)

    def save(self, step: int, state: RunState) -> Path:
        """Write a state file, then remove the oldest beyond `keep` and damaged later ones.

        Args:
            step: number of steps taken. A state file of the same step is replaced.
            state: the state.

        Returns:
            The path of the file.

        Raises:
            ResumeError: If there is an undamaged state of a later step, which this run has not
                resumed from.
            OSError: If the disk is full. Earlier state files are not changed.
        """
        path = self.states_folder / f"step-{step:010d}.safetensors"
        damaged = self._damaged_after(step)
        self._put(path, lambda new: write_state(new, state))
        for old in (*damaged, *self.state_files()[: -self._keep]):
            if old != path:
                old.unlink(missing_ok=True)
        return path

    def latest(self) -> tuple[Path, RunState] | None:
        """Read the newest undamaged state file, and warn about damaged newer ones.

        Returns:
            Its path and state; None if there are no state files.

        Raises:
            OSError: If all state files are damaged, or one cannot be opened.
            ResumeError: If a later version of this package wrote the file.
        """
        damaged: list[str] = []
        for path in reversed(self.state_files()):
            try:
                state = read_state(path)
            except FileNotFoundError:
                continue  # The run that writes here has just removed it.
            except DamagedError as error:
                damaged.append(f"{path.name} ({error})")
                continue
            if damaged:
                verb = "is" if len(damaged) == 1 else "are"
                warnings.warn(
                    f"{', '.join(damaged)} in {path.parent} {verb} damaged; falling back to "
                    f"{path.name}",
                    stacklevel=2,
                )
            return path, state
        if damaged:
            raise OSError(
                f"Expected an undamaged state file in {self.states_folder}. Received: only damaged "
                f"ones: {', '.join(damaged)}. Restore a copy of one, or remove them to start from "
                "the beginning"
            )
        return None

    def _put(self, file: Path, write: Callable[[Path], Any]) -> None:
        if not self._is_there():
            raise OSError(
                f"Expected {self.path} to stay in place during the run. Received: a folder that "
                "was moved or removed. Move it back, and the same call resumes from the last saved "
                "state"
            )
        with whole_file(file) as new:
            write(new)

    def _write(self, file: Path, text: str) -> None:
        # File names that are not UTF-8 become escapes, which JSON can read.
        keywords = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
        self._put(file, lambda new: new.write_text(text, **keywords))

    def _damaged_after(self, step: int) -> list[Path]:
        """Return the damaged state files of later steps; raise ResumeError for undamaged ones."""
        later = [path for path in self.state_files() if _step_of(path) > step]
        for path in later:
            try:
                read_state(path)
            except DamagedError:
                continue
            raise ResumeError(
                f"Expected a step of at least {_step_of(path)}, of which {path.parent} has a saved "
                f"state. Received: {step}. Resume from it, or train in another folder"
            )
        return later


def _json(values: Mapping[str, Any]) -> str:
    # NaN, which Python would write, is not JSON.
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    return f"{text}\n"


def _plain(value: Any) -> Any:
    """Convert NumPy scalars to Python numbers."""
    if isinstance(value, np.generic):
        return value.item()
    raise ValueError(f"Expected JSON-serializable values. Received: {value!r}")


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _read_json(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        values = load_json(file)
    except ValueError as error:
        raise OSError(f"Expected a JSON file. Received: {file} ({error})") from error
    if not isinstance(values, dict):
        raise OSError(f"Expected a file with a JSON object. Received: {file}")
    return values
