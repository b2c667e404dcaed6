"""Writing so that nothing is lost: under a temporary name first, then renamed, all or nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from keras_resnet.support.disks import raise_if_full
from keras_resnet.support.json_text import load_json
from keras_resnet.support.locks import BusyError, locked
from keras_resnet.support.signals import signals_deferred

PARTIAL_PREFIX = ".partial-"

#: As `tempfile.mkdtemp` makes them.
_PARTIAL_NAME = re.compile(rf"{re.escape(PARTIAL_PREFIX)}[a-z0-9_]{{8}}")

#: The lock of a folder in which a process is at work, and that of a partial directory.
LOCK_FILE, _OWNER_FILE = ".lock", ".owner"

#: In a directory with results: that they are whole, and what becomes of them; see `publish`.
_JOURNAL = "publish.json"

#: Beside it, what they replace.
_REPLACED = "replaced"


@contextlib.contextmanager
def held(folder: Path, output: Path | None = None) -> Iterator[Callable[[], bool]]:
    """Holds a folder against other processes, and makes it if it is missing.

    What killed processes have left there is finished or removed first. In the end, a folder that
    was made here and is still empty is removed.

    Args:
        folder: the folder.
        output: what messages call it.

    Yields:
        A function that says whether the folder is still where it was.

    Raises:
        ValueError: it cannot be written to, or another process is at work there.
        OSError: the disk filled up, here or inside the block.
    """
    output, made = output or folder, not folder.exists()
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if made:
                stack.callback(_remove_if_empty, folder)
            is_there = stack.enter_context(locked(folder / LOCK_FILE))
        except BusyError as error:
            raise ValueError(
                f"Expected one process at a time. Received: {output}, where {error} is at work. "
                "Wait for it, or choose another output"
            ) from error
        except OSError as error:
            raise _unwritable(output, error) from error
        recover(folder)
        try:
            yield is_there
        except Exception as error:
            raise_if_full(error, output)
            raise


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _unwritable(folder: Path, error: OSError) -> ValueError:
    return ValueError(
        f"Expected a directory that can be written to. Received: {folder} ({error.strerror})"
    )


@contextlib.contextmanager
def partial_directory(parent: Path) -> Iterator[Path]:
    """A temporary directory inside `parent`: on the same disk, so that renaming is atomic.

    It is removed on every way out; what should stay has to be moved out of it with `publish`. What
    killed processes have left in `parent` is finished or removed, too: a living one holds a lock on
    its own.

    Raises:
        ValueError: `parent` cannot be written to.
        OSError: the disk filled up, here or inside the block.
    """
    with contextlib.ExitStack() as stack:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            recover(parent)
            path = _locked_directory(parent, stack)
        except OSError as error:
            raise_if_full(error, parent)
            raise _unwritable(parent, error) from error
        try:
            yield path
        except Exception as error:
            raise_if_full(error, parent)
            raise


def _locked_directory(parent: Path, stack: contextlib.ExitStack) -> Path:
    """A new directory that is locked, and then removed, when the stack ends."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=parent))
        stack.callback(_remove_if_empty, path)
        # Before it was locked, another process may have taken it for a leftover.
        with contextlib.suppress(BusyError, FileNotFoundError):
            stack.enter_context(locked(path / _OWNER_FILE))
            stack.callback(_clear, path)
            return path


def check_writable(folder: Path) -> None:
    """Refuse a folder, there or not, that cannot be written to.

    Raises:
        ValueError: it is a file, or cannot be made or written to.
    """
    above = folder.absolute()
    # Nothing is made yet where the folder is missing.
    with partial_directory(next(path for path in (above, *above.parents) if path.exists())):
        pass


