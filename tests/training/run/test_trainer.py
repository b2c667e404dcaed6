from __future__ import annotations

import dataclasses
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnet
from keras_resnet import ResNetConfig, build
from keras_resnet.data import DataConfig, LabeledImages, load_digits
from keras_resnet.data.sources.base import Record, Subset
from keras_resnet.models.info import get_info
from keras_resnet.training import (
    RECIPES,
    DivergedError,
    ResumeError,
    TrainingInterrupted,
    TrainResult,
    override,
    train,
)
from keras_resnet.training.run.folder import RunFolder

from ...conftest import Run
from .histories import read_history
from .interruption import Count

RECIPE = RECIPES["quick-digits"]
Digits = tuple[LabeledImages, LabeledImages]


@pytest.fixture(scope="module")
def digits() -> Digits:
    """Two hundred and fifty training digits and fifty held-out ones."""
    train_data, test_data = load_digits(16)
    few, held_out = slice(0, 250), slice(0, 50)
    names = train_data.class_names
    return (
        LabeledImages(train_data.images[few], train_data.labels[few], names),
        LabeledImages(test_data.images[held_out], test_data.labels[held_out], names),
    )


@pytest.fixture
def model(tiny_config: ResNetConfig) -> keras.Model:
    keras.utils.set_random_seed(0)
    return build(tiny_config, input_shape=(16, 16, 3))


def accuracy_of(model: keras.Model, data: LabeledImages) -> float:
    return float((model.predict(data.images, verbose=0).argmax(-1) == data.labels).mean())


def test_training_learns_and_counts_its_steps(model: keras.Model, digits: Digits) -> None:
    result = train(model, digits, RECIPE, epochs=12, seed=0)
    assert result.steps == 12 * 8
    assert result.history["loss"][-1] < 0.7 * result.history["loss"][0]
    assert {len(values) for values in result.history.values()} == {12}
    # The rate of the step after the first epoch: the warm-up, a tenth of the whole, is over.
    assert result.history["learning_rate"][1] == pytest.approx(0.05, rel=0.05)
    assert result.history["learning_rate"][-1] == pytest.approx(0, abs=1e-9)
    # The history is that of the given model, which stays free of optimizer state.
    assert accuracy_of(model, digits[1]) == pytest.approx(result.history["val_accuracy"][-1])
    assert result.best == max(result.history["val_accuracy"])
    assert result.best == result.history["val_accuracy"][result.best_epoch - 1]
    assert not model.compiled
    # Names of classes travel with the data.
    assert get_info(model).class_names == tuple("0123456789")


def test_a_model_of_other_classes_is_refused(tiny_config: ResNetConfig, digits: Digits) -> None:
    model = build(tiny_config, input_shape=(16, 16, 3), classes=7)
    with pytest.raises(ValueError, match="Build it with `classes=10`"):
        train(model, digits, RECIPE)


def test_what_cannot_be_trained_is_refused(model: keras.Model, digits: Digits) -> None:
    with pytest.raises(ValueError, match="Did you mean quick-digits"):
        train(model, digits, "quick-digit")
    with pytest.raises(ValueError, match="`dtype` to be one of float32.*Received: int8"):
        train(model, digits, RECIPE, dtype="int8")
    with pytest.raises(ValueError, match="divisor of the 8 batches.*Received: 3"):
        train(model, digits, RECIPE, epochs=1, steps_per_execution=3)
    with pytest.raises(ValueError, match="`epochs` to be positive"):
        train(model, digits, RECIPE, epochs=0)
    headless = keras.Model(model.inputs, model.layers[-2].output)
    with pytest.raises(ValueError, match="Build it with|last layer has one of"):
        train(headless, digits, RECIPE)


@pytest.mark.full
def test_same_seed_gives_the_same_weights_in_two_processes(run_python: Run) -> None:
    code = """
import hashlib, sys
import keras, tensorflow as tf
tf.config.experimental.enable_op_determinism()
from keras_resnet import ResNetConfig, build
from keras_resnet.data import load_digits
from keras_resnet.training import train
keras.utils.set_random_seed(int(sys.argv[1]))
config = ResNetConfig("basic", (1, 1, 1), (8, 16, 24), stem="cifar", shortcut="A")
model = build(config, input_shape=(16, 16, 3), classes=10)
train(model, load_digits(16), "quick-digits", epochs=0.5, seed=int(sys.argv[1]))
print(hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest())
"""
    hashes = [run_python(code, seed).stdout.splitlines()[-1] for seed in ("3", "3", "4")]
    assert len(hashes[0]) == 64
    assert hashes[0] == hashes[1] != hashes[2]


