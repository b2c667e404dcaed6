"""How long artifacts take for one image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import numpy as np

from keras_resnet.export.runtime import Runner


def median_latencies(
    runners: Mapping[str, Runner], image: np.ndarray, rounds: int = 30
) -> dict[str, float]:
    """Median latency of each runner in milliseconds, at batch 1.

    The runners take turns, so that a machine that slows down slows all of them down.

    Args:
        runners: what is timed, by name.
        image: `(height, width, channels)`.
        rounds: timed calls of each, after three that are not counted.
    """
    batch = np.asarray(image, dtype=np.float32)[None]
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(rounds + 3):
        for name, runner in runners.items():
            start = time.perf_counter()
            runner.run(batch)
            if turn >= 3:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) * 1000 for name, times in seconds.items()}
