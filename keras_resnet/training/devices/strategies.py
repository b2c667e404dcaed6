"""Division of training among devices: `tf.distribute` strategies, and JAX's data parallelism."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import keras
import tensorflow as tf

from keras_resnet.support.checks import check_choice, check_integer
from keras_resnet.training.devices.choices import Precision, StrategyName
from keras_resnet.training.devices.cluster import Cluster
from keras_resnet.training.devices.connect import connect_tpu, connect_workers, gpus_of
from keras_resnet.training.devices.keras_mends import mend_keras
from keras_resnet.training.devices.rendezvous import START_SECONDS, Rendezvous, lost_workers


@dataclass(frozen=True)
class DeviceSetup:
    """The decision of `choose_strategy`.

    Attributes:
        name: `cpu`, `gpu`, `mirrored`, `multi-worker` or `tpu`; `data-parallel` under JAX.
        strategy: a `tf.distribute.Strategy`, under JAX a `keras.distribution.Distribution`; None:
            the default device.
        replicas: copies of the model, on all workers together; each gets its part of a batch.
        cluster: the workers, if there are several.
        notes: sentences for the user about what was chosen, and why.
        rendezvous: where the workers have met, if there are several.
    """

    name: str
    strategy: Any
    replicas: int
    cluster: Cluster | None
    notes: tuple[str, ...]
    rendezvous: Rendezvous | None = None

    @property
    def worker(self) -> int:
        """The number of this process among the workers, from 0."""
        return 0 if self.cluster is None else self.cluster.index

    @property
    def workers(self) -> int:
        return 1 if self.cluster is None else self.cluster.workers

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.worker == 0

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return the scope in which models, optimizers and datasets have to be made."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def distribute(self, dataset: tf.data.Dataset) -> Any:
        """Return the dataset that `fit` and `evaluate` take: of this worker's parts.

        Keras would divide the part of a worker among all workers once more, and take that many
        more steps. Elsewhere the dataset is returned as it is.

        Args:
            dataset: of known cardinality; batches are this worker's parts of the global ones, of
                one static size.
        """
        if self.cluster is None:
            return dataset
        local = self.replicas // self.workers
        if local > 1:
            steps = dataset.cardinality()
            size = keras.tree.flatten(dataset.element_spec)[0].shape[0]
            # Rebatching forgets how many there are.
            dataset = dataset.rebatch(size // local).apply(
                tf.data.experimental.assert_cardinality(steps * local)
            )
        return self.strategy.distribute_datasets_from_function(lambda context: dataset)

    def any_worker(self, flag: bool) -> bool:
        """Return whether `flag` is true on any worker; all of them have to ask at the same time."""
        if self.cluster is None:
            return flag
        values = self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(float(flag), tf.float32)
        )
        return float(self.strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)) > 0

    def require_trainable(
        self, *, batch_size: int, dtype: str, steps_per_execution: int, jit_compile: bool
    ) -> None:
        """Refuses what `choose_strategy`, with the same arguments, would not have chosen this for.

        Raises:
            ValueError: If the combination does not work, or the batch cannot be divided evenly.
        """
        _check_arguments(dtype, steps_per_execution)
        _check_combination(self.name, self.replicas, dtype, jit_compile)
        _check_batch(batch_size, self.replicas)

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Refuses what is not the same on all workers; all of them have to ask at the same time.

        Args:
            facts: what has to be the same, fit for JSON.

        Raises:
            ValueError: If something differs; the message says what, and on which worker.
            ClusterError: If another worker has ended.
        """
        if self.rendezvous is not None:
            self.rendezvous.require_same(facts)

    @contextlib.contextmanager
    def explaining_lost_workers(self) -> Iterator[None]:
        """Say in one sentence which worker has gone, instead of TensorFlow's many.

        TensorFlow notices a dead worker at once, and a silent host after 10 seconds: every
        collective operation of the others then fails.

        Raises:
            ClusterError: If another worker has ended, or cannot be reached.
        """
        try:
            yield
        # Other errors, such as of shapes that differ, are the program's.
        except _LOST as error:
            text = str(error)
            if self.cluster is None or not re.search(r"/job:worker|[Cc]ollective", text):
                raise
            tasks = set(map(int, re.findall(r"/job:worker/replica:0/task:(\d+)", text)))
            others = set(range(self.workers)) - {self.worker}
            # Of a silent chief, TensorFlow says only that the connection is lost.
            raise lost_workers(self.cluster, tasks & others or others) from error


