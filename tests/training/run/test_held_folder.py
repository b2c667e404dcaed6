"""The folder of a run: one process at a time, in its place, and known by its `config.json`."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from keras_resnet.training.run.folder import RunFolder
from keras_resnet.training.run.state_file import ResumeError, RunState

from ...conftest import Command, Start
from .test_processes import TRAIN, wait_for_more

SETTINGS = {"seed": 3}


@pytest.mark.full
def test_a_second_process_is_refused_until_the_first_is_dead(
    start_command: Start, keras_resnet_command: Command, tmp_path: Path
) -> None:
    # Nobody has made the folder, nor the one around it.
    folder = tmp_path / "runs" / "a"
    command = (*TRAIN, "--epochs", "6", "--output", str(folder))
    first = start_command(*command)
    wait_for_more(first, folder, 5)
    files = sorted((folder / "tensorboard" / "train").iterdir())
    refused = keras_resnet_command(*command, "--seed", "4")
    assert refused.returncode == 2
    said = f"Received: {folder}, where process {first.pid} on .* is at work"
    assert re.search(said, refused.stderr)
    assert refused.stderr.count("\n") == 1
    assert first.poll() is None
    assert sorted((folder / "tensorboard" / "train").iterdir()) == files
    first.kill()
    first.wait(60)
    third = start_command(*command)
    third.wait_for_output("Resuming")
    third.send_signal(signal.SIGTERM)
    assert third.wait(60) == 143
    assert not list(folder.glob(".*"))


@pytest.mark.full
@pytest.mark.parametrize("moved", [True, False])
def test_a_run_whose_folder_has_gone_fails(
    moved: bool, start_command: Start, tmp_path: Path
) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    process = start_command(*TRAIN, "--epochs", "6", "--output", str(folder))
    wait_for_more(process, folder, 5)
    process.send_signal(signal.SIGSTOP)
    folder.rename(elsewhere)
    if not moved:
        shutil.rmtree(elsewhere)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(120)
    assert process.returncode == 1
    assert f"Expected {folder} to stay in place during the run" in errors
    assert not (folder / "best.keras").exists()
    assert not (folder / "checkpoints").exists()


def test_nobody_else_s_lock_is_removed(tmp_path: Path) -> None:
    folder, other = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with folder.held():
        folder.path.rename(tmp_path / "moved")
        with other.held():
            with pytest.raises(OSError, match="to stay in place"):
                folder.write_card("text")
            other.write_card("text")
        assert not list((tmp_path / "run").glob(".*"))
    assert (tmp_path / "moved" / ".lock").exists()
    with RunFolder(tmp_path / "moved").held():
        pass
    assert not list((tmp_path / "moved").iterdir())


def test_refused_work_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), RunFolder(tmp_path / "run").held():
        raise KeyError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["best.keras", "last.keras", "history.csv", "model_card.md", "1-head", "checkpoint"]
)
def test_results_without_a_config_are_nobody_s(name: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    if name == "checkpoint":
        name = str(folder.save(1, RunState()).relative_to(tmp_path))
    elif name == "1-head":
        RunFolder(tmp_path / name).write_config({})
        name = "1-head/config.json"
    else:
        (tmp_path / name).touch()
    with pytest.raises(ResumeError, match=f"Expected config.json, .*: none beside {name}"):
        folder.claim(SETTINGS, "training run", {})
    assert not folder.config_file.exists()


def test_a_damaged_environment_is_replaced(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for damaged in ("{", "[]", '{"earlier": 3}', "\0"):
        folder.environment_file.write_text(damaged)
        with pytest.warns(UserWarning, match=r"environment\.json is replaced: "):
            folder.write_environment({"cpus": 4})
        assert json.loads(folder.environment_file.read_text()) == {"cpus": 4}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("checkpoints/step-0000000123.safetensors/file", "file"),
        ("best.keras/file", "file"),
        ("history.csv/file", "file"),
        ("config.json/file", "file"),
        ("environment.json/file", "file"),
        ("checkpoints", "folder"),
        ("tensorboard", "folder"),
    ],
)
def test_folders_in_the_place_of_files_are_refused_before_anything_trains(
    name: str, kind: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    wrong = str(file).removesuffix("/file")
    with (
        pytest.raises(ValueError, match=f"Expected a {kind} or nothing. Received: {wrong}, wh"),
        RunFolder(tmp_path).held(),
    ):
        pass
    assert file.exists()


@pytest.mark.full
def test_of_several_workers_the_chief_holds_the_folder(
    start_command: Start, keras_resnet_command: Command, tmp_path: Path
) -> None:
    launch = ("launch", "--local-workers", "2", "--", *TRAIN, "--set", "augmentation.crop=none")
    command = (*launch, "--epochs", "20", "--output", str(tmp_path / "run"))
    first = start_command(*command)
    wait_for_more(first, tmp_path / "run", 5)
    refused = keras_resnet_command(*command)
    assert refused.returncode == 2
    assert re.search(r"^\[0\] .*where process \d+ on .* is at work", refused.stderr, re.MULTILINE)
    assert first.poll() is None
    # Also where only the chief is killed: the lock is not inherited.
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    os.kill(min(map(int, children)), signal.SIGKILL)
    first.wait(120)
    again = start_command(*command)
    again.wait_for_output("Resuming")
    again.kill()


def test_a_file_system_without_locks_has_soft_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    folder = RunFolder(tmp_path / "run")
    with folder.held():
        folder.write_card("text")
        message = f"where process {os.getpid()} on .* is at work"
        with pytest.raises(ValueError, match=message), RunFolder(folder.path).held():
            pass
    with folder.held():
        pass
    assert [path.name for path in folder.path.iterdir()] == ["model_card.md"]
