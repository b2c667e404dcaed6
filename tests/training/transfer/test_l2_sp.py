"""`LossConfig.l2_sp`: a pull to the weights that training starts from."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet import ResNetConfig, build
from keras_resnet.data import LabeledImages
from keras_resnet.training import (
    RECIPES,
    Phase,
    ResumeError,
    TrainingInterrupted,
    finetune,
    override,
    train,
)
from keras_resnet.training.run import trainer
from keras_resnet.training.run.copy import pull_to_start, training_copy

from ...conftest import Run
from ..run.interruption import Count

STRENGTH = 0.5
RECIPE = override(
    RECIPES["quick-digits"],
    {
        "batch_size": 8,
        "duration": 2,
        "optimizer.learning_rate": 0.1,
        "optimizer.weight_decay": 0,
        "schedule.name": "constant",
        "schedule.warmup": 0,
        "augmentation.crop": "none",
        "loss.l2_sp": STRENGTH,
    },
)


def pictures() -> LabeledImages:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (32, 8, 8, 3)).astype(np.uint8)
    return LabeledImages(images, np.arange(32) % 2, ("even", "odd"))


DATA = (pictures(), pictures())


def network(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    config = ResNetConfig("basic", (1, 1), (4, 8), stem="cifar", shortcut="B")
    return build(config, input_shape=(8, 8, 3), classes=2)


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    return {w.path: w.numpy() for w in model.trainable_weights if w.path.endswith("/kernel")}


def test_penalty_is_that_of_the_paper() -> None:
    model, other = network(), network(1)
    model.get_layer("conv1_conv").trainable = False
    copy = training_copy(model)
    pull_to_start(copy, STRENGTH, other.get_weights())
    own, start = kernels(model), kernels(other)
    assert "conv1_conv/kernel" not in own
    # The head is new: what it started from means nothing.
    start["predictions/kernel"] = np.zeros_like(start["predictions/kernel"])
    expected = STRENGTH / 2 * sum(((own[name] - start[name]) ** 2).sum() for name in own)
    assert len(copy.losses) == len(own) == 6
    assert float(sum(copy.losses)) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="arrays of the shapes .* to pull its.*Received: 3 arr"):
        pull_to_start(copy, STRENGTH, other.get_weights()[:3])


def test_a_step_is_that_of_weight_decay_towards_the_start() -> None:
    """One step from a start elsewhere, against one of L2 towards zero."""
    step = override(RECIPE, {"duration": 1, "unit": "steps"})
    plain = override(step, {"loss.l2_sp": 0})
    ends = []
    for recipe, start in ((plain, None), (step, None), (step, network(1).get_weights())):
        model = network()
        train(model, DATA, recipe, pull_to=start)
        ends.append(kernels(model))
    before, elsewhere = kernels(network()), kernels(network(1))
    for name, value in before.items():
        head = name == "predictions/kernel"
        for end, start in ((ends[1], before), (ends[2], elsewhere)):
            pull = 0.1 * STRENGTH * (value - (0 if head else start[name]))
            np.testing.assert_allclose(end[name], ends[0][name] - pull, atol=1e-5)


@pytest.mark.full
def test_a_run_that_goes_on_pulls_to_where_it_first_began(tmp_path: Path) -> None:
    recipe = override(RECIPE, {"average.decay": 0.5})
    whole, parts = network(), network()
    history = train(whole, DATA, recipe).history
    with pytest.raises(TrainingInterrupted):
        train(network(), DATA, recipe, tmp_path, callbacks=(Count(5),))
    assert train(parts, DATA, recipe, tmp_path).history == history
    for one, other in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ResumeError, match=r"model.weights_at_start: '\w{16}' →"):
        train(network(1), DATA, recipe, tmp_path)


@pytest.mark.full
def test_every_phase_pulls_to_the_weights_before_all(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, list[np.ndarray]]] = []

    def spy(model: keras.Model, strength: float, start: list[np.ndarray]) -> None:
        seen.append((strength, start))
        pull_to_start(model, strength, start)

    monkeypatch.setattr(trainer, "pull_to_start", spy)
    model = network()
    before = model.get_weights()[:-2]
    phases = (Phase("C3", 0.5), Phase("backbone", 0.5))
    finetune(model, DATA, recipe=RECIPE, phases=phases, compare=False, say=lambda text: None)
    assert [strength for strength, _ in seen] == [STRENGTH, STRENGTH]
    for _, start in seen:
        for one, other in zip(start[:-2], before, strict=True):
            np.testing.assert_array_equal(one, other)
    assert any(map(np.any, map(np.not_equal, before, model.get_weights())))


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(
        ValueError, match="either `loss.l2_sp`.*Received: both, 0.5 and 0.1. Set one of"
    ):
        override(RECIPE, {"optimizer.weight_decay": 0.1})
    with pytest.raises(ValueError, match="`loss.l2_sp` above 0 with `pull_to`"):
        train(network(), DATA, override(RECIPE, {"loss.l2_sp": 0}), pull_to=network().get_weights())


REPLICAS = """
import sys
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_resnet.training import train
from tests.training.transfer.test_l2_sp import DATA, RECIPE, frozen, network
model = frozen(network())
history = train(model, DATA, RECIPE, strategy="mirrored", pull_to=network(1).get_weights()).history
np.savez(sys.argv[1], *model.get_weights(), loss=history["loss"], val_loss=history["val_loss"])
"""


def frozen(model: keras.Model) -> keras.Model:
    """Without what replicas compute on their own."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    return model


@pytest.mark.full
def test_two_replicas_pull_as_one(tmp_path: Path, run_python: Run) -> None:
    file = tmp_path / "two.npz"
    done = run_python(REPLICAS, str(file))
    assert done.returncode == 0, done.stderr
    model = frozen(network())
    history = train(model, DATA, RECIPE, pull_to=network(1).get_weights()).history
    with np.load(file) as two:
        for name in ("loss", "val_loss"):
            assert two[name].tolist() == pytest.approx(history[name], rel=1e-3)
        for index, value in enumerate(model.get_weights()):
            np.testing.assert_allclose(two[f"arr_{index}"], value, atol=1e-4)
