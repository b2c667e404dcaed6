"""What others have left in a folder is not obeyed, nor removed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from keras_resnet.support import files

from ..conftest import Run
from ..killing import contents
from .publishing import publish, with_earlier_results

NAME = ".partial-abcd1234"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return with_earlier_results(tmp_path / "results")


def left(folder: Path, journal: Any, name: str = NAME) -> Path:
    """A leftover with a journal, and with a file to publish."""
    staging = folder / name
    (staging / "new").mkdir(parents=True)
    (staging / "new" / "file").write_text("new")
    text = journal if isinstance(journal, str) else json.dumps(journal)
    (staging / "publish.json").write_text(text)
    return staging


def test_no_journal_leads_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("mine")
    (folder / "link").symlink_to(tmp_path / "outside")
    before = contents(tmp_path)
    for names, gone in (
        (["../outside"], []),
        ([], ["../outside/file"]),
        ([], [str(tmp_path / "outside" / "file")]),
        (["new/../../outside"], []),
        ([], ["link/file"]),
        ([], ["."]),
        ([], [""]),
        ([], [NAME]),
        ([], ["a\0b/c"]),
    ):
        staging = left(folder, {"names": names, "gone": gone})
        with pytest.warns(UserWarning, match=f"Ignored {staging}, with unpublished results"):
            files.recover(folder)
        assert contents(tmp_path) == before
        assert (staging / "new" / "file").read_text() == "new"
        shutil.rmtree(staging)
        with (
            files.partial_directory(folder) as own,
            pytest.raises(ValueError, match="Expected|null"),
        ):
            files.publish(own, [], [*names, *gone] if gone != [NAME] else [own.name])
    assert contents(tmp_path) == before


def test_nothing_is_moved_through_links_inside_a_leftover(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    staging = left(folder, {"names": [], "gone": ["file"]})
    (staging / "replaced").symlink_to(tmp_path / "outside")
    with pytest.warns(UserWarning, match=f"Ignored {staging}.* has links"):
        files.recover(folder)
    (staging / "replaced").unlink()
    (staging / "publish.json").rename(tmp_path / "journal")
    (staging / "publish.json").symlink_to(tmp_path / "journal")
    with pytest.warns(UserWarning, match=f"Ignored {staging}.* has links"):
        files.recover(folder)
    assert (folder / "file").read_text() == "old"
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.skipif(os.name != "posix", reason="files have no user's number")
@pytest.mark.parametrize("name", ["", "publish.json"])
def test_a_journal_of_another_user_is_left_alone(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = left(folder, {"names": ["new"], "gone": ["file"]})
    if os.geteuid() == 0:
        os.chown(staging / name, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    before = contents(folder)
    with pytest.warns(UserWarning, match=f"Ignored {staging}.*: it is another user's"):
        files.recover(folder)
    assert contents(folder) == before


def test_a_damaged_journal_hinders_nobody(folder: Path) -> None:
    wrong = ["", "[", "[]", "{}", '{"names": "file", "gone": []}', '{"names": [1], "gone": []}']
    for text in wrong:
        staging = left(folder, text)
        with pytest.warns(UserWarning, match=f"Ignored {staging}.* is damaged"):
            publish(folder)
        assert (folder / "report").read_text() == "new"
        assert (staging / "new" / "file").exists()
        shutil.rmtree(staging)


def test_only_own_directories_are_removed(folder: Path, tmp_path: Path) -> None:
    kept = (".partial-2024", ".partial-notes", ".partial-abcd1234", ".partial-ABCD1234")
    for name in kept:
        (folder / name).mkdir()
        (folder / name / "file").write_text("mine")
    for name in (".partial-2024", ".partial-ABCD1234"):
        (folder / name / ".owner").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".owner").touch()
    (folder / ".partial-linked_1").symlink_to(tmp_path / "elsewhere")
    (folder / ".partial-empty123").mkdir()
    (folder / ".partial-killed12").mkdir()
    for name in (".owner", "file"):
        (folder / ".partial-killed12" / name).touch()
    files.recover(folder)
    found = sorted(path.name for path in folder.glob(".*"))
    assert found == sorted([*kept, ".partial-linked_1"])
    assert [(folder / name / "file").read_text() for name in kept] == ["mine"] * 4
    assert (tmp_path / "elsewhere" / ".owner").exists()


def test_decided_results_outlive_a_failed_recovery(
    folder: Path, run_new_python: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = f"""
import os, signal
from pathlib import Path
from keras_resnet.support import files
from tests.support.publishing import publish
files._carry_out = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
publish(Path({str(folder)!r}))
"""
    assert run_new_python(killed).returncode == -9

    def fails(self: Path, target: Path) -> Path:
        raise PermissionError

    replace = Path.replace
    for step in range(3):
        with monkeypatch.context() as patch:
            calls = iter(range(step))

            def fails_later(self: Path, target: Path, calls: Any = calls) -> Path:
                return fails(self, target) if next(calls, None) is None else replace(self, target)

            patch.setattr(Path, "replace", fails_later)
            with pytest.raises(PermissionError):
                files.recover(folder)
        assert files.is_being_replaced(folder)
    with pytest.warns(UserWarning, match="was killed while it published"):
        files.recover(folder)
    assert {(folder / name).read_text() for name in ("file", "report")} == {"new"}
    assert not list(folder.glob(".*"))
