"""What speaks for a class, against direct computations."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_resnet
from keras_resnet.analysis import deletion_insertion, grad_cam
from keras_resnet.analysis.studies.explain import (
    explain,
    grad_cam_pp,
    integrated_gradients,
    occlusion,
    overlay,
    short_run,
)
from keras_resnet.analysis.studies.overlays import explain_files
from keras_resnet.data import load_digits

from ..conftest import Command


def direct_grad_cam(model: keras.Model, images: np.ndarray, index: int) -> np.ndarray:
    """Grad-CAM as in the paper, from a model of maps and logits."""
    pooled = model.get_layer("avg_pool")
    kernel, bias = model.layers[-1].get_weights()
    probe = keras.Model(model.input, [pooled.input, pooled.output])
    with tf.GradientTape() as tape:
        maps, _ = probe(images.astype(np.float32), training=False)
        tape.watch(maps)
        score = tf.reduce_sum((tf.reduce_mean(maps, (1, 2)) @ kernel + bias)[:, index])
    weights = tape.gradient(score, maps).numpy().mean((1, 2), keepdims=True)
    heat = np.maximum((maps.numpy() * weights).sum(-1), 0)
    return heat / heat.max((1, 2), keepdims=True)


def enlarged(heat: np.ndarray, side: int = 32) -> np.ndarray:
    pictures = (Image.fromarray(x).resize((side, side), Image.Resampling.BILINEAR) for x in heat)
    found = np.stack([np.asarray(picture) for picture in pictures])
    return found / found.max((1, 2), keepdims=True)


def test_flat_model(tiny_model: keras.Model, images: np.ndarray) -> None:
    index = int(np.asarray(tiny_model(images[:1])).argmax())
    found = grad_cam(tiny_model, images[:3], index)
    assert found.shape == (3, 32, 32)
    assert found.dtype == np.float32
    assert np.allclose(found, enlarged(direct_grad_cam(tiny_model, images[:3], index)), atol=1e-4)
    # The model is as it was.
    assert tiny_model.layers[-1].activation is keras.activations.softmax
    assert all("call" not in vars(layer) for layer in tiny_model.layers)


def test_nested_and_reloaded_models(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    flat = grad_cam(tiny_model, images[:2], 3)
    image = keras.Input((32, 32, 3))
    nested = keras.Model(image, tiny_model(image))
    assert np.allclose(grad_cam(nested, images[:2], 3), flat, atol=1e-5)
    nested.save(tmp_path / "nested.keras")
    again = keras_resnet.load_model(tmp_path / "nested.keras")
    assert np.allclose(grad_cam(again, images[:2], 3), flat, atol=1e-5)

    backbone = keras_resnet.feature_extractor(tiny_model, ("C4",))
    pooled = keras.layers.GlobalAveragePooling2D()(backbone(image)["C4"])
    head = keras.layers.Dense(10, activation="softmax")
    own = keras.Model(image, head(pooled))
    head.set_weights(tiny_model.layers[-1].get_weights())
    assert np.allclose(grad_cam(own, images[:2], 3), flat, atol=1e-5)


def test_levels_and_names_of_classes(tiny_model: keras.Model, images: np.ndarray) -> None:
    top = np.asarray(tiny_model(images[:2])).argmax(-1)
    each = [grad_cam(tiny_model, images[i : i + 1], int(top[i])) for i in range(2)]
    assert np.allclose(grad_cam(tiny_model, images[:2]), np.concatenate(each), atol=1e-5)
    coarse, fine = (grad_cam(tiny_model, images[:2], 3, level) for level in ("C4", "C2"))
    assert not np.allclose(coarse, fine)
    named = keras.models.clone_model(tiny_model)
    named.set_weights(tiny_model.get_weights())
    keras_resnet.set_class_names(named, [f"digit {index}" for index in range(10)])
    assert np.allclose(grad_cam(named, images[:2], "digit 3"), grad_cam(tiny_model, images[:2], 3))
    with pytest.raises(ValueError, match="Expected `level` to be one of"):
        grad_cam(tiny_model, images[:2], 3, "C5")
    for wrong in (10, -1, "digit 3", 1.5):
        with pytest.raises(ValueError, match="Expected `class_index` to be an index below 10"):
            grad_cam(tiny_model, images[:2], wrong)


def test_integrated_gradients_add_up_to_the_logit(
    tiny_model: keras.Model, images: np.ndarray
) -> None:
    # Completeness (the paper's proposition 1) holds for the signed sum; of a linear model, the
    # attributions are exactly weight times pixel.
    image = keras.Input((8, 8, 3))
    flat = keras.layers.Flatten()(image)
    linear = keras.Model(image, keras.layers.Dense(2)(flat))
    kernel = linear.layers[-1].get_weights()[0][:, 1].reshape(8, 8, 3)
    pixels = images[:1, :8, :8].astype(np.float32)
    expected = np.abs(kernel * pixels[0]).sum(-1)
    found = integrated_gradients(linear, pixels, 1, steps=4)[0]
    assert np.allclose(found, expected / expected.max(), atol=1e-5)


def test_occlusion_by_hand() -> None:
    image = keras.Input((4, 4, 3))
    # The probability of class 0 depends on the top left quarter alone.
    quarter = keras.layers.Cropping2D(((0, 2), (0, 2)))(image)
    mean = keras.layers.GlobalAveragePooling2D()(quarter)
    model = keras.Model(image, keras.layers.Dense(2, "softmax")(mean))
    model.layers[-1].set_weights([np.array([[0.01, 0]] * 3, np.float32), np.zeros(2, np.float32)])
    pixels = np.zeros((1, 4, 4, 3), np.float32)
    pixels[:, :2, :2] = 255
    found = occlusion(model, pixels, 0, patch=2, stride=2)[0]
    assert found[:2, :2].min() == 1
    assert found[2:].max() == found[:, 2:].max() == 0


def test_grad_cam_pp_weights_by_positive_gradients(
    tiny_model: keras.Model, images: np.ndarray
) -> None:
    found = grad_cam_pp(tiny_model, images[:2], 3)
    assert found.shape == (2, 32, 32)
    assert not np.allclose(found, grad_cam(tiny_model, images[:2], 3))


def test_overlays_of_files(digits_file: Path, tmp_path: Path) -> None:
    model = keras_resnet.load_model(digits_file)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 50), "white").save(tmp_path / folder / "x.png")
    (tmp_path / "bad.png").write_bytes(b"")
    paths = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png", tmp_path / "bad.png"]
    bad = explain_files(model, paths, tmp_path / "out")
    assert list(bad) == [str(paths[2])]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"x.png", "x-2.png", "explain.json"}
    first, second = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert (first["picture"], second["picture"]) == ("x.png", "x-2.png")
    white = np.full((1, 32, 32, 3), 255, np.uint8)
    top = model.predict(white, verbose=0)[0]
    assert first["class"] == str(top.argmax())
    assert first["answer"] == pytest.approx(top.max(), abs=1e-5)
    with pytest.raises(ValueError, match="Expected `level` only with .* with occlusion"):
        explain(model, white, None, "occlusion", level="C3")
    with Image.open(tmp_path / "out" / "x.png") as picture:
        assert picture.size == (32, 32)
    black = np.zeros((2, 2, 3), np.uint8)
    assert overlay(black, np.array([[0.0, 1.0], [0.0, 0.0]]))[0, 0].tolist() == [0, 0, 0]
    assert overlay(black, np.array([[0.0, 1.0], [0.0, 0.0]]))[0, 1].max() > 100


def test_both_classes_of_a_single_unit(
    tiny_config: keras_resnet.ResNetConfig, images: np.ndarray
) -> None:
    keras.utils.set_random_seed(0)
    model = keras_resnet.build(tiny_config, input_shape=(32, 32, 3), classes=1)
    two = keras_resnet.build(tiny_config, input_shape=(32, 32, 3), classes=2)
    kernel, bias = model.layers[-1].get_weights()
    two.set_weights([*model.get_weights()[:-2], two.get_weights()[-2], two.get_weights()[-1]])
    # The same as two units of which the first one's logit is 0, but for their sum.
    two.layers[-1].set_weights([np.hstack([-kernel, kernel]), np.hstack([-bias, bias])])
    for index in (0, 1):
        found, expected = (grad_cam(network, images[:3], index) for network in (model, two))
        assert np.allclose(found, expected, atol=1e-4)
    with pytest.raises(ValueError, match="an index below 2"):
        grad_cam(model, images[:3], 2)


def test_occlusion_reaches_the_edges() -> None:
    image = keras.Input((8, 8, 3))
    corner = keras.layers.Cropping2D(((6, 0), (6, 0)))(image)
    mean = keras.layers.GlobalAveragePooling2D()(corner)
    model = keras.Model(image, keras.layers.Dense(2, "softmax")(mean))
    model.layers[-1].set_weights([np.array([[0.01, 0]] * 3, np.float32), np.zeros(2, np.float32)])
    pixels = np.zeros((1, 8, 8, 3), np.float32)
    pixels[:, 6:, 6:] = 255
    found = occlusion(model, pixels, 0, patch=3, stride=4)[0]
    assert found[7, 7] == 1


def test_deletion_and_insertion_curves_by_hand() -> None:
    """The probability is the share of red in the left half: each pixel there counts alike."""
    image = keras.Input((8, 8, 3))
    left = keras.layers.Cropping2D(((0, 0), (0, 4)))(image)
    mean = keras.layers.GlobalAveragePooling2D()(left)
    head = keras.layers.Dense(2, use_bias=False, activation="softmax")
    model = keras.Model(image, head(mean))
    head.set_weights([np.array([[0, 0.05], [0, 0], [0, 0]])])
    pixels = np.zeros((8, 8, 3), np.float32)
    pixels[:, :4, 0] = 200
    heat = np.zeros((8, 8))
    heat[:, :4] = 1

    def probability(red: float) -> float:
        return 1 / (1 + np.exp(-0.05 * red))

    found = deletion_insertion(model, pixels, heat, 1, steps=4)
    assert found.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    # A deleted pixel has the mean red, 100: half of the left half is deleted after a quarter.
    expected = [probability(red) for red in (200, 150, 100, 100, 100)]
    np.testing.assert_allclose(found.deletion, expected, rtol=1e-4)
    np.testing.assert_allclose(found.insertion[2:], [probability(200)] * 3, rtol=1e-4)
    assert found.insertion[0] < found.insertion[1] < found.insertion[2]
    area = np.sum((found.deletion[1:] + found.deletion[:-1]) / 2) / 4
    assert found.deletion_area == pytest.approx(area)
    opposite = deletion_insertion(model, pixels, -heat, 1, steps=4)
    assert opposite.deletion_area > found.deletion_area
    assert opposite.insertion_area < found.insertion_area


@pytest.fixture(scope="module")
def knowing(digits_file: Path) -> keras.Model:
    """A network that knows the digits."""
    return keras_resnet.load_model(digits_file)


@pytest.mark.parametrize("method", ["grad_cam", "grad_cam_pp", "occlusion"])
def test_explanations_beat_their_opposites(knowing: keras.Model, method: str) -> None:
    """What is pointed at matters more than the rest."""
    digits = load_digits(32)[1].images[:8]
    areas = []
    for digit, heat in zip(digits, explain(knowing, digits, method=method), strict=True):
        assert heat.min() >= 0
        assert heat.max() <= 1
        pair = [deletion_insertion(knowing, digit, sign * heat, steps=8) for sign in (1, -1)]
        areas.append([(one.deletion_area, one.insertion_area) for one in pair])
    (deleted, inserted), (opposite_deleted, opposite_inserted) = np.mean(areas, axis=0)
    assert deleted < opposite_deleted
    assert inserted > opposite_inserted


def test_integrated_gradients_find_what_differs_from_black(knowing: keras.Model) -> None:
    """The probability falls faster where the map is high than where it is low."""
    pixels = load_digits(32)[1].images[:12]
    top = knowing.predict(pixels, verbose=0).argmax(-1)
    heat = integrated_gradients(knowing, pixels)
    assert heat.min() >= 0
    assert heat.max() <= 1
    order = heat.reshape(12, -1).argsort(-1, kind="stable")
    probabilities = []
    for chosen in (order[:, -200:], order[:, :200]):
        deleted = pixels.copy().reshape(12, -1, 3)
        deleted[np.arange(12)[:, np.newaxis], chosen] = 0
        answers = knowing.predict(deleted.reshape(pixels.shape), verbose=0)
        probabilities.append(answers[np.arange(12), top].mean())
    assert probabilities[0] < probabilities[1]


@pytest.mark.parametrize(
    ("heat", "steps", "message"),
    [
        (np.zeros((31, 32)), 4, r"shapes \(32, 32, 3\) and \(31, 32\)"),
        (np.full((32, 32), np.nan), 4, "of finite values"),
        (np.zeros((32, 32)), 1025, "at most 1024 steps"),
        (np.zeros((32, 32)), 0, "`steps`"),
    ],
)
def test_maps_that_do_not_fit(
    tiny_model: keras.Model, images: np.ndarray, heat: np.ndarray, steps: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        deletion_insertion(tiny_model, images[0], heat, steps=steps)


def test_short_runs_stand_for_whole_ones(
    tiny_model: keras.Model, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(
        "keras_resnet.analysis.studies.explain.answers_of",
        lambda model, pixels: calls.append(1) or np.eye(10)[np.zeros(len(pixels), int)],
    )
    shorter, times = short_run("occlusion", (32, 32))
    occlusion(tiny_model, images[:1])
    whole = len(calls)
    calls.clear()
    occlusion(tiny_model, images[:1], **shorter)
    assert whole == times * len(calls) == 1 + 15 * 15
    assert short_run("grad_cam", (32, 32)) == ({}, 1)
    shorter, times = short_run("integrated_gradients", (32, 32))
    assert shorter["steps"] * times == 32


def test_command_replaces_no_image_unasked(
    digits_file: Path, tmp_path: Path, command_in_process: Command
) -> None:
    image = tmp_path / "digit.png"
    Image.new("L", (8, 8), 90).save(image)
    before = image.read_bytes()
    arguments = ("analyze", "explain", str(digits_file), str(image), "--output")
    # The picture of an image would be called like it.
    done = command_in_process(*arguments, str(tmp_path))
    assert done.returncode == 2
    assert f"Received: {image}. Pass `--overwrite`" in done.stderr
    assert image.read_bytes() == before
    done = command_in_process(*arguments, str(image))
    assert done.returncode == 2
    assert "Expected a directory that can be written to" in done.stderr
    for extra, expected in (((), 0), ((), 2), (("--overwrite",), 0)):
        done = command_in_process(*arguments, str(tmp_path / "out"), *extra)
        assert done.returncode == expected, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"digit.png", "explain.json"}