_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)


def choose_strategy(
    name: StrategyName = "auto",
    *,
    batch_size: int,
    dtype: Precision = "float32",
    steps_per_execution: int = 1,
    jit_compile: bool = False,
    cluster: Cluster | None = None,
    tpu: str | None = None,
    start_seconds: float = START_SECONDS,
) -> DeviceSetup:
    """Choose the devices to train on, and refuses what does not work before a model is built.

    With several workers, call it before anything else of TensorFlow: it waits for them. The process
    then has one strategy of its kind until it ends. TPUs have never been tried.

    Args:
        name: `auto`: all GPUs, or the CPU, or the workers of `cluster`. `cpu`, `gpu`: one
            device. `mirrored`: all GPUs, or all logical CPUs where there is no GPU.
            `multi-worker`: the workers of `cluster`. `tpu`: that of `tpu`. Under JAX `auto` only.
        batch_size: images per step, of all replicas together.
        dtype: in which the model computes.
        steps_per_execution: of `compile`.
        jit_compile: whether XLA compiles the step.
        cluster: the workers that train together, of `cluster_from`.
        tpu: name or address of the TPU, `local` on a TPU's own host; None: that of TPU_NAME.
        start_seconds: how long to wait for the other workers, or for the TPU.

    Raises:
        ValueError: If the combination does not work, the device is not there, or the batch cannot
            be divided evenly.
        ClusterError: If workers did not come.
        RuntimeError: If TensorFlow had begun its work already, or Keras cannot be mended.
    """
    check_choice("strategy", name, get_args(StrategyName))
    _check_arguments(dtype, steps_per_execution)
    if cluster is not None and name not in ("auto", "multi-worker"):
        raise ValueError(
            f"Expected the strategy `multi-worker` with the {cluster.workers} workers of "
            f"{cluster.origin}. Received: {name!r}"
        )
    if keras.backend.backend() == "jax":
        return _choose_for_jax(name, batch_size, cluster)
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Expected the TensorFlow or the JAX backend for training. Received: "
            f"{keras.backend.backend()}. Set KERAS_BACKEND"
        )
    if cluster is not None:
        # Listing logical devices would begin TensorFlow's work, too early for several workers.
        replicas = (len(gpus_of(cluster)) or 1) * cluster.workers
        _check_combination("multi-worker", replicas, dtype, jit_compile)
        _check_batch(batch_size, replicas)
        mend_keras()
        strategy, rendezvous = connect_workers(cluster, start_seconds)
        note = (
            f"{cluster.workers} workers from {cluster.origin}, this is {cluster.index} "
            f"({cluster.addresses[cluster.index]}): every batch is divided among them."
        )
        replicas = strategy.num_replicas_in_sync
        return DeviceSetup("multi-worker", strategy, replicas, cluster, (note,), rendezvous)
    if name == "tpu":
        _check_combination("tpu", 1, dtype, jit_compile)
        strategy = connect_tpu(tpu, start_seconds)
        kind, replicas = "tpu", strategy.num_replicas_in_sync
        note = "Training on a TPU, which this package has never run on."
    else:
        kind, devices, note = _local_devices(name)
        replicas = len(devices) or 1
        _check_combination(kind, replicas, dtype, jit_compile)
        strategy = _on_devices(devices) if devices else None
    _check_batch(batch_size, replicas)
    if replicas > 1:
        mend_keras()
    return DeviceSetup(kind, strategy, replicas, None, (note,))


def _check_arguments(dtype: str, steps_per_execution: int) -> None:
    check_choice("dtype", dtype, get_args(Precision))
    check_integer("steps_per_execution", steps_per_execution)


