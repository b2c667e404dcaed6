"""What messages say that somebody may have meant."""

from __future__ import annotations

import pytest

import keras_resnet
from keras_resnet.export.targets import TARGETS, check_targets
from keras_resnet.networks.config import FIELDS
from keras_resnet.networks.table import VARIANTS, find_name, get_config
from keras_resnet.support.checks import check_choice
from keras_resnet.support.suggest import did_you_mean, key_of, nearest, nearest_file
from keras_resnet.training.recipes.recipe import fields_of, override
from keras_resnet.training.recipes.table import RECIPES, find_recipe

RECIPE_FIELDS = fields_of(RECIPES["finetune"])


@pytest.mark.parametrize(
    ("value", "choices", "expected"),
    [
        ("lr", RECIPE_FIELDS, ["optimizer.learning_rate"]),
        ("optimizer.lr", RECIPE_FIELDS, ["optimizer.learning_rate"]),
        ("wd", RECIPE_FIELDS, ["optimizer.weight_decay"]),
        ("momentum", RECIPE_FIELDS, ["optimizer.momentum"]),
        ("momentun", RECIPE_FIELDS, ["optimizer.momentum"]),
        ("Label-Smoothing", RECIPE_FIELDS, ["loss.label_smoothing"]),
        ("name", RECIPE_FIELDS, ["optimizer.name", "schedule.name", "loss.name"]),
        ("num_classes", ["classes", "weights"], ["classes"]),
        ("resnext50", VARIANTS, ["resnext50_32x4d"]),
        ("resnet51", VARIANTS, ["resnet56"]),
        ("int8", TARGETS, ["tflite-int8", "onnx-int8"]),
        ("tflite-fp16", TARGETS, ["tflite-float16"]),
        ("goyal", RECIPES, ["goyal2017"]),
        ("vgg16", VARIANTS, []),
        ("", VARIANTS, []),
        (7, VARIANTS, []),
        (None, VARIANTS, []),
        ("x", [], []),
    ],
)
def test_the_nearest_name(value: object, choices: list[str], expected: list[str]) -> None:
    assert nearest(value, choices) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nothere.keras", []),
        ("model_int8.tflite", ["model-int8.tflite"]),
        ("modle.onnx", ["model.onnx"]),
        ("model.keras", ["model.h5"]),
        ("", []),
    ],
)
def test_the_nearest_file(name: str, expected: list[str]) -> None:
    names = ["m20.keras", "model.h5", "model.onnx", "lam.keras", "model-int8.tflite"]
    assert nearest_file(name, names) == expected


def test_words_of_the_suggestion() -> None:
    assert did_you_mean("trian", ["train", "list"]) == ". Did you mean train?"
    assert did_you_mean("int8", TARGETS) == ". Did you mean tflite-int8 or onnx-int8?"
    assert did_you_mean("b", ["b-1", "b-2", "b-3"]) == ". Did you mean b-1, b-2 or b-3?"
    assert did_you_mean("xyz", ["train"], "There is train") == ". There is train"
    assert did_you_mean("xyz", ["train"]) == ""


def test_networks_have_names_of_their_own_in_any_spelling() -> None:
    assert len({key_of(name) for name in VARIANTS}) == len(VARIANTS)
    for name in ("ResNet50", "resnet-50", "RESNET50", "resnet_50"):
        assert find_name(name) == "resnet50"
        assert get_config(name) == VARIANTS["resnet50"]
    assert find_name("wide_resnet50_2") == "wideresnet50_2"
    model = keras_resnet.create_model("ResNet-20", classes=3)
    assert (model.name, model.output_shape) == ("resnet20", (None, 3))


def refused(call: object, *arguments: object, **keywords: object) -> str:
    with pytest.raises((ValueError, AttributeError)) as caught:
        call(*arguments, **keywords)  # type: ignore[operator]
    return str(caught.value)


def test_every_list_of_names_answers_with_one_of_them() -> None:
    for said, message in (
        ("resnet56?", refused(find_name, "resnet51")),
        ("classes?", refused(keras_resnet.create_model, "resnet20", num_classes=3)),
        ("classes?", refused(keras_resnet.ResNet20, num_classes=3)),
        ("stochastic_depth?", refused(keras_resnet.cifar_resnet, 20, drop_path_rate=0.1)),
        ("quick-digits?", refused(find_recipe, "quick-digit")),
        ("optimizer.learning_rate?", refused(override, RECIPES["finetune"], {"lr": 1})),
        ("network.shortcut?", refused(override, RECIPES["finetune"], {"shortcut": "A"})),
        ("network.width?", refused(override, RECIPES["finetune"], {"network.widht": 1})),
        ("onnx-int8?", refused(check_targets, ["onnx", "onnx-int"])),
        ("cosine?", refused(check_choice, "schedule", "cosin", ("step", "cosine"))),
        ("ResNet50?", refused(getattr, keras_resnet, "Resnet50")),
        ("load_model?", refused(getattr, keras_resnet, "load_mode")),
        ("digits?", refused(keras_resnet.data.load_data, "digit")),
        ("folder:PATH?", refused(keras_resnet.data.load_data, "foler:x")),
    ):
        assert message.endswith(f"Did you mean {said}"), message
        assert len(message) < 250
    assert "There are block, blocks" in refused(get_config, "resnet20", zzz=1)
    assert set(FIELDS) == {*keras_resnet.ResNetConfig.__dataclass_fields__}
