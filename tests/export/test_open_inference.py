"""An artifact in a real server that speaks the Open Inference Protocol: MLServer, on loopback.

MLServer wants an older protobuf than TensorFlow does, so it gets an environment of its own.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet.export import export

from ..conftest import ROOT

pytestmark = pytest.mark.network

EXAMPLE = ROOT / "examples" / "serving" / "mlserver"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def server(
    tiny_model: keras.Model, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a server that answers for the tiny network."""
    folder = tmp_path_factory.mktemp("mlserver")
    export(tiny_model, folder / "exported", ("onnx",), images=images, timing=None)
    for file in EXAMPLE.iterdir():
        shutil.copy(file, folder)
    shutil.copy(folder / "exported" / "model.onnx", folder)
    ports = {f"{kind}_port": free_port() for kind in ("http", "grpc", "metrics")}
    settings = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps(settings | ports))
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    requirements = str(folder / "requirements.txt")
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", requirements], check=True)
    command = [str(python.with_name("mlserver")), "start", "."]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{ports['http_port']}/v2"
    try:
        for _ in range(300):
            assert process.poll() is None, (folder / "log.txt").read_text()
            try:
                urllib.request.urlopen(f"{address}/models/resnet/ready", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def ask(address: str, images: np.ndarray) -> dict[str, Any]:
    tensor = {"name": "image", "shape": images.shape, "datatype": "FP32"}
    body = json.dumps({"inputs": [tensor | {"data": images.ravel().tolist()}]}).encode()
    request = urllib.request.Request(
        f"{address}/models/resnet/infer", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def test_answers_are_those_of_keras_under_load(
    server: str, tiny_model: keras.Model, images: np.ndarray
) -> None:
    expected = tiny_model.predict(images, verbose=0)

    def check(index: int) -> None:
        chosen = slice(index % 30, index % 30 + 1 + index % 4)
        (output,) = ask(server, images[chosen].astype(np.float32))["outputs"]
        assert (output["name"], output["datatype"]) == ("probabilities", "FP32")
        received = np.reshape(output["data"], output["shape"])
        np.testing.assert_allclose(received, expected[chosen], atol=1e-5)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(check, range(64)))


def test_bad_request_is_an_error_and_the_server_goes_on(server: str, images: np.ndarray) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(server, np.zeros((1, 16, 16, 3), np.float32))
    assert error.value.code >= 400
    assert ask(server, images[:1].astype(np.float32))["outputs"][0]["shape"] == [1, 10]
