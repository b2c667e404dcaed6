"""`keras-resnet evaluate` as users run it."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from keras_resnet.data.sources.memory import LabeledImages

from ..conftest import Command

Evaluate = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evaluate(command_in_process: Command) -> Evaluate:
    def run(*arguments: object) -> tuple[int, str, str]:
        done = command_in_process("evaluate", *map(str, arguments))
        return done.returncode, done.stdout, done.stderr

    return run


def test_table_files_and_comparison(evaluate: Evaluate, digits_file: Path, tmp_path: Path) -> None:
    code, output, errors = evaluate(
        *(digits_file, "--data", "digits", "--output", tmp_path / "one"),
        *("--predictions", tmp_path / "rows.parquet"),
    )
    assert code == 0, errors
    assert "top-1 accuracy" in output
    assert (tmp_path / "one" / "evaluation.html").stat().st_size > 10_000
    first = json.loads((tmp_path / "one" / "evaluation.json").read_text())
    assert first["images"] == 360
    assert first["accuracy"] > 0.9

    rows = pyarrow.parquet.read_table(tmp_path / "rows.parquet")
    assert rows.num_rows == 360
    assert sum(rows["right"].to_pylist()) / 360 == first["accuracy"]

    code, output, _ = evaluate(
        digits_file, digits_file, "--data", "digits", "--protocol", "flip", "--json"
    )
    assert code == 0
    second = json.loads(output)
    assert second["protocol"]["name"] == "flip"
    assert len(second["models"]) == 2
    (tmp_path / "two.json").write_text(output)
    files = tmp_path / "one" / "evaluation.json", tmp_path / "two.json"
    code, output, _ = evaluate("--compare", *files, "--json", "--output", tmp_path)
    assert code == 0
    assert json.loads((tmp_path / "comparison.json").read_text()) == json.loads(output)
    code, _, errors = evaluate(digits_file, "--data", "digits", "--output", tmp_path / "one")
    assert code == 2
    assert "evaluation.json. Pass `--overwrite`" in errors
    found = json.loads(output)
    assert found["images"] == 360
    assert found["accuracies"] == [first["accuracy"], second["accuracy"]]


#: Of weights that come with the package.
TAG = "keras_resnet/resnet20.cifar10_jpeg"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--tags", "x*", "--data", "digits", "--weights", "y"],
            "Expected --tags without --weights. Received: y",
        ),
        (
            ["--tags", "x*", "--data", "digits", "--net", "stem_filters=8"],
            "Expected --tags without --net. Received: ['stem_filters=8']",
        ),
        (
            ["--compare", "a.json", "b.json", "--batch-size", "32"],
            "Expected --compare without --batch-size. Received: 32",
        ),
        (
            ["--compare", "a.json", "b.json", "--predictions", "x.csv"],
            "Expected --compare without --predictions. Received: x.csv",
        ),
        (
            ["--compare", "none.json", "b.json"],
            "Expected `--compare` with an existing file. Received: none.json",
        ),
        (["x.keras", "--compare", "a.json", "b.json"], "Expected --compare without models"),
        (
            ["x.keras", "--data", "digits", "--weights", "imagenet"],
            "Expected a file without `--weights`",
        ),
        (["x.keras"], "Expected --data, and either models or --tags"),
        (["resnet50", "--data", "digits"], "Expected `--weights` with the name of a network"),
        (["x.tflite", "--data", "digits"], "Expected"),
        (["--tags", "none/*", "--data", "digits"], "Expected --tags to match"),
        (
            ["x.keras", "--data", "digits", "--protocol", "five"],
            "Expected `--protocol` to be one of",
        ),
        (
            [TAG, "--data", "digits", "--predictions", "x.txt"],
            "Expected a path that ends in .csv or",
        ),
        ([TAG, TAG, "--data", "digits", "--ensemble-weights", "a"], "Expected numbers"),
        (["nodel.keras", "--data", "digits"], "Received: nodel.keras."),
        (["resnet51", "--data", "digits"], "Did you mean resnet56?"),
        (["timm/resnet18.a1", "--data", "digits"], "Did you mean timm/resnet18.a1_in1k?"),
        (["resnet50", "--data", "digit"], "Did you mean digits?"),
    ],
)
def test_bad_arguments(evaluate: Evaluate, arguments: list[str], message: str) -> None:
    code, _, errors = evaluate(*arguments)
    assert code == 2, errors
    assert message in errors
    assert errors.count("\n") == 1


OTHERS = "keras_resnet/resnet20.others"


@pytest.fixture
def two_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged weights, and others for the same classes that cannot be fetched."""
    from keras_resnet.weights import registry

    entry = registry.find_weights(TAG)
    entries = {TAG: entry, OTHERS: dataclasses.replace(entry, tag=OTHERS)}
    monkeypatch.setattr(registry, "_entries", lambda: entries)


@pytest.fixture
def cifar_images(tmp_path: Path) -> Path:
    for label in range(10):
        (tmp_path / "data" / registry_classes()[label]).mkdir(parents=True)
        for index in range(2):
            path = tmp_path / "data" / registry_classes()[label] / f"{index}.png"
            Image.new("RGB", (32, 32), (20 * label, 0, 0)).save(path)
    return tmp_path / "data"


