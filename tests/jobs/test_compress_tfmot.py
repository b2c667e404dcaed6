"""The engine "tfmot": tensorflow-model-optimization compresses, and Keras 3 gets what it found."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet import ResNetConfig, build
from keras_resnet.compression import prune, quantize_aware, sparsity_of, strip
from keras_resnet.compression.layers import ranges
from keras_resnet.compression.tfmot import (
    clustering_network,
    load_tfmot,
    pruning_network,
    quantizing_network,
)
from keras_resnet.export.tflite.inspect import float_operators, kernels
from keras_resnet.jobs.compress import compress
from keras_resnet.jobs.compression_report import (
    CompressionOptions,
    CompressionReport,
    CompressionRow,
)
from keras_resnet.models.info import compressed_kernels
from keras_resnet.models.saving import load_model
from keras_resnet.training import find_recipe, override, train
from keras_resnet.training.run.copy import training_copy

from ..conftest import Command, Run, randomize

RECIPE = override(find_recipe("quick-digits"), {"augmentation.crop": "none"})
CONFIG = ResNetConfig("basic", (1, 1), (8, 16), stem="cifar")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that knows the digits, as a `.keras` file."""
    keras.utils.set_random_seed(0)
    model = build(CONFIG, input_shape=(16, 16, 3), classes=10)
    assert train(model, "digits", RECIPE, epochs=6).best >= 0.85
    path = tmp_path_factory.mktemp("trained") / "model.keras"
    model.save(path)
    return path


def compressed(
    trained: Path, folder: Path, method: Any, engine: Any, rate: float = 0.2, **options: Any
) -> CompressionReport:
    model = keras.saving.load_model(trained, compile=False)
    chosen = CompressionOptions((method,), epochs=1, rate=rate, engine=engine, **options)
    return compress(model, "digits", folder, chosen, recipe=RECIPE, timing=None)


def rows_of(report: CompressionReport) -> dict[str, CompressionRow]:
    return {row.what: row for row in report.rows}


def accuracy(row: CompressionRow) -> float:
    assert row.accuracy is not None
    return row.accuracy


@pytest.mark.full
@pytest.mark.parametrize(
    ("method", "target", "loss", "options"),
    [
        # One epoch is little for a network of so few weights.
        ("prune", "tflite-float32", 0.15, {"sparsity": 0.5}),
        ("cluster", "tflite-float32", 0.15, {"clusters": 16}),
        # With fixed normalisation, larger steps diverge, with either engine.
        ("qat", "tflite-int8", 0.05, {"settle": 0.3, "frozen_bn": 0.3, "rate": 0.02}),
    ],
)
def test_both_engines_reach_the_same(
    trained: Path,
    tmp_path: Path,
    method: str,
    target: str,
    loss: float,
    options: dict[str, Any],
) -> None:
    found = {
        engine: compressed(trained, tmp_path / engine, method, engine, **options)
        for engine in ("native", "tfmot")
    }
    before = accuracy(rows_of(found["native"])[f"before: {target}"])
    for engine, report in found.items():
        rows = rows_of(report)
        assert accuracy(rows[f"after: {target}"]) >= before - loss, engine
        # With tfmot, that is the share of the answers that tf_keras gave, too.
        assert (rows[f"after: {target}"].agreement or 0) >= 0.97, engine
        facts = kernels(tmp_path / engine / "after" / f"model-{target.split('-')[1]}.tflite")
        if method == "prune":
            assert facts[0].zeros < 0.1 * facts[0].weights
            assert all(abs(fact.zeros / fact.weights - 0.5) < 0.02 for fact in facts[1:]), engine
        if method == "cluster":
            stripped = load_model(tmp_path / engine / "model.keras")
            known = compressed_kernels(stripped)
            assert {kernel.distinct for kernel in known.values()} == {16}, engine
            for name in known:
                assert len(np.unique(stripped.get_layer(name).kernel)) <= 16, engine
        if method == "qat":
            assert float_operators(tmp_path / engine / "after" / "model-int8.tflite") == ()
            assert (rows["after: onnx-int8"].agreement or 0) >= 0.97, engine
    names = [path.name for path in sorted((tmp_path / "tfmot").glob("[0-9]-*"))]
    assert names == {"qat": ["1-qat", "2-frozen-bn", "3-settle"]}.get(method, [f"1-{method}"])


@pytest.mark.full
def test_by_the_command_and_again(
    trained: Path, command_in_process: Command, tmp_path: Path, run_python: Run
) -> None:
    arguments = (
        *("compress", str(trained), "--data", "digits", "--output", str(tmp_path / "out")),
        *("--engine", "tfmot", "--method", "prune", "--sparsity", "0.5", "--epochs", "0.3"),
        *("--recipe", "quick-digits", "--seconds", "0", "--no-deterministic"),
        *("--log-every", "0.1"),
    )
    done = command_in_process(*arguments)
    assert done.returncode == 0, done.stderr
    assert "Epoch 1 of 1: loss " in done.stdout
    assert re.search(r"^prune: batch \d+ of \d+ \(\d+% done\), \S+ so far$", done.stdout, re.M)
    report = json.loads((tmp_path / "out" / "compression.json").read_text())
    assert report["options"]["engine"] == "tfmot"
    assert 0.4 < report["rows"][3]["zeros"] <= 0.5
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    model = keras.saving.load_model(tmp_path / "out" / "model.keras")
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.*lite")}
    (tmp_path / "out" / "model.keras").unlink()
    done = command_in_process(*arguments)
    assert done.returncode == 0, done.stderr
    # What is finished is taken up, and files of an unchanged network stay.
    assert "This phase is already finished" in done.stdout
    assert "Epoch" not in done.stdout
    for path, time in written.items():
        assert (path.stat().st_mtime_ns == time) == (path.parent.name == "before"), path
    again = keras.saving.load_model(tmp_path / "out" / "model.keras")
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    done = command_in_process(*arguments, "--batch-size", "16")
    assert done.returncode == 2
    first, *lines, advice = done.stderr.splitlines()
    assert first.endswith("Received: others. Differences, saved → given:")
    assert "  recipe.batch_size: 32 → 16" in lines
    assert advice.startswith("Use the same network, data and settings, or ")


