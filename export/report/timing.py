"""Latency and memory of artifacts, measured in processes that take turns."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from keras_resnet.export.runtime import checked_artifact
from keras_resnet.support import terminal
from keras_resnet.support.json_text import finite
from keras_resnet.support.progress import Progress, unseen

#: Smallest number of calls for a 99th percentile.
_CALLS_FOR_P99 = 100

#: Seconds of calls of one artifact in each turn.
_TURN = 0.05

#: Number of first calls that are not timed: they allocate memory and optimize graphs.
_WARM_UP = 3


@dataclass(frozen=True)
class Timing:
    """Settings for measuring the latency and memory of artifacts.

    Attributes:
        batch_sizes: numbers of images in a call. A size that an artifact does not take is reported
            as an error.
        threads: numbers of threads of each runtime; 0: as many as there are cores.
        seconds: seconds of calls for each artifact, batch size and number of threads.
    """

    batch_sizes: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (0,)
    seconds: float = 1.0


@dataclass(frozen=True)
class Measurement:
    """Latency and memory of one artifact at one batch size with one number of threads.

    Attributes:
        artifact: path of the artifact as passed to `benchmark`.
        batch_size: number of images in a call.
        threads: number of threads of the runtime; 0: as many as there are cores.
        calls: number of calls that were timed.
        p50_ms: median time of a call, in milliseconds.
        p90_ms: 90th percentile of the times, in milliseconds.
        p99_ms: 99th percentile, in milliseconds; `None` with fewer than 100 calls.
        peak_memory: peak memory of the process so far, in bytes, with that of the runtime.
        error: reason why the artifact could not be run; `None` if it was.
    """

    artifact: str
    batch_size: int
    threads: int
    calls: int = 0
    p50_ms: float = float("nan")
    p90_ms: float = float("nan")
    p99_ms: float | None = None
    peak_memory: int = 0
    error: str | None = None

    @property
    def images_per_second(self) -> float:
        """Images per second at the median latency."""
        return 1000 * self.batch_size / self.p50_ms

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a row with the columns `SPEED_COLUMNS`."""
        head = (self.artifact, str(self.batch_size), str(self.threads or "all"))
        if self.error is not None:
            return (*head, "not run", *["–"] * (len(SPEED_COLUMNS) - len(head) - 1))
        times = (self.p50_ms, self.p90_ms, self.p99_ms)
        latencies = ("–" if ms is None else f"{ms:.2f} ms" for ms in times)
        memory = f"{self.peak_memory / 1e6:,.0f} MB"
        return (*head, *latencies, f"{self.images_per_second:,.0f}", memory)


SPEED_COLUMNS = ("artifact", "batch", "threads", "p50", "p90", "p99", "images/s", "memory")

#: Explanations of the columns.
SPEED_MEANINGS = {
    "batch": "images per call",
    "p50": "median time of a call; 90 % of the calls are faster than p90, 99 % than p99",
    "memory": "peak memory of a process with this artifact alone",
}


