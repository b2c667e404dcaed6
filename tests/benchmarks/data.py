"""Print the images per second of training pipelines, of plain JPEG decoding, and of Keras' tools.

    python -m tests.benchmarks.data FOLDER [--seconds 3] [--rounds 3]

FOLDER has a folder of photographs for each class. The rates are medians of rounds in turn, after
the start. Files are read from the operating system's cache. Only ratios can be compared between
machines.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

#: Smallest number of links to the photographs: short epochs would slow the pipelines down.
IMAGES = 4000
BATCH, SIZE = 64, 224


def link(folder: Path, target: Path) -> None:
    """Create at least `IMAGES` links to the photographs."""
    photographs = sorted(path for path in folder.resolve().glob("*/*") if path.is_file())
    for copy in range(-(-IMAGES // len(photographs))):
        for path in photographs:
            place = target / path.parent.name
            place.mkdir(exist_ok=True)
            (place / f"{copy}-{path.name}").symlink_to(path)


def images_in(dataset: Any, count: Callable[[Any], int]) -> Callable[[], int]:
    iterator = iter(dataset)
    return lambda: count(next(iterator))


def decoding(folder: Path) -> Callable[[], int]:
    """Read and decode every file in full size, and nothing else."""
    import tensorflow as tf

    from keras_resnet.data.sources.folder import load_folder

    def pixel(path: Any) -> Any:
        # Return one pixel, as pictures of different sizes cannot be batched.
        return tf.io.decode_jpeg(tf.io.read_file(path), channels=3)[0, 0]

    source = load_folder(str(folder)).train
    cores = len(os.sched_getaffinity(0))
    # In random order: repeats of a photograph would be read from the processor's caches.
    paths = random.Random(0).sample(source.paths, len(source.paths))
    dataset = tf.data.Dataset.from_tensor_slices(paths).repeat()
    dataset = dataset.map(pixel, num_parallel_calls=cores).batch(BATCH).prefetch(3)
    return images_in(dataset, len)


def ours(folder: Path, augmentation: Any) -> Callable[[], int]:
    from keras_resnet.data import DataConfig, training_batches
    from keras_resnet.data.sources.folder import load_folder

    source = load_folder(str(folder)).train
    config = DataConfig("folder", size=SIZE, batch_size=BATCH, augmentation=augmentation)
    return images_in(training_batches(source, config, 10_000), lambda batch: len(batch[1]))


def keras_pipeline(folder: Path, side: int, layers: list[Any]) -> Callable[[], int]:
    """Read by `image_dataset_from_directory` at `side` x `side` pixels, then apply Keras layers."""
    import keras
    import tensorflow as tf

    dataset = keras.utils.image_dataset_from_directory(
        folder, image_size=(side, side), batch_size=BATCH, seed=0, verbose=False
    ).repeat()

    def augment(images: Any, labels: Any) -> tuple[Any, Any]:
        for layer in layers:
            images = layer(images, training=True)
        return images, labels

    dataset = dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return images_in(dataset.prefetch(tf.data.AUTOTUNE), lambda batch: len(batch[1]))


def keras_he2015(folder: Path) -> Callable[[], int]:
    """Augment similarly to he2015: with one scale, 256, and without keeping the aspect ratio."""
    from keras import layers

    return keras_pipeline(
        folder, 256, [layers.RandomCrop(SIZE, SIZE), layers.RandomFlip("horizontal")]
    )


def keras_inception(folder: Path) -> Callable[[], int]:
    """Augment similarly to inception: with windows of one size, 64 % of a picture of 320 x 320.

    Keras has no layer that crops and resizes windows of random size and shape. These layers do less
    work.
    """
    from keras import layers

    crop, resize = layers.RandomCrop(256, 256), layers.Resizing(SIZE, SIZE)
    return keras_pipeline(folder, 320, [crop, resize, layers.RandomFlip("horizontal")])


def works(folder: Path) -> dict[str, Callable[[], int]]:
    from keras_resnet.data import AUGMENTATIONS, Augmentation

    he2015, inception = Augmentation("he2015", flip=0.5), Augmentation("inception", flip=0.5)
    result = {
        "bare decoding": decoding(folder),
        "Keras, like he2015": keras_he2015(folder),
        "Keras, like inception": keras_inception(folder),
    }
    for name, how in (("he2015", he2015), ("inception", inception)):
        result[name] = ours(folder, how)
        result[f"{name}, antialias"] = ours(folder, dataclasses.replace(how, antialias=True))
    result["he2015, with lighting"] = ours(folder, AUGMENTATIONS["he2015"])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    from keras_resnet.data.check.benchmark import rates_in_turn

    with tempfile.TemporaryDirectory() as directory:
        link(arguments.folder, Path(directory))
        rates = rates_in_turn(works(Path(directory)), arguments.seconds, arguments.rounds)
    for name, rate in rates.items():
        line = f"{name}: {rate:.0f} images/s"
        if name.startswith(("he2015", "inception")):
            crop = name.split(",")[0]
            keras = rate / rates[f"Keras, like {crop}"]
            line += f", {keras:.2f} times Keras, {rate / rates['bare decoding']:.2f} times decoding"
        print(line)


if __name__ == "__main__":
    main()
