"""A full disk is named, with what is free and what to do, whatever the writer said."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_resnet.models.saving import load_model
from keras_resnet.support import disks
from keras_resnet.support.disks import DiskFullError, raise_if_full
from keras_resnet.support.files import held, partial_directory
from keras_resnet.support.unfinished import write_durably

Usage = namedtuple("Usage", "total used free")

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def two_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A folder on one disk with 20 GB free, and that of temporary files on one with 3 MB."""
    output, temporary = tmp_path / "output", tmp_path / "temporary"
    for folder in (output, temporary):
        folder.mkdir()
    monkeypatch.setattr(disks.tempfile, "gettempdir", lambda: str(temporary))
    monkeypatch.setattr(disks, "_device", lambda path: int(temporary in (path, *path.parents)))
    free = {output: 20e9, temporary: 3e6}
    monkeypatch.setattr(
        disks.shutil,
        "disk_usage",
        lambda path: Usage(1e12, 0, next(free[x] for x in (path, *path.parents) if x in free)),
    )
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    return output, temporary


def test_the_message_names_the_disk_what_is_free_and_what_to_do(
    two_disks: tuple[Path, Path], tmp_path: Path
) -> None:
    output, temporary = two_disks
    there = f"{output} (mounted at {tmp_path}, 20 GB free of 1 TB)"
    other = f"temporary files, {temporary} (mounted at {tmp_path}, 3 MB free of 1 TB),"
    again = "is full. Free some space and run again"
    elsewhere, tmpdir = (
        "choose an output on another disk",
        "set TMPDIR to a directory on another disk",
    )
    for error, said in (
        (FULL, f"The disk of {there} or that of {other} {again}, or {elsewhere}, or {tmpdir}"),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", str(output / "new" / "file")),
            f"The disk of {there} {again}, or {elsewhere}",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", str(temporary / "x")),
            f"The disk of {other} {again}, or {tmpdir}",
        ),
    ):
        with pytest.raises(DiskFullError) as caught:
            raise_if_full(error, output)
        assert (caught.value.errno, caught.value.strerror) == (errno.ENOSPC, said)


def test_a_full_disk_is_found_in_the_words_and_causes_of_any_error(
    two_disks: tuple[Path, Path],
) -> None:
    wrapped = ValueError("Expected a readable file")
    wrapped.__cause__ = RuntimeError("; No space left on device")
    for error in (wrapped, RuntimeError("I/O error: No space left on device (os error 28)")):
        with pytest.raises(DiskFullError):
            raise_if_full(error, two_disks[0])
    for other in (RuntimeError("something else"), OSError(errno.EACCES, "Permission denied")):
        raise_if_full(other, two_disks[0])


def test_a_disk_without_space_is_the_cause_of_errors_that_do_not_say_why(
    two_disks: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, _ = two_disks
    monkeypatch.setattr(disks.shutil, "disk_usage", lambda path: Usage(10**6, 0, 100))
    with pytest.raises(DiskFullError, match=rf"disk of {output} \(.*, 100 bytes free of 1 MB\) is"):
        raise_if_full(OSError("4096 requested and 1000 written"), output)
    # Such a disk has no part in these.
    raise_if_full(ValueError("Expected a number. Received: 'x'"), output)
    raise_if_full(FileExistsError("there"), output)
    raise_if_full(RuntimeError("something else"), output, only_reported=True)


def test_both_disks_are_named_however_many_folders_lie_around(
    two_disks: tuple[Path, Path],
) -> None:
    output, temporary = two_disks
    said = rf"The disk of {output} \(.*\) or that of temporary files, {temporary} .* is full"
    with (
        pytest.raises(DiskFullError, match=said),
        held(output),
        partial_directory(output / "in") as staging,
        partial_directory(staging),
    ):
        raise FULL


def test_errors_go_from_process_to_process(two_disks: tuple[Path, Path]) -> None:
    with pytest.raises(DiskFullError) as caught:
        raise_if_full(FULL, two_disks[0])
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert copy.folders == two_disks


def test_the_outermost_folder_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    for opened in (partial_directory, held):
        with (
            pytest.raises(DiskFullError, match=f"The disk of {tmp_path} \\(mounted at /"),
            opened(tmp_path),
            partial_directory(tmp_path / "inner") as staging,
        ):
            (staging / "half").write_text("x")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] in ([], [".lock"])
    with pytest.raises(RuntimeError, match="something else"), partial_directory(tmp_path):
        raise RuntimeError("something else")


