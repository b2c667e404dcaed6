from __future__ import annotations

import dataclasses
import errno
import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

import keras_resnet
from keras_resnet.models.info import get_info, set_class_names
from keras_resnet.training.recipes.recipe import override
from keras_resnet.training.recipes.table import RECIPES
from keras_resnet.training.run.card import CardFacts, model_card
from keras_resnet.training.run.environment import describe_environment
from keras_resnet.training.run.folder import RunFolder
from keras_resnet.training.run.history_plot import history_plot
from keras_resnet.training.run.state_file import RunState

from .histories import read_history


def history(epochs: int) -> dict[str, list[float]]:
    fall = np.linspace(1, 0.25, epochs)
    return {
        "loss": (2 * fall).tolist(),
        "accuracy": (1 - fall / 2).tolist(),
        "learning_rate": [0.1] * epochs,
        "val_loss": (3 * fall).tolist(),
        "val_accuracy": (1 - fall / 2 - 0.1).tolist(),
    }


def test_files_have_their_names(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    named = {
        name: path.name for name, path in vars(folder).items() if name.endswith(("file", "folder"))
    }
    assert named == {
        "config_file": "config.json",
        "environment_file": "environment.json",
        "states_folder": "checkpoints",
        "best_file": "best.keras",
        "last_file": "last.keras",
        "history_file": "history.csv",
        "tensorboard_folder": "tensorboard",
        "plot_file": "history.png",
        "card_file": "model_card.md",
    }
    path = folder.save(1, RunState())
    assert path.parent == tmp_path / "checkpoints"


def test_configs_come_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new")
    assert folder.read_config() is None
    config = {
        "recipe": {"milestones": (1, 2.5)},
        "data": "ä",
        "file": "\udce4",
        "seed": np.int64(3),
    }
    folder.write_config(config)
    assert folder.read_config() == {
        "recipe": {"milestones": [1, 2.5]},
        "data": "ä",
        "file": "\udce4",
        "seed": 3,
    }
    with pytest.raises(ValueError, match="JSON"):
        folder.write_config({"a": math.nan})
    assert (folder.read_config() or {})["seed"] == 3
    for damaged in ('{"a":', "[1]"):
        folder.config_file.write_text(damaged)
        with pytest.raises(OSError, match=f"Expected .* JSON.* Received: {folder.config_file}"):
            folder.read_config()


def test_environment_names_versions_and_devices(tmp_path: Path) -> None:
    found = describe_environment()
    assert set(found) == {
        *("python", "platform", "cpus", "versions", "backend", "batch_normalization", "devices")
    }
    assert found["batch_normalization"] == "fused"
    assert found["versions"]["keras"] == keras.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["versions"]["keras-resnets"] == keras_resnet.__version__
    assert found["backend"] == keras.backend.backend()
    assert "CPU:0" in found["devices"]
    assert found["cpus"] >= 1
    folder = RunFolder(tmp_path)
    folder.write_environment(found)
    folder.write_environment(found)
    assert json.loads(folder.environment_file.read_text()) == found
    # What went on elsewhere was somewhere before.
    folder.write_environment({"cpus": 4})
    folder.write_environment({"cpus": 8})
    written = json.loads(folder.environment_file.read_text())
    assert written == {"cpus": 8, "earlier": [found, {"cpus": 4}]}


def test_a_run_resumed_in_another_environment_is_told(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    now = describe_environment()
    before = {name: value for name, value in now.items() if name != "batch_normalization"}
    folder = RunFolder(tmp_path)
    folder.write_environment(before)
    folder.write_environment(now)
    folder.write_environment(before)
    # Nothing is resumed without a state.
    assert not recwarn
    folder.save(1, RunState())
    folder.write_environment(before)
    assert not recwarn
    expected = r"another environment \(batch_normalization: absent → 'fused'\).*bit-identical"
    with pytest.warns(UserWarning, match=expected):
        folder.write_environment(now)


def test_history_has_a_row_per_epoch_with_all_digits(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    columns = {
        "loss": [1 / 3, math.nan, math.inf],
        "val accuracy, top-5": [0.1, np.float32(0.1), 1],
    }
    folder.write_history({name: values[:2] for name, values in columns.items()})
    folder.write_history(columns)
    assert folder.history_file.read_text() == (
        'epoch,loss,"val accuracy, top-5"\n'
        "1,0.3333333333333333,0.1\n"
        "2,nan,0.10000000149011612\n"
        "3,inf,1.0\n"
    )
    found = read_history(tmp_path)
    assert list(found) == list(columns)
    np.testing.assert_array_equal(found["loss"], columns["loss"])


@pytest.mark.parametrize("epochs", [1, 600])
def test_picture_shows_the_curves(tmp_path: Path, epochs: int) -> None:
    columns = history(epochs)
    if epochs > 1:
        columns["loss"][100:102] = [math.nan, math.inf]
    folder = RunFolder(tmp_path)
    folder.write_plot(columns, "resnet20 on digits")
    with Image.open(folder.plot_file) as image:
        assert image.size == (960, 996)
        pixels = np.asarray(image.convert("RGB")).astype(int)
    for colour in ((0, 114, 178), (213, 94, 0), (68, 68, 68)):
        near = (np.abs(pixels - colour).max(-1) < 8).sum()
        assert near > 20, f"nothing is drawn in {colour}"
    assert [path.name for path in tmp_path.iterdir()] == ["history.png"]


def test_picture_has_errors_in_percent_gaps_and_scales() -> None:
    columns = history(5)
    columns["val_accuracy"] = [0.5, math.nan, 0.9, math.nan, 0.8]
    columns["learning_rate"] = [0.1, 0.1, 0.01, 0.001, 0.001]
    figure = history_plot(columns)
    loss, error, rate = figure.axes
    training, validation, crosses = error.lines
    np.testing.assert_allclose(training.get_ydata(), 50 * np.linspace(1, 0.25, 5))
    np.testing.assert_allclose(validation.get_ydata(), [50, math.nan, 10, math.nan, 20])
    np.testing.assert_array_equal(validation.get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(crosses.get_xdata(), [2, 4])
    legend = error.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "training, lowest: 12.50 % in epoch 5",
        "validation, lowest: 10.00 % in epoch 3",
        "validation, not finite",
    ]
    assert [axes.get_yscale() for axes in (loss, error, rate)] == ["linear", "linear", "log"]
    assert [axes.get_ylabel() for axes in (loss, error, rate)] == [
        "loss",
        "error in %",
        "learning rate",
    ]
    assert error.get_ylim()[0] == 0


def test_errors_end_at_100_percent() -> None:
    (axes,) = history_plot({"accuracy": [0.0, 0.5]}).axes
    assert axes.get_ylim() == (0, 100)


def test_picture_of_what_there_is() -> None:
    (loss,) = history_plot({"loss": [1.0, 0.5]}).axes
    assert loss.get_ylabel() == "loss"
    axes = history_plot({name: [math.nan] * 3 for name in history(1)}).axes
    assert [len(panel.lines) for panel in axes] == [4, 4, 2]


def test_models_are_saved_with_what_they_know(tmp_path: Path) -> None:
    inputs = keras.Input((4, 4, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(pooled))
    set_class_names(model, ("cat", "dog"))
    folder = RunFolder(tmp_path / "new")
    for _ in range(2):
        folder.write_model(model, folder.best_file)
    loaded = keras_resnet.load_model(folder.best_file)
    assert get_info(loaded).class_names == ("cat", "dog")
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
    assert [path.name for path in folder.path.iterdir()] == ["best.keras"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.write_card("old")

    def fill(path: Path, *arguments: Any, **keywords: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(OSError, match=f"The disk of {tmp_path} .* full. Free some space"):
        folder.write_card("new")
    assert folder.card_file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model_card.md"]


def test_leftovers_of_killed_runs_are_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for parent in (tmp_path, folder.states_folder):
        leftover = parent / ".partial-abcd1234"
        leftover.mkdir(parents=True)
        for name in (".owner", "file"):
            (leftover / name).touch()
    with folder.held():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    assert list(folder.states_folder.iterdir()) == []


FACTS = CardFacts(
    network="resnet20",
    config={"blocks": (3, 3, 3), "shortcut": "A"},
    parameters=272474,
    input_shape=(None, None, 3),
    data="folder:my_flowers",
    class_names=[f"kind_{number}" for number in range(60)],
    images=(1437, 360),
    recipe=RECIPES["quick-digits"],
    history=history(4) | {"val_accuracy": [0.5, 0.9234, 0.9, math.nan]},
    best_epoch=2,
    seed=5,
    dtype="bfloat16",
    environment={
        "python": "3.11",
        "versions": {"keras": "3.15", "torch": None},
        "devices": ["A", "B"],
    },
)


def test_card_says_what_the_model_is() -> None:
    card = model_card(FACTS)
    front, text = card.removeprefix("---\n").split("\n---\n", 1)
    assert "library_name: keras" in front.splitlines()
    lines = text.splitlines()
    for line in (
        "# resnet20 trained on folder:my\\_flowers",
        "| file | epoch | loss | accuracy | val_loss | val_accuracy |",
        "| `last.keras` | 4 | 0.5 | 87.50 % | 0.75 | not finite |",
        "| `best.keras` | 2 | 1.5 | 62.50 % | 2.25 | 92.34 % |",
        'model = keras_resnet.load_model("best.keras")',
        'model = keras.saving.load_model("best.keras")',
        "The model takes batches of images of shape (any, any, 3).",
        "| blocks | `[3, 3, 3]` |",
        "| parameters | 272,474 |",
        "| computed in | bfloat16 |",
        "folder:my\\_flowers: 1,437 training and 360 validation images.",
        "| keras | 3.15 |",
        "| devices | A, B |",
        "No published results are known for this recipe.",
    ):
        assert line in lines, line
    assert "kind\\_49 and 10 more" in text
    assert "kind\\_50" not in text
    assert "torch" not in text
    assert "trained for 4 epochs by the recipe `quick-digits`" in text
    for absent in ("changed for this run", "**"):
        assert absent not in text, absent


def test_published_figures_are_of_the_recipes_own_networks() -> None:
    facts = dataclasses.replace(FACTS, network="resnet50", recipe=RECIPES["he2015-imagenet"])
    other = model_card(dataclasses.replace(facts, config={"version": "v1.5"}))
    assert "| resnet50 | 75.30 % |" in other.splitlines()
    assert 'The published networks have settings that differ from this one: version: "v1".' in other
    own = model_card(dataclasses.replace(facts, config={"version": "v1"}))
    assert "| resnet50 (this network) | 75.30 % |" in own.splitlines()
    assert "settings that differ" not in own


def test_card_marks_what_was_changed() -> None:
    recipe = override(FACTS.recipe, {"optimizer.learning_rate": 0.2, "network.se_ratio": 0.25})
    changed = dataclasses.replace(
        FACTS,
        recipe=dataclasses.replace(recipe.lasting(5), expected={"resnet20": 91.25, "resnet56": 93}),
    )
    card = model_card(changed)
    lines = card.splitlines()
    for line in (
        "| **optimizer.learning_rate** | `0.2` | set by the user; the recipe has `0.05` |",
        "| **network.se_ratio** | `0.25` | set by the user; the recipe has nothing |",
        "| **duration** | `5` | changed for this run; the recipe has `10` |",
        "| resnet20 (this network) | 91.25 % |",
        "| resnet56 | 93.00 % |",
        "This run changed the recipe, so its results may differ.",
    ):
        assert line in lines, line
    assert "4 fields of the recipe were changed for this run" in card
    # A recipe of one's own has no original, but its overrides are known.
    own = override(dataclasses.replace(FACTS.recipe, name="own"), {"batch_size": 64})
    card = model_card(dataclasses.replace(FACTS, recipe=own))
    assert "| **batch_size** | `64` | set by the user |" in card
    assert "1 field of the recipe was changed" in card


def test_card_of_a_run_without_an_epoch() -> None:
    card = model_card(dataclasses.replace(FACTS, history={}, best_epoch=None))
    assert "There are no results, as no epoch was finished." in card
    assert 'load_model("last.keras")' in card
    assert "best.keras" not in card


def test_card_says_which_weights_the_figures_are_of() -> None:
    recipe = override(FACTS.recipe, {"average.decay": 0.99, "precise_bn": 10})
    card = model_card(dataclasses.replace(FACTS, recipe=recipe))
    assert "Moving averages of the weights were validated and saved." in card
    assert "batch normalization in `last.keras` were recomputed" in card
    assert "recomputed" not in model_card(FACTS)
