"""Images per second of storage, decoder, augmentation and model, each by itself."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.data.bad_records import BadRecords, TooManyBadRecordsError
from keras_resnet.data.config import DataConfig
from keras_resnet.data.order import Order

# Where the stages are those of the pipeline, so are their threads.
from keras_resnet.data.pipeline import (
    CHUNK,
    READS,
    WAITING,
    from_files,
    one_by_one,
    training_batches,
)
from keras_resnet.data.reading import JPEG, PATH, PIXELS, Reader, read_tensors
from keras_resnet.data.sources.base import Record, Source, Subset
from keras_resnet.data.sources.memory import LabeledImages
from keras_resnet.images.decode import MAX_PIXELS
from keras_resnet.images.formats import plain_jpeg_size
from keras_resnet.models.info import class_count
from keras_resnet.models.outputs import bare
from keras_resnet.support.cores import usable_cores
from keras_resnet.support.progress import Progress, unseen

#: Does some work and returns how many images that were.
Take = Callable[[], int]

#: Epochs that no measurement comes to the end of.
_EPOCHS = 1_000_000

#: Pieces that each stage makes before the first turn: threads start and functions are compiled.
_FIRST = 2

#: Of every turn, counted from its beginning, so much is added and not counted: it goes through what
#: waited in the stage's buffers.
_UNCOUNTED = 0.2

#: Seconds that the stages get to fill their buffers, at most, before the next one has its turn.
_SETTLING = 2.0

#: What the sentence without a model takes as an example.
_EXAMPLE = 2500


@dataclass(frozen=True)
class BenchmarkReport:
    """Images per second of the stages of training.

    Attributes:
        images_per_second: of `reading`, the bytes alone; `decoding`, which reads as well;
            `training`, all of the pipeline that training gets its batches from; `model`, training
            steps on one batch. Without the first two for images in memory, without the last one if
            there was no model.
        cores: that this process may use.
    """

    images_per_second: Mapping[str, float]
    cores: int

    @property
    def per_core(self) -> dict[str, float]:
        """Images per second and core, of all but the model."""
        rates = self.images_per_second.items()
        return {stage: rate / self.cores for stage, rate in rates if stage != "model"}

    @property
    def seconds_per_image(self) -> dict[str, float]:
        """The time that each kind of work with the data adds per image.

        `reading`, `decoding` and `augmentation`; 0 where more work took no more time. Augmentation
        has none if training decodes so much less than all of an image that it makes up for it.
        """
        spent, result = 0.0, {}
        works = {"reading": "reading", "decoding": "decoding", "training": "augmentation"}
        for stage, work in works.items():
            if stage in self.images_per_second:
                total = 1 / self.images_per_second[stage]
                result[work] = max(total - spent, 0.0)
                spent = total
        return result

    @property
    def bottleneck(self) -> str:
        """`model` if it takes fewer images than the data gives; or else the slowest work."""
        rates = self.images_per_second
        if rates.get("model", math.inf) < rates["training"]:
            return "model"
        costs = self.seconds_per_image
        return max(costs, key=lambda work: costs[work])

    @property
    def verdict(self) -> str:
        """One sentence about what limits training."""
        what, model = self.bottleneck, self.images_per_second.get("model")
        data = f"the data comes at {format_rate(self.images_per_second['training'])}"
        if model is None:
            most = f"{what.capitalize()} takes most of the time per image; {data} images/s"
            return f"{most}{self._wanted(f', and a GPU that takes {_EXAMPLE:,} wants', _EXAMPLE)}."
        takes = f"takes {format_rate(model)} images/s, and {data}"
        if what == "model":
            return f"The model limits training: it {takes}."
        wanted = self._wanted("; it wants", model)
        return f"{what.capitalize()} limits training: the model {takes}{wanted}."

    def _wanted(self, words: str, rate: float) -> str:
        """Estimate the number of cores for a rate; nothing is known about faster storage."""
        if self.bottleneck == "reading":
            return ""
        number = math.ceil(rate / self.per_core["training"])
        return f"{words} {number:,} such {'core' if number == 1 else 'cores'}"

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        computed = ("per_core", "seconds_per_image", "cores", "bottleneck", "verdict")
        rates = {"images_per_second": dict(self.images_per_second)}
        return rates | {name: getattr(self, name) for name in computed}


def format_rate(rate: float) -> str:
    """A rate with as many digits as can be relied on."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def benchmark(
    source: Source,
    config: DataConfig,
    *,
    model: keras.Model | None = None,
    seconds: float = 5.0,
    rounds: int = 3,
    progress: Progress = unseen,
) -> BenchmarkReport:
    """Measures reading, decoding, the pipeline of training, and training steps, in turn.

    Each starts once and then goes on from turn to turn, so that what counts is its steady state.
    Images come in random order; files that the system still has in memory are read from there, as
    in training.

    Args:
        source: the images.
        config: size and number of the images in a batch, augmentation.
        model: a classifier of such images. It stays as it is; a copy is trained.
        seconds: how long a turn lasts at least.
        rounds: turns of each; the median counts.
        progress: called with the turn that starts and the share that is done.

    Raises:
        ValueError: an argument is out of range, the model is not one of such images and classes, or
            no image can be decoded.
        TooManyBadRecordsError: more images cannot be read than `config` puts up with.
        RuntimeError: there is a model, and the Keras backend is not TensorFlow.
    """
    if not (math.isfinite(seconds) and seconds > 0) or rounds < 1:
        raise ValueError(
            "Expected `seconds` above 0 and `rounds` of at least 1. "
            f"Received: seconds={seconds}, rounds={rounds}"
        )
    if model is not None:
        _check(model, source, config)
    bad = BadRecords(source.name, len(source), config.max_bad_fraction)
    try:
        takes = _stages(source, config, model, bad)
        return BenchmarkReport(rates_in_turn(takes, seconds, rounds, progress), usable_cores())
    except tf.errors.OpError as error:
        # In a graph, an exception keeps its message at most.
        if len(bad) > config.max_bad_fraction * len(source):
            raise TooManyBadRecordsError(str(bad)) from error
        raise


