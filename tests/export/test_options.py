"""What can be chosen about artifacts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest

from keras_resnet.export import (
    ExportError,
    ExportOptions,
    Timing,
    export,
    load_runner,
)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 0}, "`version` to be an integer of at least 1. Received: 0"),
        ({"batch_size": 1.5}, "`batch_size` to be an integer of at least 1. Received: 1.5"),
        ({"serving_batch_sizes": (1, True)}, "`serving_batch_sizes` .*. Received: True"),
        ({"serving_batch_sizes": ()}, "at least one of `serving_batch_sizes`. Received: none"),
        ({"layout": "CHW"}, r"`layout` to be one of \('NHWC', 'NCHW'\). Received: 'CHW'"),
        *(
            ({"storage_uri": uri}, "Expected a `storage_uri` such as")
            for uri in (
                's3://a"b',
                "s3://a'b",
                "s3://a\nb: c",
                "s3://a\x1b[2J",
                "s3://a b",
                "models",
            )
        ),
        (
            {"keep_float": "conv1_conv"},
            "`keep_float` to be a tuple of layer names. Received: 'conv1_conv'",
        ),
    ],
)
def test_impossible_options_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportOptions(**fields)  # type: ignore[arg-type]


def test_integers_of_numpy_become_such_that_json_takes() -> None:
    two = np.int64(2)
    options = ExportOptions(batch_size=two, version=two, serving_batch_sizes=(two,))  # type: ignore[arg-type]
    assert json.loads(json.dumps(dataclasses.asdict(options)))["serving_batch_sizes"] == [2]


@pytest.mark.full
def test_versions_of_a_saved_model_lie_beside_each_other(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    for version in (1, 2):
        options = ExportOptions(version=version)
        export(tiny_model, tmp_path, ("saved_model",), images=images, options=options, timing=None)
    assert {path.name for path in (tmp_path / "saved_model").iterdir()} == {"1", "2"}


@pytest.mark.full
def test_onnx_may_take_channels_first_and_one_batch_size(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    options = ExportOptions(layout="NCHW", batch_size=3)
    report = export(
        tiny_model,
        tmp_path,
        ("onnx",),
        images=images[:8],
        options=options,
        timing=Timing(seconds=0.02),
    )
    assert [row.measurements[0].batch_size for row in report.artifacts] == [3, 3]
    assert all(row.latency_ms is not None for row in report.artifacts)
    graph = onnx.load(tmp_path / "model.onnx").graph
    sides = [side.dim_value for side in graph.input[0].type.tensor_type.shape.dim]
    assert sides == [3, 3, 32, 32]
    runner = load_runner(tmp_path / "model.onnx")
    assert runner.input_shape == (3, 32, 32, 3)
    # Two batches of three and one of two, which is filled up.
    expected = tiny_model.predict(images[:8], verbose=0)
    np.testing.assert_allclose(runner.predict(images[:8]), expected, atol=1e-5)


@pytest.mark.full
def test_layers_that_ruin_int8_are_named_and_can_stay_in_float(
    images: np.ndarray, tmp_path: Path
) -> None:
    """One channel of `wide` is three hundred times as large as the others; `undo` divides it."""
    # Before any layer, whose initial kernel follows from it.
    keras.utils.set_random_seed(1)
    layers = keras.layers
    image = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 64, offset=-2)(image)
    x = layers.Conv2D(16, 3, 2, activation="relu", name="first")(x)
    x = layers.Conv2D(16, 3, activation="relu", name="wide")(x)
    x = layers.Conv2D(16, 3, activation="relu", name="undo")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(10, activation="softmax", name="head")(x))
    wide, undo, head = (model.get_layer(name) for name in ("wide", "undo", "head"))
    kernel, bias = wide.get_weights()
    kernel[..., 3] *= 300
    wide.set_weights([kernel, bias])
    kernel, bias = undo.get_weights()
    kernel[:, :, 3] /= 300
    undo.set_weights([kernel, bias])
    vectors = keras.Model(image, x).predict(images, verbose=0)
    # Every second image its own class, so that small errors change answers.
    centres = vectors[:10] - vectors.mean(0)
    scaled = 30 * centres / np.linalg.norm(centres, axis=1, keepdims=True) ** 2
    head.set_weights([scaled.T, -scaled @ vectors.mean(0)])
    arguments = (("tflite-int8", "onnx-int8"),)
    keywords = {"calibration": images, "images": images, "timing": None, "overwrite": True}
    with pytest.raises(ExportError, match="largest errors: (wide|undo), (wide|undo)") as caught:
        export(model, tmp_path, *arguments, **keywords)  # type: ignore[arg-type]
    assert len(caught.value.report.failures) == 2
    for row in caught.value.report.artifacts[1:]:
        assert set(list(row.layer_errors)[:2]) == {"wide", "undo"}
        assert row.comparison.agreement < 0.9
    options = ExportOptions(keep_float=("wide", "undo"))
    report = export(model, tmp_path, *arguments, options=options, **keywords)  # type: ignore[arg-type]
    for row in report.artifacts[1:]:
        assert row.comparison.agreement >= 0.95
        assert {"wide", "undo"} <= set(row.float_layers)
        assert row.measurements == ()