def _clear(directory: Path) -> None:
    """Removes all but the lock: that goes last, as it says whose directory it is."""
    # What is decided and not carried out is for the next one to finish.
    if _is_there(directory / _JOURNAL):
        return
    for path in sorted(directory.glob("*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif not path.name.startswith(_OWNER_FILE):
            with contextlib.suppress(OSError):
                path.unlink()


def recover(parent: Path) -> None:
    """Finishes what killed processes have begun to publish in a folder, removes their other files.

    What a `partial_directory` has not made is left alone.

    Raises:
        OSError: something cannot be renamed; it is tried again the next time.
    """
    for leftover in sorted(parent.glob(f"{PARTIAL_PREFIX}*")):
        with contextlib.ExitStack() as stack:
            try:
                if not _is_leftover(leftover):
                    continue
                stack.callback(_remove_if_empty, leftover)
                stack.enter_context(locked(leftover / _OWNER_FILE))
            except (BusyError, OSError):
                continue
            if finish_publishing(leftover):
                _clear(leftover)


def _is_leftover(path: Path) -> bool:
    """Whether a `partial_directory` made it: it has a lock or a journal, or is still empty."""
    if not _PARTIAL_NAME.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
        return False
    names = [inside.name for inside in path.iterdir()]
    return not names or any(x.startswith(_OWNER_FILE) or x == _JOURNAL for x in names)


def check_new(path: Path, overwrite: bool) -> None:
    """Raises FileExistsError if there is a file at `path` that is not to be overwritten."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"Expected a new file. Received: {path}. Pass `overwrite=True`")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; the file appears at `path` when the block ends without error.

    What was at `path` is there until the whole new file is.

    Raises:
        ValueError: the directory cannot be written to.
        OSError: the disk filled up.
    """
    path = path.absolute()
    with partial_directory(path.parent) as staging:
        yield staging / path.name
        replace_durably(staging / path.name, path)


def publish(staging: Path, names: Sequence[str], gone: Iterable[str] = ()) -> None:
    """Moves files and directories from `staging` into the folder around it, all of them or none.

    First, a journal in `staging` says that they are whole. From then on, they are published even if
    the process is killed: whoever writes in the folder next finishes it, see `recover`. Until then,
    the folder has some of the old ones or some of the new ones, never some of both: the old ones
    leave first, in the opposite order, and then the new ones come.

    Args:
        staging: a directory whose lock this process holds, such as a `partial_directory`.
        names: of what is moved, in this order: where the last one is, the others are. What has
            these names in the folder is replaced.
        gone: names of what is removed from the folder, as the new results replace it.

    Raises:
        OSError: a rename failed; everything is where it was.
        ValueError: a name leads out of the folder.
    """
    gone = sorted({*gone} - {*names})
    _check_names(staging, [*names, *gone])
    for name in names:
        if not _is_there(staging / name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(staging / name))
        for path in (staging / name, *(staging / name).rglob("*")):
            if path.is_file():
                _synchronize(path)
    new = staging / f"{_JOURNAL}.new"
    new.write_text(json.dumps({"names": [*names], "gone": gone}))
    with signals_deferred():
        replace_durably(new, staging / _JOURNAL)
        try:
            _carry_out(staging, names, gone)
        except OSError:
            _undo(staging, names, gone)
            (staging / _JOURNAL).unlink()
            raise


def finish_publishing(staging: Path) -> bool:
    """Carries out what a killed process has not, and warns of it.

    Returns:
        False if `staging` has a journal that is damaged, another user's, or leads out of the
        folder: it is left alone, with a warning.

    Raises:
        OSError: a rename failed; it is tried again the next time.
    """
    if not _is_there(staging / _JOURNAL):
        return True
    try:
        names, gone = _read_journal(staging)
    except (OSError, ValueError) as error:
        warnings.warn(
            f"Left alone {staging}, which says what is to be published in {staging.parent}: "
            f"{error}. Remove it if you do not need it",
            stacklevel=2,
        )
        return False
    _carry_out(staging, names, gone)
    warnings.warn(
        f"A process was killed while it published its results in {staging.parent}: they are all "
        "there now",
        stacklevel=2,
    )
    return True


def is_being_replaced(folder: Path) -> bool:
    """Whether results are being published in a folder, or a process was killed meanwhile."""
    return any(folder.glob(f".*/{_JOURNAL}"))


def _read_journal(staging: Path) -> tuple[list[str], list[str]]:
    """Names of what is to be published, and of what goes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, another user's, or leads out of the folder.
    """
    path = staging / _JOURNAL
    if path.is_symlink() or not path.is_file() or (staging / _REPLACED).is_symlink():
        raise ValueError("it has links in the place of files")
    if os.name == "posix" and {staging.stat().st_uid, path.stat().st_uid} != {os.geteuid()}:
        raise ValueError("it is another user's")
    try:
        journal = load_json(path)
    except ValueError as error:
        raise ValueError(f"{_JOURNAL} is damaged ({error})") from error
    match journal:
        case {"names": [*names], "gone": [*gone]} if all(isinstance(x, str) for x in names + gone):
            _check_names(staging, [*names, *gone])
            return names, gone
    raise ValueError(f"{_JOURNAL} is damaged (it has no lists of names)")


def _check_names(staging: Path, names: Sequence[str]) -> None:
    """Raises ValueError if a name leads out of `staging` or the folder around it."""
    for name in names:
        path = PurePath(name)
        is_plain = path.parts and not path.anchor and ".." not in path.parts
        if not is_plain or path.parts[0] == staging.name:
            raise ValueError(f"Expected names of what is in the folder. Received: {name!r}")
        for folder in (staging, staging.parent):
            # Unlike `Path.resolve`, it takes links in a circle, too.
            parent = Path(os.path.realpath((folder / path).parent))
            if not parent.is_relative_to(os.path.realpath(folder)):
                raise ValueError(f"Expected no link out of the folder. Received: {folder / path}")


def _places(staging: Path, names: Sequence[str], gone: Sequence[str]) -> dict[str, Path]:
    """Return where each file that is replaced or removed is kept until all is done."""
    return {name: staging / _REPLACED / str(number) for number, name in enumerate([*names, *gone])}


def _carry_out(staging: Path, names: Sequence[str], gone: Sequence[str]) -> None:
    """Does what the journal says, or what is left of it: after a kill, from any step on."""
    folder, places = staging.parent, _places(staging, names, gone)
    (staging / _REPLACED).mkdir(exist_ok=True)
    for name in (*reversed(names), *gone):
        # What has left `staging` is a new one.
        is_old = name in gone or _is_there(staging / name)
        if is_old and _is_there(folder / name):
            (folder / name).replace(places[name])
    for name in names:
        if _is_there(staging / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).replace(folder / name)
    _synchronize(folder)
    (staging / _JOURNAL).unlink()
    shutil.rmtree(staging / _REPLACED, ignore_errors=True)


def _undo(staging: Path, names: Sequence[str], gone: Sequence[str]) -> None:
    """Puts everything back to where it was before `_carry_out`."""
    folder = staging.parent
    for name in reversed(names):
        if not _is_there(staging / name) and _is_there(folder / name):
            (folder / name).replace(staging / name)
    for name, place in _places(staging, names, gone).items():
        if _is_there(place):
            place.replace(folder / name)


def _is_there(path: Path) -> bool:
    """Return whether something is there, a link that leads nowhere included."""
    return os.path.lexists(path)


def replace_durably(source: Path, destination: Path) -> None:
    """Renames a file on the same disk, in one step that a crash of the machine survives, too.

    What was at `destination` is there until the whole new file is.

    Raises:
        OSError: the disk filled up, or the rename failed; `destination` is what it was.
    """
    _synchronize(source)
    source.replace(destination)
    _synchronize(destination.parent)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a directory."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _synchronize(path: Path) -> None:
    """Waits until the disk has the contents of a file or directory."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open directories.
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
