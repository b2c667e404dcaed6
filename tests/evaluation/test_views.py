"""The crops, mirror images and scales of protocols."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from keras_resnet.evaluation.views import views
from keras_resnet.images import EvalProtocol, eval_transform

HOW = EvalProtocol(32, 40)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 57, 3), dtype=np.uint8)


def test_single_and_flip(pixels: np.ndarray) -> None:
    (single,) = views(Image.fromarray(pixels), "single", HOW)
    assert np.array_equal(single[0], eval_transform(HOW)(pixels))
    (both,) = views(Image.fromarray(pixels), "flip", HOW)
    assert np.array_equal(both, np.stack([single[0], single[0][:, ::-1]]))


def test_ten_crop_has_torchvisions_order(pixels: np.ndarray) -> None:
    (crops,) = views(Image.fromarray(pixels), "ten_crop", HOW)
    # The image has the short side already. Top left, top right, bottom left, bottom right, centre.
    corners = [(0, 0), (0, 25), (8, 0), (8, 25), (4, 12)]
    five = np.stack([pixels[top : top + 32, left : left + 32] for top, left in corners])
    assert np.array_equal(crops[:5], five)
    assert np.array_equal(crops[5:], five[:, :, ::-1])


@pytest.mark.reference
def test_ten_crop_equals_torchvisions(pixels: np.ndarray) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    picture = Image.fromarray(pixels)
    resized = transforms.Resize(48)(picture)
    expected = [np.asarray(crop) for crop in transforms.TenCrop(32)(resized)]
    (crops,) = views(Image.fromarray(pixels), "ten_crop", EvalProtocol(32, 48))
    assert np.array_equal(crops, expected)


def test_multi_scale_keeps_the_whole_image(pixels: np.ndarray) -> None:
    found = views(Image.fromarray(pixels), "multi_scale", EvalProtocol(224, 256))
    assert [batch.shape for batch in found] == [
        (2, side, side * 57 // 40, 3) for side in (224, 256, 384, 480, 640)
    ]
    small = views(Image.fromarray(pixels), "multi_scale", EvalProtocol(32, 32))
    assert [batch.shape[1] for batch in small] == [32, 37, 55, 69, 91]
    assert np.array_equal(small[0][1], small[0][0][:, ::-1])


def test_corners_of_very_long_images_are_cut_without_resizing_all_of_them() -> None:
    strip = np.random.default_rng(0).integers(0, 256, (2, 60_000, 3), dtype=np.uint8)
    (crops,) = views(Image.fromarray(strip), "ten_crop", EvalProtocol(32, 32))
    assert crops.shape == (10, 32, 32, 3)
    part = np.asarray(Image.fromarray(strip[:, :4]).resize((64, 32), Image.Resampling.BILINEAR))
    assert np.abs(crops[0][:, :24].astype(int) - part[:, :24]).max() <= 1
