from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from keras_resnet.data.augment import auto_augment
from keras_resnet.data.augment.auto_augment import (
    RAND_AUGMENT,
    TRIVIAL_AUGMENT,
    Operation,
    Sampling,
    moved,
    rand_augment,
    trivial_augment,
)

OPERATIONS = {operation.name: operation for operation in (*TRIVIAL_AUGMENT, *RAND_AUGMENT)}
BINS = {operation.name: operation for operation in TRIVIAL_AUGMENT}
TIMM = {operation.name: operation for operation in RAND_AUGMENT}
MOVES = [name for name, operation in BINS.items() if operation.moves]
#: The colour of ImageNet, as timm fills.
FILL = (124, 116, 104)
FILES = Path(__file__).parents[2] / "fixtures"
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


BILINEAR = Sampling(FILL, False)


def apply_operation(
    operation: Operation, image: np.ndarray, strength: Any, how: Sampling = BILINEAR
) -> np.ndarray:
    result = operation.apply(tf.constant(image), tf.cast(strength, tf.float32))
    return (moved(tf.constant(image), result, how) if operation.moves else result).numpy()


def apply(name: str, image: np.ndarray, strength: float, cubic: bool = False) -> np.ndarray:
    return apply_operation(OPERATIONS[name], image, strength, Sampling(FILL, cubic))


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


def reference() -> dict[str, Any]:
    with np.load(FILES / "auto_augment.npz") as file:
        return {
            "picture": file["picture"],
            **dict(zip(file["names"].tolist(), file["pixels"], strict=True)),
        }


@pytest.mark.parametrize(("package", "table"), [("timm", TIMM), ("torchvision", BINS)])
def test_every_operation_is_that_of_the_package_at_every_magnitude(
    package: str, table: dict[str, Operation]
) -> None:
    """`tests/fixtures/make_auto_augment.py` has asked them."""
    known = reference()
    cases = [name.split("/") for name in known if name.startswith(package)]
    assert {name for _, name, *_ in cases} == set(table)
    for _, name, magnitude, sign, interpolation in cases:
        operation = table[name]
        share, signed = float(magnitude) / (10 if package == "timm" else 30), int(sign)
        if package == "timm" and name.startswith("Translate"):
            signed = -signed  # The positive direction is another one there.
        strength = signed * float(operation.strength(known["picture"], tf.constant(share)))
        how = Sampling(FILL if package == "timm" else (0, 0, 0), interpolation == "bicubic")
        result = apply_operation(operation, known["picture"], strength, how).astype(int)
        key = "/".join((package, name, magnitude, sign, interpolation))
        wrong = np.abs(result - known[key]).max(axis=-1)
        if operation.moves:
            # float32 ends up on the other side of a level, and of the border of the image.
            assert (wrong > 0).mean() <= 0.03, key
            assert (wrong > 1).mean() <= 0.005, key
        else:
            assert not wrong.any(), key
    signs = {name: {sign for _, other, _, sign, _ in cases if other == name} for name in table}
    assert all((len(signs[name]) == 2) == table[name].signed for name in table)


def transformed(image: np.ndarray, matrix: tuple[float, ...], cubic: bool) -> np.ndarray:
    pillow = Image.fromarray(image)
    how = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
    return np.asarray(
        pillow.transform(pillow.size, Image.Transform.AFFINE, matrix, how, fillcolor=FILL)
    )


def rotation(image: np.ndarray, degrees: float) -> tuple[float, ...]:
    y, x = image.shape[0] / 2, image.shape[1] / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


MATRICES: dict[str, Callable[[np.ndarray, float], tuple[float, ...]]] = {
    "ShearX": lambda image, strength: (1, strength, 0, 0, 1, 0),
    "ShearY": lambda image, strength: (1, 0, 0, strength, 1, 0),
    "TranslateX": lambda image, strength: (1, 0, -strength, 0, 1, 0),
    "TranslateY": lambda image, strength: (1, 0, 0, 0, 1, -strength),
    "Rotate": rotation,
}


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize("part", [-1, -0.41, 0, 0.27, 0.77])
@pytest.mark.parametrize("name", MATRICES)
def test_geometric_operations_are_pillows(
    picture: np.ndarray, name: str, part: float, cubic: bool
) -> None:
    strength = part * OPERATIONS[name].end * (40 if "Translate" in name else 1)
    result = apply(name, picture, strength, cubic)
    matrix = MATRICES[name](picture, strength)
    wrong = np.abs(result.astype(int) - transformed(picture, matrix, cubic)).max(axis=-1)
    # Only where a pixel's source lies on the border of the image may it be quite another.
    y, x = np.mgrid[:50, :40] + 0.5
    sources = np.stack([row[0] * x + row[1] * y + row[2] for row in (matrix[:3], matrix[3:])])
    on_edge = (np.abs(sources - np.rint(sources)) < 1e-3).any(axis=0)
    assert not (wrong[~on_edge] > 1).any()
    assert (wrong > 0).mean() <= 0.05
    assert (result == FILL).all(axis=-1).any() == (part != 0)


