"""What goes wrong with few images: batches, validation, unreadable files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnet import ResNetConfig, build
from keras_resnet.data import DataConfig, LabeledImages, load_data, load_digits
from keras_resnet.data.bad_records import TooManyBadRecordsError
from keras_resnet.support.intervals import accuracy_in_words, margin_of
from keras_resnet.training import RECIPES, find_rate, finetune, override, train
from keras_resnet.training.run import card

RECIPE = override(RECIPES["quick-digits"], {"batch_size": 8})


def some_digits(count: int, size: int = 16) -> LabeledImages:
    data = load_digits(size)[0]
    return LabeledImages(data.images[:count], data.labels[:count], data.class_names, name="few")


@pytest.fixture
def model(tiny_config: ResNetConfig) -> keras.Model:
    keras.utils.set_random_seed(0)
    return build(tiny_config, input_shape=(16, 16, 3))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Ten classes of three images, of which one is no image."""
    random = np.random.default_rng(0)
    for index in range(30):
        path = tmp_path / "images" / f"class{index % 10}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    (tmp_path / "images" / "class0" / "0.png").write_bytes(b"no image at all")
    return f"folder:{tmp_path / 'images'}"


def test_batches_larger_than_the_data_are_refused_with_the_number(model: keras.Model) -> None:
    data = (some_digits(50), some_digits(20))
    said = (
        r"at most the 50 training images of few\. Received: `batch_size=64`\. Set `batch_size` to "
        r"at most 50; `batch_size=8` gives 7 batches per epoch$"
    )
    recipe = override(RECIPE, {"batch_size": 64})
    jobs: list[Any] = [
        lambda: train(model, data, recipe),
        lambda: find_rate(model, data, recipe),
        lambda: finetune(model, data, recipe=recipe),
    ]
    for job in jobs:
        with pytest.raises(ValueError, match=said):
            job()
    # Two batches of 64 make a step.
    accumulated = override(recipe, {"batch_size": 128, "optimizer.accumulation": 2})
    said = (
        r"Received: `batch_size=128` in 2 parts\. .* at most 100; `batch_size=16` gives 7 batches"
    )
    with pytest.raises(ValueError, match=said):
        train(model, data, accumulated)
    # Who has chosen nothing learns where the number is from.
    recipe = RECIPES["quick-digits"]
    said = "`batch_size=32`, from the recipe quick-digits. Set `batch_size` to at most 20;"
    with pytest.raises(ValueError, match=said):
        train(model, (data[1], data[1]), recipe)
    # All of them at once are one batch.
    assert train(model, data, override(RECIPE, {"batch_size": 50}), epochs=2).steps == 2


def test_few_images_of_validation_are_said_to_tell_little() -> None:
    assert margin_of(4) == pytest.approx(0.35, abs=0.005)
    assert 0.09 < margin_of(100) < 0.1
    assert accuracy_in_words(0.75, 4) == "75.00% (of 4 images: 95% interval 30% to 95%)"
    assert accuracy_in_words(0.75, 100) == "75.00%"
    said: list[str] = []
    load_data("synthetic:40", said.append)
    load_data("digits", said.append)
    (few,) = [text for text in said if "points" in text]
    assert "precise to about ±" in few


def test_a_fraction_that_is_too_small_is_named(folder: str) -> None:
    said: list[str] = []
    _, validation = load_data(DataConfig(folder, validation_fraction=0.34), said.append)
    assert len(validation) == 11
    assert said[-1] == (
        "An accuracy on 11 validation images is precise to about ±25 points only; a larger "
        "`validation_fraction` makes it more precise."
    )


def test_the_card_says_how_little_few_images_tell() -> None:
    facts = card.CardFacts(
        "tiny", {}, 1, (16, 16, 3), "digits", ("a", "b"), (40, 4), RECIPE,
        {"loss": [1.0], "val_accuracy": [0.5]}, 1, 0, "float32", {},
    )  # fmt: skip
    assert "accuracies are accurate to about ±35 points only" in card.model_card(facts)
    many = dataclasses.replace(facts, images=(40, 400))
    assert "points only" not in card.model_card(many)


@pytest.mark.full
def test_unreadable_images_are_put_up_with_where_that_is_asked_for(
    model: keras.Model, folder: str
) -> None:
    data = load_data(DataConfig(folder, size=16, validation_fraction=0.34))
    bad = next(part for part in data if "0.png" in {Path(p).name for p in names(part)})
    assert len(bad) < 30
    with pytest.raises(TooManyBadRecordsError, match="or raise `max_bad_fraction`"):
        train(model, data, RECIPE, epochs=1)
    assert train(model, data, RECIPE, epochs=1, max_bad_fraction=0.2).steps > 0
    config = DataConfig(folder, size=16, validation_fraction=0.34, max_bad_fraction=0.2)
    assert train(model, config, RECIPE, epochs=1).steps > 0
    with pytest.raises(TooManyBadRecordsError):
        train(model, config, RECIPE, epochs=1, max_bad_fraction=0)
    curve = find_rate(model, data, RECIPE, steps=10, highest=1e-3, max_bad_fraction=0.2)
    assert len(curve.rates) == 10


def names(source: Any) -> list[str]:
    return [source.name_of(index) for index in range(len(source))]
