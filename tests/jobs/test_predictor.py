from __future__ import annotations

import gc
import io
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnet import ResNetConfig, build
from keras_resnet.export import export
from keras_resnet.images.protocol import EvalProtocol, eval_transform
from keras_resnet.jobs.predictor import Predictor
from keras_resnet.models.info import ModelInfo, set_class_names, set_info

from ..conftest import randomize

NAMES = tuple(f"class {index}" for index in range(10))
TARGETS = ("saved_model", "tflite-float32", "onnx")


@pytest.fixture(scope="module")
def named(tiny_config: ResNetConfig) -> keras.Model:
    model = build(tiny_config, input_shape=(32, 32, 3), name="named")
    randomize(model)
    set_class_names(model, NAMES)
    return model


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of several formats and sizes."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    paths = []
    for name, size in (("a.png", (40, 60)), ("b.jpg", (33, 32)), ("c.bmp", (90, 50))):
        coarse = random.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size).save(folder / name)
        paths.append(folder / name)
    return paths


def test_files_bytes_and_arrays_give_the_models_probabilities(
    named: keras.Model, photographs: list[Path]
) -> None:
    predictor = Predictor(named)
    assert predictor.protocol == EvalProtocol(32, 32)
    assert predictor.class_names == NAMES
    images = eval_transform(EvalProtocol(32, 32))(photographs)
    expected = np.asarray(named(images))
    sources: tuple[Any, ...] = (
        photographs,
        [path.read_bytes() for path in photographs],
        [np.asarray(Image.open(path).convert("RGB")) for path in photographs],
        images,
        images.astype(np.float32),
        list(images),
    )
    for source in sources:
        np.testing.assert_allclose(predictor.predict(source), expected, atol=1e-5)
    for single in (str(photographs[1]), photographs[1].read_bytes(), images[1]):
        np.testing.assert_allclose(predictor.predict(single), expected[1:2], atol=1e-5)
    np.testing.assert_allclose(predictor.predict(images, batch_size=2), expected, atol=1e-5)
    best = predictor.classify(photographs, top=2)
    assert [[own for own, _, _ in row] for row in best] == [
        [str(index) for index in np.argsort(-row)[:2]] for row in expected
    ]
    assert best[0][0][1] == NAMES[int(best[0][0][0])]
    # However many images, and of whatever type: one function, traced once.
    assert predictor.traces == 1


def test_artifacts_know_their_classes_and_predict_the_same(
    named: keras.Model, photographs: list[Path], tmp_path: Path
) -> None:
    protocol = EvalProtocol(32, 40, "bicubic")
    set_info(named, ModelInfo(NAMES, None, "some/weights", protocol))
    export(named, tmp_path, TARGETS, timing=None)
    named.save(tmp_path / "model.keras")
    expected = Predictor(named).classify(photographs, top=3)
    for name in (
        "model.keras",
        "saved_model",
        "saved_model/1",
        "model-float32.tflite",
        "model.onnx",
    ):
        predictor = Predictor(tmp_path / name)
        assert predictor.protocol == protocol
        assert predictor.class_names == NAMES
        found = predictor.classify(photographs, top=3)
        for ours, theirs in zip(found, expected, strict=True):
            assert [entry[:2] for entry in ours] == [entry[:2] for entry in theirs]
            np.testing.assert_allclose([p for *_, p in ours], [p for *_, p in theirs], atol=1e-4)
    set_class_names(named, NAMES)


def test_arrays_of_the_models_size_are_taken_as_they_are(tiny_config: ResNetConfig) -> None:
    """One by one, in a list or stacked, also where files would be cropped; others are cropped."""
    model = build(tiny_config, input_shape=(80, 80, 3))
    predictor = Predictor(model)
    assert predictor.protocol == EvalProtocol(80, 91)
    images = np.random.default_rng(0).integers(0, 256, (3, 80, 80, 3), dtype=np.uint8)
    expected = np.asarray(model(images))
    for source in (images, list(images), images.astype(np.float32)):
        np.testing.assert_allclose(predictor.predict(source, batch_size=2), expected, atol=1e-5)
    np.testing.assert_allclose(predictor.predict(images[0]), expected[:1], atol=1e-5)
    larger = np.random.default_rng(0).integers(0, 256, (3, 90, 120, 3), dtype=np.uint8)
    cropped = np.asarray(model(eval_transform(EvalProtocol(80, 91))(larger)))
    np.testing.assert_allclose(predictor.predict(larger), cropped, atol=1e-5)
    mixed = predictor.predict([images[0], larger[1]])
    np.testing.assert_allclose(mixed, [expected[0], cropped[1]], atol=1e-5)
    # A model of any size takes a stack as it is, and single arrays as files.
    anywhere = build(tiny_config, input_shape=(None, None, 3))
    np.testing.assert_allclose(
        Predictor(anywhere).predict(larger), np.asarray(anywhere(larger)), atol=1e-5
    )
    assert Predictor(anywhere).predict(list(larger)).shape == (3, 10)


