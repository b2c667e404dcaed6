from __future__ import annotations

import dataclasses
import io
import json
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnet.images import protocol as preprocessing
from keras_resnet.images.decode import UnreadableImageError
from keras_resnet.images.protocol import (
    EvalProtocol,
    eval_transform,
    preprocess_input,
    warn_if_scaled,
)

from ..conftest import Run


@pytest.fixture(autouse=True)
def _not_yet_warned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(preprocessing, "_warned", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft shapes with edges and grain, as photographs have them."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    edges = 80 * (np.indices((height, width)).sum(0) // 23 % 2)[..., np.newaxis]
    return np.clip(soft + edges + random.normal(0, 8, soft.shape), 0, 255).astype(np.uint8)


def kernel(name: str, x: float) -> float:
    """Triangle, and Keys' cubic with a = -0.5."""
    x = abs(x)
    if name == "bilinear":
        return max(0.0, 1 - x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def resized(values: np.ndarray, size: int, name: str) -> np.ndarray:
    """The antialiased resize along the first axis by its definition, in float64."""
    scale = len(values) / size
    width = max(scale, 1)
    out = np.empty((size, *values.shape[1:]))
    for position in range(size):
        center = (position + 0.5) * scale
        weights = [kernel(name, (source + 0.5 - center) / width) for source in range(len(values))]
        out[position] = np.tensordot(np.array(weights) / sum(weights), values, 1)
    return np.clip(out, 0, 255)


def by_definition(image: np.ndarray, protocol: EvalProtocol) -> np.ndarray:
    height, width = image.shape[:2]
    short = min(height, width)
    rows, columns = (int(protocol.resize * side / short) for side in (height, width))
    name = protocol.interpolation
    wide = resized(image.astype(float).transpose(1, 0, 2), columns, name).transpose(1, 0, 2)
    whole = resized(wide, rows, name)
    # torchvision.transforms.functional.center_crop
    top, left = (round((side - protocol.size) / 2.0) for side in (rows, columns))
    return whole[top : top + protocol.size, left : left + protocol.size]


def test_protocols_are_scaled_but_small_images_are_whole() -> None:
    assert EvalProtocol(224, 256, "bicubic").scaled_to(112) == EvalProtocol(112, 128, "bicubic")
    assert EvalProtocol(224, 256).scaled_to(64) == EvalProtocol(64, 64)
    assert EvalProtocol(224, 256).scaled_to(65) == EvalProtocol(65, 74)


SIZES = [(60, 90), (90, 61), (33, 33), (20, 31), (47, 160), (56, 56)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pixels_are_those_of_the_definition(height: int, width: int, interpolation: Any) -> None:
    image = photograph(height, width)
    for protocol in (EvalProtocol(32, 37, interpolation), EvalProtocol(56, 56, interpolation)):
        cropped = eval_transform(protocol)(image)
        assert cropped.dtype == np.uint8
        difference = np.abs(cropped - by_definition(image, protocol))
        # Pillow rounds twice.
        assert difference.mean() < 0.4
        # Negative lobes, clipped between the two passes.
        assert difference.max() < (1.5 if interpolation == "bilinear" else 12)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width"),
    [(333, 500), (500, 368), (301, 301), (97, 140), (1200, 800), (224, 999), (31, 32), (256, 256)],
)
def test_graph_is_the_same(height: int, width: int, interpolation: Any) -> None:
    image = photograph(height, width, seed=height)
    for transform in (
        eval_transform(EvalProtocol(interpolation=interpolation)),
        eval_transform(EvalProtocol.from_crop_pct(160, 0.95, interpolation)),
    ):
        graph = transform.graph(image)
        assert graph.dtype == tf.uint8
        difference = np.abs(graph.numpy().astype(int) - transform(image))
        assert difference.max() <= 1
        # 224 -> 256 pixels gives many exact halves, which are rounded either way.
        assert difference.mean() < 0.05


def test_graph_of_dynamic_sizes_in_a_dataset() -> None:
    transform = eval_transform(EvalProtocol(32, 37, "bicubic"))
    images = [photograph(*size) for size in SIZES]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(images), output_signature=tf.TensorSpec((None, None, None), tf.uint8)
    ).map(transform.graph)
    assert dataset.element_spec == tf.TensorSpec((32, 32, 3), tf.uint8)
    for graph, image in zip(dataset.batch(2).unbatch(), images, strict=True):
        np.testing.assert_array_equal(graph, transform.graph(image))


@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.float64, tf.int32])
def test_graph_takes_other_types(dtype: tf.DType) -> None:
    transform = eval_transform(EvalProtocol(32, 37))
    image = photograph(60, 90)
    shifted = tf.cast(image, dtype) + tf.cast(0.3, dtype)
    np.testing.assert_array_equal(transform.graph(shifted), transform.graph(image))


