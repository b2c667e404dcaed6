"""What a run says about itself where there is no terminal."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from keras_resnet.support.terminal import console
from keras_resnet.training.run.progress import ProgressBar


def pace(
    monkeypatch: pytest.MonkeyPatch, before: int, after: int, batch: int, images: int, steps: int
) -> str:
    """What is said two seconds after the epoch of `steps` batches began."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    run: Any = SimpleNamespace(batches=before, batches_per_epoch=steps, total=10 * steps)
    bar = ProgressBar(run, batch, images)
    bar.on_epoch_begin(0)
    now[0], run.batches = 2.0, after
    bar.on_train_batch_end(0)
    return bar._pace().partition(" images/s")[0]


def test_images_per_second_count_images(monkeypatch: pytest.MonkeyPatch) -> None:
    # Six images are one short batch, not 256.
    assert pace(monkeypatch, 0, 1, 256, 6, 1) == "3"
    # Ten in batches of four: 4, 4 and 2.
    assert pace(monkeypatch, 0, 2, 4, 10, 3) == "4"
    assert pace(monkeypatch, 0, 3, 4, 10, 3) == "5"
    # After an interruption, those of the rest of the epoch; and the third epoch.
    assert pace(monkeypatch, 1, 3, 4, 10, 3) == "3"
    assert pace(monkeypatch, 6, 9, 4, 10, 3) == "5"
    # What does not fill a batch is left out.
    assert pace(monkeypatch, 0, 2, 4, 10, 2) == "4"


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

    progress = ProgressBar(run, batch_size=8, images=80)
    progress.on_train_begin()
    progress.on_epoch_begin(0)
    wait_for("Epoch 1/2: compiling, or reading the first images, 0:00:00 so far\n")
    run.batches = 4
    progress.on_train_batch_end(3, {"loss": 1.5, "accuracy": 0.25})
    wait_for("Epoch 1/2: 4 of 10 batches, loss 1.5000, accuracy 25.00%, ")
    # Keras takes a while between the last batch and the first of validation.
    run.batches = 10
    wait_for("Epoch 1/2: evaluating on validation images, ")
    progress.on_test_begin()
    progress.on_test_end()
    run.finished_epochs = 1
    wait_for("Epoch 1/2: saving, ")
    progress.on_train_end()
    capsys.readouterr()
    time.sleep(0.15)
    assert capsys.readouterr().out == ""
