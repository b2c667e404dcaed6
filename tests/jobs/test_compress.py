"""Compression as a whole: trained, stripped, exported, in Python and by the command."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnet import ResNet50, ResNetConfig, build
from keras_resnet.analysis.complexity import complexity
from keras_resnet.compression import cluster, prune, sparsity_of, strip
from keras_resnet.compression.layers import ranges
from keras_resnet.export import ExportError, load_runner
from keras_resnet.export.tflite.inspect import float_operators, kernels
from keras_resnet.jobs.compress import _check_agreement, compress
from keras_resnet.jobs.compression_report import (
    CompressionError,
    CompressionOptions,
    CompressionReport,
    CompressionRow,
    compression_page,
)
from keras_resnet.models.info import compressed_kernels, set_class_names
from keras_resnet.models.saving import load_model
from keras_resnet.training import ResumeError, find_recipe, override, train

from ..conftest import Command, Start

COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}
RECIPE = override(find_recipe("quick-digits"), {"batch_size": 16, "augmentation.crop": "none"})
SETTINGS = ("--batch-size", "16", "--recipe", "quick-digits", "--set", "augmentation.crop=none")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Forty noisy pictures of each of three colours, `folder:…`."""
    folder, random = tmp_path_factory.mktemp("data") / "colours", np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(40):
            noise = random.normal(0, 60, (4, 4, 3)).repeat(4, axis=0).repeat(4, axis=1)
            pixels = np.clip(noise + colour, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return f"folder:{folder}"


@pytest.fixture(scope="module")
def trained(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that knows the colours, as a `.keras` file."""
    keras.utils.set_random_seed(0)
    config = ResNetConfig("basic", (1, 1), (8, 16), stem="cifar", shortcut="A")
    model = build(config, input_shape=(16, 16, 3), classes=3)
    assert train(model, data, RECIPE, epochs=4).best >= 0.9
    path = tmp_path_factory.mktemp("trained") / "model.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def all_three(
    data: str, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> CompressionReport:
    model = keras.saving.load_model(trained)
    options = CompressionOptions(
        ("prune", "cluster", "qat"), sparsity=0.5, clusters=8, epochs=1, frozen_bn=0.5, settle=0.5
    )
    folder = tmp_path_factory.mktemp("all") / "out"
    return compress(model, data, folder, options, recipe=RECIPE, timing=None)


def test_page_compares_before_and_after() -> None:
    before = CompressionRow(
        "before: tflite-int8", "before/model-int8.tflite", 0.99, None, 400, 300, None, 0.0, 255
    )
    after = dataclasses.replace(
        before, what="after: tflite-int8", file="after/model-int8.tflite", accuracy=0.98,
        agreement=1.0, packed=75,
    )  # fmt: skip
    report = CompressionReport((before, after), CompressionOptions(("prune",)), Path("out"))
    page = compression_page(report)
    assert (
        "tflite-int8: accuracy 99.00% before and 98.00% after, 25% of the size after gzip." in page
    )
    assert '<a href="after/model-int8.tflite">after: tflite-int8</a>' in page
    assert '<td data-label="agreement">–</td>' in page
    assert "<dt>gzip</dt><dd>size after gzip -9</dd>" in page


@pytest.mark.full
def test_the_files_have_what_the_table_says(all_three: CompressionReport) -> None:
    rows = {row.what: row for row in all_three.rows}
    assert list(rows) == [
        *("before: tflite-int8", "before: tflite-float32", "before: onnx-int8"),
        *("after: tflite-int8", "after: onnx-int8"),
    ]
    assert all(row.accuracy is not None and row.accuracy >= 0.9 for row in all_three.rows)
    path = all_three.folder / "after" / "model-int8.tflite"
    first, *others = kernels(path)
    assert float_operators(path) == ()
    # The first convolution stays dense; a sum of zeros may be one weight off the share.
    assert first.zeros < 0.3 * first.weights
    for kernel in others:
        assert kernel.zeros >= 0.49 * kernel.weights, kernel
        assert kernel.distinct <= 8, kernel
    agreements = [row.agreement for row in all_three.rows]
    assert agreements[:3] == [None, None, None]
    assert all(share is not None and share >= 0.9 for share in agreements[3:])
    after, before = rows["after: tflite-int8"], rows["before: tflite-int8"]
    assert after.packed < before.packed
    assert after.size == path.stat().st_size
    assert after.distinct == max(kernel.distinct for kernel in (first, *others))
    saved = json.loads((all_three.folder / "compression.json").read_text())
    assert saved == json.loads(json.dumps(all_three.to_dict()))
    page = (all_three.folder / "compression.html").read_text()
    for row in all_three.rows:
        assert f'<a href="{row.file}">{row.what}</a>' in page
    assert "tflite-int8: accuracy " in page
    for name in re.findall(r'href="(.*?)"', page):
        assert (all_three.folder / name).exists(), name


@pytest.mark.full
def test_the_network_is_a_plain_one_again(
    all_three: CompressionReport, data: str, trained: Path
) -> None:
    model = keras.saving.load_model(all_three.folder / "model.keras")
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
    # It was frozen in the end.
    assert all(layer.trainable for layer in model.layers)
    assert list(sparsity_of(model).values())[1] >= 0.49
    pictures = sorted(Path(data.removeprefix("folder:")).glob("*/*.png"))[::3]
    images = np.stack([np.asarray(Image.open(path)) for path in pictures])
    expected = model.predict(images.astype("float32"), verbose=0)
    found = load_runner(all_three.folder / "after" / "model-int8.tflite").predict(images)
    assert np.mean(found.argmax(-1) == expected.argmax(-1)) >= 0.95
    labels = np.array([sorted(COLOURS).index(path.parent.name) for path in pictures])
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    scores = model.evaluate(images.astype("float32"), labels, verbose=0, return_dict=True)
    assert scores["accuracy"] >= 0.9
    assert 0 < scores["loss"] < np.log(3)
    cost = complexity(model)
    assert cost == complexity(keras.saving.load_model(trained))
    assert cost.params + cost.bn_statistics == model.count_params()


@pytest.mark.full
def test_normalisation_stays_first_and_then_ranges(all_three: CompressionReport) -> None:
    qat, frozen_bn, settled = (
        keras.saving.load_model(all_three.folder / name / "last.keras")
        for name in ("3-qat", "4-frozen-bn", "5-settle")
    )

    def norms(model: keras.Model) -> list[float]:
        norm = model.get_layer("conv1_bn")
        return [value for weight in norm.get_weights() for value in weight.tolist()]

    def ends(model: keras.Model) -> list[float]:
        return [float(end) for x in ranges(model).values() for end in (x.low, x.high)]

    assert norms(qat) == norms(frozen_bn) == norms(settled)
    assert ends(qat) != ends(frozen_bn)
    assert ends(frozen_bn) == ends(settled)


@pytest.mark.full
def test_a_finished_compression_is_not_trained_again(
    all_three: CompressionReport, data: str, trained: Path
) -> None:
    phases = sorted(all_three.folder.glob("*-*/checkpoints"))
    names = ["1-prune", "2-cluster", "3-qat", "4-frozen-bn", "5-settle"]
    assert [path.parent.name for path in phases] == names
    times = [path.stat().st_mtime_ns for path in phases]
    # As if an option had been added since.
    config = json.loads((all_three.folder / "config.json").read_text())
    del config["options"]["skip"]
    (all_three.folder / "config.json").write_text(json.dumps(config))
    weights = keras.saving.load_model(all_three.folder / "model.keras").get_weights()
    model = keras.saving.load_model(trained)
    compress(model, data, all_three.folder, all_three.options, recipe=RECIPE, timing=None)
    assert [path.stat().st_mtime_ns for path in phases] == times
    again = keras.saving.load_model(all_three.folder / "model.keras").get_weights()
    for one, other in zip(weights, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.full
def test_a_folder_holds_one_compression(
    all_three: CompressionReport, data: str, trained: Path
) -> None:
    model = keras.saving.load_model(trained)
    others = dataclasses.replace(all_three.options, sparsity=0.6)
    with pytest.raises(ResumeError, match=r"(?s)sparsity.*choose another folder"):
        compress(model, data, all_three.folder, others, recipe=RECIPE, timing=None)
    model.layers[-1].bias.assign_add([1.0, 0.0, 0.0])
    with pytest.raises(ResumeError, match=r"(?s)weights.*choose another folder"):
        compress(model, data, all_three.folder, all_three.options, recipe=RECIPE, timing=None)


@pytest.mark.full
def test_by_the_command(
    data: str, trained: Path, command_in_process: Command, tmp_path: Path
) -> None:
    done = command_in_process(
        *("compress", str(trained), "--data", data, "--output", str(tmp_path / "out")),
        *("--method", "prune", "--pattern", "2:4", "--epochs", "0.5", "--seconds", "0", "--json"),
        # No epochs of what pruning has not.
        *("--settle", "0", "--frozen-bn", "0"),
        *("--no-deterministic", *SETTINGS),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["options"]["methods"] == ["prune"]
    assert [row["what"] for row in report["rows"]] == [
        *("before: tflite-int8", "before: tflite-float32"),
        *("after: tflite-int8", "after: tflite-float32"),
    ]
    # All but the three channels of the first convolution, and the weights of the head.
    assert 0.4 < report["rows"][3]["zeros"] <= 0.5
    trained_by = json.loads((tmp_path / "out" / "1-prune" / "config.json").read_text())["recipe"]
    # That of the recipe is for random weights.
    assert trained_by["schedule"]["name"] == "cosine"
    assert trained_by["schedule"]["warmup"] == 0


@pytest.mark.full
def test_figures_are_shown_where_artifacts_disagree(
    all_three: CompressionReport,
    data: str,
    trained: Path,
    command_in_process: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def disagree(*_: Any, **__: Any) -> None:
        raise CompressionError("Expected artifacts that agree. Received: others", all_three)

    monkeypatch.setattr("keras_resnet.jobs.compress.compress", disagree)
    arguments = ("compress", str(trained), "--data", data, "--output", str(tmp_path / "out"))
    done = command_in_process(*arguments, "--no-deterministic")
    assert done.returncode == 1
    assert "after: tflite-int8" in done.stdout
    assert "Received: others" in done.stderr
    done = command_in_process(*arguments, "--no-deterministic", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["rows"][3]["what"] == "after: tflite-int8"


@pytest.mark.full
def test_layers_without_weights_may_be_left_alone(data: str, trained: Path, tmp_path: Path) -> None:
    """They stay in float, which is nothing to pruning and clustering."""
    model = keras.saving.load_model(trained)
    options = CompressionOptions(
        ("prune", "cluster", "qat"), epochs=0.2, settle=0, skip=("conv2_block1_out",)
    )
    found = compress(model, data, tmp_path / "out", options, recipe=RECIPE, timing=None)
    assert len(float_operators(found.folder / "after" / "model-int8.tflite")) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "qat,prune"], "Expected `--method` among prune, cluster, qat, in this order"),
        (["--method", "shrink"], "Received: shrink"),
        (["--pattern", "3:4", "--method", "prune"], "Expected `--pattern` to be one of"),
        (["--skip", "conv9"], "Expected `--skip` to name layers. Received: conv9"),
        (["--epochs", "0"], "Expected `--epochs` above 0. Received: 0"),
        (["--pattern", "2:4", "--sparsity", "0.9", "--method", "prune"], "`--sparsity` to be 0.5"),
        (
            ["--skip", "conv9", "--method", "prune"],
            "Expected `--skip` to name layers. Received: co",
        ),
        (["--frozen-bn", "1", "--method", "prune"], "with the method qat only. Received: prune"),
        (
            ["--settle", "2", "--method", "prune"],
            "`--settle` with the method qat only. Received: prune",
        ),
        (["--sparsity", "0.5"], "`--sparsity` with the method prune only. Received: qat"),
        (["--pattern", "2:4"], "`--pattern` with the method prune only. Received: qat"),
        (["--clusters", "4"], "`--clusters` with the method cluster only. Received: qat"),
        (["--set", "schedule.warmup=1"], "compression decides itself. Received: schedule.warmup"),
    ],
)
def test_impossible_options_are_refused(
    options: list[str],
    message: str,
    data: str,
    trained: Path,
    command_in_process: Command,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    arguments = ["--data", data, "--output", str(out), "--no-deterministic", *options]
    done = command_in_process("compress", str(trained), *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert not out.exists()


def test_classes_in_another_order_are_refused(data: str, trained: Path, tmp_path: Path) -> None:
    """Or the head would learn them anew, and the table be about others."""
    model = keras.saving.load_model(trained)
    set_class_names(model, sorted(COLOURS, reverse=True))
    with pytest.raises(ValueError, match=r"'blue' where resnet has 'red'.*`finetune`"):
        compress(model, data, tmp_path / "out", recipe=RECIPE, timing=None)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"'blue' where resnet has 'red'"):
        train(model, data, RECIPE, tmp_path / "run", epochs=1)


@pytest.mark.full
def test_second_compressions_leave_alone_what_they_skip(
    data: str, trained: Path, tmp_path: Path
) -> None:
    """The first convolution included, which is never pruned further."""
    model = cluster(prune(keras.saving.load_model(trained), 0.25, skip=[]), 8)
    options = CompressionOptions(
        ("prune", "cluster"), sparsity=0.5, clusters=5, epochs=0.5, skip=("predictions",)
    )
    out = tmp_path / "out"
    compress(strip(model), data, out, options, recipe=RECIPE, timing=None)
    result = load_model(out / "model.keras")
    shares, properties = sparsity_of(result), compressed_kernels(result)
    assert [round(shares.pop(name), 2) for name in ("conv1_conv", "predictions")] == [0.25, 0.25]
    assert min(shares.values()) >= 0.49
    assert properties.pop("predictions").distinct == 8
    assert {kernel.distinct for kernel in properties.values()} == {5}


def test_networks_without_int8_are_refused_before_they_train(data: str, tmp_path: Path) -> None:
    model = build(
        ResNetConfig("basic", (1,), (8,), stem="cifar", norm="group", norm_groups=4),
        (16, 16, 3),
        classes=3,
    )
    options = CompressionOptions(("prune",), epochs=0.1)
    with pytest.raises(ExportError, match="tflite-int8"):
        compress(model, data, tmp_path / "out", options, recipe=RECIPE, timing=None)
    assert not list(tmp_path.glob("out/1-*"))


@pytest.mark.full
def test_layers_without_a_form_in_onnx_are_refused_before_they_train(
    data: str, trained: Path, tmp_path: Path
) -> None:
    """TFLite can leave in float a normalisation that is folded elsewhere, ONNX cannot."""
    options = CompressionOptions(("qat",), epochs=0.1, skip=("conv1_bn",))
    model = keras.saving.load_model(trained)
    with pytest.raises(ExportError, match="onnx-int8.*conv1_bn"):
        compress(model, data, tmp_path / "out", options, recipe=RECIPE, timing=None)
    assert not list(tmp_path.glob("out/1-*"))


@pytest.mark.parametrize(
    ("method", "target", "wrong"),
    [
        ("prune", "tflite-float32", True),
        ("prune", "tflite-int8", False),
        ("qat", "onnx-int8", True),
    ],
)
def test_artifacts_have_to_agree_unless_int8_was_not_trained_for(
    method: Any, target: str, wrong: bool, tmp_path: Path
) -> None:
    row = CompressionRow(f"after: {target}", "file", 0.9, 0.5, 1, 1, None, None, None)
    outcome = CompressionReport((row,), CompressionOptions((method,)), tmp_path)
    caught = pytest.raises(CompressionError, match=f"after: {target} agrees with it on 50.0% of 40")
    with caught if wrong else contextlib.nullcontext():
        _check_agreement(outcome, 40)


@pytest.mark.full
def test_stripped_networks_keep_zeros_and_values(
    all_three: CompressionReport, data: str, tmp_path: Path
) -> None:
    model = load_model(all_three.folder / "model.keras")
    options = CompressionOptions(("qat",), epochs=0.5, settle=0)
    found = compress(model, data, tmp_path / "out", options, recipe=RECIPE, timing=None)
    again = keras.saving.load_model(found.folder / "model.keras")
    changed = [not np.array_equal(*pair) for pair in zip(model.weights, again.weights, strict=True)]
    assert any(changed)
    for kernel in kernels(found.folder / "after" / "model-int8.tflite")[1:]:
        assert kernel.zeros >= 0.49 * kernel.weights, kernel
        assert kernel.distinct <= 8, kernel


@pytest.mark.full
def test_killed_in_quantization_aware_training_it_ends_with_the_same_bits(
    data: str,
    trained: Path,
    start_command: Start,
    keras_resnet_command: Command,
    tmp_path: Path,
) -> None:
    arguments = (
        *("compress", str(trained), "--data", data, "--method", "qat", "--epochs", "4"),
        *("--checkpoint-every", "2", "--seconds", "0", *SETTINGS, "--output"),
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def run(folder: Path) -> str:
        done = keras_resnet_command(*arguments, str(folder))
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Resuming" not in run(whole)
    process = start_command(*arguments, str(parts))
    deadline = time.monotonic() + 120
    while len(list(parts.glob("1-qat/checkpoints/step-*"))) < 3 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (parts / "model.keras").exists()
    done = re.search(r"Resuming \S*1-qat: (\d+) of (\d+) batches, ", run(parts))
    assert done is not None
    assert 4 <= int(done[1]) < int(done[2])
    models = [keras.saving.load_model(folder / "model.keras") for folder in (whole, parts)]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)
    sizes = [(folder / "after/model-int8.tflite").read_bytes() for folder in (whole, parts)]
    assert sizes[0] == sizes[1]


@pytest.mark.slow
def test_a_resnet50_keeps_zeros_and_shared_weights(data: str, tmp_path: Path) -> None:
    """Where tensorflow-model-optimization's own ways lose them (its issue 1056)."""
    keras.utils.set_random_seed(0)
    model = ResNet50(input_shape=(64, 64, 3), classes=3)
    options = CompressionOptions(("prune", "cluster", "qat"), sparsity=0.8, epochs=1, settle=0.5)
    changes = {"batch_size": 16, "augmentation.crop": "none", "optimizer.learning_rate": 0.01}
    recipe = override(find_recipe("quick-digits"), changes)
    train(model, data, recipe, epochs=1)
    report = compress(model, data, tmp_path / "out", options, recipe=recipe, timing=None)
    path = report.folder / "after" / "model-int8.tflite"
    first, *others = kernels(path)
    assert float_operators(path) == ()
    # 53 convolutions and the head.
    assert len(others) == 53
    assert first.distinct <= options.clusters
    for kernel in others:
        assert kernel.zeros >= 0.8 * kernel.weights - 1, kernel
        assert kernel.distinct <= options.clusters, kernel
