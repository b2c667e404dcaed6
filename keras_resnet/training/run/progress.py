"""Progress of training: a bar on a terminal, otherwise a line per epoch and per minute."""

from __future__ import annotations

import datetime
import time
from typing import Any

import keras
from rich.progress import BarColumn, Progress, TextColumn

from keras_resnet.support.terminal import Heartbeat, console
from keras_resnet.training.run.run import Run


class ProgressBar(keras.callbacks.Callback):
    """Callback that shows loss, accuracy, images per second and the remaining time.

    Args:
        run: the run.
        batch_size: images in a full batch, over all workers.
        images: number of training images.
    """

    def __init__(self, run: Run, batch_size: int, images: int) -> None:
        super().__init__()
        self._run, self._batch_size = run, batch_size
        # The last batch of an epoch may be smaller, or dropped.
        self._per_epoch = min(images, run.batches_per_epoch * batch_size)
        self._bar: Progress | None = None
        self._heartbeat: Heartbeat | None = None
        self._logs: dict[str, float] = {}
        self._evaluating = False
        self._task: Any = None
        self._begun, self._first, self._images_per_second = 0.0, 0, 0.0
        self._started, self._skipped = time.monotonic(), run.batches

    def on_train_begin(self, logs: Any = None) -> None:
        if not console.is_terminal and self._heartbeat is None:
            self._heartbeat = Heartbeat(self._state).__enter__()
        if console.is_terminal and self._bar is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(20),
                TextColumn("{task.fields[text]}"),
            )
            self._bar = Progress(*columns, console=console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=self._run.batches_per_epoch, text="")

    def on_train_end(self, logs: Any = None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar from the terminal, or stop the lines per minute."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._heartbeat is not None:
            self._heartbeat.__exit__()
            self._heartbeat = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begun, self._first = time.monotonic(), self._run.batches
        self._logs = {}

    def on_test_begin(self, logs: Any = None) -> None:
        self._evaluating = True

    def on_test_end(self, logs: Any = None) -> None:
        self._evaluating = False

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        done = self._run.batches
        elapsed = time.monotonic() - self._begun
        images = self._images(done) - self._images(self._first)
        self._images_per_second = images / max(elapsed, 1e-9)
        self._logs = logs or {}
        if self._bar is not None:
            self._bar.update(
                self._task,
                description=self._epoch(),
                completed=self._batches_of_epoch(),
                text=f"{self._figures(self._logs)}, {self._pace()}",
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        console.print(
            f"Epoch {epoch + 1}/{self._run.epochs}: {self._figures(logs or {})}, {self._pace()}"
        )
        if self._heartbeat is not None:
            self._heartbeat.restart()

    def _epoch(self) -> str:
        return f"Epoch {self._run.finished_epochs + 1}/{self._run.epochs}"

    def _batches_of_epoch(self) -> int:
        return self._run.batches - self._run.finished_epochs * self._run.batches_per_epoch

    def _state(self) -> str:
        """Return the text of the line per minute; called from another thread."""
        done, length = self._batches_of_epoch(), self._run.batches_per_epoch
        # `on_test_begin` is called some time after the last batch of an epoch.
        if self._evaluating or done >= length:
            return f"{self._epoch()}: evaluating on validation images"
        if not self._logs:
            return f"{self._epoch()}: compiling, or reading the first images"
        if done <= 0:
            return f"Epoch {self._run.finished_epochs}/{self._run.epochs}: saving"
        return (
            f"{self._epoch()}: {done} of {length} batches, {self._figures(self._logs)}, "
            f"{self._pace()}"
        )

    def _images(self, batches: int) -> int:
        """Return the number of images in the first `batches` batches of the run."""
        epochs, rest = divmod(batches, self._run.batches_per_epoch)
        return epochs * self._per_epoch + min(rest * self._batch_size, self._per_epoch)

    def _figures(self, logs: dict[str, float]) -> str:
        parts = []
        for prefix, part in (("", ""), ("val_", "validation ")):
            if f"{prefix}loss" in logs:
                parts.append(f"{part}loss {logs[f'{prefix}loss']:.4f}")
            if f"{prefix}accuracy" in logs:
                parts.append(f"accuracy {logs[f'{prefix}accuracy']:.2%}")
        if "learning_rate" in logs:
            parts.append(f"learning rate {logs['learning_rate']:.3g}")
        return ", ".join(parts)

    def _pace(self) -> str:
        """Return images per second in this epoch, and the time left at the mean pace so far."""
        done = self._run.batches - self._skipped
        elapsed = time.monotonic() - self._started
        left = (self._run.total - self._run.batches) * elapsed / max(done, 1)
        return (
            f"{self._images_per_second:,.0f} images/s, "
            f"{datetime.timedelta(seconds=round(left))} left"
        )
