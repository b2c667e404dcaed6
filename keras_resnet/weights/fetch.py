"""Local copies of published checkpoints, downloaded once and verified on every use.

Some small checkpoints are part of the package. Files on Hugging Face are downloaded by its client
into its cache, so its settings apply: `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`,
`HF_HUB_DOWNLOAD_TIMEOUT`. Other files are cached below `KERAS_RESNET_HOME` as
`weights/<tag>/<file name>`, with the timeout `KERAS_RESNET_TIMEOUT` in seconds. A file that a user
has copied there is used first. With `HF_HUB_OFFLINE=1`, nothing is downloaded.

If the publisher gives no SHA-256, the SHA-256 of the first download is recorded in `sha256.json`,
and later uses are verified against it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from keras_resnet.support.disks import raise_if_full
from keras_resnet.support.files import partial_directory
from keras_resnet.support.fingerprints import fingerprint_of_file
from keras_resnet.support.json_text import load_json
from keras_resnet.support.locks import BusyError, locked
from keras_resnet.support.signals import call_in_thread
from keras_resnet.weights.download import DownloadError, download, problem, say, timeout_in_seconds
from keras_resnet.weights.registry import Download, WeightsEntry

__all__ = ["DownloadError", "cache_path", "download", "fetch", "home"]

#: Seconds between two attempts to take a lock that another process holds.
_PAUSE = 0.1


def home() -> Path:
    """Return the cache directory of this package.

    It is `KERAS_RESNET_HOME`, else `keras_resnet` in `XDG_CACHE_HOME` or `~/.cache`.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("KERAS_RESNET_HOME") or f"{cache}/keras_resnet").expanduser()


def cache_path(entry: WeightsEntry, *, without_top: bool = False) -> Path:
    """Return the path of a checkpoint in the cache, where users may also copy it by hand."""
    return home() / "weights" / entry.tag / _file(entry, without_top).file_name


def fetch(entry: WeightsEntry, *, without_top: bool = False) -> Path:
    """Return the local path of a checkpoint, which is downloaded if necessary.

    Args:
        entry: the registered checkpoint.
        without_top: whether to prefer a file without the classifier, if one is published.

    Raises:
        DownloadError: the file is not in the cache and cannot be downloaded.
        OSError: the disk is full.
        ValueError: `KERAS_RESNET_TIMEOUT` is not a number of seconds, or `sha256.json` is damaged.
    """
    timeout_in_seconds()  # Raises here, as a ValueError below is about the directory.
    file, path = _file(entry, without_top), cache_path(entry, without_top=without_top)
    if file.packaged is not None:
        return _packaged(file, entry.tag)
    recorded = None if file.sha256 else _read_record().get(file.location)
    file = dataclasses.replace(file, sha256=file.sha256 or recorded)
    if path.is_file() and _is_sound(path, file):
        return path
    advice = f"Put the file at {path} by hand, or give the path of a copy as `weights=PATH`"
    try:
        if file.url is None:
            return _fetch_from_hub(file, entry.tag)
        return _fetch_from_url(file, path, entry)
    except ValueError as error:
        raise DownloadError(
            f"{error}. Set KERAS_RESNET_HOME to another directory, or give the path of a copy of "
            f"{file.location} as `weights=PATH`"
        ) from error
    except DownloadError as error:
        if recorded and recorded in error.reason:
            advice += f". If its publisher has replaced it, delete its line in {_record_path()}"
        raise DownloadError(
            f"Expected to get the weights {entry.tag!r} from {file.location}. "
            f"Received: {error.reason}. {advice}",
            error.reason,
        ) from error


def _file(entry: WeightsEntry, without_top: bool) -> Download:
    return (entry.download_without_top if without_top else None) or entry.download


def _packaged(file: Download, tag: str) -> Path:
    path = Path(__file__).parent / "packaged" / str(file.packaged)
    wrong = problem(path, file) if path.is_file() else "no such file"
    if wrong is not None:
        raise DownloadError(
            f"Expected the weights {tag!r}, which come with the package, at {path}. "
            f"Received: {wrong}. Install keras_resnet again",
            wrong,
        )
    return path


