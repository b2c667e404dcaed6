"""tf.data pipelines of uint8 batches whose order depends on the seed, epoch and step only.

The pipelines shuffle indices instead of images, and read and decode records in parallel, in chunks.
Every dataset has a known cardinality: without it, `fit` takes one step too many per epoch (Keras
3.15).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.data.augment.mixing import mix
from keras_resnet.data.augment.transforms import (
    RawImage,
    draw,
    evaluation_image,
    training_image,
)
from keras_resnet.data.bad_records import BadRecords
from keras_resnet.data.config import DataConfig
from keras_resnet.data.order import Order
from keras_resnet.data.reading import PIXELS, Reader, read_tensors
from keras_resnet.data.sources.base import Source
from keras_resnet.data.sources.memory import LabeledImages
from keras_resnet.support.cores import usable_cores

#: Images read by one call into Python. If one of them is damaged, the whole chunk is read again.
CHUNK = 32

#: Chunks that are read in parallel: disks and networks serve several requests faster.
READS = 4

#: Chunks per core that are being decoded or wait for the chunks before them.
WAITING = 2

#: Batches prepared ahead of the model.
_PREFETCHED = 3


#: Function from the shapes of a chunk's images, which of them are JPEGs, and their seeds to the
#: random values of each image.
Draw = Callable[[Any, Any, Any], Any]

#: Function from a `RawImage` and its random values to a uint8 image.
Make = Callable[[Any, Any], Any]


def training_batches(
    source: Source,
    config: DataConfig,
    epochs: int,
    *,
    start_step: int = 0,
    worker: int = 0,
    workers: int = 1,
    bad: BadRecords | None = None,
) -> tf.data.Dataset:
    """Return one dataset of shuffled, augmented batches for all epochs.

    Pass it to `fit` with `steps_per_epoch=steps_per_epoch(source, config, workers)`. Every epoch is
    a permutation of all images. Permutation and augmentation depend on the seed, the epoch and the
    image only, so a dataset with a `start_step` resumes with exactly the next batch. `fit` counts
    epochs from the start of the dataset: with `initial_epoch=e`, pass `start_step=e *
    steps_per_epoch`; to complete an interrupted epoch, call `fit` for its remaining steps alone.

    Under a `tf.distribute` strategy with several replicas in one process, call this function inside
    `strategy.scope()`, so that the last batch of an epoch is dropped if it is not full.

    Args:
        source: the images.
        config: image size, batch size, augmentation and seed.
        epochs: number of epochs, counted from the first step of training.
        start_step: number of steps already taken, which the dataset skips.
        worker: index of this worker, from 0.
        workers: number of workers. Each gets its own share of every batch. All shares together are
            the batch of a single worker; with mixup or CutMix, this holds if each share is a
            multiple of `2 * repeats` images.
        bad: collects the records that cannot be read, each of which is replaced by the next
            readable image of the source.

    Returns:
        A dataset of `epochs * steps_per_epoch - start_step` elements `(images, labels)`. Images are
        uint8 `(batch, size, size, 3)`, RGB in [0, 255]. Labels are int32 `(batch,)`, or with mixup
        or CutMix float32 `(batch, classes)`, the share of each class. `batch` is static with
        `drop_remainder`, several workers or several replicas. Iteration raises
        `tf.errors.InvalidArgumentError` and sets `bad.error` when too many records cannot be read.

    Raises:
        ValueError: there are too few images for one batch, the batch size is not a multiple of the
            number of workers or replicas, or `start_step` is beyond the last epoch.

    Examples:

    ```python
    config = DataConfig("digits", size=32, batch_size=64, augmentation="cifar")
    train, validation = load_data(config)
    model.fit(
        training_batches(train, config, epochs=3),
        steps_per_epoch=steps_per_epoch(train, config),
        epochs=3,
    )
    ```
    """
    order = _order(source, config, worker, workers)
    total = epochs * order.steps
    if not 0 <= start_step <= total:
        raise ValueError(
            f"Expected `start_step` to be at most {total}, that is {epochs} epochs of "
            f"{order.steps} steps. Received: {start_step}"
        )
    augmentation = config.augmentation

    def batches_of_epoch(epoch: Any) -> tf.data.Dataset:
        batches = order.epoch(epoch)
        taken = tf.where(epoch == start_step // order.steps, start_step % order.steps, 0)
        # `fold_in` hashes only its first argument; `split` hashes all of its seed.
        seed = tf.random.split(tf.random.fold_in([config.seed, 1], epoch), num=1)[0, 0]
        return tf.data.Dataset.from_tensor_slices(batches[taken:]).map(lambda ids: (ids, seed))

    records = _records(
        tf.data.Dataset.range(start_step // order.steps, epochs).flat_map(batches_of_epoch),
        order,
        source,
        config,
        bad,
        lambda shapes, encoded, seeds: draw(shapes, encoded, seeds, config.size, augmentation),
        lambda raw, drawn: training_image(raw, drawn, config.eval_protocol, augmentation),
        substitute=True,
    )

    def finish(images: Any, labels: Any, present: Any, seeds: Any) -> tuple[Any, Any]:
        if not order.drop_remainder:
            count = tf.reduce_sum(tf.cast(present, tf.int32))
            images, labels, seeds = images[:count], labels[:count], seeds[:count]
        if not augmentation.mixes:
            return images, labels
        # Seeds of their own, so that mixing does not repeat the random values of the crops.
        seeds += tf.constant([[1, 0]])
        return mix(
            images,
            labels,
            seeds,
            len(source.class_names),
            augmentation.mixup,
            augmentation.cutmix,
            augmentation.repeats,
        )

    return _finished(records.map(finish, num_parallel_calls=tf.data.AUTOTUNE), total - start_step)


def evaluation_batches(
    source: Source,
    config: DataConfig,
    *,
    worker: int = 0,
    workers: int = 1,
    pad: bool = False,
    bad: BadRecords | None = None,
) -> tf.data.Dataset:
    """Return a dataset with every image exactly once, in the order of the source.

    The images are resized and cropped by `config.eval_protocol`.

    Args:
        source: the images.
        config: image size, batch size and protocol.
        worker: index of this worker, from 0.
        workers: number of workers; each gets its own share of every batch.
        pad: whether the last batch is padded with black images of weight 0, so that all batches
            have the same shape. Several workers, and the scope of a strategy with several replicas,
            always pad it.
        bad: collects the records that cannot be read. They are left out of their batch, or in a
            padded dataset become black images of weight 0.

    Returns:
        A dataset of known cardinality with elements `(images, labels, weights)`, which are uint8
        `(batch, size, size, 3)`, RGB in [0, 255], int32 `(batch,)` and float32 `(batch,)`. Weights
        are 0 for padding and equal for all images. Keras divides sums over a padded dataset by the
        number of its elements, padding included; the weights are scaled so that the result is the
        mean over the images, unless some turn out to be unreadable. Compile the model with
        `weighted_metrics`.

    Raises:
        ValueError: the source has no images, or the batch size is not a multiple of the number of
            workers or replicas.
    """
    padded = pad or workers > 1 or _replicas(config) > 1
    size = _batch_size(source, config, fixed=padded)
    order = Order(len(source), size, worker, workers, shuffle=False)
    records = _records(
        tf.data.Dataset.from_tensor_slices(order.epoch(0)).map(lambda ids: (ids, np.int32(0))),
        order,
        source,
        config,
        bad,
        lambda shapes, encoded, seeds: (),
        lambda raw, drawn: evaluation_image(raw, config.eval_protocol),
        substitute=False,
    )
    weight = order.steps * order.batch_size / len(source) if padded else 1.0

    def finish(images: Any, labels: Any, present: Any, seeds: Any) -> tuple[Any, Any, Any]:
        weights = tf.cast(present, tf.float32) * weight
        if padded:
            return images, labels, weights
        # A batch without a readable image keeps one, of weight 0: Keras divides by their number.
        kept = present | (~tf.reduce_any(present) & (tf.range(order.per_worker) == 0))
        values = (images, labels, weights)
        return tf.cond(
            tf.reduce_all(kept),
            lambda: values,
            lambda: tuple(tf.boolean_mask(x, kept) for x in values),
        )

    return _finished(records.map(finish, num_parallel_calls=tf.data.AUTOTUNE), order.steps)


def steps_per_epoch(source: Source, config: DataConfig, workers: int = 1) -> int:
    """Return the number of training batches per epoch.

    Arguments and errors are those of `training_batches`.
    """
    return _order(source, config, 0, workers).steps


def _order(source: Source, config: DataConfig, worker: int, workers: int) -> Order:
    drop_remainder = config.drop_remainder or workers > 1 or _replicas(config) > 1
    return Order(
        len(source),
        _batch_size(source, config, fixed=drop_remainder),
        worker,
        workers,
        seed=config.seed,
        repeats=config.augmentation.repeats,
        drop_remainder=drop_remainder,
        block=config.shuffle_block,
    )


def _batch_size(source: Source, config: DataConfig, *, fixed: bool) -> int:
    """Return the batch size; unless it is fixed, at most the number of images: padding is slow."""
    return config.batch_size if fixed else min(config.batch_size, max(1, len(source)))


def _replicas(config: DataConfig) -> int:
    """Return the number of replicas of the current `tf.distribute` strategy."""
    replicas: int = tf.distribute.get_strategy().num_replicas_in_sync
    if config.batch_size % replicas:
        raise ValueError(
            f"Expected `batch_size` to be a multiple of the {replicas} replicas. Received: "
            f"{config.batch_size}"
        )
    return replicas


def _records(
    batches: tf.data.Dataset,
    order: Order,
    source: Source,
    config: DataConfig,
    bad: BadRecords | None,
    draw: Draw,
    make: Make,
    *,
    substitute: bool,
) -> tf.data.Dataset:
    """Turn elements `(ids, seed)` of a batch into `(images, labels, present, seeds)`.

    `ids` are those of `Order.epoch`; `present` is false for missing images.
    """
    size = _chunk_size(order.per_worker)
    count = -(-order.per_worker // size)

    def split(ids: Any, seed: Any) -> tf.data.Dataset:
        padded = tf.pad(ids, [[0, count * size - order.per_worker]], constant_values=-1)
        chunks = tf.data.Dataset.from_tensor_slices(tf.reshape(padded, [count, size]))
        return chunks.map(lambda chunk: (chunk, seed))

    chunks = batches.flat_map(split)
    if isinstance(source, LabeledImages):
        records = _from_memory(chunks, source, draw, make)
    else:
        if bad is None:
            bad = BadRecords(source.name, len(source), config.max_bad_fraction)
        records = from_files(chunks, source, draw, make, Reader(source, bad, substitute))

    def join(images: Any, *others: Any) -> tuple[Any, ...]:
        images = tf.reshape(images, [count * size, config.size, config.size, 3])
        flat = (tf.reshape(x, [count * size, *x.shape[2:]]) for x in others)
        return tuple(x[: order.per_worker] for x in (images, *flat))

    return records.batch(count, drop_remainder=True).map(join)


def _chunk_size(images: int) -> int:
    """Return the largest size up to `CHUNK` that divides a batch, unless it is very small."""
    largest = max(size for size in range(1, CHUNK + 1) if images % size == 0)
    return largest if largest >= CHUNK // 4 else min(images, CHUNK)


def _from_memory(
    chunks: tf.data.Dataset, source: LabeledImages, draw: Draw, make: Make
) -> tf.data.Dataset:
    # Pipelines run on the CPU; the memory of a GPU is for the model.
    with tf.device("CPU:0"):
        pixels, labels = tf.constant(source.images), tf.constant(source.labels)
    shape = source.images.shape[1:3]

    def load(ids: Any, seed: Any) -> tuple[Any, ...]:
        seeds, present = _seeds(ids, seed), ids >= 0
        indices = tf.where(present, ids % len(source), 0)
        drawn = draw(tf.fill([len(ids), 2], 0) + shape, tf.zeros_like(present), seeds)
        images = one_by_one(lambda index, drawn: make(pixels[index], drawn), (indices, drawn))
        black = tf.zeros([], tf.uint8)
        images = tf.where(present[:, tf.newaxis, tf.newaxis, tf.newaxis], images, black)
        return images, tf.where(present, tf.gather(labels, indices), 0), present, seeds

    return chunks.map(load, num_parallel_calls=tf.data.AUTOTUNE)


def from_files(
    chunks: tf.data.Dataset, source: Source, draw: Draw, make: Make, reader: Reader
) -> tf.data.Dataset:
    """Read and decode chunks of records in parallel; damaged files do not end the dataset.

    TensorFlow has no `try`; a nested dataset that ignores errors is one.

    Args:
        chunks: elements `(ids, seed)`; `ids` are `(n,)`, integers, -1 for no image.
        source: the images.
        draw: see `Draw`.
        make: see `Make`.
        reader: reads records of `source`.

    Returns:
        A dataset of `(images, labels, present, seeds)`: uint8 `(n, ...)`, int32 `(n,)`, bool `(n,)`
        and int32 `(n, 2)`.
    """

    def read(ids: Any, seed: Any, suspicious: bool = False) -> tuple[Any, ...]:
        indices = tf.where(ids >= 0, ids % len(source), -1)
        data, shapes, kinds, labels, present = read_tensors(reader, indices, suspicious)
        seeds = _seeds(ids, seed)
        drawn = draw(shapes, kinds != PIXELS, seeds)
        return RawImage(data, shapes, kinds), drawn, labels, present, seeds

    # Traced once for both calls.
    @tf.function
    def decode(raw: Any, drawn: Any, *others: Any) -> tuple[Any, ...]:
        return (one_by_one(make, (raw, drawn)), *others)

    def guarded(ids: Any, seed: Any, *chunk: Any) -> tf.data.Dataset:
        damaged = tf.data.Dataset.from_tensors((ids, seed))
        rescued = damaged.map(lambda ids, seed: decode(*read(ids, seed, suspicious=True)))
        decoded = tf.data.Dataset.from_tensors(chunk).map(decode).ignore_errors()
        return decoded.concatenate(rescued).take(1)

    loaded = chunks.map(lambda ids, seed: (ids, seed, *read(ids, seed)), num_parallel_calls=READS)
    return loaded.interleave(
        guarded,
        cycle_length=WAITING * usable_cores(),
        num_parallel_calls=usable_cores(),
        deterministic=True,
    )


def one_by_one(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Apply a function with a uint8 result along the first axis of all `arguments`.

    One image is finished before the next one begins, so that it stays in the processor's cache.
    """
    return tf.map_fn(
        lambda items: function(*items),
        arguments,
        parallel_iterations=1,
        fn_output_signature=tf.uint8,
    )


def _seeds(ids: Any, seed: Any) -> Any:
    """Return a seed per image, `(n, 2)`: that of the epoch, and the image's id."""
    ids = tf.cast(ids, tf.int32)
    return tf.stack([tf.fill(tf.shape(ids), tf.cast(seed, tf.int32)), ids], axis=1)


def _finished(dataset: tf.data.Dataset, steps: int) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # Every worker already has its own share.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    return dataset.prefetch(_PREFETCHED).with_options(options)
