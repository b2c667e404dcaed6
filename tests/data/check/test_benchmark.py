"""Budget: 25 s."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnet.data import (
    AUGMENTATIONS,
    Augmentation,
    DataConfig,
    LabeledImages,
    TooManyBadRecordsError,
)
from keras_resnet.data.check.benchmark import BenchmarkReport, benchmark, format_rate, rates_in_turn
from keras_resnet.data.sources.folder import load_folder
from keras_resnet.data.sources.load import load_data

CONFIG = DataConfig("synthetic:200", size=64, batch_size=16, augmentation=AUGMENTATIONS["cifar"])


def report_of(cores: int = 4, **rates: float) -> BenchmarkReport:
    return BenchmarkReport(rates, cores)


def classifier(size: int, classes: int, *layers: Any) -> keras.Model:
    pooling, last = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(classes)
    return keras.Sequential([keras.Input((size, size, 3)), *layers, pooling, last])


def write_images(root: Path, kind: str, count: int = 6) -> None:
    for index in range(count):
        folder = root / f"class {index % 2}"
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        (folder / f"{index}.{kind.lower()}").write_bytes(file.getvalue())


def test_costs_are_differences_of_times_per_image() -> None:
    costs = report_of(reading=1000, decoding=400, training=250).seconds_per_image
    assert costs == pytest.approx({"reading": 0.001, "decoding": 0.0015, "augmentation": 0.0015})


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({"reading": 1000, "decoding": 800, "training": 700}, "reading"),
        ({"reading": 9000, "decoding": 400, "training": 300}, "decoding"),
        ({"reading": 9000, "decoding": 400, "training": 100}, "augmentation"),
        # Windows are decoded in less time than whole pictures.
        ({"reading": 9000, "decoding": 400, "training": 600}, "decoding"),
        # What is read and decoded at once comes no slower than what is read.
        ({"reading": 500, "decoding": 510, "training": 490}, "reading"),
        ({"reading": 9000, "decoding": 400, "training": 300, "model": 299}, "model"),
        ({"reading": 9000, "decoding": 400, "training": 300, "model": 300}, "decoding"),
        ({"training": 300}, "augmentation"),
        ({"training": 300, "model": 100}, "model"),
    ],
)
def test_the_bottleneck_is_the_slower_side_and_there_the_dearest_work(
    rates: dict[str, float], expected: str
) -> None:
    assert report_of(**rates).bottleneck == expected


def test_costs_are_never_negative() -> None:
    costs = report_of(reading=500, decoding=510, training=600).seconds_per_image
    assert costs == {"reading": 1 / 500, "decoding": 0, "augmentation": 0}


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (
            {"reading": 9000, "decoding": 1200, "training": 1000},
            "Decoding takes most of the time per image; the pipeline delivers 1,000 images/s, and "
            "a GPU that trains on 2,500 needs 10 such cores.",
        ),
        (
            {"reading": 900, "decoding": 800, "training": 700},
            "Reading takes most of the time per image; the pipeline delivers 700 images/s.",
        ),
        (
            {"reading": 9000, "decoding": 1200, "training": 400, "model": 401},
            "Augmentation limits training: the model trains on 401 images/s, and the pipeline "
            "delivers 400; the model needs 5 such cores.",
        ),
        (
            {"reading": 900, "decoding": 800, "training": 700, "model": 1000},
            "Reading limits training: the model trains on 1,000 images/s, and the pipeline "
            "delivers 700.",
        ),
        (
            {"reading": 9000, "decoding": 1200, "training": 1000, "model": 9.26},
            "The model limits training: it trains on 9.3 images/s, and the pipeline delivers "
            "1,000.",
        ),
    ],
)
def test_the_verdict_follows_from_the_rates(rates: dict[str, float], expected: str) -> None:
    assert report_of(**rates).verdict == expected


def test_the_report_as_a_dictionary() -> None:
    described = report_of(reading=800, decoding=400, training=200, model=100).to_dict()
    assert described.pop("verdict").startswith("The model limits training")
    assert described.pop("seconds_per_image") == pytest.approx(
        {"reading": 0.00125, "decoding": 0.00125, "augmentation": 0.0025}
    )
    assert described == {
        "images_per_second": {"reading": 800, "decoding": 400, "training": 200, "model": 100},
        "per_core": {"reading": 200, "decoding": 100, "training": 50},
        "cores": 4,
        "bottleneck": "model",
    }


@pytest.mark.parametrize(("rate", "text"), [(1234.5, "1,234"), (10, "10"), (0.123, "0.12")])
def test_rates_have_as_many_digits_as_can_be_relied_on(rate: float, text: str) -> None:
    assert format_rate(rate) == text


def test_medians_of_turns_of_which_the_beginning_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("keras_resnet.data.check.benchmark.time", clock)
    taken: list[str] = []

    def take(name: str, durations: Callable[[int], float]) -> Callable[[], int]:
        def work() -> int:
            taken.append(name)
            clock.now += durations(taken.count(name))
            return 10

        return work

    steps: list[tuple[str, float]] = []
    rates = rates_in_turn(
        {
            # Two pieces to start, of 100 s; then per turn one for the buffers and two that count.
            "steady": take("steady", lambda count: 100 if count <= 2 else 1),
            # The second turn of three is a slow one.
            "disturbed": take("disturbed", lambda count: 8 if 5 < count < 8 else 2),
        },
        seconds=2,
        rounds=3,
        progress=lambda step, done: steps.append((step, done)),
    )
    assert rates == {"steady": 10.0, "disturbed": 5.0}
    assert taken[:4] == ["steady", "steady", "disturbed", "disturbed"]
    assert taken[4:8] == ["steady"] * 3 + ["disturbed"]
    assert steps[:3] == [
        ("start", 0.0),
        ("steady, round 1", 0.0),
        ("disturbed, round 1", pytest.approx(1 / 6)),
    ]
    assert len(steps) == 7


class Clock:
    """Stands for `time`; the process never works on its own."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_stage_without_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="Expected images from decoding. Received: none in 0.01 s"):
        rates_in_turn({"decoding": lambda: 0}, 0.01, 1)


