"""The main job: one whole run with the defaults, and what interrupts it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet.data import load_digits
from keras_resnet.export import load_runner
from keras_resnet.jobs.quickstart import TARGETS, quickstart
from keras_resnet.support.files import held

from ..conftest import Command, Run, Start, ended
from ..fork_server import ForkServer

RESULTS = {
    "model.keras",
    "report.json",
    "report.html",
    *(name for target in TARGETS for name in (target.file_name, *target.companions)),
}

Demo = tuple[subprocess.CompletedProcess[str], Path]


@pytest.fixture(params=["small", pytest.param("demo", marks=pytest.mark.full)])
def either(request: pytest.FixtureRequest) -> Demo:
    """The small run; among the longer proofs the demo itself, too."""
    run: Demo = request.getfixturevalue(request.param)
    return run


def test_run_succeeds_and_leaves_the_results_only(either: Demo) -> None:
    done, output = either
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert {path.name for path in output.iterdir()} == RESULTS
    for target in TARGETS:
        assert re.search(rf"^ *{target.name} .* ok *$", done.stdout, re.MULTILINE), target.name
    assert f"Report: {output / 'report.html'} and {output / 'report.json'}" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"Next, try: \S*keras-resnet evaluate \S+ --data digits", last)
    assert str(output / "model-int8.tflite") in last


def test_digits_are_learnt(either: Demo) -> None:
    _, output = either
    report = json.loads((output / "report.json").read_text())
    model = keras.saving.load_model(output / "model.keras")
    assert report["accuracy"] >= (0.985 if model.input_shape[1] == 32 else 0.9)
    _, test_data = load_digits(model.input_shape[1])
    accuracy = (model.predict(test_data.images, verbose=0).argmax(-1) == test_data.labels).mean()
    assert accuracy == pytest.approx(report["accuracy"])


def test_report_has_every_artifact_within_its_limits(either: Demo) -> None:
    _, output = either
    report = json.loads((output / "report.json").read_text())
    assert [artifact["target"] for artifact in report["artifacts"]] == [
        "keras",
        *(target.name for target in TARGETS),
    ]
    assert report["failures"] == []
    for artifact in report["artifacts"]:
        comparison = artifact["comparison"]
        assert comparison["images"] == 360
        assert comparison["agreement"] >= 0.98
        assert comparison["accuracy"] >= report["accuracy"] - 0.01
        if artifact["target"] in ("saved_model", "tflite-float32", "onnx"):
            assert comparison["max_error"] <= 1e-4
            assert comparison["agreement"] == 1.0
        elif artifact["target"] == "tflite-float16":
            assert comparison["max_error"] <= 1e-2
    recipe = report["recipe"]
    steps = -(-1437 // recipe["batch_size"])
    assert recipe["unit"] == "epochs"
    assert report["optimizer_steps"] == recipe["duration"] * steps
    assert len(report["history"]["loss"]) == recipe["duration"]


@pytest.mark.full
def test_int8_runs_on_its_own(demo: Demo) -> None:
    _, test_data = load_digits()
    probabilities = load_runner(demo[1] / "model-int8.tflite").predict(test_data.images)
    assert (probabilities.argmax(-1) == test_data.labels).mean() >= 0.97


def test_page_is_self_contained_and_complete(either: Demo) -> None:
    text = (either[1] / "report.html").read_text()

    class Page(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.sources: list[str] = []
            self.links: list[str] = []
            self.tags: list[str] = []

        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            self.tags.append(tag)
            self.sources += [value or "" for name, value in attributes if name == "src"]
            self.links += [value or "" for name, value in attributes if name == "href"]

    page = Page()
    page.feed(text)
    assert page.tags.count("img") == 2
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert {"model.keras", "report.json", "model-int8.tflite"} <= {*page.links}
    for name in page.links:
        assert (either[1] / name).exists(), name
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert page.tags.count("tr") == 2 + len(TARGETS)
    for heading in ("Artifacts", "Training", "Predictions on held-out digits"):
        assert f"<h2>{heading}</h2>" in text


def test_results_are_not_overwritten_unasked(small: Demo, command_in_process: Command) -> None:
    _, output = small
    before = (output / "report.json").read_bytes()
    done = command_in_process("quickstart", "--output", str(output))
    assert done.returncode == 2
    assert "Expected an output directory without results. Received" in done.stderr
    assert "--overwrite" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (output / "report.json").read_bytes() == before


#: The command with a network, and digits, that are trained in a second, and without timing. In the
#: step of the export that HOLD names, it waits for a signal.
SMALL = """
import os, time
from keras_resnet import ResNetConfig, build
from keras_resnet.jobs import quickstart
from keras_resnet.cli import main
digits = quickstart.load_digits
quickstart.load_digits = lambda: digits(16)
export = quickstart.export

