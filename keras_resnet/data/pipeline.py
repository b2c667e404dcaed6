"""tf.data pipelines: uint8 batches whose order is a function of (seed, epoch, step).

Indices are shuffled, not images; records are read and decoded in chunks, side by side; and every
dataset knows how many batches it has, as `fit` would otherwise take one step too many per epoch
(Keras 3.15).
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

#: Images that are read by one call into Python, and guarded together against damaged files.
CHUNK = 32

#: Chunks that are read at once: disks and networks are faster at several requests.
READS = 4

#: Chunks that are being decoded or wait for their turn, per core.
WAITING = 2

#: Batches that wait for the model.
_PREFETCHED = 3


#: From the shapes of a chunk's images, which of them are JPEGs, and seeds to what is drawn.
Draw = Callable[[Any, Any, Any], Any]

#: From a `RawImage` and what was drawn for it to an image of uint8.
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
    """Shuffled, augmented batches for all `epochs`, in one dataset of known cardinality.

    Pass it to `fit` with `steps_per_epoch=steps_per_epoch(source, config, workers)`. Every epoch is
    a permutation of all images; permutation and augmentation depend on the seed, the epoch and the
    image alone, so that a dataset with `start_step` goes on with exactly the batch that comes next.
    `fit` counts epochs from where the dataset starts: with `initial_epoch=e`, pass `start_step=e *
    steps`; the rest of an epoch that was interrupted is a `fit` of its own.

    Under a `tf.distribute` strategy with several replicas in one process, make it inside of
    `strategy.scope()`: the last batch of an epoch is then left out if it is not full.

    Args:
        source: the images.
        config: size and number of the images in a batch, augmentation, seed.
        epochs: how many epochs the dataset lasts, counted from the first step of all.
        start_step: batches that were taken before.
        worker: which of the workers this is, from 0.
        workers: how many there are. Each gets its part of every batch; none gets what another does.
            Together they get what one would, mixed images included if the part of each is a
            multiple of `2 * repeats` images.
        bad: notes what cannot be read; the next image of the source stands for it.

    Returns:
        A dataset of `epochs * steps_per_epoch - start_step` elements `(images, labels)`: uint8
        `(batch, size, size, 3)`, RGB in [0, 255], and int32 `(batch,)`; where images are mixed,
        float32 `(batch, classes)`, the share of each class. With `drop_remainder`, several workers
        or replicas, `batch` is static. Iterating raises `tf.errors.InvalidArgumentError`, and sets
        `bad.error`, when too many records cannot be read.

    Raises:
        ValueError: there is no full batch where only those count; the batch is no multiple of the
            workers or replicas; or `start_step` is beyond the end.
    """
    order = _order(source, config, worker, workers)
    total = epochs * order.steps
    if not 0 <= start_step <= total:
        raise ValueError(
            f"Expected `start_step` to be at most {total}, that is {epochs} epochs of "
            f"{order.steps} steps. Received: {start_step}"
        )
    how = config.augmentation

    def rows_of_epoch(epoch: Any) -> tf.data.Dataset:
        rows = order.epoch(epoch)
        taken = tf.where(epoch == start_step // order.steps, start_step % order.steps, 0)
        # `fold_in` hashes its first argument alone; `split` hashes all of its own.
        seed = tf.random.split(tf.random.fold_in([config.seed, 1], epoch), num=1)[0, 0]
        return tf.data.Dataset.from_tensor_slices(rows[taken:]).map(lambda row: (row, seed))

    rows = tf.data.Dataset.range(start_step // order.steps, epochs).flat_map(rows_of_epoch)
    records = _records(
        rows,
        order,
        source,
        config,
        bad,
        lambda shapes, encoded, seeds: draw(shapes, encoded, seeds, config.size, how),
        lambda raw, drawn: training_image(raw, drawn, config.eval_protocol, how),
        substitute=True,
    )

    def finish(images: Any, labels: Any, present: Any, seeds: Any) -> tuple[Any, Any]:
        if not order.drop_remainder:
            count = tf.reduce_sum(tf.cast(present, tf.int32))
            images, labels, seeds = images[:count], labels[:count], seeds[:count]
        if how.mixes:
            classes = len(source.class_names)
            # Another stream than that of the crops.
            own = seeds + tf.constant([[1, 0]])
            return mix(images, labels, own, classes, how.mixup, how.cutmix, how.repeats)
        return images, labels

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
    """Every image exactly once, in the source's order, prepared by `config.eval_protocol`.

    Args:
        source: the images.
        config: size and number of the images in a batch, protocol.
        worker: which of the workers this is, from 0.
        workers: how many there are; each gets its part of every batch.
        pad: whether the last batch is filled up with black images of weight 0, so that all have one
            shape. Always so with several workers, and inside the scope of a strategy with several
            replicas.
        bad: notes what cannot be read. It is left out; where shapes have to stay, it becomes a
            black image of weight 0.

    Returns:
        A dataset of known cardinality with elements `(images, labels, weights)`: uint8 `(batch,
        size, size, 3)`, int32 `(batch,)`, float32 `(batch,)`. Weights are equal for all images and
        0 for fillings; they are scaled so that Keras' mean over a padded dataset, which divides by
        the number of places, is the mean over the images (but for those that turn out to be
        unreadable, as their number is not known before). Metrics have to be `weighted_metrics`.

    Raises:
        ValueError: the source has no images, or the batch is no multiple of the workers or
            replicas.
    """
    padded = pad or workers > 1 or _replicas(config) > 1
    size = _batch_size(source, config, fixed=padded)
    order = Order(len(source), size, worker, workers, shuffle=False)
    rows = tf.data.Dataset.from_tensor_slices(order.epoch(0)).map(lambda row: (row, np.int32(0)))
    records = _records(
        rows,
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
        # Of a batch without any readable image, one stays: Keras divides by their number.
        kept = present | (~tf.reduce_any(present) & (tf.range(order.per_worker) == 0))
        values = (images, labels, weights)
        return tf.cond(
            tf.reduce_all(kept),
            lambda: values,
            lambda: tuple(tf.boolean_mask(x, kept) for x in values),
        )

    return _finished(records.map(finish, num_parallel_calls=tf.data.AUTOTUNE), order.steps)


def steps_per_epoch(source: Source, config: DataConfig, workers: int = 1) -> int:
    """Training batches per epoch."""
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
    """Return the configured batch size, at most the number of images: padding would cost time."""
    return config.batch_size if fixed else min(config.batch_size, max(1, len(source)))


def _replicas(config: DataConfig) -> int:
    """Return the number of replicas of the strategy whose scope this is."""
    replicas: int = tf.distribute.get_strategy().num_replicas_in_sync
    if config.batch_size % replicas:
        raise ValueError(
            f"Expected `batch_size` to be a multiple of the {replicas} replicas. Received: "
            f"{config.batch_size}"
        )
    return replicas


def _records(
    rows: tf.data.Dataset,
    order: Order,
    source: Source,
    config: DataConfig,
    bad: BadRecords | None,
    draw: Draw,
    make: Make,
    *,
    substitute: bool,
) -> tf.data.Dataset:
    """Turn rows of indices and a seed into batches of images, labels, presence and seeds."""
    chunk = _chunk_of(order.per_worker)
    chunks = -(-order.per_worker // chunk)

    def cut(row: Any, seed: Any) -> tf.data.Dataset:
        filled = tf.pad(row, [[0, chunks * chunk - order.per_worker]], constant_values=-1)
        parts = tf.data.Dataset.from_tensor_slices(tf.reshape(filled, [chunks, chunk]))
        return parts.map(lambda part: (part, seed))

    pieces = rows.flat_map(cut)
    if isinstance(source, LabeledImages):
        records = _from_memory(pieces, source, draw, make)
    else:
        if bad is None:
            bad = BadRecords(source.name, len(source), config.max_bad_fraction)
        records = from_files(pieces, source, draw, make, Reader(source, bad, substitute))

    def join(images: Any, *others: Any) -> tuple[Any, ...]:
        images = tf.reshape(images, [chunks * chunk, config.size, config.size, 3])
        flat = (tf.reshape(x, [chunks * chunk, *x.shape[2:]]) for x in others)
        return tuple(x[: order.per_worker] for x in (images, *flat))

    return records.batch(chunks, drop_remainder=True).map(join)


def _chunk_of(count: int) -> int:
    """The largest number up to `CHUNK` that divides a batch, if it is not a very small one."""
    divisors = [size for size in range(1, CHUNK + 1) if count % size == 0]
    return divisors[-1] if divisors[-1] >= CHUNK // 4 else min(count, CHUNK)


def _from_memory(
    chunks: tf.data.Dataset, source: LabeledImages, draw: Draw, make: Make
) -> tf.data.Dataset:
    # A GPU's memory is for the model, and pipelines run on the CPU.
    with tf.device("CPU:0"):
        pixels, labels = tf.constant(source.images), tf.constant(source.labels)
    shape = source.images.shape[1:3]

    def load(ids: Any, seed: Any) -> tuple[Any, ...]:
        seeds, present = _seeds(ids, seed), ids >= 0
        where = tf.where(present, ids % len(source), 0)
        drawn = draw(tf.fill([len(ids), 2], 0) + shape, tf.zeros_like(present), seeds)
        images = one_by_one(lambda index, drawn: make(pixels[index], drawn), (where, drawn))
        black = tf.zeros([], tf.uint8)
        images = tf.where(present[:, tf.newaxis, tf.newaxis, tf.newaxis], images, black)
        return images, tf.where(present, tf.gather(labels, where), 0), present, seeds

    return chunks.map(load, num_parallel_calls=tf.data.AUTOTUNE)


def from_files(
    chunks: tf.data.Dataset, source: Source, draw: Draw, make: Make, reader: Reader
) -> tf.data.Dataset:
    """Reads side by side, decodes side by side, and puts up with damaged files.

    TensorFlow has no `try`; a nested dataset that ignores errors is one. `chunks` are indices,
    `(n,)`, -1 for none, and a seed. They become what `make` makes of each image, uint8; labels,
    int32; whether there is an image, bool; and seeds, `(n, 2)`, int32.
    """

    def read(ids: Any, seed: Any, suspicious: bool = False) -> tuple[Any, ...]:
        indices = tf.where(ids >= 0, ids % len(source), -1)
        data, shapes, kinds, labels, present = read_tensors(reader, indices, suspicious)
        seeds = _seeds(ids, seed)
        drawn = draw(shapes, kinds != PIXELS, seeds)
        return RawImage(data, shapes, kinds), drawn, labels, present, seeds

    # Traced once for both places where it is called.
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
    """Maps over the first axis of all `arguments`, to uint8.

    One image after the other, so that it stays in the processor's cache from step to step.
    """
    return tf.map_fn(
        lambda row: function(*row),
        arguments,
        parallel_iterations=1,
        fn_output_signature=tf.uint8,
    )


def _seeds(ids: Any, seed: Any) -> Any:
    """One pair per image: the epoch's, and its own."""
    ids = tf.cast(ids, tf.int32)
    return tf.stack([tf.fill(tf.shape(ids), tf.cast(seed, tf.int32)), ids], axis=1)


def _finished(dataset: tf.data.Dataset, steps: int) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # Workers have their parts already.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    return dataset.prefetch(_PREFETCHED).with_options(options)