def test_a_series_of_tags_is_one_table(
    evaluate: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    two_tags: None,
    cifar_images: Path,
) -> None:
    """The packaged weights are evaluated; those that cannot be fetched are named."""
    from keras_resnet.evaluation import member
    from keras_resnet.weights import registry

    packaged = TAG

    def missing(*_: object, **__: object) -> None:
        raise ValueError("cannot be downloaded")

    build = member.create_model
    monkeypatch.setattr(
        member,
        "create_model",
        lambda name, weights: build(name, weights=weights) if weights == packaged else missing(),
    )
    arguments = (
        *("--tags", "*", "--data", f"folder:{cifar_images}", "--split", "all", "--json"),
        *("--output", tmp_path / "series"),
    )
    code, output, errors = evaluate(*arguments)
    assert code == 1
    assert f"{OTHERS}: cannot be downloaded" in errors
    first, second = json.loads(output)
    assert first["images"] == 20
    assert first["published_top1"] == registry.find_weights(packaged).top1
    assert second["error"] == "cannot be downloaded"
    assert json.loads((tmp_path / "series" / "series.json").read_text()) == [first, second]
    assert (tmp_path / "series" / packaged / "evaluation.html").is_file()

    with (tmp_path / "series" / "series.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["weights"] for row in rows] == [packaged, OTHERS]
    assert float(rows[0]["top1"]) == first["top1"]
    assert rows[0]["protocol"] == "single, resize 32, crop 32, bilinear"
    assert rows[0]["published_protocol"] == "resize 32, crop 32, bilinear"
    assert rows[1]["error"] == "cannot be downloaded"
    lines = (tmp_path / "series" / "series.md").read_text().splitlines()
    assert len(lines) == 4
    assert lines[2].count(" | ") == lines[0].count(" | ") == 7
    assert f"{first['top1']:.2f}% | {first['published_top1']:.2f}%" in lines[2]
    page = (tmp_path / "series" / "series.html").read_text()
    assert f'<a href="{packaged}/evaluation.html">{packaged}</a>' in page
    assert f"<li>{OTHERS}: cannot be downloaded</li>" in page

    files = [path for path in (tmp_path / "series").rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    for file in (f"series/{packaged}/evaluation.json", "series/series.csv"):
        code, output, errors = evaluate(*arguments)
        assert (code, output) == (2, "")
        assert f"{file}. Pass `--overwrite`" in errors
        assert all(path.stat().st_mtime_ns == time for path, time in before.items())
        del before[tmp_path / file]
        (tmp_path / file).unlink()
    assert evaluate(*arguments, "--overwrite")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "foo"), "Expected `--split` to be one of"),
        (("--labels", "missing.json"), "missing.json"),
        (("--data", "digits"), "only in the data. To match them by name, pass `--match-names`"),
    ],
)
def test_faults_of_a_series_come_before_its_weights(
    evaluate: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
    two_tags: None,
    cifar_images: Path,
    arguments: tuple[str, str],
    message: str,
) -> None:
    from keras_resnet.evaluation import member

    monkeypatch.setattr(member, "create_model", lambda *_, **__: pytest.fail("weights are loaded"))
    data = () if "--data" in arguments else ("--data", f"folder:{cifar_images}")
    code, output, errors = evaluate("--tags", "*", *data, *arguments)
    assert (code, output) == (2, "")
    assert message in errors
    assert errors.count("\n") == 1


def test_an_interrupted_series_keeps_its_rows(
    evaluate: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    two_tags: None,
    cifar_images: Path,
) -> None:
    from keras_resnet.evaluation import member

    build = member.create_model

    def interrupted(name: str, weights: str) -> keras.Model:
        if weights == OTHERS:
            raise KeyboardInterrupt
        return build(name, weights=weights)

    monkeypatch.setattr(member, "create_model", interrupted)
    code, _, _ = evaluate(
        *("--tags", "*", "--data", f"folder:{cifar_images}", "--split", "all"),
        *("--output", tmp_path / "series"),
    )
    assert code == 130
    (row,) = json.loads((tmp_path / "series" / "series.json").read_text())
    assert (row["weights"], row["images"]) == (TAG, 20)


def test_weights_of_other_classes_are_told_without_a_download(two_tags: None) -> None:
    from keras_resnet.evaluation.series import check_series
    from keras_resnet.weights import registry

    entries = registry._entries()
    entries[OTHERS] = dataclasses.replace(entries[OTHERS], dataset="imagenet", classes=1000)
    labels = np.arange(10)
    data = LabeledImages(np.zeros((10, 32, 32, 3), np.uint8), labels, registry_classes())
    (tag,) = check_series([TAG, OTHERS], data)
    assert tag == OTHERS
    with pytest.raises(ValueError, match="Expected data with the model's 1000 classes"):
        check_series([OTHERS], data)


def registry_classes() -> tuple[str, ...]:
    from keras_resnet.images.labels import CIFAR10_CLASSES

    return CIFAR10_CLASSES


def test_a_network_by_name_takes_the_options_of_networks(
    evaluate: Evaluate, tmp_path: Path
) -> None:
    import keras_resnet

    keras.utils.set_random_seed(0)
    network = keras_resnet.create_model("resnet20", version="v2", shortcut="B", width=0.25)
    network.save_weights(tmp_path / "x.weights.h5")
    network.save(tmp_path / "x.keras")
    asked = ("--data", "digits", "--json")
    weights = ("--weights", tmp_path / "x.weights.h5")
    options = ("--version", "v2", "--shortcut", "B", "--net", "width=0.25")
    code, output, errors = evaluate("ResNet20", *asked, *weights, *options)
    assert code == 0, errors
    found = json.loads(output)
    assert found["models"] == [f"resnet20 (width=0.25, version=v2, shortcut=B) with {weights[1]}"]
    same = json.loads(evaluate(tmp_path / "x.keras", *asked)[1])
    assert found["loss"] == pytest.approx(same["loss"])
    # Without the options, the weights do not fit.
    assert evaluate("ResNet20", *asked, *weights)[0] == 2
    code, _, errors = evaluate("--tags", "cifar*", *asked, *options)
    assert code == 2
    assert "Expected --tags without --version. Received: v2" in errors
