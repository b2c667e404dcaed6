"""`keras-resnet export`, `verify` and `benchmark`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnet import set_class_names
from keras_resnet.export import load_runner

from ..conftest import Command

NAMES = [f"kind {index}" for index in range(10)]


@pytest.fixture(scope="module")
def files(
    tiny_model: keras.Model, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A saved model, names of its classes, and pictures in folders by what it thinks they are."""
    root = tmp_path_factory.mktemp("files")
    copy = keras.models.clone_model(tiny_model)
    copy.set_weights(tiny_model.get_weights())
    set_class_names(copy, [f"class {index}" for index in range(10)])
    copy.save(root / "model.keras")
    (root / "names.txt").write_text("\n".join(NAMES) + "\n")
    classes = tiny_model.predict(images, verbose=0).argmax(-1)
    for kind in np.unique(classes):
        for number, index in enumerate(np.flatnonzero(classes == kind)):
            folder = root / "data" / ("train" if number % 4 else "validation") / NAMES[kind]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[index]).save(folder / f"{index}.png")
    return root


@pytest.mark.full
def test_export_verify_and_benchmark(
    files: Path, command_in_process: Command, tmp_path: Path
) -> None:
    output, data = tmp_path / "out", f"folder:{files / 'data'}"
    arguments = [
        "export", str(files / "model.keras"), "--output", str(output), "--calibration", data,
        "--targets", "tflite-int8,onnx", "--labels", str(files / "names.txt"), "--seconds", "0",
    ]  # fmt: skip
    done = command_in_process(*arguments)
    assert done.returncode == 0, done.stderr
    assert "Exporting: tflite-int8 (0% done)" in done.stdout
    assert f"Report: {output / 'export.html'}" in done.stdout
    report = json.loads((output / "export.json").read_text())
    rows = {row["target"]: row for row in report["artifacts"]}
    assert list(rows) == ["keras", "tflite-int8", "onnx"]
    # The pictures are in the folders of what the network thinks they are.
    assert rows["onnx"]["comparison"]["accuracy"] == 1.0
    assert report["calibration"]["count"] + report["verification"]["count"] == 40
    assert load_runner(output / "model.onnx").info.class_names == tuple(NAMES)

    # The same command again has nothing to write.
    before = (output / "model-int8.tflite").stat().st_mtime_ns
    again = command_in_process(*arguments, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["artifacts"][1]["target"] == "tflite-int8"
    assert (output / "model-int8.tflite").stat().st_mtime_ns == before

    against = ("--against", str(files / "model.keras"))
    artifact = str(output / "model-int8.tflite")
    # The saved model has other names for its classes.
    done = command_in_process("verify", artifact, *against, "--data", data)
    assert done.returncode == 2
    assert "Expected images of the model's classes" in done.stderr
    looser = ("--max-error", "0.3", "--min-agreement", "0.8")
    done = command_in_process("verify", artifact, *against, *looser)
    assert done.returncode == 0, done.stdout
    assert "agrees. Not measured, as there are no labels: accuracy." in done.stdout
    assert "16 images of noise: largest error" in done.stdout
    assert "not how accurate an int8 artifact is" in done.stdout
    # What is asked for and cannot be measured is no agreement.
    done = command_in_process("verify", artifact, *against, *looser, "--max-drop", "0.1")
    assert done.returncode == 1
    assert "accuracy not measured: there are no labels" in done.stdout
    done = command_in_process("verify", artifact, *against, "--max-error", "1e-9", "--json")
    assert done.returncode == 1
    assert "largest probability error" in json.loads(done.stdout)["disagreements"][0]
    assert json.loads(done.stdout)["images"] == "noise"

    onnx = str(output / "model.onnx")
    options = ("--batch", "1,2", "--threads", "1", "--seconds", "0.02", "--json")
    done = command_in_process("benchmark", artifact, onnx, *options)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["measurements"]
    assert [(row["artifact"], row["batch_size"]) for row in measured] == [
        (path, batch) for path in (artifact, onnx) for batch in (1, 2)
    ]
    assert measured[0]["ratio"] == 1.0
    # Whoever waits for a page in place of a file has the others timed.
    page = tmp_path / "page.onnx"
    page.write_text("<!DOCTYPE html><html></html>")
    options = ("--seconds", "0.1", "--log-every", "0.1")
    done = command_in_process("benchmark", onnx, str(page), *options)
    assert done.returncode == 1
    assert re.search(r"model.onnx .* 1.000 *$", done.stdout, re.MULTILINE)
    assert re.search(r"page.onnx .*not run", done.stdout)
    assert "Expected an artifact that can be read. Received: " in done.stdout
    assert re.search(r"^Timing: .*, 0:00:0\d so far$", done.stdout, re.MULTILINE)
    assert command_in_process("benchmark", str(page)).returncode == 2
    done = command_in_process("verify", onnx, *against, "--log-every", "0.1")
    assert done.returncode == 0, done.stderr
    assert "Comparing: starting, 0:00:00 so far" in done.stdout


def test_without_targets_those_of_the_function_are_exported(
    files: Path, command_in_process: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(model: keras.Model, directory: Path, targets: Any, **keywords: Any) -> None:
        raise ValueError(f"asked for {targets}")

    monkeypatch.setattr("keras_resnet.export.export", stop)
    done = command_in_process("export", str(files / "model.keras"), "--output", str(tmp_path / "x"))
    assert done.stderr == "keras-resnet: asked for None.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["export", "resnet21", "--output", "x"], "Expected a network of `keras-resnet list`"),
        (
            ["export", "resnet20", "--output", "x", "--targets", "tflite"],
            "mean tflite-float32, ",
        ),
        (["export", "resnet20", "--output", "x", "--batch", "1,a"], "separated by commas"),
        (
            ["export", "ResNet-20", "--output", "x", "--net", "width=-1"],
            "to be more than 0",
        ),
        (["export", "resnet20", "--output", "x", "--version", "3"], "--saved-model-version 3"),
        (["export", "a.keras", "--output", "x", "--version", "v1"], "--net version=v1"),
        (["export", "resnet20", "--output", "x", "--data", "folder:none"], "an existing path"),
        (
            ["export", "a.keras", "--output", "x", "--weights", "imagenet"],
            "a model file without `--weights`",
        ),
        (["export", "a.keras", "--output", "x"], "path of an existing `.keras` or"),
        (["verify", "a.onnx", "--against", "b.keras"], "Expected an existing `.keras`, `.h5`"),
        (["benchmark", "a.onnx"], "Expected an existing `.keras`, `.h5`"),
        (["benchmark", "a.onnx", "--threads", "-1"], "integers of at least 0"),
    ],
)
def test_impossible_requests_are_one_sentence(
    arguments: list[str], sentence: str, command_in_process: Command
) -> None:
    done = command_in_process(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
