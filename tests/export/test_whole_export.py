"""An export that is replaced is replaced as a whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet import ResNetConfig, build
from keras_resnet.export import (
    TARGETS,
    ExportError,
    ExportOptions,
    Limits,
    Target,
    export,
    exporter,
)
from keras_resnet.export.model import ExportedModel

from ..conftest import randomize
from ..killing import EveryKill, contents
from .conftest import REPORTS

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)


def network(filters: int) -> keras.Model:
    config = ResNetConfig("basic", (1,), (filters,), stem="cifar")
    model = build(config, input_shape=(16, 16, 3), classes=3)
    randomize(model)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two artifacts of a network, beside something else."""
    folder = tmp_path_factory.mktemp("exported")
    export(network(8), folder, ("tflite-float32", "tflite-dynamic"), images=IMAGES, timing=None)
    (folder / "mine").write_text("mine")
    return folder


@pytest.fixture
def first(exported: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(exported, tmp_path / "exported"))


@pytest.mark.full
def test_killed_anywhere_an_export_is_the_old_or_the_new_one(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_kill = EveryKill(tmp_path)
    monkeypatch.setattr(exporter, "publish", every_kill)
    export(network(16), first, ("tflite-float32",), images=IMAGES, overwrite=True, timing=None)
    assert every_kill.published == [
        *("model-float32.tflite", "model-float32.json"),
        *("export.html", "model_card.md", "export.json"),
    ]
    # The other artifact of the first network has gone with its reports.
    found = {path.name for path in first.iterdir()}
    assert found == {"model-float32.tflite", "model-float32.json", "mine", *REPORTS}


def test_another_network_is_not_exported_beside_unasked(first: Path) -> None:
    before = contents(first)
    with pytest.raises(FileExistsError, match="of another export. .*which holds model-float32.tf"):
        export(network(16), first, ("tflite-float16",), images=IMAGES, timing=None)
    assert contents(first) == before


def test_where_no_new_artifact_agrees_the_old_export_stays(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(source: ExportedModel, path: Path) -> None:
        path.write_bytes((first / "model-dynamic.tflite").read_bytes())

    wrong = Target("wrong", "model-wrong.tflite", write, Limits(1e-9))
    monkeypatch.setitem(TARGETS, "wrong", wrong)
    before = contents(first)
    with pytest.raises(ExportError, match="wrong disagrees"):
        export(network(16), first, ("wrong",), images=IMAGES, overwrite=True, timing=None)
    assert contents(first) == before


def test_versions_for_servers_stay_beside_each_other(tmp_path: Path) -> None:
    for number, filters in ((1, 8), (2, 16)):
        options = ExportOptions(version=number)
        export(
            network(filters), tmp_path, ("saved_model",), images=IMAGES, options=options,
            overwrite=number == 2, timing=None,
        )  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "saved_model").iterdir()) == ["1", "2"]
    (_, row) = json.loads((tmp_path / "export.json").read_text())["artifacts"]
    assert row["file_name"] == "saved_model/2"
