"""Every network that `list_models` knows becomes quantization-aware and then int8 files."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet import ResNetConfig
from keras_resnet.compression import freeze_ranges, quantize_aware
from keras_resnet.export import export, load_runner
from keras_resnet.export.tflite import inspect as tflite_inspect

from .test_twin import NETWORKS, network

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore:The last stage sees")]


def pictures(model: keras.Model) -> np.ndarray:
    size = model.input_shape[1]
    random = np.random.default_rng(1)
    coarse = random.integers(0, 256, (16, size // 8, size // 8, 3))
    return coarse.repeat(8, 1).repeat(8, 2).astype(np.float32)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, id=names[0])
        for config, names in NETWORKS.items()
        if config.norm == "batch"
    ],
)
def test_artifacts_are_integers_and_right(config: ResNetConfig, tmp_path: Path) -> None:
    model = network(config)
    images = pictures(model)
    # Probabilities of random heads are near 0 and 1, and hide errors there.
    head, logits = model.layers[-1], model.predict(images, verbose=0)
    scale = 3 / np.ptp(logits, axis=0).mean()
    head.kernel.assign(scale * head.kernel)
    head.bias.assign(scale * (head.bias - logits.mean(0)))
    head.activation = keras.activations.softmax
    aware = freeze_ranges(quantize_aware(model, images))
    # Without images: every range has to be known. Random weights bear rounding badly, which is not
    # the question here.
    targets = ("tflite-int8", "onnx-int8")
    export(aware, tmp_path, targets, images=images, timing=None, allow_disagreement=True)
    assert not tflite_inspect.float_operators(tmp_path / "model-int8.tflite")
    wanted = aware.predict(images, verbose=0)
    spread = np.ptp(wanted, axis=0).mean()
    for name, limit in (("model-int8.tflite", 0.05), ("model-int8.onnx", 0.1)):
        apart = np.abs(load_runner(tmp_path / name).predict(images) - wanted).mean()
        assert apart < limit * spread, name
