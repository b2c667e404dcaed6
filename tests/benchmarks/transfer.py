"""Fine-tune networks on real pictures, and fail if that gains less accuracy than required.

    python -m tests.benchmarks.transfer halves CIFAR10 --output DIR
    python -m tests.benchmarks.transfer digits --output DIR
    python -m tests.benchmarks.transfer photographs FOLDER --output DIR

`halves`: a ResNet-20 learns five classes of CIFAR-10 (a folder with `train` and `validation`), and
is fine-tuned on 50 images of each of the other five. `digits`: a network that has learned
scikit-learn's handwritten digits is fine-tuned on 5 printed images of each digit. Both have to be 5
percentage points better than the same network from random weights, with the accuracy of a linear
probe in between. `photographs`: a ResNet-50 at 224x224 pixels goes from folders to artifacts by
commands; seconds and peak memory are printed. Its folders are named by WordNet ids, as in ImageNet;
ids below n02666196 are animals. Run the same command again to resume.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import keras_resnet
from keras_resnet.data import LabeledImages, Source, load_data
from keras_resnet.training import Phase, find_recipe, finetune, override, train

#: Required gain of fine-tuning over random weights, in percentage points.
GAIN = 5.0

#: Number of images of each class of CIFAR-10, by half of the classes and part of data; None: all.
COUNTS = {
    ("first", "train"): None,
    ("first", "validation"): None,
    ("second", "train"): 50,
    ("second", "validation"): 200,
}

#: Number of printed images of each digit for training and for validation.
DIGITS = (5, 20)

#: Epochs of the first training, and of the two that compare fine-tuning with random weights.
PRETRAINING, EPOCHS = 4, 60

Data = tuple[Source, Source]


def halves(folder: Path, output: Path) -> list[str]:
    """Train on half of the classes of CIFAR-10, and fine-tune on the other half."""
    names = sorted(path.name for path in (folder / "train").iterdir())
    for part in ("train", "validation"):
        for half, chosen in (("first", names[:5]), ("second", names[5:])):
            for name in chosen:
                link(folder / part / name, output / half / part / name, COUNTS[half, part])
    keras.utils.set_random_seed(0)
    base = keras_resnet.ResNet20(classes=5)
    recipe = override(
        find_recipe("quick-cifar10"),
        {"duration": PRETRAINING, "schedule.points": ((0, 0.15), (1, 1), (PRETRAINING, 0))},
    )
    done = train(base, f"folder:{output / 'first'}", recipe, output / "base", seed=0)
    print(f"{', '.join(names[:5])}: {done.best:.2%} after {PRETRAINING} epochs", flush=True)
    return compared(base, load_data(f"folder:{output / 'second'}"), output, flip=0.5)


def digits(_: Path | None, output: Path) -> list[str]:
    """Train on handwritten digits, and fine-tune on printed ones."""
    keras.utils.set_random_seed(0)
    base = keras_resnet.ResNet20()
    done = train(base, "digits", "quick-digits", output / "base", seed=0)
    print(f"Handwritten digits: {done.best:.2%}", flush=True)
    return compared(base, (printed(DIGITS[0], 1), printed(DIGITS[1], 2)), output, flip=0)


def compared(base: keras.Model, data: Data, output: Path, flip: float) -> list[str]:
    """Compare fine-tuning with training from random weights; return unmet expectations."""
    changes = {"augmentation.crop": "pad", "augmentation.flip": flip, "patience": None}
    recipe = override(find_recipe("finetune"), changes)
    phases = (Phase("head", EPOCHS // 4), Phase("backbone", EPOCHS - EPOCHS // 4, 0.5))
    tuned = finetune(base, data, output / "finetune", recipe=recipe, phases=phases)
    assert tuned.baselines is not None
    probe = tuned.baselines.linear_probe
    fresh = keras_resnet.ResNet20(classes=len(data[0].class_names))
    # The best of three learning rates, as random weights need another one than trained weights.
    scratch = max(
        train(
            fresh_copy(fresh),
            data,
            override(recipe, {"optimizer.learning_rate": rate}),
            output / f"scratch-{rate}",
            epochs=EPOCHS,
            seed=0,
        ).best
        for rate in (0.02, 0.05, 0.1)
    )
    images = [len(part) for part in data]
    print(f"{images[0]} training images, {images[1]:,} validation images")
    print(f"From random weights {scratch:.2%}, linear probe {probe:.2%}, ", end="")
    print(f"fine-tuned {tuned.best:.2%}", flush=True)
    wrong = []
    if 100 * (tuned.best - scratch) < GAIN:
        wrong.append(f"Expected fine-tuning to gain {GAIN} points over random weights")
    if not scratch < probe < tuned.best:
        wrong.append("Expected the linear probe between random weights and fine-tuning")
    return wrong


def fresh_copy(model: keras.Model) -> keras.Model:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def printed(per_class: int, seed: int) -> LabeledImages:
    """Return rotated and shifted digits of Matplotlib's fonts, as coarse as scikit-learn's."""
    from matplotlib import get_data_path

    folder = Path(get_data_path()) / "fonts" / "ttf"
    fonts = sorted(folder.glob("DejaVuS*[!y].ttf"))  # The fonts "…Display.ttf" have no digits.
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(10, dtype=np.int32), per_class)
    images = np.empty((len(labels), 32, 32, 3), np.uint8)
    for index, label in enumerate(labels):
        font = ImageFont.truetype(fonts[random.integers(len(fonts))], int(random.integers(32, 41)))
        mask = Image.new("L", (32, 32))
        place = tuple(16 + random.uniform(-2, 2, 2))
        ImageDraw.Draw(mask).text(place, str(label), 255, font, anchor="mm")
        mask = mask.rotate(random.uniform(-15, 15), Image.Resampling.BILINEAR)
        coarse = mask.resize((8, 8), Image.Resampling.BOX)
        fine = coarse.resize((32, 32), Image.Resampling.BILINEAR)
        images[index] = np.asarray(fine)[..., None]
    return LabeledImages(images, labels, tuple("0123456789"), name="printed digits")


def photographs(folder: Path, output: Path) -> list[str]:
    """Train, fine-tune and export a ResNet-50 by commands; return unmet expectations."""
    fraction = ["--validation-fraction", "0.2"]
    # The first training has other classes, so that fine-tuning needs a new head.
    for number, path in enumerate(sorted(folder.glob("n*"))):
        link(path, output / "parts" / f"part{number % 3}")
        link(path, output / "kinds" / ("animal" if path.name < "n02666196" else "thing"))
    parts, kinds = (["--data", f"folder:{output / name}", *fraction] for name in ("parts", "kinds"))
    commands = (
        # `precise_bn` makes the statistics fit the weights, as fine-tuning freezes them.
        ["train", "--model", "resnet50", *parts, "--recipe", "finetune", "--epochs", "1",
         "--set", "precise_bn=4", "--output", str(output / "base")],
        ["finetune", "--model", str(output / "base" / "last.keras"), *kinds,
         "--phases", "head:1,C5:1:0.1,backbone:1:0.1", "--output", str(output / "run"),
         "--export", "onnx,tflite-int8"],
    )  # fmt: skip
    for command in commands:
        start = time.perf_counter()
        program = Path(sys.executable).with_name("keras-resnet")
        done = subprocess.run([program, *command], check=False)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        print(f"{command[0]}: {seconds:.0f} s, at most {peak:.1f} GB so far", flush=True)
        if done.returncode:
            return [f"Expected exit code 0. Received: {done.returncode}"]
    return []


def link(folder: Path, target: Path, count: int | None = None) -> None:
    """Create links to the first pictures of a folder."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.resolve().iterdir())[:count]:
        place = target / path.name
        if not place.is_symlink():
            place.symlink_to(path)


PROOFS = {"halves": halves, "digits": digits, "photographs": photographs}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("proof", choices=PROOFS)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    wrong = PROOFS[arguments.proof](arguments.folder, arguments.output)
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
