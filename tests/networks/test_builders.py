from __future__ import annotations

import inspect
import json
import os
import pickle
import pydoc
import re
from pathlib import Path

import keras
import pytest

import keras_resnet
from keras_resnet.networks.builders import Builder
from keras_resnet.networks.table import ROWS, VARIANTS, get_config

LAYER_NAMES = Path(__file__).parents[1] / "golden" / "layer_names.json"
STUB = Path(keras_resnet.__file__).with_suffix(".pyi")


def builders() -> dict[str, Builder]:
    return {
        name.lower(): getattr(keras_resnet, name)
        for name in keras_resnet.__all__
        if name.lower() in VARIANTS
    }


def test_every_network_has_a_builder_of_its_name() -> None:
    assert sorted(builders()) == sorted(VARIANTS)
    for name, builder in builders().items():
        assert builder.__name__.lower() == name  # type: ignore[attr-defined]


def test_golden_stub_lists_the_builders() -> None:
    """Lazy imports and type checkers read the stub. `make golden` rewrites the list in it."""

    def natural(name: str) -> str:
        return re.sub(r"\d+", lambda number: number[0].zfill(5), name.lower())

    names = [*sorted(ROWS, key=natural), "cifar_resnet", "create_model"]
    before, start, after = STUB.read_text().partition("from .networks.builders import (\n")
    lines = "".join(f"    {name} as {name},\n" for name in names)
    expected = before + start + lines + after[after.index(")\n") :]
    if os.environ.get("KERAS_RESNET_GOLDEN") == "write":
        STUB.write_text(expected)
    assert STUB.read_text() == expected, "the stub has other builders than the table: make golden"


def test_builders_are_ordinary_functions() -> None:
    for builder in builders().values():
        assert pickle.loads(pickle.dumps(builder)) is builder
        described = pydoc.plain(pydoc.render_doc(builder))
        assert "keras_resnet.networks.builders" in described
        assert f"Build {builder.__name__}:" in described  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"ResNet50\(\): too many positional"):
        keras_resnet.ResNet50(*range(9))  # type: ignore[call-arg, arg-type]


def test_builders_have_the_signature_of_keras_applications() -> None:
    theirs = inspect.signature(keras.applications.ResNet50).parameters
    for name, builder in builders().items():
        parameters = inspect.signature(builder).parameters
        assert list(parameters)[: len(theirs)] == list(theirs)
        defaults = {key: parameters[key].default for key in theirs}
        assert defaults == {
            "include_top": True,
            "weights": None,
            "input_tensor": None,
            "input_shape": None,
            "pooling": None,
            "classes": VARIANTS[name].default_classes,
            "classifier_activation": "softmax",
            "name": None,
        }
        extras = [key for key in parameters if key not in theirs]
        assert extras == ["include_preprocessing", "dtype", "config_overrides"]


def test_builder_and_create_model_pass_every_argument_on() -> None:
    keywords = {
        "include_top": False,
        "input_shape": (16, 16, 1),
        "pooling": "max",
        "name": "mine",
        "include_preprocessing": False,
        "dtype": "mixed_bfloat16",
        "shortcut": "C",
    }
    for model in (
        keras_resnet.ResNet20(**keywords),
        keras_resnet.create_model("resnet20", **keywords),
    ):
        assert (model.name, model.input_shape, model.output_shape) == (
            "mine",
            (None, 16, 16, 1),
            (None, 64),
        )
        names = [layer.name for layer in model.layers]
        assert "normalization" not in names
        assert "conv2_block1_0_conv" in names
        assert names[-1] == "max_pool"
        assert model.get_layer("conv1_conv").compute_dtype == "bfloat16"
    model = keras_resnet.ResNet20(classes=3, classifier_activation=None)
    assert model.output_shape == (None, 3)
    assert model.layers[-1].activation is keras.activations.linear
    assert model.name == "resnet20"


def test_list_models_matches_patterns() -> None:
    assert keras_resnet.list_models() == list(VARIANTS)
    assert keras_resnet.list_models("ResNeXt*") == [
        "resnext50_32x4d",
        "resnext101_32x8d",
        "resnext101_64x4d",
    ]
    assert keras_resnet.list_models("vgg*") == []


