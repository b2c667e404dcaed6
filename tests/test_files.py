from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from keras_resnet import files


def test_partial_directory_disappears_on_every_way_out(tmp_path: Path) -> None:
    with files.partial_directory(tmp_path / "new" / "deep") as staging:
        (staging / "file").write_text("x")
        assert staging.name.startswith(files.PARTIAL_PREFIX)
    assert list((tmp_path / "new" / "deep").iterdir()) == []
    for interruption in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(interruption), files.partial_directory(tmp_path) as staging:
            (staging / "file").write_text("x")
            raise interruption
        assert not staging.exists()


def test_publish_replaces_files_and_directories(tmp_path: Path) -> None:
    for kind in ("file", "directory"):
        for content in ("old", "new"):
            source = tmp_path / "source"
            if kind == "file":
                source.write_text(content)
            else:
                source.mkdir()
                (source / content).write_text(content)
            files.publish(source, tmp_path / "results" / kind)
    assert (tmp_path / "results" / "file").read_text() == "new"
    assert [path.name for path in (tmp_path / "results" / "directory").iterdir()] == ["new"]
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["directory", "file"]


def test_failed_publish_puts_the_old_directory_back(tmp_path: Path) -> None:
    (tmp_path / "destination").mkdir()
    (tmp_path / "destination" / "old").write_text("old")
    with pytest.raises(FileNotFoundError):
        files.publish(tmp_path / "missing", tmp_path / "destination")
    assert (tmp_path / "destination" / "old").read_text() == "old"


def test_unwritable_parent_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(NotADirectoryError, match=r"directory that can be written to. Received: .*file/below"),
        files.partial_directory(tmp_path / "file" / "below"),
    ):
        pass


def test_full_disk_is_named_whatever_the_writer_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = f"The disk that holds {tmp_path} is full"
    with pytest.raises(OSError, match=message) as caught, files.partial_directory(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0}))
    with pytest.raises(OSError, match=message), files.partial_directory(tmp_path):
        raise RuntimeError("Unable to flush file's cached information")
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="something else"), files.partial_directory(tmp_path):
        raise RuntimeError("something else")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    killed = subprocess.Popen(["sleep", "60"])
    killed.kill()
    killed.wait()
    (tmp_path / f".partial-{killed.pid}-abc" / "deep").mkdir(parents=True)
    running = [f".partial-{os.getpid()}-abc", ".partial-something", "kept"]
    for name in running:
        (tmp_path / name).mkdir()
    with files.partial_directory(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(running)


def test_size_counts_files_below_a_directory(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"x" * 10)
    (tmp_path / "two").write_bytes(b"x" * 5)
    assert files.size_of(tmp_path) == 15
    assert files.size_of(tmp_path / "two") == 5
