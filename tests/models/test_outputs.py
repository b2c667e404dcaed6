"""What models put out, and that a list, tuple or dict of one tensor is that tensor everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnet import Predictor, feature_extractor, load_model
from keras_resnet.compression import quantize_aware, strip, to_tf_keras
from keras_resnet.data import DataConfig, LabeledImages
from keras_resnet.data.check.benchmark import benchmark
from keras_resnet.export import export, load_runner, verify
from keras_resnet.jobs.embed import embed
from keras_resnet.models.info import get_info, set_class_names
from keras_resnet.models.outputs import bare, output_kind
from keras_resnet.training import find_recipe, override, replace_head, train
from keras_resnet.training.run.copy import training_copy

#: How users, and files of Keras 2, put the only input and the only output.
WRAPPED: dict[str, Callable[[Any, Any], Any]] = {
    "list": lambda image, output: ([image], [output]),
    "output list": lambda image, output: (image, [output]),
    "tuple": lambda image, output: ((image,), (output,)),
    "dict": lambda image, output: ({"picture": image}, {"classes": output}),
    "nested": lambda image, output: (image, [[output]]),
}


def wrapped(model: keras.Model, how: str) -> keras.Model:
    result = keras.Model(*WRAPPED[how](model.input, model.output), name=model.name)
    set_class_names(result, [f"class {index}" for index in range(model.output_shape[-1])])
    return result


def from_keras_2(model: keras.Model, folder: Path) -> keras.Model:
    """The model as Keras 2 saves it and Keras 3 reads it."""
    to_tf_keras(model).save(folder / "model.h5")
    loaded = keras.saving.load_model(folder / "model.h5", compile=False)
    assert isinstance(loaded.output, list)
    return loaded


@pytest.mark.parametrize("how", WRAPPED)
def test_structures_of_one_tensor_are_that_tensor(
    how: str, tiny_model: keras.Model, images: np.ndarray
) -> None:
    model = wrapped(tiny_model, how)
    plain = bare(model)
    assert plain.input is tiny_model.input
    assert plain.output is tiny_model.output
    assert plain.weights[0] is tiny_model.weights[0]
    assert get_info(plain) == get_info(model)
    assert bare(plain) is plain
    assert output_kind(model) == "probabilities"
    expected = Predictor(tiny_model).predict(images[:4])
    np.testing.assert_array_equal(Predictor(model).predict(images[:4]), expected)


def test_one_feature_map_keeps_its_name(tiny_model: keras.Model) -> None:
    model = feature_extractor(tiny_model, ["C3"])
    assert bare(model) is model
    assert output_kind(model) is None


@pytest.mark.parametrize("how", ["dict", "keras 2"])
def test_artifacts_of_wrapped_outputs_are_held_to_all_limits(
    how: str, tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    model = from_keras_2(tiny_model, tmp_path) if how == "keras 2" else wrapped(tiny_model, how)
    labels = tiny_model.predict(images, verbose=0).argmax(-1)
    folder = tmp_path / "out"
    report = export(model, folder, ("onnx",), images=images, labels=labels, timing=None)
    assert report.artifacts[1].comparison.agreement == 1.0
    assert report.artifacts[1].comparison.accuracy == 1.0
    assert report.to_dict()["not_measured"] == ""
    runner = load_runner(folder / "model.onnx")
    assert runner.outputs == ("probabilities",)
    # Another network's artifact disagrees in classes, not in numbers alone.
    other = keras.models.clone_model(tiny_model)
    row = verify(folder / "model.onnx", wrapped(other, "list"), images, labels)
    assert any("top-1 agreement" in words for words in row.disagreements)
    assert row.comparison.accuracy == 1.0


def test_wrapped_networks_are_compressed_and_get_heads_and_vectors(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    model = wrapped(tiny_model, "dict")
    compressed = quantize_aware(model, images)
    assert output_kind(compressed) == "probabilities"
    stripped = strip(compressed)
    assert stripped.output_shape == (None, 10)
    np.testing.assert_allclose(
        Predictor(stripped).predict(images[:4]), Predictor(tiny_model).predict(images[:4]), atol=0.2
    )
    assert replace_head(model, 3).input is tiny_model.input
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    ((_, vectors),) = embed(model, [tmp_path / "a.png"])
    ((_, expected),) = embed(tiny_model, [tmp_path / "a.png"])
    np.testing.assert_array_equal(vectors, expected)


def test_copies_for_training_put_out_one_tensor(tiny_model: keras.Model) -> None:
    copy = training_copy(wrapped(tiny_model, "dict"), size="any")
    assert copy.output.shape == (None, 10)
    assert copy.input_shape == (None, None, None, 3)
    for ours, theirs in zip(copy.weights, tiny_model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_behind_the_head_is_not_trained_as_logits(tiny_model: keras.Model) -> None:
    cast = keras.layers.Activation("linear", dtype="float32", name="cast")(tiny_model.output)
    copy = training_copy(keras.Model(tiny_model.input, cast))
    assert copy.get_layer("predictions").activation is keras.activations.linear
    logits = keras.layers.Dense(10)(tiny_model.get_layer("avg_pool").output)
    with pytest.raises(ValueError, match="Expected a functional classifier .* ends with softmax"):
        training_copy(keras.Model(tiny_model.input, keras.ops.softmax(logits)))


@pytest.mark.full
def test_wrapped_networks_are_timed_and_trained_as_bare_ones_are(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    labels = np.arange(40, dtype=np.int32) % 10
    data = LabeledImages(images, labels, tuple(f"class {index}" for index in range(10)))
    config = DataConfig(data.name, size=32, batch_size=8)
    model = keras.models.clone_model(wrapped(tiny_model, "dict"))
    timed = benchmark(data, config, model=model, seconds=0.01, rounds=1)
    assert timed.images_per_second["model"] > 0
    recipe = override(find_recipe("quick-digits"), {"batch_size": 8})
    before = model.weights[0].numpy()
    result = train(model, (data, data), recipe, tmp_path, epochs=1)
    assert result.steps == 5
    assert np.abs(model.weights[0].numpy() - before).max() > 0
    best = load_model(tmp_path / "best.keras")
    assert isinstance(best.output, dict)
    assert get_info(best).class_names == data.class_names
    accuracy = float((Predictor(best).predict(images).argmax(-1) == labels).mean())
    assert accuracy == pytest.approx(result.best)
