"""Which layers of a network become one operator in int8."""

from __future__ import annotations

import keras
import pytest

from keras_resnet import ResNetConfig, build
from keras_resnet.compression.fusion import PASSING, activation_name, fused_groups
from keras_resnet.networks.graph import inputs_of

from ..conftest import randomize

BASIC = ResNetConfig("basic", (1, 1), (8, 16), stem="cifar")
BOTTLENECK = ResNetConfig("bottleneck", (1, 1), (8, 16), stem="cifar")
NETWORKS = {
    "basic": BASIC,
    "v1": BOTTLENECK.replace(version="v1"),
    "v1.5": BOTTLENECK,
    "v2": BOTTLENECK.replace(version="v2"),
    "v2 basic": BASIC.replace(version="v2"),
    "squeeze-excite": BASIC.replace(se_ratio=0.25),
    "A": BASIC.replace(shortcut="A"),
    "D shortcut, C stem": BOTTLENECK.replace(downsample="average", stem="C", stem_filters=8),
    "imagenet stem": BASIC.replace(stem="imagenet"),
    "plain": BASIC.replace(shortcut=None),
    "stochastic depth": BASIC.replace(stochastic_depth=0.5),
    "unit norm": BASIC.replace(version="v2", preact_layout="unit_norm"),
}


def network(config: ResNetConfig) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = build(config, input_shape=(32, 32, 3), classes=10)
    randomize(model)
    return model


def test_groups_of_a_basic_network() -> None:
    def unit(name: str, *more: str) -> tuple[str, ...]:
        return (f"{name}_conv", f"{name}_bn", *more)

    assert fused_groups(network(BASIC)) == {
        "normalization": ("normalization",),
        "conv1_relu": unit("conv1", "conv1_relu"),
        "conv2_block1_1_relu": unit("conv2_block1_1", "conv2_block1_1_relu"),
        "conv2_block1_2_bn": unit("conv2_block1_2"),
        "conv2_block1_out": ("conv2_block1_add", "conv2_block1_out"),
        "conv3_block1_0_bn": unit("conv3_block1_0"),
        "conv3_block1_1_relu": unit("conv3_block1_1", "conv3_block1_1_relu"),
        "conv3_block1_2_bn": unit("conv3_block1_2"),
        "conv3_block1_out": ("conv3_block1_add", "conv3_block1_out"),
        "avg_pool": ("avg_pool",),
        "predictions": ("predictions",),
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_every_computing_layer_is_in_one_group(name: str) -> None:
    model = network(NETWORKS[name])
    groups = fused_groups(model)
    computing = [layer for layer in model.layers if type(layer).__name__ not in PASSING]
    members = [member for group in groups.values() for member in group]
    assert sorted(members) == sorted(layer.name for layer in computing)
    for last, group in groups.items():
        assert group[-1] == last
        kinds = [type(model.get_layer(member)).__name__ for member in group]
        assert kinds[0] not in ("BatchNormalization", "Activation") or len(group) <= 2
        assert "Conv2D" not in kinds[1:]
        assert "BatchNormalization" not in kinds[2:]
        assert "Activation" not in kinds[:-1]
        # Nobody else sees what is inside of a group.
        for member in group[:-1]:
            assert [member in before for before in inputs_of(model).values()].count(True) == 1
            assert member not in model.output_names


def test_normalisations_without_a_convolution_before_them() -> None:
    groups = fused_groups(network(NETWORKS["v2 basic"]))
    assert groups["conv3_block1_preact_relu"] == (
        "conv3_block1_preact_bn",
        "conv3_block1_preact_relu",
    )
    assert groups["post_relu"] == ("post_bn", "post_relu")
    # The sum goes on along the shortcut.
    assert groups["conv2_block1_out"] == ("conv2_block1_out",)
    assert groups["conv2_block1_2_conv"] == ("conv2_block1_2_conv",)


def test_squeeze_excite_shortcuts_and_plain_networks() -> None:
    groups = fused_groups(network(NETWORKS["squeeze-excite"]))
    for part in ("pool", "reduce", "expand", "scale"):
        assert groups[f"conv2_block1_se_{part}"] == (f"conv2_block1_se_{part}",)
    # Its output goes to the pooling and to the product.
    assert groups["conv2_block1_2_bn"] == ("conv2_block1_2_conv", "conv2_block1_2_bn")
    assert not [name for name in fused_groups(network(NETWORKS["A"])) if "conv3_block1_0" in name]
    plain = fused_groups(network(NETWORKS["plain"]))
    last = ("conv3_block1_2_conv", "conv3_block1_2_bn", "conv3_block1_out")
    assert plain["conv3_block1_out"] == last
    average = fused_groups(network(NETWORKS["D shortcut, C stem"]))
    assert average["conv3_block1_0_bn"] == ("conv3_block1_0_conv", "conv3_block1_0_bn")


def test_what_has_users_or_an_activation_of_its_own_ends_a_group() -> None:
    image = keras.Input((8, 8, 3))
    conv = keras.layers.Conv2D(4, 1, name="conv")(image)
    norm = keras.layers.BatchNormalization(name="norm")(conv)
    active = keras.layers.Conv2D(4, 1, activation="relu", name="active")(norm)
    behind = keras.layers.BatchNormalization(name="behind")(active)
    other = keras.layers.ReLU(name="other")(behind)
    end = keras.layers.Add(name="sum")([other, conv])
    groups = fused_groups(keras.Model(image, [end, behind]))
    assert groups == {
        "conv": ("conv",),
        "norm": ("norm",),
        "active": ("active",),
        "behind": ("behind",),
        "other": ("other",),
        "sum": ("sum",),
    }
    assert fused_groups(keras.Model(image, end))["other"] == ("behind", "other")


def test_activations_have_names() -> None:
    assert activation_name(keras.layers.Conv2D(3, 1)) == "linear"
    assert activation_name(keras.layers.Dense(3, activation="softmax")) == "softmax"
    assert activation_name(keras.layers.Activation("silu")) == "silu"
    assert activation_name(keras.layers.Add()) is None
    assert activation_name(keras.layers.ReLU()) == "relu"
    for options in ({"max_value": 6}, {"negative_slope": 0.1}, {"threshold": 1}):
        assert activation_name(keras.layers.ReLU(**options)) == "another ReLU"
    layer = keras.layers.Activation("relu")
    layer.activation = None
    assert activation_name(layer) == "linear"
