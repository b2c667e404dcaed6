"""Which models can be exported, and what their artifacts put out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import ResNetConfig, build, feature_extractor
from keras_resnet.export import ExportOptions, Limits, export, load_runner, verify
from keras_resnet.export.onnx.graph import group_norms
from keras_resnet.export.outputs import output_names
from keras_resnet.export.report.rows import cells
from keras_resnet.export.tracing import leaf_layers

from ..conftest import randomize


@pytest.mark.full
def test_logits_stay_logits_and_runners_still_give_probabilities(
    tiny_config: ResNetConfig, images: np.ndarray, tmp_path: Path
) -> None:
    model = build(tiny_config, input_shape=(32, 32, 3), classifier_activation=None)
    randomize(model)
    export(
        model, tmp_path, ("saved_model", "tflite-float32", "onnx"), images=images[:8], timing=None
    )
    expected = keras.ops.softmax(model(images[:8]))
    for name in ("saved_model", "model-float32.tflite", "model.onnx"):
        runner = load_runner(tmp_path / name)
        assert runner.outputs == ("logits",)
        np.testing.assert_allclose(runner.predict(images[:8]), expected, atol=1e-5)


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param("mixed_float16", marks=pytest.mark.full),
        "mixed_bfloat16",
        pytest.param("nested", marks=pytest.mark.full),
    ],
)
def test_mixed_precision_models_are_exported_in_float32(
    policy: str, tiny_config: ResNetConfig, images: np.ndarray, tmp_path: Path
) -> None:
    dtype = "mixed_bfloat16" if policy == "nested" else policy
    model = build(tiny_config, input_shape=(32, 32, 3), dtype=dtype)
    randomize(model)
    if policy == "nested":
        image = keras.Input((32, 32, 3))
        model = keras.Model(image, model(image))
    report = export(model, tmp_path, ("tflite-float32", "onnx"), images=images[:8], timing=None)
    assert all(artifact.comparison.max_error <= 1e-4 for artifact in report.artifacts)
    exact = build(tiny_config, input_shape=(32, 32, 3))
    exact.set_weights(model.get_weights())
    received = load_runner(tmp_path / "model.onnx").predict(images[:8])
    np.testing.assert_allclose(received, exact(images[:8]), atol=1e-4)


@pytest.mark.full
def test_any_image_size_and_number_of_channels(tiny_config: ResNetConfig, tmp_path: Path) -> None:
    model = build(tiny_config, input_shape=(None, None, 1))
    randomize(model)
    random = np.random.default_rng(0)
    export(
        model,
        tmp_path,
        ("saved_model", "onnx"),
        images=random.integers(0, 256, (4, 40, 24, 1)),
        timing=None,
    )
    other = random.integers(0, 256, (3, 16, 48, 1))
    for name in ("saved_model", "model.onnx"):
        np.testing.assert_allclose(
            load_runner(tmp_path / name).predict(other), model(other), atol=1e-5
        )


def test_flex_and_custom_operators_are_refused_by_name(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3))

    @keras.saving.register_keras_serializable("test")
    class Erfinv(keras.layers.Layer):
        def call(self, x: tf.Tensor) -> tf.Tensor:
            return tf.math.erfinv(x / 300.0)

    x = keras.layers.GlobalAveragePooling2D()(Erfinv()(image))
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))
    with pytest.raises(
        ValueError, match="TFLite's built-in operators.*Received: one that needs Erfinv$"
    ):
        export(model, tmp_path, ("tflite-float32",), timing=None)
    assert list(tmp_path.iterdir()) == []


def test_only_models_of_one_image_are_exported(tmp_path: Path) -> None:
    image = keras.Input((32, 32, 3))
    one_class = keras.Model(image, keras.layers.Dense(1, "softmax")(keras.layers.Flatten()(image)))
    two = keras.Model([image, keras.Input((32, 32, 3))], keras.layers.Flatten()(image))
    for model, message in (
        (two, "with one input .*Received: Functional with input"),
        (keras.Sequential(), "with one input"),
        ("model.keras", "with one input .*Received: str"),
        (one_class, "a softmax of one number"),
    ):
        with pytest.raises(ValueError, match=f"Expected a .*{message}"):
            export(model, tmp_path, ("onnx",))


@pytest.mark.full
@pytest.mark.parametrize(
    "names", [("C2", "C3", "C4"), pytest.param(("features",), marks=pytest.mark.full)]
)
def test_feature_maps_are_exported_by_name(
    names: tuple[str, ...], tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    if names == ("features",):
        model = keras.Model(tiny_model.input, tiny_model.get_layer("avg_pool").output)
    else:
        model = feature_extractor(tiny_model)
    folder = tmp_path
    report = export(
        model,
        folder,
        ("saved_model", "tflite-float32", "tflite-int8", "onnx"),
        calibration=images,
        timing=None,
    )
    expected = model(images[:3].astype(np.float32))
    expected = expected if isinstance(expected, dict) else {"features": expected}
    for row in report.artifacts[1:]:
        assert row.comparison.agreement is None
        assert row.comparison.cosine > (0.99 if row.target == "tflite-int8" else 0.999999)
        runner = load_runner(folder / str(row.file_name))
        assert set(runner.outputs) == set(names)
        with pytest.raises(ValueError, match="Expected a classifier. Received: a model with"):
            runner.predict(images)
        if row.target != "tflite-int8":
            received = runner.compute(images[:3])
            for name in names:
                np.testing.assert_allclose(received[name], expected[name], atol=1e-4)


def test_embeddings_are_features_not_logits(images: np.ndarray, tmp_path: Path) -> None:
    image = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(image))
    model = keras.Model(image, keras.layers.UnitNormalization()(keras.layers.Dense(4)(x)))
    report = export(model, tmp_path, ("onnx",), images=images, timing=None)
    assert report.artifacts[1].comparison.agreement is None
    assert load_runner(tmp_path / "model.onnx").outputs == ("features",)
    said = "Not measured, as the model is not a classifier: accuracy and agreement."
    assert report.to_dict()["not_measured"] == said
    assert said in (tmp_path / "model_card.md").read_text()
    assert said in (tmp_path / "export.html").read_text()
    assert cells(report.artifacts[1], 40)[-1] == "accuracy and agreement not measured"
    with pytest.raises(ValueError, match="Expected a classifier. Received: .* features"):
        export(model, tmp_path, ("onnx",), images=images, labels=np.zeros(40, int), timing=None)
    # What is asked for has to be measured.
    assert verify(tmp_path / "model.onnx", model, images).disagreements == ()
    row = verify(tmp_path / "model.onnx", model, images, limits=Limits(min_agreement=0.5))
    assert row.disagreements == ("agreement not measured: the model is not a classifier",)


def endings(image: keras.KerasTensor, logits: keras.KerasTensor) -> dict[str, keras.Model]:
    """One classifier, ended in every way that users end theirs."""
    softmax = keras.layers.Softmax()(logits)
    flat = keras.Model(image, softmax)
    return {
        "layer": flat,
        "operation": keras.Model(image, keras.ops.softmax(logits)),
        "cast": keras.Model(image, keras.layers.Activation("linear", dtype="float32")(softmax)),
        "nested": keras.Model(image, flat(image)),
    }


@pytest.mark.parametrize("kind", ["layer", "operation", "cast", "nested"])
def test_probabilities_are_recognised_however_the_model_ends(kind: str) -> None:
    image = keras.Input((8, 8, 3))
    logits = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(image))
    assert output_names(endings(image, logits)[kind]) == ("probabilities",)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["layer", "operation", "cast", "nested"])
def test_probabilities_stay_probabilities_however_the_model_ends(
    kind: str, tiny_config: ResNetConfig, images: np.ndarray, tmp_path: Path
) -> None:
    base = build(tiny_config, input_shape=(32, 32, 3), classifier_activation=None)
    randomize(base)
    model = endings(base.input, base.output)[kind]
    export(model, tmp_path, ("tflite-float32",), images=images[:8], timing=None)
    runner = load_runner(tmp_path / "model-float32.tflite")
    assert runner.outputs == ("probabilities",)
    np.testing.assert_allclose(runner.predict(images[:8]), model(images[:8]), atol=1e-5)


class Composite(keras.layers.Layer):
    """A layer that has layers of its own."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.grouped = keras.layers.Conv2D(8, 3, padding="same", groups=2, name="inner_conv")
        self.normalisations = [keras.layers.GroupNormalization(2, name="inner_norm")]

    def build(self, shape: tuple[int, ...]) -> None:
        self.grouped.build(shape)
        self.normalisations[0].build((*shape[:-1], 8))

    def call(self, x: Any) -> Any:
        return self.normalisations[0](self.grouped(x))


def test_layers_inside_of_layers_are_traced_as_others_are(
    images: np.ndarray, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, name="first")(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.GlobalAveragePooling2D()(Composite(name="composite")(x))
    model = keras.Model(image, keras.layers.Dense(4, activation="softmax", name="head")(x))
    assert [layer.name for layer in leaf_layers(model)][3:6] == [
        "composite", "inner_conv", "inner_norm"
    ]  # fmt: skip
    targets = ("tflite-float32", "onnx", "onnx-float16")
    report = export(model, tmp_path, targets, images=images[:8], timing=None)
    assert not report.failures
    assert group_norms(model) == {"inner_norm"}
    kept = ExportOptions(keep_float=("inner_conv",))
    report = export(
        model, tmp_path / "kept", ("onnx-int8",), images=images[:8], calibration=images[8:],
        options=kept, timing=None, allow_disagreement=True,
    )  # fmt: skip
    assert report.artifacts[-1].float_layers == ("inner_conv",)