def test_what_is_written_durably_leaves_nothing_of_a_full_disk(tmp_path: Path) -> None:
    def fill(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "file").write_text("old")
    with pytest.raises(DiskFullError, match=f"The disk of {tmp_path} "):
        write_durably(tmp_path / "file", fill)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_the_space_is_that_before_anything_was_cleaned_up(
    two_disks: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, _ = two_disks
    left = [100]
    monkeypatch.setattr(disks.shutil, "disk_usage", lambda path: Usage(10**6, 0, left[0]))
    with pytest.raises(DiskFullError) as first:
        raise_if_full(OSError("4096 requested and 1000 written"), output / "part")
    left[0] = 900_000  # The unfinished file is gone.
    with pytest.raises(DiskFullError, match=r"100 bytes free of 1 MB\) is full"):
        raise_if_full(first.value, output)


def test_a_disk_of_no_size_is_not_full(
    two_disks: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of `/proc`, where nothing can be written for other reasons."""
    monkeypatch.setattr(disks.shutil, "disk_usage", lambda path: Usage(0, 0, 0))
    raise_if_full(OSError("No such file or directory"), two_disks[0])


def test_files_that_are_unpacked_find_room_first(
    two_disks: tuple[Path, Path], digits_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model(digits_file)
    monkeypatch.setattr(disks.shutil, "disk_usage", lambda path: Usage(10**6, 0, 50_000))
    said = rf"temporary files, {two_disks[1]} .* has no room for the .* kB of {digits_file}, unpack"
    with pytest.raises(
        DiskFullError, match=rf"{said}.* or set TMPDIR to a directory on another disk"
    ):
        load_model(digits_file)


_SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from keras_resnet.jobs.vector_files import UnfinishedVectors
folder = Path(sys.argv[1])
work = UnfinishedVectors(folder / "vectors.npz", 1000)
try:
    with work.held():
        work.begin({"files": []})
        for start in range(0, 1000, 100):
            work.add(start, start + 100, np.ones((100, 1000), "f4"), {})
except OSError as error:
    print(error.strerror)
print(sorted(path.name for path in (folder / "vectors.npz.partial").iterdir()))
"""


def _on_a_disk(size: str, disk: Path, script: str, *arguments: str) -> list[str]:
    """The lines that a script prints whose process has mounted a small disk for itself.

    Skips the test where the platform does not let it.
    """
    mount = f'mount -t tmpfs -o size={size} tmpfs {disk} && echo mounted && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", sys.executable]
    try:
        done = subprocess.run(
            [*command, "-c", script, str(disk), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("no `unshare`")
    if not done.stdout.startswith("mounted"):
        pytest.skip(f"no disk could be mounted: {done.stderr}")
    return done.stdout.splitlines()[1:]


def test_vectors_on_a_real_full_disk_keep_what_is_finished(tmp_path: Path) -> None:
    """On a disk of 1.5 MB, where the platform lets a process mount one for itself."""
    said, files = _on_a_disk("1500k", tmp_path, _SCRIPT)
    # NumPy's own words are "100000 requested and 74752 written".
    assert said.startswith(f"The disk of {tmp_path}/vectors.npz (mounted at {tmp_path}, ")
    assert said.endswith(
        " free of 1.54 MB) is full. Free some space and run again, or choose an output on another "
        "disk"
    )
    parts = [f"{start:09}.{kind}" for start in (0, 100, 200) for kind in ("json", "npy")]
    assert files == str(sorted([*parts, "job.json"]))


_PREPARE = """
import sys
from pathlib import Path
from keras_resnet.data.shards.prepare import prepare
from keras_resnet.data.sources.load import load_every_split
output = Path(sys.argv[1]) / "shards"
try:
    prepare(load_every_split(sys.argv[2]), output)
except OSError as error:
    print(error.strerror)
print(sorted(path.name for path in output.rglob("*") if path.is_file()))
"""


def test_shards_on_a_real_full_disk_are_not_taken_for_a_data_set(tmp_path: Path) -> None:
    """The message has the space that was left before the unfinished shard was removed."""
    random = np.random.default_rng(0)
    for index in range(40):
        path = tmp_path / "photos" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (96, 96, 3), np.uint8)).save(path)
    disk = tmp_path / "disk"
    disk.mkdir()
    said, files = _on_a_disk("1m", disk, _PREPARE, str(tmp_path / "photos"))
    assert said.startswith(f"The disk of {disk}/shards (mounted at {disk}, ")
    free = float(said.partition(f"{disk}, ")[2].split()[0])
    assert f"{free:.3g} bytes free of 1.05 MB) is full. Free some space and run again" in said
    assert files == "['journal.json']"
