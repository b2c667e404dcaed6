"""What int8 costs a trained network, on all of its validation images."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from keras_resnet import load_model
from keras_resnet.data import load_digits
from keras_resnet.export import export


def loss_of_int8(model: Path, output: Path) -> list[float]:
    """By how much the int8 artifacts of a network of the digits are less accurate than it is."""
    train, validation = load_digits()
    report = export(
        load_model(model),
        output,
        ("tflite-int8", "onnx-int8"),
        calibration=train.images,
        images=validation.images,
        labels=validation.labels,
        timing=None,
    )
    floating, *integers = (row.comparison.accuracy or 0 for row in report.artifacts)
    assert floating > 0.97
    assert len(integers) == 2
    return [floating - accuracy for accuracy in integers]


@pytest.mark.full
def test_int8_of_a_small_network_loses_little(digits_file: Path, tmp_path: Path) -> None:
    # Three of the 256 images that are taken: with 8 to 24 channels, rounding weighs more.
    assert max(loss_of_int8(digits_file, tmp_path)) <= 0.012


@pytest.mark.full
def test_int8_loses_at_most_half_a_point(
    demo: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path
) -> None:
    # One of the images.
    assert max(loss_of_int8(demo[1] / "model.keras", tmp_path)) <= 0.005
