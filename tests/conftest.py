"""Fixtures that several test files share: tiny networks and small images."""

from __future__ import annotations

import functools
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# pytest-xdist sets COLUMNS to 80, which commands would take for the width of a terminal.
os.environ.pop("COLUMNS", None)
# With AVX-512, oneDNN in TensorFlow 2.21 writes outside of its memory in the gradient of 1x1
# kernels with stride 2, up to 8 input channels and odd batch sizes, which only occur in networks as
# tiny as those of these tests. test_upstream.py fails once that is fixed. Commands that tests run
# as users do keep the default.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import filelock
import numpy as np
import pytest

import keras_resnet

from .fork_server import ROOT, ForkServer, Process

# Where needed only: the process that hands out the tests computes nothing.
if TYPE_CHECKING:
    import keras

__all__ = ["ROOT"]


#: Content of a large file in a clone without Git LFS.
LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 102540417\n"
)


@pytest.fixture(scope="session")
def tiny_config() -> keras_resnet.ResNetConfig:
    """Config of a network with every kind of layer of CIFAR networks, in three blocks."""
    return keras_resnet.ResNetConfig("basic", (1, 1, 1), (8, 16, 24), stem="cifar", shortcut="A")


@pytest.fixture(scope="session")
def tiny_model(tiny_config: keras_resnet.ResNetConfig) -> keras.Model:
    """Tiny network with values as after training. Do not train it."""
    import keras

    keras.utils.set_random_seed(0)
    model = keras_resnet.build(tiny_config, input_shape=(32, 32, 3), name="tiny")
    randomize(model)
    return model


@pytest.fixture(scope="session")
def images(tiny_model: keras.Model) -> np.ndarray:
    """Forty color images `(32, 32, 3)`, uint8, that the tiny network classifies with confidence."""
    coarse = np.random.default_rng(1).integers(0, 256, (300, 4, 4, 3), dtype=np.uint8)
    candidates = coarse.repeat(8, axis=1).repeat(8, axis=2)
    top = np.sort(tiny_model.predict(candidates, verbose=0), axis=-1)
    return candidates[np.argsort(top[:, -2] - top[:, -1], kind="stable")[:40]]


def randomize(model: keras.Model) -> None:
    """Give normalization layers, biases and the head values as after training.

    The values of a new network, such as zeros, would hide errors.
    """
    import keras

    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape[0]
            values = (0.5, 1.5), (-0.2, 0.2), (-0.2, 0.2), (0.5, 1.5)
            layer.set_weights([random.uniform(low, high, size) for low, high in values])
        elif isinstance(layer, keras.layers.GroupNormalization):
            size = layer.gamma.shape[0]
            layer.set_weights([random.uniform(0.5, 1.5, size), random.uniform(-0.2, 0.2, size)])
        elif isinstance(layer, keras.layers.Dense):
            layer.set_weights([random.normal(0, 1, weight.shape) for weight in layer.weights])
        elif isinstance(layer, keras.layers.Conv2D) and layer.use_bias:
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, random.normal(0, 0.2, bias.shape)])


# Python's garbage collector scans all objects, of which TensorFlow has millions: by default, it
# takes a third of the time of these tests.
gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="module", autouse=True)
def objects_of_earlier_modules_stay() -> None:
    """Exclude the objects of imports and earlier test modules from garbage collection."""
    gc.freeze()


Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Process]


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """Server that starts processes in which TensorFlow is already imported."""
    with ForkServer() as server:
        yield server