@pytest.mark.parametrize(
    ("shape", "known", "protocol"),
    [
        ((32, 32, 3), None, EvalProtocol(32, 32)),
        ((128, 128, 3), None, EvalProtocol(128, 146)),
        ((None, None, 3), None, EvalProtocol(224, 256)),
        ((None, None, 3), EvalProtocol(160, 170, "bicubic"), EvalProtocol(160, 170, "bicubic")),
        # Built for another size than the weights were evaluated at.
        ((128, 128, 3), EvalProtocol(160, 170, "bicubic"), EvalProtocol(128, 146, "bicubic")),
    ],
)
def test_protocol_follows_the_model(
    tiny_config: ResNetConfig, shape: Any, known: EvalProtocol | None, protocol: EvalProtocol
) -> None:
    model = build(tiny_config, input_shape=shape)
    set_info(model, ModelInfo(protocol=known))
    assert Predictor(model).protocol == protocol
    assert Predictor(model, protocol=EvalProtocol(48, 50)).protocol == EvalProtocol(48, 50)


def test_grey_models_take_colour_files(tiny_config: ResNetConfig, photographs: list[Path]) -> None:
    model = build(tiny_config, input_shape=(32, 32, 1))
    randomize(model)
    grey = [
        Image.fromarray(image).convert("L")
        for image in eval_transform(EvalProtocol(32, 32))(photographs)
    ]
    expected = model(np.stack([np.asarray(image) for image in grey])[..., None])
    np.testing.assert_allclose(Predictor(model).predict(photographs), expected, atol=1e-3)
    many = Predictor(build(tiny_config, input_shape=(32, 32, 4)))
    with pytest.raises(ValueError, match=r"arrays of shape \(n, height, width, 4\)"):
        many.predict(photographs)
    assert many.predict(np.zeros((2, 32, 32, 4), np.uint8)).shape == (2, 10)


def test_what_cannot_be_predicted_is_refused(
    named: keras.Model, photographs: list[Path], tmp_path: Path
) -> None:
    predictor = Predictor(named)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    for images, message in (
        (tmp_path / "bad.png", "bad.png"),
        ([photographs[0], tmp_path / "bad.png"], "bad.png.*index 1"),
        (np.full((1, 32, 32, 3), 300.0), "pixels in .0, 255."),
        ([], "at least one image"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.predict(images)
    for batch_size in (0, -1, None):
        with pytest.raises(ValueError, match="Expected `batch_size` to be an integer of at least"):
            predictor.predict(photographs, batch_size=batch_size)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a list of images or an array.*Received: generator"):
        predictor.predict(image for image in photographs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Expected a list of `class_names`"):
        Predictor(named, class_names="cats")
    with pytest.raises(ValueError, match="Expected an existing `.keras`"):
        Predictor(tmp_path / "none.keras")
    wide = build(ResNetConfig("basic", (1,), (8,), stem="cifar"), input_shape=(16, 32, 3))
    with pytest.raises(ValueError, match="a model of square images"):
        Predictor(wide)


def test_scaled_pixels_are_warned_of(named: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras_resnet.images.protocol as preprocessing

    monkeypatch.setattr(preprocessing, "_warned", False, raising=False)
    with pytest.warns(UserWarning, match="scaled"):
        Predictor(named).predict(np.random.default_rng(0).random((1, 32, 32, 3), np.float32))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_calls_are_one_trace_and_no_leak(named: keras.Model) -> None:
    predictor = Predictor(named)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(images[0]).save(file, "png")
    for count in range(100):
        predictor.predict(images[: 1 + count % 8])
    gc.collect()
    before = resident()
    for count in range(1000):
        predictor.predict(file.getvalue() if count % 10 == 0 else images[: 1 + count % 8])
    gc.collect()
    assert predictor.traces == 1
    assert resident() - before < 20 * 2**20


@pytest.mark.full
def test_another_backend_predicts_the_same(
    named: keras.Model, photographs: list[Path], tmp_path: Path, run_new_python: Any
) -> None:
    named.save(tmp_path / "model.keras")
    code = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from keras_resnet import load_model
from keras_resnet.jobs.predictor import Predictor
predictor = Predictor(load_model(sys.argv[1]))
with ThreadPoolExecutor(8) as pool:
    several = list(pool.map(predictor.predict, [sys.argv[3:]] * 80))
assert all(np.array_equal(one, several[0]) for one in several)
np.save(sys.argv[2], several[0])
print(len(predictor.class_names), "tensorflow" in sys.modules)
"""
    arguments = (str(tmp_path / "model.keras"), str(tmp_path / "p.npy"), *map(str, photographs))
    for changed in (code, code.replace("load_model(sys.argv[1])", "sys.argv[1]")):
        done = run_new_python(changed, *arguments, KERAS_BACKEND="jax")
        assert done.stdout.split() == ["10", "False"], done.stderr
    np.testing.assert_allclose(
        np.load(tmp_path / "p.npy"), Predictor(named).predict(photographs), atol=1e-4
    )