@dataclass(frozen=True)
class BenchmarkReport:
    """Report of a benchmark.

    Attributes:
        measurements: measurements by artifact, number of threads and batch size.
    """

    measurements: tuple[Measurement, ...]

    def ratio(self, measurement: Measurement) -> float:
        """Return the median latency relative to that of the first artifact.

        Both are for the same batch size and number of threads.
        """
        first = self.measurements[0].artifact
        (base,) = [
            other
            for other in self.measurements
            if other.artifact == first
            and (other.batch_size, other.threads) == (measurement.batch_size, measurement.threads)
        ]
        return measurement.p50_ms / base.p50_ms

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data for JSON; figures that are not known are `None`."""
        rows = [dataclasses.asdict(row) | {"ratio": self.ratio(row)} for row in self.measurements]
        plain: dict[str, Any] = finite({"measurements": rows})
        return plain

    def to_table(self) -> Table:
        """Return the report as a table for a terminal."""
        rows = self.measurements
        folder, names = _short_names(list(dict.fromkeys(row.artifact for row in rows)))
        constant = [
            name
            for name, values in (
                ("threads", {row.threads for row in rows}),
                ("batch", {row.batch_size for row in rows}),
            )
            if len(values) == 1
        ]
        table = terminal.table(
            (*SPEED_COLUMNS, "×"), wrap=("artifact",), optional=("p99", "p90", "memory", *constant)
        )
        for row in rows:
            ratio = self.ratio(row)
            shown = "–" if np.isnan(ratio) else f"{ratio:.3f}"
            table.add_row(names[row.artifact], *row.cells()[1:], shown)
        if folder:
            table.caption = f"Paths are relative to {folder}"
        return table

    @property
    def failures(self) -> list[str]:
        """Sentences about artifacts that could not be run, one for each artifact and reason."""
        reasons = [
            # Messages of this package name the file themselves.
            row.error
            if row.error.startswith("Expected ")
            else f"{row.artifact}: not run: {row.error}"
            for row in self.measurements
            if row.error
        ]
        return list(dict.fromkeys(reasons))


def _short_names(paths: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the common folder of several paths, and the path relative to it for each."""
    folders = [Path(path).parent for path in paths]
    mixed = len({folder.is_absolute() for folder in folders}) > 1
    folder = "" if mixed or len(paths) < 2 else os.path.commonpath(folders)
    return folder, {path: os.path.relpath(path, folder) if folder else path for path in paths}


def benchmark(
    artifacts: Sequence[str | os.PathLike[str]],
    *,
    batch_sizes: Sequence[int] = (1,),
    threads: Sequence[int] = (0,),
    seconds: float = 3.0,
    size: int = 224,
    trust: bool = False,
    progress: Progress = unseen,
) -> BenchmarkReport:
    """Measure the latency and memory of artifacts with random pixels.

    Every artifact runs in a process that has nothing but its runtime. The processes take turns of
    0.05 seconds, so that a change in the machine's speed affects all artifacts alike.

    Examples:
        >>> report = benchmark(["exported/model.onnx", "exported/model-int8.tflite"], threads=[1])
        >>> [round(row.p50_ms, 2) for row in report.measurements]
        [14.21, 6.35]

    Args:
        artifacts: `.keras`, `.h5`, `.tflite` and `.onnx` files and directories of SavedModels, of
            this package or others, with one input. Ratios are relative to the first one.
        batch_sizes: numbers of images in a call.
        threads: numbers of threads of each runtime; 0: as many as there are cores.
        seconds: seconds of calls for each artifact, batch size and number of threads, with at least
            one call.
        size: height and width of the images, in pixels, for artifacts that take any size.
        trust: whether to load SavedModels that may do more than compute, as in `load_runner`.
        progress: function that is called with the name of each step and the finished share, in
            [0, 1].

    Returns:
        Report with a measurement for each artifact, batch size and number of threads. Artifacts
        that cannot be run have an `error` instead of figures.

    Raises:
        ValueError: an artifact does not exist, none of them can be read, or a number is out of
            range.
    """
    _check_settings(artifacts, batch_sizes, threads, seconds)
    paths, refused = _opened(artifacts, trust)
    batch_sizes, threads = tuple(dict.fromkeys(batch_sizes)), tuple(dict.fromkeys(threads))
    cells = [(count, batch) for count in threads for batch in batch_sizes]
    rows = [
        Measurement(name, batch, count, error=reason)
        for name, reason in refused.items()
        for count, batch in cells
    ]
    total = len(cells) * (len(paths) + len(refused))
    for count in threads:
        with contextlib.ExitStack() as stack:
            workers = {}
            for name, path in paths.items():
                progress(f"loading {name}", len(rows) / total)
                workers[name] = _Worker(path, count, size)
                stack.callback(workers[name].end)
                workers[name].wait()
            for batch in batch_sizes:
                progress(f"batch {batch}", len(rows) / total)
                rows += _measure(workers, batch, count, seconds)
    order = {name: index for index, name in enumerate(_distinct(artifacts))}
    rows.sort(key=lambda row: (order[row.artifact], row.threads, row.batch_size))
    return BenchmarkReport(tuple(rows))


