from __future__ import annotations

import dataclasses
from typing import Any

import keras
import pytest

from keras_resnet import ResNetConfig, build
from keras_resnet.data import DataConfig, LabeledImages, Source, load_digits, training_batches
from keras_resnet.model_info import get_info
from keras_resnet.training import RECIPES, train

from ..conftest import Run

RECIPE = dataclasses.replace(RECIPES["quick-digits"], epochs=12)


@pytest.fixture(scope="module")
def digits() -> tuple[LabeledImages, LabeledImages]:
    """Two hundred and fifty training digits and fifty held-out ones."""
    train_data, test_data = load_digits(16)
    few, held_out = slice(0, 250), slice(0, 50)
    names = train_data.class_names
    return (
        LabeledImages(train_data.images[few], train_data.labels[few], names),
        LabeledImages(test_data.images[held_out], test_data.labels[held_out], names),
    )


def test_training_learns_and_counts_its_steps(
    tiny_config: ResNetConfig, digits: tuple[LabeledImages, LabeledImages]
) -> None:
    keras.utils.set_random_seed(0)
    model = build(tiny_config, input_shape=(16, 16, 3))
    result = train(model, digits, RECIPE, seed=0)
    assert result.steps == 12 * 8
    assert result.history["loss"][-1] < 0.6 * result.history["loss"][0]
    assert {len(values) for values in result.history.values()} == {12}
    assert result.history["learning_rate"][0] == pytest.approx(RECIPE.learning_rate, rel=1e-5)
    # The history is that of the given model, which stays free of optimizer state.
    predicted = model.predict(digits[1].images, verbose=0).argmax(-1)
    assert (predicted == digits[1].labels).mean() == pytest.approx(
        result.history["val_accuracy"][-1]
    )
    assert not model.compiled
    # Names of classes travel with the data.
    assert get_info(model).class_names == tuple("0123456789")


def test_a_model_of_other_classes_is_refused(
    tiny_config: ResNetConfig, digits: tuple[LabeledImages, LabeledImages]
) -> None:
    model = build(tiny_config, input_shape=(16, 16, 3), classes=7)
    with pytest.raises(ValueError, match="Build it with `classes=10`"):
        train(model, digits, RECIPE)


def test_same_seed_gives_the_same_weights_in_two_processes(run_python: Run) -> None:
    code = """
import dataclasses, hashlib, sys
import keras, tensorflow as tf
tf.config.experimental.enable_op_determinism()
from keras_resnet import ResNetConfig, build
from keras_resnet.data import load_digits
from keras_resnet.training import RECIPES, train
keras.utils.set_random_seed(int(sys.argv[1]))
config = ResNetConfig("basic", (1, 1, 1), (8, 16, 24), stem="cifar", shortcut="A")
model = build(config, input_shape=(16, 16, 3), classes=10)
recipe = dataclasses.replace(RECIPES["quick-digits"], epochs=1)
train(model, load_digits(16), recipe, seed=int(sys.argv[1]))
print(hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest())
"""
    hashes = [run_python(code, seed).stdout.splitlines()[-1] for seed in ("3", "3", "4")]
    assert len(hashes[0]) == 64
    assert hashes[0] == hashes[1] != hashes[2]


def test_recipe_reaches_the_optimizer_and_the_pipeline(
    tiny_config: ResNetConfig,
    digits: tuple[LabeledImages, LabeledImages],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from keras_resnet.training import trainer

    seen: dict[str, object] = {}

    def spy_sgd(schedule: object, **keywords: object) -> object:
        seen.update(keywords)
        return keras.optimizers.SGD(schedule)

    def spy_batches(source: Source, config: DataConfig, epochs: int, **others: Any) -> object:
        how = config.augmentation
        seen.update(crop=how.crop, padding=how.padding, flip=how.flip, batch=config.batch_size)
        return training_batches(source, config, epochs, **others)

    monkeypatch.setattr(trainer, "SGD", spy_sgd)
    monkeypatch.setattr(trainer, "training_batches", spy_batches)
    recipe = dataclasses.replace(RECIPE, epochs=1, momentum=0.5, weight_decay=0.3, padding=2)
    train(build(tiny_config, input_shape=(16, 16, 3)), digits, recipe)
    assert seen == {
        "momentum": 0.5,
        "coupled_weight_decay": 0.3,
        "crop": "pad",
        "padding": 2,
        "flip": 0.0,
        "batch": 32,
    }


def test_logits_are_trained_as_logits(
    tiny_config: ResNetConfig, digits: tuple[LabeledImages, LabeledImages]
) -> None:
    histories = []
    for activation in ("softmax", None):
        keras.utils.set_random_seed(0)
        model = build(tiny_config, input_shape=(16, 16, 3), classifier_activation=activation)
        recipe = dataclasses.replace(RECIPE, epochs=2)
        histories.append(train(model, digits, recipe, seed=0).history["loss"])
    assert histories[0] == pytest.approx(histories[1], rel=1e-3)