def test_recipe_reaches_the_optimizer_the_loss_and_the_pipeline(
    model: keras.Model, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_resnet.training.run import fitting

    seen: dict[str, Any] = {}
    batches = fitting.training_batches

    class Spy(keras.callbacks.Callback):
        def on_train_end(self, logs: Any = None) -> None:
            seen.update(optimizer=self.model.optimizer, loss=self.model.loss)

    def spy_batches(source: Any, config: DataConfig, epochs: int, **others: Any) -> Any:
        seen.update(config=config)
        return batches(source, config, epochs, **others)

    monkeypatch.setattr(fitting, "training_batches", spy_batches)
    changes = {
        "optimizer.momentum": 0.5,
        "optimizer.weight_decay": 0.3,
        "optimizer.decay_on": ["kernels", "biases"],
        "optimizer.clip_norm": 2.0,
        "optimizer.accumulation": 2,
        "loss.label_smoothing": 0.2,
        "augmentation.padding": 2,
        "batch_size": 64,
    }
    result = train(model, digits, override(RECIPE, changes), epochs=1, seed=7, callbacks=[Spy()])
    optimizer = seen["optimizer"].get_config()
    assert (optimizer["momentum"], optimizer["weight_decay"]) == (0.5, 0.3)
    assert list(optimizer["decay_on"]) == ["kernels", "biases"]
    assert optimizer["global_clipnorm"] == 2
    assert seen["loss"].get_config()["label_smoothing"] == 0.2
    config = seen["config"]
    assert (config.batch_size, config.seed, config.augmentation.padding) == (32, 7, 2)
    # Two batches of 32 make one step of 64.
    assert result.steps == 4


@pytest.mark.full
def test_logits_are_trained_as_logits(tiny_config: ResNetConfig, digits: Digits) -> None:
    histories = []
    for activation in ("softmax", None):
        keras.utils.set_random_seed(0)
        model = build(tiny_config, input_shape=(16, 16, 3), classifier_activation=activation)
        histories.append(train(model, digits, RECIPE, epochs=2).history["loss"])
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)


@pytest.mark.parametrize("dtype", [pytest.param("bfloat16", marks=pytest.mark.full), "float16"])
def test_mixed_precision_learns_the_same_and_leaves_float32_weights(
    dtype: str, model: keras.Model, digits: Digits, tiny_config: ResNetConfig
) -> None:
    seen: list[Any] = []

    class Spy(keras.callbacks.Callback):
        def on_train_end(self, logs: Any = None) -> None:
            seen.extend((self.model.optimizer, {x.compute_dtype for x in self.model.layers}))

    keras.utils.set_random_seed(0)
    expected = train(build(tiny_config, input_shape=(16, 16, 3)), digits, RECIPE, epochs=1)
    keras.utils.set_random_seed(0)
    again = build(tiny_config, input_shape=(16, 16, 3))
    result = train(again, digits, RECIPE, epochs=1, dtype=dtype, callbacks=[Spy()])
    assert seen[1] == {"float32", dtype}
    assert isinstance(seen[0], keras.optimizers.LossScaleOptimizer) == (dtype == "float16")
    assert result.history["loss"] == pytest.approx(expected.history["loss"], rel=0.05)
    assert result.history["loss"] != expected.history["loss"]
    assert {weight.dtype for weight in again.get_weights()} == {np.dtype("float32")}
    assert {layer.compute_dtype for layer in again.layers} == {"float32"}


@pytest.mark.full
def test_several_steps_per_execution_are_the_same_steps(
    tiny_config: ResNetConfig, digits: Digits
) -> None:
    weights = []
    for steps in (1, 4):
        keras.utils.set_random_seed(0)
        model = build(tiny_config, input_shape=(16, 16, 3))
        result = train(model, digits, RECIPE, epochs=2, steps_per_execution=steps)
        assert result.steps == 16
        weights.append(model.get_weights())
    for one, four in zip(*weights, strict=True):
        np.testing.assert_allclose(four, one, rtol=1e-4, atol=1e-5)


