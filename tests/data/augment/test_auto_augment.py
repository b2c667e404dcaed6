from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from keras_resnet.data.augment import auto_augment
from keras_resnet.data.augment.auto_augment import OPERATIONS, rand_augment, trivial_augment

NAMES = [operation.name for operation in OPERATIONS]
ENHANCERS = {
    "Brightness": ImageEnhance.Brightness,
    "Color": ImageEnhance.Color,
    "Contrast": ImageEnhance.Contrast,
    "Sharpness": ImageEnhance.Sharpness,
}


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Waves of colour with noise, not square, `(50, 40, 3)`."""
    y, x = np.mgrid[:50, :40]
    waves = np.stack([np.sin(y / 5), np.cos(x / 4), np.sin((x + y) / 9)], axis=-1)
    noise = np.random.default_rng(0).integers(-30, 31, (50, 40, 3))
    return np.clip(128 + 110 * waves + noise, 0, 255).astype(np.uint8)


def apply(name: str, image: np.ndarray, strength: float) -> np.ndarray:
    return OPERATIONS[NAMES.index(name)].apply(image, tf.constant(strength, tf.float32)).numpy()


def mapped(function: Callable[..., tf.Tensor], image: np.ndarray, count: int) -> np.ndarray:
    """The image under the seeds (0, 5), (1, 5), …, from one pipeline."""
    dataset = tf.data.Dataset.range(count, output_type=tf.int32)
    dataset = dataset.map(lambda index: function(tf.constant(image), tf.stack([index, 5])))
    return next(dataset.batch(count).as_numpy_iterator())


def small(seed: int) -> np.ndarray:
    """An image of few levels and any small size, as equalizing has special cases for."""
    rng = np.random.default_rng(seed)
    low, high = sorted(rng.integers(0, 256, 2))
    return rng.integers(low, high + 1, (*rng.integers(1, 30, 2), 3)).astype(np.uint8)


@pytest.mark.parametrize("strength", [-0.99, -0.9, -0.31, 0.0, 0.27, 0.9, 0.99])
@pytest.mark.parametrize("name", ENHANCERS)
def test_blends_are_pillows(picture: np.ndarray, name: str, strength: float) -> None:
    factor = float(np.float32(1) + np.float32(strength))
    expected = ENHANCERS[name](Image.fromarray(picture)).enhance(factor)
    np.testing.assert_array_equal(apply(name, picture, strength), expected)


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterize_is_pillows(picture: np.ndarray, bits: int) -> None:
    expected = ImageOps.posterize(Image.fromarray(picture), bits)
    for strength in (bits - 0.4, bits, bits + 0.4):
        np.testing.assert_array_equal(apply("Posterize", picture, strength), expected)


@pytest.mark.parametrize("threshold", [0, 1, 25.6, 128, 254.5, 255, 256])
def test_solarize_is_pillows(threshold: float) -> None:
    levels = np.arange(256 * 3).reshape(16, 16, 3).astype(np.uint8)
    expected = ImageOps.solarize(Image.fromarray(levels), threshold)
    np.testing.assert_array_equal(apply("Solarize", levels, threshold), expected)


def test_auto_contrast_and_equalize_are_pillows(picture: np.ndarray) -> None:
    for image in (picture, picture // 3, *map(small, range(40))):
        pillow = Image.fromarray(image)
        np.testing.assert_array_equal(apply("Equalize", image, 0), ImageOps.equalize(pillow))
        np.testing.assert_array_equal(
            apply("AutoContrast", image, 0), ImageOps.autocontrast(pillow)
        )


def moved(image: np.ndarray, matrix: tuple[float, ...]) -> np.ndarray:
    pillow = Image.fromarray(image)
    fill = (128, 128, 128)
    return np.asarray(
        pillow.transform(
            pillow.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=fill
        )
    )


def rotation(image: np.ndarray, degrees: float) -> tuple[float, ...]:
    y, x = image.shape[0] / 2, image.shape[1] / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


MATRICES: dict[str, Callable[[np.ndarray, float], tuple[float, ...]]] = {
    "ShearX": lambda image, strength: (1, strength, 0, 0, 1, 0),
    "ShearY": lambda image, strength: (1, 0, 0, strength, 1, 0),
    "TranslateX": lambda image, strength: (1, 0, -int(strength), 0, 1, 0),
    "TranslateY": lambda image, strength: (1, 0, 0, 0, 1, -int(strength)),
    "Rotate": rotation,
}


@pytest.mark.parametrize("part", [-1, -0.9, -0.41, 0, 0.27, 0.77, 1])
@pytest.mark.parametrize("name", MATRICES)
def test_geometric_operations_are_pillows(picture: np.ndarray, name: str, part: float) -> None:
    strength = part * OPERATIONS[NAMES.index(name)].wide
    result = apply(name, picture, strength)
    matrix = MATRICES[name](picture, strength)
    differing = (result != moved(picture, matrix)).any(axis=-1)
    # Only where a pixel's source lies on the edge between two, which is a diagonal at 135 degrees.
    y, x = np.mgrid[:50, :40] + 0.5
    sources = np.stack([row[0] * x + row[1] * y + row[2] for row in (matrix[:3], matrix[3:])])
    on_edge = (np.abs(sources - np.rint(sources)) < 1e-3).any(axis=0)
    assert not (differing & ~on_edge).any()
    assert differing.mean() <= (0.02 if name == "Rotate" and abs(part) == 1 else 0.002)
    assert (result == 128).all(axis=-1).any() == (part != 0)


@pytest.mark.parametrize("degrees", [-30, 27, 90, 180])
def test_rotate_turns_as_pillow(picture: np.ndarray, degrees: float) -> None:
    square = picture[:40]
    expected = Image.fromarray(square).rotate(degrees, fillcolor=(128, 128, 128))
    differing = (apply("Rotate", square, degrees) != expected).any(axis=-1)
    assert differing.mean() <= 0.004


def test_table_is_torchvisions() -> None:
    """Strengths at magnitude 9 of 10, and the greatest of TrivialAugment, at 200 x 100 pixels."""
    expected = {
        "Identity": (0, 0, False),
        "ShearX": (0.27, 0.99, True),
        "ShearY": (0.27, 0.99, True),
        "TranslateX": (0.9 * 150 / 331 * 100, 32, True),
        "TranslateY": (0.9 * 150 / 331 * 200, 32, True),
        "Rotate": (27, 135, True),
        "Brightness": (0.81, 0.99, True),
        "Color": (0.81, 0.99, True),
        "Contrast": (0.81, 0.99, True),
        "Sharpness": (0.81, 0.99, True),
        "Posterize": (4.4, 2, False),
        "Solarize": (25.6, 0, False),
        "AutoContrast": (0, 0, False),
        "Equalize": (0, 0, False),
    }
    image = np.zeros((200, 100, 3), np.uint8)
    assert list(expected) == NAMES
    for operation in OPERATIONS:
        narrow, wide, signed = expected[operation.name]
        assert float(operation.strength(image, 0.9, False)) == pytest.approx(narrow)
        assert float(operation.strength(image, 1.0, True)) == pytest.approx(wide)
        assert operation.signed is signed


@pytest.mark.parametrize("name", NAMES[:-2])
def test_start_of_every_range_changes_nothing(picture: np.ndarray, name: str) -> None:
    operation = OPERATIONS[NAMES.index(name)]
    white = picture.copy()
    white[:5] = 255
    for wide in (False, True):
        result = operation.apply(white, operation.strength(white, tf.constant(0.0), wide))
        np.testing.assert_array_equal(result, white)


def expected_layer(
    image: np.ndarray, choice: float, sign: float, share: float, wide: bool
) -> np.ndarray:
    operation = OPERATIONS[int(np.float32(choice) * np.float32(14))]
    strength = float(operation.strength(image, np.float32(share), wide))
    return apply(operation.name, image, -strength if operation.signed and sign < 0.5 else strength)


def test_rand_augment_applies_what_it_draws(picture: np.ndarray) -> None:
    results = mapped(lambda image, seed: rand_augment(image, seed, 2, 7.0), picture, 25)
    for index, result in enumerate(results):
        expected = picture
        for seed in tf.random.split([index, 5], num=2):
            choice, sign = tf.random.stateless_uniform((2,), seed).numpy()
            expected = expected_layer(expected, choice, sign, 0.7, wide=False)
        np.testing.assert_array_equal(result, expected)
    assert len(np.unique(results.reshape(25, -1), axis=0)) > 20


def test_trivial_augment_applies_what_it_draws(picture: np.ndarray) -> None:
    results = mapped(trivial_augment, picture, 25)
    for index, result in enumerate(results):
        choice, sign, share = tf.random.stateless_uniform((3,), [index, 5]).numpy()
        share = np.floor(share * np.float32(31)) / np.float32(30)
        np.testing.assert_array_equal(result, expected_layer(picture, choice, sign, share, True))
    assert len(np.unique(results.reshape(25, -1), axis=0)) > 18


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations that write into the pixels which they are, and with what strength."""

    def writer(index: int) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        def write(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
            values = tf.stack([float(index), tf.round(tf.abs(strength)), tf.sign(strength) + 1])
            return tf.zeros_like(image) + tf.cast(values, tf.uint8)

        return write

    written = [
        dataclasses.replace(
            operation, apply=writer(index), signed=index % 2 == 0, start=0, end=100, wide=30
        )
        for index, operation in enumerate(OPERATIONS)
    ]
    monkeypatch.setattr(auto_augment, "OPERATIONS", tuple(written))


@pytest.mark.usefixtures("telling")
@pytest.mark.parametrize("name", ["rand_augment", "trivial_augment"])
def test_choices_signs_and_strengths_are_uniform(name: str) -> None:
    blank = np.zeros((1, 1, 3), np.uint8)
    function = {
        "rand_augment": lambda image, seed: rand_augment(image, seed, 1, 9.0),
        "trivial_augment": trivial_augment,
    }[name]
    choices, strengths, signs = mapped(function, blank, 1400)[:, 0, 0].astype(int).T
    # 100 of each are expected, with a standard deviation of 10.
    counts = np.bincount(choices, minlength=14)
    assert counts.min() >= 65
    assert counts.max() <= 140
    assert (signs[choices % 2 == 1] >= 1).all()
    moving = (choices % 2 == 0) & (strengths > 0)
    assert set(signs[moving]) == {0, 2}
    assert (signs[moving] == 0).mean() == pytest.approx(0.5, abs=0.07)
    if name == "trivial_augment":
        bins = np.bincount(strengths, minlength=31)
        assert len(bins) == 31
        assert bins.min() >= 20
        assert bins.max() <= 75
    else:
        assert set(strengths) == {90}


EVERYTHING: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "rand_augment": lambda image, seed: rand_augment(image, seed, 2, 9.0),
    "trivial_augment": trivial_augment,
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_seed_has_one_result_whether_traced_or_not(picture: np.ndarray, name: str) -> None:
    """Also where the size of the image is not known before it runs."""
    signature = [tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((2,), tf.int32)]
    traced = tf.function(EVERYTHING[name], input_signature=signature)
    assert traced.get_concrete_function().output_shapes.as_list() == [None, None, 3]
    for index in range(15):
        first, second = (traced(picture, [index, 5]).numpy() for _ in range(2))
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(EVERYTHING[name](picture, [index, 5]), first)
    assert EVERYTHING[name](picture, tf.constant([1, 2], tf.int64)).shape == picture.shape


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 3), (1, 9)])
@pytest.mark.parametrize("name", NAMES)
def test_extremes(name: str, size: tuple[int, int]) -> None:
    operation = OPERATIONS[NAMES.index(name)]
    random = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for image in (random, np.zeros_like(random), np.full_like(random, 255)):
        for part in (-1, 1) if operation.signed else (1,):
            result = apply(name, image, part * operation.wide)
            assert result.dtype == np.uint8
            if name in ENHANCERS:
                factor = float(np.float32(1) + np.float32(part * operation.wide))
                expected = ENHANCERS[name](Image.fromarray(image)).enhance(factor)
                np.testing.assert_array_equal(result, expected)
            elif name in MATRICES:
                assert result.shape == image.shape
                assert np.isin(result, [*np.unique(image), 128]).all()
            else:
                assert result.shape == image.shape
