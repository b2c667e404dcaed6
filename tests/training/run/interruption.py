"""A training that is asked to end in its midst."""

from __future__ import annotations

import signal
from typing import Any

import keras


class Count(keras.callbacks.Callback):
    """Counts batches, and asks the process to end after so many, as `kill` does."""

    def __init__(self, last: int | None = None) -> None:
        super().__init__()
        self.batches, self._last = 0, last

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches += 1
        if self.batches == self._last:
            signal.raise_signal(signal.SIGTERM)