@pytest.mark.full
def test_training_and_evaluation_may_have_different_sizes(
    tiny_config: ResNetConfig, digits: Digits
) -> None:
    """Sizes of a recipe are for 224 pixels; a smaller network gets them in proportion."""
    sizes = []

    class Spy(keras.callbacks.Callback):
        def on_train_end(self, logs: Any = None) -> None:
            sizes.append(self.model.input_shape)

    recipe = override(RECIPE, {"train_size": 112, "protocol.size": 224})
    model = build(tiny_config, input_shape=(16, 16, 3))
    train(model, digits, recipe, epochs=1, callbacks=[Spy()])
    assert sizes == [(None, None, None, 3)]
    assert model.input_shape == (None, 16, 16, 3)


@pytest.mark.full
def test_epochs_compress_the_schedule_of_a_recipe_in_steps(
    model: keras.Model, digits: Digits
) -> None:
    result = train(model, digits, override(RECIPES["he2015-cifar10"], {"batch_size": 32}), epochs=4)
    assert result.steps == 4 * 8
    # A tenth at a half, another at three quarters.
    assert result.history["learning_rate"] == pytest.approx([0.1, 0.01, 0.001, 0.001], rel=1e-5)


def test_an_epoch_that_is_cut_short_counts(model: keras.Model, digits: Digits) -> None:
    recipe = override(RECIPE, {"duration": 13, "unit": "steps", "schedule.warmup": 0})
    result = train(model, digits, recipe)
    assert result.steps == 13
    assert len(result.history["loss"]) == 2


class TestAdaptiveRates:
    """Rates that depend on what is learnt."""

    @pytest.mark.full
    def test_low_rate_lasts_until_the_error_is_low_enough(
        self, model: keras.Model, digits: Digits
    ) -> None:
        seen: list[tuple[float, float]] = []

        class Spy(keras.callbacks.Callback):
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                seen.append((1 - logs["accuracy"], float(self.model.optimizer.learning_rate)))

        recipe = override(
            RECIPES["he2015-cifar10-110"],
            {"batch_size": 32, "schedule.low_until_error": 0.85, "duration": 32},
        )
        train(model, digits, recipe, callbacks=[Spy()])
        first = next(index for index, (error, _) in enumerate(seen) if error < 0.85)
        assert 0 < first < 31
        assert [rate for _, rate in seen] == pytest.approx([0.01] * first + [0.1] * (32 - first))

    def test_plateaus_lower_the_rate(self, model: keras.Model, digits: Digits) -> None:
        recipe = override(
            RECIPE,
            {
                "schedule.name": "plateau",
                "schedule.warmup": 0,
                "schedule.patience": 1,
                # No error falls by so much.
                "schedule.threshold": 1.0,
                "duration": 3,
            },
        )
        result = train(model, digits, recipe)
        assert result.history["learning_rate"] == pytest.approx([0.05, 0.05, 0.005], rel=1e-5)


@pytest.mark.parametrize(
    ("every", "accumulation"), [pytest.param(1, 1, marks=pytest.mark.full), (2, 2)]
)
def test_averages_are_validated_and_handed_over(
    model: keras.Model, digits: Digits, every: int, accumulation: int
) -> None:
    raw: list[list[np.ndarray]] = []

    class Spy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            raw.append(self.model.get_weights())

    changes = {"average.decay": 0.9, "average.every": every}
    recipe = override(RECIPE, {**changes, "optimizer.accumulation": accumulation})
    result = train(model, digits, recipe, epochs=1, callbacks=[Spy()])
    # The weights after every so many steps, of so many batches each.
    averaged = raw[every * accumulation - 1 :: every * accumulation]
    average = averaged[0]
    for weights in averaged[1:]:
        average = [0.9 * old + 0.1 * new for old, new in zip(average, weights, strict=True)]
    for handed_over, expected, last in zip(model.get_weights(), average, raw[-1], strict=True):
        np.testing.assert_allclose(handed_over, expected, rtol=1e-4, atol=1e-5)
        assert np.abs(handed_over - last).max() > 1e-5
    # What was validated is the average, too.
    data = digits[1].images, digits[1].labels
    model.compile(loss="sparse_categorical_crossentropy")
    loss = model.evaluate(*data, verbose=0)
    assert result.history["val_loss"][-1] == pytest.approx(loss, rel=1e-4)
    model.set_weights(raw[-1])
    assert model.evaluate(*data, verbose=0) != pytest.approx(loss, rel=1e-4)


