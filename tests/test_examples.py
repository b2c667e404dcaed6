"""Every example runs, and the README shows the examples as they are."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from keras_resnet import ResNet18, save_torch_state_dict
from keras_resnet.weights.fetch import cache_path
from keras_resnet.weights.registry import find_weights

from .conftest import ROOT, Command

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

PRINTED = {
    "build.py": "params=23528522",
    "data_pipeline.py": "val_accuracy",
    "detection.py": "mAP at an IoU of 0.5:",
    "features.py": "'C5': (None, 16, 16, 2048)",
    "fine_tune.py": "of the held-out digits are right",
    "migrating_from_keras_applications.py": "feature maps: (1, 4, 4, 1024)",
    "keras_hub_heads.py": "DeepLabV3ImageSegmenter: reloaded, it puts out the same: True",
    "mobile_export.py": "agreement=",
    "multi_label.py": "guessing the mean: 0.1",
    "pretrained.py": "%",
    "segmentation.py": "60 of 60 weights are equal",
    "tf_serving.py": "should be",
    "train.py": "in runs/digits/best.keras",
    "torch_weights.py": "('predictions/kernel', 'predictions/bias')",
}

#: Examples that the README links to and does not show.
LINKED = {
    *("detection.py", "keras_hub_heads.py", "migrating_from_keras_applications.py"),
    *("multi_label.py", "segmentation.py"),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def with_demo_output(demo: tuple[object, Path], tmp_path: Path) -> Path:
    """A folder in which `make demo` has been run."""
    (tmp_path / "demo-output").symlink_to(demo[1])
    return tmp_path


@pytest.fixture
def with_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """A cache in which the weights of ResNet-18 lie already; random ones, in timm's file."""
    if path.name == "pretrained.py":
        monkeypatch.setenv("KERAS_RESNET_HOME", str(tmp_path / "cache"))
        save_torch_state_dict(ResNet18(), cache_path(find_weights("imagenet", "resnet18")))


