"""Segmenters: a class for every pixel, from dilated convolutions and bilinear upsampling."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_resnet import ResNetConfig, build, feature_extractor
from keras_resnet.export import export, load_runner, verify
from keras_resnet.export.tflite import inspect as tflite_inspect
from keras_resnet.networks.graph import inputs_of

from ...conftest import randomize


def test_segmenter_is_exported_and_verified(tmp_path: Path) -> None:
    config = ResNetConfig("basic", (1, 1), (8, 16), output_stride=4)
    backbone = build(config, include_top=False, input_shape=(32, 32, 3))
    x = feature_extractor(backbone).output["C3"]
    x = layers.Conv2D(8, 3, padding="same", dilation_rate=2, use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.UpSampling2D(4, interpolation="bilinear")(layers.Conv2D(3, 1)(x))
    model = keras.Model(backbone.input, layers.Softmax()(x))
    randomize(model)
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    expected = np.asarray(model(images))
    targets = ("tflite-float32", "tflite-int8", "onnx", "onnx-int8")
    report = export(model, tmp_path, targets, calibration=images, timing=None)
    for row in report.artifacts[1:]:
        received = load_runner(tmp_path / str(row.file_name)).compute(images)["features"]
        assert received.shape == (24, 32, 32, 3)
        same = (received.argmax(-1) == expected.argmax(-1)).mean()
        if row.target.endswith("int8"):
            assert row.comparison.cosine > 0.99
            assert same > 0.95
        else:
            assert row.comparison.max_error < 1e-4
            np.testing.assert_allclose(received, expected, atol=1e-4)
            assert same > 0.999


@pytest.mark.parametrize("name", ["probabilities", pytest.param("logits", marks=pytest.mark.full)])
def test_a_map_with_the_name_of_a_classifiers_output_is_a_map(name: str, tmp_path: Path) -> None:
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(image)
    x = layers.Conv2D(3, 1, name="scores")(x)
    model = keras.Model(image, {name: layers.Softmax()(x) if name == "probabilities" else x})
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    expected = np.asarray(model(images)[name])
    targets = ("saved_model", "tflite-float32", "onnx")
    report = export(model, tmp_path, targets, images=images, timing=None)
    assert not report.failures
    for row in report.artifacts:
        assert row.comparison.agreement is None
    model.save(tmp_path / "model.keras")
    for file in ("model.keras", *(str(row.file_name) for row in report.artifacts[1:])):
        runner = load_runner(tmp_path / file)
        assert (runner.outputs, runner.ranks, runner.is_classifier) == ((name,), (4,), False)
        received = runner.compute(images)[name]
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-3)
        with pytest.raises(ValueError, match=f"with the outputs {name} of 4 dimensions"):
            runner.predict(images)
    assert verify(tmp_path / "model.onnx", model, images).disagreements == ()


def test_functional_subclasses_are_exported(tmp_path: Path) -> None:
    """KerasHub's models are made so: functional, with a config that says how to call the class."""

    class Segmenter(keras.Model):
        def __init__(self, filters: int) -> None:
            image = keras.Input((16, 16, 3))
            x = layers.Conv2D(filters, 3, padding="same", dilation_rate=2, name="conv")(image)
            x = layers.ReLU(name="relu")(layers.BatchNormalization()(x))
            super().__init__(image, layers.Conv2D(3, 1, activation="softmax", name="scores")(x))
            self.filters = filters

        def get_config(self) -> dict[str, int]:
            return {"filters": self.filters}

    model = Segmenter(4)
    assert inputs_of(model)["scores"] == ["relu"]
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    targets = ("tflite-int8", "tflite-float32", "onnx")
    export(model, tmp_path, targets, calibration=images, images=images, timing=None)
    # Dilated convolutions are one operator, for which the graph has to be known.
    operators = tflite_inspect.operators(tmp_path / "model-int8.tflite")
    assert operators["CONV_2D"] == 2
    assert "SPACE_TO_BATCH_ND" not in operators
