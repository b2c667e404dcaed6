"""tf.data pipelines: uint8 batches whose order is a function of (seed, epoch, step)."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from keras_resnet.data.sources import LabeledImages

Augmentation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def steps_per_epoch(data: LabeledImages, batch_size: int) -> int:
    """Batches that show every image once; the last one may be smaller."""
    return math.ceil(len(data) / batch_size)


def training_batches(
    data: LabeledImages,
    batch_size: int,
    epochs: int,
    *,
    seed: int,
    augment: Augmentation | None = None,
) -> tf.data.Dataset:
    """Shuffled, augmented batches for all `epochs`, in one dataset of known cardinality.

    Pass it to `fit` with `steps_per_epoch=steps_per_epoch(data, batch_size)`. Every epoch is a
    permutation of all images; permutation and augmentation depend on the seed, the epoch and the
    image alone.

    Args:
        data: the images.
        batch_size: images per batch; the last batch of an epoch may hold fewer.
        epochs: how many epochs the dataset lasts.
        seed: seed of order and augmentation.
        augment: function of an image and a seed of two integers, such as `transforms.pad_and_crop`.

    Returns:
        A dataset of `epochs * steps_per_epoch` elements `(images, labels)`: uint8 `(batch, height,
        width, 3)`, RGB in [0, 255], and int32 `(batch,)`.
    """
    images, labels = tf.constant(data.images), tf.constant(data.labels)
    order_seed, augmentation_seed = tf.unstack(tf.random.split([seed, 0], num=2))

    def batches_of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        seed_of_epoch = tf.random.fold_in(order_seed, epoch)
        order = tf.random.experimental.stateless_shuffle(tf.range(len(data)), seed=seed_of_epoch)
        examples = tf.data.Dataset.from_tensor_slices(order).map(lambda index: (epoch, index))
        return examples.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size)

    def load(epoch: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = images[index]
        if augment is not None:
            seed_of_image = tf.random.fold_in(tf.random.fold_in(augmentation_seed, epoch), index)
            image = tf.ensure_shape(augment(image, seed_of_image), images.shape[1:])
        return image, labels[index]

    dataset = tf.data.Dataset.range(epochs, output_type=tf.int32).flat_map(batches_of_epoch)
    steps = epochs * steps_per_epoch(data, batch_size)
    return dataset.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(data: LabeledImages, batch_size: int) -> tf.data.Dataset:
    """Every image exactly once, in order, as batches `(images, labels)` as in training."""
    return (
        tf.data.Dataset.from_tensor_slices((data.images, data.labels))
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )
