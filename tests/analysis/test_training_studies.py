"""Networks trained under one recipe: degradation and shortcuts."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

import keras_resnet
from keras_resnet.analysis import degradation_study, shortcut_study
from keras_resnet.analysis.studies import training
from keras_resnet.analysis.studies.curves import NetworkCurves, TrainingStudy
from keras_resnet.analysis.studies.degradation import degradation_findings, shortcut_findings
from keras_resnet.analysis.studies.families import (
    basic_config,
    check_depths,
    check_seeds,
    default_recipe,
    default_size,
)
from keras_resnet.analysis.studies.figures import degradation_figure, shortcuts_figure
from keras_resnet.analysis.studies.training import Setting, train_networks
from keras_resnet.data import DataConfig, load_data
from keras_resnet.data.sources import Subset
from keras_resnet.networks.table import get_config
from keras_resnet.support.progress import unsaid, unseen
from keras_resnet.training import DivergedError, find_recipe, override, train

from ..conftest import Command, Run, Start


def curves(name: str, last: list[float], shortcut: str | None = None) -> NetworkCurves:
    """A network whose errors of the last epoch are these, one per seed, training and test alike."""
    rows = tuple((0.9, error) for error in last)
    kind, _, depth = name.partition("-")
    shortcut = "A" if kind == "residual" else shortcut
    return NetworkCurves(name, int(depth or 32), shortcut, 1, 1, rows, rows, 0.1)


SHALLOW, DEEP = curves("plain-8", [0.10, 0.12]), curves("plain-32", [0.30, 0.34])
CURED = [curves("residual-8", [0.08, 0.10]), curves("residual-32", [0.04, 0.06])]


def test_degradation_and_cure_are_found() -> None:
    found = degradation_findings([DEEP, SHALLOW, *CURED])
    assert found["degradation"].shown
    assert found["cure"].shown
    assert found["degradation"].sentence == (
        "Degradation shown: plain networks have a training error of 32.00 ± 2.83 % with 32 layers "
        "and of 11.00 ± 1.41 % with 8 layers."
    )
    assert found["cure"].sentence == (
        "Cure shown: residual networks have a training error of 5.00 ± 1.41 % with 32 layers "
        "and of 9.00 ± 1.41 % with 8 layers."
    )


def test_what_is_not_shown_is_said() -> None:
    better = curves("plain-32", [0.05, 0.07])
    found = degradation_findings([SHALLOW, better, *CURED])
    assert not found["degradation"].shown
    assert found["degradation"].sentence.startswith("Degradation not shown: ")
    assert found["degradation"].sentence.endswith("; the deeper one's is not higher.")
    # The plain network does without a cure.
    assert not found["cure"].shown
    assert "; the plain network's with 32 is not clearly higher." in found["cure"].sentence
    scattered = curves("plain-32", [0.05, 0.35])
    found = degradation_findings([SHALLOW, scattered, *CURED])
    assert not found["degradation"].shown
    assert found["degradation"].sentence.endswith("; the standard deviations overlap.")
    found = degradation_findings([SHALLOW, DEEP, CURED[0], curves("residual-32", [0.10, 0.12])])
    assert found["degradation"].shown
    assert not found["cure"].shown
    assert found["cure"].sentence.endswith("; the deeper one's is higher.")


def test_as_good_is_cured_and_equal_is_not_degraded() -> None:
    tie = [
        curves(f"{kind}-{depth}", [0.1, 0.1]) for kind in ("plain", "residual") for depth in (8, 32)
    ]
    found = degradation_findings(tie)
    assert not found["degradation"].shown
    assert not found["cure"].shown
    same = [CURED[0], curves("residual-32", [0.08, 0.10])]
    assert degradation_findings([SHALLOW, DEEP, *same])["cure"].shown


def test_a_single_seed_is_warned_of() -> None:
    networks = [curves("plain-8", [0.1]), curves("plain-32", [0.2])]
    networks += [curves("residual-8", [0.1]), curves("residual-32", [0.1])]
    for finding in degradation_findings(networks).values():
        assert finding.sentence.endswith(
            "With a single seed there is no standard deviation: this may be chance."
        )
        assert "±" not in finding.sentence


def test_options_are_compared_with_the_plain_network() -> None:
    plain = curves("plain", [0.30, 0.34])
    options = [
        curves(name, [0.1, 0.1 + spread], name)
        for name, spread in zip("ABC", (0.02, 0, 0.04), strict=True)
    ]
    found = shortcut_findings([plain, *options])["shortcuts"]
    assert found.shown
    assert found.sentence == (
        "Gain by shortcuts shown: test error of the plain network 32.00 ± 2.83 %, of the options "
        "B 10.00 ± 0.00 %, A 11.00 ± 1.41 %, C 12.00 ± 2.83 %. B and C are not clearly apart."
    )
    found = shortcut_findings([plain, *options[:2], curves("C", [0.3, 0.4], "C")])["shortcuts"]
    assert not found.shown
    assert (
        "; C not clearly lower than the plain network's. B and C are clearly apart."
        in found.sentence
    )


def test_depths_are_of_one_family() -> None:
    assert check_depths([20, 8, 20]) == (8, 20)
    assert check_depths([34, 18]) == (18, 34)
    assert basic_config(34, "A") == get_config("resnet34", shortcut="A")
    assert basic_config(34, None) == get_config("plainnet34")
    assert basic_config(20, None) == get_config("plainnet20")
    assert basic_config(20, "A", width=0.5) == get_config("resnet20", width=0.5)
    with pytest.raises(ValueError, match="Received: 21. Nearest: 20 or 26"):
        check_depths([20, 21])
    with pytest.raises(ValueError, match="Received: 2. Nearest: 8"):
        check_depths([2, 8])
    with pytest.raises(ValueError, match="at least two different depths.*Received: 20, 20"):
        check_depths([20, 20])
    with pytest.raises(ValueError, match="Expected depths of one family.*Received: 18, 20"):
        check_depths([18, 20])
    for seeds in ([], [1, 1], [-1], [2**32]):
        with pytest.raises(ValueError, match="Expected .*seed"):
            check_seeds(seeds)


def test_recipes_fit_the_data() -> None:
    small, large = basic_config(20, "A"), basic_config(18, "A")
    assert default_recipe("degradation", "cifar:x", small, 32) == find_recipe("he2015-cifar10")
    assert default_recipe("degradation", "folder:x", large, 224) == find_recipe("he2015-imagenet")
    assert default_recipe("degradation", "digits", small, 8).augmentation.padding == 1
    assert default_recipe("degradation", "digits", small, 32).augmentation.padding == 4
    assert default_recipe("degradation", "digits", small, 8).duration == 18
    assert default_recipe("shortcuts", "digits", small, 8).duration == 12


@pytest.mark.full
def test_errors_are_those_of_a_network_trained_alone() -> None:
    train_part, held_out = load_data(DataConfig("digits", size=8))
    small = Subset(train_part, np.arange(160), "some digits")
    recipe = override(find_recipe("quick-digits"), {"augmentation.padding": 1})
    config = basic_config(8, "A", width=0.5)
    setting = Setting(small, held_out, recipe, 2, 8)
    said: list[str] = []
    shares: list[float] = []
    (found,) = train_networks(
        {"residual-8": config}, setting, (4, 5), said.append, lambda _, done: shares.append(done)
    )
    assert len(said) == 1
    assert said[0].startswith("2 trainings (1 network, 2 seeds) on 160 images of 8x8 pixels: about")
    assert "estimated" in said[0]
    # Two seeds, two epochs, five batches of 32.
    assert len(shares) == 20
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)

    keras.utils.set_random_seed(4)
    with pytest.warns(UserWarning, match="The last stage sees 8x8 images as 2x2 positions"):
        model = keras_resnet.build(config, input_shape=(8, 8, 3), classes=10)
    history = train(model, (small, held_out), recipe, epochs=2, seed=4, verbose=False).history
    # Sums of floats may be taken in another order; a single image is 0.006 or 0.003.
    expected = [1 - accuracy for accuracy in history["accuracy"]]
    assert found.train_errors[0] == pytest.approx(expected, abs=0.02)
    assert found.test_errors[0][1] == pytest.approx(1 - history["val_accuracy"][1], abs=0.02)
    assert found.train_errors[0] != found.train_errors[1]
    assert found.seconds_per_step > 0
    assert found.params == sum(math.prod(weight.shape) for weight in model.trainable_weights)


@pytest.mark.full
def test_a_network_that_diverges_is_named() -> None:
    parts = load_data(DataConfig("digits", size=8))
    changes = {"optimizer.learning_rate": 1e9, "schedule.warmup": 0}
    setting = Setting(*parts, override(find_recipe("quick-digits"), changes), 1, 8)
    config = basic_config(8, None, width=0.5)
    with pytest.raises(DivergedError, match="^plain-8 with seed 1: .*learning rate"):
        train_networks({"plain-8": config}, setting, (1,), unsaid, unseen)


def test_one_training_that_diverges_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: keras.Model, *_: object, **keywords: Any) -> None:
        (steps,) = keywords["callbacks"]
        for epoch in range(3):
            steps.on_train_batch_begin(0)
            steps.on_train_batch_end(0)
            if (model.name, keywords["seed"], epoch) == ("plain-8", 1, 1):
                raise DivergedError("too large")
            steps.on_epoch_end(epoch, {"accuracy": 0.5, "val_accuracy": 0.25})

    monkeypatch.setattr(training, "train", fail)
    setting = Setting(*load_data(DataConfig("digits", size=8)), find_recipe("quick-digits"), 3, 8)
    kinds: dict[str, Any] = {"plain": None, "residual": "A"}
    configs = {
        f"{kind}-{depth}": basic_config(depth, shortcut, width=0.25)
        for kind, shortcut in kinds.items()
        for depth in (8, 14)
    }
    said: list[str] = []
    networks = train_networks(configs, setting, (0, 1), said.append, unseen)
    assert said[1:] == ["Diverged: plain-8 with seed 1: too large."]
    assert [network.diverged for network in networks] == [(1,), (), (), ()]
    # Nine of ten guesses are wrong.
    assert networks[0].train_errors == ((0.5, 0.5, 0.5), (0.5, 0.9, 0.9))
    assert networks[0].test_errors == ((0.75, 0.75, 0.75), (0.75, 0.9, 0.9))
    assert networks[0].error_text(networks[0].train_error) == "70.00 ± 28.28 %, 1 diverged"
    found = degradation_findings(networks)["degradation"]
    assert found.sentence.endswith(" plain-8 diverged with seed 1: counted as guessing.")
    study = TrainingStudy(networks, (0, 1), {}, {})
    assert study.to_dict()["networks"][0]["diverged"] == (1,)
    assert "1 diverged" in degradation_figure(study).axes[0].get_legend().get_texts()[0].get_text()
    with pytest.raises(DivergedError, match="^plain-8 with seed 1: too large"):
        train_networks({"plain-8": configs["plain-8"]}, setting, (1,), said.append, unseen)


def test_recipes_leave_to_the_study_what_it_sets(
    tmp_path: Path, command_in_process: Command
) -> None:
    recipe = override(find_recipe("quick-digits"), {"network.shortcut": "B"})
    with pytest.raises(ValueError, match=r"Received: shortcut=B\. Leave it out"):
        degradation_study(recipe=recipe)
    for name in ("degradation", "shortcuts"):
        done = command_in_process(
            *("analyze", name, "--output", str(tmp_path), "--set", "network.width=4")
        )
        assert done.returncode == 2
        assert "Expected a network without the fields that the study sets" in done.stderr
        assert done.stdout == ""


def test_outputs_are_checked_before_the_trainings(
    tmp_path: Path, command_in_process: Command
) -> None:
    file = tmp_path / "degradation.svg"
    file.write_text("")
    for output, message in ((file, "Expected a directory"), (tmp_path, "Expected a new file")):
        done = command_in_process("analyze", "degradation", "--output", str(output))
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stdout == ""
    assert list(tmp_path.iterdir()) == [file]


def test_default_sizes_fit_the_networks() -> None:
    assert default_size("digits", basic_config(20, None)) == 8
    assert default_size("digits", basic_config(18, None)) == 64
    assert default_size("folder:x", basic_config(20, None)) == 32
    assert default_size("folder:x", basic_config(18, None)) == 224


def test_one_epoch_is_visible() -> None:
    rows = ((0.5,), (0.3,))
    network = NetworkCurves("plain", 32, None, 1, 1, rows, rows, 0.1)
    (axes,) = shortcuts_figure(TrainingStudy((network,), (0, 1), {}, {})).axes
    assert [line.get_marker() for line in axes.lines[:1]] == ["o"]
    assert axes.containers
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_json_has_every_curve() -> None:
    networks = (SHALLOW, DEEP, *CURED)
    study = TrainingStudy(networks, (3, 4), degradation_findings(networks), {"image_size": 8})
    values = json.loads(json.dumps(study.to_dict()))
    assert values["seeds"] == [3, 4]
    assert values["image_size"] == 8
    assert values["shown"]
    assert [finding["shown"] for finding in values["findings"].values()] == [True, True]
    network = values["networks"][0]
    for part in ("train", "test"):
        assert network[f"{part}_errors"] == [[0.9, 0.10], [0.9, 0.12]]
        assert network[f"{part}_error_mean"] == pytest.approx([0.9, 0.11])
        assert network[f"{part}_error_deviation"] == pytest.approx([0, 0.02 / 2**0.5])


def test_pictures_have_a_curve_of_training_and_of_test_per_network() -> None:
    networks = (SHALLOW, DEEP, *CURED)
    plain, residual = degradation_figure(TrainingStudy(networks, (0, 1), {}, {})).axes
    assert [plain.get_title(), residual.get_title()] == ["plain", "residual"]
    (training, test, *_), legend = plain.lines, plain.get_legend()
    assert len(plain.lines) == len(residual.lines) == 4
    assert training.get_ydata() == pytest.approx([90, 11])
    assert training.get_linewidth() < test.get_linewidth()
    assert legend.get_texts()[0].get_text() == "plain-8: 11.00 ± 1.41 %"
    alone = (curves("plain", [0.2]), curves("A", [0.1], "A"))
    (axes,) = shortcuts_figure(TrainingStudy(alone, (0,), {}, {})).axes
    assert len(axes.lines) == 4


@pytest.mark.full
def test_a_test_part_is_what_is_tested_on(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("validation", 3), ("test", 2)):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for index in range(count):
                shade = 40 * index + 100 * (label == "b")
                Image.new("RGB", (8, 8), (shade,) * 3).save(
                    tmp_path / part / label / f"{index}.png"
                )
    recipe = override(find_recipe("finetune"), {"batch_size": 4})
    study = shortcut_study(
        f"folder:{tmp_path}", depth=8, seeds=(0,), epochs=1, size=8, recipe=recipe
    )
    assert [network.name for network in study.networks] == ["plain", "A", "B", "C"]
    # Option B has a projection in two blocks, option C in all three.
    params = {network.name: network.params for network in study.networks}
    assert params["plain"] == params["A"] < params["B"] < params["C"]
    data = study.to_dict()["data"]
    assert [data[part]["images"] for part in ("training", "test")] == [8, 4]
    # Every network is trained for the same time.
    assert study.settings["recipe"]["patience"] is None


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "depths", "finding"),
    [
        ("shortcuts", ("--depth", "8"), "Gain by shortcuts"),
        ("degradation", ("--depths", "8,14"), "Degradation "),
    ],
)
def test_command_writes_pictures_and_json(
    tmp_path: Path,
    keras_resnet_command: Command,
    name: str,
    depths: tuple[str, str],
    finding: str,
) -> None:
    arguments = (*depths, "--seeds", "3", "--epochs", "1", "--batch-size", "128")
    done = keras_resnet_command(
        "analyze", name, *arguments, "--output", str(tmp_path), TF_ENABLE_ONEDNN_OPTS="0"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "4 trainings (4 networks, 1 seed)" in done.stdout
    assert "s left" in done.stdout
    assert finding in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{x}" for x in ("png", "svg", "json")
    }
    # Curves, not an empty frame: the networks' colours are there.
    with Image.open(tmp_path / f"{name}.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for colour in ((0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)):
        assert (pixels == colour).all(axis=1).sum() > 20
    values = json.loads((tmp_path / f"{name}.json").read_text())
    assert values["command"].startswith(f"keras-resnet analyze {name} {' '.join(depths)} --seeds 3")
    assert values["recipe"]["batch_size"] == 128
    assert len(values["networks"]) == 4


def test_impossible_depths_are_refused_before_tensorflow_is_imported(run_new_python: Run) -> None:
    code = """
