"""What native libraries print."""

from __future__ import annotations

import os
import sys

import pytest

from keras_resnet.support.quiet import without_start_up_notes

from ..conftest import Run, environment_of_users

NOTES = """WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1796053828.119143    9227 port.cc:153] oneDNN custom operations are on.
I0000 00:00:1796053828.119638    9227 cudart_stub.cc:31] Could not find cuda drivers.
To enable the following instructions: AVX2 AVX512F FMA, in other operations, rebuild TensorFlow.
"""


@pytest.mark.parametrize("fails", [False, True])
def test_only_notes_of_the_start_are_dropped(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    class Errors:
        def fileno(self) -> int:
            return 2

    monkeypatch.setattr("sys.__stderr__", Errors())
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    try:
        with without_start_up_notes():
            os.write(2, f"first\n{NOTES}E0000 00:00 1 cuda_platform.cc:52] failed\n".encode())
            assert not fails, "inside"
    except AssertionError:
        assert fails
    assert capfd.readouterr().err == "first\nE0000 00:00 1 cuda_platform.cc:52] failed\n"


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
