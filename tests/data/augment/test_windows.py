from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnet.data.augment.transforms import he2015_boxes, inception_boxes
from keras_resnet.data.augment.windows import Cuts, cut_jpeg, cut_pixels, cuts_of
from keras_resnet.data.config import Augmentation

SIZE = 32


def photo(height: int, width: int, cell: int = 8) -> np.ndarray:
    """Something smooth with edges, as photographs are."""
    random = np.random.default_rng(height * width)
    coarse = random.integers(0, 256, (height // cell + 2, width // cell + 2, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(picture).copy()
    pixels[height // 3 : height // 2, width // 3 : width // 2] = 255 - pixels[0, 0]
    return pixels


def jpeg(pixels: np.ndarray, **settings: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90, **settings)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def resized(picture: Image.Image, box: tuple[float, ...]) -> np.ndarray:
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box))


def cut_of(
    box: tuple[float, ...], pixels: np.ndarray, antialias: bool, context: bool, encoded: bool
) -> Cuts:
    shape = tf.constant([pixels.shape[:2]])
    both = {"antialias": antialias, "context": context}
    cuts = cuts_of(tf.constant([box], tf.float32), shape, tf.constant([encoded]), SIZE, **both)
    return Cuts(*(value[0] for value in cuts))


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize(
    ("antialias", "context"), [(False, False), (True, False), (True, True), (False, True)]
)
def test_fused_crop_equals_decode_then_crop(
    subsampling: int, antialias: bool, context: bool
) -> None:
    """For windows less than twice the size; no pixel differs."""
    data = jpeg(photo(75, 100), subsampling=subsampling)
    pixels = decoded(data)
    random = np.random.default_rng(0)
    for _ in range(25):
        height, width = random.integers(4, 64, 2)
        corner = random.integers(0, [75 - height + 1, 100 - width + 1])
        box = (*map(float, corner), float(height), float(width))
        fused = cut_jpeg(data, cut_of(box, pixels, antialias, context, True), SIZE, antialias)
        plain = cut_pixels(pixels, cut_of(box, pixels, antialias, context, False), SIZE, antialias)
        np.testing.assert_array_equal(fused, plain)


def test_large_pictures_are_decoded_small_and_stay_where_they_are() -> None:
    """Nothing is nearer to it than the exact window, not even one shifted by half a pixel."""
    data = jpeg(photo(300, 401, cell=40))
    picture = Image.fromarray(decoded(data))
    levels = []
    for side in (60.0, 64.0, 130.0, 280.0):
        top, left = 8.0, 16.0
        cut = cut_of((top, left, side, side), np.asarray(picture), True, False, True)
        levels.append(int(cut.level))
        fused = cut_jpeg(data, cut, SIZE, True).numpy().astype(int)
        half = side / SIZE / 2
        shifts = [(0, 0), (-half, 0), (half, 0), (0, -half), (0, half)]
        windows = [
            resized(picture, (left + right, top + down, left + right + side, top + down + side))
            for down, right in shifts
        ]
        errors = [np.abs(fused - window).mean() for window in windows]
        assert np.argmin(errors) == 0, side
    assert levels == [0, 1, 2, 3]


def test_antialiased_crops_are_pillows() -> None:
    pixels = photo(90, 70)
    image = Image.fromarray(pixels)
    for top, left, height, width in [(0, 0, 90, 70), (10, 5, 50, 61), (40, 30, 20, 25)]:
        cut = cut_of((top, left, height, width), pixels, True, False, False)
        ours = cut_pixels(pixels, cut, SIZE, True).numpy().astype(int)
        cropped = image.crop((left, top, left + width, top + height))
        theirs = np.asarray(cropped.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        # Pillow rounds between its two passes.
        assert np.abs(ours - theirs).max() <= 1


def test_crops_with_context_are_crops_of_the_resized_picture() -> None:
    pixels = photo(80, 120)
    resized = Image.fromarray(pixels).resize((75, 50), Image.Resampling.BILINEAR)
    for top, left in [(0, 0), (7, 20), (18, 43)]:
        box = (top * 1.6, left * 1.6, SIZE * 1.6, SIZE * 1.6)
        cut = cut_of(box, pixels, True, True, False)
        ours = cut_pixels(pixels, cut, SIZE, True).numpy().astype(int)
        theirs = np.asarray(resized)[top : top + SIZE, left : left + SIZE]
        assert np.abs(ours - theirs).max() <= 1, (top, left)


def test_plain_crops_are_two_taps_along_each_axis() -> None:
    pixels = photo(60, 80)
    cut = cut_of((5, 11, 40, 50), pixels, False, False, False)
    ours = cut_pixels(pixels, cut, SIZE, False).numpy().astype(int)
    inside = pixels[5:45, 11:61].astype(np.float64)

    def taps(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        where = np.clip((np.arange(SIZE) + 0.5) * length / SIZE - 0.5, 0, length - 1)
        low = np.floor(where).astype(int)
        return low, np.minimum(low + 1, length - 1), where - low

    (top, bottom, down), (left, right, across) = taps(40), taps(50)
    rows = inside[top] + (inside[bottom] - inside[top]) * down[:, None, None]
    expected = rows[:, left] + (rows[:, right] - rows[:, left]) * across[:, None]
    assert np.abs(ours - expected).max() < 0.501


def inception_reference(
    shape: tuple[int, int], draws: np.ndarray, how: Augmentation
) -> tuple[int, ...]:
    """torchvision's rule, in Python."""
    height, width = shape
    for share, ratio, row, column in draws.T.astype(np.float64):
        area = (how.area[0] + share * (how.area[1] - how.area[0])) * height * width
        aspect = how.aspect[0] * (how.aspect[1] / how.aspect[0]) ** ratio
        h, w = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
        if 0 < h <= height and 0 < w <= width:
            return int(row * (height - h + 1)), int(column * (width - w + 1)), h, w
    if width / height < how.aspect[0]:
        h, w = round(width / how.aspect[0]), width
    elif width / height > how.aspect[1]:
        h, w = height, round(height * how.aspect[1])
    else:
        h, w = height, width
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (90, 900), (1200, 70), (3, 2)])
def test_inception_boxes_follow_torchvisions_rule(shape: tuple[int, int]) -> None:
    how = Augmentation("inception")
    draws = np.random.default_rng(2).random((200, 4, 10), np.float32)
    shapes = np.tile(np.float32([shape]), (200, 1))
    boxes = inception_boxes(shapes, draws, how).numpy()
    expected = [inception_reference(shape, draw, how) for draw in draws]
    # Where float32 rounds a half the other way, the window differs by one pixel.
    differs = np.abs(boxes - expected).max(axis=1)
    assert (differs > 0).mean() < 0.02
    assert differs.max() <= 1
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= shape).all()