import sys
from keras_resnet.cli import main
sys.argv = ["keras-resnet", "analyze", "degradation", "--depths", "20,55", "--output", "x"]
try:
    main()
finally:
    assert "tensorflow" not in sys.modules
"""
    done = run_new_python(code)
    assert done.returncode == 2, done.stderr
    assert "Received: 55. Nearest: 50 or 56." in done.stderr


@pytest.mark.full
def test_an_interruption_leaves_nothing(tmp_path: Path, start_command: Start) -> None:
    output = tmp_path / "new"
    arguments = ("--depths", "8,14", "--epochs", "40", "--seeds", "0", "--output", str(output))
    process = start_command("analyze", "degradation", *arguments)
    process.wait_for_output("% done")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(120)
    assert process.wait() == 130
    assert "Interrupted" in errors
    assert not output.exists()


@pytest.mark.slow
def test_the_default_shows_degradation_and_cure(
    tmp_path: Path, keras_resnet_command: Command
) -> None:
    done = keras_resnet_command("analyze", "degradation", "--output", str(tmp_path), timeout=3600)
    assert done.returncode == 0, done.stderr
    values = json.loads((tmp_path / "degradation.json").read_text())
    assert values["shown"], values["findings"]
    assert len(values["seeds"]) >= 3


@pytest.mark.slow
def test_the_default_shows_what_shortcuts_gain(
    tmp_path: Path, keras_resnet_command: Command
) -> None:
    done = keras_resnet_command("analyze", "shortcuts", "--output", str(tmp_path), timeout=3600)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "shortcuts.json").read_text())["shown"], done.stdout
