"""The deepest network of the papers, in every format."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..conftest import Run

EXPORT = """
import sys
import keras, numpy as np
import keras_resnet
from keras_resnet.export import export
keras.utils.set_random_seed(0)
# Else, without training, activations double from block to block until they are infinite.
model = keras_resnet.create_model(sys.argv[1], zero_init_residual=True)
images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
targets = ("saved_model", "tflite-float32", "tflite-int8", "onnx")
report = export(model, sys.argv[2], targets, calibration=images, images=images,
                timing=None, allow_disagreement=True)
for row in report.artifacts[1:]:
    print(row.target, row.comparison.max_error, sum(row.operators.values()))
"""


@pytest.mark.slow
def test_resnet1202_is_exported(tmp_path: Path, run_python: Run) -> None:
    done = run_python(EXPORT, "resnet1202", str(tmp_path / "out"), timeout=3000)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["saved_model", "tflite-float32", "tflite-int8", "onnx"]
    for target, error, operators in rows:
        assert float(error) <= (1e-4 if target != "tflite-int8" else 1.0)
        # A convolution for every one of the 1,201, at least.
        assert int(operators) > 1201
