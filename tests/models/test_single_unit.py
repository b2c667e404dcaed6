"""Networks of one unit: classifiers of two classes by a sigmoid, and regressions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_resnet
from keras_resnet import Predictor, ResNetConfig, build, load_model
from keras_resnet.compression import quantize_aware
from keras_resnet.data import Augmentation, DataConfig, LabeledImages
from keras_resnet.data.check.benchmark import benchmark
from keras_resnet.export import export, load_runner, verify
from keras_resnet.models.info import get_info, set_class_names
from keras_resnet.models.outputs import class_probabilities, output_kind
from keras_resnet.training import find_recipe, override, replace_head, train
from keras_resnet.training.losses import make_loss
from keras_resnet.training.recipes.parts import LossConfig
from keras_resnet.training.run.copy import training_copy
from keras_resnet.training.transfer.finetune import with_head

from ..conftest import randomize

NAMES = ("cat", "dog")
RECIPE = override(
    find_recipe("quick-digits"),
    {"batch_size": 8, "augmentation.crop": "none", "loss.label_smoothing": 0.1},
)


def network(config: ResNetConfig, **keywords: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = build(config, input_shape=(32, 32, 3), classes=1, **keywords)
    randomize(model)
    return model


def centred(model: keras.Model, images: np.ndarray) -> keras.Model:
    """With a bias that makes half of the images one class."""
    seen = keras.Model(model.input, model.get_layer("avg_pool").output)
    kernel, _ = model.layers[-1].get_weights()
    logits = seen.predict(images, verbose=0) @ kernel
    model.layers[-1].set_weights([kernel, -np.median(logits, axis=0)])
    return model


@pytest.fixture
def model(tiny_config: ResNetConfig, images: np.ndarray) -> keras.Model:
    model = centred(network(tiny_config), images)
    set_class_names(model, NAMES)
    return model


@pytest.fixture
def dogs(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The probability that each of the images is of the second class, as half of them are."""
    probabilities: np.ndarray = model.predict(images, verbose=0)[:, 0]
    return probabilities


@pytest.fixture
def data(images: np.ndarray) -> LabeledImages:
    return LabeledImages(images, np.arange(40, dtype=np.int32) % 2, NAMES)


def test_a_single_unit_gets_a_sigmoid_for_its_softmax(tiny_config: ResNetConfig) -> None:
    for keywords in ({}, {"classifier_activation": keras.activations.softmax}):
        assert network(tiny_config, **keywords).layers[-1].activation is keras.activations.sigmoid
    assert keras_resnet.ResNet20(classes=1).layers[-1].activation is keras.activations.sigmoid
    logits = network(tiny_config, classifier_activation=None)
    assert output_kind(logits) == "logits"


def test_what_one_number_is(tiny_config: ResNetConfig) -> None:
    image = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    number = keras.layers.Dense(1)(pooled)
    regression = keras.Model(image, number)
    assert output_kind(regression) == "values"
    for end in (
        keras.layers.Dense(1, "sigmoid")(pooled),
        keras.layers.Activation("sigmoid")(number),
        keras.ops.sigmoid(number),
        keras.layers.Activation("linear", dtype="float32")(keras.ops.sigmoid(number)),
    ):
        assert output_kind(keras.Model(image, end)) == "probabilities"
    constant = keras.Model(image, keras.layers.Softmax()(number))
    with pytest.raises(ValueError, match="a softmax of one number, which is always 1"):
        output_kind(constant)
    # Names of two classes make it a classifier.
    set_class_names(regression, NAMES)
    assert output_kind(regression) == "logits"


def test_probabilities_of_both_classes_by_hand() -> None:
    logit = np.array([[0.0], [2.0], [-30.0]], np.float32)
    share = 1 / (1 + np.exp(-logit))
    expected = np.concatenate([1 - share, share], axis=1)
    for values, logits in ((logit, True), (share, False)):
        found = class_probabilities(values, logits=logits, pairs=True)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(class_probabilities(share, logits=False, pairs=False), share)


