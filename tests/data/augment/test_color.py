from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from keras_resnet.data.augment import color

COUNT = 600


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Noise with patches of white, black and one colour, `(20, 14, 3)`."""
    picture = np.random.default_rng(0).integers(0, 256, (20, 14, 3), dtype=np.uint8)
    picture[:3, :3], picture[:3, -3:], picture[-3:, :3] = 255, 0, (200, 30, 90)
    return picture


def mapped(function: Callable[..., tf.Tensor], image: np.ndarray, count: int) -> np.ndarray:
    """The image under the seeds (0, 5), (1, 5), …, from one pipeline."""
    dataset = tf.data.Dataset.range(count, output_type=tf.int32)
    dataset = dataset.map(lambda index: function(tf.constant(image), tf.stack([index, 5])))
    return next(dataset.batch(count).as_numpy_iterator())


def turned(pixels: np.ndarray, turns: float) -> np.ndarray:
    flat = [colorsys.rgb_to_hsv(*pixel) for pixel in pixels.reshape(-1, 3).astype(float)]
    back = [colorsys.hsv_to_rgb((h + turns) % 1, s, v) for h, s, v in flat]
    return np.array(back).reshape(pixels.shape).astype(np.float32)


def blended(pixels: np.ndarray, other: np.ndarray | float, factor: np.float32) -> np.ndarray:
    return np.clip(other + factor * (pixels - other), 0, 255).astype(np.float32)


def grey(pixels: np.ndarray) -> np.ndarray:
    red, green, blue = (pixels[..., index : index + 1] for index in range(3))
    return np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue


def jittered(
    image: np.ndarray, seed: list[int], most: dict[str, float], order: list[str] | None = None
) -> np.ndarray:
    draws = tf.random.stateless_uniform((2, 4), seed).numpy()
    names = ["brightness", "contrast", "saturation", "hue"]
    pixels = image.astype(np.float32)
    for name in order or sorted(most, key=lambda name: draws[1, names.index(name)]):
        change = np.float32(most[name]) * (2 * draws[0, names.index(name)] - 1)
        if name == "hue":
            pixels = turned(pixels, change)
        elif name == "brightness":
            pixels = blended(pixels, 0.0, 1 + change)
        elif name == "contrast":
            mean = np.float32(grey(pixels).mean(dtype=np.float64))
            pixels = blended(pixels, mean, 1 + change)
        else:
            pixels = blended(pixels, grey(pixels), 1 + change)
    return np.rint(pixels).astype(np.uint8)


@pytest.mark.parametrize(
    "most",
    [
        {"brightness": 0.4},
        {"contrast": 0.4},
        {"saturation": 1.0},
        {"hue": 0.5},
        {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0},
        {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    ],
    ids=lambda most: "+".join(most),
)
def test_color_jitter_is_the_formula(picture: np.ndarray, most: dict[str, float]) -> None:
    results = mapped(lambda image, seed: color.color_jitter(image, seed, **most), picture, 40)
    expected = np.stack([jittered(picture, [index, 5], most) for index in range(40)])
    difference = np.abs(results.astype(int) - expected)
    # The reference turns hues in float64: what follows may round a half to the other side.
    assert difference.max() <= ("hue" in most)
    assert difference.mean() < 1e-4
    assert len(np.unique(results.reshape(40, -1), axis=0)) == 40


@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_each_blend_is_near_pillow(
    picture: np.ndarray, name: str, enhance: Callable[..., ImageEnhance._Enhance]
) -> None:
    results = mapped(lambda i, seed: color.color_jitter(i, seed, **{name: 0.8}), picture, 40)
    column = ["brightness", "contrast", "saturation"].index(name)
    for index, result in enumerate(results):
        draw = tf.random.stateless_uniform((2, 4), [index, 5])[0, column]
        expected = enhance(Image.fromarray(picture)).enhance(float(1 + 0.8 * (2 * draw - 1)))
        assert np.abs(result.astype(int) - np.asarray(expected)).max() <= 2


def test_brightness_is_uniform() -> None:
    level = np.full((1, 1, 3), 125, np.uint8)
    drawn = mapped(lambda i, seed: color.color_jitter(i, seed, brightness=0.4), level, COUNT)
    factors = drawn[:, 0, 0, 0] / 125
    assert factors.min() >= 0.6
    assert factors.max() <= 1.4
    assert factors.mean() == pytest.approx(1, abs=0.04)
    assert factors.std() == pytest.approx(0.8 / 12**0.5, rel=0.1)


def test_order_of_jitter_is_random() -> None:
    image = np.array([[[50, 50, 50], [200, 200, 200]]], np.uint8)
    most = {"brightness": 1.0, "contrast": 1.0}
    results = mapped(lambda i, seed: color.color_jitter(i, seed, 1.0, 1.0), image, COUNT)
    one, other = (
        np.stack([jittered(image, [index, 5], most, order) for index in range(COUNT)])
        for order in (["brightness", "contrast"], ["contrast", "brightness"])
    )
    telling = (one != other).any(axis=(1, 2, 3))
    assert telling.sum() > COUNT / 5
    is_one = (results == one).all(axis=(1, 2, 3))[telling]
    is_other = (results == other).all(axis=(1, 2, 3))[telling]
    assert (is_one ^ is_other).all()
    assert is_one.mean() == pytest.approx(0.5, abs=0.1)


def test_nothing_to_jitter_changes_nothing(picture: np.ndarray) -> None:
    np.testing.assert_array_equal(color.color_jitter(picture, [1, 2]), picture)


def test_lighting_is_the_formula(picture: np.ndarray) -> None:
    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    results = mapped(lambda image, seed: color.lighting(image, seed, 0.3), picture, 40)
    for index, result in enumerate(results):
        alpha = tf.random.stateless_normal((3,), [index, 5]).numpy() * 0.3
        shifted = picture + 255 * vectors @ (alpha * values)
        np.testing.assert_array_equal(result, np.clip(np.rint(shifted), 0, 255))


def test_lighting_has_the_covariance_of_the_components() -> None:
    level = np.full((1, 1, 3), 128, np.uint8)
    shifts = mapped(lambda i, seed: color.lighting(i, seed, 0.5), level, 3 * COUNT)[:, 0, 0] - 128.0
    # The components are orthogonal: the greatest one moves all colours alike, by 255 * 0.2175 / 2
    # levels in all.
    assert shifts.mean(axis=0) == pytest.approx(0, abs=1.5)
    assert np.sqrt((shifts**2).sum(axis=1).mean()) == pytest.approx(255 * 0.2184 / 2, rel=0.05)
    assert np.corrcoef(shifts.T).min() > 0.95


def test_auto_contrast_is_pillows() -> None:
    rng = np.random.default_rng(1)
    low = rng.integers(0, 255, (300, 1, 1, 3))
    width = rng.integers(0, 256 - low)
    images = (low + rng.integers(0, width + 1, (300, 9, 7, 3))).astype(np.uint8)
    results = tf.data.Dataset.from_tensor_slices(images).map(color.auto_contrast)
    for image, result in zip(images, results.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(result, ImageOps.autocontrast(Image.fromarray(image)))


def test_random_auto_contrast_keeps_its_probability() -> None:
    image = np.array([[[10, 20, 30], [60, 60, 60]]], np.uint8)
    results = mapped(lambda i, seed: color.random_auto_contrast(i, seed, 0.3), image, COUNT)
    stretched = (results == [[[0, 0, 0], [255, 255, 255]]]).all(axis=(1, 2, 3))
    assert stretched.mean() == pytest.approx(0.3, abs=0.06)
    np.testing.assert_array_equal(results[~stretched], np.stack([image] * sum(~stretched)))
    for probability, expected in ((0.0, 0), (1.0, 40)):
        results = mapped(
            lambda i, seed, p=probability: color.random_auto_contrast(i, seed, p), image, 40
        )
        assert (results != image).any(axis=(1, 2, 3)).sum() == expected


EVERYTHING: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "color_jitter": lambda image, seed: color.color_jitter(image, seed, 0.4, 0.4, 0.4, 0.1),
    "lighting": lambda image, seed: color.lighting(image, seed, 0.1),
    "random_auto_contrast": lambda image, seed: color.random_auto_contrast(image, seed, 0.5),
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_seed_has_one_result(picture: np.ndarray, name: str) -> None:
    picture = picture // 2 + 20
    first, second = (mapped(EVERYTHING[name], picture, 12) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    for index in range(3):
        long = tf.constant([index, 5], tf.int64)
        np.testing.assert_array_equal(EVERYTHING[name](picture, long), first[index])
    assert len(np.unique(first.reshape(12, -1), axis=0)) > 1


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_extremes(name: str, size: tuple[int, int]) -> None:
    traced = tf.function(
        EVERYTHING[name],
        input_signature=[tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((2,), tf.int32)],
    )
    for level in (0, 255):
        result = traced(np.full((*size, 3), level, np.uint8), [3, 4])
        assert result.dtype == tf.uint8
        assert result.shape == (*size, 3)
        assert name == "lighting" or np.ptp(result.numpy()) == 0
