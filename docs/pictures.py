"""Draw the pictures of the documentation with the package, and keep them small."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from docs.blocks import DOCS

#: Runs a `keras-resnet` command in a folder.
Run = Callable[[list[str], Path], str]

FOLDER = DOCS / "pictures"
#: One of each kind of the table on the page Networks.
NETWORKS = (
    "resnet18",
    "plainnet18",
    "resnet50",
    "resnet50v2",
    "resnext50_32x4d",
    "resnet50d",
    "seresnet18",
    "resnet20",
    "wideresnet50_2",
    "resnetblur50",
    "resnet50_gn",
    "wideresnet28_10",
)


def shrink(source: Path, target: Path, width: int = 1000, colors: int = 48) -> None:
    """Save a picture as a small PNG: not wider than `width` pixels, with a palette."""
    with Image.open(source) as image:
        picture = image.convert("RGB")
    if picture.width > width:
        height = round(picture.height * width / picture.width)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    palette = picture.quantize(colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(target, optimize=True)


def save(figure: object, name: str) -> None:
    """Save a figure of Matplotlib."""
    path = FOLDER / name
    figure.savefig(path, dpi=100)
    shrink(path, path)


def networks(folder: Path, run: Run) -> None:
    """Draw one network of each kind, as `info --plot` does."""
    for name in NETWORKS:
        run(["keras-resnet", "info", name, "--plot", f"{name}.png"], folder)
        shrink(folder / f"{name}.png", FOLDER / f"{name}.png", 460, 24)


def history(folder: Path, run: Run) -> None:
    """Draw the demo's training."""
    from keras_resnet.training.run.history_plot import history_plot

    report = json.loads((folder / "demo-output" / "report.json").read_text("utf-8"))
    save(history_plot(report["history"], "ResNet-20 on handwritten digits"), "history.png")


def evaluation(folder: Path, run: Run) -> None:
    """Draw the confusion matrix and the reliability diagram of the demo's network."""
    from keras_resnet.evaluation import evaluate
    from keras_resnet.evaluation.page import confusion_figure, reliability_figure

    report = evaluate(folder / "demo-output" / "model.keras", "digits")
    save(confusion_figure(report), "confusion.png")
    save(reliability_figure(report), "reliability.png")


def lesion(folder: Path, run: Run) -> None:
    """Draw the errors of the demo's network without each of its blocks."""
    words = ["keras-resnet", "analyze", "lesion", "demo-output/model.keras", "--data", "digits"]
    run([*words, "--several", "1,2", "--output", "analysis"], folder)
    shrink(folder / "analysis" / "lesion.png", FOLDER / "lesion.png")


def gradients(folder: Path, run: Run) -> None:
    """Draw the gradients of networks of 20 and 56 layers; takes three minutes of CPU time."""
    run(["keras-resnet", "analyze", "gradients", "--output", "analysis"], folder)
    shrink(folder / "analysis" / "gradients.png", FOLDER / "gradients.png")


def grad_cam(folder: Path, run: Run) -> None:
    """Lay Grad-CAM over held-out digits, one of each kind."""
    import numpy as np

    from keras_resnet.data import load_digits

    digits = load_digits()[1]
    (folder / "digits").mkdir()
    for kind in range(10):
        pixels = digits.images[np.flatnonzero(digits.labels == kind)[0]]
        Image.fromarray(pixels).save(folder / "digits" / f"{kind}.png")
    words = ["keras-resnet", "analyze", "explain", "demo-output/model.keras", "digits"]
    run([*words, "--output", "explained"], folder)
    row = Image.new("RGB", (10 * 100 - 4, 2 * 100 - 4), "white")
    for kind in range(10):
        for line, source in enumerate(("digits", "explained")):
            picture = Image.open(folder / source / f"{kind}.png").convert("RGB")
            row.paste(picture.resize((96, 96), Image.Resampling.BICUBIC), (100 * kind, 100 * line))
    row.save(folder / "row.png")
    shrink(folder / "row.png", FOLDER / "grad-cam.png", colors=256)


def reports(folder: Path, run: Run) -> None:
    """Photograph the reports of the demo and of an export; needs Chromium."""
    words = ["keras-resnet", "export", "demo-output/model.keras", "--output", "exported"]
    run([*words, "--calibration", "digits", "--targets", "saved_model,tflite-int8,onnx"], folder)
    pages = {
        "demo-report": folder / "demo-output/report.html",
        "export-report": folder / "exported/export.html",
    }
    for name, page in pages.items():
        target = folder / f"{name}.png"
        subprocess.run(
            [
                "chromium",
                "--headless",
                "--no-sandbox",
                "--hide-scrollbars",
                "--window-size=1000,900",
                f"--screenshot={target}",
                page.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
        )
        shrink(target, FOLDER / f"{name}.png", 800, 32)


PICTURES = (networks, history, evaluation, lesion, gradients, grad_cam, reports)
