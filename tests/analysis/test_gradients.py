"""Gradients by depth, against direct computations and constructed networks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_resnet
from keras_resnet.analysis import gradient_norms
from keras_resnet.analysis.studies.families import gradient_configs
from keras_resnet.analysis.studies.gradient_study import (
    GradientStudy,
    NetworkGradients,
    _Trainer,
    without_batch_norm,
)
from keras_resnet.analysis.studies.gradients import GradientNorms, factor_per_step

from ..conftest import Command
from .test_studies import network


def test_norms_are_those_of_a_training_step(images: np.ndarray) -> None:
    model, labels = network((1, 1, 1)), np.arange(8)
    pixels = images[:8].astype(np.float32)
    before = model.get_weights()
    found = gradient_norms(model, (pixels, labels), batch_size=8)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert found.layers == tuple(
        f"conv{stage}_block1_{number}_conv" for stage in (2, 3, 4) for number in (1, 2)
    )
    assert found.blocks == ("conv2_block1", "conv3_block1", "conv4_block1")

    kernels = [model.get_layer(name).kernel.value for name in found.layers]
    ends = [model.get_layer(f"{name}_out").output for name in found.blocks]
    probe = keras.Model(model.input, [*ends, model.output])
    with tf.GradientTape(persistent=True) as tape:
        *outputs, answers = probe(pixels, training=True)
        each = -tf.math.log(tf.gather(answers, labels, axis=1, batch_dims=1))
        loss, total = tf.reduce_mean(each), tf.reduce_sum(each)
    assert found.loss == pytest.approx(float(loss), rel=1e-4)
    expected = [np.linalg.norm(gradient) for gradient in tape.gradient(loss, kernels)]
    assert np.allclose(found.kernels, expected, rtol=1e-3)
    for value, gradient in zip(found.outputs, tape.gradient(total, outputs), strict=True):
        of_images = np.linalg.norm(gradient.numpy().reshape(8, -1), axis=1)
        assert value == pytest.approx(np.sqrt((of_images**2).mean()), rel=1e-3)
    # The last block's, from the definition of the cross-entropy behind an average and a layer.
    rest = (np.asarray(answers) - np.eye(10)[labels]) @ model.get_layer(
        "predictions"
    ).kernel.numpy().T
    assert found.outputs[-1] == pytest.approx(
        np.sqrt((rest**2).sum(axis=1).mean() / outputs[-1].shape[1] ** 2), rel=1e-3
    )


def test_norms_of_frozen_and_single_unit_networks(images: np.ndarray) -> None:
    config = keras_resnet.ResNetConfig("basic", (1, 1), (8, 8), stem="cifar", shortcut="A")
    keras.utils.set_random_seed(0)
    one = keras_resnet.build(config, input_shape=(32, 32, 3), classes=1)
    two = keras_resnet.build(config, input_shape=(32, 32, 3), classes=2)
    kernel, bias = one.get_layer("predictions").get_weights()
    # A single unit is the second of two, whose first is always 0.
    weights = [*one.get_weights()[:-2], np.hstack([0 * kernel, kernel]), np.append(0 * bias, bias)]
    two.set_weights(weights)
    data = images[:8], np.arange(8) % 2
    expected = gradient_norms(two, data).kernels
    assert np.allclose(gradient_norms(one, data).kernels, expected, rtol=1e-3)
    for layer in two.layers:
        # Frozen norms would use their averages.
        layer.trainable = not isinstance(layer, keras.layers.Conv2D)
    assert np.allclose(gradient_norms(two, data).kernels, expected, rtol=1e-3)
    with pytest.raises(ValueError, match="Expected at least one image, with one label"):
        gradient_norms(two, (images, [1]))


def test_batches_are_averaged(images: np.ndarray) -> None:
    model, labels = network((1, 1, 1)), np.arange(12) % 10
    found = gradient_norms(model, (images[:12], labels), batch_size=5, seed=3)
    halves = np.array_split(np.random.default_rng(3).permutation(12), 2)
    each = [gradient_norms(model, (images[rows], labels[rows])).kernels for rows in halves]
    assert np.allclose(found.kernels, np.mean(each, axis=0), rtol=1e-3)


def test_factors() -> None:
    assert factor_per_step([1, 2, 4, 8]) == pytest.approx(0.5)
    assert factor_per_step([0.9**3, 0.9**2, 0.9, 1]) == pytest.approx(0.9)
    assert factor_per_step([1, 0, 1]) is None
    assert factor_per_step([1]) is None
    norms = GradientNorms(("a", "b", "c"), (8.0, 4.0, 2.0), ("x", "y"), (3.0, 1.0), 0.5)
    assert norms.ratio == 4
    assert norms.factor == pytest.approx(2)
    assert norms.output_factor == pytest.approx(3)
    assert dataclasses.replace(norms, kernels=(0.0, 1.0)).ratio is None


def constructed(ratio: float | None, layers: int = 54, **fields: object) -> NetworkGradients:
    """A plain network, the gradient of whose first layer is so many times the last layer's."""
    norms = None
    if ratio is not None:
        kernels = tuple(np.geomspace(ratio, 1, layers).tolist())
        norms = GradientNorms(("a",) * layers, kernels, ("x", "y"), (1.0, 1.0), 2.0)
    network = NetworkGradients(layers + 2, False, True, 0, layers, norms, norms, (1.0,))
    return dataclasses.replace(network, **fields)


