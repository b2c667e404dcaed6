"""Results of a folder appear and are replaced as a whole, wherever the process is killed."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest

from keras_resnet.support import files

from ..conftest import Run
from ..killing import contents
from .publishing import NAMES, publish, with_earlier_results, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return with_earlier_results(tmp_path / "results")


def test_killed_anywhere_they_are_the_old_or_the_new_ones(
    run_new_python: Run, tmp_path: Path
) -> None:
    code = "import runpy; runpy.run_module('tests.support.publishing', run_name='__main__')"
    done = run_new_python(code, str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_whoever_comes_next_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(files, "_carry_out", killed)
        with pytest.raises(SystemExit):
            publish(folder)
    assert files.is_being_replaced(folder)
    with pytest.warns(UserWarning, match=f"was killed while it published its results in {folder}"):
        files.recover(folder)
    assert not files.is_being_replaced(folder)
    assert (folder / "report").read_text() == "new"


def test_a_failed_publication_puts_everything_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = contents(folder)
    replace = Path.replace
    for failing in itertools.count(1):
        calls = itertools.count(1)

        def fails_once(self: Path, target: Path, calls=calls, failing=failing) -> Path:  # type: ignore[no-untyped-def]
            if next(calls) == failing:
                raise PermissionError
            return replace(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", fails_once)
            try:
                publish(folder)
            except PermissionError:
                assert contents(folder) == old
                assert not [path for path in folder.iterdir() if path.name.startswith(".")]
            else:
                break
    assert failing > 8
    assert (folder / "report").read_text() == "new"
    assert not list(folder.glob(".*"))


def test_what_is_not_there_is_not_published(folder: Path) -> None:
    old = contents(folder)
    with files.partial_directory(folder) as staging, pytest.raises(FileNotFoundError):
        (staging / "file").write_text("new")
        files.publish(staging, ["file", "report"])
    assert contents(folder) == old


def test_signals_wait_for_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        signal.raise_signal(signal.SIGINT)
        return replace(self, target)

    # A process started in the background of a shell inherits that the signal is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with files.partial_directory(folder) as staging:
            write(staging, "new")
            monkeypatch.setattr(Path, "replace", interrupted)
            with pytest.raises(KeyboardInterrupt):
                files.publish(staging, NAMES)
    finally:
        signal.signal(signal.SIGINT, before)
    assert {(folder / name).read_text() for name in ("file", "report")} == {"new"}


def test_a_single_file_takes_the_place_of_the_earlier_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with files.whole_file(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208
