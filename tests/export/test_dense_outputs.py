"""Segmenters: a class for every pixel, from dilated convolutions and bilinear upsampling."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from keras import layers

from keras_resnet import ResNetConfig, build, feature_extractor
from keras_resnet.export import export, load_runner

from ..conftest import randomize


def test_segmenter_is_exported_and_verified(tmp_path: Path) -> None:
    config = ResNetConfig("basic", (1, 1), (8, 16), output_stride=4)
    backbone = build(config, include_top=False, input_shape=(32, 32, 3))
    x = feature_extractor(backbone).output["C3"]
    # TFLite pads a dilated convolution by moving positions into the batch and back, so that the
    # normalisation after it is not a part of it.
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
