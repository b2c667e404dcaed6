"""Atomic writing of files: under a temporary name, then renamed, all of them or none."""

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

#: Names of partial directories, as `tempfile.mkdtemp` creates them.
_PARTIAL_NAME = re.compile(rf"{re.escape(PARTIAL_PREFIX)}[a-z0-9_]{{8}}")

#: Lock files of a directory that a process holds, and of a partial directory.
LOCK_FILE, _OWNER_FILE = ".lock", ".owner"

#: File in a directory of complete results that lists what is to be published; see `publish`.
_JOURNAL = "publish.json"

#: Directory beside the journal for replaced files.
_REPLACED = "replaced"


@contextlib.contextmanager
def held(folder: Path, output: Path | None = None) -> Iterator[Callable[[], bool]]:
    """Hold a directory against other processes; create it if it is missing.

    The remains of killed processes are published or removed first. At the end, the directory is
    removed if it was created here and is still empty.

    Args:
        folder: the directory.
        output: path for messages; by default `folder`.

    Yields:
        A function that returns whether the directory is still in its place.

    Raises:
        ValueError: the directory cannot be written to, or another process holds it.
        OSError: the disk is full, here or in the block.
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
    """Create a temporary directory in `parent`, on the same disk, so that renaming is atomic.

    It is removed at the end; `publish` moves results out of it. The remains of killed processes in
    `parent` are published or removed first; a running process holds a lock on its directory.

    Yields:
        The path of the directory.

    Raises:
        ValueError: `parent` cannot be written to.
        OSError: the disk is full, here or in the block.
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
    """Create a directory, locked until `stack` is closed and then removed."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=parent))
        stack.callback(_remove_if_empty, path)
        # Another process may have removed it as a leftover before it was locked.
        with contextlib.suppress(BusyError, FileNotFoundError):
            stack.enter_context(locked(path / _OWNER_FILE))
            stack.callback(_clear, path)
            return path


def check_writable(folder: Path) -> None:
    """Raise ValueError if a directory, existing or not, cannot be created or written to."""
    above = folder.absolute()
    # A missing directory is not created yet.
    with partial_directory(next(path for path in (above, *above.parents) if path.exists())):
        pass


def _clear(directory: Path) -> None:
    """Remove everything except for the lock, unless there is a journal.

    The lock is removed last, as it marks the directory as a process's own.
    """
    # Another process will finish publishing.
    if _is_there(directory / _JOURNAL):
        return
    for path in sorted(directory.glob("*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif not path.name.startswith(_OWNER_FILE):
            with contextlib.suppress(OSError):
                path.unlink()


def recover(parent: Path) -> None:
    """Publish the complete results of killed processes in a directory; remove incomplete ones.

    Only directories that `partial_directory` created are touched.

    Raises:
        OSError: a file cannot be renamed; the next call tries again.
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
    """Return whether `partial_directory` created a path: it has a lock or journal, or is empty."""
    if not _PARTIAL_NAME.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
        return False
    names = [inside.name for inside in path.iterdir()]
    return not names or any(x.startswith(_OWNER_FILE) or x == _JOURNAL for x in names)


def check_new(path: Path, overwrite: bool) -> None:
    """Raise FileExistsError if `path` exists and must not be overwritten."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"Expected a new file. Received: {path}. Pass `overwrite=True`")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file under a temporary path; replace `path` when the block ends without an error.

    An existing file at `path` stays until the new one is complete.

    Yields:
        The temporary path.

    Raises:
        ValueError: the directory cannot be written to.
        OSError: the disk is full.
    """
    path = path.absolute()
    with partial_directory(path.parent) as staging:
        yield staging / path.name
        replace_durably(staging / path.name, path)


