from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.data.augment.erasing import random_erasing

COUNT = 600


def mapped(image: np.ndarray, count: int, probability: float = 1.0) -> np.ndarray:
    """The image under the seeds (0, 5), (1, 5), …, from one pipeline."""
    dataset = tf.data.Dataset.range(count, output_type=tf.int32)
    dataset = dataset.map(
        lambda index: random_erasing(tf.constant(image), tf.stack([index, 5]), probability)
    )
    return next(dataset.batch(count).as_numpy_iterator())


@pytest.fixture(scope="module")
def erased() -> np.ndarray:
    """Black images `(count, 40, 60, 3)`, all with a rectangle of noise in them."""
    return mapped(np.zeros((40, 60, 3), np.uint8), COUNT)


def boxes(images: np.ndarray) -> np.ndarray:
    """Top, left, bottom and right of what is not black."""
    found = []
    for image in images:
        rows, columns = (np.flatnonzero(image.any(axis=axes)) for axes in ((1, 2), (0, 2)))
        found.append((rows[0], columns[0], rows[-1] + 1, columns[-1] + 1))
    return np.array(found)


def reference(image: np.ndarray, seed: list[int], probability: float) -> np.ndarray:
    choice, shape, place, noise = tf.random.split(seed, num=4)
    areas, aspects = tf.random.stateless_uniform((2, 10), shape).numpy().astype(float)
    if tf.random.stateless_uniform((), choice) >= probability:
        return image
    for area, aspect in zip(areas, aspects, strict=True):
        pixels = image.shape[0] * image.shape[1] * (0.02 + (1 / 3 - 0.02) * area)
        ratio = 0.3 * (1 / 0.09) ** aspect
        height, width = round((pixels * ratio) ** 0.5), round((pixels / ratio) ** 0.5)
        if 0 < height < image.shape[0] and 0 < width < image.shape[1]:
            break
    else:
        return image
    free = np.array([image.shape[0] - height + 1, image.shape[1] - width + 1])
    top, left = (tf.random.stateless_uniform((2,), place).numpy() * free).astype(int)
    normal = tf.random.stateless_normal((height, width, 3), noise).numpy()
    colours = 255 * ([0.485, 0.456, 0.406] + normal * [0.229, 0.224, 0.225])
    expected = image.copy()
    patch = np.clip(np.rint(colours), 0, 255)
    expected[top : top + height, left : left + width] = patch
    return expected


@pytest.mark.parametrize("size", [(40, 60), (8, 8), (5, 2), (30, 3)])
def test_erasing_is_the_formula(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    results = mapped(image, 60, 0.8)
    expected = np.stack([reference(image, [index, 5], 0.8) for index in range(60)])
    difference = np.abs(results.astype(int) - expected)
    # Noise in float32 may be rounded to the other side.
    assert difference.max() <= 1
    assert difference.mean() < 1e-4
    assert (expected != image).any(axis=(1, 2, 3)).sum() > 10


def test_area_and_aspect_have_their_ranges(erased: np.ndarray) -> None:
    top, left, bottom, right = boxes(erased).T
    height, width = bottom - top, right - left
    shares = height * width / 2400
    assert shares.min() >= 0.02 * 0.8
    assert shares.max() <= 1 / 3 * 1.05
    # Uniform, but that rather the large ones do not fit.
    assert shares.mean() == pytest.approx(0.95 * (0.02 + 1 / 3) / 2, rel=0.06)
    logarithms = np.log(height / width)
    assert np.abs(logarithms).max() <= np.log(1 / 0.3) + 0.2
    # Uniform, but that some of the highest rectangles do not fit.
    assert logarithms.mean() == pytest.approx(0, abs=0.12)
    assert logarithms.std() == pytest.approx(2 * np.log(1 / 0.3) / 12**0.5, rel=0.1)


def test_place_is_uniform(erased: np.ndarray) -> None:
    top, left, bottom, right = boxes(erased).T
    for start, free in ((top, 40 - (bottom - top)), (left, 60 - (right - left))):
        assert (start == 0).any()
        assert (start == free).any()
        assert (start / free).mean() == pytest.approx(0.5, abs=0.05)
        assert (start / free).std() == pytest.approx(1 / 12**0.5, rel=0.15)


def test_noise_has_the_colours_of_imagenet(erased: np.ndarray) -> None:
    inside = np.concatenate(
        [
            image[top:bottom, left:right].reshape(-1, 3)
            for image, (top, left, bottom, right) in zip(erased, boxes(erased), strict=True)
        ]
    )
    # Clipping at 2 deviations takes a little of both.
    assert inside.mean(axis=0) / 255 == pytest.approx([0.485, 0.456, 0.406], abs=0.01)
    assert inside.std(axis=0) / 255 == pytest.approx([0.229, 0.224, 0.225], abs=0.015)
    assert abs(np.corrcoef(inside[:-1, 0], inside[1:, 0])[0, 1]) < 0.02
    assert abs(np.corrcoef(inside[:, 0], inside[:, 1])[0, 1]) < 0.02


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_probability(probability: float) -> None:
    results = mapped(np.zeros((20, 20, 3), np.uint8), COUNT, probability)
    rate = results.any(axis=(1, 2, 3)).mean()
    assert rate == pytest.approx(probability, abs=0.05 if 0 < probability < 1 else 0)


def test_a_seed_has_one_result(erased: np.ndarray) -> None:
    np.testing.assert_array_equal(mapped(np.zeros((40, 60, 3), np.uint8), COUNT)[:9], erased[:9])
    assert len(np.unique(erased.reshape(COUNT, -1), axis=0)) == COUNT
    for index in range(3):
        result = random_erasing(np.zeros((40, 60, 3), np.uint8), [index, 5], 1.0)
        np.testing.assert_array_equal(result, erased[index])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 50)])
@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("kind", [tf.int32, tf.int64])
def test_extremes(size: tuple[int, int], level: int, kind: tf.DType) -> None:
    signature = [tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((2,), kind)]
    traced = tf.function(lambda image, seed: random_erasing(image, seed, 1.0), signature)
    image = np.full((*size, 3), level, np.uint8)
    for index in range(20):
        result = traced(image, tf.constant([index, 1], kind))
        assert result.shape == image.shape
        # A rectangle is smaller than the image in both directions.
        changed = (result.numpy() != image).any(axis=-1)
        assert not changed.all()
        assert min(size) > 1 or not changed.any()
