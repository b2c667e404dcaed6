"""Artifacts of networks with heads for labels and for values."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet import Predictor
from keras_resnet.export import export, load_runner
from keras_resnet.training import replace_head

FILES = ("model.onnx", "model-float32.tflite")


@pytest.mark.parametrize(
    ("task", "width", "output"),
    [
        pytest.param("labels", 3, "probabilities", marks=pytest.mark.full),
        ("labels", 1, "probabilities"),
        pytest.param("values", 2, "values", marks=pytest.mark.full),
    ],
)
def test_other_heads_keep_their_numbers(
    task: str, width: int, output: str, tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(0)
    model = replace_head(tiny_model, width, task=task)
    kernel = model.layers[-1].kernel
    kernel.assign(kernel * 20)
    report = export(model, tmp_path, ["onnx", "tflite-float32"], images=images[:8], timing=None)
    assert not report.failures
    expected = model.predict(images[:8].astype("float32"), verbose=0)
    for name in FILES:
        runner = load_runner(tmp_path / name)
        assert runner.outputs == (output,)
        found = runner.compute(images[:8])[output]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        if output == "values":
            with pytest.raises(ValueError, match="Received: a model with the outputs values"):
                runner.predict(images[:8])
        else:
            np.testing.assert_array_equal(runner.predict(images[:8]), found)


def test_values_have_no_classes(tiny_model: keras.Model, images: np.ndarray) -> None:
    model = replace_head(tiny_model, 2, task="values")
    with pytest.raises(ValueError, match=r"Expected a classifier\. Received:"):
        Predictor(model).predict(images[:2])
