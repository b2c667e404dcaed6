"""Dilation in place of strides, against timm's numbers (`fixtures/make_timm_dilated.py`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from keras_resnet import ResNetConfig, build, complexity, feature_extractor, from_checkpoint
from keras_resnet.networks.plan import plan
from keras_resnet.networks.table import get_config

from ..conftest import randomize
from ..fixtures.make_timm_dilated import FOLDER, NETWORKS, PATH, features, image

pytestmark = pytest.mark.filterwarnings("ignore:The last stage sees")


def feature_map(network: str) -> np.ndarray:
    """What our network computes in place of timm's; of the same channels."""
    weights, fields = NETWORKS[network]
    model = from_checkpoint(
        FOLDER / f"{weights}.safetensors",
        include_top=False,
        include_preprocessing=False,
        blur_pool="aa_layer" in fields,
        output_stride=fields["output_stride"],
    )
    return np.asarray(model(image()))[..., ::8]


def assert_close(received: Any, expected: Any) -> None:
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", [name for name in NETWORKS if "blur" in name])
def test_blur_pooling_stays_where_a_stride_becomes_dilation(network: str) -> None:
    assert_close(feature_map(network), np.load(PATH)[network])


def test_average_pooling_leaves_out_the_padding_that_timm_averages_in() -> None:
    timm = np.load(PATH)
    strided, dilated, twice = (feature_map(f"bottleneck d {stride}") for stride in (32, 16, 8))
    assert_close(strided, timm["bottleneck d 32"])
    # The last row and column see the padding; at stride 8, a dilated kernel passes it on.
    assert_close(dilated[:, :-1, :-1], timm["bottleneck d 16"][:, :-1, :-1])
    assert_close(twice[:, :-3, :-3], timm["bottleneck d 8"][:, :-3, :-3])
    assert np.abs(dilated - timm["bottleneck d 16"])[:, -1].max() > 1
    # Sides of odd size have their last row and column in both networks.
    assert dilated.shape[1:3] == (3, 3)
    assert_close(dilated[:, ::2, ::2], strided)


@pytest.mark.parametrize("kind", ["basic blur", "bottleneck blur", "bottleneck d"])
def test_averages_of_neighbours_survive_one_removed_stride_and_no_second(kind: str) -> None:
    strided, dilated, twice = (feature_map(f"{kind} {stride}") for stride in (32, 16, 8))
    assert_close(dilated[:, ::2, ::2], strided)
    assert np.abs(twice[:, ::4, ::4] - strided).max() > 0.01


def test_plan_says_which_convolutions_blur() -> None:
    config = ResNetConfig("basic", (1, 2, 1), (8, 16, 24), blur_pool=True, output_stride=4)
    convs = [conv for block in plan(config).blocks for conv in block.convs]
    assert [(conv.name, conv.strides) for conv in convs if conv.blur] == [
        ("conv3_block1_1", 1),
        ("conv4_block1_1", 1),
    ]


def test_the_stride_of_the_stem_is_the_least() -> None:
    """Without any stride in the stages, shared positions keep their values."""
    config = ResNetConfig("bottleneck", (1, 1, 2, 1), (8, 8, 8, 8))
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    strided = build(config, include_top=False, input_shape=(64, 64, 3))
    randomize(strided)
    dilated = build(config.replace(output_stride=4), include_top=False, input_shape=(64, 64, 3))
    dilated.set_weights(strided.get_weights())
    assert {x.shape[1:3] for x in feature_extractor(dilated).output.values()} == {(16, 16)}
    assert_close(np.asarray(dilated(image))[:, ::8, ::8], strided(image))
    with pytest.raises(ValueError, match=r"one of \[4, 8, 16, 32\] .*Received: output_stride=2"):
        config.replace(output_stride=2)


def test_the_cost_of_small_strides_is_as_documented() -> None:
    """`ResNetConfig` states it."""
    macs = {s: complexity(get_config("resnet50", output_stride=s)).macs for s in (None, 16, 8, 4)}
    ratios = [round(macs[s] / macs[None], 1) for s in (16, 8, 4)]
    assert ratios == [1.5, 4.7, 18.0]


@pytest.mark.reference
@pytest.mark.parametrize("network", NETWORKS)
def test_timm_still_computes_the_same(network: str) -> None:
    pytest.importorskip("timm")
    assert_close(features(network), np.load(PATH)[network])