def _check_settings(
    artifacts: Sequence[Any], batch_sizes: Sequence[int], threads: Sequence[int], seconds: float
) -> None:
    for name, values, least in (("batch_sizes", batch_sizes, 1), ("threads", threads, 0)):
        if not values or any(not isinstance(v, int) or v < least for v in values):
            raise ValueError(
                f"Expected `{name}` to be integers of at least {least}. Received: {values!r}"
            )
    if not artifacts or not seconds > 0:
        raise ValueError(
            "Expected at least one artifact, and `seconds` above 0. "
            f"Received: {len(artifacts)} artifacts, seconds={seconds!r}"
        )


def _distinct(artifacts: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return a name for each artifact.

    An artifact that is passed twice is timed twice, which shows how reliable ratios are.
    """
    names: dict[str, None] = {}
    for number, artifact in enumerate(artifacts, 1):
        names[f"{artifact} ({number})" if str(artifact) in names else str(artifact)] = None
    return list(names)


def _opened(
    artifacts: Sequence[str | os.PathLike[str]], trust: bool
) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the paths of artifacts by name, and the reasons why others cannot be read."""
    paths: dict[str, Path] = {}
    refused: dict[str, ValueError] = {}
    for name, artifact in zip(_distinct(artifacts), artifacts, strict=True):
        try:
            paths[name] = checked_artifact(artifact, trust)
        except ValueError as error:
            # A path that does not exist is a typing error: report it before anything is timed.
            if not Path(artifact).exists():
                raise
            refused[name] = error
    if not paths:
        raise next(iter(refused.values()))
    return paths, {name: str(error) for name, error in refused.items()}


class _Worker:
    """Process with an artifact; `failure` is the reason if it could not be loaded."""

    def __init__(self, path: Path, threads: int, size: int) -> None:
        script = Path(__file__).with_name("timing_worker.py")
        self._process = subprocess.Popen(
            # `-P` keeps the script's folder off the path, whose modules may hide others.
            [sys.executable, "-P", str(script), str(path), str(threads), str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self.failure: str | None = None

    def wait(self) -> None:
        """Wait until the artifact is loaded, or is known not to be."""
        self.failure = self._receive().get("error")

    def time(self, batch: int, seconds: float, warm_up: int) -> dict[str, Any]:
        """Return the `seconds` of each call and the `peak_memory`, or an `error`."""
        if self.failure is not None:
            return {"error": self.failure}
        request = {"batch": batch, "seconds": seconds, "warm_up": warm_up}
        with contextlib.suppress(BrokenPipeError):
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            self.failure = f"its process ended with exit code {self._process.wait()}"
            return {"error": self.failure}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._answers.close()
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()


def _measure(
    workers: dict[str, _Worker], batch: int, threads: int, seconds: float
) -> Iterator[Measurement]:
    times: dict[str, list[float]] = {name: [] for name in workers}
    # Artifacts that do not take batches of this size return an error after the warm-up.
    answers = {name: worker.time(batch, 0.0, _WARM_UP) for name, worker in workers.items()}
    while unfinished := [
        name for name in workers if "error" not in answers[name] and sum(times[name]) < seconds
    ]:
        for name in unfinished:
            answers[name] = workers[name].time(batch, _TURN, 0)
            times[name] += answers[name].get("seconds", [])
    for name, answer in answers.items():
        if "error" in answer:
            yield Measurement(name, batch, threads, error=answer["error"])
            continue
        milliseconds = 1000 * np.asarray(times[name])
        calls, peak = len(milliseconds), answer["peak_memory"]
        p50, p90, p99 = (float(value) for value in np.percentile(milliseconds, (50, 90, 99)))
        last = p99 if calls >= _CALLS_FOR_P99 else None
        yield Measurement(name, batch, threads, calls, p50, p90, last, peak)