@pytest.mark.parametrize("name", ["cross-entropy", "binary-cross-entropy"])
def test_it_is_trained_by_binary_cross_entropy(
    name: Any, model: keras.Model, images: np.ndarray
) -> None:
    copy = training_copy(model)
    loss = make_loss(LossConfig(name, label_smoothing=0.1), single_unit=copy.single_unit)
    shares = np.random.default_rng(0).uniform(0, 1, (40, 1)).astype(np.float32)
    binary = keras.losses.BinaryCrossentropy(label_smoothing=0.1)
    expected = binary(shares, model(images))
    both = np.concatenate([1 - shares, shares], axis=1)
    np.testing.assert_allclose(loss(both, copy(images)), expected, rtol=1e-4)
    labels = np.arange(40) % 2
    np.testing.assert_allclose(
        loss(labels, copy(images)), binary(labels[:, None], model(images)), rtol=1e-4
    )


def test_training_goes_back_into_the_single_unit(
    tiny_config: ResNetConfig, data: LabeledImages, tmp_path: Path
) -> None:
    model = build(tiny_config, input_shape=(32, 32, 3), classes=1)
    result = train(model, (data, data), RECIPE, tmp_path, epochs=1)
    best = load_model(tmp_path / "best.keras")
    assert best.output_shape == (None, 1)
    assert get_info(best).class_names == NAMES
    dogs = best.predict(data.images, verbose=0)[:, 0]
    assert np.mean((dogs > 0.5) == data.labels) == pytest.approx(result.best)
    smooth_free = keras.losses.BinaryCrossentropy()(data.labels[:, None], dogs[:, None])
    assert result.history["val_loss"][-1] == pytest.approx(float(smooth_free), rel=1e-3)