def _check_combination(name: str, replicas: int, dtype: str, jit_compile: bool) -> None:
    """Refuses the combinations that do not train.

    Of one and several replicas, three precisions, 1 and 4 steps per execution, with and without
    XLA, all others were found to train, with Keras mended (tests/training/devices).
    """
    if jit_compile and replicas > 1 and name in ("mirrored", "multi-worker"):
        reason = (
            "XLA cannot compile variables that live on several devices (keras-team/keras#18666). "
            "Pass `jit_compile=False`"
        )
    elif name == "tpu" and dtype == "float16":
        reason = (
            "TPUs compute in bfloat16. Pass `dtype='bfloat16'`, which needs no loss scaling either"
        )
    else:
        return
    on = f"{replicas} replicas" if replicas > 1 else name
    compiled = "with" if jit_compile else "without"
    raise ValueError(
        f"Expected a combination that trains. Received: {dtype} on {on}, {compiled} XLA. {reason}"
    )


def require_whole_executions(steps: int, steps_per_execution: int, what: str) -> None:
    """Refuses a number of steps that `fit` would round up.

    Keras 3.15 takes `steps_per_execution` steps at a time until an epoch has at least its steps.

    Args:
        steps: per epoch.
        steps_per_execution: how many `fit` takes at once.
        what: the name of the steps in the message.

    Raises:
        ValueError: If `steps` is no multiple of the other.
    """
    if steps % steps_per_execution:
        raise ValueError(
            f"Expected `steps_per_execution` to divide the {steps} {what}, as `fit` would take "
            f"more of them. Received: {steps_per_execution}"
        )


def _local_devices(name: StrategyName) -> tuple[str, tuple[str, ...], str]:
    """Return the name of a setup without other workers, its devices (none: the default one), a note."""
    if name == "multi-worker":
        raise ValueError(
            "Expected workers for the strategy `multi-worker`. Received: none. Pass `workers` "
            "and `worker_index`, set TF_CONFIG, start with srun, or use `keras-resnet launch`"
        )
    gpus, cpus = (
        tuple(f"{kind}:{i}" for i in range(len(tf.config.list_logical_devices(kind))))
        for kind in ("GPU", "CPU")
    )
    if name == "gpu" and not gpus:
        raise ValueError(
            "Expected a GPU that TensorFlow can use. Received: none. `keras-resnet doctor` says "
            "what TensorFlow finds; `strategy='cpu'` trains without"
        )
    devices = gpus or cpus if name == "mirrored" else gpus
    if name in ("auto", "mirrored") and len(devices) > 1:
        note = f"{len(devices)} devices, {devices[0]} to {devices[-1]}: every batch is divided."
        return "mirrored", devices, note
    one = "cpu" if name == "cpu" or not gpus else "gpu"
    note = f"Training on one {one.upper()}."
    if name == "mirrored":
        note = f"`mirrored` found one device only. {note}"
    # The default device is the first GPU, or the CPU.
    others = (one == "cpu" and gpus) or (one == "gpu" and len(gpus) > 1)
    return one, (f"{one.upper()}:0",) if others else (), note


# The collective operations of two strategies on the same devices are mistaken for each other
# (TensorFlow 2.21), so that a second model fails where the first had its own strategy.
@functools.cache
def _on_devices(devices: tuple[str, ...]) -> Any:
    if len(devices) == 1:
        return tf.distribute.OneDeviceStrategy(f"/{devices[0]}")
    return tf.distribute.MirroredStrategy(list(devices))


def _choose_for_jax(name: str, batch_size: int, cluster: Cluster | None) -> DeviceSetup:
    if name != "auto" or cluster is not None:
        raise ValueError(
            "Expected the strategy `auto` and no other workers under JAX, which uses all devices "
            f"that it sees. Received: {'multi-worker' if cluster else name!r}. Set "
            "KERAS_BACKEND=tensorflow"
        )
    devices = keras.distribution.list_devices()
    if len(devices) == 1:
        note = f"Training on one device of JAX, {devices[0]}."
        return DeviceSetup(devices[0].partition(":")[0], None, 1, None, (note,))
    _check_batch(batch_size, len(devices))
    note = f"{len(devices)} devices of JAX, {devices[0]} to {devices[-1]}: every batch is divided."
    parallel = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
    return DeviceSetup("data-parallel", parallel, len(devices), None, (note,))


def _check_batch(batch_size: int, replicas: int) -> None:
    if batch_size % replicas:
        raise ValueError(
            f"Expected `batch_size` to be a multiple of the {replicas} replicas. Received: "
            f"{batch_size}"
        )
