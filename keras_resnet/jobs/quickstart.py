"""`quickstart()`: training on handwritten digits, export, verification and a report."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from keras_resnet.data import LabeledImages, load_digits
from keras_resnet.export import TARGETS as ALL_TARGETS, ExportError, ExportReport, export
from keras_resnet.export.model import check_backend
from keras_resnet.export.report.page import html_table
from keras_resnet.export.runtime import KerasRunner
from keras_resnet.networks.builders import ResNet20
from keras_resnet.support.extras import installed_versions
from keras_resnet.support.files import held, partial_directory, publish
from keras_resnet.support.pages import links, page, picture, section
from keras_resnet.support.terminal import console, progress_bar
from keras_resnet.training import RECIPES, TrainResult, train

MODEL_FILE = "model.keras"
REPORT_FILES = ("report.json", "report.html")
#: Folder for a run whose artifacts disagree, which is kept for inspection.
FAILED = "failed-run"

_CALIBRATION_IMAGES = 200

_TFLITE = ("tflite-float32", "tflite-float16", "tflite-dynamic", "tflite-int8")

#: One target per format and precision; other targets differ in input and output types or layout.
TARGETS = tuple(ALL_TARGETS[name] for name in ("saved_model", *_TFLITE, "onnx"))

#: All results of a run. The reports come last, so that they exist only if everything else does.
_RESULTS = [
    MODEL_FILE,
    *(name for target in TARGETS for name in (target.file_name, *target.companions)),
    *REPORT_FILES,
]


def quickstart(
    output: Path, epochs: int | None = None, seed: int = 0, overwrite: bool = False
) -> ExportReport:
    """Train a ResNet-20 on scikit-learn's digits, export and verify it, and write a report.

    TensorFlow is switched to deterministic operators, so that on the CPU of one machine the same
    seed gives the same weights.

    Args:
        output: directory for the model, its artifacts and the reports; created if it is missing.
        epochs: number of training epochs; None: as in the recipe `quick-digits`.
        seed: random seed of initial weights, data order and augmentation.
        overwrite: whether to replace existing results, when the new ones are complete.

    Returns:
        The report of the export.

    Raises:
        ValueError: If `epochs` is not positive, `output` is not writable, or another process is
            using it.
        RuntimeError: If the Keras backend is not TensorFlow.
        FileExistsError: If `output` already contains results.
        ImportError: If a package of the extra `export` is not installed.
        OSError: If the disk is full.
        ExportError: If an artifact disagrees with Keras; the run is kept in `output/failed-run`.
    """
    recipe = RECIPES["quick-digits"]
    if epochs is not None:
        if epochs < 1:
            raise ValueError(f"Expected `epochs` to be at least 1. Received: {epochs}")
        recipe = recipe.lasting(epochs)
    check_backend()
    for target in TARGETS:
        target.require_modules()
    started = time.perf_counter()
    with held(output), partial_directory(output) as staging:
        existing = [name for name in _RESULTS if (output / name).exists()]
        if existing and not overwrite:
            raise FileExistsError(
                f"Expected an output directory without results. Received: {output}, which contains "
                f"{', '.join(existing)}. Choose another directory, or pass `overwrite=True`"
            )
        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(seed)
        data = load_digits()
        console.print(f"Digits: {len(data[0])} to train on, {len(data[1])} held out.")
        model = ResNet20(classes=len(data[0].class_names))
        console.print(f"Training {model.name}, {recipe.duration:g} epochs:")
        result = train(model, data, recipe, seed=seed)
        model.save(staging / MODEL_FILE)
        report, failure = _export(model, data, staging)
        console.print(report.to_table())
        seconds = time.perf_counter() - started
        about = {"seed": seed, "recipe": recipe.as_dict(), "seconds": round(seconds, 1)}
        _write_reports(staging, model, result, report, data[1], about)
        if failure is not None:
            made = [path for path in staging.iterdir() if not path.name.startswith(".")]
            (staging / FAILED).mkdir()
            for path in made:
                path.rename(staging / FAILED / path.name)
            publish(staging, [FAILED])
            console.print(f"The run is kept in {output / FAILED}")
            raise failure
        publish(staging, _RESULTS)
    console.print(f"Report: {output / 'report.html'} and {output / 'report.json'}")
    console.print(f"Done in {seconds:.0f} s.")
    return report


def _export(
    model: keras.Model, data: tuple[LabeledImages, LabeledImages], directory: Path
) -> tuple[ExportReport, ExportError | None]:
    """Export to all targets, and return the report and the error, if any, to raise later."""
    train_data, test_data = data
    names = [target.name for target in TARGETS]
    images: dict[str, Any] = {"images": test_data.images, "labels": test_data.labels}
    with progress_bar("Exporting") as step:
        try:
            calibration = _calibration(train_data)
            return export(
                model, directory, names, calibration=calibration, progress=step, **images
            ), None
        except ExportError as error:
            return error.report, error


def _calibration(data: LabeledImages) -> np.ndarray:
    """Return the first training images of every class, equally many per class."""
    per_class = _CALIBRATION_IMAGES // len(data.class_names)
    chosen = [
        np.flatnonzero(data.labels == label)[:per_class] for label in range(len(data.class_names))
    ]
    return data.images[np.concatenate(chosen)]


def _write_reports(
    directory: Path,
    model: keras.Model,
    result: TrainResult,
    report: ExportReport,
    test_data: LabeledImages,
    about: dict[str, Any],
) -> None:
    """Write `report.json`, which includes the values `about` the run, and `report.html`."""
    data = {
        "model": model.name,
        "data": {"name": "scikit-learn digits", "test_images": len(test_data)},
        **about,
        "optimizer_steps": result.steps,
        "history": result.history,
        "accuracy": report.artifacts[0].comparison.accuracy,
        **report.to_dict(),
        "failures": report.failures,
        "versions": installed_versions(("keras-resnets", "keras", "tensorflow")),
        "python": platform.python_version(),
    }
    (directory / "report.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

    verdict = "; ".join(report.failures) or (
        "All artifacts agree with Keras within the limits of their targets."
    )
    versions = ", ".join(f"{name} {number}" for name, number in data["versions"].items())
    grid = _prediction_grid(test_data, KerasRunner(model).predict(test_data.images))
    sections = [
        f'<p class="verdict{" failed" if report.failures else ""}">{verdict}</p>',
        f"<p>{model.name}, {about['recipe']['duration']:g} epochs on scikit-learn's handwritten "
        f"digits, seed {about['seed']}; {data['accuracy']:.2%} of the {len(test_data)} held-out "
        "digits are classified correctly.</p>",
        section("Artifacts", html_table(report)),
        section("Training", picture(_training_curve(result), "Loss and accuracy by epoch")),
        section(
            "Predictions on held-out digits",
            picture(grid, "Digits with predicted and true classes"),
        ),
        links(["report.json", "model.keras"]),
        f"<footer>{versions}, Python {data['python']}. Latency: median at batch 1.</footer>",
    ]
    html = page("ResNet-20 on handwritten digits", sections)
    (directory / "report.html").write_text(html, encoding="utf-8")


def _training_curve(result: TrainResult) -> Figure:
    # One plot below the other, and narrow enough for a phone.
    figure = Figure(figsize=(5, 6), layout="constrained")
    epochs = range(1, len(result.history["loss"]) + 1)
    for axes, metric in zip(figure.subplots(2, 1), ("loss", "accuracy"), strict=True):
        axes.plot(epochs, result.history[metric], marker=".", label="training")
        axes.plot(epochs, result.history[f"val_{metric}"], marker=".", label="held out")
        axes.set(xlabel="epoch", ylabel=metric)
        axes.grid(alpha=0.3)
        axes.legend()
    # On a linear axis, the held-out loss of the first epochs would flatten the rest of the curve.
    figure.axes[0].set_yscale("log")
    figure.axes[1].set_ylim(top=1)
    return figure


def _prediction_grid(data: LabeledImages, probabilities: np.ndarray) -> Figure:
    """Plot test images with their predictions, wrong ones first, in red, with the true class."""
    predicted = probabilities.argmax(-1)
    order = np.argsort(predicted == data.labels, kind="stable")[:40]
    figure = Figure(figsize=(5, 9.5))
    for axes, index in zip(figure.subplots(8, 5).flat, order, strict=True):
        guess, truth = data.class_names[predicted[index]], data.class_names[data.labels[index]]
        axes.imshow(data.images[index])
        axes.axis("off")
        wrong = guess != truth
        label = f"{guess} (is {truth})" if wrong else f"{guess}"
        title = f"{label}\n{probabilities[index].max():.0%}"
        axes.set_title(title, color="#b00020" if wrong else "black", fontsize=9)
    figure.tight_layout()
    return figure