def _is_sound(path: Path, expected: Download) -> bool:
    """Return whether a file has the expected content; warn if not."""
    wrong = problem(path, expected)
    if wrong is not None:
        warnings.warn(
            f"{path} has {wrong}: it is damaged or another file, and is ignored.", stacklevel=3
        )
    return wrong is None


def _check_online() -> None:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise DownloadError("offline mode is enabled: HF_HUB_OFFLINE is set")


def _fetch_from_url(file: Download, path: Path, entry: WeightsEntry) -> Path:
    _check_online()
    # A checkpoint may also contain the state of an optimizer, in numbers of 64 bits.
    largest = int(32e6 * entry.params_millions) + 2**24
    with _alone(path.with_name(f".{path.name}.lock"), entry.tag):
        # Another process may have downloaded it while this one waited for the lock.
        if not path.is_file() or problem(path, file) is not None:
            download(file, path, title=entry.tag, largest=largest)
        _record(file, path)
    return path


def _fetch_from_hub(file: Download, tag: str) -> Path:
    # Slow to import, and only needed here.
    import huggingface_hub

    place = str(file.repo), str(file.file)
    cached = huggingface_hub.try_to_load_from_cache(*place)
    damaged = isinstance(cached, str) and not _is_sound(Path(cached), file)
    if isinstance(cached, str) and not damaged:
        path = Path(cached)
    else:
        _check_online()
        # On a terminal, the client also draws its own progress bar on standard error.
        say(f"Downloading {tag} from Hugging Face")
        if "HF_HUB_VERBOSITY" not in os.environ:
            # The client logs every attempt; the error of the last one is raised.
            logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        get = functools.partial(huggingface_hub.hf_hub_download, *place, force_download=damaged)
        try:
            path = Path(call_in_thread(get))
        except Exception as error:  # Of the client, its HTTP library, or Xet.
            raise_if_full(error, Path(huggingface_hub.constants.HF_HUB_CACHE))
            raise DownloadError(_hub_reason(error)) from error
        if wrong := problem(path, file):
            raise DownloadError(f"a file with {wrong}")
    _record(file, path)
    return path


def _hub_reason(error: BaseException) -> str:
    """Return the reason why the client failed, in a few words, as its messages are paragraphs."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"{response.status_code} {response.reason_phrase}"
    if error.__cause__ is not None:
        return _hub_reason(error.__cause__)
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _record_path() -> Path:
    return home() / "sha256.json"


def _read_record() -> dict[str, str]:
    """Return the SHA-256 of the first download of each file, by location."""
    path = _record_path()
    try:
        return dict(load_json(path))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected the hashes of downloaded files, as JSON, in {path}. Received: {error}. "
            "Delete the file, and hashes are recorded again"
        ) from error


def _record(file: Download, path: Path) -> None:
    """Record the SHA-256 of a downloaded file, if none is known."""
    record = _record_path()
    if file.sha256 is not None or file.location in _read_record():
        return
    hashed = fingerprint_of_file(path)
    # If the record cannot be written, the file is still usable.
    lock = record.with_name(".sha256.lock")
    with contextlib.suppress(OSError, ValueError), _alone(lock, record.name):
        hashes = {file.location: hashed, **_read_record()}
        with partial_directory(record.parent) as staging:
            partial = staging / record.name
            partial.write_text(json.dumps(dict(sorted(hashes.items())), indent=1) + "\n", "utf-8")
            partial.replace(record)


@contextlib.contextmanager
def _alone(file: Path, title: str) -> Iterator[None]:
    """Run the block in one process at a time; the others wait.

    Without a lock file, as on a read-only disk, the block runs at once. Then a file may be
    downloaded twice, or its hash be recorded at the next download.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            for attempt in itertools.count():
                try:
                    stack.enter_context(locked(file))
                    break
                except BusyError as error:
                    if attempt == 0:
                        say(f"{title}: waiting for {error}, which holds {file}")
                    time.sleep(_PAUSE)
        yield
