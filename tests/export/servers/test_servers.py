"""Layouts of Triton and KServe, compared with the artifacts that are in them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
import yaml

from keras_resnet.export.model import ExportedModel
from keras_resnet.export.onnx import convert as onnx_target
from keras_resnet.export.outputs import output_names
from keras_resnet.export.servers import saved_model
from keras_resnet.export.servers.kserve import SERVICE, TF_SERVING_VERSION, write_kserve
from keras_resnet.export.servers.triton import Tensor, check_triton, interface_of, write_triton
from keras_resnet.support.files import held


@pytest.fixture(scope="module")
def artifacts(tiny_model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model.onnx` of any batch size, `fixed.onnx` of two images, and `saved_model`."""
    folder, work = tmp_path_factory.mktemp("artifacts"), tmp_path_factory.mktemp("work")
    source = ExportedModel(tiny_model, None, work, output_names(tiny_model))
    onnx_target.write_float32(source, folder / "model.onnx")
    proto = onnx.load(folder / "model.onnx")
    for end in (*proto.graph.input, *proto.graph.output):
        end.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(proto, folder / "fixed.onnx")
    saved_model.write(source, folder / "saved_model")
    return folder


IMAGE = Tensor("image", "FP32", (-1, 32, 32, 3))
PROBABILITIES = Tensor("probabilities", "FP32", (-1, 10))


def test_interfaces_are_read_from_the_artifacts(artifacts: Path) -> None:
    found = interface_of(artifacts / "model.onnx")
    assert (found.inputs, found.outputs) == ((IMAGE,), (PROBABILITIES,))
    assert found.any_batch
    assert interface_of(artifacts / "fixed.onnx").inputs[0].shape == (2, 32, 32, 3)
    assert not interface_of(artifacts / "fixed.onnx").any_batch
    found = interface_of(artifacts / "saved_model")
    classes = Tensor("classes", "STRING", (-1, 5))
    assert (found.inputs, found.outputs) == ((IMAGE,), (classes, PROBABILITIES))
    files = interface_of(artifacts / "saved_model", "serving_bytes")
    assert files.inputs == (Tensor("bytes", "STRING", (-1,)),)
    # The runtimes themselves say the same.
    session = onnxruntime.InferenceSession(str(artifacts / "model.onnx"))
    assert session.get_inputs()[0].shape == ["batch", *IMAGE.shape[1:]]
    assert [(end.name, end.type) for end in session.get_outputs()] == [
        ("probabilities", "tensor(float)")
    ]


CONFIG = """name: "tiny"
platform: "{platform}"
max_batch_size: 8
input {{
  name: "image"
  data_type: TYPE_FP32
  dims: 32
  dims: 32
  dims: 3
}}
{classes}output {{
  name: "probabilities"
  data_type: TYPE_FP32
  dims: 10
}}
dynamic_batching {{
  preferred_batch_size: 2
  preferred_batch_size: 8
  max_queue_delay_microseconds: 1000
}}
"""
CLASSES = """output {
  name: "classes"
  data_type: TYPE_STRING
  dims: 5
}
"""


@pytest.mark.parametrize(
    ("artifact", "platform", "file", "classes"),
    [
        ("model.onnx", "onnxruntime_onnx", "model.onnx", ""),
        ("saved_model", "tensorflow_savedmodel", "model.savedmodel", CLASSES),
    ],
)
def test_triton_gets_the_artifact_and_its_configuration(
    artifact: str,
    platform: str,
    file: str,
    classes: str,
    artifacts: Path,
    tmp_path: Path,
    tiny_model: keras.Model,
    images: np.ndarray,
) -> None:
    folder = write_triton(artifacts / artifact, "tiny", tmp_path, batch_sizes=(8, 2, 8), version=3)
    assert folder == tmp_path / "tiny"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    wanted = CONFIG.format(platform=platform, classes=classes)
    assert (folder / "config.pbtxt").read_text() == wanted
    check_triton(folder)
    pixels = images[:3].astype(np.float32)
    copy = folder / "3" / file
    if copy.is_dir():
        serve = tf.saved_model.load(str(copy)).signatures["serving_default"]
        answer = serve(image=tf.constant(pixels))["probabilities"]
    else:
        (answer,) = onnxruntime.InferenceSession(str(copy)).run(None, {"image": pixels})
    np.testing.assert_allclose(answer, tiny_model(pixels), atol=1e-4)


def test_fixed_batch_sizes_are_part_of_the_shape(artifacts: Path, tmp_path: Path) -> None:
    text = (write_triton(artifacts / "fixed.onnx", "tiny", tmp_path) / "config.pbtxt").read_text()
    assert "max_batch_size" not in text
    assert "dynamic_batching" not in text
    assert "  dims: 2\n  dims: 32\n  dims: 32\n  dims: 3\n" in text


Edit = Callable[[str], str]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda text: text.replace('"image"', '"input_1"'),
            "input 'image': missing, in model.onnx",
        ),
        (lambda text: text.replace("FP32", "UINT8", 1), r"input 'image': UINT8 \[32, 32, 3\], in"),
        (lambda text: text.replace("dims: 3\n", ""), r"\[32, 32\], in model.onnx FP32 \[32, 32, 3"),
        (lambda text: text.replace("dims: 10", "dims: 11"), r"output 'probabilities': FP32 \[11\]"),
        (lambda text: text.replace('"tiny"', '"other"'), "name: 'other' in a folder called 'tiny'"),
        (
            lambda text: text.replace("onnxruntime_onnx", "tensorrt_plan"),
            "platform: 'tensorrt_plan'",
        ),
        (lambda text: text.replace("tiny", "other").replace(": 10", ": 1"), "name: .*; output"),
        (lambda text: text + "optimisation { }", "no field named .optimisation"),
        (lambda text: text.replace("max_batch_size: 16", ""), r"\[32, 32, 3\], in .*\[-1, 32, 32"),
    ],
)
def test_differences_are_found(edit: Edit, message: str, artifacts: Path, tmp_path: Path) -> None:
    folder = write_triton(artifacts / "model.onnx", "tiny", tmp_path)
    text = (folder / "config.pbtxt").read_text()
    assert edit(text) != text
    (folder / "config.pbtxt").write_text(edit(text))
    with pytest.raises(ValueError, match=f"(?s)Expected a .*Received: .*tiny.*{message}"):
        check_triton(folder)