@pytest.mark.parametrize(
    ("ratio", "verdict", "words"),
    [
        (
            0.004,
            "vanishes",
            "vanishes, as articles claim. Its norm in the first layer is 0.004 times",
        ),
        (0.05, "shrinks", "shrinks, but does not vanish"),
        (2.0, "healthy", "neither vanishes nor explodes"),
        (1700.0, "grows", "grows toward the input. Its norm in the first layer is 1.7e+03 times"),
    ],
)
def test_findings_are_what_was_measured(ratio: float, verdict: str, words: str) -> None:
    study = GradientStudy((constructed(ratio),))
    assert [summary.verdict for summary in study.summaries()] == [verdict] * 2
    assert study.summaries()[0].ratio == pytest.approx(ratio)
    assert study.summaries()[0].assumed_ratio == pytest.approx(0.9**53)
    findings = study.findings()
    assert words in findings[0]
    assert "plain-56 with BN, initial" in findings[0]
    assert ("contradicts articles" in findings[-1]) == (verdict != "vanishes")
    # Nothing is said about networks that are too shallow to show it.
    shallow = GradientStudy((constructed(ratio, layers=18),)).findings()
    assert not any("contradicts articles" in finding for finding in shallow)


def test_seeds_are_summed_up() -> None:
    several = (constructed(2.0), constructed(8.0, seed=1), constructed(None, seed=2))
    study = GradientStudy((*several, constructed(5.0, batch_norm=False)))
    first = study.summaries()[0]
    assert first.ratio == pytest.approx(4)
    assert first.ratios == pytest.approx((2, 8))
    assert first.diverged == 1
    assert [item.name for item in study.summaries()[::2]] == [
        "plain-56 with BN",
        "plain-56 without BN",
    ]
    diverged = GradientStudy((constructed(None, training_losses=(1.0, float("nan"))),))
    assert diverged.summaries()[0].verdict == "diverged"
    assert diverged.findings() == []
    json.dumps(diverged.to_dict(), allow_nan=False)


def test_networks_without_normalisation(images: np.ndarray) -> None:
    model = network((1, 1, 1))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # Of these, the identity but for epsilon.
            ones, zeros = np.ones(layer.gamma.shape), np.zeros(layer.gamma.shape)
            layer.set_weights([ones, zeros, zeros, ones * (1 - layer.epsilon)])
    copy = without_batch_norm(model)
    kinds = {type(layer) for layer in copy.layers}
    assert keras.layers.BatchNormalization not in kinds
    assert keras.layers.Conv2D in kinds
    assert np.allclose(copy(images[:4]), model(images[:4]), atol=1e-5)