def rates_in_turn(
    takes: Mapping[str, Take], seconds: float, rounds: int, progress: Progress = unseen
) -> dict[str, float]:
    """Images per second: medians over rounds in which each has its turn.

    Args:
        takes: what to measure: name -> a function that takes the next images and returns how many
            they were.
        seconds: how long a turn lasts at least.
        rounds: turns of each.
        progress: see `benchmark`.

    Raises:
        ValueError: nothing came in a whole turn.
    """
    rates: dict[str, list[float]] = {name: [] for name in takes}
    progress("start", 0.0)
    for take in takes.values():
        for _ in range(_FIRST):
            take()
    for turn in range(rounds * len(takes)):
        name = tuple(takes)[turn % len(takes)]
        progress(f"{name}, round {turn // len(takes) + 1}", turn / (rounds * len(takes)))
        _settle()
        _rate(takes[name], seconds * _UNCOUNTED)
        rate = _rate(takes[name], seconds)
        if not rate:
            raise ValueError(f"Expected images from {name}. Received: none in {seconds:g} s")
        rates[name].append(rate)
    return {name: statistics.median(values) for name, values in rates.items()}


def _rate(take: Take, seconds: float) -> float:
    images, start = 0, time.perf_counter()
    while True:
        images += take()
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return images / elapsed


def _settle() -> None:
    """Waits until no thread works: one that fills its stage's buffers would slow the next stage."""
    end, pause = time.perf_counter() + _SETTLING, 0.02
    while time.perf_counter() < end:
        used = time.process_time()
        time.sleep(pause)
        if time.process_time() - used < pause / 5:
            return


def _check(model: keras.Model, source: Source, config: DataConfig) -> None:
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Expected Keras' TensorFlow backend, to time a model with. Received: "
            f"{keras.backend.backend()}. Set KERAS_BACKEND=tensorflow"
        )
    shape, classes = (None, config.size, config.size, 3), len(source.class_names)
    # A side of None takes any.
    given = model.input_shape
    asked = tuple(side or own for side, own in zip(given[1:], shape[1:], strict=False))
    classifies = len(model.output_shape) == 2 and class_count(model) == classes
    if len(given) != 4 or (None, *asked) != shape or not classifies:
        raise ValueError(
            f"Expected a model {shape} -> {(None, classes)}, for the images and classes of "
            f"{source.name}. Received: {model.name}, {model.input_shape} -> {model.output_shape}"
        )


