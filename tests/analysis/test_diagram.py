from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

from keras_resnet.analysis.diagram import draw
from keras_resnet.networks.table import get_config


def words(path: Path) -> list[str]:
    """The comments that matplotlib leaves in an SVG file: one for every line of text."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    tree = ElementTree.parse(path, parser)
    comments = [node.text for node in tree.iter() if node.tag is ElementTree.Comment]
    return [str(text).strip() for text in comments]


def drawn(tmp_path: Path, name: str, **fields: object) -> list[str]:
    path = tmp_path / f"{name}.svg"
    draw(get_config(name, **fields), path, name)
    return words(path)


def test_every_convolution_stage_and_shortcut_of_resnet34_is_drawn(tmp_path: Path) -> None:
    texts = drawn(tmp_path, "resnet34")
    assert texts[0].startswith("7x7 conv, 64, /2")
    counts = {text: texts.count(text) for text in texts}
    # Figure 3 of the paper, from top to bottom.
    assert [counts[f"3x3 conv, {width}"] for width in (64, 128, 256, 512)] == [6, 7, 11, 5]
    assert [counts[f"3x3 conv, {width}, /2"] for width in (128, 256, 512)] == [1, 1, 1]
    assert [counts[f"1x1 conv, {width}, /2"] for width in (128, 256, 512)] == [1, 1, 1]
    assert texts[texts.index("conv5_x") + 1] == "7×7×512"
    assert any("34 weighted layers, 21.8 M parameters" in text for text in texts)


def test_deep_networks_are_drawn_with_equal_blocks_as_one(tmp_path: Path) -> None:
    texts = drawn(tmp_path, "resnet152", version="v2", downsample="average", se_ratio=1 / 16)
    assert texts.count("× 35") == 1
    assert texts[texts.index("2x2 average pool, /2,") + 1] == "1x1 conv, 512"
    assert texts.count("squeeze-and-excitation, 64") == 2
    assert "zero-padded, every 2nd pixel" in drawn(tmp_path, "resnet20")
    assert "3x3 conv, 512, dilated 2" in drawn(tmp_path, "resnet18", output_stride=16)


def test_pictures_replace_earlier_ones_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "network.png"
    draw(get_config("resnet20"), path, "resnet20")
    first = Image.open(path).size
    draw(get_config("resnet32"), path, "resnet32", (64, 64, 3), classes=100)
    assert Image.open(path).size[1] > first[1]
    with pytest.raises(ValueError, match=r"ends in .png or .svg. Received: .*network.gif"):
        draw(get_config("resnet20"), tmp_path / "network.gif", "resnet20")
    assert [item.name for item in tmp_path.iterdir()] == ["network.png"]