def test_measuring_changes_nothing_and_training_does(images: np.ndarray) -> None:
    logits = keras_resnet.build(
        keras_resnet.ResNetConfig("basic", (1, 1, 1), (8, 16, 24), stem="cifar", shortcut="A"),
        input_shape=(32, 32, 3),
        classifier_activation=None,
    )
    trainer = _Trainer(logits, images, np.arange(40) % 10, 8, 0.1)
    before = [weight.numpy() for weight in logits.trainable_weights]
    for steps in (0, 3):
        losses = trainer.train(steps) if steps else ()
        assert len(losses) == steps
        now = [weight.numpy() for weight in logits.trainable_weights]
        measured = trainer.measured()
        assert measured is not None
        for old, new in zip(now, logits.trainable_weights, strict=True):
            np.testing.assert_array_equal(old, new.numpy())
    assert not np.allclose(now[0], before[0])
    # As after training that diverged.
    logits.set_weights([np.nan * weight for weight in logits.get_weights()])
    assert trainer.measured() is None


def test_networks_of_the_comparison_take_options() -> None:
    def chosen(fields: dict) -> dict:
        configs = gradient_configs((8, 14), 0.5, fields)
        return {key: (config.version, config.shortcut) for key, config in configs.items()}

    default = chosen({})
    assert {key: shortcut for key, (_, shortcut) in default.items()} == {
        (depth, shortcuts): "A" if shortcuts else None
        for depth in (8, 14)
        for shortcuts in (True, False)
    }
    assert chosen({"version": "v2", "shortcut": "B"}) == {
        key: ("v2", "B" if key[1] else None) for key in default
    }
    with pytest.raises(
        ValueError, match="without the fields that the study sets. Received: width=2"
    ):
        chosen({"width": 2})


@pytest.mark.full
def test_command_compares_four_kinds_of_network(
    tmp_path: Path, command_in_process: Command
) -> None:
    arguments = ("--depth", "8", "--size", "16", "--steps", "1", "--seeds", "2", "--images", "32")
    arguments += ("--output", str(tmp_path), "--version", "v2", "--shortcut", "B")
    done = command_in_process("analyze", "gradients", *arguments, "--batch-size", "8")
    assert (done.returncode, done.stderr) == (0, "")
    assert "s for training and measuring." in done.stdout
    assert done.stdout.count("residual-8 without BN") >= 2
    assert "plain-8 with BN, initial: the gradient" in done.stdout
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".svg", ".json"}
    found = json.loads((tmp_path / "gradients.json").read_text())
    assert found["assumed_by_articles"]["ratio"] == pytest.approx(0.9**50)
    assert found["settings"]["images"] == 32
    assert found["settings"]["network"] == {"version": "v2", "shortcut": "B"}
    networks = found["networks"]
    kinds = {(item["shortcuts"], item["batch_norm"], item["seed"]) for item in networks}
    assert len(kinds) == len(networks) == 8
    for item in networks:
        assert len(item["initial"]["kernels"]) == item["layers"] == 6
        assert len(item["training_losses"]) == 1
        assert item["initial"]["kernels"] != item["trained"]["kernels"]
    assert networks[0]["initial"]["kernels"] != networks[1]["initial"]["kernels"]


def test_command_measures_one_network(
    tmp_path: Path, digits_file: Path, command_in_process: Command
) -> None:
    one_class = tmp_path / "images"
    (one_class / "cat").mkdir(parents=True)
    for index in range(4):
        Image.new("RGB", (16, 16)).save(one_class / "cat" / f"{index}.png")
    arguments = ("analyze", "gradients", "--output", str(tmp_path / "out"))
    done = command_in_process(*arguments, "--model", str(digits_file), "--images", "40")
    assert (done.returncode, done.stderr) == (0, "")
    assert "s for the gradients." in done.stdout
    found = json.loads((tmp_path / "out" / "gradients.json").read_text())
    assert len(found["kernels"]) == 6
    assert found["images"] == 40
    for extra, message in (
        (("--model", str(digits_file), "--depth", "8"), "Expected no `--depth` with `--model`"),
        (("--model", "resnet20"), "Expected `--weights` with the name"),
        (("--weights", "imagenet"), "Expected `--weights` only with `--model`"),
        (("--depth", "21"), "Expected depths of 6n+2 layers (8, 14, 20, …). Received: 21. Nearest"),
        (("--model", str(digits_file), "--version", "v2"), "Received: --net version=v2"),
        (
            ("--data", f"folder:{one_class}"),
            "Expected data with at least two classes. Received: fold",
        ),
    ):
        done = command_in_process(*arguments, *extra, "--overwrite")
        assert done.returncode == 2
        assert message in done.stderr
