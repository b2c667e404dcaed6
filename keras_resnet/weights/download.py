"""Downloads a file so that it is either there, whole and right, or not there at all."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import requests
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from keras_resnet.support.files import partial_directory
from keras_resnet.support.fingerprints import fingerprint_of_file
from keras_resnet.weights.registry import Download

_CHUNK = 64 * 1024


class DownloadError(OSError):
    """A file could not be downloaded. The message says which, why, and what to do instead.

    Attributes:
        reason: why, alone.
        temporary: whether the next attempt may go better.
    """

    def __init__(self, message: str, reason: str = "", *, temporary: bool = False) -> None:
        super().__init__(message)
        self.reason, self.temporary = reason or message, temporary


def download(
    file: Download,
    destination: Path,
    *,
    title: str | None = None,
    attempts: int = 3,
    pause: float = 1.0,
) -> None:
    """Downloads a file; what is at `destination` is replaced once the new one is whole and right.

    Redirects are followed, but none from https to http. Proxies and certificates are those of
    `requests`: `HTTPS_PROXY`, `REQUESTS_CA_BUNDLE`. Progress goes to standard error: standard
    output may be read by a machine.

    Args:
        file: its address, http or https, and what is known of its content.
        destination: final path; its directory is made.
        title: what the progress calls it; by default its name.
        attempts: how often in all, where the connection breaks or the server is in trouble.
        pause: seconds before the second attempt, twice as many before each further one.

    Raises:
        DownloadError: the file was not to be had, or is another one.
        OSError: the disk is full.
        ValueError: the directory cannot be written to, or the timeout is no number of seconds.
    """
    timeout, title = timeout_in_seconds(), title or destination.name
    with partial_directory(destination.parent) as staging:
        partial = staging / destination.name
        try:
            for attempt in itertools.count(1):
                try:
                    _transfer(file.location, partial, title, timeout)
                    break
                except DownloadError as error:
                    if not error.temporary or attempt == attempts:
                        raise
                    say(f"{title}: {error}. Trying again")
                    time.sleep(pause * 2 ** (attempt - 1))
            if wrong := problem(partial, file):
                raise DownloadError(f"a file with {wrong}")
        except DownloadError as error:
            raise DownloadError(
                f"Expected to download {file.location}. Received: {error}. "
                f"Put the file at {destination} by hand",
                error.reason,
            ) from error
        partial.replace(destination)


def problem(path: Path, expected: Download) -> str | None:
    """What is wrong with a file's content, in words; `None` if it is as expected."""
    found = path.stat().st_size
    if expected.bytes not in (None, found):
        return f"{found} bytes instead of {expected.bytes}"
    for algorithm, digits in (
        ("sha256", expected.sha256),
        ("sha256", expected.sha256_prefix),
        ("md5", expected.md5),
    ):
        hashed = fingerprint_of_file(path, algorithm) if digits else ""
        if digits and not hashed.startswith(digits.lower()):
            return f"the {algorithm} {hashed} instead of {digits}"
    return None


def timeout_in_seconds() -> float:
    """After how long without a byte a connection is given up: `KERAS_RESNET_TIMEOUT`, or 30.

    Raises:
        ValueError: it is not a number of seconds.
    """
    given = os.environ.get("KERAS_RESNET_TIMEOUT") or "30"
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(
            "Expected KERAS_RESNET_TIMEOUT to be a number of seconds, more than 0. "
            f"Received: {given!r}"
        )
    return number


def say(sentence: str) -> None:
    """Prints a line on standard error."""
    _console().print(sentence)


class _Session(requests.Session):
    """Follows redirects, but none that gives encryption up."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None:
            following = urllib.parse.urljoin(resp.url, target)
            if resp.url.startswith("https:") and not following.lower().startswith("https:"):
                raise DownloadError(f"a redirect from https to http ({following})")
        return target


def _transfer(url: str, path: Path, title: str, timeout: float) -> None:
    """One attempt at downloading into `path`."""
    # The bytes as they are: compressed ones would have another number.
    headers = {"Accept-Encoding": "identity"}
    received: int | None = None
    total: int | None = None
    try:
        with (
            _Session() as session,
            session.get(url, headers=headers, stream=True, timeout=timeout) as response,
        ):
            status = response.status_code
            if status != requests.codes.ok:
                known = {
                    403: ": the server refuses to give it",
                    404: ": the server has no such file",
                }
                raise DownloadError(
                    f"{status} {response.reason}{known.get(status, '')}",
                    temporary=status in (408, 429) or status >= 500,
                )
            received = 0
            length = response.headers.get("Content-Length", "")
            if length.isdigit() and "Content-Encoding" not in response.headers:
                total = int(length)
            with path.open("wb") as file, _progress(title, total) as report:
                for chunk in response.iter_content(_CHUNK):
                    received += file.write(chunk)
                    report(received)
    except requests.RequestException as error:
        raise _in_words(error, timeout, received) from error
    # urllib3 before version 2 does not notice.
    if total not in (None, received):
        raise DownloadError(f"{received} of {total} bytes", temporary=True)


def _in_words(
    error: requests.RequestException, timeout: float, received: int | None
) -> DownloadError:
    """The error in our words; `received` is `None` if the server has not answered at all."""
    # HTTP libraries wrap one error into another, as argument or as cause.
    cause: BaseException | None = error
    while cause is not None:
        innermost = cause
        inner = (*cause.args, getattr(cause, "reason", None), cause.__cause__)
        cause = next((item for item in inner if isinstance(item, BaseException)), None)
    broken = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    if isinstance(error, requests.exceptions.SSLError) or not isinstance(error, broken):
        return DownloadError(str(innermost))
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return DownloadError(f"no byte for {timeout:g} s", temporary=True)
    what = "no connection" if received is None else "the connection broke"
    return DownloadError(f"{what} ({innermost})", temporary=True)


def _console() -> Console:
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def _progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows how much has come: a bar on a terminal, a line for every quarter elsewhere.

    Yields:
        A function of the bytes so far.
    """
    console = _console()
    if not console.is_terminal:
        size = "" if total is None else f" of {total / 1e6:.1f}"
        shown = -1

        def report(received: int) -> None:
            nonlocal shown
            quarter = 4 * received // total if total else 0
            if quarter > shown:
                shown = quarter
                say(f"Downloading {title}: {received / 1e6:.1f}{size} MB")

        yield report
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        *(BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(f"Downloading {title}", total=total)
        yield lambda received: bars.update(task, completed=received)
