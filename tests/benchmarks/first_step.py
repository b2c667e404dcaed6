"""Prints how long it takes to build networks and to train them for one step and another.

    python -m tests.benchmarks.first_step [--rounds 2] [--depths 20 56 110 1202] [--peer]

Every measurement is a process of its own, and networks take turns. It prints medians of the rounds:
seconds of processor time, of all threads, and of the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

PHASES = ("import", "build", "prepare", "first step", "step")


class Stopwatch:
    """Seconds of processor time and of the clock between its laps."""

    def __init__(self) -> None:
        self.laps: dict[str, tuple[float, float]] = {}
        self._last = time.process_time(), time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.process_time(), time.perf_counter()
        self.laps[name] = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now


def measure(network: str) -> dict[str, tuple[float, float]]:
    """Trains `network` for two steps: a depth, `resnet50`, or `keras` for that of Keras."""
    watch = Stopwatch()
    import keras
    import numpy as np

    import keras_resnet
    from keras_resnet.training.losses import make_loss
    from keras_resnet.training.optimizers.optimizers import make_optimizer
    from keras_resnet.training.recipes.parts import LossConfig, OptimizerConfig
    from keras_resnet.training.run.copy import training_copy

    watch.lap("import")
    if network == "keras":
        model = keras.applications.ResNet50(weights=None, classifier_activation=None)
    elif network == "resnet50":
        # The version whose strides are those of keras.applications.
        model = keras_resnet.ResNet50(version="v1")
    else:
        model = keras_resnet.cifar_resnet(int(network))
    watch.lap("build")
    if network == "keras":
        loss: Any = keras.losses.CategoricalCrossentropy(from_logits=True)
        optimizer: Any = keras.optimizers.SGD(0.1, momentum=0.9)
    else:
        model = training_copy(model)
        loss = make_loss(LossConfig(), None, single_unit=model.single_unit)
        optimizer = make_optimizer(OptimizerConfig(), 0.1)
    model.compile(optimizer, loss, jit_compile=False)
    optimizer.build(model.trainable_variables)
    watch.lap("prepare")
    batch, side = (16, 224) if network in ("keras", "resnet50") else (8, 32)
    images = np.random.default_rng(0).uniform(0, 255, (batch, side, side, 3)).astype(np.float32)
    labels = np.eye(batch, model.output_shape[-1], dtype=np.float32)
    for name in ("first step", "step"):
        model.train_on_batch(images, labels)
        watch.lap(name)
    return watch.laps


def in_own_process(network: str) -> dict[str, tuple[float, float]]:
    """The same in a new process."""
    command = [sys.executable, "-m", __spec__.name, "--only", network]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    laps: dict[str, tuple[float, float]] = json.loads(done.stdout.splitlines()[-1])
    return laps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--depths", nargs="*", default=["20", "56", "110"])
    parser.add_argument("--peer", action="store_true", help="ResNet-50 beside keras.applications")
    parser.add_argument("--only", help="a single measurement, in this process")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only)))
        return
    networks = [*options.depths, *(["resnet50", "keras"] if options.peer else [])]
    found: dict[str, list[dict[str, tuple[float, float]]]] = {name: [] for name in networks}
    for _ in range(options.rounds):
        for name in networks:
            found[name].append(in_own_process(name))
    print(f"{'processor / clock, seconds':27}" + "".join(f"{phase:>18}" for phase in PHASES))
    for name, rounds in found.items():
        cells = []
        for phase in PHASES:
            cpu, clock = (statistics.median(laps[phase][i] for laps in rounds) for i in (0, 1))
            cells.append(f"{f'{cpu:.2f} / {clock:.2f}':>18}")
        print(f"{name:27}" + "".join(cells))


if __name__ == "__main__":
    main()
