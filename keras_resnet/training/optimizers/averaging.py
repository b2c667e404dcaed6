"""Averages of weights over steps, and of BN statistics over batches and replicas."""

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
    """An exponential moving average of all weights of a model, including the statistics of BN.

    The average is kept on the host as one float32 array per weight, whatever the backend, strategy
    and dtype policy. The first update copies the weights; each later one adds `1 - decay` times the
    difference in place. Integer weights are copied. Where replicas have different BN statistics,
    their mean enters the average; call `average_bn_across_replicas` first to include those of other
    workers.

    Args:
        decay: share of the average that each update keeps, in [0, 1].

    Attributes:
        steps: number of calls of `update`.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._names: list[str] = []
        self._averages: list[np.ndarray] = []

    def update(self, model: keras.Model) -> None:
        """Update the average with the current weights.

        Args:
            model: the model. During `fit`, pass the model that is fitted: under JAX, only that
                model has access to its current weights.
        """
        self.steps += 1
        synchronize(model)
        if not self._averages:
            self._names = [variable.path for variable in model.weights]
            self._averages = [_as_average(_read(variable)) for variable in model.weights]
            return
        # One buffer for all weights: allocating memory for each takes longer than the arithmetic.
        buffer = np.empty(max(average.size for average in self._averages), np.float32)
        for variable, average in zip(model.weights, self._averages, strict=True):
            value = _read(variable)
            if not keras.backend.is_float_dtype(variable.dtype):
                np.copyto(average, value)
                continue
            # The average of a constant weight stays exact, unlike with `decay * average + …`.
            difference = np.subtract(
                value, average, out=buffer[: average.size].reshape(average.shape)
            )
            np.multiply(difference, 1.0 - self.decay, out=difference)
            np.add(average, difference, out=average)

    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of the averages and the number of updates, for `restore`."""
        names = (f"{number:05}/{name}" for number, name in enumerate(self._names))
        arrays = (average.copy() for average in self._averages)
        return {_STEPS: np.asarray(self.steps, np.int64), **dict(zip(names, arrays, strict=True))}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore a state that `state` returned.

        Weights are identified by position, as names that Keras generates differ between processes.
        """
        keys = sorted(key for key in state if key != _STEPS)
        self.steps = int(state[_STEPS])
        self._names = [key.partition("/")[2] for key in keys]
        self._averages = [_as_average(state[key]) for key in keys]

    @contextlib.contextmanager
    def applied(self, model: keras.Model) -> Iterator[None]:
        """Set the weights of `model` to the averages inside the context.

        On exit, the model gets its own weights back, and every replica its own BN statistics. The
        model can be evaluated and saved inside the context; changes by training are lost.

        Args:
            model: as for `update`.
        """
        synchronize(model)
        with _kept(model.weights):
            for variable, average in zip(model.weights, self._averages, strict=True):
                variable.assign(average)
            try:
                yield
            finally:
                # Otherwise `evaluate` under JAX would overwrite the weights with the averages
                # later.
                synchronize(model)


def recompute_bn(model: keras.Model, batches: Iterable[Any]) -> None:
    """Replace the moving statistics of batch normalization by exact statistics of some batches.

    According to their release notes, the ImageNet models of He et al. have statistics that were
    computed after training; Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", call this
    precise BN. Every layer normalizes by the statistics of the batch, as in training, but without
    dropout. Means and biased variances of the batches are pooled over all images in float64. Frozen
    layers (`trainable=False`), and layers called with `training=False`, keep and use their moving
    statistics. No other variable changes, and none at all if an error occurs.

    If the model calls a layer several times, the last call counts. With several workers, each
    computes statistics of its own: call `average_bn_across_replicas` afterward.

    Args:
        model: a model with `keras.layers.BatchNormalization` layers, including those of nested
            models. Without such layers, nothing happens.
        batches: training batches of images `(batch, height, width, channels)`, or tuples whose
            first element they are. Batches are weighted by their number of images.

    Raises:
        ValueError: If there are no images, or a batch normalization is nested in a layer that is
            not a model, or uses renormalization.
    """
    norms = [layer for layer in _norms(model) if layer.trainable]
    if not norms:
        return
    count = 0
    # For every layer: the sums of its inputs and of their squares, over all images.
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
    """Set the moving statistics of BN to their mean over all replicas of all workers.

    Under TensorFlow strategies, every replica updates its own statistics, and reading a variable
    returns those of the first replica. Call this function outside of `strategy.run`, on all workers
    at the same time. Without a strategy, or under JAX, which uses the statistics of the whole
    batch, nothing happens.

    Raises:
        ValueError: If a batch normalization is nested in a layer that is not a model.
    """
    # Frozen statistics are equal on all replicas; a mean of three equal numbers may be inexact.
    norms = [norm for norm in _norms(model) if norm.trainable]
    variables = [
        variable for norm in norms for variable in (norm.moving_mean, norm.moving_variance)
    ]
    # Only variables that were created under a strategy have this attribute.
    strategy = getattr(variables[0].value, "distribute_strategy", None) if variables else None
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return
    import tensorflow as tf

    copies = [_copies(variable) for variable in variables]
    # One vector per replica, for a single exchange instead of a hundred.
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
    """Yield the layers of a model, including those of nested models."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


