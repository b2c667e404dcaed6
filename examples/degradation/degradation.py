"""Deeper plain networks train worse, residual ones do not: He et al. 2015, figure 6, in small.

    python examples/degradation/degradation.py folder:cifar10_jpeg --epochs 3

trains each network by the paper's recipe, compressed to so many epochs, and writes `curves.csv` and
`curves.png` into the folder `--output`. After an interruption, the same command goes on; other
networks are added to the curves that are there. Prints the last errors of every network.
"""

import argparse
import csv
import math
from pathlib import Path

import keras
from matplotlib.figure import Figure

import keras_resnet
from keras_resnet.data import load_data
from keras_resnet.training import find_recipe, train

RECIPE = find_recipe("he2015-cifar10")
#: Training error is that of so many batches at a time, as the network then was, augmented images.
WINDOW = 50
COLUMNS = ("step", "training_error", "validation_error")


class Curve(keras.callbacks.Callback):
    """Writes `step,training_error,validation_error`, in percent, into a file as they come."""

    def __init__(self, file, batches_per_epoch):
        super().__init__()
        self.file, self.batches_per_epoch = file, batches_per_epoch

    def on_train_begin(self, logs=None):
        self.step = int(self.model.optimizer.iterations)
        # What came after the checkpoint that an interrupted run goes on from is done again.
        self.rows = [row for row in read(self.file) if int(row["step"]) <= self.step]

    def on_epoch_begin(self, epoch, logs=None):
        # In the middle of an epoch, what its metrics have seen before is known after a window only.
        at_start = self.step % self.batches_per_epoch == 0
        self.before = (0, 0.0) if at_start else None

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        seen = (self.step - 1) % self.batches_per_epoch + 1
        if seen % WINDOW and seen != self.batches_per_epoch:
            return
        wrong = seen * (1 - logs["accuracy"])  # Keras' figures are means since the epoch's start.
        if self.before is not None:
            error = 100 * (wrong - self.before[1]) / (seen - self.before[0])
            self.rows.append({"step": self.step, "training_error": f"{error:.2f}"})
        self.before = seen, wrong

    def on_epoch_end(self, epoch, logs=None):
        if self.rows and int(self.rows[-1]["step"]) == self.step:
            self.rows[-1]["validation_error"] = f"{100 * (1 - logs['val_accuracy']):.2f}"
        write(self.file, self.rows, COLUMNS)


def read(file):
    """Rows of a CSV file, as dicts of strings; none if there is no file."""
    return list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []


def write(file, rows, columns):
    """Writes them, under another name first."""
    partial = file.with_suffix(".partial")
    with partial.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(file)


def draw(rows, file):
    """Plain networks on the left, residual ones on the right, the deeper the darker."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind in zip(panels, ("plainnet", "resnet"), strict=True):
        names = {row["network"] for row in rows if row["network"].startswith(kind)}
        for index, name in enumerate(sorted(names)):
            shade = (0.0, 0.6 - 0.6 * (index + 1) / len(names), 0.9 - 0.5 * index / len(names))
            for column, style, label in zip(COLUMNS[1:], ("-", "o"), (name, None), strict=True):
                points = [row for row in rows if row["network"] == name and row[column]]
                steps = [int(row["step"]) for row in points]
                axes.plot(
                    steps, [float(p[column]) for p in points], style, color=shade, label=label
                )
        axes.set(title=f"{kind}: training (line), validation (dots)", xlabel="step")
        axes.grid(color="#dddddd")
        axes.legend(frameon=False)
    panels[0].set_ylabel("error in %")
    figure.savefig(file, dpi=100)


networks = ["plainnet20", "resnet20", "plainnet56", "resnet56"]
parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("data", help="CIFAR-10, e.g. folder:PATH or cifar:PATH")
parser.add_argument("--networks", nargs="+", default=networks)
parser.add_argument("--epochs", type=float, default=3)
parser.add_argument("--output", type=Path, default=Path("runs/degradation"))
given = parser.parse_args()

data = load_data(given.data)
for name in given.networks:
    (given.output / name).mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(1)
    model = keras_resnet.create_model(name, classes=len(data[0].class_names))
    curve = Curve(given.output / f"{name}.csv", math.ceil(len(data[0]) / RECIPE.batch_size))
    train(model, data, RECIPE, given.output / name, epochs=given.epochs, seed=1, callbacks=[curve])
files = sorted(given.output.glob("*net*.csv"))
rows = [{"network": file.stem, **row} for file in files for row in read(file)]
write(given.output / "curves.csv", rows, ("network", *COLUMNS))
draw(rows, given.output / "curves.png")
for name in given.networks:
    *_, last = [row for row in rows if row["network"] == name]
    errors = f"training error {last[COLUMNS[1]]} %, validation error {last[COLUMNS[2]]} %"
    print(f"{name}: {errors}")