def export_and_hold(*arguments, progress, **keywords):
    def held(step, done):
        progress(step, done)
        if step == os.environ.get("HOLD"):
            time.sleep(100)
    return export(*arguments, progress=held, timing=None, **keywords)

quickstart.export = export_and_hold
config = ResNetConfig("basic", (1, 1), (8, 16), stem="cifar")
quickstart.ResNet20 = lambda classes: build(
    config, input_shape=(16, 16, 3), classes=classes, name="resnet20"
)
main()
"""


@pytest.fixture(scope="module")
def small(
    fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A whole run of the small quickstart, and its output directory."""
    folder = tmp_path_factory.mktemp("small")
    output = folder / "demo-output"
    arguments = ["-c", SMALL, "quickstart", "--output", str(output), "--epochs", "12"]
    process = fork_server.start(arguments, folder / "printed", folder / "errors")
    return ended(process, 300), output


@pytest.mark.parametrize(
    ("at", "number", "code"),
    [
        ("Training", signal.SIGINT, 130),
        pytest.param("tflite-int8", signal.SIGINT, 130, marks=pytest.mark.full),
        pytest.param("onnx", signal.SIGTERM, 143, marks=pytest.mark.full),
        pytest.param("tflite-float16", signal.SIGKILL, -9, marks=pytest.mark.full),
    ],
)
def test_interrupted_run_leaves_earlier_results_and_nothing_half_written(
    at: str, number: signal.Signals, code: int, tmp_path: Path, start_program: Start
) -> None:
    for name in RESULTS - {"saved_model"}:
        (tmp_path / name).write_text("earlier")
    arguments = ("quickstart", "--output", str(tmp_path), "--epochs", "1", "--overwrite")
    process = start_program("-c", SMALL, *arguments, HOLD=at)
    process.wait_for_output(at)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code
    for name in RESULTS - {"saved_model"}:
        assert (tmp_path / name).read_text() == "earlier", name
    others = {path.name for path in tmp_path.iterdir()} - RESULTS
    if number == signal.SIGKILL:
        # Nobody can clean up after that, but the next one who writes there.
        others.remove(".lock")
        assert [name.startswith(".partial-") for name in others] == [True]
        with held(tmp_path):
            pass
        assert {path.name for path in tmp_path.iterdir()} <= RESULTS
        return
    assert others == set()
    assert "Traceback" not in errors
    assert errors.strip().endswith("Earlier results are untouched.")
    assert errors.count("\n") == 1


@pytest.mark.full
def test_killed_anywhere_results_are_the_old_or_the_new_ones(
    small: Demo, run_python: Run, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(small[1], output)
    code = f"""
from pathlib import Path
from keras_resnet.jobs import quickstart
from tests.killing import EveryKill
quickstart.publish = EveryKill(Path({str(tmp_path)!r}))
"""
    words = ("--output", str(output), "--epochs", "12", "--seed", "1", "--overwrite")
    done = run_python(code + SMALL, "quickstart", *words)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in output.iterdir()} == RESULTS
    assert json.loads((output / "report.json").read_text())["seed"] == 1
    assert len(list(tmp_path.iterdir())) == 2, "copies of the folder"