def _norms(model: keras.Model) -> list[Any]:
    """Return the batch normalization layers, each once."""
    norm_class = keras.layers.BatchNormalization
    norms = list(dict.fromkeys(x for x in _layers(model) if isinstance(x, norm_class)))
    found = {id(norm.moving_variance) for norm in norms}
    for variable in model.non_trainable_weights:
        if variable.name == "moving_variance" and id(variable) not in found:
            raise ValueError(
                "Expected batch normalization layers in models only, not nested in other layers. "
                f"Received: {variable.path}"
            )
    return norms


@contextlib.contextmanager
def _batch_statistics(model: keras.Model, norms: list[Any]) -> Iterator[None]:
    """Make moving statistics those of the last batch, and turn dropout off, in the context."""
    if any(norm.renorm for norm in norms):
        raise ValueError(
            "Expected batch normalization without `renorm`. Received: "
            f"{next(norm.name for norm in norms if norm.renorm)}"
        )
    changed = [(norm, "momentum") for norm in norms]
    # The probability of every kind of dropout, including stochastic depth, is called `rate`.
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
    """Return a compiled call in training mode that updates the variables of the model."""
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
    """Restore the variables, including the copies of every replica, when the context ends."""
    copies = [copy for variable in variables for copy in _copies(variable)]
    values = [np.array(keras.ops.convert_to_numpy(copy)) for copy in copies]
    try:
        yield
    finally:
        for copy, value in zip(copies, values, strict=True):
            copy.assign(value)


def _copies(variable: Any) -> list[Any]:
    """Return the local copies of a variable under a TensorFlow strategy, else the variable."""
    copies = getattr(variable.value, "values", None)
    return list(copies) if isinstance(copies, tuple) else [variable]


def _read(variable: Any) -> np.ndarray:
    """Return the value of a variable, floats as float32; the mean over replicas that differ."""
    if not keras.backend.is_float_dtype(variable.dtype):
        return np.asarray(keras.ops.convert_to_numpy(variable))
    copies = _copies(variable)
    if variable.trainable:
        # Gradients are summed over the replicas, so these copies are equal.
        copies = copies[:1]
    first, *others = (
        np.asarray(keras.ops.convert_to_numpy(copy)).astype(np.float32, copy=False)
        for copy in copies
    )
    # Averaging the differences keeps the mean of equal copies exact.
    return first + sum(other - first for other in others) / len(copies) if others else first


def _as_average(value: np.ndarray) -> np.ndarray:
    is_float = keras.backend.is_float_dtype(value.dtype.name)
    return np.array(value, dtype=np.float32 if is_float else None)