def test_what_a_single_unit_cannot_be_trained_for(
    model: keras.Model, data: LabeledImages, tmp_path: Path
) -> None:
    one = LabeledImages(data.images, np.zeros(40, np.int32), ("cat",))
    with pytest.raises(ValueError, match="Expected images of at least two classes"):
        train(model, (one, one), RECIPE)
    threshold = {"loss.name": "binary-cross-entropy", "loss.target_threshold": 0.2}
    with pytest.raises(ValueError, match="no `loss.target_threshold` for a network"):
        train(model, (data, data), override(RECIPE, threshold), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    constant = keras.Model(model.input, keras.layers.Dense(1, "softmax")(model.layers[-2].output))
    with pytest.raises(ValueError, match="which is always 1"):
        train(constant, (data, data), RECIPE)


def test_its_head_is_kept_for_the_same_classes_and_can_be_made(
    model: keras.Model, data: LabeledImages, tiny_model: keras.Model
) -> None:
    assert with_head(model, data) is model
    head = replace_head(tiny_model, 1, names=NAMES)
    assert head.layers[-1].activation is keras.activations.sigmoid
    assert get_info(head).class_names == NAMES
    # One label, or one value, is none of two classes.
    assert get_info(replace_head(tiny_model, 1, task="labels", names=("dog",))).class_names
    mixed = Augmentation(mixup=0.2)
    config = DataConfig(data.name, size=32, batch_size=8, augmentation=mixed)
    timed = benchmark(data, config, model=model, seconds=0.01, rounds=1)
    assert timed.images_per_second["model"] > 0


def test_predictions_have_both_classes(
    model: keras.Model, images: np.ndarray, dogs: np.ndarray
) -> None:
    predictor = Predictor(model)
    expected = np.stack([1 - dogs, dogs], axis=1)
    np.testing.assert_allclose(predictor.predict(images), expected, atol=1e-5)
    best = [found[0][:2] for found in predictor.classify(images, 1)]
    assert best == [("1", "dog") if dog > 0.5 else ("0", "cat") for dog in dogs]
    compressed = quantize_aware(model, images)
    assert Predictor(compressed).predict(images).shape == (40, 2)


def test_artifacts_are_compared_in_both_classes(
    model: keras.Model, images: np.ndarray, dogs: np.ndarray, tmp_path: Path
) -> None:
    labels = (dogs > 0.5).astype(int)
    targets = ("saved_model", "tflite-float32", "onnx")
    report = export(model, tmp_path, targets, images=images, labels=labels, timing=None)
    for row in report.artifacts:
        assert (row.comparison.agreement, row.comparison.accuracy) == (1.0, 1.0)
    runner = load_runner(tmp_path / "model.onnx")
    expected = np.stack([1 - dogs, dogs], axis=1)
    np.testing.assert_allclose(runner.predict(images), expected, atol=1e-4)
    (raw,) = runner.compute(images).values()
    assert raw.shape == (40, 1)
    # For servers, names and scores.
    signature = tf.saved_model.load(str(tmp_path / "saved_model" / "1")).signatures
    served = signature["serving_default"](image=tf.constant(images, tf.float32))
    assert [row[0].decode() for row in served["classes"].numpy()] == [NAMES[x] for x in labels]
    # The other way round is another network.
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([-kernel, -bias])
    row = verify(tmp_path / "model.onnx", model, images, labels)
    assert row.comparison.agreement == 0.0
    assert row.disagreements


@pytest.mark.full
@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_integers_tell_both_classes_apart(
    activation: str | None, tiny_config: ResNetConfig, images: np.ndarray, tmp_path: Path
) -> None:
    model = centred(network(tiny_config, classifier_activation=activation), images)
    labels = Predictor(model).predict(images).argmax(-1)
    targets = ("tflite-int8", "onnx-int8", "saved_model")
    report = export(
        model, tmp_path, targets, calibration=images, images=images, labels=labels,
        timing=None, allow_disagreement=True,
    )  # fmt: skip
    for row in report.artifacts[1:]:
        assert 0.9 <= row.comparison.agreement <= 1.0  # type: ignore[operator]
        assert row.comparison.accuracy == row.comparison.agreement
    served = tf.saved_model.load(str(tmp_path / "saved_model" / "1")).signatures["serving_default"]
    names = served(image=tf.constant(images, tf.float32))["classes"].numpy()
    assert [int(row[0]) for row in names] == labels.tolist()


def test_a_regression_keeps_its_numbers(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    number = keras.layers.Dense(1)(tiny_model.get_layer("avg_pool").output)
    model = keras.Model(tiny_model.input, number)
    export(model, tmp_path, ("onnx",), images=images, timing=None)
    runner = load_runner(tmp_path / "model.onnx")
    found = runner.compute(images)
    np.testing.assert_allclose(found["values"], model(images.astype(np.float32)), atol=1e-4)
    with pytest.raises(ValueError, match="Received: a model with the outputs values"):
        runner.predict(images)


def ended(tiny_model: keras.Model, *layers: Any) -> keras.Model:
    """One unit behind the tiny network's features, with these layers, for two named classes."""
    x = tiny_model.get_layer("avg_pool").output
    for layer in layers:
        x = layer(x)
    model = keras.Model(tiny_model.input, x)
    set_class_names(model, NAMES)
    return model


def test_every_spelling_of_a_sigmoid_is_one(tiny_model: keras.Model, images: np.ndarray) -> None:
    dense, layers = keras.layers.Dense, keras.layers
    for end in (
        (dense(1, activation=keras.ops.sigmoid),),
        (dense(1, activation="hard_sigmoid"),),
        (dense(1, activation="sigmoid"), layers.Reshape((1,))),
        (dense(1), keras.ops.sigmoid),
    ):
        model = ended(tiny_model, *end)
        assert output_kind(model) == "probabilities"
        own = np.asarray(model(images[:4]))
        assert np.allclose(Predictor(model).predict(images[:4])[:, 1:], own, atol=1e-5)
    with pytest.raises(ValueError, match="Expected a classifier of one unit that ends with a sig"):
        output_kind(ended(tiny_model, dense(1, activation="tanh")))


def test_one_unit_has_two_names(model: keras.Model) -> None:
    with pytest.raises(ValueError, match="Expected 2 `class_names`, one per class. Received: 5"):
        Predictor(model, class_names=list("abcde"))
