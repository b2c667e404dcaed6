"""Latency and memory, measured in processes that hold one artifact each."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.export import BenchmarkReport, ExportOptions, Measurement, benchmark, export
from keras_resnet.export.report import timing

from ...conftest import Run


@pytest.fixture(scope="module")
def artifacts(tiny_model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    fixed = ExportOptions(batch_size=1)
    export(tiny_model, folder, ("tflite-float32", "onnx"), timing=None)
    export(tiny_model, folder / "fixed", ("tflite-float32",), options=fixed, timing=None)
    (folder / "broken.onnx").write_bytes(b"\xff\x00 no model")
    return {
        "onnx": folder / "model.onnx",
        "tflite": folder / "model-float32.tflite",
        "fixed": folder / "fixed" / "model-float32.tflite",
        "broken": folder / "broken.onnx",
    }


@pytest.mark.full
def test_every_artifact_at_every_batch_size(artifacts: dict[str, Path]) -> None:
    chosen = [artifacts[name] for name in ("onnx", "tflite", "fixed", "broken")]
    report = benchmark(chosen, batch_sizes=(1, 64), threads=(1,), seconds=0.1)
    rows = {(row.artifact, row.batch_size): row for row in report.measurements}
    assert list(rows) == [(str(path), batch) for path in chosen for batch in (1, 64)]
    for name in ("onnx", "tflite"):
        one, many = (rows[str(artifacts[name]), batch] for batch in (1, 64))
        for row in (one, many):
            assert 0 < row.p50_ms <= row.p90_ms
            assert row.calls >= 1
            assert (row.p99_ms is None) == (row.calls < 100)
            assert row.peak_memory > 10e6
            assert row.error is None
    assert "it only takes batches of 1" in str(rows[str(artifacts["fixed"]), 64].error)
    assert rows[str(artifacts["fixed"]), 1].error is None
    assert "InvalidProtobuf" in str(rows[str(artifacts["broken"]), 1].error)
    assert report.ratio(rows[str(artifacts["onnx"]), 64]) == 1.0
    data = report.to_dict()["measurements"]
    assert data[-1]["p50_ms"] is None
    assert data[-1]["ratio"] is None
    assert report.to_table().row_count == 8


def test_a_file_that_cannot_be_read_leaves_the_others_timed(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    page = tmp_path / "page.onnx"
    page.write_text("<!DOCTYPE html><html></html>")
    first, other = benchmark([page, artifacts["onnx"]], seconds=0.02, size=32).measurements
    assert (first.artifact, other.artifact) == (str(page), str(artifacts["onnx"]))
    assert other.error is None
    assert other.calls >= 1
    report = BenchmarkReport((first, other))
    (failure,) = report.failures
    assert failure.startswith(f"Expected an artifact that can be read. Received: {page}: ")
    # There is nothing that the other's median could be compared with.
    assert [list(column.cells)[1] for column in report.to_table().columns][-1] == "–"
    with pytest.raises(ValueError, match="Expected an artifact that can be read"):
        benchmark([page, page])


def test_runtimes_are_held_without_tensorflow(
    artifacts: dict[str, Path], run_new_python: Run
) -> None:
    """Or the memory would be that of TensorFlow."""
    code = """
import runpy, sys
worker, *artifacts = sys.argv[1:]
names = runpy.run_path(worker)
for artifact in map(names["Path"], artifacts):
    shape, dtype, prepare = names["_load"](artifact, 1)
    prepare(names["_pixels"](shape, 2, dtype, 32))()
print({"onnxruntime", "ai_edge_litert"} <= set(sys.modules), "tensorflow" in sys.modules)
"""
    worker = Path(timing.__file__).with_name("timing_worker.py")
    files = (str(artifacts[name]) for name in ("onnx", "tflite"))
    done = run_new_python(code, str(worker), *files)
    assert done.stdout == "True False\n", done.stderr


def test_what_is_given_twice_is_timed_twice(artifacts: dict[str, Path]) -> None:
    file = str(artifacts["onnx"])
    rows = benchmark([file, file], batch_sizes=(1, 1), seconds=0.02, size=32).measurements
    assert [row.artifact for row in rows] == [file, f"{file} (2)"]


@pytest.mark.full
def test_other_peoples_files_are_timed(tmp_path: Path) -> None:
    module = tf.Module()
    spec = tf.TensorSpec((None, None, None, 3), tf.uint8, name="pixels")
    module.serve = tf.function(
        lambda pixels: {"mean": tf.reduce_mean(tf.cast(pixels, tf.float32), (1, 2))},
        input_signature=[spec],
    )
    signatures = {"serving_default": module.serve.get_concrete_function()}
    tf.saved_model.save(module, str(tmp_path / "theirs"), signatures=signatures)
    image = keras.Input((None, None, 3))
    keras.Model(image, keras.layers.Conv2D(2, 3)(image)).save(tmp_path / "model.keras")
    paths = [tmp_path / "theirs", tmp_path / "model.keras"]
    report = benchmark(paths, seconds=0.05, size=16)
    assert [row.error for row in report.measurements] == [None, None]


def test_ratios_are_to_the_first_at_the_same_setting() -> None:
    rows = (
        Measurement("a", 1, 0, 9, 2.0, 3.0),
        Measurement("a", 8, 0, 9, 8.0, 9.0),
        Measurement("b", 1, 0, 9, 1.0, 3.0),
        Measurement("b", 8, 0, 9, 2.0, 3.0),
    )
    report = BenchmarkReport(rows)
    assert [report.ratio(row) for row in rows] == [1, 1, 0.5, 0.25]
    assert rows[1].images_per_second == 1000


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"batch_sizes": (0,)}, r"`batch_sizes` to be integers of at least 1. Received: \(0,\)"),
        ({"batch_sizes": ()}, r"Received: \(\)"),
        ({"threads": (-1,)}, "`threads` to be integers of at least 0"),
        ({"seconds": 0}, "`seconds` above 0. Received: 1 artifacts, seconds=0"),
    ],
)
def test_impossible_requests_are_refused(
    keywords: dict[str, object], message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.onnx").touch()
    with pytest.raises(ValueError, match=message):
        benchmark([tmp_path / "a.onnx"], **keywords)  # type: ignore[arg-type]


def test_missing_artifact_is_named_before_any_process_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected an existing .*Received: .*missing.onnx"):
        benchmark([tmp_path / "missing.onnx"])
    with pytest.raises(ValueError, match="Received: 0 artifacts"):
        benchmark([])


def test_a_measurement_that_failed_has_no_figures() -> None:
    failed = Measurement("a", 1, 0, error="no reason")
    assert np.isnan(failed.p50_ms)
    assert np.isnan(BenchmarkReport((failed,)).ratio(failed))
