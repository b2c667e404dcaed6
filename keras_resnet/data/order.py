"""The order of images, which depends on the seed, the epoch and the step only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

#: Number of blocks whose records are shuffled together.
_BLOCKS_PER_WINDOW = 256


@dataclass(frozen=True)
class Order:
    """The indices of the images in every batch of one worker.

    Attributes:
        count: images in the source.
        batch_size: images per step, over all workers.
        worker: index of the worker, from 0.
        workers: number of workers. Each takes its share of every batch, so that together they take
            the same images as a single worker would.
        shuffle: whether every epoch has its own permutation; otherwise the order of the source.
        seed: seed of the permutations.
        repeats: number of consecutive copies of an image; the length of an epoch does not change.
        drop_remainder: whether the last batch of an epoch is dropped if it is not full.
        block: number of consecutive images that stay near each other when shuffled.
    """

    count: int
    batch_size: int
    worker: int = 0
    workers: int = 1
    shuffle: bool = True
    seed: int = 0
    repeats: int = 1
    drop_remainder: bool = False
    block: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.worker < self.workers or self.batch_size % self.workers:
            raise ValueError(
                "Expected `batch_size` to be a multiple of `workers`, and `worker` less than "
                f"`workers`. Received: batch_size={self.batch_size}, worker={self.worker}, "
                f"workers={self.workers}"
            )
        if not self.count:
            raise ValueError("Expected a source with images. Received: an empty source")
        if not self.steps:
            raise ValueError(
                f"Expected enough images for one batch. Received: {self.count} images, batch_size="
                f"{self.batch_size}, drop_remainder={self.drop_remainder}. Choose a smaller "
                "`batch_size`"
            )

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        if self.drop_remainder:
            return self.count // self.batch_size
        return math.ceil(self.count / self.batch_size)

    @property
    def per_worker(self) -> int:
        """Images per step on this worker."""
        return self.batch_size // self.workers

    def epoch(self, epoch: Any) -> Any:
        """Return the images of this worker in every step of an epoch: `(steps, per_worker)`, int64.

        An entry is the index of an image plus `count` times the number of its copy, from 0; -1
        fills up the last batch.
        """
        order = tf.range(self.count, dtype=tf.int64)
        if self.shuffle:
            # An equal number of another type would give another order.
            order = self._shuffled(tf.random.fold_in([self.seed, 0], tf.cast(epoch, tf.int64)))
        if self.repeats > 1:
            copies = tf.range(self.repeats, dtype=tf.int64) * self.count
            order = tf.reshape(order[:, tf.newaxis] + copies, [-1])[: self.count]
        slots = self.steps * self.batch_size
        order = tf.pad(order[:slots], [[0, max(slots - self.count, 0)]], constant_values=-1)
        return tf.reshape(order, [self.steps, self.workers, self.per_worker])[:, self.worker]

    def _shuffled(self, seed: Any) -> Any:
        shuffle = tf.random.experimental.stateless_shuffle
        if self.block == 1:
            return shuffle(tf.range(self.count, dtype=tf.int64), seed)
        blocks = shuffle(tf.range(math.ceil(self.count / self.block), dtype=tf.int64), seed)
        neighbors = tf.range(self.block, dtype=tf.int64)
        order = tf.reshape(blocks[:, tf.newaxis] * self.block + neighbors, [-1])
        order = order[order < self.count]
        # Shuffle the images within a window of blocks; the windows keep their order.
        window = tf.range(self.count) // (self.block * _BLOCKS_PER_WINDOW)
        noise = tf.random.stateless_uniform(
            [self.count], tf.random.fold_in(seed, 1), dtype=tf.float64
        )
        return tf.gather(order, tf.argsort(tf.cast(window, tf.float64) + noise))