def publish(staging: Path, names: Sequence[str], gone: Iterable[str] = ()) -> None:
    """Move files and directories from `staging` into its parent directory, all of them or none.

    First, a journal in `staging` records that they are complete. After that, they are published
    even if the process is killed: the next process that writes to the directory finishes it, see
    `recover`. Until then, the directory has old files or new files, but never both: old files are
    removed first, in reverse order, then the new ones are moved.

    Args:
        staging: a directory that this process has locked, such as a `partial_directory`.
        names: names to move, in this order: once the last one is in place, all of them are.
            Existing files of the same names are replaced.
        gone: names of other files to remove from the parent directory.

    Raises:
        OSError: a rename failed; all files are in their old places.
        ValueError: a name leads out of the directory.
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
    """Finish the publishing that a killed process began, with a warning.

    Returns:
        False if the journal in `staging` is damaged, is another user's, or leads out of the
        directory; then nothing is changed, with a warning.

    Raises:
        OSError: a rename failed; the next call tries again.
    """
    if not _is_there(staging / _JOURNAL):
        return True
    try:
        names, gone = _read_journal(staging)
    except (OSError, ValueError) as error:
        warnings.warn(
            f"Ignored {staging}, with unpublished results for {staging.parent}: {error}. Remove it "
            "if you do not need it",
            stacklevel=2,
        )
        return False
    _carry_out(staging, names, gone)
    warnings.warn(
        f"A process was killed while it published its results in {staging.parent}. They are now "
        "complete",
        stacklevel=2,
    )
    return True


def is_being_replaced(folder: Path) -> bool:
    """Return whether results are being published in a directory, or a killed process left some."""
    return any(folder.glob(f".*/{_JOURNAL}"))


def _read_journal(staging: Path) -> tuple[list[str], list[str]]:
    """Return the names to publish and the names to remove.

    Raises:
        OSError: the journal cannot be read.
        ValueError: the journal is damaged, is another user's, or leads out of the directory.
    """
    path = staging / _JOURNAL
    if path.is_symlink() or not path.is_file() or (staging / _REPLACED).is_symlink():
        raise ValueError("it has links in place of files")
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
    """Raise ValueError if a name leads out of `staging` or its parent directory."""
    for name in names:
        path = PurePath(name)
        is_plain = path.parts and not path.anchor and ".." not in path.parts
        if not is_plain or path.parts[0] == staging.name:
            raise ValueError(f"Expected names of files in the directory. Received: {name!r}")
        for folder in (staging, staging.parent):
            # Unlike `Path.resolve`, `realpath` accepts cyclic links.
            parent = Path(os.path.realpath((folder / path).parent))
            if not parent.is_relative_to(os.path.realpath(folder)):
                raise ValueError(
                    f"Expected no link out of the directory. Received: {folder / path}"
                )


def _places(staging: Path, names: Sequence[str], gone: Sequence[str]) -> dict[str, Path]:
    """Return the temporary place of each file that is replaced or removed."""
    return {name: staging / _REPLACED / str(number) for number, name in enumerate([*names, *gone])}


def _carry_out(staging: Path, names: Sequence[str], gone: Sequence[str]) -> None:
    """Carry out the journal; after a kill at any step, its remaining steps."""
    folder, places = staging.parent, _places(staging, names, gone)
    (staging / _REPLACED).mkdir(exist_ok=True)
    for name in (*reversed(names), *gone):
        # If it is no longer in `staging`, the file in `folder` is the new one.
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
    """Move everything back to its place before `_carry_out`."""
    folder = staging.parent
    for name in reversed(names):
        if not _is_there(staging / name) and _is_there(folder / name):
            (folder / name).replace(staging / name)
    for name, place in _places(staging, names, gone).items():
        if _is_there(place):
            place.replace(folder / name)


def _is_there(path: Path) -> bool:
    """Return whether a path exists; broken links do, too."""
    return os.path.lexists(path)


def replace_durably(new: Path, path: Path) -> None:
    """Replace `path` by the file `new` on the same disk, in one step that survives a system crash.

    Raises:
        OSError: the disk is full, or the rename failed; `path` is unchanged.
    """
    _synchronize(new)
    new.replace(path)
    _synchronize(path.parent)


def size_of(path: Path) -> int:
    """Return the size of a file, or of all files below a directory, in bytes."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _synchronize(path: Path) -> None:
    """Wait until the content of a file or directory is on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open directories.
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
