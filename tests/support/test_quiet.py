"""What native libraries print."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest

from keras_resnet.support.quiet import quiet, without_start_up_notes

from ..conftest import Command, Run, environment_of_users

NOTES = """WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1796053828.119143    9227 port.cc:153] oneDNN custom operations are on.
I0000 00:00:1796053828.119638    9227 cudart_stub.cc:31] Could not find cuda drivers.
To enable the following instructions: AVX2 AVX512F FMA, in other operations, rebuild TensorFlow.
"""


class Errors:
    """Standard error in place of what pytest has there."""

    def fileno(self) -> int:
        return 2


@pytest.mark.parametrize("fails", [False, True])
def test_only_notes_of_the_start_are_dropped(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr("sys.__stderr__", Errors())
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    try:
        with without_start_up_notes():
            os.write(2, f"first\n{NOTES}E0000 00:00 1 cuda_platform.cc:52] failed\n".encode())
            assert not fails, "inside"
    except AssertionError:
        assert fails
    assert capfd.readouterr().err == "first\nE0000 00:00 1 cuda_platform.cc:52] failed\n"


@pytest.mark.parametrize(
    ("error", "shown"),
    [(None, ""), (ValueError, ""), (ImportError, ""), (RuntimeError, "first\nlast\n")],
)
def test_what_is_hidden_is_shown_for_failures_but_not_for_refusals(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception] | None,
    shown: str,
) -> None:
    monkeypatch.setattr("sys.__stderr__", Errors())
    expected = contextlib.nullcontext() if error is None else pytest.raises(error)
    with expected, quiet():
        os.write(2, f"first\n{NOTES}last\n".encode())
        if error is not None:
            raise error("inside")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == f"{shown}after\n"


@pytest.mark.full
def test_commands_say_nothing_of_the_start(installed_command: Command, tmp_path: Path) -> None:
    done = installed_command("recipes", "goyal2017")
    assert (done.returncode, done.stderr) == (0, "")
    # That is found out when TensorFlow is there.
    network = ("--model", "resnet20", "--data", "digits", "--recipe", "quick-digits")
    done = installed_command(
        "train", *network, "--batch-size", "99999", "--output", str(tmp_path / "run")
    )
    assert done.returncode == 2
    assert done.stderr.startswith("keras-resnet: Expected batches of at most ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.full
def test_public_names_import_tensorflow_in_silence(run_new_python: Run) -> None:
    code = """
import os
before = dict(os.environ)
import keras_resnet
keras_resnet.Predictor, keras_resnet.ResNet18
import sys
print("tensorflow" in sys.modules, dict(os.environ) == before)
"""
    done = run_new_python(code, **environment_of_users())
    assert (done.stdout, done.stderr) == ("True True\n", "")
