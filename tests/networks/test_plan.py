"""The golden table of parameters, MACs and shortcuts, row by row."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from keras_resnet.analysis.complexity import complexity, shortcut_counts, summarize
from keras_resnet.networks.config import ResNetConfig
from keras_resnet.networks.plan import plan
from keras_resnet.networks.table import get_config

GOLDEN = Path(__file__).parents[1] / "golden"


def golden_rows(name: str = "architectures_counts") -> list[dict[str, str]]:
    with (GOLDEN / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def config_of(row: dict[str, str]) -> ResNetConfig:
    name = row["architecture"].removeprefix("cifar_").replace("wide_resnet", "wideresnet")
    variant = row["shortcut_or_variant"]
    if variant == "plain":
        return get_config(name.replace("plain", "resnet"), shortcut=None)
    if name.startswith("preact_"):
        name = f"{name.removeprefix('preact_')}v2"
    if variant == "pre-activation":
        return get_config(name)
    version = {"version": "v1"} if " v1 " in variant else {}
    return get_config(name, shortcut=variant[0], **version)


@pytest.mark.parametrize(
    "row", golden_rows(), ids=lambda row: f"{row['architecture']}-{row['shortcut_or_variant']}"
)
def test_counts_equal_the_golden_table(row: dict[str, str]) -> None:
    config = config_of(row)
    cost, shortcuts = complexity(config), shortcut_counts(plan(config))
    assert {
        "trainable": cost.params,
        "bn_statistics": cost.bn_statistics,
        "total": cost.params + cost.bn_statistics,
        "macs": cost.macs,
        "weighted_layers": cost.depth,
        "projection_shortcuts": shortcuts["projection"],
        "identity_shortcuts": shortcuts["identity"],
        "zero_padded_shortcuts": shortcuts["zero_padded"],
    } == {
        key: int(value)
        for key, value in row.items()
        if key not in ("architecture", "shortcut_or_variant")
    }
    assert config.depth == cost.depth


@pytest.mark.parametrize(
    "row", golden_rows(), ids=lambda row: f"{row['architecture']}-{row['shortcut_or_variant']}"
)
def test_stage_shapes_equal_the_golden_ones(row: dict[str, str]) -> None:
    golden = json.loads((GOLDEN / "stage_shapes.json").read_text())
    expected = dict(golden[f"{row['architecture']} {row['shortcut_or_variant']}"])
    # The papers number the stages of CIFAR networks from 1.
    for number in (1, 2, 3):
        if f"stage{number}" in expected:
            expected[f"conv{number + 1}_x"] = expected.pop(f"stage{number}")
    shapes = {part.name: list(part.output_shape) for part in summarize(config_of(row))}
    shapes["fc"] = shapes.pop("head")
    shapes["global_avg_pool"] = [expected["global_avg_pool"][0]]
    assert shapes == expected
    assert shapes["global_avg_pool"] == shapes[max(name for name in shapes if "_x" in name)][2:]


#: Networks of other packages and papers, by source and name in `more_counts.csv`.
MORE = {
    "timm resnet18d": ("resnet18d", {}),
    "timm resnet34d": ("resnet34d", {}),
    "timm resnet50d": ("resnet50d", {}),
    "timm resnet101d": ("resnet101d", {}),
    "timm resnet152d": ("resnet152d", {}),
    "timm resnet200d": ("resnet200d", {}),
    "timm resnet50c": ("resnet50c", {}),
    "timm resnet50s": ("resnet50c", {"stem_filters": 128}),
    "timm resnetv2_18d": ("resnet18d", {"version": "v2", "preact_layout": "unit_norm"}),
    "timm resnetv2_34d": ("resnet34d", {"version": "v2", "preact_layout": "unit_norm"}),
    "timm resnetv2_50d": ("resnet50d", {"version": "v2", "preact_layout": "unit_norm"}),
    "timm resnetblur50": ("resnetblur50", {}),
    "timm resnet50_gn": ("resnet50_gn", {}),
    **{
        f"stride on 1x1 preact_resnet{depth}": (f"resnet{depth}v2", {"preact_stride": "1x1"})
        for depth in (50, 101, 152, 200)
    },
    **{
        f"keras.applications resnet{depth}v2": (
            f"resnet{depth}v2",
            {"preact_layout": "unit_norm_stride_last"},
        )
        for depth in (50, 101, 152)
    },
    **{
        f"stride on 3x3 cifar_preact_resnet{depth}": (f"resnet{depth}v2", {"preact_stride": "3x3"})
        for depth in (164, 1001)
    },
    **{
        f"post-activation cifar_preact_resnet{depth}": (
            f"resnet{depth}v2",
            {"version": "v1", "preact_stride": "3x3"},
        )
        for depth in (164, 1001)
    },
}


def test_counts_equal_those_of_other_packages() -> None:
    golden = {
        f"{row['source']} {row['network']}": tuple(
            int(row[key]) for key in ("trainable", "bn_statistics", "macs")
        )
        for row in golden_rows("more_counts")
    }
    ours = {}
    for key, (name, fields) in MORE.items():
        cost = complexity(get_config(name, **fields))
        ours[key] = (cost.params, cost.bn_statistics, cost.macs)
    assert ours == golden


def test_published_sizes_of_networks_without_a_golden_row() -> None:
    """timm's model cards: 28.09 M; Zagoruyko and Komodakis 2016, Table 5: 36.5 M."""
    assert complexity(get_config("seresnet50")).params == 28_088_024
    assert complexity(get_config("wideresnet28_10")).params == 36_479_194


def test_version_moves_the_stride_of_a_bottleneck() -> None:
    strides = {
        version: [
            conv.strides
            for conv in plan(get_config("resnet50", version=version)).stages[1].blocks[0].convs
        ]
        for version in ("v1", "v1.5")
    }
    assert strides == {"v1": [2, 1, 1], "v1.5": [1, 2, 1]}


def test_output_stride_turns_strides_into_dilation() -> None:
    layouts = {}
    for block, version in (("basic", "v1"), ("bottleneck", "v1"), ("bottleneck", "v1.5")):
        config = ResNetConfig(block, (1, 1, 1, 2), (8, 8, 16, 16), version, output_stride=8)
        network = plan(config)
        assert network.strides == 8
        layouts[block, version] = [
            [conv.dilation for conv in unit.convs if conv.kernel_size == 3]
            for unit in network.blocks
        ]
    # A convolution sees through the strides that were removed before it, not through its own.
    assert layouts == {
        ("basic", "v1"): [[1, 1], [1, 1], [1, 2], [2, 4], [4, 4]],
        ("bottleneck", "v1"): [[1], [1], [2], [4], [4]],
        ("bottleneck", "v1.5"): [[1], [1], [1], [2], [4]],
    }


def test_stochastic_depth_grows_linearly_and_is_safe_for_one_block() -> None:
    config = ResNetConfig("basic", (2, 2), (8, 16), stochastic_depth=0.4)
    assert [block.drop_rate for block in plan(config).blocks] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    (only,) = plan(ResNetConfig("basic", (1,), (8,), stochastic_depth=0.4)).blocks
    assert only.drop_rate == 0.4


def test_width_scales_everything_in_multiples_of_8() -> None:
    config = get_config("resnet50", width=0.3)
    assert (config.widths, config.stem_widths) == ((16, 40, 80, 152), (16,))
    assert get_config("resnet20", width=0.01).widths == (8, 8, 8)
    assert get_config("resnet50c", width=0.5).stem_widths == (16, 16, 32)
