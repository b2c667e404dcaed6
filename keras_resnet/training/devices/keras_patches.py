"""Patches of Keras' TensorFlow trainer, so that `fit` works with several replicas and workers.

This is the only module of the package that changes Keras. It fixes four bugs of Keras 3.15; a test
fails when Keras fixes one of them:

- with several workers, the first batch is averaged over replicas although it is split between them
  (keras-team/keras#20585);
- with several workers, scalar results are averaged along a missing axis (the same issue);
- with several replicas, more than one step per execution fails in the graph
  (keras-team/keras#19246);
- loss scaling of float16 checks the gradients of the first replica only, so infinite gradients on
  another replica lead to NaN weights or a deadlock of the workers.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import types
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

#: Attribute of the functions that this module puts into Keras.
_MARK = "_keras_resnet_patch"


def patch_keras() -> None:
    """Patch `fit` and `evaluate` of all Keras models in this process; a second call does nothing.

    Bugs that the installed Keras has fixed are not patched. Models on one replica are not affected.

    Raises:
        RuntimeError: If the backend is not TensorFlow, or its trainer is not the expected one.
    """
    trainer = trainer_module()
    if averages_scalars_along_an_axis(trainer):
        _put(trainer, "reduce_per_replica", _reduce_per_replica)
    if averages_the_first_batch(trainer):
        _put(trainer.TensorFlowTrainer, "_maybe_symbolic_build", _maybe_symbolic_build)
    _put(trainer.TensorFlowTrainer, "_make_function", _make_function)
    _put(keras.optimizers.LossScaleOptimizer, "check_finite", _check_finite)


def trainer_module() -> Any:
    """Return the module of Keras' TensorFlow trainer.

    Raises:
        RuntimeError: If there is none, or it lacks a function that has to be patched.
    """
    # The module is private, so it is found through a base class of `keras.Model`. If Keras moves
    # it, an import by its path would fail without a clear message.
    classes = {base.__name__: base for base in keras.Model.__mro__}
    trainer = classes.get("TensorFlowTrainer")
    module = sys.modules[trainer.__module__] if trainer is not None else None
    names = ("reduce_per_replica", "_collective_all_reduce_multi_worker")
    methods = ("_maybe_symbolic_build", "_make_function", "_autoconvert_optionals")
    if not (
        all(hasattr(module, name) for name in names)
        and all(hasattr(trainer, name) for name in methods)
        and hasattr(keras.optimizers.LossScaleOptimizer, "check_finite")
    ):
        raise RuntimeError(
            "Expected the TensorFlow trainer of Keras 3.15, which is patched for training with "
            f"several replicas. Received: Keras {keras.__version__} on {keras.backend.backend()}. "
            "Install keras==3.15.*, or train on one device"
        )
    return module


def averages_scalars_along_an_axis(trainer: Any) -> bool:
    """Return whether Keras reduces the results of several workers with `axis=0`.

    No tensor is created, as strategies of several workers have to be created before any tensor.
    """
    axes: list[int | None] = []

    class Probe(tf.distribute.MultiWorkerMirroredStrategy):
        extended = types.SimpleNamespace(_in_multi_worker_mode=lambda: True)

        def __init__(self) -> None:  # Without a cluster.
            pass

        def reduce(self, reduce_op: Any, value: Any, axis: int | None = None) -> Any:
            axes.append(axis)
            return value

    trainer.reduce_per_replica(1.0, Probe(), reduction="auto")
    return axes == [0]


def averages_the_first_batch(trainer: Any) -> bool:
    """Return whether Keras reduces a batch over replicas where it only needs its shapes.

    No tensor is created, as in `averages_scalars_along_an_axis`.
    """
    reduced: list[Any] = []

    class Batch(tf.distribute.DistributedValues):
        pass

    strategy = types.SimpleNamespace(
        reduce=lambda operation, value, axis: reduced.append(value),
        experimental_local_results=lambda value: (0.0,),
        scope=contextlib.nullcontext,
    )
    model = types.SimpleNamespace(
        _distribute_strategy=strategy,
        distribute_strategy=strategy,
        _symbolic_build=lambda data_batch: None,
    )
    trainer.TensorFlowTrainer._maybe_symbolic_build(model, iterator=[(0, 0, iter([Batch()]))])
    return bool(reduced)


def _put(owner: Any, name: str, make: Callable[[Any], Callable[..., Any]]) -> None:
    original = getattr(owner, name)
    if not hasattr(original, _MARK):
        patched = make(original)
        setattr(patched, _MARK, original)
        setattr(owner, name, patched)


def _reduce_per_replica(original: Any) -> Callable[..., Any]:
    trainer = sys.modules[original.__module__]

    def reduce_per_replica(values: Any, strategy: Any, reduction: str) -> Any:
        if reduction not in ("auto", "mean") or not trainer._collective_all_reduce_multi_worker(
            strategy
        ):
            return original(values, strategy, reduction)
        return keras.tree.map_structure(
            lambda value: strategy.reduce("MEAN", value, axis=None), values
        )

    return reduce_per_replica


def _maybe_symbolic_build(original: Any) -> Callable[..., Any]:
    def maybe_symbolic_build(self: Any, iterator: Any = None, data_batch: Any = None) -> Any:
        strategy = self._distribute_strategy
        if strategy is not None and iterator is not None:
            _, _, batches = next(iter(iterator))
            # Only shapes and dtypes are needed, which are the same on every replica.
            data_batch = keras.tree.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], next(batches)
            )
            iterator = None
        return original(self, iterator=iterator, data_batch=data_batch)

    return maybe_symbolic_build


def _make_function(original: Any) -> Callable[..., Any]:
    trainer = sys.modules[original.__module__]

    def make_function(self: Any, step_function: Callable[..., Any]) -> Callable[..., Any]:
        strategy = self.distribute_strategy
        steps = self.steps_per_execution
        if strategy.num_replicas_in_sync == 1 or steps == 1 or self.run_eagerly:
            return original(self, step_function)
        if self.jit_compile:
            raise ValueError(
                "Expected `jit_compile=False` with several replicas. Received: "
                f"{self.jit_compile!r}"
            )

        @tf.autograph.experimental.do_not_convert
        def one_step(batch: Any) -> Any:
            outputs = strategy.run(step_function, args=(batch,))
            return trainer.reduce_per_replica(outputs, strategy, reduction="auto")

        traced_once = self._autoconvert_optionals(tf.function(one_step, reduce_retracing=True))

        @tf.autograph.experimental.do_not_convert
        def every_step(batches: list[Any]) -> Any:
            for batch in batches:
                outputs = traced_once(batch)
            return outputs

        graph = tf.function(every_step, reduce_retracing=True)

        def execute(iterator: Any) -> Any:
            # Fetching inside the graph needs a condition, in which replicas fail.
            batches = list(itertools.islice(iterator, steps))
            if not batches:
                raise StopIteration
            return graph(batches)

        return execute

    return make_function


def _check_finite(original: Any) -> Callable[..., Any]:
    def check_finite(self: Any, gradients: Any) -> Any:
        finite = original(self, gradients)
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return finite
        # Gradients are summed later, by the inner optimizer.
        finite_replicas = context.all_reduce(
            tf.distribute.ReduceOp.SUM, tf.cast(finite, tf.float32)
        )
        return tf.equal(finite_replicas, float(context.num_replicas_in_sync))

    return check_finite
