"""`export()`: write artifacts, run them, compare them with Keras, then give them their names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.export.benchmark import median_latencies
from keras_resnet.export.calibration import check_calibration
from keras_resnet.export.report import ArtifactReport, ExportReport
from keras_resnet.export.runtime import KerasRunner, Runner, load_runner
from keras_resnet.export.signature import (
    ExportSource,
    as_float32,
    check_backend,
    image_array,
    output_names,
)
from keras_resnet.export.targets import TARGETS, Target
from keras_resnet.export.verify import Comparison, compare, disagreements
from keras_resnet.files import partial_directory, publish, size_of
from keras_resnet.model_info import get_info

#: Name and share done, at the start of every step.
Progress = Callable[[str, float], None]

#: Without any real image, this many of noise show whether the arithmetic is the same.
_NOISE_IMAGES = 16


class ExportError(RuntimeError):
    """An artifact disagrees with Keras. `report` has the figures of all artifacts."""

    def __init__(self, report: ExportReport) -> None:
        super().__init__("; ".join(report.failures))
        self.report = report


@dataclass(frozen=True)
class _Written:
    """An artifact that was written and run, still under a temporary name."""

    target: Target
    path: Path
    runner: Runner
    comparison: Comparison

    @property
    def disagreements(self) -> tuple[str, ...]:
        return tuple(disagreements(self.comparison, self.target.limits))

    def report(self, latency_ms: float) -> ArtifactReport:
        name, size = self.target.file_name, size_of(self.path)
        return ArtifactReport(
            self.target.name, name, size, self.comparison, latency_ms, self.disagreements
        )


def export(
    model: keras.Model,
    directory: str | os.PathLike[str],
    targets: Sequence[str] | None = None,
    *,
    calibration: Iterable[Any] | np.ndarray | None = None,
    images: Iterable[Any] | np.ndarray | None = None,
    labels: Sequence[int] | np.ndarray | None = None,
    overwrite: bool = False,
    progress: Progress = lambda step, done: None,
) -> ExportReport:
    """Exports a classifier and proves every artifact in its own runtime.

    In every artifact the input is `image`: `(batch, height, width, channels)`, float32, RGB in
    [0, 255]; the output is `probabilities`, or `logits` if the model ends without an activation.
    An artifact gets its final name when it has been found to agree with Keras.

    Args:
        model: a Keras classifier that takes RGB pixels in [0, 255], in any dtype policy; exported
            in float32. If its normalisation is not in the graph, put it there first.
        directory: where the artifacts go; made if missing.
        targets: names from `keras_resnet.export.TARGETS`. By default `saved_model`, `onnx` and
            `tflite-int8`; without calibration images `tflite-float32` in its place.
        calibration: images for int8, RGB in [0, 255], as at evaluation: not augmented.
        images: held-out images to verify on. By default every fourth calibration image, which is
            then not used for calibration; without those, noise, which proves equal arithmetic but
            says little of accuracy.
        labels: the classes of `images`, to measure accuracy.
        overwrite: whether artifacts that are there already may be replaced.
        progress: called with the name of every step and the share that is done.

    Returns:
        The report; its first row is the Keras model itself.

    Raises:
        ValueError: an unknown target, an impossible model, images that cannot be right, or a
            directory that cannot be written to.
        FileExistsError: an artifact is there already.
        ImportError: a target's packages are not installed.
        ExportError: an artifact is outside its target's limits; it is not kept, the ones that agree
            are.
        OSError: the disk is full.
    """
    check_backend()
    output_names(model)
    chosen = _choose(targets, calibration is not None)
    directory = Path(directory)
    _refuse_existing(directory, chosen, overwrite)
    calibration, images, labels = _images(model, calibration, images, labels)
    single = as_float32(model)
    keras_runner = KerasRunner(single)
    expected = keras_runner.predict(images)

    with partial_directory(directory) as staging:
        workspace = Path(tempfile.mkdtemp(dir=staging))
        source = ExportSource(single, calibration, workspace, keras_runner.outputs, get_info(model))
        written = []
        for index, target in enumerate(chosen):
            progress(target.name, index / (len(chosen) + 1))
            path = staging / target.file_name
            target.write(source, path)
            runner = load_runner(path)
            comparison = compare(expected, runner.predict(images), labels)
            written.append(_Written(target, path, runner, comparison))
        progress("latency", len(chosen) / (len(chosen) + 1))
        keras_path = workspace / "model.keras"
        single.save(keras_path)
        runners = {"keras": keras_runner, **{item.target.name: item.runner for item in written}}
        latencies = median_latencies(runners, images[0])
        itself = compare(expected, expected, labels)
        rows = [
            ArtifactReport("keras", None, size_of(keras_path), itself, latencies["keras"]),
            *(item.report(latencies[item.target.name]) for item in written),
        ]
        report = ExportReport(tuple(rows))
        agreeing = [item.path for item in written if not item.disagreements]
        if agreeing:
            publish({path: directory / path.name for path in agreeing})
    if report.failures:
        raise ExportError(report)
    return report


def _choose(targets: Sequence[str] | None, calibrated: bool) -> list[Target]:
    if targets is None:
        targets = ("saved_model", "onnx", "tflite-int8" if calibrated else "tflite-float32")
    unknown = [name for name in targets if name not in TARGETS]
    if unknown or not targets or isinstance(targets, str):
        raise ValueError(f"Expected `targets` among {list(TARGETS)}. Received: {targets!r}")
    chosen = [TARGETS[name] for name in dict.fromkeys(targets)]
    for target in chosen:
        if target.needs_calibration and not calibrated:
            raise ValueError(
                f"Expected `calibration` images for the target {target.name!r}, which takes its "
                "ranges from them. Received: none. Pass images like those the network will see"
            )
        target.require_modules()
    return chosen


def _refuse_existing(directory: Path, targets: list[Target], overwrite: bool) -> None:
    existing = [target.file_name for target in targets if (directory / target.file_name).exists()]
    if existing and not overwrite:
        raise FileExistsError(
            f"Expected a directory without earlier artifacts. Received: {directory}, which holds "
            f"{', '.join(existing)}. Choose another directory or allow overwriting"
        )


def _images(
    model: keras.Model, calibration: Any, images: Any, labels: Any
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """Checked calibration images, verification images and labels."""
    shape = model.input_shape
    if images is None and labels is not None:
        raise ValueError("Expected `images` together with `labels`. Received: labels only")
    if calibration is not None:
        calibration = image_array(calibration, shape, "calibration images")
        if images is None:
            held_out = np.arange(len(calibration)) % 4 == 3
            calibration, images = calibration[~held_out], calibration[held_out]
        check_calibration(calibration)
    if images is None:
        size = tuple(side or 224 for side in shape[1:3])
        images = np.random.default_rng(0).integers(0, 256, (_NOISE_IMAGES, *size, shape[3]))
    images = image_array(images, shape, "images")
    labels = None if labels is None else np.asarray(labels)
    if labels is not None and labels.shape != (len(images),):
        raise ValueError(
            f"Expected one label per image, {len(images)}. Received: labels of shape {labels.shape}"
        )
    return calibration, images, labels
