"""Averages of weights over steps, and of the statistics of BN over batches and replicas."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_resnet.training.optimizers.keras_private import synchronize

_STEPS = "steps"


class WeightAverage:
    """Exponential moving average of all weights of a model, moving statistics of BN included.

    The average lives on the host, one float32 array per weight, whatever the backend, the strategy
    and the policy. The first update copies the weights; each later one adds `1 - decay` of the
    difference, in place. Weights of integers are copied; seeds of random generators are no weights.
    Where replicas have statistics of their own, their mean is what is averaged; those of other
    workers are not seen: call `average_bn_across_replicas` before.

    Args:
        decay: share that the average keeps at an update, in [0, 1].
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        #: Calls of `update`.
        self.steps = 0
        self._names: list[str] = []
        self._averages: list[np.ndarray] = []

    def update(self, model: keras.Model) -> None:
        """Takes the weights into the average.

        Args:
            model: within `fit`, the one that is fitted: JAX has its weights elsewhere meanwhile,
                and only this model can fetch them.
        """
        self.steps += 1
        synchronize(model)
        if not self._averages:
            self._names = [variable.path for variable in model.weights]
            self._averages = [_as_average(_read(variable)) for variable in model.weights]
            return
        # One buffer for all: fresh memory for each would take longer than the arithmetic.
        buffer = np.empty(max(average.size for average in self._averages), np.float32)
        for variable, average in zip(model.weights, self._averages, strict=True):
            value = _read(variable)
            if not keras.backend.is_float_dtype(variable.dtype):
                np.copyto(average, value)
                continue
            # A weight that stays is its own average exactly, which `decay * average + …` is not.
            difference = np.subtract(
                value, average, out=buffer[: average.size].reshape(average.shape)
            )
            np.multiply(difference, 1.0 - self.decay, out=difference)
            np.add(average, difference, out=average)

    def state(self) -> dict[str, np.ndarray]:
        """A copy of the averages and of the number of updates, for `restore`."""
        names = (f"{number:05}/{name}" for number, name in enumerate(self._names))
        arrays = (average.copy() for average in self._averages)
        return {_STEPS: np.asarray(self.steps, np.int64), **dict(zip(names, arrays, strict=True))}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continues from what `state` returned.

        Weights are told apart by their place: names that Keras made up change between processes.
        """
        keys = sorted(key for key in state if key != _STEPS)
        self.steps = int(state[_STEPS])
        self._names = [key.partition("/")[2] for key in keys]
        self._averages = [_as_average(state[key]) for key in keys]

    @contextlib.contextmanager
    def applied(self, model: keras.Model) -> Iterator[None]:
        """Gives `model` the averages, and its own weights back on every way out.

        Args:
            model: as for `update`. It may be evaluated and saved meanwhile; what training does to
                it is lost. Every replica gets its own statistics back.
        """
        synchronize(model)
        with _kept(model.weights):
            for variable, average in zip(model.weights, self._averages, strict=True):
                variable.assign(average)
            try:
                yield
            finally:
                # Otherwise JAX's `evaluate` would write the averages over the weights afterwards.
                synchronize(model)


def recompute_bn(model: keras.Model, batches: Iterable[Any]) -> None:
    """Replaces batch normalisation's moving statistics by exact ones of these batches.

    He et al. say in the release notes of their ImageNet models that these have statistics computed
    after training, not moving ones; Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", call
    that precise BN. Every layer normalises by the statistics of the batch, as in training, but
    nothing is dropped; means and biased variances of the batches are pooled to those of all their
    images together, in float64. Frozen layers (`trainable=False`) keep theirs and use them; so do
    layers that are called with `training=False`. The other variables stay as they are, and so do
    all if this fails.

    Of a layer that the model calls several times, the last call counts. With several workers, each
    computes its own: call `average_bn_across_replicas` afterwards.

    Args:
        model: one with layers of `keras.layers.BatchNormalization`, in models inside of it as well;
            without any, nothing happens.
        batches: images `(batch, height, width, channels)` as training gives them, or tuples that
            begin with them. Batches of other sizes count by their number of images.

    Raises:
        ValueError: there are no images; or a batch normalisation is inside of another layer than a
            model, or uses renormalisation.
    """
    norms = [layer for layer in _norms(model) if layer.trainable]
    if not norms:
        return
    count = 0
    # Of every norm, the sums over all images of values and of their squares.
    sums: list[list[Any]] = [[0.0, 0.0] for _ in norms]
    with _kept(model.non_trainable_variables), _batch_statistics(model, norms):
        run = _training_pass(model)
        for batch in batches:
            images = np.asarray(batch[0] if isinstance(batch, (tuple, list)) else batch)
            if len(images):
                run(images)
                count += len(images)
                for norm, parts in zip(norms, sums, strict=True):
                    mean = np.asarray(_read(norm.moving_mean), np.float64)
                    parts[0] = parts[0] + len(images) * mean
                    parts[1] = parts[1] + len(images) * (_read(norm.moving_variance) + mean**2)
    if not count:
        raise ValueError("Expected at least one batch of images. Received: none")
    for norm, (values, squares) in zip(norms, sums, strict=True):
        mean = values / count
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(np.maximum(squares / count - mean**2, 0))


def average_bn_across_replicas(model: keras.Model) -> None:
    """Sets the moving statistics of BN on all replicas, of all workers, to their mean.

    Under TensorFlow's strategies, every replica moves statistics of its own, and reading a variable
    gives the first replica's. Call it outside of `strategy.run`, on every worker at once. Without a
    strategy, or under JAX, whose statistics are those of the whole batch, nothing happens.

    Raises:
        ValueError: a batch normalisation is inside of another layer than a model.
    """
    # Frozen statistics are the same everywhere, and the mean of three equal numbers may be another.
    norms = [norm for norm in _norms(model) if norm.trainable]
    variables = [
        variable for norm in norms for variable in (norm.moving_mean, norm.moving_variance)
    ]
    # Only a variable of a strategy knows one.
    strategy = getattr(variables[0].value, "distribute_strategy", None) if variables else None
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return
    import tensorflow as tf

    copies = [_copies(variable) for variable in variables]
    # One vector per replica: one exchange instead of a hundred.
    own = [
        tf.concat([tf.reshape(copy[index], [-1]) for copy in copies], 0)
        for index in range(len(copies[0]))
    ]
    parts = strategy.experimental_distribute_values_from_function(
        lambda context: own[context.replica_id_in_sync_group % len(own)]
    )
    mean = strategy.reduce(tf.distribute.ReduceOp.MEAN, parts, axis=None)
    sizes = [math.prod(variable.shape) for variable in variables]
    for variable, value in zip(variables, tf.split(mean, sizes), strict=True):
        variable.assign(tf.reshape(value, variable.shape))


def _layers(model: keras.Model) -> Iterator[Any]:
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


def _norms(model: keras.Model) -> list[Any]:
    """All layers of batch normalisation, each once."""
    norm_class = keras.layers.BatchNormalization
    norms = list(dict.fromkeys(x for x in _layers(model) if isinstance(x, norm_class)))
    found = {id(norm.moving_variance) for norm in norms}
    for variable in model.non_trainable_weights:
        if variable.name == "moving_variance" and id(variable) not in found:
            raise ValueError(
                "Expected layers of batch normalisation in models only, not inside of other "
                f"layers. Received: {variable.path}"
            )
    return norms


@contextlib.contextmanager
def _batch_statistics(model: keras.Model, norms: list[Any]) -> Iterator[None]:
    """Leaves the statistics of the last batch in the moving ones, and drops nothing."""
    if any(norm.renorm for norm in norms):
        raise ValueError(
            "Expected batch normalisation without `renorm`. Received: "
            f"{next(norm.name for norm in norms if norm.renorm)}"
        )
    changed = [(norm, "momentum") for norm in norms]
    # Every kind of dropout, and stochastic depth, has its probability there.
    changed += [
        (layer, "rate")
        for layer in _layers(model)
        if isinstance(getattr(layer, "rate", None), (int, float))
    ]
    before = [getattr(layer, name) for layer, name in changed]
    try:
        for layer, name in changed:
            setattr(layer, name, 0.0)
        yield
    finally:
        for (layer, name), value in zip(changed, before, strict=True):
            setattr(layer, name, value)


def _training_pass(model: keras.Model) -> Callable[[np.ndarray], Any]:
    """A compiled call in training mode that leaves its updates in the model's variables."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda images: model(images, training=True))
    if keras.backend.backend() != "jax":
        return lambda images: model(images, training=True)
    import jax

    @jax.jit
    def call(trainable: Any, others: Any, images: Any) -> Any:
        return model.stateless_call(trainable, others, images, training=True)[1]

    def run(images: np.ndarray) -> None:
        variables = model.trainable_variables, model.non_trainable_variables
        values = call(*([variable.value for variable in part] for part in variables), images)
        for variable, value in zip(variables[1], values, strict=True):
            variable.assign(value)

    return run


