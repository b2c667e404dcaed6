"""Artifacts that lie somewhere against the model that they are said to be of."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet import build, feature_extractor
from keras_resnet.export import TARGETS, Limits, export, limits_of, load_runner, verify
from keras_resnet.models.info import get_info, set_class_names
from keras_resnet.networks.config import ResNetConfig

from ..conftest import randomize


@pytest.fixture(scope="module")
def folder(
    tiny_model: keras.Model, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    targets = ("tflite-float16", "onnx")
    export(tiny_model, folder, targets, images=images, timing=None)
    tiny_model.save(folder / "model.keras")
    return folder


def test_limits_are_those_of_the_target(
    folder: Path, tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    labels = tiny_model.predict(images, verbose=0).argmax(-1)
    row = verify(folder / "model.onnx", tiny_model, images, labels)
    assert (row.target, row.disagreements) == ("onnx", ())
    assert row.comparison.accuracy == row.comparison.keras_accuracy == 1.0
    half = verify(folder / "model-float16.tflite", folder / "model.keras", images)
    assert half.target == "tflite-float16"
    assert 1e-6 < half.comparison.max_error < 1e-2
    strict = verify(folder / "model-float16.tflite", tiny_model, images, limits=Limits(1e-6))
    assert "largest probability error" in strict.disagreements[0]
    assert limits_of(folder / "model.onnx") == TARGETS["onnx"].limits
    # Where nobody knows what it is, 98 % of the classes have to be the same.
    shutil.copy(folder / "model.onnx", tmp_path / "found.onnx")
    assert limits_of(tmp_path / "found.onnx").min_agreement == 0.98
    assert verify(tmp_path / "found.onnx", tiny_model, images).target == "found.onnx"


def test_models_in_mixed_precision_are_compared_in_float32(
    tiny_config: ResNetConfig, images: np.ndarray, tmp_path: Path
) -> None:
    model = build(tiny_config, input_shape=(32, 32, 3), dtype="mixed_bfloat16")
    randomize(model)
    set_class_names(model, [f"class {index}" for index in range(10)])
    report = export(model, tmp_path, ("onnx",), images=images, timing=None)
    assert load_runner(tmp_path / "model.onnx").info.class_names == get_info(model).class_names
    model.save(tmp_path / "model.keras")
    for against in (model, tmp_path / "model.keras"):
        row = verify(tmp_path / "model.onnx", against, images)
        assert row.disagreements == ()
        assert row.comparison.max_error == report.artifacts[1].comparison.max_error


def test_another_network_disagrees(
    folder: Path, tiny_config: ResNetConfig, images: np.ndarray
) -> None:
    other = build(tiny_config, input_shape=(32, 32, 3))
    randomize(other)
    other.get_layer("predictions").set_weights(
        [-weight for weight in other.get_layer("predictions").get_weights()]
    )
    row = verify(folder / "model.onnx", other, images)
    assert "largest probability error" in row.disagreements[0]
    assert "required 100%" in row.disagreements[-1]


def test_other_kinds_of_models_are_refused(folder: Path, tiny_model: keras.Model) -> None:
    with pytest.raises(
        ValueError, match="the outputs C2, C3, C4. Received: .*model.onnx, with the"
    ):
        verify(folder / "model.onnx", feature_extractor(tiny_model))