@pytest.fixture
def start_program(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Function that starts `python ARGUMENTS` in a process where TensorFlow is already imported."""

    def start(
        *arguments: str, merged: bool = False, folder: Path | None = None, **environment: str
    ) -> Process:
        fixed = [name for name in environment if name in ("KERAS_BACKEND", "PYTHONPATH")]
        assert not fixed, f"{fixed} are read by a new interpreter only: use `run_new_python`"
        files = tmp_path_factory.mktemp("process")
        variables = {**os.environ, **environment}
        output = files / "output"
        errors = output if merged else files / "errors"
        return fork_server.start(arguments, output, errors, variables, folder)

    return start


@pytest.fixture
def start_command(start_program: Start) -> Start:
    """Function that starts the `keras-resnet` command in such a process."""
    return functools.partial(start_program, "-m", "keras_resnet", TF_CPP_MIN_LOG_LEVEL="3")


def ended(process: Process, timeout: float) -> subprocess.CompletedProcess[str]:
    """Return the result of a process, which is killed after `timeout` seconds."""
    try:
        output, errors = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess([], process.wait(), output, errors)


@pytest.fixture
def run_python(start_program: Start) -> Run:
    """Function that runs code in such a process, and returns its result."""

    def run(
        code: str, *arguments: str, timeout: float = 600, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        # In the root folder, so that the code may import modules of the tests.
        return ended(start_program("-c", code, *arguments, folder=ROOT, **environment), timeout)

    return run


@pytest.fixture(scope="session")
def run_new_python() -> Run:
    """Function that runs code in a new interpreter, for tests of its start or of imports."""

    def run(
        code: str, *arguments: str, timeout: float = 600, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments]
        variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
        return subprocess.run(
            command, capture_output=True, text=True, env=variables, timeout=timeout, check=False
        )

    return run


def environment_of_users() -> dict[str, str]:
    """Return the environment variables without those that are set above."""
    ours = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")
    return {name: value for name, value in os.environ.items() if name not in ours}


@pytest.fixture(scope="session")
def command() -> str:
    """Path of the installed `keras-resnet` command."""
    return str(Path(sys.executable).with_name("keras-resnet"))


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def keras_resnet_command(start_command: Start) -> Command:
    """Function that runs the `keras-resnet` command in such a process, and returns its result."""

    def run(
        *arguments: str, timeout: float = 300, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return ended(start_command(*arguments, **environment), timeout)

    return run


@pytest.fixture(scope="session")
def installed_command(command: str) -> Command:
    """Function that runs the installed `keras-resnet` command as a user does."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command, *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            env={**environment_of_users(), **environment},
            check=False,
        )

    return run


@pytest.fixture
def command_in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Function that runs the `keras-resnet` command inside of this process."""
    from keras_resnet.cli import main

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["keras-resnet", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(exit_.value.code or 0), out, err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace latencies by invented ones: measuring them takes a process for every artifact."""
    from keras_resnet.export import BenchmarkReport, Measurement, exporter

    def invented(artifacts: list[Path], **_: object) -> BenchmarkReport:
        rows = [Measurement(str(path), 1, 0, 9, 1.0, 2.0, None, 10**8) for path in artifacts]
        return BenchmarkReport(tuple(rows))

    monkeypatch.setattr(exporter, "benchmark", invented)


@pytest.fixture(scope="session")
def digits_file() -> Path:
    """`.keras` file of a small network, trained on digits by `fixtures/make_digits.py`."""
    return Path(__file__).parent / "fixtures" / "digits.keras"


@pytest.fixture(scope="session")
def exported_digits(digits_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with that network and its artifacts, named as in the demo."""
    from keras_resnet import load_model
    from keras_resnet.data import load_digits
    from keras_resnet.export import export

    folder = tmp_path_factory.mktemp("digits") / "demo-output"
    train, test = load_digits()
    export(
        load_model(digits_file),
        folder,
        ("tflite-int8", "onnx"),
        calibration=train.images[:200],
        images=test.images,
        labels=test.labels,
        timing=None,
    )
    shutil.copy(digits_file, folder / "model.keras")
    return folder


@pytest.fixture(scope="session")
def demo(
    tmp_path_factory: pytest.TempPathFactory, command: str
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Result of `keras-resnet quickstart` with its defaults, and its output directory.

    With several test processes, the first one that needs the demo runs it for all.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    output, record = shared / "demo" / "demo-output", shared / "demo.json"
    with filelock.FileLock(shared / "demo.lock"):
        if not record.exists():
            output.parent.mkdir()
            arguments = [command, "quickstart", "--output", str(output)]
            env = environment_of_users()
            done = subprocess.run(
                arguments, capture_output=True, text=True, timeout=900, check=False, env=env
            )
            record.write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
    code, out, err = json.loads(record.read_text())
    return subprocess.CompletedProcess([], code, out, err), output
