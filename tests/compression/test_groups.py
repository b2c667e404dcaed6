"""Grouped, depthwise and dilated convolutions in compressed networks, and their int8 files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_resnet import ResNetConfig, build
from keras_resnet.compression import cluster, freeze_ranges, prune, quantize_aware
from keras_resnet.compression.layers import compressed_layers
from keras_resnet.export import ExportOptions, export, load_runner
from keras_resnet.export.tflite import inspect as tflite_inspect

from ..conftest import randomize


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    random = np.random.default_rng(1)
    return random.integers(0, 256, (16, 4, 4, 3)).repeat(4, 1).repeat(4, 2).astype(np.float32)


def by_hand(groups: int, filters: int, **keywords: Any) -> keras.Model:
    """A convolution of 8 channels in groups, its normalisation and a sum."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 255, name="scaled")(image)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(x)
    y = layers.Conv2D(filters, 3, groups=groups, use_bias=False, name="conv", **keywords)(x)
    y = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(y))
    x = layers.GlobalAveragePooling2D(name="pool")(y)
    model = keras.Model(image, layers.Dense(5, activation="softmax", name="head")(x))
    randomize(model)
    return model


def dilated_by_config(groups: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    config = ResNetConfig(
        *("bottleneck", (1, 2), (8, 16)),
        stem="cifar",
        output_stride=1,
        groups=groups,
        width_per_group=64 // groups,
    )
    model = build(config, input_shape=(16, 16, 3), classes=10)
    randomize(model)
    head = model.layers[-1]
    head.kernel.assign(head.kernel * 0.3)
    return model


MODELS = {
    "depthwise": lambda: by_hand(8, 8, padding="same"),
    "depthwise with a multiplier and a stride": lambda: by_hand(8, 16, padding="same", strides=2),
    "depthwise and dilated": lambda: by_hand(8, 8, padding="same", dilation_rate=2),
    "dilated without padding": lambda: by_hand(1, 8, padding="valid", dilation_rate=(2, 3)),
    "dilated by config": lambda: dilated_by_config(1),
    "groups and dilated by config": lambda: dilated_by_config(4),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "depthwise and dilated" else pytest.mark.full)
        for name in MODELS
    ],
)
def test_int8_has_what_was_learned(name: str, images: np.ndarray, tmp_path: Path) -> None:
    model = MODELS[name]()
    aware = freeze_ranges(quantize_aware(cluster(prune(model, 0.5), 9), images))
    # Without images: every range has to be known.
    report = export(aware, tmp_path, ("tflite-int8", "onnx-int8"), timing=None)
    assert not report.failures
    assert [row.target for row in report.artifacts] == ["keras", "tflite-int8", "onnx-int8"]
    # What is exported is stripped, not what was given.
    assert compressed_layers(aware)
    wanted = aware.predict(images, verbose=0)
    for row, limit in zip(report.artifacts[1:], (0.006, 0.03), strict=True):
        received = load_runner(tmp_path / str(row.file_name)).predict(images)
        assert np.abs(received - wanted).mean() < limit, row.target
    # One operator each, and no positions moved to and fro.
    operators = tflite_inspect.operators(tmp_path / "model-int8.tflite")
    kernels = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    assert operators["CONV_2D"] == len(kernels)
    assert not {"SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"} & set(operators)


def test_dilated_networks_stay_exact_in_float(images: np.ndarray, tmp_path: Path) -> None:
    for name in ("dilated without padding", "depthwise and dilated"):
        model = MODELS[name]()
        folder = tmp_path / name
        export(prune(model, 0.5), folder, ("tflite-float32",), images=images, timing=None)
        path = folder / "model-float32.tflite"
        wanted = prune(model, 0.5).predict(images, verbose=0)
        np.testing.assert_allclose(load_runner(path).predict(images), wanted, atol=1e-5)
        assert "SPACE_TO_BATCH_ND" not in tflite_inspect.operators(path)


@pytest.mark.full
@pytest.mark.parametrize(
    "name",
    ["dilated by config", pytest.param("groups and dilated by config", marks=pytest.mark.full)],
)
def test_such_layers_may_stay_in_float(name: str, images: np.ndarray, tmp_path: Path) -> None:
    layer = "conv3_block2_2_conv"
    aware = freeze_ranges(quantize_aware(MODELS[name](), images, skip=[layer]))
    path = tmp_path / "model-int8.tflite"
    for options, count in ((ExportOptions(), 0), (ExportOptions(keep_float=(layer,)), 1)):
        export(
            aware, tmp_path, ("tflite-int8",), calibration=images, images=images, options=options,
            timing=None, allow_disagreement=True, overwrite=True,
        )  # fmt: skip
        found = tflite_inspect.float_operators(path)
        assert sum(layer in operator.layers for operator in found) == count
    wanted = aware.predict(images, verbose=0)
    assert np.abs(load_runner(path).predict(images) - wanted).mean() < 0.006
