"""What int8 costs a trained network, on all of its validation images."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from keras_resnet import load_model
from keras_resnet.data import load_digits
from keras_resnet.export import export


def test_int8_loses_at_most_half_a_point(
    demo: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path
) -> None:
    train, validation = load_digits()
    report = export(
        load_model(demo[1] / "model.keras"),
        tmp_path,
        ("tflite-int8", "onnx-int8"),
        calibration=train.images,
        images=validation.images,
        labels=validation.labels,
        timing=None,
    )
    floating, *integers = (row.comparison.accuracy for row in report.artifacts)
    assert floating is not None
    assert floating > 0.97
    # Half a point of the 256 images that are taken is one image.
    assert integers == [pytest.approx(floating, abs=0.005)] * 2
