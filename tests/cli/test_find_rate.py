"""`keras-resnet find-rate`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet import ResNetConfig, build, create_model
from keras_resnet.cli.find_rate import _open
from keras_resnet.models.info import get_info, set_class_names
from keras_resnet.training import find_recipe, freeze
from keras_resnet.training.rate_finder import find_rate as rate_finder_run

from ..conftest import Command


@pytest.fixture(scope="module")
def file(tiny_config: ResNetConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network for seven classes."""
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.keras"
    build(tiny_config, input_shape=(16, 16, 3), classes=7, name="tiny").save(path)
    return str(path)


def test_a_rate_is_found_and_the_setting_printed(
    file: str, command_in_process: Command, tmp_path: Path
) -> None:
    done = command_in_process(
        "find-rate", "--model", file, "--data", "digits", "--output", str(tmp_path),
        "--steps", "60", "--lowest", "1e-4", "--highest", "10", "--no-deterministic",
        "--set", "augmentation.crop=none", "--set", "augmentation.flip=0",
        "--set", "optimizer.reference_batch_size=320",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *progress, first, second = done.stdout.splitlines()
    assert progress[0] == "Finding a rate: rate 1.0e-04 (0% done)"
    with (tmp_path / "rates.csv").open(newline="") as rows:
        rates = [float(row["rate"]) for row in csv.DictReader(rows)]
    said = float(first.removeprefix("Suggested learning rate: ").split(",")[0])
    assert min(abs(rate / said - 1) for rate in rates) < 0.05
    assert first.endswith(f"{tmp_path / 'rates.png'} shows all {len(rates)} steps.")
    # Of SGD with momentum 0.9 and a fresh network with batch normalisation.
    assert 0.005 <= said <= 2
    # Recipes whose rate is for 320 images have ten times it in theirs, of 32.
    setting = float(second.removeprefix("To train with it, pass --set optimizer.learning_rate="))
    assert setting == pytest.approx(10 * said, rel=0.1)
    assert (tmp_path / "rates.png").read_bytes()[1:4] == b"PNG"


def test_no_fall_is_a_sentence_and_exit_code_1(
    file: str, command_in_process: Command, tmp_path: Path
) -> None:
    arguments = [
        "find-rate", "--model", file, "--data", "digits", "--output", str(tmp_path),
        "--steps", "10", "--highest", "1e-5", "--batch-size", "16", "--freeze", "backbone",
        "--set", "augmentation.crop=none", "--set", "augmentation.flip=0",
        "--no-deterministic",
    ]  # fmt: skip
    done = command_in_process(*arguments)
    assert done.returncode == 1
    assert "The loss never fell clearly, so no learning rate is suggested." in done.stdout
    assert "--set" not in done.stdout
    done = command_in_process(*arguments, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["suggested"], found["setting"]) == (None, None)
    assert found["rates"][0] == 1e-6
    assert len(found["losses"]) == len(found["smoothed"]) == 10


def test_a_network_by_name_and_bad_input(command_in_process: Command, tmp_path: Path) -> None:
    output = tmp_path / "new"
    arguments = ["find-rate", "--model", "resnet20", "--data", "digits", "--output", str(output)]
    done = command_in_process(*arguments, "--lowest", "1", "--highest", "0.5", "--no-deterministic")
    assert done.returncode == 2
    assert done.stderr == (
        "keras-resnet: Expected `--lowest` above 0 and below `--highest`. Received: lowest=1, "
        "highest=0.5.\n"
    )
    done = command_in_process(*arguments, "--freeze", "C9", "--no-deterministic")
    assert done.returncode == 2
    assert "one of the levels of this model: stem, C2, C3, C4, backbone" in done.stderr
    done = command_in_process(*arguments, "--steps", "5", "--no-deterministic")
    assert done.returncode == 2
    assert "--steps': Input should be greater than or equal to 10" in done.stderr
    assert not output.exists()


def test_settings_that_a_file_cannot_have_are_refused(
    file: str, command_in_process: Command, tmp_path: Path
) -> None:
    output = tmp_path / "new"
    for more, received in (
        (("--size", "64"), "--size 64"),
        (("--set", "network.stochastic_depth=0.1"), "--net stochastic_depth=0.1"),
        (("--net", "stochastic_depth=0.1"), "--net stochastic_depth=0.1"),
        (("--shortcut", "C"), "--net shortcut=C"),
    ):
        done = command_in_process(
            "find-rate", "--model", file, "--data", "digits", "--output", str(output),
            "--steps", "10", "--no-deterministic", *more,
        )  # fmt: skip
        assert done.returncode == 2, more
        assert "a model file without `--size` and options of the network" in done.stderr
        assert f"Received: {received}." in done.stderr
    assert not output.exists()


def test_published_heads_are_replaced_as_by_finetune() -> None:
    """CIFAR-10 has as many classes as the digits."""
    recipe = find_recipe("finetune")
    (network, (digits, _)) = _open("resnet20", "digits", "cifar10", None, 0.1, recipe)
    assert get_info(network).class_names == digits.class_names
    published = create_model("resnet20", weights="cifar10")
    assert not np.array_equal(network.layers[-1].kernel, published.layers[-1].kernel)
    np.testing.assert_array_equal(
        network.get_layer("conv1_conv").kernel, published.get_layer("conv1_conv").kernel
    )


@pytest.mark.full
def test_a_head_for_as_many_other_classes_is_replaced(
    tiny_config: ResNetConfig, command_in_process: Command, tmp_path: Path
) -> None:
    model = build(tiny_config, input_shape=(16, 16, 3), name="tiny")
    # So sure of one class that the loss tells whether the head is still there.
    model.get_layer("predictions").bias.assign([100.0] + [0.0] * 9)
    for names, kept in (([f"animal{i}" for i in range(10)], False), (list("0123456789"), True)):
        set_class_names(model, names)
        model.save(tmp_path / "tiny.keras")
        done = command_in_process(
            "find-rate", "--model", str(tmp_path / "tiny.keras"), "--data", "digits",
            "--output", str(tmp_path / "new"), "--steps", "10", "--highest", "1e-5",
            "--batch-size", "16", "--freeze", "backbone", "--no-deterministic", "--json",
        )  # fmt: skip
        loss = json.loads(done.stdout)["losses"][0]
        assert (loss > 8) == kept, (names, loss)


@pytest.mark.full
def test_what_a_file_has_frozen_is_thawed(
    tiny_config: ResNetConfig,
    command_in_process: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `finetune` does; else the rate would be that of the head alone."""
    model = build(tiny_config, input_shape=(16, 16, 3), name="tiny")
    freeze(model, "backbone")
    model.save(tmp_path / "tiny.keras")
    trained: list[list[str]] = []

    def watched(network: keras.Model, *arguments: Any, **keywords: Any) -> Any:
        trained.append([weight.path for weight in network.trainable_weights])
        return rate_finder_run(network, *arguments, **keywords)

    monkeypatch.setattr("keras_resnet.training.rate_finder.find_rate", watched)
    said = []
    for more in ((), ("--freeze", "C2")):
        done = command_in_process(
            "find-rate", "--model", str(tmp_path / "tiny.keras"), "--data", "digits",
            "--output", str(tmp_path / "new"), "--steps", "10", "--highest", "1e-5",
            "--batch-size", "16", "--no-deterministic", *more,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        said.append(done.stdout)
    everything, behind = trained
    assert "conv1_bn/gamma" in everything
    assert {path.split("_")[0] for path in behind} - {"conv3", "conv4"} == {
        *("predictions/kernel", "predictions/bias"),
    }
    assert not any("bn" in path for path in behind)
    assert said[1].startswith("Trains C3, C4, head")
