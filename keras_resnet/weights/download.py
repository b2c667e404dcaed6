"""Downloading of files, which are put in place only when they are complete and verified."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import queue
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import requests
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
from keras_resnet.support.terminal import Console
from keras_resnet.support.text import printable
from keras_resnet.weights.registry import Download

_CHUNK = 64 * 1024

#: A download is given up if it is slower than this many bytes per second plus this many seconds.
_SLOWEST, _PATIENCE = 10_000, 30

#: Limits: bytes of a file of unknown size, and redirects.
_LARGEST, _MOST_REDIRECTS = 2**32, 30


class DownloadError(OSError):
    """Error for a file that could not be downloaded.

    Attributes:
        reason: the reason without the rest of the message.
        temporary: whether another attempt may succeed.
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
    largest: int = _LARGEST,
) -> None:
    """Download a file and replace `destination` when the new file is complete and verified.

    The size and the time are limited, the latter by a speed of 10 kB/s. Redirects are followed
    except from https to http. Proxies and certificates are those of `requests`: `HTTPS_PROXY`,
    `REQUESTS_CA_BUNDLE`. Progress is shown on standard error.

    Args:
        file: URL, http or https, and known facts about the content.
        destination: final path; its directory is created.
        title: name of the file in messages; by default its name.
        attempts: number of attempts if the connection breaks or the server fails.
        pause: seconds before the second attempt, doubled before each further one.
        largest: limit of the size in bytes if `file` has none.

    Raises:
        DownloadError: the file cannot be downloaded, or has another content.
        OSError: the disk is full.
        ValueError: the directory cannot be written to, or the timeout is not a number of seconds.
    """
    timeout, title = timeout_in_seconds(), title or destination.name
    with partial_directory(destination.parent) as staging:
        partial = staging / destination.name
        try:
            for attempt in itertools.count(1):
                try:
                    _Transfer(file, partial, title, timeout, largest).run()
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
    """Describe what is wrong with a file's content; `None` if it is as expected."""
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
    """Return the timeout of a connection without data: `KERAS_RESNET_TIMEOUT`, or 30 seconds.

    Raises:
        ValueError: the environment variable is not a number of seconds.
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
    """Print a line on standard error."""
    Console(stderr=True).print(sentence)


class _Session(requests.Session):
    """Session that leaves redirects to `_Transfer`, as requests would read their whole content."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _Transfer:
    """One attempt at downloading a file.

    It runs in a thread of its own, which is abandoned if it takes too long: in the handshake, the
    headers or the body, a server may send single bytes forever.
    """

    def __init__(
        self, file: Download, path: Path, title: str, timeout: float, largest: int
    ) -> None:
        self._url, self._path, self._title = file.location, path, title
        self._timeout, self._known, self._most = timeout, file.bytes, file.bytes or largest
        self._total: int | None = None
        self._received: int | None = None
        self._error: Exception | None = None
        self._given_up = False
        #: Numbers of bytes received so far; `None` at the end.
        self._steps: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def run(self) -> None:
        start, received = time.monotonic(), 0
        threading.Thread(target=self._work, daemon=True).start()
        try:
            with contextlib.ExitStack() as stack:
                report: Callable[[int], None] | None = None
                while (step := self._next(start, received)) is not None:
                    received = step
                    report = report or stack.enter_context(_progress(self._title, self._total))
                    report(received)
        finally:
            self._given_up = True
        if self._error is not None:
            raise self._error

    def _next(self, start: float, received: int) -> int | None:
        left = start + _PATIENCE + self._timeout + received / _SLOWEST - time.monotonic()
        try:
            return self._steps.get(timeout=left) if left > 0 else self._steps.get_nowait()
        except queue.Empty:
            raise DownloadError(
                f"{received:,} bytes, and then less than {_SLOWEST / 1000:g} kB/s"
            ) from None

    def _work(self) -> None:
        try:
            self._transfer()
        except requests.RequestException as error:
            self._error = _in_words(error, self._timeout, self._received)
        except Exception as error:
            self._error = error
        self._steps.put(None)

    def _transfer(self) -> None:
        with _Session() as session, self._opened(session) as response:
            status = response.status_code
            if status != requests.codes.ok:
                known = {
                    403: ": the server denies access",
                    404: ": the server has no such file",
                }
                raise DownloadError(
                    f"{status} {response.reason}{known.get(status, '')}",
                    temporary=status in (408, 429) or status >= 500,
                )
            length = response.headers.get("Content-Length", "")
            if length.isdigit() and "Content-Encoding" not in response.headers:
                self._total = int(length)
            self._count(0)
            with self._path.open("wb") as file:
                for chunk in response.iter_content(_CHUNK):
                    if self._given_up:
                        return
                    self._count((self._received or 0) + len(chunk))
                    file.write(chunk)
        # urllib3 before version 2 does not check this.
        if self._total not in (None, self._received):
            raise DownloadError(f"{self._received} of {self._total} bytes", temporary=True)

    def _count(self, received: int) -> None:
        self._received = received
        if max(received, self._total or 0) > self._most:
            found = self._total or f"at least {received}"
            expected = self._known or f"at most {self._most}"
            raise DownloadError(f"a file with {found} bytes instead of {expected}")
        self._steps.put(received)

    def _opened(self, session: requests.Session) -> requests.Response:
        """Return the response at the end of all redirects."""
        # Without compression, so that the number of bytes is that of the file.
        headers = {"Accept-Encoding": "identity"}
        url = self._url
        for _ in range(_MOST_REDIRECTS + 1):
            response = session.get(
                url, headers=headers, stream=True, timeout=self._timeout, allow_redirects=False
            )
            target = requests.Session.get_redirect_target(session, response)
            if target is None:
                return response
            response.close()
            following = urllib.parse.urljoin(url, target)
            if url.lower().startswith("https:") and not following.lower().startswith("https:"):
                raise DownloadError(f"a redirect from https to http ({following})")
            url = following
        raise DownloadError(f"more than {_MOST_REDIRECTS} redirects")


def _in_words(
    error: requests.RequestException, timeout: float, received: int | None
) -> DownloadError:
    """Describe an error of requests; `received` is `None` if the server has not responded."""
    # HTTP libraries wrap errors in each other, as arguments or as causes.
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


@contextlib.contextmanager
def _progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show progress: a bar on a terminal, elsewhere a line for every quarter of the file.

    Yields:
        A function to call with the number of bytes received so far.
    """
    console = Console(stderr=True)
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
        task = bars.add_task(printable(f"Downloading {title}"), total=total)
        yield lambda received: bars.update(task, completed=received)