@pytest.mark.full
def test_disagreeing_run_fails_and_is_kept_apart(run_python: Run, tmp_path: Path) -> None:
    """In a process of its own, as the limits are changed under it."""
    (tmp_path / "model.onnx").write_text("earlier")
    code = """
import dataclasses
from keras_resnet import export
limits = export.Limits(max_error=-1.0)
export.TARGETS["tflite-int8"] = dataclasses.replace(export.TARGETS["tflite-int8"], limits=limits)
"""
    arguments = ("--output", str(tmp_path), "--epochs", "1", "--seed", "7", "--overwrite")
    done = run_python(code + SMALL, "quickstart", *arguments)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("keras-resnet: ")
    assert "tflite-int8 disagrees with Keras: largest probability error" in last
    assert "Traceback" not in done.stderr
    assert (tmp_path / "model.onnx").read_text() == "earlier"
    kept = {path.name for path in (tmp_path / "failed-run").iterdir()}
    assert "model-int8.tflite" not in kept
    assert {"model.keras", "report.json", "report.html", "model-float32.tflite"} <= kept
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "failed-run"}
    assert f"The run is kept in {tmp_path / 'failed-run'}" in done.stdout
    report = json.loads((tmp_path / "failed-run" / "report.json").read_text())
    assert (report["seed"], report["recipe"]["duration"], report["optimizer_steps"]) == (7, 1, 45)
    assert any("tflite-int8" in failure for failure in report["failures"])


def test_bad_epochs_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected `epochs` to be at least 1. Received: 0"):
        quickstart(tmp_path / "new", epochs=0)
    assert not (tmp_path / "new").exists()


def test_calibration_is_balanced_and_from_the_training_split() -> None:
    from keras_resnet.jobs.quickstart import _calibration

    train_data, test_data = load_digits()
    images = _calibration(train_data)
    labels = {
        image.tobytes(): label
        for image, label in zip(train_data.images, train_data.labels, strict=True)
    }
    assert np.bincount([labels[image.tobytes()] for image in images]).tolist() == [20] * 10
    held_out = {image.tobytes() for image in test_data.images}
    assert not [image for image in images if image.tobytes() in held_out]


@pytest.mark.full
def test_same_seed_gives_the_same_files_twice(tmp_path: Path, run_python: Run) -> None:
    # One target: exports are not the question.
    code = """
from keras_resnet.jobs import quickstart
others = [target for target in quickstart.TARGETS if target.name != "tflite-float32"]
gone = {name for target in others for name in (target.file_name, *target.companions)}
quickstart.TARGETS = tuple(target for target in quickstart.TARGETS if target not in others)
quickstart._RESULTS = [name for name in quickstart._RESULTS if name not in gone]
"""
    weights = []
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        arguments = ("--output", str(tmp_path / name), "--epochs", "3", "--seed", seed)
        done = run_python(code + SMALL, "quickstart", *arguments)
        assert done.returncode == 0, done.stderr
        weights.append(keras.saving.load_model(tmp_path / name / "model.keras").get_weights())
    for first, second in zip(weights[0], weights[1], strict=True):
        np.testing.assert_array_equal(first, second)
    assert any(
        (first != second).any() for first, second in zip(weights[0], weights[2], strict=True)
    )


@pytest.mark.full
def test_full_disk_ends_with_one_sentence_and_earlier_results(tmp_path: Path, command: str) -> None:
    """On a real disk of 1.5 MB, where the platform lets a process mount one for itself."""
    script = f"""
mount -t tmpfs -o size=1500k tmpfs {tmp_path} || exit 77
echo earlier > {tmp_path}/model.onnx
{command} quickstart --output {tmp_path} --epochs 1 --overwrite
code=$?
cat {tmp_path}/model.onnx
ls -A {tmp_path}
exit $code
"""
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode in (1, 77) and "model.onnx" not in done.stdout:
        pytest.skip(f"no disk could be mounted: {done.stderr}")
    assert done.returncode == 1
    # A writer that gives up early (TensorFlow's) leaves room, so that either disk may be meant.
    assert re.fullmatch(
        rf"keras-resnet: The disk of {tmp_path} \(mounted at {tmp_path}, .* free of 1.54 MB\)"
        r"( or that of temporary files, .*,)? is full. Free some space and run again, or .*\.",
        done.stderr.strip().splitlines()[-1],
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-2:] == ["earlier", "model.onnx"]
