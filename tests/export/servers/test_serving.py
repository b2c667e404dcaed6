"""What TF Serving reads, and the clients that speak with it; without its binary."""

from __future__ import annotations

import base64
import http.server
import importlib.util
import io
import json
import re
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import keras
import numpy as np
import pytest
import requests
import tensorflow as tf
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

from keras_resnet import Predictor
from keras_resnet.export.model import ExportedModel
from keras_resnet.export.options import ExportOptions
from keras_resnet.export.outputs import output_names
from keras_resnet.export.servers import kserve, saved_model, tf_serving
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.models.info import ModelInfo

from ...conftest import ROOT, Run
from . import serving_rules

NAMES = tuple(f"Klasse {letter} ü" for letter in "abcdefghij")
PROTOCOL = EvalProtocol(32, 36)
EXAMPLES = ROOT / "examples" / "serving"


@pytest.fixture(scope="module")
def exported(tiny_model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a SavedModel and what is written beside it."""
    folder = tmp_path_factory.mktemp("exported")
    work = tmp_path_factory.mktemp("work")
    info = ModelInfo(class_names=NAMES, protocol=PROTOCOL)
    options = ExportOptions(serving_batch_sizes=(8, 1, 3))
    source = ExportedModel(tiny_model, None, work, output_names(tiny_model), info, options)
    saved_model.write(source, folder / "saved_model")
    return folder


@pytest.fixture(scope="module")
def loaded(exported: Path) -> Any:
    return tf.saved_model.load(str(exported / "saved_model" / "1"))


@pytest.fixture(scope="module")
def predictor(tiny_model: keras.Model) -> Predictor:
    return Predictor(tiny_model, protocol=PROTOCOL, class_names=NAMES)


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    """Three JPEGs and a PNG of different sizes."""
    random, found = np.random.default_rng(3), []
    for size, form in (
        ((60, 40), "JPEG"),
        ((33, 70), "JPEG"),
        ((20, 20), "JPEG"),
        ((50, 41), "PNG"),
    ):
        pixels = random.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, form)
        found.append(buffer.getvalue())
    return found


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


ALONE = """
import json, sys
# Neither is there: importing one would fail.
sys.modules["keras"] = sys.modules["keras_resnet"] = None
import tensorflow as tf
sys.path.insert(0, sys.argv[1])
import serving_rules
loaded = tf.saved_model.load(sys.argv[2])
bodies = json.load(open(sys.argv[3]))
answers = {name: serving_rules.answer(loaded, body) for name, body in bodies.items()}
present = {name.split(".")[0] for name, module in sys.modules.items() if module is not None}
assert not present & {"keras", "keras_resnet", "tf_keras"}, present
print(json.dumps(answers))
"""


@pytest.mark.full
def test_requests_are_answered_where_only_tensorflow_is(
    exported: Path,
    predictor: Predictor,
    images: np.ndarray,
    photos: list[bytes],
    tmp_path: Path,
    run_new_python: Run,
) -> None:
    pixels = images[:2].tolist()
    files = [b64(photo) for photo in photos]
    requests_ = {
        "rows": {"instances": pixels},
        "named rows": {"instances": [{"image": image} for image in pixels]},
        "columns": {"inputs": {"image": pixels}},
        "bare column": {"inputs": pixels},
        "integers": {"signature_name": "serving_uint8", "instances": pixels},
        "files": {"signature_name": "serving_bytes", "instances": files},
        "named files": {
            "signature_name": "serving_bytes",
            "instances": [{"bytes": file} for file in files],
        },
        "column of files": {"signature_name": "serving_bytes", "inputs": {"bytes": files}},
        "features": {"signature_name": "features", "instances": pixels},
    }
    bodies = {name: json.dumps(request) for name, request in requests_.items()}
    (tmp_path / "bodies.json").write_text(json.dumps(bodies))
    done = run_new_python(
        ALONE,
        str(Path(serving_rules.__file__).parent),
        str(exported / "saved_model" / "1"),
        str(tmp_path / "bodies.json"),
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    expected = predictor.predict(images[:2])
    for name in ("rows", "named rows", "integers"):
        rows = answers[name]["predictions"]
        np.testing.assert_allclose([row["probabilities"] for row in rows], expected, atol=1e-5)
        assert [row["classes"][0] for row in rows] == [NAMES[i] for i in expected.argmax(-1)]
    for name in ("columns", "bare column"):
        outputs = answers[name]["outputs"]
        np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)
    expected = predictor.predict(photos)
    assert answers["files"] == answers["named files"]
    rows = answers["files"]["predictions"]
    np.testing.assert_allclose([row["probabilities"] for row in rows], expected, atol=5e-3)
    for row, (best, *_) in zip(rows, predictor.classify(photos), strict=True):
        assert row["classes"][0] == best[1]
        assert row["scores"][0] == pytest.approx(best[2], abs=5e-3)
    columns = answers["column of files"]["outputs"]
    assert columns["classes"] == [row["classes"] for row in rows]
    # The only output: no name.
    assert np.shape(answers["features"]["predictions"]) == (2, 24)


def test_warm_up_requests_are_replayed(exported: Path, loaded: Any) -> None:
    path = exported / "saved_model/1/assets.extra/tf_serving_warmup_requests"
    # A request of pixels says its one grey once.
    assert path.stat().st_size < 12 * 12_000
    seen = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == "tiny"
        name = request.model_spec.signature_name
        tensors = {
            key: tf.io.parse_tensor(value.SerializeToString(), tf.as_dtype(value.dtype))
            for key, value in request.inputs.items()
        }
        ((key, tensor),) = tensors.items()
        spec = loaded.signatures[name].structured_input_signature[1][key]
        assert spec.is_compatible_with(tensor)
        values = loaded.signatures[name](**tensors)
        assert {len(value) for value in values.values()} == {len(tensor)}
        if key == "image":
            assert np.unique(tensor).tolist() == [128]
        else:
            starts = [data[:2] for data in tensor.numpy()]
            assert starts == [(b"\xff\xd8", b"\x89P")[row % 2] for row in range(len(starts))]
        seen.append((name, len(tensor)))
    names = ("serving_default", "serving_uint8", "serving_bytes", "features")
    assert sorted(seen) == sorted((name, size) for name in names for size in (1, 3, 8))


def test_models_config_names_the_model_and_its_folder(exported: Path) -> None:
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((exported / "models.config").read_text(), config)
    (model,) = config.model_config_list.config
    assert (model.name, model.model_platform) == ("tiny", "tensorflow")
    assert model.model_version_policy.latest.num_versions == 1
    mounted = Path(model.base_path).relative_to(tf_serving.MODELS_FOLDER)
    assert (exported / mounted / "1" / "saved_model.pb").is_file()


def batching_parameters() -> Any:
    """`BatchingParameters` of session_bundle_config.proto, which tensorflow-serving-api lacks."""
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto",
        package="t",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    message = file.message_type.add(name="BatchingParameters")
    kinds = descriptor_pb2.FieldDescriptorProto
    wrapped = (
        "max_batch_size",
        "batch_timeout_micros",
        "max_enqueued_batches",
        "num_batch_threads",
    )
    for number, name in enumerate(wrapped, 1):
        message.field.add(
            name=name,
            number=number,
            label=kinds.LABEL_OPTIONAL,
            type=kinds.TYPE_MESSAGE,
            type_name=".google.protobuf.Int64Value",
        )
    message.field.add(
        name="allowed_batch_sizes", number=6, label=kinds.LABEL_REPEATED, type=kinds.TYPE_INT64
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.BatchingParameters"))()


def test_batching_config_allows_the_sizes_in_order(exported: Path) -> None:
    text = (exported / "batching.config").read_text()
    config = text_format.Parse(text, batching_parameters())
    # As the server requires: increasing, and the last one is the maximum.
    assert list(config.allowed_batch_sizes) == [1, 3, 8]
    assert config.max_batch_size.value == 8
    assert config.num_batch_threads.value >= 1
    assert config.max_enqueued_batches.value >= 1
    assert config.batch_timeout_micros.value >= 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet50", "resnet50"),
        ("my model/ü", "my-model"),
        ("...", "model"),
        ("a.b_c-1", "a.b_c-1"),
    ],
)
def test_model_names_are_fit_for_urls(name: str, said: str) -> None:
    assert tf_serving.model_name(name) == said


def test_compose_file_mounts_what_is_exported(exported: Path) -> None:
    service = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())["services"]["serving"]
    assert service["image"] == f"tensorflow/serving:{kserve.TF_SERVING_VERSION}"
    assert re.fullmatch(r"\d+\.\d+\.\d+", kserve.TF_SERVING_VERSION)
    (volume,) = service["volumes"]
    assert volume.endswith(f":{tf_serving.MODELS_FOLDER}:ro")
    flags = dict(flag.removeprefix("--").split("=") for flag in service["command"])
    # The other file is named in a comment: merged requests fail together.
    assert list(flags) == ["model_config_file"]
    assert (
        f"--batching_parameters_file=/models/{tf_serving.BATCHING_CONFIG}"
        in (EXAMPLES / "compose.yaml").read_text()
    )
    for file in (Path(flags["model_config_file"]).name, tf_serving.BATCHING_CONFIG):
        assert (exported / file).is_file()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def example(name: str) -> ModuleType:
    path = EXAMPLES / f"{name}.py"
    assert path.read_text().count("\n") <= 120
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rest_address(loaded: Any) -> Iterator[str]:
    """A server on loopback that follows TF Serving's rules."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            try:
                assert self.path == "/v1/models/tiny:predict"
                status, answer = 200, serving_rules.answer(loaded, body)
            except tf.errors.InvalidArgumentError as error:
                status, answer = 400, {"error": error.message}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def grpc_address(loaded: Any) -> Iterator[str]:
    """A gRPC server on loopback that answers `Predict`."""

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
            assert request.model_spec.name == "tiny"
            signature = loaded.signatures[request.model_spec.signature_name]
            inputs = {
                key: tf.io.parse_tensor(value.SerializeToString(), tf.as_dtype(value.dtype))
                for key, value in request.inputs.items()
            }
            try:
                outputs = signature(**inputs)
            except tf.errors.InvalidArgumentError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            answer = predict_pb2.PredictResponse()
            for key in request.output_filter or outputs:
                answer.outputs[key].CopyFrom(tf.make_tensor_proto(outputs[key].numpy()))
            return answer

    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.mark.parametrize("kind", ["rest", "grpc"])
def test_clients_classify_files(
    kind: str,
    predictor: Predictor,
    photos: list[bytes],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    client, address = example(f"client_{kind}"), request.getfixturevalue(f"{kind}_address")
    expected = predictor.classify(photos)
    for found, wanted in zip(client.classify(address, "tiny", photos), expected, strict=True):
        assert [name for name, _ in found] == [name for _, name, _ in wanted]
        scores = [score for _, _, score in wanted]
        np.testing.assert_allclose([score for _, score in found], scores, atol=5e-3)
    with pytest.raises(ValueError, match=r"Expected JPEG or PNG files .*batch:\] \[1\]"):
        client.classify(address, "tiny", [photos[0], b"broken"])

    # The command, after that.
    (tmp_path / "photo.jpg").write_bytes(photos[0])
    (tmp_path / "note.jpg").write_bytes(b"no image")
    flag = "--url" if kind == "rest" else "--address"
    command = ["client", "--model", "tiny", flag, address]
    monkeypatch.setattr("sys.argv", [*command, str(tmp_path / "photo.jpg")])
    assert client.main() == 0
    assert f"photo.jpg: {expected[0][0][1]} " in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*command, str(tmp_path / "note.jpg")])
    assert client.main() == 1
    assert "[0]" in capsys.readouterr().err


def test_clients_say_that_there_is_no_server(photos: list[bytes]) -> None:
    with pytest.raises(requests.ConnectionError):
        example("client_rest").classify("http://127.0.0.1:9", "tiny", photos[:1])
    with pytest.raises(grpc.RpcError):
        example("client_grpc").classify("127.0.0.1:9", "tiny", photos[:1])
