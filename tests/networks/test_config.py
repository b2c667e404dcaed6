from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from keras_resnet import ResNetConfig
from keras_resnet.networks.plan import plan

VALID = {"block": "bottleneck", "blocks": (3, 4, 6, 3), "filters": (64, 128, 256, 512)}


@pytest.mark.parametrize(
    ("changes", "received"),
    [
        ({"blocks": (3, 4)}, r"blocks=\(3, 4\), filters=\(64, 128, 256, 512\)"),
        ({"blocks": (3, 4, 0, 3)}, "0"),
        ({"blocks": ()}, r"\(\)"),
        ({"blocks": 3}, "3"),
        ({"blocks": (3, 4, 6.5, 3)}, "6.5"),
        ({"filters": (64, 128, "256", 512)}, "'256'"),
        ({"filters": (64, 128, True, 512)}, "True"),
        ({"block": "wide"}, "'wide'"),
        ({"version": "v3"}, "'v3'"),
        ({"shortcut": "D"}, "'D'"),
        ({"stem": "mnist"}, "'mnist'"),
        ({"groups": 0}, "0"),
        ({"groups": 2.0}, "2.0"),
        (
            {"groups": 32, "width_per_group": 3, "filters": (10, 20, 40, 80)},
            "groups=32, width_per_group=3",
        ),
        ({"block": "basic", "groups": 2}, "groups=2"),
        ({"block": "basic", "width_per_group": 128}, "width_per_group=128"),
        ({"shortcut": "A", "filters": (64, 128, 32, 512)}, "filters="),
        ({"std": (1.0, 0.0, 1.0)}, "mean=.*std="),
        ({"std": (1.0, float("nan"), 1.0)}, "nan"),
        ({"mean": ("a", "b", "c")}, "'a'"),
        ({"mean": (1.0, 2.0)}, "mean="),
        ({"downsample": "max"}, "'max'"),
        ({"preact_layout": "timm"}, "'timm'"),
        ({"norm": "layer"}, "'layer'"),
        ({"stem_filters": 0}, "0"),
        ({"stem_filters": 5, "stem": "C"}, "5"),
        ({"width": 0}, "width=0"),
        ({"width": -1.0}, "width=-1"),
        ({"width": float("inf")}, "inf"),
        ({"se_ratio": 1.0}, "se_ratio=1"),
        ({"se_ratio": "yes"}, "'yes'"),
        ({"stochastic_depth": 1}, "stochastic_depth=1"),
        ({"stochastic_depth": -0.1}, "stochastic_depth=-0.1"),
        ({"blur_pool": "reflect"}, "'reflect'"),
        ({"zero_init_residual": None}, "None"),
        ({"output_stride": 64}, "output_stride=64"),
        ({"output_stride": 12}, "output_stride=12"),
        ({"output_stride": 2}, "output_stride=2"),
        ({"output_stride": 8, "stem": "cifar", "blocks": (1, 1), "filters": (8, 8)}, "stride=8"),
        ({"norm": "group", "norm_groups": 48}, r"norm_groups=48, channels=\[64, 128"),
        # What the network would ignore, or die of.
        ({"norm_groups": 16}, "norm_groups=16"),
        ({"preact_layout": "unit_norm"}, "preact_layout='unit_norm'"),
        ({"preact_stride": "1x1"}, "preact_stride='1x1'"),
        ({"block": "basic", "version": "v2", "preact_stride": "1x1"}, "preact_stride='1x1'"),
        ({"shortcut": "A", "downsample": "average"}, "downsample='average'"),
        (
            {"downsample": "average", "blocks": (2,), "filters": (8,)},
            "downsample='average'",
        ),
        (
            {"blur_pool": True, "stem": "cifar", "blocks": (2,), "filters": (8,)},
            "blur_pool=True",
        ),
        ({"shortcut": None, "downsample": "average"}, "downsample='average'"),
        ({"shortcut": None, "stochastic_depth": 0.1}, "stochastic_depth=0.1"),
        ({"shortcut": None, "zero_init_residual": True}, "zero_init_residual=True"),
        (
            {
                "version": "v2",
                "preact_layout": "unit_norm_stride_last",
                "blocks": (3, 1, 6, 3),
            },
            r"blocks=\(3, 1, 6, 3\)",
        ),
        ({"shortcut": "A", "block": "basic", "stem_filters": 128}, "stem_filters=128"),
    ],
)
def test_impossible_config_is_refused_in_keras_wording(
    changes: dict[str, object], received: str
) -> None:
    with pytest.raises(ValueError, match=f"Expected .*Received: .*{received}"):
        ResNetConfig(**{**VALID, **changes})


def test_config_is_frozen_hashable_and_equal_by_value() -> None:
    config = ResNetConfig(**VALID)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.groups = 2  # type: ignore[misc]
    # Lists, as JSON gives them, make the same config.
    assert ResNetConfig(**{**VALID, "blocks": [3, 4, 6, 3]}) == config
    assert hash(ResNetConfig(**VALID)) == hash(config)


def test_replace_checks_like_the_constructor() -> None:
    config = ResNetConfig(**VALID)
    assert config.replace(version="v1").version == "v1"
    assert config.version == "v1.5"
    with pytest.raises(ValueError, match="`shortcut` to be one of .*Received: 'Z'"):
        config.replace(shortcut="Z")
    with pytest.raises(ValueError, match=r"Received: depht, vershon\. "):
        config.replace(depht=1, vershon="v1")


def test_numpy_numbers_are_integers_too() -> None:
    config = ResNetConfig("basic", tuple(np.array([1, 2])), tuple(np.array([8, 16])))
    assert config == ResNetConfig("basic", (1, 2), (8, 16))
    assert type(config.blocks[0]) is int


def test_depth_and_strides_follow_from_the_blocks() -> None:
    config = ResNetConfig(**VALID)
    assert (config.depth, plan(config).strides) == (50, 32)
    cifar = ResNetConfig("basic", (3, 3, 3), (16, 32, 64), stem="cifar")
    assert (cifar.depth, plan(cifar).strides) == (20, 4)
