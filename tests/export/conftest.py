"""Artifacts that several files of tests share."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet.export import (
    TARGETS,
    Target,
    export,
)
from keras_resnet.export.model import ExportedModel

REPORTS = {"export.json", "export.html", "model_card.md"}

COPIED = ("saved_model", "tflite-float32", "tflite-dynamic", "onnx")


@pytest.fixture(scope="module")
def originals(
    tiny_model: keras.Model, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny network, exported to a few targets."""
    directory = tmp_path_factory.mktemp("originals")
    export(tiny_model, directory, COPIED, images=images, timing=None)
    return directory


@pytest.fixture
def copied(originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some targets of the tiny network are not converted again, but copied."""

    def copying(target: Target) -> Target:
        def write(source: ExportedModel, path: Path) -> None:
            for name in (target.file_name, *target.companions):
                original = originals / name
                copy = shutil.copytree if original.is_dir() else shutil.copyfile
                copy(original, path if name == target.file_name else path.with_name(name))

        return dataclasses.replace(target, write=write)

    for name in COPIED:
        monkeypatch.setitem(TARGETS, name, copying(TARGETS[name]))
