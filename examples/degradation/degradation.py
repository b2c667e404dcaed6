"""Deeper plain networks train worse, deeper residual ones do not: He et al. 2015, figure 6, in small.

    python examples/degradation/degradation.py folder:cifar10_jpeg --epochs 3

trains each network by the paper's recipe, compressed to so many epochs, and writes `curves.csv` and
`curves.png` into the folder `--output`. After an interruption, the same command goes on; further
networks are added to the curves that are there. Prints:

    plainnet20: training error 46.9 %, validation error 49.4 %
    ...
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


class Curve(keras.callbacks.Callback):
    """Writes `step,training_error,validation_error`, in percent, into a file after every epoch."""

    def __init__(self, file, batches_per_epoch):
        super().__init__()
        self.file, self.batches_per_epoch = file, batches_per_epoch

    def step(self):
        return int(self.model.optimizer.iterations)

    def on_train_begin(self, logs=None):
        rows = read(self.file) if self.file.exists() else []
        # What came after the checkpoint that an interrupted run goes on from is done again.
        self.rows = [row for row in rows if int(row["step"]) <= self.step()]
        self.seen = self.wrong = None

    def on_epoch_begin(self, epoch, logs=None):
        # In the middle of an epoch, what its metrics have seen before is known after a window only.
        at_start = self.step() % self.batches_per_epoch == 0
        self.seen, self.wrong = (0, 0.0) if at_start else (None, None)

    def on_train_batch_end(self, batch, logs=None):
        seen = (self.step() - 1) % self.batches_per_epoch + 1
        if seen % WINDOW and seen != self.batches_per_epoch:
            return
        wrong = seen * (1 - logs["accuracy"])  # Keras' figures are means since the epoch's start.
        if self.seen is not None:
            error = 100 * (wrong - self.wrong) / (seen - self.seen)
            self.rows.append({"step": self.step(), "training_error": f"{error:.2f}"})
        self.seen, self.wrong = seen, wrong

    def on_epoch_end(self, epoch, logs=None):
        if self.rows and self.rows[-1]["step"] == self.step():
            self.rows[-1]["validation_error"] = f"{100 * (1 - logs['val_accuracy']):.2f}"
        write(self.file, self.rows, ("step", "training_error", "validation_error"))


def read(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def write(file, rows, columns):
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
    names = sorted({row["network"] for row in rows}, key=lambda name: int(name.split("net")[1]))
    for axes, kind in zip(panels, ("plainnet", "resnet"), strict=True):
        alike = [name for name in names if name.startswith(kind)]
        for index, name in enumerate(alike):
            own = [row for row in rows if row["network"] == name]
            shade = (0.0, 0.6 - 0.6 * (index + 1) / len(alike), 0.9 - 0.5 * index / len(alike))
            for column, style, label in (("training", "-", name), ("validation", "o", None)):
                points = [row for row in own if row[f"{column}_error"]]
                steps = [int(row["step"]) for row in points]
                errors = [float(row[f"{column}_error"]) for row in points]
                axes.plot(steps, errors, style, color=shade, label=label)
        axes.set(title=f"{kind}: training (line), validation (dots)", xlabel="step")
        axes.grid(color="#dddddd")
        axes.legend(frameon=False)
    panels[0].set_ylabel("error in %")
    figure.savefig(file, dpi=100)


parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("data", help="CIFAR-10, e.g. folder:PATH or cifar:PATH")
parser.add_argument("--networks", nargs="+", default=["plainnet20", "resnet20", "plainnet56", "resnet56"])
parser.add_argument("--epochs", type=float, default=3)
parser.add_argument("--output", type=Path, default=Path("runs/degradation"))
arguments = parser.parse_args()

data = load_data(arguments.data)
batches_per_epoch = math.ceil(len(data[0]) / RECIPE.batch_size)
for name in arguments.networks:
    folder = arguments.output / name
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(1)
    classes = len(data[0].class_names)
    model = keras_resnet.create_model(name, classes=classes)
    curve = Curve(arguments.output / f"{name}.csv", batches_per_epoch)
    train(model, data, RECIPE, folder, epochs=arguments.epochs, seed=1, callbacks=[curve])
rows = [
    {"network": file.stem, **row}
    for file in sorted(arguments.output.glob("*net*.csv"))
    for row in read(file)
]
write(
    arguments.output / "curves.csv",
    rows,
    ("network", "step", "training_error", "validation_error"),
)
draw(rows, arguments.output / "curves.png")
for name in arguments.networks:
    last = [row for row in rows if row["network"] == name][-1]
    errors = last["training_error"], last["validation_error"]
    print(f"{name}: training error {errors[0]} %, validation error {errors[1]} %")