def test_other_artifacts_under_a_configuration_are_found(artifacts: Path, tmp_path: Path) -> None:
    folder = write_triton(artifacts / "model.onnx", "tiny", tmp_path)
    shutil.copy(artifacts / "fixed.onnx", folder / "1" / "model.onnx")
    with pytest.raises(ValueError, match="max_batch_size: 16, but the batch size is fixed"):
        check_triton(folder)
    (folder / "1" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="Expected an ONNX file. Received: "):
        check_triton(folder)
    (folder / "1" / "model.onnx").unlink()
    with pytest.raises(ValueError, match="Received: .*model.onnx"):
        check_triton(folder)
    (folder / "1").rmdir()
    with pytest.raises(ValueError, match="there is no version"):
        check_triton(folder)


def test_kserve_serves_onnx_by_triton(artifacts: Path, tmp_path: Path) -> None:
    folder = write_kserve(artifacts / "model.onnx", "tiny", tmp_path, storage_uri="s3://a/b")
    check_triton(folder / "models" / "tiny")
    service = yaml.safe_load((folder / SERVICE).read_text())
    assert service == {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "tiny"},
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "onnx"},
                    "protocolVersion": "v2",
                    "runtime": "kserve-tritonserver",
                    "storageUri": "s3://a/b",
                }
            }
        },
    }


def test_kserve_serves_a_saved_model_by_tf_serving(artifacts: Path, tmp_path: Path) -> None:
    folder = write_kserve(artifacts / "saved_model", "tiny", tmp_path, version=2)
    assert (folder / "models" / "2" / "saved_model.pb").is_file()
    model: Any = yaml.safe_load((folder / SERVICE).read_text())["spec"]["predictor"]["model"]
    assert model == {
        "modelFormat": {"name": "tensorflow"},
        "protocolVersion": "v1",
        "runtime": "kserve-tensorflow-serving",
        "runtimeVersion": TF_SERVING_VERSION,
        "storageUri": "pvc://tiny/models",
    }


@pytest.mark.parametrize("write", [write_triton, write_kserve])
def test_bad_requests_are_refused(write: Any, artifacts: Path, tmp_path: Path) -> None:
    artifact = artifacts / "model.onnx"
    for name in ("", "Tiny", "a/b", "-a", "a" * 64, None):
        with pytest.raises(ValueError, match="Expected a `name` of up to 63 .*Received: "):
            write(artifact, name, tmp_path)
    for keywords in ({"version": 0}, {"batch_sizes": ()}, {"batch_sizes": (2, 0)}):
        with pytest.raises(ValueError, match="Expected `version` and at least one of"):
            write(artifact, "tiny", tmp_path, **keywords)
    with pytest.raises(ValueError, match="Expected an existing"):
        write(tmp_path / "missing.onnx", "tiny", tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\xff damaged")
    with pytest.raises(ValueError, match="Expected a SavedModel. Received: "):
        write(tmp_path, "tiny", tmp_path / "out")
    write(artifact, "tiny", tmp_path)
    with pytest.raises(FileExistsError, match="Received: .*tiny, which exists"):
        write(artifact, "tiny", tmp_path)
    write(artifact, "tiny", tmp_path, version=9, overwrite=True)
    found = sorted(path.parent.name for path in (tmp_path / "tiny").rglob("model.onnx"))
    assert found == ["9"]


@pytest.mark.parametrize("write", [write_triton, write_kserve])
def test_one_process_at_a_time_writes(write: Any, artifacts: Path, tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(ValueError, match="one process at a time. Received: "):
        write(artifacts / "model.onnx", "tiny", tmp_path)
    assert not list(tmp_path.iterdir())


def test_kserve_refuses_what_kubernetes_does(artifacts: Path, tmp_path: Path) -> None:
    for name in ("a_b", "18-layers"):
        with pytest.raises(ValueError, match=f"that starts with a letter .* Received: '{name}'"):
            write_kserve(artifacts / "model.onnx", name, tmp_path)
    for uri in ("models", 's3://a"b', "s3://a b", ""):
        with pytest.raises(ValueError, match="Expected a `storage_uri` such as"):
            write_kserve(artifacts / "model.onnx", "tiny", tmp_path, storage_uri=uri)
    assert list(tmp_path.iterdir()) == []


def test_types_and_signatures_that_triton_has_no_word_for(artifacts: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="with the signature `other`. Received: .*'features'"):
        interface_of(artifacts / "saved_model", "other")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "complex",
        [value("x", onnx.TensorProto.COMPLEX64, ["n"])],
        [value("y", onnx.TensorProto.COMPLEX64, ["n"])],
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "complex.onnx")
    with pytest.raises(ValueError, match="Received: .*complex.onnx with one of type COMPLEX64"):
        interface_of(tmp_path / "complex.onnx")
    (tmp_path / "model.tflite").write_bytes(b"")
    with pytest.raises(ValueError, match="Received: .*model.tflite"):
        interface_of(tmp_path / "model.tflite")
