"""`keras-resnet finetune`."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_resnet
from keras_resnet.models.info import get_info

from ..conftest import Command


@pytest.fixture(scope="module")
def files(tiny_model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network of ten classes, and pictures of two others."""
    root = tmp_path_factory.mktemp("files")
    tiny_model.save(root / "model.keras")
    random = np.random.default_rng(0)
    for name, colour in (("daisy", (220, 220, 220)), ("rose", (200, 30, 60))):
        (root / "flowers" / name).mkdir(parents=True)
        for number in range(20):
            coarse = np.array(colour) + random.integers(-30, 30, (4, 4, 3))
            pixels = coarse.repeat(8, axis=0).repeat(8, axis=1)
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(root / "flowers" / name / f"{number:02}.png")
    return root


def arguments(files: Path, output: Path, *more: str) -> list[str]:
    # Determinism would last as long as this process.
    return [
        "finetune", "--model", str(files / "model.keras"), "--data", f"folder:{files / 'flowers'}",
        "--output", str(output), "--no-deterministic", "--batch-size", "8",
        "--validation-fraction", "0.2", *more,
    ]  # fmt: skip


@pytest.mark.usefixtures("untimed")
def test_a_network_is_fine_tuned_and_exported(
    files: Path, command_in_process: Command, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    command = arguments(
        files, output, "--phases", "head:2, C4:1:0.1", "--export", "onnx",
        "--set", "loss.class_weights=balanced", "--set", "patience=1",
    )  # fmt: skip
    done = command_in_process(*command)
    assert done.returncode == 0, done.stderr
    for said in (
        "flowers (training part): 32 images to train on, 8 to validate, 2 classes.",
        "Linear probe: 100.00%, 16 nearest neighbors: 100.00%, most common class: 50.00%",
        "from 32 training images, on 8 validation images",
        "Phase 1 of 2. Trains head: 1 of ",
        "Phase 2 of 2. Trains C4, head: 3 of ",
        " points compared with the better baseline.",
        f"Best network: {output / 'best.keras'}. Last: {output / 'last.keras'}.",
    ):
        assert said in done.stdout, said
    best = keras_resnet.load_model(output / "best.keras")
    assert get_info(best).class_names == ("daisy", "rose")
    assert len(list((output / "exported").glob("*.onnx"))) == 1
    report = json.loads((output / "exported" / "export.json").read_text())
    # On others, it would be verified on images that it was trained on.
    assert report["verification"]["count"] == 8
    again = command_in_process(*command)
    assert again.returncode == 0, again.stderr
    assert "Epoch 1/2" in done.stdout
    assert "Epoch" not in again.stdout.partition("Exporting")[0]
    # The network that came out of it is not the one that it began with.
    wrong = command_in_process(*command, "--model", str(output / "last.keras"))
    assert wrong.returncode == 2
    assert "Use the same network, data and settings, or choose another" in wrong.stderr


def test_bad_arguments_are_refused_before_anything_is_done(
    files: Path, command_in_process: Command, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    for more, said in (
        (("--phases", "head"), "`--phases` such as head:3"),
        (("--phases", "head:x"), "Received: 'head:x'"),
        (("--phases", "head:1:1:1"), "Received: 'head:1:1:1'"),
        (("--phases", "head:0"), "epochs above 0"),
        (("--phases", ""), "Received: ''"),
        (("--phases", "head:1,C9:1"), "levels of this model: head, C4, C3, C2, stem, backbone"),
        (("--bn", "melted"), "('frozen', 'training')"),
        (("--export", "onnx,onnx-int"), "Did you mean onnx-int8?"),
        (("--export", ","), "or all. Received: ','"),
        (("--weights", "x"), "a model file without `--weights`"),
        (("--size", "64"), "Received: --size 64"),
        (("--set", "network.stochastic_depth=0.1"), "Received: --net stochastic_depth=0.1"),
        (("--set", "loss.l2_sp=0.01"), "Received: both, 0.01 and 0.0001. Set one of them to 0."),
        (("--model", "resnet20"), "`--weights` with the name of a network"),
    ):
        done = command_in_process(*arguments(files, output, *more))
        assert done.returncode == 2, more
        assert said in done.stderr, (more, done.stderr)
    assert not output.exists()


@pytest.mark.full
def test_a_network_by_name_has_the_size_that_is_asked_for(
    files: Path, command_in_process: Command, tmp_path: Path
) -> None:
    weights = tmp_path / "resnet20.weights.h5"
    keras_resnet.create_model("resnet20").save_weights(weights)
    done = command_in_process(
        *arguments(
            files, tmp_path / "run", "--model", "resnet20", "--weights", str(weights),
            "--size", "16", "--phases", "head:0.5", "--no-compare",
        )
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Linear probe" not in done.stdout
    assert keras_resnet.load_model(tmp_path / "run" / "last.keras").input_shape[1:3] == (16, 16)
