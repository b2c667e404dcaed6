"""Benchmarks of reading, decoding, the training pipeline and the model, each on its own."""

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

# Reading and decoding run with the same parallelism as in the training pipeline.
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

#: A function that processes the next images and returns their number.
Take = Callable[[], int]

#: More epochs than any measurement can complete.
_EPOCHS = 1_000_000

#: Calls of each function before the first measurement, to start threads and compile graphs.
_WARM_UP_CALLS = 2

#: Length of the warm-up before each measurement, as a share of the measurement: it uses up the
#: images that waited in buffers.
_WARM_UP = 0.2

#: Seconds to wait at most before each measurement for threads that still fill buffers.
_SETTLING = 2.0

#: Images per second of the GPU that a verdict without a model gives as an example.
_EXAMPLE = 2500


@dataclass(frozen=True)
class BenchmarkReport:
    """Throughput of the components of training.

    Attributes:
        images_per_second: throughput of each component: `"reading"` reads the files; `"decoding"`
            reads and decodes them; `"training"` is the whole training pipeline; `"model"` repeats
            training steps on one batch. The first two are missing for images in memory, the last
            one without a model.
        cores: number of cores that this process may use.
    """

    images_per_second: Mapping[str, float]
    cores: int

    @property
    def per_core(self) -> dict[str, float]:
        """Images per second and core of each component except the model."""
        rates = self.images_per_second.items()
        return {component: rate / self.cores for component, rate in rates if component != "model"}

    @property
    def seconds_per_image(self) -> dict[str, float]:
        """Time per image that `reading`, `decoding` and `augmentation` each add.

        0 for work that takes no additional time. Augmentation may take none if its crops let the
        decoder skip most of an image.
        """
        spent, result = 0.0, {}
        works = {"reading": "reading", "decoding": "decoding", "training": "augmentation"}
        for component, work in works.items():
            if component in self.images_per_second:
                total = 1 / self.images_per_second[component]
                result[work] = max(total - spent, 0.0)
                spent = total
        return result

    @property
    def bottleneck(self) -> str:
        """`"model"` if the model is slower than the pipeline, else a key of `seconds_per_image`."""
        rates = self.images_per_second
        if rates.get("model", math.inf) < rates["training"]:
            return "model"
        costs = self.seconds_per_image
        return max(costs, key=lambda work: costs[work])

    @property
    def verdict(self) -> str:
        """A sentence about the bottleneck."""
        bottleneck, model = self.bottleneck, self.images_per_second.get("model")
        pipeline = f"the pipeline delivers {format_rate(self.images_per_second['training'])}"
        if model is None:
            most = (
                f"{bottleneck.capitalize()} takes most of the time per image; {pipeline} images/s"
            )
            return (
                f"{most}{self._needed(f', and a GPU that trains on {_EXAMPLE:,} needs', _EXAMPLE)}."
            )
        trains = f"trains on {format_rate(model)} images/s, and {pipeline}"
        if bottleneck == "model":
            return f"The model limits training: it {trains}."
        needed = self._needed("; the model needs", model)
        return f"{bottleneck.capitalize()} limits training: the model {trains}{needed}."

    def _needed(self, words: str, rate: float) -> str:
        """Return the number of cores for a rate in words; empty if storage is the bottleneck."""
        if self.bottleneck == "reading":
            return ""
        number = math.ceil(rate / self.per_core["training"])
        return f"{words} {number:,} such {'core' if number == 1 else 'cores'}"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data for JSON."""
        computed = ("per_core", "seconds_per_image", "cores", "bottleneck", "verdict")
        rates = {"images_per_second": dict(self.images_per_second)}
        return rates | {name: getattr(self, name) for name in computed}


def format_rate(rate: float) -> str:
    """Return a rate as text, with its significant digits."""
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
    """Measure the throughput of reading, decoding, the training pipeline and a model.

    The components are measured in turn, several times. Each runs on where its last measurement
    ended, so that the steady state is measured. Images come in random order; as in training, files
    that the operating system has cached are read from memory.

    Args:
        source: the images.
        config: image size, batch size and augmentation.
        model: a classifier of images of this size and these classes. A copy of it is trained.
        seconds: length of each measurement.
        rounds: number of measurements per component; the report has their median.
        progress: called with the name of the next measurement and the share that is done.

    Raises:
        ValueError: an argument is out of range, the model does not fit the images or classes, or no
            image can be decoded.
        TooManyBadRecordsError: more images are unreadable than `config` allows.
        RuntimeError: a model is given, and the Keras backend is not TensorFlow.
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
        takes = _components(source, config, model, bad)
        return BenchmarkReport(rates_in_turn(takes, seconds, rounds, progress), usable_cores())
    except tf.errors.OpError as error:
        # TensorFlow turns exceptions inside a graph into errors of its own.
        if len(bad) > config.max_bad_fraction * len(source):
            raise TooManyBadRecordsError(str(bad)) from error
        raise