def network(**changes: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = build(CONFIG.replace(**changes), input_shape=(16, 16, 3), classes=3)
    randomize(model)
    return model


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.float32)


def test_learned_ranges_and_weights_come_back() -> None:
    model = network(shortcut="A")
    work = quantizing_network(model, training_copy, images())
    place = {weight.name: weight for weight in work.twin.weights}
    [pixels] = [place[name] for name in place if re.fullmatch(r"quantize_layer\S*_max:0", name)]
    # Images keep their 256 values.
    assert float(pixels) == images().max()
    started = ranges(quantize_aware(model, images()))
    # Of a sum with its ReLU, of a pooling, and of the logits.
    variables = {
        "conv2_block1_out": "quant_conv2_block1_out/output",
        "avg_pool": "quant_avg_pool/output",
        "predictions": "quant_predictions/post_activation",
    }
    for name, variable in variables.items():
        assert float(place[f"{variable}_max:0"]) == pytest.approx(float(started[name].high))
        place[f"{variable}_min:0"].assign(-1.5)
        place[f"{variable}_max:0"].assign(2.5)
    place["conv1_conv/kernel:0"].assign_add(0.25 * np.ones((3, 3, 3, 8)))
    work.round_kernels()
    result = work.to_keras()
    for name in variables:
        ends = ranges(result)[name]
        assert (float(ends.low), float(ends.high)) == (-1.5, 2.5)
    moved = result.get_layer("conv1_conv").kernel - model.get_layer("conv1_conv").kernel
    np.testing.assert_allclose(moved, 0.25, rtol=1e-5)
    # What was trained and what came back compute the same, up to the steps of 8 bits.
    expected = keras.ops.softmax(work.twin(images(), training=False).numpy())
    np.testing.assert_allclose(result(images()), expected, atol=0.05)


def test_shared_values_are_those_of_the_twin() -> None:
    """Negative scales would double their number in what comes back."""
    model = network()
    norm = model.get_layer("conv2_block1_1_bn")
    norm.gamma.assign(-norm.gamma)
    work = clustering_network(model, training_copy, 5)
    expected = keras.ops.softmax(work.twin(images(), training=False).numpy())
    result = work.to_keras()
    np.testing.assert_allclose(result(images()), expected, atol=1e-5)
    kernel = strip(result).get_layer("conv2_block1_1_conv").kernel
    assert len(np.unique(kernel)) == 5


def test_what_tfmot_cannot_quantize_is_refused_with_the_other_engine_named() -> None:
    for changes, message in (
        ({"version": "v2"}, r"batch normalization follows convolutions only.*preact_bn does not"),
        ({"se_ratio": 0.25}, r"can compress.*[Mm]ultiply"),
    ):
        with pytest.raises(ValueError, match=rf"{message}.*Use the native engine"):
            quantizing_network(network(**changes), training_copy, images())
    earlier = strip(prune(network(), 0.5))
    assert max(sparsity_of(earlier).values()) > 0.4
    with pytest.raises(ValueError, match=r"earlier compression.*Use the native engine"):
        pruning_network(earlier, training_copy, 0.8, 10)


@pytest.mark.parametrize(
    ("options", "keywords", "message"),
    [
        ({"methods": ("prune", "qat")}, {}, "Expected one method with engine='tfmot'"),
        ({"methods": ("prune",), "pattern": "block"}, {}, "Expected single weights"),
        ({"skip": ("conv1_conv",)}, {}, "Expected all layers in int8"),
        ({}, {"checkpoint_every": 3}, "Expected no arguments of `train`.*`checkpoint_every`"),
        ({}, {"recipe": {"average.decay": 0.9}}, "Expected no `average.decay`.*0.9"),
        ({}, {"recipe": {"optimizer.accumulation": 2}}, "Expected no `optimizer.accumulation`"),
        ({}, {"dtype": "mixed_bfloat16"}, "Expected float32 .*bfloat16"),
    ],
)
def test_what_would_be_ignored_is_refused_before_anything_is_written(
    options: dict[str, Any], keywords: dict[str, Any], message: str, tmp_path: Path
) -> None:
    dtype = keywords.pop("dtype", None)
    recipe = override(RECIPE, keywords.pop("recipe", {}))
    model = build(CONFIG, input_shape=(16, 16, 3), classes=10, dtype=dtype)
    with pytest.raises(ValueError, match=rf"{message}.*Use the native engine"):
        compress(
            *(model, "digits", tmp_path / "out", CompressionOptions(engine="tfmot", **options)),
            recipe=recipe, timing=None, **keywords,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_unknown_engines_are_refused() -> None:
    engine: Any = "torch"
    with pytest.raises(ValueError, match="Expected `engine` to be one of"):
        CompressionOptions(engine=engine)


@pytest.mark.full
def test_tf_keras_stays_apart_from_keras(run_new_python: Run) -> None:
    """Also where nothing has used `tf.keras` before."""
    done = run_new_python(
        "import os, keras_resnet.compression.tfmot as module\n"
        "module.load_tfmot()\n"
        "import tensorflow as tf\n"
        "print(os.environ.get('TF_USE_LEGACY_KERAS'), tf.keras.__version__[0])"
    )
    assert done.stdout.split() == ["None", "3"], done.stderr
    assert load_tfmot().__name__ == "tensorflow_model_optimization"
