"""Runners and predictors under threads: every thread gets the answers to its own images."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet.export import export, load_runner
from keras_resnet.jobs.predictor import Predictor
from keras_resnet.support.quiet import quiet

THREADS = 8

ARTIFACTS = (
    "model.keras",
    "saved_model",
    "model-float32.tflite",
    "model-int8.tflite",
    "model.onnx",
)


@pytest.fixture(scope="module")
def artifacts(
    tiny_model: keras.Model, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    targets = ("saved_model", "tflite-float32", "tflite-int8", "onnx")
    export(tiny_model, folder, targets, calibration=images, timing=None)
    tiny_model.save(folder / "model.keras")
    return folder


def in_threads(function: Callable[[int], Any]) -> list[Any]:
    """What `function` gives for every thread's number; all begin at the same time."""
    gate = threading.Barrier(THREADS)

    def work(number: int) -> Any:
        gate.wait()
        return function(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, range(THREADS)))


@pytest.mark.parametrize("load", [load_runner, Predictor])
@pytest.mark.parametrize("name", ARTIFACTS)
def test_threads_get_their_own_answers(
    name: str, load: Callable[[Path], Any], artifacts: Path, images: np.ndarray
) -> None:
    expected = load(artifacts / name).predict(images)
    shared = load(artifacts / name)

    def largest_error(number: int) -> float:
        random, errors = np.random.default_rng(number), []
        for _ in range(12):
            chosen = random.integers(0, len(images), random.integers(1, 9))
            errors.append(np.abs(shared.predict(images[chosen]) - expected[chosen]).max())
        return float(max(errors))

    assert max(in_threads(largest_error)) < 1e-4


def test_threads_leave_standard_error_where_it_was() -> None:
    """Native chatter is hidden by moving the whole process's descriptor, as loading does."""
    before = os.fstat(2).st_ino

    def hide(_: int) -> None:
        for _ in range(50):
            with quiet():
                time.sleep(0)

    in_threads(hide)
    assert os.fstat(2).st_ino == before