def test_unknown_and_contradictory_requests_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Received: 'resnet19'\. Did you mean resnet18\?$"):
        keras_resnet.create_model("resnet19")
    with pytest.raises(
        ValueError, match=r"plain network `plainnet34`. Received: shortcut='C'. Use `resnet34`"
    ):
        keras_resnet.PlainNet34(shortcut="C")
    with pytest.raises(ValueError, match="Received: droput"):
        keras_resnet.ResNet50(droput=0.5)
    assert get_config("resnet34", shortcut=None) == VARIANTS["plainnet34"]


def test_golden_layer_names() -> None:
    """They are part of the weight format. `make golden` rewrites the file; review the diff."""
    # Of any width.
    narrow = {"input_shape": (128, 128, 3), "width": 0.125}
    models = {
        "resnet18": keras_resnet.ResNet18(stem="cifar", **narrow),
        "resnet34 C": keras_resnet.ResNet34(shortcut="C", **narrow),
        "resnet50 v1": keras_resnet.ResNet50(version="v1", **narrow),
        "resnet50": keras_resnet.ResNet50(**narrow),
        "resnet20": keras_resnet.ResNet20(),
        "plainnet20": keras_resnet.PlainNet20(),
        "resnet18v2": keras_resnet.ResNet18V2(**narrow),
        "resnet50v2": keras_resnet.ResNet50V2(**narrow),
        "resnet18v2 unit_norm": keras_resnet.ResNet18V2(preact_layout="unit_norm", **narrow),
        "resnet50v2 unit_norm_stride_last": keras_resnet.ResNet50V2(
            preact_layout="unit_norm_stride_last", **narrow
        ),
        "resnet18d": keras_resnet.ResNet18D(**narrow),
        "seresnet18": keras_resnet.SEResNet18(stochastic_depth=0.1, **narrow),
        "resnet18 blur_pool": keras_resnet.ResNet18(blur_pool=True, **narrow),
        "resnet20 group": keras_resnet.ResNet20(norm="group", norm_groups=8),
        "resnet18 output_stride": keras_resnet.ResNet18(output_stride=8, **narrow),
    }
    names = {key: [layer.name for layer in model.layers] for key, model in models.items()}
    if os.environ.get("KERAS_RESNET_GOLDEN") == "write":
        LAYER_NAMES.write_text(json.dumps(names, indent=1) + "\n")
    assert names == json.loads(LAYER_NAMES.read_text())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (keras_resnet.ResNet50, keras.applications.ResNet50),
        (keras_resnet.ResNet50V2, keras.applications.ResNet50V2),
    ],
)
def test_weighted_layers_are_named_as_in_keras_applications(ours: Builder, theirs: Builder) -> None:
    v2 = theirs is keras.applications.ResNet50V2
    fields = {"preact_layout": "unit_norm_stride_last"} if v2 else {}
    names = [
        {layer.name for layer in model.layers if layer.weights}
        for model in (ours(input_shape=(128, 128, 3), **fields), theirs(weights=None))
    ]
    assert names[0] == names[1]


def test_cifar_networks_of_any_depth() -> None:
    model = keras_resnet.cifar_resnet(29, "bottleneck", version="v2", shortcut="B", classes=7)
    assert (model.name, model.output_shape) == ("cifar_resnet29", (None, 7))
    assert keras_resnet.complexity(model).depth == 29
    assert keras_resnet.complexity(keras_resnet.cifar_resnet(8)).depth == 8
    with pytest.raises(
        ValueError, match=r"6n\+2 with `block='basic'` \(6n\+2 .* 9n\+2 .*Received: depth=29"
    ):
        keras_resnet.cifar_resnet(29)
    for depth, block in ((20.0, "basic"), (2, "basic"), (9, "bottleneck"), ("20", "basic")):
        with pytest.raises(ValueError, match=f"Received: depth={depth}"):
            keras_resnet.cifar_resnet(depth, block)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one of .* Received: 'wide'"):
        keras_resnet.cifar_resnet(20, "wide")


def test_the_number_of_classes_is_that_of_the_name() -> None:
    """As the signature says, whatever fields of the config are replaced."""
    small = {"width": 0.125, "input_shape": (64, 64, 3)}
    assert keras_resnet.ResNet18(stem="cifar", **small).output_shape == (None, 1000)
    assert keras_resnet.ResNet20(stem="imagenet", shortcut="B", **small).output_shape == (None, 10)
