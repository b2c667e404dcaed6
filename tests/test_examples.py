"""Every example runs and prints what it promises."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from keras_resnet import ResNet18, save_torch_state_dict
from keras_resnet.weights.fetch import cache_path
from keras_resnet.weights.registry import find_weights

from .conftest import ROOT, Start, ended

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def run(start_program: Start, tmp_path: Path) -> Callable[..., str]:
    """Runs a script in an empty folder and returns what it prints."""

    def run(script: Path, *arguments: str) -> str:
        assert script.read_text().count("\n") <= 120
        done = ended(start_program(str(script), *arguments, folder=tmp_path), 600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def check_build(printed: str) -> None:
    shape, cost = printed.splitlines()
    assert shape == "(2, 10)"
    assert re.fullmatch(
        r"Complexity\(params=23528522, bn_statistics=53120, macs=4087156736, activations=\d+, "
        r"depth=50\)",
        cost,
    )


def check_data_pipeline(printed: str) -> None:
    lines = re.findall(
        r"^45/45 .* accuracy: ([\d.]+) .* val_accuracy: ([\d.]+)", printed, re.MULTILINE
    )
    assert len(lines) == 3
    accuracy, validation = map(float, lines[-1])
    # After so few steps at that rate, batch normalisation's statistics lag behind.
    assert accuracy > 0.8
    assert validation > 0.3


def check_detection(printed: str) -> None:
    losses = [float(found) for found in re.findall(r"loss: ([\d.]+)", printed)]
    assert losses == sorted(losses, reverse=True)
    before, after = (float(found) for found in re.findall(r"mAP at an IoU of 0.5: (\S+)", printed))
    assert before < 0.1
    assert after > 0.85


def check_fine_tuning(printed: str) -> None:
    accuracy = re.search(r"([\d.]+)% of the held-out digits are right", printed)
    assert accuracy is not None
    assert float(accuracy[1]) > 90


def check_features(printed: str) -> None:
    assert ast.literal_eval(printed) == {
        "C2": (None, 64, 64, 256),
        "C3": (None, 32, 32, 512),
        "C4": (None, 16, 16, 1024),
        "C5": (None, 16, 16, 2048),
    }


def check_keras_hub_detection(printed: str) -> None:
    losses = [float(found) for found in re.findall(r" loss: ([\d.]+)", printed)]
    assert losses[-1] < losses[0]
    before, after = (float(found) for found in re.findall(r"mAP at an IoU of 0.5: (\S+)", printed))
    assert before < 0.1
    assert after > 0.5
    assert "same outputs after reloading: True" in printed


def check_keras_hub_segmentation(printed: str) -> None:
    losses = [float(found) for found in re.findall(r" loss: ([\d.]+)", printed)]
    assert losses[-1] < losses[0]
    before, *after = map(float, re.findall(r"mIoU ([\d.]+)", printed))
    assert before < 0.3
    # Keras, TFLite in float and in int8, ONNX.
    assert len(after) == 4
    assert min(after) > 0.75
    assert "same outputs after reloading: True" in printed


def check_heads(printed: str) -> None:
    """The bars that the docstring of multi_label.py states; on one machine 1.0, 1.0 and 0.02."""
    lines = dict(re.findall(r"^(labels|values): ({.*})$", printed, re.MULTILINE))
    labels, values = (ast.literal_eval(lines[head]) for head in ("labels", "values"))
    assert labels["binary_accuracy"] > 0.95
    assert labels["auc"] > 0.99
    assert values["mean_absolute_error"] < 0.06
    assert "guessing the mean: 0.1" in printed


def check_migration(printed: str) -> None:
    """Its asserts say the rest."""
    assert "feature maps: (1, 4, 4, 1024)" in printed


def check_mobile_export(printed: str) -> None:
    *_, comparison, answer = printed.splitlines()
    values = dict(re.findall(r"(\w+)=([\d.e-]+)", comparison))
    assert int(values["images"]) == 360
    assert float(values["agreement"]) > 0.98
    assert float(values["accuracy"]) > 0.97
    assert re.fullmatch(r"(\d) should be \1", answer)


def check_paper_tables(printed: str) -> None:
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80
    rows = {re.split(r"  +", line)[0]: re.split(r"  +", line)[1:] for line in lines[::-1]}
    # From below: the first table of three stays.
    assert rows["ResNet-50"] == ["50", "50", "25.557", "–", "3.858", "3.8", "v1 Table 1"]
    assert rows["ResNet-1202"] == ["1202", "1202", "19.421", "19.4", "2.829", "–", "v1 Table 6"]
    assert rows["ResNet-20, packaged"] == ["CIFAR-10 JPEG", "19.34", "1.12", "measured", "card"]
    assert "28x512 14x1024 7x2048  112-56-28-14-7" in printed
    assert "- ResNet-101's top-5 error: 6.0 or 6.07? 6.05" in printed
    assert rows["ResNet-1001, original"][:2] == ["CIFAR-10", "7.61"]
    assert "- Parameters of shortcuts: none? None of option A." in printed
    assert "ResNet-18 v1.5" not in printed


@pytest.mark.full
def test_paper_tables_in_other_formats(run: Callable[..., str]) -> None:
    script = ROOT / "examples" / "paper_tables.py"
    found = json.loads(run(script, "--json"))
    for row in found["networks"]:
        paper = row["paper"]
        assert row["depth"] == paper["depth"], row
        assert [height for height, *_ in row["outputs"]] == paper["sides"], row
        for figure in ("parameters", "macs"):
            # The papers round to two digits.
            stated = paper[figure]
            assert stated is None or row[figure] == pytest.approx(stated, rel=0.02), row
    sources = json.loads(script.with_suffix(".json").read_text())["sources"]
    for row in found["errors"]:
        assert row["source"].split()[0] in sources
        assert row["kind"] in ("quoted", "measured")
    lines = run(script, "--markdown").splitlines()
    assert "| ResNet-50 | 10-crop | 22.85 | 6.71 | quoted | v1 Table 3 |" in lines


def check_pretrained(printed: str) -> None:
    lines = [re.fullmatch(r"([\d.]+)% \S.* \(n\d{8}\)", line) for line in printed.splitlines()]
    shares = [float(line[1]) for line in lines if line is not None]
    assert len(shares) == len(lines) == 3
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 100.1


def check_segmentation(printed: str) -> None:
    assert "60 of 60 weights are equal" in printed
    losses = [float(found) for found in re.findall(r" loss: ([\d.]+)", printed)]
    assert losses[-1] < losses[0]
    before, *after = map(float, re.findall(r"mIoU ([\d.]+)", printed))
    assert before < 0.3
    # Keras, TFLite in float and in int8, ONNX.
    assert len(after) == 4
    assert min(after) > 0.75
    difference = re.search(r"a difference of (\S+) at common positions", printed)
    assert difference is not None
    assert float(difference[1]) < 1e-5


def check_self_supervised(printed: str) -> None:
    """The bar that the docstring states, in points."""
    before, after = (float(found) for found in re.findall(r"^linear .*: ([\d.]+)%$", printed, re.M))
    margin = re.search(r"^margin: (\S+) points$", printed, re.MULTILINE)
    assert margin is not None
    # Each of the three is rounded.
    assert float(margin[1]) == pytest.approx(after - before, abs=0.16)
    assert float(margin[1]) > 5


def check_serving(printed: str) -> None:
    predicted, true = printed.splitlines()[-1].split(" should be ")
    assert predicted == true


def check_torch_weights(printed: str) -> None:
    assert printed.splitlines() == [
        "resnet18.safetensors: 102 arrays into 41 layers, names of torchvision",
        "('predictions/kernel', 'predictions/bias')",
    ]


def check_train(printed: str) -> None:
    *lines, best = printed.splitlines()
    epochs = [line for line in lines if re.match(r"Epoch [123]/3: ", line)]
    assert len(epochs) == 3
    found = re.fullmatch(r"best: ([\d.]+)% after epoch ([123]), in runs/digits/best.keras", best)
    assert found is not None
    assert f"accuracy {found[1]}%, learning rate" in epochs[int(found[2]) - 1]
    assert float(found[1]) > 80


CHECKS = {
    "build.py": check_build,
    "data_pipeline.py": check_data_pipeline,
    "detection.py": check_detection,
    "features.py": check_features,
    "fine_tune.py": check_fine_tuning,
    "keras_hub_detection.py": check_keras_hub_detection,
    "keras_hub_segmentation.py": check_keras_hub_segmentation,
    "migrating_from_keras_applications.py": check_migration,
    "mobile_export.py": check_mobile_export,
    "multi_label.py": check_heads,
    "paper_tables.py": check_paper_tables,
    "pretrained.py": check_pretrained,
    "segmentation.py": check_segmentation,
    "self_supervised.py": check_self_supervised,
    "tf_serving.py": check_serving,
    "torch_weights.py": check_torch_weights,
    "train.py": check_train,
}

#: `make test-slow` installs it. As a mark, this skips before the fixtures are made.
NEEDS_KERAS_HUB = pytest.mark.skipif(
    importlib.util.find_spec("keras_hub") is None,
    reason="keras-hub is no dependency of this project",
)

#: Those that train for a minute are slow.
MARKS = {
    "detection.py": pytest.mark.slow,
    "keras_hub_detection.py": (pytest.mark.slow, NEEDS_KERAS_HUB),
    "keras_hub_segmentation.py": (pytest.mark.slow, NEEDS_KERAS_HUB),
    "multi_label.py": pytest.mark.slow,
    "segmentation.py": pytest.mark.slow,
    "self_supervised.py": pytest.mark.slow,
}


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=MARKS.get(path.name, pytest.mark.full)) for path in EXAMPLES],
    ids=lambda path: path.name,
)
def test_example_runs_and_prints_what_it_promises(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    digits_file: Path,
    run: Callable[..., str],
) -> None:
    (tmp_path / "demo-output").mkdir()
    shutil.copy(digits_file, tmp_path / "demo-output" / "model.keras")
    if path.name == "pretrained.py":
        # A cache in which the weights of ResNet-18 lie already; random ones, in timm's file.
        monkeypatch.setenv("KERAS_RESNET_HOME", str(tmp_path / "cache"))
        save_torch_state_dict(ResNet18(), cache_path(find_weights("imagenet", "resnet18")))
    CHECKS[path.name](run(path))
