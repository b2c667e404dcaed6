"""Kills what publishes results before every single change that it makes to files.

It forks for every kill, so that it is run in a process of its own, without TensorFlow:

    python -m tests.killing FOLDER PLACE '["name in .staging", …]' '["name that goes", …]' .staging
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from keras_resnet.support import files

#: Python's own names of what changes files, or opens them to be changed.
CHANGES = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}

ROOT = Path(__file__).resolve().parents[1]


def killed_before(step: int, work: Callable[[], object]) -> bool:
    """Whether `work`, in a process of its own, came to its `step`-th change and died there."""
    pid = os.fork()
    if pid == 0:
        left = step

        def count(event: str, _: tuple[object, ...]) -> None:
            nonlocal left
            if event in CHANGES:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def contents(folder: Path) -> dict[str, str]:
    """What each file below a folder has in it, but for hidden ones."""
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")))
    return {
        str(path): hashlib.sha256((folder / path).read_bytes()).hexdigest()
        for path in found
        if (folder / path).is_file() and not any(part.startswith(".") for part in path.parts)
    }


def kill_everywhere(folder: Path, place: Path, work: Callable[[Path], object], last: str) -> int:
    """Fails if anything but the old or the new results is left after some kill.

    Args:
        folder: with what is there before; it stays as it is.
        place: a folder for copies of it.
        work: publishes results in a folder.
        last: name of the file that is there only if all the others are.

    Returns:
        How many kills there were.
    """
    warnings.simplefilter("ignore")
    old, new = contents(folder), {}
    shutil.copytree(folder, place / "whole")
    work(place / "whole")
    new = contents(place / "whole")

    def check(copy: Path, ended: bool) -> bool:
        found = contents(copy)
        assert found.items() <= old.items() or found.items() <= new.items(), (copy, found)
        assert found in (old, new) or (not ended and last not in found), (copy, found)
        return found == new

    decided = False
    for step in itertools.count(1):
        copy = place / str(step)
        shutil.copytree(folder, copy)
        killed = killed_before(step, lambda copy=copy: work(copy))
        check(copy, ended=False)
        # Who comes next is killed, too, later and later.
        further = 1 + step % 4
        while killed_before(further, lambda copy=copy: recover(copy)):
            check(copy, ended=False)
            further *= 2
        is_new = check(copy, ended=True)
        assert is_new >= decided, "it was there after an earlier kill"
        decided = is_new
        assert not list(copy.glob(f"{files.PARTIAL_PREFIX}*"))
        shutil.rmtree(copy)
        if not killed:
            assert decided
            return step - 1
    raise AssertionError


def recover(folder: Path) -> None:
    """What whoever comes next does first."""
    files.recover(folder)
    for inside in folder.glob(".*"):
        files.finish_publishing(inside)


class EveryKill:
    """Stands in for `publish`: first kills it everywhere in copies of the folder.

    Attributes:
        published: what was published.
    """

    def __init__(self, place: Path) -> None:
        """Takes a folder for the copies."""
        self._place = place
        self.published: list[str] = []

    def __call__(self, staging: Path, names: Sequence[str], gone: Iterable[str] = ()) -> None:
        lists = (json.dumps([*names]), json.dumps([*gone]))
        words = (str(staging.parent), str(self._place), *lists, staging.name)
        subprocess.run([sys.executable, "-m", "tests.killing", *words], cwd=ROOT, check=True)
        files.publish(staging, names, gone)
        self.published += names


if __name__ == "__main__":
    _folder, _place = map(Path, sys.argv[1:3])
    _names, _gone = map(json.loads, sys.argv[3:5])
    _kills = kill_everywhere(
        _folder,
        _place,
        lambda copy: files.publish(copy / sys.argv[5], _names, _gone),
        _names[-1],
    )
    assert _kills > 2 * len(_names)