def test_precise_statistics_are_those_of_training_batches(
    model: keras.Model, digits: Digits
) -> None:
    raw: list[np.ndarray] = []

    class Spy(keras.callbacks.Callback):
        def on_train_end(self, logs: Any = None) -> None:
            raw.extend(self.model.get_weights())

    # All of an epoch, as the pictures are.
    recipe = override(RECIPE, {"precise_bn": 8, "augmentation.crop": "none"})
    train(model, digits, recipe, epochs=1, callbacks=[Spy()])
    norm = model.get_layer("conv1_bn")
    seen = keras.Model(model.input, norm.input)(digits[0].images.astype(np.float32))
    mean = np.mean(seen, axis=(0, 1, 2))
    np.testing.assert_allclose(norm.moving_mean, mean, atol=0.02 * np.ptp(mean))
    names = [weight.path for weight in model.weights]
    for name, before, after in zip(names, raw, model.get_weights(), strict=True):
        assert np.array_equal(before, after) != ("/moving_" in name), name


def test_a_diverging_run_says_where_and_keeps_its_state(
    model: keras.Model, digits: Digits, tmp_path: Path
) -> None:
    recipe = override(RECIPE, {"optimizer.learning_rate": 1e12, "schedule.warmup": 2})
    with pytest.raises(DivergedError) as caught:
        train(model, digits, recipe, tmp_path, epochs=3, checkpoint_every=1)
    text = str(caught.value)
    assert "Received: a mean loss of" in text
    assert "learning rate" in text
    assert "in epoch 1, at step " in text
    folder = RunFolder(tmp_path)
    if folder.state_files():
        assert f"The last saved state is {folder.state_files()[-1]}" in text
        found = folder.latest()
        assert found is not None
        assert all(np.isfinite(found[1].arrays[name]).all() for name in found[1].arrays)


