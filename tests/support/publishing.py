"""Results of several kinds, as a program that publishes them everywhere killed."""

from __future__ import annotations

import sys
from pathlib import Path

from keras_resnet.support import files

from ..killing import kill_everywhere

NAMES = ("file", "directory", "versions/1", "report")


def write(folder: Path, text: str) -> None:
    """Results of that text: two files, a directory, one version among others."""
    for name in ("file", "report", "directory/a", "directory/deep/b", "versions/1/c"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def publish(folder: Path) -> None:
    """New results, one fewer than the old ones."""
    with files.partial_directory(folder) as staging:
        write(staging, "new")
        files.publish(staging, NAMES, ["gone", "never there"])


def with_earlier_results(folder: Path) -> Path:
    """Writes earlier results, and what is somebody else's."""
    write(folder, "old")
    (folder / "gone").write_text("old")
    (folder / "versions" / "2").mkdir()
    for name in ("mine", "versions/2/mine"):
        (folder / name).write_text("mine")
    return folder


if __name__ == "__main__":
    place = Path(sys.argv[1])
    kills = kill_everywhere(with_earlier_results(place / "results"), place, publish, "report")
    assert kills > 20
