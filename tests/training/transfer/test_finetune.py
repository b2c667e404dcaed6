"""Fine-tuning as a whole, on generated pictures."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_resnet
from keras_resnet import ResNetConfig, build, feature_extractor
from keras_resnet.data import LabeledImages
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.models.info import get_info
from keras_resnet.training import (
    DeviceSetup,
    FinetuneResult,
    Phase,
    ResumeError,
    TrainingInterrupted,
    find_recipe,
    finetune,
    override,
)
from keras_resnet.training.devices.cluster import Cluster
from keras_resnet.training.transfer import baselines
from keras_resnet.training.transfer.finetune import _compared, with_head
from keras_resnet.training.transfer.heads import replace_head, swap_stem

from ...conftest import randomize
from ..run.histories import read_history
from ..run.interruption import Count

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
PHASES = (Phase("head", 2), Phase("C4", 1, 0.1))
#: A rate for so few steps, and everything that might not survive an interruption.
RECIPE = override(
    find_recipe("finetune"),
    {
        "optimizer.learning_rate": 0.01,
        "optimizer.weight_decay": 0,
        "optimizer.rate_groups": {"C4": 0.5, "head": 2.0},
        "batch_size": 8,
        "loss.l2_sp": 0.05,
        "loss.class_weights": "balanced",
        "augmentation.mixup": 0.2,
    },
)
#: What is soon over, and says nothing of the weights that it began with but in its folder.
SHORT: dict[str, Any] = {
    "recipe": override(RECIPE, {"loss.l2_sp": 0, "optimizer.rate_groups": {}}),
    "phases": (Phase("head", 0.1),),
    "compare": False,
}
#: Of 96 images.
BATCHES = 12


def part(count: int, seed: int, name: str, shares: tuple[float, ...] = (1, 1, 1)) -> LabeledImages:
    random = np.random.default_rng(seed)
    labels = random.choice(3, count, p=np.array(shares) / sum(shares)).astype(np.int32)
    noise = random.integers(-30, 30, (count, 16, 16, 3))
    pixels = np.array(list(COLOURS.values()))[labels][:, None, None] + noise
    return LabeledImages(pixels.astype(np.uint8), labels, tuple(COLOURS), name=name)


DATA = (part(96, 1, "folder:/home/somebody/train"), part(48, 2, "validation"))


def trained() -> keras.Model:
    """A network that knows ten classes."""
    keras.utils.set_random_seed(0)
    config = ResNetConfig("basic", (1, 1, 1), (8, 16, 24), stem="cifar", shortcut="A")
    model = build(config, input_shape=(16, 16, 3), name="tiny")
    randomize(model)
    return model


@pytest.fixture
def network() -> keras.Model:
    return trained()


def run(network: keras.Model, folder: Path | None, **keywords: Any) -> FinetuneResult:
    keywords = {"recipe": RECIPE, "phases": PHASES, "say": lambda text: None, **keywords}
    return finetune(network, DATA, folder, **keywords)


@dataclass(frozen=True)
class Whole:
    """A fine-tuning without interruption."""

    result: FinetuneResult
    folder: Path
    weights_before: dict[str, list[np.ndarray]]
    told: list[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder, model = tmp_path_factory.mktemp("whole") / "run", trained()
    before = {layer.name: layer.get_weights() for layer in model.layers[:-1] if layer.weights}
    told: list[str] = []
    return Whole(run(model, folder, say=told.append), folder, before, told)


def assert_same(one: FinetuneResult, other: FinetuneResult) -> None:
    assert [phase.history for phase in one.phases] == [phase.history for phase in other.phases]
    assert (one.best, one.baselines) == (other.best, other.baselines)
    for before, after in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_new_classes_are_learnt_where_the_phases_say(whole: Whole) -> None:
    result, before = whole.result, whole.weights_before
    assert result.best > 0.9
    assert result.baselines is not None
    assert result.baselines.linear_probe > 0.9
    assert result.baselines.train_images == 96
    changed = {
        name
        for name, values in before.items()
        if any(map(np.any, map(np.not_equal, values, result.model.get_layer(name).get_weights())))
    }
    # Convolutions of C4, and no normalisation anywhere.
    assert changed == {name for name in before if "conv4" in name and not name.endswith("_bn")}
    # The head is a layer of the same graph.
    assert feature_extractor(result.model).output["C4"].shape[1:] == (4, 4, 24)
    assert whole.told[0].startswith("Linear probe: ")
    assert [text.partition(" weights.")[0] for text in whole.told[1:3]] == [
        "Phase 1 of 2. Trains head: 1 of 15 layers with 75 of 13,955",
        "Phase 2 of 2. Trains C4, head: 3 of 15 layers with 8,715 of 13,955",
    ]
    assert whole.told[3].startswith(f"Best: {result.best:.2%} (of 48 images: 95% interval ")


def test_folder(whole: Whole) -> None:
    folder, result = whole.folder, whole.result
    assert {path.name for path in folder.iterdir()} == {
        "1-head", "2-C4", "best.keras", "last.keras", "config.json",
        "history.csv", "history.png", "model_card.md",
    }  # fmt: skip
    history = read_history(folder)
    assert history["val_accuracy"] == [v for s in result.phases for v in s.history["val_accuracy"]]
    images = DATA[1].images
    last = keras.saving.load_model(folder / "last.keras")
    np.testing.assert_array_equal(last(images), result.model(images))
    best = keras_resnet.load_model(folder / "best.keras")
    assert get_info(best).class_names == tuple(COLOURS)
    assert np.mean(best.predict(images, verbose=0).argmax(-1) == DATA[1].labels) == pytest.approx(
        result.best
    )
    phase = max(result.phases, key=lambda phase: phase.best)
    assert phase.folder is not None
    assert (folder / "best.keras").read_bytes() == (phase.folder / "best.keras").read_bytes()
    settings = json.loads((folder / "config.json").read_text())
    assert settings["baselines"]["train_images"] == 96
    assert settings["stages"][1] == {"downto": "C4", "epochs": 1, "rate": 0.1}


def test_card_is_of_all_phases(whole: Whole) -> None:
    card = (whole.folder / "model_card.md").read_text()
    values = read_history(whole.folder)["val_accuracy"]
    epoch = 1 + int(np.argmax(values))
    assert f"| `best.keras` | {epoch} | " in card
    assert "| `last.keras` | 3 | " in card
    assert f"| 2 | C4 | 1 | 0.001 | {100 * values[2]:.2f} % |" in card
    assert str(whole.result.baselines) in card
    assert "# tiny trained on train" in card
    assert "fine-tuned in 2 phases for 3 epochs by the recipe" in card
    assert "`config.json` of each phase contains all of them." in card
    assert "somebody" not in card


def test_phases_have_their_rates(whole: Whole) -> None:
    for name, rate, groups in (
        ("1-head", 0.01, {"head": 2}),
        ("2-C4", 0.001, {"C4": 0.5, "head": 2}),
    ):
        config = json.loads((whole.folder / name / "config.json").read_text())
        optimizer = config["recipe"]["optimizer"]
        assert optimizer["learning_rate"] == pytest.approx(rate)
        assert optimizer["rate_groups"] == groups


@pytest.mark.full
@pytest.mark.parametrize("batches", [5, 2 * BATCHES + 5])
def test_after_a_signal_the_same_call_gives_the_same_bits(
    batches: int, whole: Whole, tmp_path: Path
) -> None:
    with pytest.raises(TrainingInterrupted):
        run(trained(), tmp_path, callbacks=(Count(batches),))
    rest = Count()
    result = run(trained(), tmp_path, callbacks=(rest,))
    assert rest.batches == 3 * BATCHES - batches
    assert_same(result, whole.result)
    images = DATA[1].images
    np.testing.assert_array_equal(
        *(keras.saving.load_model(path / "best.keras")(images) for path in (tmp_path, whole.folder))
    )


def test_a_finished_one_is_not_trained_again(whole: Whole) -> None:
    none = Count()
    result = run(trained(), whole.folder, callbacks=(none,))
    assert none.batches == 0
    assert_same(result, whole.result)


def test_a_finished_one_of_before_a_setting_existed_is_the_same(
    whole: Whole, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole.folder, tmp_path / "run"))
    settings = json.loads((folder / "config.json").read_text())
    del settings["format"], settings["stages"][0]["rate"], settings["model"]["config"]["blur_pool"]
    (folder / "config.json").write_text(json.dumps(settings))
    none = Count()
    run(trained(), folder, callbacks=(none,))
    assert none.batches == 0
    del settings["stages"][1]["rate"]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ResumeError, match=r"stages\[1\].rate: 1.0 → 0.1"):
        run(trained(), folder)


def test_another_one_is_refused(whole: Whole, network: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="bn: 'frozen' → 'training'"):
        run(network, whole.folder, bn="training")
    with pytest.raises(ResumeError, match="recipe.optimizer.momentum: 0.9 .*0.8"):
        run(network, whole.folder, recipe=override(RECIPE, {"optimizer.momentum": 0.8}))
    changed = [2 * value for value in network.get_weights()]
    network.set_weights(changed)
    with pytest.raises(ResumeError, match="model.weights_at_start: "):
        run(network, whole.folder)


@pytest.mark.full
def test_what_was_removed_is_done_again_or_named(whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    shutil.rmtree(folder / "1-head" / "checkpoints")
    count = Count()
    assert_same(run(trained(), folder, callbacks=(count,)), whole.result)
    assert count.batches == 2 * BATCHES
    (folder / "1-head" / "best.keras").unlink()
    with pytest.raises(OSError, match=r"no .*1-head/best.keras. Remove .*1-head, and the same"):
        run(trained(), folder)


@pytest.mark.full
def test_another_network_or_other_data_are_refused_where_only_the_folder_tells(
    network: keras.Model, tmp_path: Path
) -> None:
    done = run(network, tmp_path, **SHORT)
    before = (tmp_path / "last.keras").read_bytes()
    other = trained()
    for weight in other.trainable_weights[:1]:
        weight.assign(2 * weight)
    refused = "model.weights_at_start: '.*\nUse the same network, .* another folder"
    # What has gone on training is another one, too, if its head stays.
    for model in (other, done.model):
        with pytest.raises(ResumeError, match=refused):
            run(model, tmp_path, **SHORT)
    less = LabeledImages(DATA[1].images[1:], DATA[1].labels[1:], DATA[1].class_names, name="less")
    for data, said in (
        ((part(96, 3, DATA[0].name), DATA[1]), "train_data.labels: "),
        ((DATA[0], less), "validation_data.source: .*\n  validation_data.images: 48 →"),
    ):
        with pytest.raises(ResumeError, match=f"of the fine-tuning .*given:\n  {said}"):
            finetune(trained(), data, tmp_path, say=lambda text: None, **SHORT)
    assert (tmp_path / "last.keras").read_bytes() == before
    # A head that is replaced counts for nothing.
    same = trained()
    same.get_layer("predictions").bias.assign(np.ones(10))
    assert_same(run(same, tmp_path, **SHORT), done)


@pytest.mark.full
def test_baselines_of_earlier_folders_are_read() -> None:
    shares = {"linear_probe": 0.9, "nearest_neighbours": 0.8, "majority": 0.5}
    counts = {"neighbours": 20, "train_images": 96, "validation_images": 48}
    found = _compared(trained(), DATA, None, RECIPE, 0, {**shares, **counts})
    assert (found.nearest_neighbors, found.neighbors) == (0.8, 20)


def test_baselines_of_another_network_are_not_taken_over(tmp_path: Path) -> None:
    first, second = trained(), trained()
    second.set_weights([0 * value for value in second.get_weights()])
    compared = {**SHORT, "compare": True}

    def stop(text: str) -> None:
        if text.startswith("Phase 1"):
            raise EnoughError

    for _ in range(2):
        with pytest.raises(EnoughError):
            run(first, tmp_path, say=stop, **compared)
    known = json.loads((tmp_path / "config.json").read_text())["baselines"]
    assert known["linear_probe"] > 0.9
    result = run(second, tmp_path, **compared)
    assert result.baselines is not None
    assert result.baselines.linear_probe < 0.9


def test_a_refused_call_leaves_the_folder_to_another_one(
    network: keras.Model, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="float13"):
        run(network, tmp_path, dtype="float13", **SHORT)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    run(network, tmp_path, bn="training", **SHORT)
    assert json.loads((tmp_path / "config.json").read_text())["bn"] == "training"
    # Now it is somebody's.
    with pytest.raises(ResumeError, match="bn: 'training' → 'frozen'"):
        run(trained(), tmp_path, **SHORT)


def test_a_folder_of_something_else_is_refused(network: keras.Model, tmp_path: Path) -> None:
    text = '{"model": {}, "seed": 0}\n'
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ResumeError, match="a folder for a fine-tuning.*is that of something else"):
        run(network, tmp_path, compare=False)
    assert (tmp_path / "config.json").read_text() == text


class EnoughError(Exception):
    """Ends a fine-tuning before it trains."""


def told_before_training(*arguments: Any, **keywords: Any) -> list[str]:
    told: list[str] = []

    def say(text: str) -> None:
        told.append(text)
        if text.startswith("Phase 1"):
            raise EnoughError

    with pytest.raises(EnoughError):
        finetune(*arguments, say=say, compare=False, **keywords)
    return told


def test_a_head_for_the_same_classes_is_kept(whole: Whole) -> None:
    model = keras_resnet.load_model(whole.folder / "last.keras")
    told_before_training(model, DATA, phases=(Phase("head", 1),))
    assert model.trainable_weights == model.get_layer("predictions").weights
    with pytest.raises(ValueError, match="no `dropout` for a model with a head.*Received: 0.5"):
        run(model, None, dropout=0.5)


def test_imbalance_is_told(network: keras.Model) -> None:
    data = (part(60, 1, "train", (10, 1, 0)), part(30, 2, "validation"))
    reds = int((data[0].labels == 0).sum())
    greens = 60 - reds
    sentence = (
        f"Classes are imbalanced: {reds} training images of red, but 0 of blue, {greens} of green. "
    )
    for recipe, remedy in (
        ("finetune", "With `loss.class_weights=balanced`, each class would weigh the same."),
        (RECIPE, "Each class weighs the same."),
    ):
        told = told_before_training(network, data, recipe=recipe)
        assert told[0] == sentence + remedy
        assert told[1].startswith("Phase 1 of 2. Trains head: 1 of ")
    assert len(told_before_training(network, DATA)) == 1


def test_of_many_rare_classes_ten_are_named(network: keras.Model) -> None:
    # Exactly a third of the largest, 9, is not rare.
    counts = (9, 3, *[2] * 11, 1)
    labels = np.repeat(np.arange(14), counts).astype(np.int32)
    names = tuple(f"class{index}" for index in range(14))
    pixels = np.zeros((len(labels), 16, 16, 3), np.uint8)
    data = LabeledImages(pixels, labels, names)
    rare = ", ".join(f"2 of class{index}" for index in range(2, 11))
    assert told_before_training(network, (data, data))[0].startswith(
        "Classes are imbalanced: 9 training images of class0, but 1 of class13, "
        f"{rare} and 2 more. With "
    )


def test_what_a_later_phase_would_refuse_is_refused_at_once(network: keras.Model) -> None:
    told: list[str] = []
    for keywords, kind, message in (
        ({"phases": ()}, ValueError, "at least one phase"),
        ({"phases": (*PHASES, Phase("C5", 1))}, ValueError, "'?downto'?.*Received: downto='C5'"),
        (
            {"recipe": override(RECIPE, {"optimizer.rate_groups": {"stem": 0.1}})},
            ValueError,
            "Received: 'stem', which matches none",
        ),
        ({"epochs": 3}, TypeError, "options among .*Received: epochs"),
        (
            {"strategy": DeviceSetup("multi-worker", None, 2, Cluster(("a:1", "b:2"), 0, "x"), ())},
            ValueError,
            "a single process for fine-tuning. Received: 2 workers",
        ),
        (
            # Twelve batches, then six.
            {"phases": (Phase("head", 1), Phase("C4", 0.5)), "steps_per_execution": 4},
            ValueError,
            "batches of the training.*Received: 4",
        ),
    ):
        with pytest.raises(kind, match=message):
            run(network, None, say=told.append, **keywords)
    assert told == []


def test_baselines_are_judged_as_validation_is(
    monkeypatch: pytest.MonkeyPatch, network: keras.Model, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}

    def spy(*arguments: Any, **keywords: Any) -> Any:
        seen.update(keywords)
        return found(*arguments, **keywords)

    found = baselines.baselines
    monkeypatch.setattr(baselines, "baselines", spy)
    protocol = EvalProtocol(16, 20)
    recipe = dataclasses.replace(SHORT["recipe"], protocol=protocol)
    run(network, tmp_path / "run", **{**SHORT, "recipe": recipe, "compare": True})
    assert seen["protocol"] == protocol
    config = json.loads((tmp_path / "run" / "1-head" / "config.json").read_text())
    assert config["protocol"] == dataclasses.asdict(protocol)


def test_a_new_stem_learns_as_its_docstring_says(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    config = ResNetConfig("basic", (1, 1), (8, 16))
    large = build(config, input_shape=(32, 32, 3), classes=10, name="tiny")
    with pytest.warns(UserWarning, match="including its batch normalization"):
        small = swap_stem(large, (16, 16, 3))
    before = {layer.name: layer.get_weights() for layer in small.layers}
    phases = (Phase("backbone", 1),)
    result = run(small, None, **{**SHORT, "phases": phases, "bn": "training"})
    for name in ("conv1_conv", "conv1_bn"):
        for old, new in zip(before[name], result.model.get_layer(name).get_weights(), strict=True):
            assert not np.array_equal(old, new), name


@pytest.mark.parametrize("shape", [(16, 16, 1), (16, 24, 3)])
def test_networks_for_other_images_are_refused(shape: tuple[int, int, int]) -> None:
    config = ResNetConfig("basic", (1,), (8,), stem="cifar")
    model = build(config, input_shape=shape, classes=3, name="other")
    message = f"3 channels.*Received: 'other' for {'x'.join(map(str, shape))}\\. Train it with"
    with pytest.raises(ValueError, match=message):
        run(model, None, **SHORT)
    with pytest.raises(ValueError, match=message):
        baselines.baselines(model, *DATA)


def test_processes_that_would_each_train_alone_are_refused(
    network: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", Cluster(("a:1", "b:2"), 1, "x").tf_config())
    with pytest.raises(ValueError, match="a single process for fine-tuning. Received: 2 workers"):
        run(network, None)


@pytest.mark.parametrize("task", ["labels", "values"])
def test_heads_for_other_tasks_are_replaced(task: Any, network: keras.Model) -> None:
    """Though they have the same names."""
    names = DATA[0].class_names
    other = replace_head(network, len(names), task=task, names=names)
    head = with_head(other, DATA[0])
    assert head is not other
    assert get_info(head).task is None
    assert head.layers[-1].activation is keras.activations.softmax
    assert with_head(head, DATA[0]) is head


def test_class_activation_maps_of_a_new_head(whole: Whole) -> None:
    """Grad-CAM (Selvaraju et al. 2017) needs the last maps and the answer in one flat graph."""
    model = keras.saving.load_model(whole.folder / "best.keras")
    maps = model.get_layer("conv4_block1_out").output
    seen = keras.Model(model.input, [maps, model.output])
    with tf.GradientTape() as tape:
        features, answers = seen(DATA[0].images[:4].astype(np.float32))
        score = answers[:, 0]
    gradients = tape.gradient(score, features).numpy()
    assert gradients.shape == features.shape == (4, 4, 4, 24)
    assert np.isfinite(gradients).all()
    assert (np.abs(gradients).max((1, 2, 3)) > 0).all()


@pytest.mark.parametrize(("epochs", "rate"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_impossible_phases_are_refused(epochs: float, rate: float) -> None:
    with pytest.raises(ValueError, match="of a phase above 0"):
        Phase("head", epochs, rate)