def test_graph_refuses_other_shapes() -> None:
    transform = eval_transform()
    for shape in ((300, 300), (300, 300, 1), (1, 300, 300, 3)):
        with pytest.raises(ValueError, match=r"of shape \(height, width, 3\). Received: \("):
            transform.graph(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_constant_images_stay_constant(interpolation: Any) -> None:
    transform = eval_transform(EvalProtocol(64, 73, interpolation))
    for size in ((50, 91), (300, 80), (64, 64)):
        for colour in ((0, 128, 255), (3, 200, 77)):
            image = np.broadcast_to(np.array(colour, np.uint8), (*size, 3))
            expected = np.broadcast_to(np.array(colour), (64, 64, 3))
            np.testing.assert_array_equal(transform(image), expected)
            np.testing.assert_array_equal(transform.graph(image), expected)


@pytest.mark.parametrize(
    ("height", "width", "top", "left"),
    # Where the short side has its final length already, the crop is all that happens. Halves are
    # rounded to even: 1 / 2 to 0, 3 / 2 to 2, 5 / 2 to 2, 7 / 2 to 4.
    [
        (40, 40, 4, 4),
        (40, 47, 4, 8),
        (40, 45, 4, 6),
        (41, 40, 4, 4),
        (43, 40, 6, 4),
        (40, 63, 4, 16),
    ],
)
def test_offsets_of_the_crop(height: int, width: int, top: int, left: int) -> None:
    image = photograph(height, width)
    transform = eval_transform(EvalProtocol(32, 40))
    expected = image[top : top + 32, left : left + 32]
    np.testing.assert_array_equal(transform(image), expected)
    np.testing.assert_array_equal(transform.graph(image), expected)


def test_long_side_is_rounded_down() -> None:
    """80 x 119 becomes 40 x 59 (59.5), of which the crop takes columns 14 (13.5) to 46."""
    image = photograph(80, 119)
    whole = np.asarray(Image.fromarray(image).resize((59, 40), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(eval_transform(EvalProtocol(32, 40))(image), whole[4:36, 14:46])


def test_very_long_images_are_not_resized_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = eval_transform(EvalProtocol(32, 37, "bicubic"))
    image = photograph(60, 200)
    expected = transform(image).astype(int)
    monkeypatch.setattr(preprocessing, "_LARGE", 100)
    difference = np.abs(transform(image) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.05
    monkeypatch.undo()
    strip = photograph(2, 30_000)
    cropped = eval_transform()(strip)
    assert cropped.shape == (224, 224, 3)
    assert np.abs(eval_transform().graph(strip).numpy().astype(int) - cropped).mean() < 1


def test_sources_and_batches(tmp_path: Path) -> None:
    transform = eval_transform(EvalProtocol(32, 37))
    images = [photograph(60, 90), photograph(40, 35)]
    single = [transform(image) for image in images]
    assert single[0].shape == (32, 32, 3)
    files = [tmp_path / "0.png", tmp_path / "1.bmp"]
    for image, path in zip(images, files, strict=True):
        Image.fromarray(image).save(path)
    data = files[1].read_bytes()
    np.testing.assert_array_equal(transform(str(files[0])), single[0])
    for batch in (images, files, (images[0], data), [str(files[0]), images[1].astype(float)]):
        found = transform(batch)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, np.stack(single))
    arrays = np.stack([images[0], images[0][::-1]])
    np.testing.assert_array_equal(transform(arrays), [transform(image) for image in arrays])
    assert transform([]).shape == (0, 32, 32, 3)
    assert transform(np.empty((0, 50, 50, 3), np.uint8)).shape == (0, 32, 32, 3)


def test_unreadable_images_of_a_batch_are_named(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(photograph(40, 50)).save(file, "PNG")
    transform = eval_transform(EvalProtocol(32, 37), max_pixels=2000)
    with pytest.raises(UnreadableImageError, match=r"bytes \(it is empty\), at index 1 of the ba"):
        transform([file.getvalue(), b""])
    with pytest.raises(UnreadableImageError, match="than `max_pixels=1999`"):
        eval_transform(max_pixels=1999)(file.getvalue())
    with pytest.raises(TypeError, match="Received: NoneType"):
        transform(None)  # type: ignore[arg-type]


def test_input_is_not_changed() -> None:
    image = photograph(40, 40)
    before = image.copy()
    eval_transform(EvalProtocol(32, 40))(image)[:] = 0
    np.testing.assert_array_equal(image, before)


def test_protocols_are_json() -> None:
    assert EvalProtocol() == EvalProtocol(224, 256, "bilinear")
    protocol = EvalProtocol(np.int64(160), 182, "bicubic")
    text = json.dumps(dataclasses.asdict(protocol))
    assert json.loads(text) == {"size": 160, "resize": 182, "interpolation": "bicubic"}
    assert EvalProtocol(**json.loads(text)) == protocol
    assert eval_transform(protocol).protocol is protocol
    assert hash(eval_transform(protocol)) == hash(eval_transform(EvalProtocol(160, 182, "bicubic")))


@pytest.mark.parametrize(
    ("size", "crop_pct", "resize"),
    [(224, 0.875, 256), (224, 0.95, 235), (224, 1, 224), (288, 0.95, 303), (299, 0.94, 318)],
)
def test_protocol_of_a_crop_fraction(size: int, crop_pct: float, resize: int) -> None:
    protocol = EvalProtocol.from_crop_pct(size, crop_pct, "bicubic")
    assert protocol == EvalProtocol(size, resize, "bicubic")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EvalProtocol(size=0), "`size` to be an integer of at least 1. Received: 0"),
        (lambda: EvalProtocol(size=True), "`size` .* Received: True"),
        (lambda: EvalProtocol(resize=256.0), "`resize` to be an integer .* Received: 256.0"),  # type: ignore[arg-type]
        (lambda: EvalProtocol(224, 223), "at least `size`.* Received: resize=223, size=224"),
        (lambda: EvalProtocol(interpolation="nearest"), "one of .* Received: 'nearest'"),  # type: ignore[arg-type]
        (lambda: EvalProtocol.from_crop_pct(224, 0), "`crop_pct` .* at most 1. Received: 0"),
        (lambda: EvalProtocol.from_crop_pct(224, 87.5), "`crop_pct` .* Received: 87.5"),
        (lambda: EvalProtocol.from_crop_pct(224, math.nan), "`crop_pct` .* Received: nan"),
        (lambda: EvalProtocol.from_crop_pct(224, "0.9"), "`crop_pct` .* Received: '0.9'"),  # type: ignore[arg-type]
    ],
)
def test_impossible_protocols(make: Callable[[], EvalProtocol], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


SCALED = np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 2, 2, 3)


@pytest.mark.parametrize(
    "images",
    [
        SCALED,
        SCALED * 2 - 1,
        (SCALED - 0.45) / 0.225,
        SCALED.astype(np.float16),
        tf.constant(SCALED),
        tf.cast(SCALED, tf.bfloat16),
        keras.ops.convert_to_tensor(SCALED),
        [SCALED[0], SCALED[1]],
    ],
)
def test_scaled_pixels_are_warned_of_once(images: Any) -> None:
    with pytest.warns(
        UserWarning, match=r"pixels in \[0, 255\].* Received: floats in \["
    ) as caught:
        assert preprocess_input(images) is images
    assert caught[0].filename == __file__
    assert preprocess_input(images) is images
    eval_transform(EvalProtocol(1, 1))([np.ones((2, 2, 3))])


@pytest.mark.parametrize(
    "images",
    [
        SCALED * 255,
        SCALED * 255 - 0.4,  # Bicubic interpolation overshoots.
        SCALED * 1.01,
        (SCALED * 255).astype(np.uint8),
        np.ones((1, 2, 2, 3), np.uint8),
        np.ones((1, 2, 2, 3), np.int64),
        np.zeros((1, 2, 2, 3)),
        np.zeros((0, 2, 2, 3)),
        np.full((1, 2, 2, 3), np.nan),
        [SCALED[0], SCALED[1] * 255],  # One of a batch may be dark.
        [[0.5, 1.0]],
        "photo.jpg",
        keras.Input((2, 2, 3)),
        None,
    ],
)
def test_other_pixels_are_not_warned_of(images: Any) -> None:
    assert preprocess_input(images) is images


def test_tensors_of_graphs_are_let_pass() -> None:
    dataset = tf.data.Dataset.from_tensors(SCALED).map(preprocess_input)
    np.testing.assert_array_equal(next(iter(dataset)), SCALED)


def test_input_is_returned_unchanged() -> None:
    images = SCALED * 255
    before = images.copy()
    assert preprocess_input(images) is images
    np.testing.assert_array_equal(images, before)


def test_warning_names_the_line_asked_for() -> None:
    def direct() -> None:
        warn_if_scaled(SCALED)

    def predictor() -> None:
        warn_if_scaled(SCALED, stacklevel=2)

    def calling(function: Callable[[], None]) -> None:
        preprocessing._warned = False
        function()

    for function, line in (
        (direct, direct.__code__.co_firstlineno + 1),
        (predictor, calling.__code__.co_firstlineno + 2),
    ):
        with pytest.warns(UserWarning, match="pixels in") as caught:
            calling(function)
        assert (caught[0].filename, caught[0].lineno) == (__file__, line)


def test_transform_warns_its_caller() -> None:
    with pytest.warns(UserWarning, match=r"floats in \[0, 1\]") as caught:
        eval_transform(EvalProtocol(2, 2))(SCALED)
    assert caught[0].filename == __file__


def test_tensorflow_is_imported_only_for_the_graph(run_new_python: Run) -> None:
    process = run_new_python(
        "import sys, numpy as np\n"
        "from keras_resnet.images.protocol import *\n"
        "image = np.full((50, 60, 3), 9, np.uint8)\n"
        "preprocess_input(image * 1.5)\n"
        "assert eval_transform()(image).tolist() == np.full((224, 224, 3), 9).tolist()\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules), 'imported'\n"
        "assert eval_transform().graph(image).shape == (224, 224, 3)\n"
    )
    assert process.returncode == 0, process.stderr
