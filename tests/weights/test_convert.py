"""Networks of other packages give the same logits in ours."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from keras_resnet import ResNetConfig, build, create_model, feature_extractor
from keras_resnet.weights.convert import assign_torch, from_keras_applications
from keras_resnet.weights.mapping import Layout, checkpoint_names

from ..conftest import randomize

FIXTURES = Path(__file__).parents[1] / "fixtures"


def tiny(block: str, **fields: object) -> ResNetConfig:
    return ResNetConfig(block, (2, 1, 1, 1), (8, 16, 24, 32), **{"stem_filters": 64, **fields})


NETWORKS: dict[str, tuple[ResNetConfig, Layout]] = {
    "timm_basic_v15": (tiny("basic"), "torchvision"),
    "timm_bottleneck_v15": (tiny("bottleneck"), "torchvision"),
    "timm_bottleneck_d": (
        tiny("bottleneck", stem="C", stem_filters=32, downsample="average"),
        "torchvision",
    ),
    "timm_resnext": (tiny("bottleneck", groups=4, width_per_group=32), "torchvision"),
    "timm_se": (tiny("bottleneck", se_ratio=1 / 16), "torchvision"),
    "timm_preact_bottleneck": (
        tiny("bottleneck", version="v2", preact_layout="unit_norm", stem_filters=16),
        "timm_resnetv2",
    ),
    "transformers_basic": (
        tiny("basic").replace(filters=(64, 16, 24, 32)),
        "transformers",
    ),
    "transformers_bottleneck": (tiny("bottleneck"), "transformers"),
}


def network(name: str) -> tuple[keras.Model, dict[str, np.ndarray], Layout]:
    config, layout = NETWORKS[name]
    model = build(
        config,
        input_shape=(64, 64, 3),
        classes=7,
        classifier_activation=None,
        include_preprocessing=False,
    )
    return model, load_file(FIXTURES / f"{name}.safetensors"), layout


@pytest.mark.filterwarnings("ignore:The last stage sees")
@pytest.mark.parametrize("name", NETWORKS)
def test_state_dicts_give_the_logits_of_their_own_package(name: str) -> None:
    model, state, layout = network(name)
    assign_torch(model, state, layout)
    expected = np.load(FIXTURES / f"{name}_io.npz")
    images = expected["x_nhwc"]
    np.testing.assert_allclose(model(images), expected["logits"], atol=1e-4)
    if "features_nhwc" in expected:
        features = feature_extractor(model, ["C5"])(images)["C5"]
        np.testing.assert_allclose(features, expected["features_nhwc"], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The last stage sees")
def test_wrong_state_dicts_are_refused_and_change_nothing() -> None:
    model, state, layout = network("timm_basic_v15")
    before = [weight.copy() for weight in model.get_weights()]
    kernel = state["layer2.0.conv1.weight"]
    for changes, message in (
        ({"fc.bias": None}, "none for fc.bias"),
        ({"layer1.2.conv1.weight": kernel}, "also layer1.2.conv1.weight"),
        (
            {"layer2.0.conv1.weight": kernel.transpose(1, 0, 2, 3)},
            r"shape \(3, 3, 8, 16\).*'conv3_block1_1_conv' from 'layer2.0.conv1.weight'",
        ),
    ):
        wrong = {key: array for key, array in {**state, **changes}.items() if array is not None}
        with pytest.raises(ValueError, match=message):
            assign_torch(model, wrong, layout)
    with pytest.raises(ValueError, match="the layer 'conv2_block1_se_reduce'"):
        checkpoint_names(network("timm_se")[0], "transformers")
    for weight, unchanged in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, unchanged)


THEIRS = {
    "resnet50": (keras.applications.ResNet50, {"version": "v1"}),
    "resnet101": (keras.applications.ResNet101, {"version": "v1"}),
    "resnet152": (keras.applications.ResNet152, {"version": "v1"}),
    "resnet50v2": (keras.applications.ResNet50V2, {"preact_layout": "unit_norm_stride_last"}),
    "resnet101v2": (keras.applications.ResNet101V2, {"preact_layout": "unit_norm_stride_last"}),
    "resnet152v2": (keras.applications.ResNet152V2, {"preact_layout": "unit_norm_stride_last"}),
}


@pytest.mark.filterwarnings("ignore:The last stage sees")
@pytest.mark.parametrize("name", THEIRS)
def test_keras_applications_give_the_same_logits(name: str) -> None:
    builder, fields = THEIRS[name]
    shape = (71, 64, 3)
    theirs = builder(weights=None, input_shape=shape, classes=5, classifier_activation=None)
    randomize(theirs)
    ours = create_model(
        name,
        input_shape=shape,
        classes=5,
        classifier_activation=None,
        include_preprocessing=False,
        **fields,
    )
    weights = from_keras_applications({layer.name: layer.get_weights() for layer in theirs.layers})
    weighted = [layer for layer in ours.layers if layer.weights]
    assert {layer.name for layer in weighted} == set(weights)
    for layer in weighted:
        layer.set_weights(weights[layer.name])
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    expected = theirs(images)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(ours(images), expected, rtol=1e-4, atol=1e-4)
