"""Pretrain a network without labels by SimCLR (Chen et al. 2020), and measure it by a linear probe.

On digits, the probe learns from 50 labeled images. It prints, after 48 seconds on one core (figures
differ between machines; a test requires a margin of more than 5 points):

    linear probe of the random network: 76.7%
    …
    linear probe after pretraining: 89.4%
    margin: +12.8 points

On CIFAR-10, with 50,000 JPEGs for training and 5,000 for validation, `TF_ENABLE_ONEDNN_OPTS=1
python examples/self_supervised.py folder:cifar10_jpeg --epochs 3 --batch 256 --labeled 5000`
prints, after five minutes on one core:

    linear probe of the random network: 37.0%
    …
    linear probe after pretraining: 48.4%
    margin: +11.5 points
"""

from __future__ import annotations

import argparse
from typing import Any

import keras
from keras import layers, ops
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import keras_resnet
from keras_resnet.data import (
    Augmentation,
    DataConfig,
    Source,
    load_data,
    steps_per_epoch,
    training_batches,
)
from keras_resnet.training.transfer.baselines import vectors

SIZE = 32
TEMPERATURE = 0.2


def nt_xent(labels: keras.KerasTensor, projections: keras.KerasTensor) -> keras.KerasTensor:
    """Return SimCLR's loss: each view has to find the other view of its image in the batch.

    Rows 0 and 1 are views of one image, rows 2 and 3 of the next one. The labels are ignored.
    """
    unit = ops.normalize(projections)
    count = ops.shape(unit)[0]
    alike = ops.matmul(unit, ops.transpose(unit)) / TEMPERATURE
    # Exclude each view itself.
    alike -= 1e9 * ops.eye(count)
    return ops.sparse_categorical_crossentropy(
        ops.bitwise_xor(ops.arange(count), 1), alike, from_logits=True
    )


def linear_probe(encoder: keras.Model, train: Source, validation: Source, labeled: int) -> float:
    """Return the validation accuracy of a linear classifier on the frozen network's features.

    It learns from `labeled` training images; cross-validation chooses its regularization.
    """
    x, y = vectors(encoder, train, limit=labeled, batch_size=256)
    others, truth = vectors(encoder, validation, batch_size=256)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    strengths = {"logisticregression__C": (1e-4, 1e-3, 1e-2, 0.1, 1)}
    return float(GridSearchCV(classifier, strengths, cv=3).fit(x, y).score(others, truth))


def main() -> None:
    """Measure a random network by a linear probe, pretrain it, and measure it again."""
    parser = argparse.ArgumentParser(description="SimCLR, and a linear probe of it")
    parser.add_argument("source", nargs="?", default="digits", help="data source for `load_data`")
    # --batch counts views, two for each image; --labeled counts images for the probe.
    for name, default in (("--epochs", 8), ("--batch", 128), ("--labeled", 50)):
        parser.add_argument(name, type=int, default=default)
    args = parser.parse_args()
    if args.batch % 2:
        parser.error(f"Expected an even --batch, as views come in pairs. Received: {args.batch}")

    keras.utils.set_random_seed(0)
    # Digits are gray, and must not be mirrored.
    photos = args.source != "digits"
    colors: dict[str, Any] = {"saturation": 0.4, "hue": 0.1, "flip": 0.5} if photos else {}
    views = Augmentation(
        "inception", area=(0.2, 1), brightness=0.4, contrast=0.4, repeats=2, **colors
    )
    config = DataConfig(
        args.source, size=SIZE, batch_size=args.batch, augmentation=views, drop_remainder=True
    )
    train, validation = load_data(config)

    network = keras_resnet.ResNetConfig("basic", (1, 1), (32, 128), stem="C")
    encoder = keras_resnet.build(network, include_top=False, input_shape=(SIZE, SIZE, 3))
    before = linear_probe(encoder, train, validation, args.labeled)
    print(f"linear probe of the random network: {before:.1%}", flush=True)

    # Gray views keep the network from recognizing images by their colors alone.
    pixels = keras.Input((SIZE, SIZE, 3))
    x = encoder(layers.RandomGrayscale(0.2 if photos else 0.0)(pixels))
    x = layers.Dense(128)(layers.GlobalAveragePooling2D()(x))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    model = keras.Model(pixels, layers.Dense(64)(x), name="simclr")
    steps = steps_per_epoch(train, config)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, args.epochs * steps)
    model.compile(keras.optimizers.Adam(rate), nt_xent, jit_compile=False)
    batches = training_batches(train, config, args.epochs)
    model.fit(batches, epochs=args.epochs, steps_per_epoch=steps, shuffle=False, verbose=2)
    after = linear_probe(encoder, train, validation, args.labeled)
    print(f"linear probe after pretraining: {after:.1%}")
    print(f"margin: {100 * (after - before):+.1f} points")


if __name__ == "__main__":
    main()