def _stages(
    source: Source, config: DataConfig, model: keras.Model | None, bad: BadRecords
) -> dict[str, Take]:
    takes: dict[str, Take] = {}
    if not isinstance(source, LabeledImages):
        # Each has an order of its own: it does not find in memory what another one has just read.
        takes["reading"] = _reading(_chunks(source, config, config.seed + 1), source, bad)
        takes["decoding"] = _decoding(_chunks(source, config, config.seed + 2), source, bad)
    batches = iter(training_batches(source, config, _EPOCHS, bad=bad))
    takes["training"] = lambda: int(next(batches)[0].shape[0])
    if model is not None:
        takes["model"] = _model(model, *next(batches))
    return takes


def _chunks(source: Source, config: DataConfig, seed: int) -> tf.data.Dataset:
    """Indices in random order, as many in each element as the pipeline reads at once."""
    order = Order(
        len(source),
        min(CHUNK, len(source)),
        seed=seed,
        drop_remainder=True,
        block=config.shuffle_block,
    )
    epochs = tf.data.Dataset.range(_EPOCHS)
    return epochs.flat_map(lambda epoch: tf.data.Dataset.from_tensor_slices(order.epoch(epoch)))


def _counts(dataset: tf.data.Dataset) -> Take:
    """Takes elements that are numbers of images."""
    iterator = iter(dataset.prefetch(WAITING))
    return lambda: int(next(iterator))


class _Undecoded(Subset):
    """A source whose records `Reader` passes on where it would decode them: as if pixels."""

    def __getitem__(self, index: int) -> Record:
        data, label = super().__getitem__(index)
        if isinstance(data, bytes) and plain_jpeg_size(data, MAX_PIXELS) is None:
            filled = data + bytes(-len(data) % 3)
            return Record(np.frombuffer(filled, np.uint8).reshape(1, -1, 3), label)
        return Record(data, label)


def _reading(chunks: tf.data.Dataset, source: Source, bad: BadRecords) -> Take:
    undecoded = _Undecoded(source, np.arange(len(source)), source.name)
    reader = Reader(undecoded, bad, substitute=True)

    def is_there(data: Any, kind: Any) -> Any:
        contents = tf.cond(kind == PATH, lambda: tf.io.read_file(data), lambda: data)
        return tf.cast(tf.strings.length(contents) > 0, tf.uint8)

    def read(indices: Any) -> Any:
        data, _, kinds, _, _ = read_tensors(reader, indices)
        return tf.reduce_sum(tf.cast(one_by_one(is_there, (data, kinds)), tf.int32))

    return _counts(chunks.map(read, num_parallel_calls=READS))


def _decoding(chunks: tf.data.Dataset, source: Source, bad: BadRecords) -> Take:
    def decoded(jpeg: Any) -> Any:
        # One pixel stands for them all: images of different sizes cannot be batched.
        return tf.io.decode_jpeg(jpeg, channels=3)[0, 0, 0]

    def decode(raw: Any, _: Any) -> Any:
        branches = {
            PIXELS: lambda: tf.constant(0, tf.uint8),
            JPEG: lambda: decoded(raw.data),
            PATH: lambda: decoded(tf.io.read_file(raw.data)),
        }
        return tf.switch_case(raw.kind, branches)

    images = from_files(
        chunks.map(lambda indices: (indices, 0)),
        source,
        lambda shapes, encoded, seeds: (),
        decode,
        Reader(source, bad, substitute=True),
    )
    return _counts(images.map(lambda images, *_: len(images)))


def _model(model: keras.Model, images: Any, labels: Any) -> Take:
    """Training steps of a copy of the model on one batch."""
    trained = keras.models.clone_model(bare(model))
    is_linear = getattr(model.layers[-1], "activation", None) is keras.activations.linear
    # Where images are mixed, labels are shares of classes.
    mixed = len(labels.shape) > 1
    if model.output_shape[-1] == 1:
        kind = keras.losses.BinaryCrossentropy
        labels = labels[:, 1:] if mixed else labels[:, None]
    elif mixed:
        kind = keras.losses.CategoricalCrossentropy
    else:
        kind = keras.losses.SparseCategoricalCrossentropy
    loss = kind(from_logits=is_linear)
    trained.compile(keras.optimizers.SGD(1e-3, momentum=0.9), loss=loss)
    trained.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())
    count, under_way = int(images.shape[0]), []

    def take() -> int:
        under_way.append(trained.train_function(batches)["loss"])
        # A GPU works while Python goes on. Waiting for the step before keeps it busy, and keeps
        # steps from piling up that nobody has timed.
        if len(under_way) > 1:
            under_way.pop(0).numpy()
        return count

    return take
