"""Fine-tuning as a whole, on generated pictures."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet import ResNetConfig, build
from keras_resnet.data import LabeledImages
from keras_resnet.model_info import get_info
from keras_resnet.training import ResumeError, find_recipe, override
from keras_resnet.training.transfer.finetune import FinetuneResult, Stage, finetune

from ...conftest import randomize

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
STAGES = (Stage("head", 2), Stage("C4", 1, 0.1))
#: For so few steps.
RECIPE = override(find_recipe("finetune"), {"optimizer.learning_rate": 0.02, "batch_size": 8})


def part(count: int, seed: int, name: str, shares: tuple[float, ...] = (1, 1, 1)) -> LabeledImages:
    random = np.random.default_rng(seed)
    labels = random.choice(3, count, p=np.array(shares) / sum(shares)).astype(np.int32)
    noise = random.integers(-30, 30, (count, 16, 16, 3))
    pixels = np.array(list(COLOURS.values()))[labels][:, None, None] + noise
    return LabeledImages(pixels.astype(np.uint8), labels, tuple(COLOURS), name=name)


@pytest.fixture
def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    config = ResNetConfig("basic", (1, 1, 1), (8, 16, 24), stem="cifar", shortcut="A")
    model = build(config, input_shape=(16, 16, 3), name="tiny")
    randomize(model)
    return model


def run(network: keras.Model, folder: Path | None, **keywords: object) -> FinetuneResult:
    data = (part(96, 1, "train"), part(48, 2, "validation"))
    return finetune(
        network, data, folder, recipe=RECIPE, stages=STAGES, report=lambda text: None, **keywords
    )  # type: ignore[arg-type]


def test_new_classes_are_learnt_and_everything_is_written(
    network: keras.Model, tmp_path: Path
) -> None:
    backbone = [layer for layer in network.layers if layer.weights][:-1]
    before = {layer.name: layer.get_weights() for layer in backbone}
    result = run(network, tmp_path / "run")
    assert result.best > 0.9
    assert result.baselines is not None
    assert result.baselines.linear_probe > 0.9
    assert get_info(result.model).class_names == tuple(COLOURS)
    changed = {
        layer.name
        for layer in backbone
        if any(map(np.any, map(np.not_equal, before[layer.name], layer.get_weights())))
    }
    # Convolutions of C4, and no normalisation anywhere.
    assert changed == {layer.name for layer in backbone if "conv4" in layer.name} - {
        layer.name for layer in backbone if layer.name.endswith("_bn")
    }
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "1-head", "2-C4", "best.keras", "last.keras", "config.json",
        "history.csv", "history.png", "model_card.md",
    }  # fmt: skip
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 1 + 3
    loaded = keras.saving.load_model(tmp_path / "run" / "last.keras")
    images = part(4, 3, "other").images
    np.testing.assert_array_equal(loaded(images), result.model(images))
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert settings["baselines"]["train_images"] == 96


def test_same_call_goes_on_and_another_one_is_refused(network: keras.Model, tmp_path: Path) -> None:
    start = network.get_weights()
    whole = run(network, tmp_path / "whole").model.get_weights()

    class InterruptedError_(Exception):
        pass

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            raise InterruptedError_

    network.set_weights(start)
    with pytest.raises(InterruptedError_):
        run(network, tmp_path / "parts", callbacks=(Interrupt(),))
    network.set_weights(start)
    again = run(network, tmp_path / "parts").model.get_weights()
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ResumeError, match="bn"):
        run(network, tmp_path / "parts", bn="training")


def test_imbalance_is_told(network: keras.Model) -> None:
    told: list[str] = []
    data = (part(60, 1, "train", (10, 1, 1)), part(30, 2, "validation"))
    finetune(network, data, stages=(Stage("head", 1),), compare=False, report=told.append)
    assert told[0].startswith("Classes are imbalanced: ")
    assert "images of red" in told[0]
    assert told[1].startswith("Stage 1 of 1. Trains head: 1 of ")


@pytest.mark.parametrize(("epochs", "rate"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_impossible_stages_are_refused(epochs: float, rate: float) -> None:
    with pytest.raises(ValueError, match="of a stage above 0"):
        Stage("head", epochs, rate)
