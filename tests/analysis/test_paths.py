"""Paths through a residual network, against networks with one path that are built by hand."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_resnet
from keras_resnet.analysis import path_study
from keras_resnet.analysis.studies.blocks import take_apart
from keras_resnet.analysis.studies.logits import losses
from keras_resnet.analysis.studies.paths import _Gradients

from ..conftest import Command, randomize
from .test_studies import network


def gradient_of_path(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, path: tuple[int, ...]
) -> np.ndarray:
    """The gradient at the images where the branches that a path leaves out are constants."""
    parts = take_apart(model)
    with tf.GradientTape() as tape:
        pixels = tf.constant(images, tf.float32)
        tape.watch(pixels)
        x = parts.stem(pixels)
        for index, block in enumerate(parts.blocks):
            assert block.shortcut is not None
            assert block.residual is not None
            shortcut, residual = block.shortcut(x), block.residual(x)
            if index in path:
                shortcut = tf.stop_gradient(shortcut)
            else:
                residual = tf.stop_gradient(residual)
            x = block.tail(shortcut + residual)
        loss = losses(parts.head(x), labels)
    return tape.gradient(loss, pixels).numpy()


def headless(**fields: str) -> keras.Model:
    """A network of three blocks that ends with logits."""
    config = keras_resnet.ResNetConfig(
        "basic", (1, 1, 1), (8, 16, 24), stem="cifar", **{"shortcut": "A", **fields}
    )
    keras.utils.set_random_seed(0)
    model = keras_resnet.build(config, input_shape=(32, 32, 3), classifier_activation=None)
    randomize(model)
    return model


@pytest.mark.parametrize("fields", [{}, {"shortcut": "B"}, {"version": "v2", "shortcut": "B"}])
def test_gradients_of_all_paths(fields: dict[str, str], images: np.ndarray) -> None:
    model, labels = headless(**fields), np.arange(4)
    pixels = images[:4]
    gradients = _Gradients(model, take_apart(model), pixels, labels)
    paths = [path for n in range(4) for path in itertools.combinations(range(3), n)]
    expected = {path: gradient_of_path(model, pixels, labels, path) for path in paths}
    scale = max(np.abs(gradient).max() for gradient in expected.values())
    for path in paths:
        assert np.allclose(gradients.along(path), expected[path], atol=1e-5 * scale)

    # Their sum is the network's own gradient, and sums by length are exact.
    with tf.GradientTape() as tape:
        x = tf.constant(pixels, tf.float32)
        tape.watch(x)
        loss = losses(model(x, training=False), labels)
    whole = tape.gradient(loss, x).numpy()
    sums = gradients.by_length()
    assert np.allclose(sums.sum(axis=0), whole, atol=1e-5 * scale)
    for length in range(4):
        of_length = [gradient for path, gradient in expected.items() if len(path) == length]
        assert np.allclose(sums[length], sum(of_length), atol=1e-5 * scale)

    study = path_study(model, (pixels, labels), samples=3)
    assert study.counts == study.samples == (1, 3, 3, 1)
    norms = {
        path: np.linalg.norm(gradient.reshape(4, -1), axis=1).mean()
        for path, gradient in expected.items()
    }
    by_length = [[norms[path] for path in paths if len(path) == length] for length in range(4)]
    assert np.allclose(study.norms, [np.mean(values) for values in by_length], rtol=1e-3)
    assert np.allclose(study.spreads, [np.std(values) for values in by_length], rtol=1e-2)
    totals = np.array([np.sum(values) for values in by_length])
    assert np.allclose(study.shares, totals / totals.sum(), rtol=1e-3)
    parts = [(sums[length] * whole).sum() / (whole**2).sum() for length in range(4)]
    assert np.allclose(study.exact_shares, parts, rtol=1e-3, atol=1e-5)
    assert sum(study.exact_shares) == pytest.approx(1)


def test_effective_paths_are_the_shortest_range(images: np.ndarray) -> None:
    study = path_study(network((2, 2, 2)), (images, np.arange(40) % 10), samples=4, images=5)
    assert study.images == 5
    assert study.counts == tuple(math.comb(6, length) for length in range(7))
    assert study.samples == (1, 4, 4, 4, 4, 4, 1)
    low, high = study.effective
    assert sum(study.shares[low : high + 1]) >= 0.95
    shorter = [sum(study.shares[i : i + high - low]) for i in range(7)]
    assert max(shorter) < 0.95
    assert study.effective_paths == sum(study.counts[low : high + 1]) / 64
    json.dumps(study.to_dict(), allow_nan=False)


def test_probabilities_are_the_same_as_logits(images: np.ndarray) -> None:
    logits = headless()
    last = logits.get_layer("predictions")
    soft = keras.Model(logits.input, keras.layers.Softmax()(last.output))
    keras.utils.set_random_seed(0)
    inside = keras_resnet.build(
        keras_resnet.ResNetConfig("basic", (1, 1, 1), (8, 16, 24), stem="cifar", shortcut="A"),
        input_shape=(32, 32, 3),
    )
    inside.set_weights(logits.get_weights())
    data = images, np.arange(40) % 10
    expected = path_study(logits, data).norms
    for model in (soft, inside):
        assert np.allclose(path_study(model, data).norms, expected, rtol=1e-4)
        # The model is as it was.
        assert np.allclose(np.asarray(model(images[:2])).sum(-1), 1, atol=1e-5)
    unknown = keras.Model(logits.input, keras.ops.softmax(last.output))
    with pytest.raises(ValueError, match="Expected a single-label classifier"):
        path_study(unknown, data)


def test_plain_networks_have_one_path(images: np.ndarray) -> None:
    plain = network((1, 2, 1), shortcut=None)
    with pytest.raises(ValueError, match="Expected a residual network.*conv2_block1 has no"):
        path_study(plain, (images, np.zeros(40, int)))


def test_command_measures_paths_by_default(
    digits_file: Path, tmp_path: Path, command_in_process: Command
) -> None:
    arguments = ("analyze", "lesion", str(digits_file), "--data", "digits", "--images", "20")
    arguments += ("--output", str(tmp_path))
    done = command_in_process(*arguments)
    assert done.returncode == 0, done.stderr
    paths = json.loads((tmp_path / "lesion.json").read_text())["paths"]
    assert paths["counts"] == [1, 3, 3, 1]
    assert "s for the gradient along paths." in done.stdout
    assert "Of 8 paths, those through" in done.stdout
    assert command_in_process(*arguments, "--paths", "0", "--overwrite").returncode == 0
    assert json.loads((tmp_path / "lesion.json").read_text())["paths"] is None


def test_command_leaves_paths_out_of_plain_networks(
    tmp_path: Path, command_in_process: Command
) -> None:
    plain = network((1, 1, 1), shortcut=None)
    plain.save(tmp_path / "plain.keras")
    arguments = ("analyze", "lesion", str(tmp_path / "plain.keras"), "--data", "digits")
    arguments += ("--images", "20", "--output", str(tmp_path / "out"))
    done = command_in_process(*arguments)
    assert done.returncode == 0, done.stderr
    assert "along paths" not in done.stdout
    assert json.loads((tmp_path / "out" / "lesion.json").read_text())["paths"] is None
    done = command_in_process(*arguments, "--paths", "3", "--overwrite")
    assert done.returncode == 2
    assert "Expected a residual network" in done.stderr
