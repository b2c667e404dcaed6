"""Downloads a file so that it is either there, whole and right, or not there at all."""

from __future__ import annotations

import contextlib
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

#: Seconds without a byte after which a connection is given up, unless `KERAS_RESNET_TIMEOUT` says
#: otherwise.
TIMEOUT = 30.0

_CHUNK = 64 * 1024


class DownloadError(OSError):
    """A file could not be downloaded. The message says which, why, and what to do instead.

    Attributes:
        reason: why, alone.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


def download(
    url: str,
    destination: Path,
    *,
    title: str | None = None,
    sha256: str | None = None,
    sha256_prefix: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    timeout: float | None = None,
    attempts: int = 3,
    pause: float = 1.0,
) -> None:
    """Downloads a file; what is at `destination` is replaced once the new one is whole and right.

    Redirects are followed, but none from https to http. Proxies and certificates are those of
    `requests`: `HTTPS_PROXY`, `REQUESTS_CA_BUNDLE`. Progress goes to standard error: standard
    output may be read by a machine.

    Args:
        url: http or https.
        destination: final path; its directory is made.
        title: what the progress calls it; by default its name.
        sha256: hash that it has to have, in hexadecimal digits.
        sha256_prefix: digits that its SHA-256 has to begin with.
        md5: another hash that it has to have.
        size: bytes that it has to have.
        timeout: seconds without a byte after which a connection is given up; by default
            `KERAS_RESNET_TIMEOUT`, or 30.
        attempts: how often in all, where the connection breaks or the server is in trouble.
        pause: seconds before the second attempt, twice as many before each further one.

    Raises:
        DownloadError: the file was not to be had, or is another one.
        OSError: the disk is full.
        ValueError: the directory cannot be written to, or `timeout` is not a number of seconds.
    """
    timeout, title = seconds(timeout), title or destination.name
    with partial_directory(destination.parent) as staging:
        partial = staging / destination.name
        try:
            for attempt in range(1, attempts + 1):
                try:
                    _transfer(url, partial, title, timeout)
                    break
                except _TransferError as error:
                    if not error.temporary or attempt == attempts:
                        raise
                    say(f"{title}: {error}. Trying again")
                    time.sleep(pause * 2 ** (attempt - 1))
            wrong = problem(partial, sha256, sha256_prefix, md5, size)
            if wrong is not None:
                raise _TransferError(f"a file with {wrong}")
        except _TransferError as error:
            raise DownloadError(
                f"Expected to download {url}. Received: {error}. "
                f"Put the file at {destination} by hand",
                str(error),
            ) from error
        partial.replace(destination)


def problem(
    path: Path,
    sha256: str | None = None,
    sha256_prefix: str | None = None,
    md5: str | None = None,
    size: int | None = None,
) -> str | None:
    """What is wrong with a file's content, in words; `None` if it is as expected.

    Args:
        path: the file.
        sha256: its hash, as far as known; the others likewise, as for `download`.
        sha256_prefix: the first digits of that.
        md5: another hash.
        size: its bytes.
    """
    found = path.stat().st_size
    if size not in (None, found):
        return f"{found} bytes instead of {size}"
    wanted = (sha256, sha256_prefix)
    if any(wanted):
        hashed = fingerprint_of_file(path)
        for digits in wanted:
            if digits and not hashed.startswith(digits.lower()):
                return f"the sha256 {hashed} instead of {digits}"
    if md5 and fingerprint_of_file(path, "md5") != md5.lower():
        return f"the md5 {fingerprint_of_file(path, 'md5')} instead of {md5}"
    return None


def seconds(timeout: float | None) -> float:
    """The timeout that was given, else that of `KERAS_RESNET_TIMEOUT`, else 30, in seconds.

    Raises:
        ValueError: it is not a number of seconds.
    """
    given = os.environ.get("KERAS_RESNET_TIMEOUT") or TIMEOUT if timeout is None else timeout
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(
            "Expected `timeout` or KERAS_RESNET_TIMEOUT to be a number of seconds, more than 0. "
            f"Received: {given!r}"
        )
    return number


def say(sentence: str) -> None:
    """Prints a line on standard error."""
    _console().print(sentence)


class _TransferError(Exception):
    """Why a transfer failed, in a few words, and whether the next one may go better."""

    def __init__(self, reason: str, temporary: bool = False) -> None:
        super().__init__(reason)
        self.temporary = temporary


class _Session(requests.Session):
    """Follows redirects, but none that gives encryption up."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None:
            following = urllib.parse.urljoin(resp.url, target)
            schemes = [urllib.parse.urlsplit(url).scheme for url in (resp.url, following)]
            if schemes == ["https", "http"]:
                raise _TransferError(f"a redirect from https to http ({following})")
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
            _check_status(response)
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
        raise _TransferError(f"{received} of {total} bytes", temporary=True)


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    if status == requests.codes.ok:
        return
    known = {403: ": the server refuses to give it", 404: ": the server has no such file"}
    raise _TransferError(
        f"{status} {response.reason}{known.get(status, '')}",
        temporary=status in (408, 429) or status >= 500,
    )


def _in_words(
    error: requests.RequestException, timeout: float, received: int | None
) -> _TransferError:
    """The error in our words; `received` is `None` if the server has not answered at all."""
    cause = _innermost(error)
    broken = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    if isinstance(error, requests.exceptions.SSLError) or not isinstance(error, broken):
        return _TransferError(str(cause))
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return _TransferError(f"no byte for {timeout:g} s", temporary=True)
    what = "no connection" if received is None else "the connection broke"
    return _TransferError(f"{what} ({cause})", temporary=True)


def _innermost(error: BaseException) -> BaseException:
    """What an error is made of: HTTP libraries wrap one into another, as argument or as cause."""
    inner = [*error.args, getattr(error, "reason", None), error.__cause__]
    found = next((item for item in inner if isinstance(item, BaseException)), None)
    return error if found is None else _innermost(found)


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
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(f"Downloading {title}", total=total)
        yield lambda received: bars.update(task, completed=received)
