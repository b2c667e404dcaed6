from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

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
