"""`keras-resnet recipes`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from keras_resnet.cli.inputs import network_fields, recipe_of
from keras_resnet.training.recipes.table import RECIPES

from ..conftest import Command


def lines_of(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_all_recipes_are_listed(command_in_process: Command) -> None:
    done = command_in_process("recipes")
    assert (done.returncode, done.stderr) == (0, "")
    lines = lines_of(done.stdout)
    names = [line.split()[0] for line in lines if line.split(" ")[0] in RECIPES]
    assert names == list(RECIPES)
    assert "goyal2017 sgd multi-step resnet50 76.26, 90 epochs 8,192 3.2" in lines
    assert "lars-90 lars polynomial - 90 epochs 32,768 32" in lines
    data = json.loads(command_in_process("recipes", "--json").stdout)
    assert list(data) == list(RECIPES)
    assert data["torchvision-v1"]["expected"]["resnet18"] == 69.758


def test_a_recipe_is_printed_with_its_sources(command_in_process: Command) -> None:
    done = command_in_process("recipes", "goyal2017", "--batch-size", "512")
    assert (done.returncode, done.stderr) == (0, "")
    lines = lines_of(done.stdout)
    assert lines[0].startswith("goyal2017: Goyal et al. 2017 (arXiv:1706.02677).")
    assert "batch_size 512 set by the user" in lines
    assert "optimizer.nesterov true Goyal et al. 2017 (arXiv:1706.02677)," in lines
    # It says nothing of it: that has a default.
    assert not [line for line in lines if line.startswith("loss.label_smoothing")]
    assert any(re.fullmatch(r"\d+ other fields have their defaults; `--all` .*", x) for x in lines)
    assert "network.zero_init_residual true Goyal et al. 2017 (arXiv:1706.02677)," in lines
    assert "225,270 steps, 2,503 an epoch of 1,281,167 images" in lines
    # From 0.1 to 0.1 * 512 / 256, then a tenth at 30, 60 and 80 epochs.
    for row in ("0 0.00 0.1", "12,515 5.00 0.2", "75,090 30.00 0.02", "200,240 80.00 0.0002"):
        assert row in lines


def test_all_fields_are_printed_on_demand(command_in_process: Command) -> None:
    lines = lines_of(command_in_process("recipes", "goyal2017", "--all").stdout)
    assert "loss.label_smoothing 0.0 default" in lines
    assert not [line for line in lines if "other fields" in line]
    done = command_in_process("recipes", "--all")
    assert done.returncode == 2
    assert "Received: --all" in done.stderr


@pytest.mark.parametrize(
    ("name", "field", "said"),
    [
        ("rsb-a2", "augmentation.crop", "draws bilinear or bicubic; here, bilinear"),
        ("rsb-a1", "augmentation.mixup", "timm draws one method and strength per batch"),
        ("rsb-a3", "optimizer.clip_norm", "timm's LAMB clips the global gradient norm to 1"),
        ("rsb-a2", "schedule.name", "timm changes the rate once per epoch; here, at every step"),
        ("torchvision-v2", "augmentation.erasing", "with the mean color"),
        ("he2015-cifar10", "augmentation.fill", "the mean color of CIFAR-10"),
        ("he2016-cifar", "optimizer.form", "the paper's experiments were run in Caffe"),
        ("goyal2017", "augmentation.crop", "here, 3/4 to 4/3 and bilinear"),
        ("quick-digits", "augmentation.fill", "the paper pads with the mean"),
    ],
)
def test_what_is_approximated_is_said_of_the_field(
    name: str, field: str, said: str, command_in_process: Command
) -> None:
    lines = lines_of(command_in_process("recipes", name).stdout)
    start = next(index for index, line in enumerate(lines) if line.startswith(f"{field} "))
    source = RECIPES[name].citations[field]
    assert said in source
    # The last words of it stand below the field.
    assert any(source.split()[-1] in line for line in lines[start : start + 12])


def test_a_recipe_does_not_make_another_network_of_a_name(
    command_in_process: Command, tmp_path: Path
) -> None:
    arguments = ("--data", "digits", "--recipe", "he2015-imagenet", "--output", str(tmp_path))
    done = command_in_process("train", "--model", "resnet18v2", *arguments)
    assert done.returncode == 2
    expected = "a network with `--version v1`, as the recipe he2015-imagenet needs. Received: res"
    assert expected in " ".join(done.stderr.split())
    assert "pass `--net version=v2`" in " ".join(done.stderr.split())
    recipe = recipe_of("he2015-imagenet", None, None)
    assert network_fields("resnet50", recipe) == {"version": "v1"}
    recipe = recipe_of("he2015-imagenet", ["network.version=v2"], None)
    assert network_fields("resnet50v2", recipe) == {"version": "v2"}


def test_what_the_rates_depend_on_is_said(command_in_process: Command) -> None:
    lines = lines_of(command_in_process("recipes", "he2015-cifar10-110").stdout)
    assert "64,000 steps, 391 an epoch of 50,000 images" in lines
    assert "The rate is multiplied by 0.1 until the training error is below 80%." in lines
    assert not [line for line in lines if line.startswith("protocol")]
    plateau = command_in_process("recipes", "he2015-imagenet").stdout
    assert "The rate is multiplied by 0.1 when the validation error stops falling" in plateau


def test_json_has_values_sources_and_rates(command_in_process: Command) -> None:
    settings = ("optimizer.learning_rate=0.2", "schedule.milestones=[1, 2]", "duration=3")
    words = [word for setting in settings for word in ("--set", setting)]
    warmup = ("--set", "schedule.warmup=0.5")
    done = command_in_process(
        "recipes", "goyal2017", *words, *warmup, "--batch-size", "256", "--images", "2560", "--json"
    )
    data = json.loads(done.stdout)
    assert data["recipe"]["optimizer"]["learning_rate"] == data["peak_learning_rate"] == 0.2
    assert data["sources"]["duration"] == "set by the user"
    assert data["expected"] == {"resnet50": 76.26, "resnet101": 77.64}
    schedule = data["schedule"]
    assert (schedule["images"], schedule["steps_per_epoch"], schedule["steps"]) == (2560, 10, 30)
    rates = {entry["step"]: entry["learning_rate"] for entry in schedule["learning_rates"]}
    assert rates == pytest.approx(
        {0: 0.2, 5: 0.2, 8: 0.2, 10: 0.02, 15: 0.02, 20: 0.002, 22: 0.002, 29: 0.002}
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gyal2017"], "Received: 'gyal2017'. Did you mean goyal2017?"),
        (["goyal2017", "--set", "lr=1"], "Did you mean optimizer.learning_rate?"),
        (["goyal2017", "--set", "lr"], "Expected `--set FIELD=VALUE`. Received: --set lr."),
        (["--batch-size", "8"], "Expected the name of a recipe with these options"),
        (["quick-digits", "--set", "duration=1"], "a warm-up of 1563 steps in a training of 1563"),
    ],
)
def test_bad_arguments_end_with_one_sentence(
    command_in_process: Command, arguments: list[str], message: str
) -> None:
    done = command_in_process("recipes", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
