from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.export import export, load_runner, runtime
from keras_resnet.export.runtime import KerasRunner

from ..conftest import LFS_POINTER


def test_keras_file_runs_like_the_model(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    tiny_model.save(tmp_path / "model.keras")
    runner = load_runner(str(tmp_path / "model.keras"))
    np.testing.assert_allclose(
        runner.predict(images, batch_size=7), tiny_model.predict(images, verbose=0), atol=1e-5
    )


def test_images_are_checked(tiny_model: keras.Model, images: np.ndarray) -> None:
    runner = KerasRunner(tiny_model)
    with pytest.raises(
        ValueError, match=r"Expected images of shape \(n, 32, 32, 3\). Received: \(32, 32, 3\)"
    ):
        runner.predict(images[0])
    with pytest.raises(ValueError, match=r"Received: pixels in \[-1, "):
        runner.predict(images / 127.5 - 1)


@pytest.mark.parametrize(
    "name", ["missing.tflite", "missing.keras", "missing.onnx", "folder", "file.txt"]
)
def test_what_is_no_artifact_is_refused_with_its_path(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(ValueError, match=f"Expected an existing .*Received: .*{name}"):
        load_runner(tmp_path / name)


def test_highest_version_of_a_saved_model_is_loaded(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    export(tiny_model, tmp_path, ("saved_model",), images=images, timing=None)
    (tmp_path / "saved_model" / "9").mkdir()
    (tmp_path / "saved_model" / "1").rename(tmp_path / "saved_model" / "10")
    (tmp_path / "saved_model" / "notes").mkdir()
    expected = tiny_model.predict(images[:2], verbose=0)
    for path in ("saved_model", "saved_model/10"):
        np.testing.assert_allclose(
            load_runner(tmp_path / path).predict(images[:2]), expected, atol=1e-5
        )


@pytest.mark.parametrize("name", ["broken.tflite", "broken.keras", "broken.onnx"])
def test_damaged_files_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no model at all" * 100)
    with pytest.raises(ValueError, match=f"Expected an artifact.*Received: .*{name}"):
        load_runner(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    [
        "m.tflite",
        "m.keras",
        "m.onnx",
        "1/saved_model.pb",
        "1/variables/variables.index",
        "m.onnx.data",
    ],
)
def test_pointers_in_the_place_of_files_are_named(name: str, tmp_path: Path) -> None:
    for other in ("m.onnx", "1/saved_model.pb", name):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).write_bytes(LFS_POINTER if other == name else b"\x08\0")
    path = tmp_path / ("1" if name.startswith("1/") else name.removesuffix(".data"))
    said = f"Expected an artifact that can be read. Received: .*{name}: a Git LFS pointer"
    with pytest.raises(ValueError, match=said):
        load_runner(path)


def test_refusals_of_this_package_are_not_wrapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = keras.Input((8, 8, 3))
    output = keras.layers.Lambda(lambda x: x[:, 0, 0], name="corner")(image)
    path = tmp_path / "model.keras"
    keras.Model(image, output).save(path)
    said = f"^Expected a `.keras` file that needs no code .*Received: {path}, with the Lambda"
    with pytest.raises(ValueError, match=said):
        load_runner(path)
    path.write_bytes(b"\xff\x00 damaged")
    with pytest.raises(ValueError, match=f"^Expected a readable `.keras` file. Received: {path}: "):
        load_runner(path)

    def refuse(path: Path) -> None:
        raise ValueError("Expected 3 names. Received: 2")

    monkeypatch.setitem(runtime._LOADERS, ".onnx", refuse)
    file = tmp_path / "model.onnx"
    file.write_bytes(b"\xff\x00")
    with pytest.raises(ValueError, match=f"^{file}: Expected 3 names. Received: 2$"):
        load_runner(file)


def test_foreign_saved_model_is_refused(tmp_path: Path) -> None:
    module = tf.Module()
    module.serve = tf.function(lambda x: x + 1, input_signature=[tf.TensorSpec((None,))])
    tf.saved_model.save(module, str(tmp_path / "1"))
    with pytest.raises(
        ValueError,
        match="Expected an artifact that takes one batch of images.*its input",
    ):
        load_runner(tmp_path)
