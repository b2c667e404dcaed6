"""Real artifacts of every target in their real runtimes, made from a tiny network."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_resnet.export import (
    TARGETS,
    ExportOptions,
    ExportReport,
    export,
    load_runner,
)
from keras_resnet.export.report.page import figure, html_table
from keras_resnet.export.servers.kserve import SERVICE
from keras_resnet.export.tflite import flatbuffer
from keras_resnet.support.fingerprints import fingerprint_of_artifact

from .conftest import REPORTS

#: What is written for every target: a new row of `TARGETS` has a line here.
FILES = {
    "saved_model": "saved_model",
    "tflite-float32": "model-float32.tflite",
    "tflite-float16": "model-float16.tflite",
    "tflite-dynamic": "model-dynamic.tflite",
    "tflite-int8": "model-int8.tflite",
    "tflite-int8-io": "model-int8-io.tflite",
    "tflite-uint8-io": "model-uint8-io.tflite",
    "tflite-int16x8": "model-int16x8.tflite",
    "onnx": "model.onnx",
    "onnx-float16": "model-float16.onnx",
    "onnx-int8": "model-int8.onnx",
    "triton-onnx": "triton-onnx",
    "triton-saved_model": "triton-saved_model",
    "kserve-onnx": "kserve-onnx",
    "kserve-saved_model": "kserve-saved_model",
}


def test_the_table_has_these_targets() -> None:
    assert {name: target.file_name for name, target in TARGETS.items()} == FILES


@pytest.fixture(scope="module")
def exported(
    tiny_model: keras.Model, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ExportReport]:
    """All targets of the tiny network."""
    directory = tmp_path_factory.mktemp("exported")
    labels = tiny_model.predict(images, verbose=0).argmax(-1)
    report = export(
        tiny_model,
        directory,
        tuple(TARGETS),
        calibration=images[:32],
        images=images,
        labels=labels,
        options=ExportOptions(storage_uri="s3://bucket/tiny"),
        timing=None,
    )
    return directory, report


def test_every_target_is_written_and_nothing_else(exported: tuple[Path, ExportReport]) -> None:
    directory, report = exported
    names = {name for t in TARGETS.values() for name in (t.file_name, *t.companions)}
    assert {path.name for path in directory.iterdir()} == names | REPORTS
    assert [artifact.target for artifact in report.artifacts] == ["keras", *TARGETS]
    for artifact in report.artifacts[1:]:
        path = directory / artifact.file_name
        assert artifact.size == sum(
            file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file()
        )
        assert artifact.measurements == ()
        assert artifact.sha256 == fingerprint_of_artifact(path)
        assert artifact.comparison.images == 40
        assert artifact.comparison.keras_accuracy == 1.0
    assert report.failures == []
    graphs = {row.target: row.operators for row in report.artifacts}
    # Stem, three blocks of two convolutions.
    assert graphs["saved_model"]["Conv2D"] == graphs["onnx"]["Conv"] == 7
    assert graphs["tflite-float32"]["CONV_2D"] == 7
    services = list(directory.rglob(SERVICE))
    assert len(services) == 2
    assert all('storageUri: "s3://bucket/tiny"' in path.read_text() for path in services)


@pytest.mark.parametrize("name", TARGETS)
def test_artifact_run_anew_says_what_the_report_says(
    name: str, exported: tuple[Path, ExportReport], tiny_model: keras.Model, images: np.ndarray
) -> None:
    directory, report = exported
    artifact = next(artifact for artifact in report.artifacts if artifact.target == name)
    expected = tiny_model.predict(images, verbose=0)
    probabilities = load_runner(directory / artifact.file_name).predict(images)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=0.02)
    error = np.abs(probabilities - expected).max()
    assert error == pytest.approx(artifact.comparison.max_error, abs=1e-6)
    # The limit of the float targets, and what this network loses when it is quantized.
    assert error <= (TARGETS[name].limits.max_error or 0.2)
    # One image, and a number of images that is no multiple of the batch.
    np.testing.assert_allclose(
        load_runner(directory / artifact.file_name).predict(images[:1], 32)[0].sum(), 1, atol=0.02
    )


def test_quantized_files_are_smaller(exported: tuple[Path, ExportReport]) -> None:
    sizes = {artifact.target: artifact.size for artifact in exported[1].artifacts}
    assert sizes["tflite-float16"] < 0.7 * sizes["tflite-float32"]
    assert sizes["tflite-int8"] < 0.5 * sizes["tflite-float32"]
    assert sizes["tflite-dynamic"] < 0.5 * sizes["tflite-float32"]


def test_names_and_batch_dimension_are_the_same_everywhere(
    exported: tuple[Path, ExportReport],
) -> None:
    directory, _ = exported
    signature = tf.saved_model.load(str(directory / "saved_model" / "1")).signatures[
        "serving_default"
    ]
    assert list(signature.structured_input_signature[1]) == ["image"]
    assert sorted(signature.structured_outputs) == ["classes", "probabilities"]
    assert signature.structured_outputs["probabilities"].shape.as_list() == [None, 10]
    for path in directory.glob("*.tflite"):
        interpreter = Interpreter(str(path))
        assert interpreter.get_signature_list() == {
            "serving_default": {"inputs": ["image"], "outputs": ["probabilities"]}
        }
        (image,), (probabilities,) = (
            interpreter.get_input_details(),
            interpreter.get_output_details(),
        )
        assert (image["name"], probabilities["name"]) == ("image", "probabilities")
        ends = {"model-int8-io": np.int8, "model-uint8-io": np.uint8}.get(path.stem, np.float32)
        assert (image["dtype"], probabilities["dtype"]) == (ends, ends)
        assert image["shape_signature"].tolist() == [-1, 32, 32, 3]
    graph = onnx.load(directory / "model.onnx").graph
    (image,), (probabilities,) = graph.input, graph.output
    assert (image.name, probabilities.name) == ("image", "probabilities")
    dims = [value.type.tensor_type.shape.dim for value in (image, probabilities)]
    assert [dim[0].dim_param for dim in dims] == ["batch", "batch"]
    assert not [value for value in graph.value_info if "unk__" in str(value)]


def test_int8_computes_in_integers_from_end_to_end(exported: tuple[Path, ExportReport]) -> None:
    model = flatbuffer.read(exported[0] / "model-int8.tflite")
    floats = [t.name for t in model.subgraphs[0].tensors if t.type == 0]
    # Only the two ends, which the signature promises to be float.
    assert sorted(floats) == [b"image", b"probabilities"]


def test_onnx_has_one_transpose(exported: tuple[Path, ExportReport]) -> None:
    nodes = [node.op_type for node in onnx.load(exported[0] / "model.onnx").graph.node]
    assert nodes.count("Transpose") == 1
    assert "GlobalAveragePool" in nodes
    assert "BatchNormalization" not in nodes


def test_report_is_plain_data_and_tables(exported: tuple[Path, ExportReport]) -> None:
    _, report = exported
    data = json.loads(json.dumps(report.to_dict()))
    assert data["artifacts"][0]["target"] == "keras"
    assert report.to_table().row_count == 1 + len(TARGETS)
    plots = figure(report).axes
    assert len(plots) == len({axes.get_position().y0 for axes in plots})
    assert plots[-1].get_xlim() == (0, 100)
    html = html_table(report)
    assert html.count('<tr class="passed">') == 1 + len(TARGETS)
    assert '<a href="model-int8.tflite">tflite-int8</a>' in html
    assert '<th title="median time of a call with one image">latency</th>' in html
    assert "<dt>latency</dt><dd>median time of a call with one image</dd>" in html