def test_inception_boxes_have_the_promised_distribution() -> None:
    how = Augmentation("inception")
    draws = np.random.default_rng(3).random((20000, 4, 10), np.float32)
    boxes = inception_boxes(np.tile(np.float32([[1000, 1000]]), (20000, 1)), draws, how).numpy()
    top, left, height, width = boxes.T
    areas = height * width / 1e6
    # Uniform in [0.08, 1] but for large windows that stick out and are drawn again.
    assert areas.min() == pytest.approx(0.08, abs=0.002)
    small = areas[areas < 0.7]
    assert small.mean() == pytest.approx(0.39, abs=0.005)
    assert small.var() == pytest.approx((0.7 - 0.08) ** 2 / 12, rel=0.03)
    logs = np.log(width / height)[areas < 0.5]
    assert logs.mean() == pytest.approx(0, abs=0.01)
    assert logs.std() == pytest.approx(2 * np.log(4 / 3) / 12**0.5, rel=0.03)
    assert (top / (1001 - height)).mean() == pytest.approx(0.5, abs=0.01)
    assert (left / (1001 - width)).mean() == pytest.approx(0.5, abs=0.01)


def test_he2015_boxes_are_crops_of_uniform_scales() -> None:
    how = Augmentation("he2015")
    draws = np.random.default_rng(4).random((20000, 3), np.float32)
    shapes = np.tile(np.float32([[375, 500]]), (20000, 1))
    boxes = he2015_boxes(shapes, draws, 224, how).numpy()
    top, _, height, width = boxes.T
    short = 224 * 375 / height
    np.testing.assert_array_equal(height, width)
    np.testing.assert_allclose(short, np.round(short), atol=1e-3)
    assert (short.min().round(), short.max().round()) == (256, 480)
    assert short.mean() == pytest.approx(368, abs=1)
    assert short.var() == pytest.approx((225**2 - 1) / 12, rel=0.02)
    # Whole places of the resized picture, each as likely.
    rows = top / (375 / short)
    np.testing.assert_allclose(rows, np.round(rows), atol=1e-2)
    assert (rows / (short - 224)).mean() == pytest.approx(0.5, abs=0.01)
    assert (boxes[:, :2] + boxes[:, 2:] <= np.array([375, 500]) + 1e-2).all()
    # In proportion at other sizes.
    smaller = he2015_boxes(shapes, draws, 112, how).numpy()
    np.testing.assert_allclose(112 * 375 / smaller[:, 2], short / 2, atol=0.51)
