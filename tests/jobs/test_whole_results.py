"""Results of whole jobs are the old ones or the new ones, and one process at a time makes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet import ResNetConfig, build
from keras_resnet.data import LabeledImages
from keras_resnet.data.shards.prepare import prepare
from keras_resnet.export import export
from keras_resnet.jobs import compress as compression
from keras_resnet.jobs.compress import compress
from keras_resnet.jobs.compression_report import CompressionOptions
from keras_resnet.jobs.quickstart import quickstart
from keras_resnet.support.files import held
from keras_resnet.training import Phase, find_recipe, finetune, override, train
from keras_resnet.training.transfer import finetune as finetuning

from ..conftest import randomize
from ..killing import EveryKill

RECIPE = override(find_recipe("quick-digits"), {"batch_size": 16, "augmentation.crop": "none"})


def pictures() -> tuple[LabeledImages, LabeledImages]:
    """Bright and dark ones."""
    labels = np.arange(32, dtype=np.int32) % 2
    noise = np.random.default_rng(0).integers(0, 120, (32, 16, 16, 3))
    images = (noise + 120 * labels[:, None, None, None]).astype(np.uint8)
    source = LabeledImages(images, labels, ("dark", "bright"), name="pictures")
    return source, source


def network(classes: int) -> keras.Model:
    """The same one at every call."""
    keras.utils.set_random_seed(0)
    config = ResNetConfig("basic", (1, 1), (8, 16), stem="cifar", shortcut="A")
    model = build(config, input_shape=(16, 16, 3), classes=classes)
    randomize(model)
    return model


def fine_tune(folder: Path) -> None:
    phases = (Phase("head", 0.5),)
    finetune(
        *(network(3), pictures(), folder),
        recipe=RECIPE, phases=phases, compare=False, say=lambda text: None,
    )  # fmt: skip


def compress_digits(folder: Path) -> None:
    options = CompressionOptions(("prune",), pattern="2:4", epochs=0.02)
    quiet: dict[str, Any] = {"timing": None, "say": lambda text: None}
    compress(network(10), "digits", folder, options, recipe=RECIPE, **quiet)


@pytest.mark.full
@pytest.mark.parametrize(
    ("work", "module", "names"),
    [
        pytest.param(
            *(fine_tune, finetuning),
            ["best.keras", "last.keras", "history.csv", "history.png", "model_card.md"],
            id="finetune",
        ),
        pytest.param(
            *(compress_digits, compression),
            ["after", "model.keras", "compression.html", "compression.json"],
            id="compress",
        ),
    ],
)
def test_killed_anywhere_results_are_the_old_or_the_new_ones(
    work: Callable[[Path], None],
    module: Any,
    names: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, every_kill = tmp_path / "run", EveryKill(tmp_path)
    work(folder)
    for name in names:
        for file in ((folder / name), *(folder / name).rglob("*")):
            if file.is_file():
                file.write_text("old")
    (folder / "mine").write_text("mine")
    monkeypatch.setattr(module, "publish", every_kill)
    work(folder)
    assert every_kill.published == names
    assert (folder / "mine").read_text() == "mine"
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    "work",
    [
        fine_tune,
        compress_digits,
        lambda folder: train(network(2), pictures(), RECIPE, folder),
        lambda folder: export(network(2), folder, ["tflite-float32"], timing=None),
        lambda folder: quickstart(folder, overwrite=True),
    ],
    ids=["finetune", "compress", "train", "export", "quickstart"],
)
def test_where_another_process_is_at_work_nothing_begins(
    work: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "folder"
    message = f"Received: {folder}, where process {os.getpid()} on .* is at work. Wait for it"
    with held(folder):
        before = list(folder.iterdir())
        with pytest.raises(ValueError, match=message):
            work(folder)
        assert list(folder.iterdir()) == before
    assert not folder.exists()


def test_a_data_set_is_prepared_by_one_process(tmp_path: Path) -> None:
    message = f"Received: {tmp_path}, where process {os.getpid()} on .* is at work"
    with held(tmp_path / ".preparing"), pytest.raises(ValueError, match=message):
        prepare({"train": pictures()[0]}, tmp_path)
