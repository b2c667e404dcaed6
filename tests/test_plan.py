"""The golden table of parameters, MACs and shortcuts, row by row."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from keras_resnet.analysis.complexity import complexity, shortcut_counts, summarize
from keras_resnet.config import ResNetConfig
from keras_resnet.plan import plan
from keras_resnet.variants import VARIANTS, get_config

GOLDEN = Path(__file__).parent / "golden" / "architectures_counts.csv"

#: Architectures of the golden table that `VARIANTS` does not have.
NOT_BUILT = {
    *(f"preact_resnet{depth}" for depth in (18, 34, 50, 101, 152, 200)),
    *(f"cifar_preact_resnet{depth}" for depth in (110, 164, 1001)),
    "cifar_resnet1202",
}


def golden_rows() -> list[dict[str, str]]:
    with GOLDEN.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["architecture"] not in NOT_BUILT]


def config_of(row: dict[str, str]) -> ResNetConfig:
    name = row["architecture"].removeprefix("cifar_").replace("wide_resnet", "wideresnet")
    variant = row["shortcut_or_variant"]
    if variant == "plain":
        return get_config(name.replace("plain", "plainnet").replace("resnet", "plainnet"))
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


def test_the_golden_table_covers_every_network() -> None:
    covered = {config_of(row) for row in golden_rows()}
    assert {name for name, config in VARIANTS.items() if config not in covered} == set()


def test_stage_shapes_are_those_of_table_1() -> None:
    shapes = {row.name: row.output_shape for row in summarize(VARIANTS["resnet50"])}
    assert shapes == {
        "conv1": (112, 112, 64),
        "pool1": (56, 56, 64),
        "conv2_x": (56, 56, 256),
        "conv3_x": (28, 28, 512),
        "conv4_x": (14, 14, 1024),
        "conv5_x": (7, 7, 2048),
        "head": (1000,),
    }


def test_version_moves_the_stride_of_a_bottleneck() -> None:
    strides = {
        version: [
            conv.strides
            for conv in plan(get_config("resnet50", version=version)).stages[1].blocks[0].convs
        ]
        for version in ("v1", "v1.5")
    }
    assert strides == {"v1": [2, 1, 1], "v1.5": [1, 2, 1]}