@contextlib.contextmanager
def _kept(variables: list[Any]) -> Iterator[None]:
    """Gives all variables, each replica's copy for itself, their values back in the end."""
    copies = [copy for variable in variables for copy in _copies(variable)]
    values = [np.array(keras.ops.convert_to_numpy(copy)) for copy in copies]
    try:
        yield
    finally:
        for copy, value in zip(copies, values, strict=True):
            copy.assign(value)


def _copies(variable: Any) -> list[Any]:
    """The variable itself, or, under a strategy of TensorFlow, its copies on this machine."""
    copies = getattr(variable.value, "values", None)
    return list(copies) if isinstance(copies, tuple) else [variable]


def _read(variable: Any) -> np.ndarray:
    """The value, in float32 if it is a float; of replicas that differ, their mean."""
    if not keras.backend.is_float_dtype(variable.dtype):
        return np.asarray(keras.ops.convert_to_numpy(variable))
    copies = _copies(variable)
    if variable.trainable:
        # Gradients are summed over the replicas, so that these copies are equal.
        copies = copies[:1]
    first, *others = (
        np.asarray(keras.ops.convert_to_numpy(copy)).astype(np.float32, copy=False)
        for copy in copies
    )
    # Differences, so that the mean of equal copies is exact.
    return first + sum(other - first for other in others) / len(copies) if others else first


def _as_average(value: np.ndarray) -> np.ndarray:
    is_float = keras.backend.is_float_dtype(value.dtype.name)
    return np.array(value, dtype=np.float32 if is_float else None)
