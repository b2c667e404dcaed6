"""What a run says about itself where there is no terminal."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from keras_resnet.support.terminal import console
from keras_resnet.training.run.progress import ProgressBar


def test_long_silence_is_ended_by_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "log_every", 0.05)
    run: Any = SimpleNamespace(
        batches=0, batches_per_epoch=10, finished_epochs=0, epochs=2, total=20
    )
    seen = ""

    def wait_for(text: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 10
        while text not in seen:
            assert time.monotonic() < deadline, seen
            time.sleep(0.01)
            seen += capsys.readouterr().out

    progress = ProgressBar(run, batch_size=8)
    progress.on_train_begin()
    progress.on_epoch_begin(0)
    wait_for("Epoch 1/2: compiling, or reading the first images, 0:00:00 so far\n")
    run.batches = 4
    progress.on_train_batch_end(3, {"loss": 1.5, "accuracy": 0.25})
    wait_for("Epoch 1/2: 4 of 10 batches, loss 1.5000, accuracy 25.00%, ")
    progress.on_test_begin()
    wait_for("Epoch 1/2: evaluating on validation images, ")
    progress.on_test_end()
    run.finished_epochs = 1
    wait_for("Epoch 1/2: saving, ")
    progress.on_train_end()
    capsys.readouterr()
    time.sleep(0.15)
    assert capsys.readouterr().out == ""