@pytest.fixture(scope="module")
def folder(
    tiny_config: ResNetConfig, digits: Digits, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("run") / "out"
    model = build(tiny_config, input_shape=(16, 16, 3))
    train(model, digits, RECIPE, path, epochs=2, seed=1, profile=(2, 3))
    return path


class TestFolder:
    """What `out_dir` holds."""

    def test_files(self, folder: Path, digits: Digits) -> None:
        names = {path.name for path in folder.iterdir()}
        assert names == {
            *("config.json", "environment.json", "history.csv", "history.png", "model_card.md"),
            *("best.keras", "last.keras", "checkpoints", "tensorboard"),
        }
        history = read_history(folder)
        for name, epoch in (("best", int(np.argmax(history["val_accuracy"]))), ("last", -1)):
            saved = keras_resnet.load_model(folder / f"{name}.keras")
            assert accuracy_of(saved, digits[1]) == pytest.approx(history["val_accuracy"][epoch])
            assert get_info(saved).class_names == tuple("0123456789")
        assert len(list((folder / "checkpoints").iterdir())) == 2
        assert list((folder / "tensorboard").rglob("events.out.tfevents.*"))
        assert list((folder / "tensorboard").rglob("*.xplane.pb"))

    def test_a_finished_run_is_not_trained_again(
        self, folder: Path, tiny_config: ResNetConfig, digits: Digits
    ) -> None:
        before = keras_resnet.load_model(folder / "last.keras").get_weights()
        model = build(tiny_config, input_shape=(16, 16, 3))
        result = train(model, digits, RECIPE, folder, epochs=2, seed=1)
        assert result.steps == 16
        for saved, again in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(saved, again)

    def test_another_run_is_refused_with_what_differs(
        self, folder: Path, tiny_config: ResNetConfig, digits: Digits
    ) -> None:
        model = build(tiny_config, input_shape=(16, 16, 3))
        other = override(RECIPE, {"optimizer.momentum": 0.8})
        with pytest.raises(ResumeError, match=r"recipe.optimizer.momentum: 0.9 .*0.8"):
            train(model, digits, other, folder, epochs=2, seed=1)
        with pytest.raises(ResumeError, match="seed: 1 .*2"):
            train(model, digits, RECIPE, folder, epochs=2, seed=2)
        fewer = digits[0]
        fewer = LabeledImages(fewer.images[:200], fewer.labels[:200], fewer.class_names)
        with pytest.raises(ResumeError, match=r"train_data.images: 250 .*200"):
            train(model, (fewer, digits[1]), RECIPE, folder, epochs=2, seed=1)
        with pytest.raises(ValueError, match="without a training run"):
            train(model, digits, RECIPE, folder, epochs=2, seed=1, resume=False)


@dataclass(frozen=True)
class Stopping(Subset):
    """Images whose reading asks the process to end, once."""

    asked: list[bool] = field(default_factory=list)

    def __getitem__(self, index: int) -> Record:
        if not self.asked:
            self.asked.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(index)


@pytest.fixture(scope="module")
def whole(
    tiny_config: ResNetConfig, digits: Digits, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainResult, list[np.ndarray]]:
    return TestResume.run(tiny_config, digits, tmp_path_factory.mktemp("whole"))


class TestResume:
    """A run in parts leaves the same bits as one without interruption."""

    @staticmethod
    def run(
        config: ResNetConfig, digits: Any, folder: Path, *callbacks: keras.callbacks.Callback
    ) -> tuple[TrainResult, list[np.ndarray]]:
        changes = {"average.decay": 0.9, "augmentation.mixup": 0.2, "duration": 3, "precise_bn": 2}
        keras.utils.set_random_seed(0)
        model = build(dataclasses.replace(config, stochastic_depth=0.2), input_shape=(16, 16, 3))
        result = train(model, digits, override(RECIPE, changes), folder, callbacks=callbacks)
        return result, model.get_weights()

    @staticmethod
    def assert_same(
        one: tuple[TrainResult, list[np.ndarray]],
        other: tuple[TrainResult, list[np.ndarray]],
    ) -> None:
        assert dataclasses.replace(one[0], folder=None) == dataclasses.replace(
            other[0], folder=None
        )
        for before, after in zip(one[1], other[1], strict=True):
            np.testing.assert_array_equal(before, after)

    @pytest.mark.parametrize(
        "batches",
        [
            (11,),
            pytest.param((3, 6, 5), marks=pytest.mark.full),
            pytest.param((8, 8), marks=pytest.mark.full),
        ],
        ids=["once", "within epochs", "before evaluations"],
    )
    def test_after_signals_between_steps(
        self,
        batches: tuple[int, ...],
        whole: tuple[TrainResult, list[np.ndarray]],
        tiny_config: ResNetConfig,
        digits: Digits,
        tmp_path: Path,
    ) -> None:
        for count in batches:
            with pytest.raises(TrainingInterrupted) as caught:
                self.run(tiny_config, digits, tmp_path, Count(count))
            assert caught.value.code == 143
        taken = [int(path.stem.split("-")[1]) for path in RunFolder(tmp_path).state_files()]
        assert taken[-1] == sum(batches)
        self.assert_same(whole, self.run(tiny_config, digits, tmp_path))

    def test_after_ctrl_c_in_an_interpreter(
        self, tiny_config: ResNetConfig, digits: Digits, tmp_path: Path
    ) -> None:
        class Press(keras.callbacks.Callback):
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                signal.raise_signal(signal.SIGINT)

        # In the background of a shell, Python starts with SIGINT ignored.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                self.run(tiny_config, digits, tmp_path, Press())
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        finally:
            signal.signal(signal.SIGINT, before)
        assert [path.name for path in RunFolder(tmp_path).state_files()] == [
            "step-0000000001.safetensors"
        ]

    @pytest.mark.full
    def test_after_a_signal_in_an_evaluation(
        self,
        whole: tuple[TrainResult, list[np.ndarray]],
        tiny_config: ResNetConfig,
        digits: Digits,
        tmp_path: Path,
    ) -> None:
        everything = np.arange(50)
        stopping = Stopping(digits[1], everything, digits[1].name)
        with pytest.raises(TrainingInterrupted):
            self.run(tiny_config, (digits[0], stopping), tmp_path)
        assert stopping.asked
        assert not (tmp_path / "history.csv").exists()
        calm = Stopping(digits[1], everything, digits[1].name, [True])
        self.assert_same(whole, self.run(tiny_config, (digits[0], calm), tmp_path))

    @pytest.mark.full
    def test_a_damaged_state_falls_back_to_the_one_before(
        self,
        whole: tuple[TrainResult, list[np.ndarray]],
        tiny_config: ResNetConfig,
        digits: Digits,
        tmp_path: Path,
    ) -> None:
        for count in (3, 6):
            with pytest.raises(TrainingInterrupted):
                self.run(tiny_config, digits, tmp_path, Count(count))
        newest = RunFolder(tmp_path).state_files()[-1]
        newest.write_bytes(newest.read_bytes()[:-100])
        with pytest.warns(UserWarning, match="falling back to"):
            again = self.run(tiny_config, digits, tmp_path)
        self.assert_same(whole, again)
