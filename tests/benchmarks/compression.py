"""Compress a network in four ways, and measure every artifact on the whole validation part.

    python -m tests.benchmarks.compression digits --output DIR
    python -m tests.benchmarks.compression folder:CIFAR10 --output DIR
    python -m tests.benchmarks.compression digits --output DIR --ways qat prune --engine tfmot

The network is the ResNet-20 that comes with the package, for CIFAR-10, or one that is first trained
on the digits. The script fails if compression costs more accuracy than allowed, in percentage
points: 0.3 for int8 after quantization-aware training, and no more than int8 without it; 1 in float
for 80 % of zeros, and for 16 distinct weights per layer. It also fails if a file lacks these zeros
and shared weights. Run the same command again to resume.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_resnet
from keras_resnet.compression import CompressionOptions
from keras_resnet.data import DataConfig, evaluation_batches, load_data
from keras_resnet.export import load_runner
from keras_resnet.export.tflite.inspect import kernels
from keras_resnet.jobs.compress import MODEL_FILE, compress
from keras_resnet.training import Recipe, find_recipe, train

#: Largest allowed loss of accuracy relative to the float network, in percentage points.
QAT_POINTS, FLOAT_POINTS = 0.3, 1.0

WAYS: dict[str, tuple[Any, ...]] = {
    "qat": ("qat",),
    "prune": ("prune",),
    "cluster": ("cluster",),
    "all": ("prune", "cluster", "qat"),
}


@dataclasses.dataclass(frozen=True)
class Work:
    """Network, the recipe that it was trained by, and the training of each way.

    `training` has the epochs of each method and the factor of the learning rate.
    """

    model: keras.Model
    recipe: Recipe
    training: Mapping[str, tuple[float, float]]


def digits(folder: Path) -> Work:
    recipe = find_recipe("quick-digits")
    model = keras_resnet.ResNet20(input_shape=(32, 32, 3))
    train(model, "digits", recipe, folder / "network", seed=0)
    return Work(model, recipe, dict.fromkeys(WAYS, (4, 0.1)))


def cifar10(_: Path) -> Work:
    model = keras_resnet.ResNet20(weights="cifar10")
    short = (0.5, 0.05)
    training = {"qat": short, "prune": (2, 0.25), "cluster": short, "all": short}
    return Work(model, find_recipe("quick-cifar10"), training)


def measure(data: str, output: Path, ways: list[str], engine: Any) -> list[str]:
    """Print accuracies, and return phrases about expectations that are not met."""
    output.mkdir(parents=True, exist_ok=True)
    work = (digits if data == "digits" else cifar10)(output)
    images, labels = validation_images(data, work.model.input_shape[1])

    def accuracy(path: Path) -> float:
        return 100 * float(np.mean(load_runner(path).predict(images).argmax(-1) == labels))

    work.model.save(output / "float.keras")
    full = accuracy(output / "float.keras")
    print(f"{len(images):,} validation images; in float {full:.2f} %", flush=True)
    wrong = []
    for way in ways:
        folder = output / (way if engine == "native" else f"{way}-{engine}")
        epochs, rate = work.training[way]
        settle = {"settle": epochs / 5} if "qat" in WAYS[way] else {}
        options = CompressionOptions(WAYS[way], epochs=epochs, rate=rate, engine=engine, **settle)
        every = {"checkpoint_every": 100} if engine == "native" else {}
        started = time.monotonic()
        compress(work.model, data, folder, options, recipe=work.recipe, timing=None, **every)
        seconds = time.monotonic() - started
        before, after = folder / "before", folder / "after"
        found = {
            "float after": accuracy(folder / MODEL_FILE),
            "int8 before": accuracy(before / "model-int8.tflite"),
            "int8 after": accuracy(after / "model-int8.tflite"),
        }
        if "qat" in WAYS[way]:
            found["ONNX int8 before"] = accuracy(before / "model-int8.onnx")
            found["ONNX int8 after"] = accuracy(after / "model-int8.onnx")
        bars = {
            "qat": {
                f"{name} after": max(full - QAT_POINTS, found.get(f"{name} before", 0))
                for name in ("int8", "ONNX int8")
            },
            "prune": {"float after": full - FLOAT_POINTS},
            "cluster": {"float after": full - FLOAT_POINTS},
        }.get(way, {})
        shown = ", ".join(f"{name} {value:.2f} %" for name, value in found.items())
        facts = in_file(after / "model-int8.tflite")
        print(f"{engine} {way}: {shown}; {facts}; {seconds:.0f} s", flush=True)
        wrong += [
            f"{way}: {name} of at least {bar:.2f} %, got {found[name]:.2f} %"
            for name, bar in bars.items()
            if found[name] < bar - 1e-9
        ]
        if not has_properties(after / "model-int8.tflite", options):
            wrong.append(f"{way}: zeros and shared weights in every layer of the int8 file")
    return wrong


def in_file(path: Path) -> str:
    facts = kernels(path)
    zeros = sum(fact.zeros for fact in facts) / sum(fact.weights for fact in facts)
    distinct = max(fact.distinct for fact in facts)
    return f"in the int8 file {zeros:.1%} zeros, at most {distinct} distinct weights per layer"


def has_properties(path: Path, options: CompressionOptions) -> bool:
    # The first convolution is never pruned; the number of zeros is rounded.
    first, *others = kernels(path)
    least = options.sparsity if "prune" in options.methods else 0
    most = options.clusters if "cluster" in options.methods else 256
    return all(fact.zeros >= least * fact.weights - 1 for fact in others) and all(
        fact.distinct <= most for fact in (first, *others)
    )


def validation_images(data: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    config = DataConfig(data, size=size)
    batches = evaluation_batches(load_data(config)[1], config)
    parts = [(images, labels, weights) for images, labels, weights in batches.as_numpy_iterator()]
    images, labels, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    return images[weights > 0], labels[weights > 0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="digits, or a data source with the images of CIFAR-10")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--engine", choices=("native", "tfmot"), default="native")
    arguments = parser.parse_args()
    wrong = measure(arguments.data, arguments.output, arguments.ways, arguments.engine)
    for line in wrong:
        print(f"Expected {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
