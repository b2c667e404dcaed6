from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_resnet.support import files


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


def test_unwritable_parent_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(ValueError, match=r"can be written to. Received: .*file/below \(Not a dir"),
        files.partial_directory(tmp_path / "file" / "below"),
    ):
        pass


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_directory_without_permission_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with (
        pytest.raises(ValueError, match=r"can be written to. Received: .*\(Permission denied"),
        files.partial_directory(tmp_path / "below"),
    ):
        pass


def test_leftovers_of_killed_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    code = f"""
import time, pathlib
from keras_resnet.support.files import partial_directory
with partial_directory(pathlib.Path({str(tmp_path)!r})) as staging:
    print(staging, flush=True)
    time.sleep(60)
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    paths = [Path(process.stdout.readline().strip()) for process in processes]  # type: ignore[union-attr]
    for process in processes[1:]:
        process.kill()
        process.wait()
    (tmp_path / "kept").mkdir()
    with files.partial_directory(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {paths[0].name, "kept"}
    processes[0].kill()


def test_size_counts_files_below_a_directory(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"x" * 10)
    (tmp_path / "two").write_bytes(b"x" * 5)
    assert files.size_of(tmp_path) == 15
    assert files.size_of(tmp_path / "two") == 5
