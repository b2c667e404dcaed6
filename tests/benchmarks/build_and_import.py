"""Time the building of ResNet-152, beside keras.applications, and the import of the package.

    python -m tests.benchmarks.build_and_import [--rounds 5]

It prints medians of runs in turn. Only ratios can be compared between machines.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(rounds: int, works: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Call all functions in turn, for `rounds` rounds; return the median of each one's results."""
    results: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            results[name].append(work())
    return {name: statistics.median(times) for name, times in results.items()}


def building(rounds: int) -> dict[str, float]:
    import keras

    import keras_resnet

    def ours() -> float:
        keras.backend.clear_session()
        gc.collect()  # Before the clock starts, for both.
        return timed(lambda: keras_resnet.ResNet152())

    def theirs() -> float:
        keras.backend.clear_session()
        gc.collect()
        return timed(lambda: keras.applications.ResNet152(weights=None))

    # The first build includes work that Keras does once.
    theirs()
    ours()
    return in_turn(rounds, {"keras_resnet": ours, "keras.applications": theirs})


def importing(rounds: int) -> dict[str, float]:
    """Return the seconds for importing the builders in a new process, after `keras`."""
    code = """
import time
import keras
start = time.perf_counter()
from keras_resnet import ResNet50
print(time.perf_counter() - start)
"""

    def once() -> float:
        command = [sys.executable, "-c", code]
        return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    return in_turn(rounds, {"keras_resnet": once})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    built = building(rounds)
    for name, seconds in built.items():
        print(f"building ResNet-152, {name}: {seconds:.2f} s")
    print(f"ratio: {built['keras_resnet'] / built['keras.applications']:.2f}")
    (imported,) = importing(rounds).values()
    print(f"import keras_resnet after import keras: {imported * 1000:.0f} ms more")


if __name__ == "__main__":
    main()