def rates_in_turn(
    takes: Mapping[str, Take], seconds: float, rounds: int, progress: Progress = unseen
) -> dict[str, float]:
    """Return the images per second of each function: the median of measurements taken in turn.

    Args:
        takes: name -> function that processes the next images and returns their number.
        seconds: length of each measurement.
        rounds: number of measurements per function.
        progress: as for `benchmark`.

    Raises:
        ValueError: a function processed no image during a whole measurement.
    """
    rates: dict[str, list[float]] = {name: [] for name in takes}
    progress("start", 0.0)
    for take in takes.values():
        for _ in range(_WARM_UP_CALLS):
            take()
    for turn in range(rounds * len(takes)):
        name = tuple(takes)[turn % len(takes)]
        progress(f"{name}, round {turn // len(takes) + 1}", turn / (rounds * len(takes)))
        _settle()
        _rate(takes[name], seconds * _WARM_UP)
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
    """Wait until all threads are idle: threads that fill buffers would slow the measurement."""
    end, pause = time.perf_counter() + _SETTLING, 0.02
    while time.perf_counter() < end:
        used = time.process_time()
        time.sleep(pause)
        if time.process_time() - used < pause / 5:
            return


def _check(model: keras.Model, source: Source, config: DataConfig) -> None:
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Expected the Keras backend tensorflow, which timing a model requires. Received: "
            f"{keras.backend.backend()}. Set KERAS_BACKEND=tensorflow"
        )
    shape, classes = (None, config.size, config.size, 3), len(source.class_names)
    given = model.input_shape
    # A dimension of None fits any size.
    filled = tuple(side or size for side, size in zip(given[1:], shape[1:], strict=False))
    classifies = len(model.output_shape) == 2 and class_count(model) == classes
    if len(given) != 4 or (None, *filled) != shape or not classifies:
        raise ValueError(
            f"Expected a model {shape} -> {(None, classes)}, for the images and classes of "
            f"{source.name}. Received: {model.name}, {model.input_shape} -> {model.output_shape}"
        )


def _components(
    source: Source, config: DataConfig, model: keras.Model | None, bad: BadRecords
) -> dict[str, Take]:
    takes: dict[str, Take] = {}
    if not isinstance(source, LabeledImages):
        # Different orders, so that no component finds the files cached that another has just read.
        takes["reading"] = _reading(_chunks(source, config, config.seed + 1), source, bad)
        takes["decoding"] = _decoding(_chunks(source, config, config.seed + 2), source, bad)
    batches = iter(training_batches(source, config, _EPOCHS, bad=bad))
    takes["training"] = lambda: int(next(batches)[0].shape[0])
    if model is not None:
        takes["model"] = _model(model, *next(batches))
    return takes


def _chunks(source: Source, config: DataConfig, seed: int) -> tf.data.Dataset:
    """Return a dataset of chunks of indices in random order, of the size that the pipeline uses."""
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
    """Return a `Take` that returns the elements of a dataset of image counts."""
    iterator = iter(dataset.prefetch(WAITING))
    return lambda: int(next(iterator))


class _Undecoded(Subset):
    """A source for a `Reader` that only reads: file contents to decode look like decoded pixels."""

    def __getitem__(self, index: int) -> Record:
        data, label = super().__getitem__(index)
        if isinstance(data, bytes) and plain_jpeg_size(data, MAX_PIXELS) is None:
            padded = data + bytes(-len(data) % 3)
            return Record(np.frombuffer(padded, np.uint8).reshape(1, -1, 3), label)
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
        # A single value per image, as images of different sizes cannot be batched.
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
    """Return a `Take` that trains a copy of the model on one batch."""
    trained = keras.models.clone_model(bare(model))
    is_linear = getattr(model.layers[-1], "activation", None) is keras.activations.linear
    # With mixup or CutMix, labels are shares of classes.
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
    count, running = int(images.shape[0]), []

    def take() -> int:
        running.append(trained.train_function(batches)["loss"])
        # Steps on a GPU are asynchronous. Waiting for the previous step keeps the GPU busy without
        # a growing queue of steps that are not timed.
        if len(running) > 1:
            running.pop(0).numpy()
        return count

    return take
