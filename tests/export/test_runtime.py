from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet.export import load_runner
from keras_resnet.export.benchmark import median_latencies
from keras_resnet.export.runtime import KerasRunner, Runner


def test_keras_file_runs_like_the_model(tiny_model: keras.Model, images: np.ndarray, tmp_path: Path) -> None:
    tiny_model.save(tmp_path / "model.keras")
    runner = load_runner(str(tmp_path / "model.keras"))
    np.testing.assert_allclose(runner.predict(images, batch_size=7), tiny_model.predict(images, verbose=0), atol=1e-5)


def test_images_are_checked(tiny_model: keras.Model, images: np.ndarray) -> None:
    runner = KerasRunner(tiny_model)
    with pytest.raises(ValueError, match=r"Expected images of shape \(n, 32, 32, 3\). Received: \(32, 32, 3\)"):
        runner.predict(images[0])
    with pytest.raises(ValueError, match=r"Received: pixels in \[-1, "):
        runner.predict(images / 127.5 - 1)


@pytest.mark.parametrize("name", ["missing.tflite", "missing.keras", "missing.onnx", "folder", "file.txt"])
def test_what_is_no_artifact_is_refused_with_its_path(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(ValueError, match=f"Expected an existing .*Received: .*{name}"):
        load_runner(tmp_path / name)


def test_latency_is_the_median_of_turns_after_a_warm_up() -> None:
    turns: list[str] = []

    class Counting(Runner):
        input_shape = (None, 2, 2, 3)
        output = "probabilities"

        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, batch: np.ndarray) -> np.ndarray:
            assert batch.shape == (1, 2, 2, 3)
            turns.append(self.name)
            return batch

    latencies = median_latencies({"a": Counting("a"), "b": Counting("b")}, np.zeros((2, 2, 3)), rounds=5)
    assert turns == ["a", "b"] * 8
    assert latencies.keys() == {"a", "b"}
    assert all(0 < latency < 100 for latency in latencies.values())