@pytest.fixture
def with_files(demo: tuple[object, Path], tmp_path: Path) -> None:
    """What the commands of the README are given."""
    (tmp_path / "model.keras").symlink_to(demo[1] / "model.keras")
    (tmp_path / "demo-output").symlink_to(demo[1])
    (tmp_path / "checkpoint.pth").symlink_to(ROOT / "tests" / "fixtures" / "torch_zip.pth")
    for name in ("photos/a.png", "more/b.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (40, 30), (200, 100, 50)).save(tmp_path / name)
    for kind in ("daisy", "rose"):
        (tmp_path / "flowers" / kind).mkdir(parents=True)
        for number in range(12):
            colour = (20 * number, 100 if kind == "rose" else 0, 50)
            Image.new("RGB", (400, 300), colour).save(tmp_path / f"flowers/{kind}/{number}.jpg")


def check_heads(printed: str) -> None:
    """The bars that the docstring of multi_label.py states; on one machine 1.0, 1.0 and 0.02."""
    lines = dict(re.findall(r"^(labels|values): ({.*})$", printed, re.MULTILINE))
    labels, values = (ast.literal_eval(lines[head]) for head in ("labels", "values"))
    assert labels["binary_accuracy"] > 0.95
    assert labels["auc"] > 0.99
    assert values["mean_absolute_error"] < 0.06


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
@pytest.mark.usefixtures("with_downloads")
def test_example_runs_and_prints_what_it_promises(path: Path, with_demo_output: Path) -> None:
    assert path.read_text().count("\n") <= 120
    if path.name == "keras_hub_heads.py":
        pytest.importorskip("keras_hub", reason="keras-hub is no dependency of this project")
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=with_demo_output,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert PRINTED[path.name] in done.stdout
    if path.name == "multi_label.py":
        check_heads(done.stdout)
    elif "should be" in done.stdout:
        predicted, true = done.stdout.splitlines()[-1].split(" should be ")
        assert predicted == true
    if path.name == "fine_tune.py":
        accuracy = re.search(r"([\d.]+)% of the held-out", done.stdout)
        assert accuracy is not None
        assert float(accuracy[1]) > 90
    if path.name == "detection.py":
        losses = [float(found) for found in re.findall(r"loss: ([\d.]+)", done.stdout)]
        assert losses == sorted(losses, reverse=True)
        assert float(done.stdout.split()[-1]) > 0.85
    if path.name == "segmentation.py":
        before, *after = map(float, re.findall(r"mIoU ([\d.]+)", done.stdout))
        assert before < 0.3
        # Keras, TFLite in float and in int8, ONNX.
        assert len(after) == 4
        assert min(after) > 0.75
        apart = re.search(r"(\S+) apart where both are", done.stdout)
        assert apart is not None
        assert float(apart[1]) < 1e-5


def test_degradation_is_drawn_from_runs(tmp_path: Path) -> None:
    script = ROOT / "examples" / "degradation" / "degradation.py"
    assert script.read_text().count("\n") <= 120
    command = [sys.executable, str(script), "digits", "--epochs", "1", "--networks", "plainnet20"]
    for _ in range(2):  # The second time, the run is found to be finished.
        done = subprocess.run(
            [*command, "--output", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        name, values = done.stdout.splitlines()[-1].split(": ")
        assert name == "plainnet20"
        errors = re.fullmatch(r"training error ([\d.]+) %, validation error ([\d.]+) %", values)
        assert errors is not None
        header, row = (tmp_path / "curves.csv").read_text().splitlines()
        assert header == "network,step,training_error,validation_error"
        # 1,437 digits are twelve batches.
        assert row.split(",") == ["plainnet20", "12", *errors.groups()]
        history = (tmp_path / "plainnet20" / "history.csv").read_text().splitlines()
        figures = dict(zip(history[0].split(","), history[1].split(","), strict=True))
        assert float(row.split(",")[2]) == pytest.approx(
            100 * (1 - float(figures["accuracy"])), abs=0.01
        )
    assert Image.open(tmp_path / "curves.png").size == (1000, 450)


def test_readme_shows_every_example_as_it_is() -> None:
    shown = blocks("python")
    for path in EXAMPLES:
        if path.name in LINKED:
            assert f"](examples/{path.name})" in README, path.name
            continue
        code = path.read_text().split('"""\n', maxsplit=1)[1].lstrip("\n")
        assert code in shown, path.name
    assert len(shown) == len(EXAMPLES) - len(LINKED)


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()])
@pytest.mark.usefixtures("with_files")
def test_commands_of_the_readme_run(
    line: str,
    keras_resnet_command: Command,
    command_in_process: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        # The test suite cannot run itself; that these targets exist is all it can check here.
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    if words[0] == "pip":
        assert words[1:] == ["install", "keras-resnets[export]"]
        return
    assert words[0] == "keras-resnet"
    if words[1] == "quickstart":
        words += ["--help"]
    monkeypatch.chdir(tmp_path)
    # Training makes TensorFlow deterministic for good, and starts processes.
    alone = words[1] in ("train", "launch", "finetune")
    done = (keras_resnet_command if alone else command_in_process)(*words[1:])
    assert done.returncode == 0, done.stderr


def test_output_in_the_readme_has_the_rows_that_are_printed(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    (shown,) = [block for block in blocks("text") if "artifact" in block]
    for target in ("keras", "saved_model", "tflite-int8", "onnx"):
        assert re.search(rf"^ *{target} .* ok *$", shown, re.MULTILINE), target

    def skeleton(text: str) -> list[str]:
        """The lines without their figures, which differ from machine to machine."""
        lines = [
            " ".join(line.split())
            for line in text.splitlines()
            if line.strip() and "Report:" not in line
        ]
        # The rule is as long as the figures below it are wide.
        return [re.sub(r"[\d.,]+(e[+-]\d+)?", "#", re.sub("─+", "─", line)) for line in lines]

    printed = skeleton(demo[0].stdout)
    assert [line for line in skeleton(shown) if line not in printed] == []
