"""`export()`: write artifacts, run each in its own runtime, compare it with Keras, and only then give it its name."""

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
from keras_resnet.export.calibration import calibration_images, image_array
from keras_resnet.export.report import ArtifactReport, ExportReport
from keras_resnet.export.runtime import KerasRunner, Runner, load_runner
from keras_resnet.export.signature import ExportSource, as_float32, check_classifier
from keras_resnet.export.targets import TARGETS, Target
from keras_resnet.export.verify import Comparison, compare, disagreements
from keras_resnet.files import partial_directory, publish, size_of

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
    disagreements: tuple[str, ...]


def export(
    model: keras.Model,
    directory: str | os.PathLike[str],
    targets: Sequence[str] = ("saved_model", "tflite-int8", "onnx"),
    *,
    calibration: Iterable[Any] | np.ndarray | None = None,
    images: Iterable[Any] | np.ndarray | None = None,
    labels: Sequence[int] | np.ndarray | None = None,
    overwrite: bool = False,
    progress: Progress = lambda step, done: None,
) -> ExportReport:
    """Exports a classifier and proves every artifact in its own runtime before it gets its final name.

    Every artifact takes RGB pixels in [0, 255]: input `image` `(batch, height, width, channels)`, float32; output
    `probabilities` (`logits` if the model ends without an activation).

    Args:
        model: a Keras classifier, in any dtype policy; exported in float32.
        directory: where the artifacts go; made if missing.
        targets: names from `keras_resnet.export.TARGETS`.
        calibration: images for int8, RGB in [0, 255], as at evaluation: not augmented.
        images: held-out images to verify on. By default every fourth calibration image, which is then not used for
            calibration; without those, noise, which proves equal arithmetic but says little of accuracy.
        labels: the classes of `images`, to measure accuracy.
        overwrite: whether artifacts that are there already may be replaced.
        progress: called with the name of every step and the share that is done.

    Returns:
        The report; its first row is the Keras model itself.

    Raises:
        ValueError: an unknown target, an impossible model, or images that cannot be right.
        FileExistsError: an artifact is there already.
        ImportError: a target's packages are not installed.
        ExportError: an artifact is outside its target's limits; it is not kept, the ones that agree are.
    """
    check_classifier(model)
    chosen = _choose(targets, calibration is not None)
    directory = Path(directory)
    _refuse_existing(directory, chosen, overwrite)
    calibration, images, labels = _images(model, calibration, images, labels)
    single = as_float32(model)
    keras_runner = KerasRunner(single)
    expected = keras_runner.predict(images)

    with partial_directory(directory) as staging:
        source = ExportSource(single, calibration, Path(tempfile.mkdtemp(dir=staging)))
        written = []
        for index, target in enumerate(chosen):
            progress(target.name, index / (len(chosen) + 1))
            written.append(_write_and_run(target, source, staging / target.file_name, expected, images, labels))
        progress("latency", len(chosen) / (len(chosen) + 1))
        keras_path = source.workspace / "model.keras"
        single.save(keras_path)
        runners = {"keras": keras_runner, **{item.target.name: item.runner for item in written}}
        latencies = median_latencies(runners, images[0])
        rows = [
            ArtifactReport("keras", None, size_of(keras_path), compare(expected, expected, labels), latencies["keras"])
        ]
        for item in written:
            name = item.target.file_name
            size = size_of(item.path)
            latency = latencies[item.target.name]
            rows.append(ArtifactReport(item.target.name, name, size, item.comparison, latency, item.disagreements))
            if not item.disagreements:
                publish(item.path, directory / name)
    report = ExportReport(tuple(rows))
    if report.failures:
        raise ExportError(report)
    return report


def _choose(targets: Sequence[str], calibrated: bool) -> list[Target]:
    unknown = [name for name in targets if name not in TARGETS]
    if unknown or not targets or isinstance(targets, str):
        raise ValueError(f"Expected `targets` among {list(TARGETS)}. Received: {targets!r}")
    chosen = [TARGETS[name] for name in dict.fromkeys(targets)]
    for target in chosen:
        if target.needs_calibration and not calibrated:
            raise ValueError(
                f"Expected `calibration` images for the target {target.name!r}, which takes its ranges from them. "
                "Received: none. Pass images like those the network will see"
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
    if calibration is not None:
        calibration = calibration_images(calibration, shape)
    if images is not None:
        images = image_array(images, shape, "images")
        labels = None if labels is None else np.asarray(labels)
        if labels is not None and labels.shape != (len(images),):
            raise ValueError(f"Expected one label per image, {len(images)}. Received: labels of shape {labels.shape}")
        return calibration, images, labels
    if labels is not None:
        raise ValueError("Expected `images` together with `labels`. Received: labels only")
    if calibration is not None:
        held_out = np.arange(len(calibration)) % 4 == 3
        return calibration[~held_out], calibration[held_out], None
    size = tuple(side or 224 for side in shape[1:3])
    noise = np.random.default_rng(0).integers(0, 256, (_NOISE_IMAGES, *size, shape[3]))
    return None, noise.astype(np.float32), None


def _write_and_run(
    target: Target,
    source: ExportSource,
    path: Path,
    expected: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray | None,
) -> _Written:
    target.write(source, path)
    runner = load_runner(path)
    comparison = compare(expected, runner.predict(images), labels)
    return _Written(target, path, runner, comparison, tuple(disagreements(comparison, target.limits)))