def test_all_stages_are_measured_and_the_model_stays_as_it_is() -> None:
    source, _ = load_data(CONFIG)
    model = classifier(64, 10, keras.layers.BatchNormalization())
    before = model.get_weights()
    result = benchmark(source, CONFIG, model=model, seconds=0.1, rounds=1)
    assert list(result.images_per_second) == ["reading", "decoding", "training", "model"]
    assert all(0 < rate < math.inf for rate in result.images_per_second.values())
    assert result.cores >= 1
    assert not model.compiled
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_mixed_images_and_a_linear_classifier_can_be_trained_on() -> None:
    config = replace(CONFIG, size=32, batch_size=8, augmentation=Augmentation(mixup=0.2))
    source, _ = load_data(config)
    result = benchmark(source, config, model=classifier(32, 10), seconds=0.01, rounds=1)
    assert result.images_per_second["model"] > 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_files_are_read_and_decoded(tmp_path: Path, kind: str) -> None:
    write_images(tmp_path, kind)
    source = load_folder(str(tmp_path)).train
    config = DataConfig("folder", size=32, batch_size=4)
    result = benchmark(source, config, seconds=0.1, rounds=3)
    assert list(result.images_per_second) == ["reading", "decoding", "training"]
    assert all(0 < rate < math.inf for rate in result.images_per_second.values())
    if kind == "PNG":
        # Bytes alone come faster than the pixels that Pillow makes of them.
        assert result.images_per_second["reading"] > result.images_per_second["decoding"]


def test_images_in_memory_are_neither_read_nor_decoded() -> None:
    images = np.zeros((8, 32, 32, 3), np.uint8)
    source = LabeledImages(images, np.arange(8, dtype=np.int32) % 2, ("a", "b"))
    config = DataConfig("memory", size=32, batch_size=8)
    result = benchmark(source, config, seconds=0.01, rounds=1)
    assert list(result.images_per_second) == ["training"]


def test_too_many_damaged_files_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, "JPEG")
    for path in tmp_path.glob("*/*"):
        path.write_bytes(b"no image")
    source = load_folder(str(tmp_path)).train
    with pytest.raises(TooManyBadRecordsError, match=r"at most 1.00% unreadable.*class [01]/"):
        benchmark(source, DataConfig("folder", size=32, batch_size=4), seconds=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds": 0}, "Expected `seconds` above 0"),
        ({"seconds": math.nan}, "Expected `seconds` above 0"),
        ({"rounds": 0}, "`rounds` of at least 1"),
        ({"model": "size"}, r"Expected a model \(None, 64, 64, 3\) -> \(None, 10\).*32, 32"),
        ({"model": "classes"}, r"Expected a model .*-> \(None, 7\)"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    source, _ = load_data(CONFIG)
    if "model" in arguments:
        size, classes = (32, 10) if arguments["model"] == "size" else (64, 7)
        arguments = {"model": classifier(size, classes)}
    with pytest.raises(ValueError, match=message):
        benchmark(source, CONFIG, **arguments)


SMALL = ("--size", "32", "--seconds", "0.02", "--augmentation", "cifar")


def test_the_command_prints_a_table_and_a_sentence(command_in_process: Any) -> None:
    result = command_in_process("data", "benchmark", "synthetic:20", *SMALL)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "benchmark: training, round 3 (89% done)" in lines
    assert [line.split()[0] for line in lines if line.startswith((" reading", " decoding"))] == [
        "reading",
        "decoding",
    ]
    assert "Batches of 20 images: synthetic (training) has no more." in lines
    assert "takes most of the time per image; the pipeline delivers" in lines[-1]


@pytest.mark.full
def test_the_command_prints_json(command_in_process: Any) -> None:
    options = ("--batch-size", "4", "--model", "resnet20", "--dtype", "float32", "--json")
    result = command_in_process("data", "benchmark", "synthetic:20", *SMALL, *options)
    assert result.returncode == 0, result.stderr
    described = json.loads(result.stdout)
    assert list(described["images_per_second"]) == ["reading", "decoding", "training", "model"]
    assert all(0 < rate < math.inf for rate in described["images_per_second"].values())
    settings = {"source": "synthetic:20", "size": 32, "batch_size": 4, "model": "resnet20"}
    assert {key: described[key] for key in settings} == settings
    assert described["dtype"] == "float32"
    assert described["augmentation"]["crop"] == "pad"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--augmentation", "heavy"],
            "Expected `--augmentation` to be one of ('none', 'cifar', 'he2015', 'inception')",
        ),
        (["--augmentation", "cifar", "--antialias"], "Expected `--antialias` with"),
        (["--dtype", "mixed_bfloat16"], "Expected `--dtype` with `--model`"),
        (["--seconds", "0"], "--seconds': Input should be greater than or equal to 0.01"),
        (["--model", "resnet51"], "resnet51"),
        (["--model", "resnet20", "--dtype", "float99"], "float99"),
    ],
)
def test_the_command_refuses_what_cannot_be(
    command_in_process: Any, options: list[str], message: str
) -> None:
    result = command_in_process("data", "benchmark", "synthetic:10x32x32", *options)
    assert result.returncode == 2
    assert message in result.stderr