def test_flat_colours_stay_as_they_are() -> None:
    """Not one level less, by rounding."""
    flat = np.full((30, 30, 3), (200, 3, 255), np.uint8)
    for cubic in (False, True):
        result = apply("Rotate", flat, 17.3, cubic)
        inside = (result != FILL).any(axis=-1)
        assert inside.mean() > 0.7
        assert (result[inside] == flat[0, 0]).all()


@pytest.mark.parametrize("degrees", [-30, 27, 90, 180])
def test_rotate_turns_as_pillow(picture: np.ndarray, degrees: float) -> None:
    square = picture[:40]
    how = Image.Resampling.BILINEAR
    expected = Image.fromarray(square).rotate(degrees, how, fillcolor=FILL)
    wrong = np.abs(apply("Rotate", square, degrees).astype(int) - expected).max(axis=-1)
    assert (wrong > 1).mean() <= 0.004


def test_tables_are_timms_and_torchvisions() -> None:
    """The strengths of `rand-m7` and at its end, and the greatest of TrivialAugment."""
    image = np.zeros((200, 100, 3), np.uint8)
    timm = {
        **{"ShearX": (0.21, 0.3), "ShearY": (0.21, 0.3)},
        **{"TranslateX": (31.5, 45), "TranslateY": (63, 90), "Rotate": (21, 30)},
        **dict.fromkeys(ENHANCERS, (0.63, 0.9)),
        **{"Posterize": (2, 0), "Solarize": (77, 0), "SolarizeAdd": (77, 110)},
        **dict.fromkeys(("Invert", "AutoContrast", "Equalize"), (0, 0)),
    }
    trivial = {
        **{"ShearX": 0.99, "ShearY": 0.99, "TranslateX": 32, "TranslateY": 32, "Rotate": 135},
        **dict.fromkeys(ENHANCERS, 0.99),
        **{"Posterize": 2, "Solarize": 0, "Identity": 0, "AutoContrast": 0, "Equalize": 0},
    }
    for name, both in timm.items():
        found = [float(TIMM[name].strength(image, share)) for share in (0.7, 1.0)]
        assert found == pytest.approx(both), name
    assert list(timm) == list(TIMM)
    assert len(timm) == 15
    # In float32 as in Python's numbers.
    for name, whole in (("Posterize", -4), ("Solarize", -256), ("SolarizeAdd", 110)):
        for magnitude in range(11):
            share = tf.constant(magnitude, tf.float32) * 0.1
            expected = TIMM[name].start + int(magnitude / 10 * whole)
            assert float(TIMM[name].strength(image, share)) == expected
    for name, greatest in trivial.items():
        assert float(BINS[name].strength(image, 1.0)) == pytest.approx(greatest)
    assert list(trivial) == list(BINS)
    signed = {*MATRICES, *ENHANCERS}
    assert {name for table in (TIMM, BINS) for name, o in table.items() if o.signed} == signed


#: Even the least of these changes something.
AT_ONCE = ("Invert", "AutoContrast", "Equalize")


@pytest.mark.parametrize("operation", [*RAND_AUGMENT, *TRIVIAL_AUGMENT], ids=lambda o: o.name)
def test_start_of_every_range_changes_nothing(picture: np.ndarray, operation: Operation) -> None:
    grey = 20 + picture // 2
    strength = operation.strength(grey, tf.constant(0.0))
    changes = operation.name in AT_ONCE or (operation.name, operation.start) == ("Posterize", 4)
    assert np.array_equal(apply_operation(operation, grey, strength), grey) != changes


def expected_layer(
    table: tuple[Operation, ...],
    image: np.ndarray,
    choice: float,
    sign: float,
    share: float,
    how: Sampling,
) -> np.ndarray:
    operation = table[int(np.float32(choice) * np.float32(len(table)))]
    strength = float(operation.strength(image, np.float32(share)))
    strength = -strength if operation.signed and sign < 0.5 else strength
    return apply_operation(operation, image, strength, how)


def test_rand_augment_applies_what_it_draws(picture: np.ndarray) -> None:
    results = mapped(lambda image, seed: rand_augment(image, seed, FILL, 2, 7.0, 0.5), picture, 20)
    for index, result in enumerate(results):
        expected = picture
        for seed in tf.random.split([index, 5], num=2):
            choice, sign, cubic, applied = tf.random.stateless_uniform((4,), seed).numpy()
            normal = tf.random.stateless_normal((), tf.random.fold_in(seed, 1))
            share = tf.clip_by_value(7.0 + 0.5 * normal, 0, 10) * 0.1
            how = Sampling(FILL, bool(cubic < 0.5))
            if applied < 0.5:
                expected = expected_layer(RAND_AUGMENT, expected, choice, sign, share, how)
        np.testing.assert_array_equal(result, expected)
    assert 10 < len(np.unique(results.reshape(20, -1), axis=0)) < 20


