"""`Recipe.patience`: training ends when validation gets no better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnet
from keras_resnet import ResNetConfig, build
from keras_resnet.data import LabeledImages
from keras_resnet.training import (
    RECIPES,
    TrainingInterrupted,
    TrainResult,
    override,
    train,
)
from keras_resnet.training.run.fitting import Fitting

from .histories import read_history
from .interruption import Count

RECIPE = override(RECIPES["quick-digits"], {"batch_size": 8, "patience": 2, "duration": 6})
#: No better than 0.5 for two epochs after the second one.
ACCURACIES = (0.25, 0.5, 0.5, 0.25, 0.75, 1.0)
BATCHES = 2


def pictures() -> LabeledImages:
    random = np.random.default_rng(0)
    labels = np.arange(8 * BATCHES) % 2
    images = random.integers(0, 256, (len(labels), 8, 8, 3)).astype(np.uint8)
    return LabeledImages(images, labels, ("even", "odd"))


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    config = ResNetConfig("basic", (1, 1), (4, 8), stem="cifar", shortcut="A")
    return build(config, input_shape=(8, 8, 3), classes=2)


@pytest.fixture(autouse=True)
def evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation that gives `ACCURACIES`, one after the other."""

    def evaluate(self: Any) -> dict[str, float]:
        return {"loss": 1.0, "accuracy": ACCURACIES[self._run.finished_epochs]}

    monkeypatch.setattr(Fitting, "_evaluate", evaluate)


def run(
    folder: Path | None, patience: int | None = 2, *callbacks: keras.callbacks.Callback
) -> tuple[TrainResult, keras.Model]:
    model, data = network(), pictures()
    recipe = override(RECIPE, {"patience": patience})
    return train(model, (data, data), recipe, folder, callbacks=callbacks), model


def test_a_run_ends_and_stays_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count, at_best = Count(), []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                at_best.extend(self.model.get_weights())

    result, model = run(tmp_path, 2, count, Keep())
    assert count.batches == result.steps == 4 * BATCHES
    assert result.history["val_accuracy"] == list(ACCURACIES[:4])
    assert (result.best, result.best_epoch) == (0.5, 2)
    said = (
        "Ended early, after 4 of 6 epochs: the best validation accuracy is that of epoch 2, and "
        "`patience` is 2.\n"
    )
    assert capsys.readouterr().out.endswith(said)
    for name, weights in (("best", at_best), ("last", model.get_weights())):
        saved = keras_resnet.load_model(tmp_path / f"{name}.keras").get_weights()
        for one, other in zip(saved, weights, strict=True):
            np.testing.assert_array_equal(one, other)
    assert "trained for 4 epochs" in (tmp_path / "model_card.md").read_text()

    count = Count()
    again, same = run(tmp_path, 2, count)
    assert count.batches == 0
    assert again == result
    for one, other in zip(same.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert capsys.readouterr().out.endswith(said)


@pytest.mark.full
@pytest.mark.parametrize("batches", [4 * BATCHES, 3 * BATCHES + 1])
def test_an_interrupted_one_ends_at_the_same_epoch(batches: int, tmp_path: Path) -> None:
    """The first time, only the evaluation that ends it is missing."""
    with pytest.raises(TrainingInterrupted):
        run(tmp_path, 2, Count(batches))
    assert len(read_history(tmp_path)["loss"]) == 3
    result, _ = run(tmp_path)
    assert result.steps == 4 * BATCHES
    assert result.history["val_accuracy"] == list(ACCURACIES[:4])
    assert (result.best, result.best_epoch) == (0.5, 2)


@pytest.mark.parametrize("patience", [pytest.param(None, marks=pytest.mark.full), 3])
def test_a_better_epoch_in_time_lets_it_go_on(patience: int | None) -> None:
    result, _ = run(None, patience)
    assert result.steps == 6 * BATCHES
    assert (result.best, result.best_epoch) == (1.0, 6)


@pytest.mark.parametrize("patience", [0, -1, 1.5, True])
def test_impossible_patience_is_refused(patience: Any) -> None:
    with pytest.raises(ValueError, match="`patience` to be an integer of at least 1"):
        override(RECIPE, {"patience": patience})