def test_trivial_augment_applies_what_it_draws(picture: np.ndarray) -> None:
    results = mapped(lambda image, seed: trivial_augment(image, seed, FILL), picture, 25)
    for index, result in enumerate(results):
        choice, sign, share = tf.random.stateless_uniform((3,), [index, 5]).numpy()
        share = np.float32(np.floor(share * np.float32(31)) / 30)
        expected = expected_layer(
            TRIVIAL_AUGMENT, picture, choice, sign, share, Sampling(FILL, False)
        )
        np.testing.assert_array_equal(result, expected)
    assert len(np.unique(results.reshape(25, -1), axis=0)) > 18


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations that write into the pixels which they are, and with what strength."""

    def writer(index: int) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        def write(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
            values = tf.stack([float(index), tf.round(tf.abs(strength)), tf.sign(strength) + 1])
            return tf.zeros_like(image) + tf.cast(values, tf.uint8)

        return write

    for name in ("RAND_AUGMENT", "TRIVIAL_AUGMENT"):
        # The first of them is moving, so that it has to be a matrix.
        first, *others = (o for o in getattr(auto_augment, name) if o.name not in MOVES[1:])
        end = 100 if name == "RAND_AUGMENT" else 30
        table = [
            dataclasses.replace(first, name="none"),
            *(
                Operation(other.name, writer(index), end=end, signed=index % 2 == 0)
                for index, other in enumerate(others, 1)
            ),
        ]
        monkeypatch.setattr(auto_augment, name, tuple(table))


@pytest.mark.usefixtures("telling")
@pytest.mark.parametrize("name", ["rand_augment", "trivial_augment"])
def test_choices_signs_and_strengths_are_uniform(name: str) -> None:
    blank = np.full((1, 1, 3), 200, np.uint8)
    function = {
        "rand_augment": lambda image, seed: rand_augment(image, seed, FILL, 1, 9.0, 0.5, 1.0),
        "trivial_augment": lambda image, seed: trivial_augment(image, seed, FILL),
    }[name]
    kinds = len(getattr(auto_augment, name.upper()))
    choices, strengths, signs = mapped(function, blank, 100 * kinds)[:, 0, 0].astype(int).T
    # 100 of each are expected, with a standard deviation of 10; the first one moves pixels.
    counts = np.bincount(choices, minlength=kinds)[1:kinds]
    assert counts.min() >= 65
    assert counts.max() <= 140
    written = (choices > 0) & (choices < kinds)
    assert 60 <= (~written).sum() <= 145
    assert (signs[written & (choices % 2 == 1)] >= 1).all()
    moving = written & (choices % 2 == 0) & (strengths > 0)
    assert set(signs[moving]) == {0, 2}
    assert (signs[moving] == 0).mean() == pytest.approx(0.5, abs=0.09)
    strengths = strengths[written]
    if name == "trivial_augment":
        bins = np.bincount(strengths, minlength=31)
        assert len(bins) == 31
        assert bins.min() >= 12
        assert bins.max() <= 60
    else:
        # Strengths are ten times the magnitudes, and end at 10.
        assert strengths.max() == 100
        assert np.median(strengths) == pytest.approx(90, abs=1)
        assert strengths[strengths < 90].std() == pytest.approx(3, abs=0.5)


def test_a_quarter_of_the_images_stay_as_they_are() -> None:
    """Two operations, each with probability 1/2, as in timm."""
    picture = reference()["picture"]
    results = mapped(lambda image, seed: rand_augment(image, seed, FILL, 2, 7.0, 0.5), picture, 600)
    same = (results == picture).all(axis=(1, 2, 3)).mean()
    assert same == pytest.approx(0.26, abs=0.05)
    assert not (results == 0).all(axis=(1, 2, 3)).any()


EVERYTHING: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "rand_augment": lambda image, seed: rand_augment(image, seed, FILL, 2, 9.0, 0.5),
    "trivial_augment": lambda image, seed: trivial_augment(image, seed, FILL),
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_seed_has_one_result_whether_traced_or_not(picture: np.ndarray, name: str) -> None:
    """Also where the size of the image is not known before it runs."""
    signature = [tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((2,), tf.int32)]
    traced = tf.function(EVERYTHING[name], input_signature=signature)
    assert traced.get_concrete_function().output_shapes.as_list() == [None, None, 3]
    for index in range(10):
        first, second = (traced(picture, [index, 5]).numpy() for _ in range(2))
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(EVERYTHING[name](picture, [index, 5]), first)
    assert EVERYTHING[name](picture, tf.constant([1, 2], tf.int64)).shape == picture.shape


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 3), (1, 9)])
@pytest.mark.parametrize("operation", [*RAND_AUGMENT, *TRIVIAL_AUGMENT], ids=lambda o: o.name)
def test_extremes(operation: Operation, size: tuple[int, int]) -> None:
    random = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for image in (random, np.zeros_like(random), np.full_like(random, 255)):
        greatest = float(operation.strength(image, tf.constant(1.0)))
        for strength in (-greatest, greatest) if operation.signed else (greatest,):
            result = apply_operation(operation, image, strength)
            assert result.dtype == np.uint8
            assert result.shape == image.shape
            if operation.name in ENHANCERS:
                factor = float(np.float32(1) + np.float32(strength))
                expected = ENHANCERS[operation.name](Image.fromarray(image)).enhance(factor)
                np.testing.assert_array_equal(result, expected)
