"""Devices for training: `tf.distribute` strategies, and data parallelism under JAX."""

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
from keras_resnet.training.devices.keras_patches import patch_keras
from keras_resnet.training.devices.rendezvous import START_SECONDS, Rendezvous, lost_workers


@dataclass(frozen=True)
class DeviceSetup:
    """The devices of a training run, chosen by `choose_strategy`.

    Attributes:
        name: `cpu`, `gpu`, `mirrored`, `multi-worker` or `tpu`; `data-parallel` under JAX.
        strategy: a `tf.distribute.Strategy`, or under JAX a `keras.distribution.Distribution`;
            None: the default device.
        replicas: number of copies of the model on all workers; each gets a part of every batch.
        cluster: the workers; None if there is only this process.
        notes: sentences for the user about the devices.
        rendezvous: connections with the other workers; None if there are none.
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
        """True for the process that writes files."""
        return self.worker == 0

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return the scope in which models, optimizers and datasets have to be created."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def distribute(self, dataset: tf.data.Dataset) -> Any:
        """Return a dataset for `fit` and `evaluate` from this worker's parts of the batches.

        Without it, Keras would divide this worker's batches among all workers again. With one
        worker, the dataset is returned unchanged.

        Args:
            dataset: dataset of this worker's part of every global batch, with a known cardinality
                and a static batch size.
        """
        if self.cluster is None:
            return dataset
        local = self.replicas // self.workers
        if local > 1:
            steps = dataset.cardinality()
            size = keras.tree.flatten(dataset.element_spec)[0].shape[0]
            # Rebatching loses the cardinality.
            dataset = dataset.rebatch(size // local).apply(
                tf.data.experimental.assert_cardinality(steps * local)
            )
        return self.strategy.distribute_datasets_from_function(lambda context: dataset)

    def any_worker(self, flag: bool) -> bool:
        """Return whether `flag` is true on any worker; all workers have to call it together."""
        if self.cluster is None:
            return flag
        values = self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(float(flag), tf.float32)
        )
        return float(self.strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)) > 0

    def require_trainable(
        self, *, batch_size: int, dtype: str, steps_per_execution: int, jit_compile: bool
    ) -> None:
        """Raise ValueError if these devices cannot train with these settings.

        The arguments are those of `choose_strategy`.

        Raises:
            ValueError: If the combination does not work, or the batch cannot be divided evenly.
        """
        _check_arguments(dtype, steps_per_execution)
        _check_combination(self.name, self.replicas, dtype, jit_compile)
        _check_batch(batch_size, self.replicas)

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Raise ValueError unless `facts` are equal on all workers, which all have to call it.

        Args:
            facts: JSON-serializable values that have to be equal.

        Raises:
            ValueError: If a value differs; the message says which, and on which worker.
            ClusterError: If another worker has ended.
        """
        if self.rendezvous is not None:
            self.rendezvous.require_same(facts)

    @contextlib.contextmanager
    def explaining_lost_workers(self) -> Iterator[None]:
        """Replace errors of TensorFlow about lost workers by one that names the worker.

        TensorFlow notices a dead worker immediately and an unreachable host after 10 seconds, when
        collective operations of the other workers fail.

        Raises:
            ClusterError: If another worker has ended, or cannot be reached.
        """
        try:
            yield
        # Other errors, such as those about shapes, have other causes.
        except _LOST as error:
            text = str(error)
            if self.cluster is None or not re.search(r"/job:worker|[Cc]ollective", text):
                raise
            tasks = set(map(int, re.findall(r"/job:worker/replica:0/task:(\d+)", text)))
            others = set(range(self.workers)) - {self.worker}
            # If the chief is unreachable, TensorFlow says only that the connection is lost.
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
    """Choose the devices to train on.

    Combinations that do not work are refused before a model is built. With several workers, call
    this function before any other use of TensorFlow; it waits for all workers. A process has one
    strategy of a kind until it ends. TPUs have never been tested.

    Args:
        name: `"auto"`: all GPUs, the CPU if there are none, or the workers of `cluster`. `"cpu"`,
            `"gpu"`: one device. `"mirrored"`: all GPUs, or all logical CPUs if there is no GPU.
            `"multi-worker"`: the workers of `cluster`. `"tpu"`: a TPU. JAX supports only `"auto"`,
            all devices.
        batch_size: images per step, over all replicas.
        dtype: precision of the computations: `"float32"`, `"bfloat16"` or `"float16"`.
        steps_per_execution: as in `keras.Model.compile`.
        jit_compile: whether XLA compiles the training step.
        cluster: the workers that train together, from `cluster_from`; None: only this process.
        tpu: name or address of the TPU, `local` on the host of a TPU; None: the value of
            `TPU_NAME`.
        start_seconds: time limit for waiting for other workers or the TPU.

    Returns:
        The chosen devices, for the argument `strategy` of `train`.

    Raises:
        ValueError: If the combination does not work, the device does not exist, or the batch cannot
            be divided evenly.
        ClusterError: If workers are missing.
        RuntimeError: If TensorFlow is already in use, or the installed Keras cannot be patched for
            several replicas.
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
        # Listing logical devices would initialize TensorFlow, too early for several workers.
        replicas = (len(gpus_of(cluster)) or 1) * cluster.workers
        _check_combination("multi-worker", replicas, dtype, jit_compile)
        _check_batch(batch_size, replicas)
        patch_keras()
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
        note = "Training on a TPU, on which this package has never been tested."
    else:
        kind, devices, note = _local_devices(name)
        replicas = len(devices) or 1
        _check_combination(kind, replicas, dtype, jit_compile)
        strategy = _on_devices(devices) if devices else None
    _check_batch(batch_size, replicas)
    if replicas > 1:
        patch_keras()
    return DeviceSetup(kind, strategy, replicas, None, (note,))


def _check_arguments(dtype: str, steps_per_execution: int) -> None:
    check_choice("dtype", dtype, get_args(Precision))
    check_integer("steps_per_execution", steps_per_execution)


def _check_combination(name: str, replicas: int, dtype: str, jit_compile: bool) -> None:
    """Raise ValueError for a combination that does not train.

    With Keras patched, all other combinations of one or several replicas, three precisions, 1 or 4
    steps per execution, with or without XLA, were tested (tests/training/devices).
    """
    if jit_compile and replicas > 1 and name in ("mirrored", "multi-worker"):
        reason = (
            "XLA cannot compile variables that live on several devices (keras-team/keras#18666). "
            "Pass `jit_compile=False`"
        )
    elif name == "tpu" and dtype == "float16":
        reason = (
            "TPUs compute in bfloat16. Pass `dtype='bfloat16'`, which also needs no loss scaling"
        )
    else:
        return
    on = f"{replicas} replicas" if replicas > 1 else name
    compiled = "with" if jit_compile else "without"
    raise ValueError(
        f"Expected a combination that trains. Received: {dtype} on {on}, {compiled} XLA. {reason}"
    )


def require_whole_executions(steps: int, steps_per_execution: int, what: str) -> None:
    """Raise ValueError if `fit` would round the number of steps up.

    Keras 3.15 takes `steps_per_execution` steps at a time until an epoch has at least its steps.

    Args:
        steps: number of steps.
        steps_per_execution: number of steps that `fit` takes at a time.
        what: name of the steps for the message.

    Raises:
        ValueError: If `steps` is not a multiple of `steps_per_execution`.
    """
    if steps % steps_per_execution:
        raise ValueError(
            f"Expected `steps_per_execution` to be a divisor of the {steps} {what}, as `fit` would "
            f"take more of them. Received: {steps_per_execution}"
        )


def _local_devices(name: StrategyName) -> tuple[str, tuple[str, ...], str]:
    """Return the kind of setup, its devices (none: the default device), and a note."""
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


# TensorFlow 2.21 confuses the collective operations of two strategies on the same devices, so all
# models share one strategy.
@functools.cache
def _on_devices(devices: tuple[str, ...]) -> Any:
    if len(devices) == 1:
        return tf.distribute.OneDeviceStrategy(f"/{devices[0]}")
    return tf.distribute.MirroredStrategy(list(devices))


def _choose_for_jax(name: str, batch_size: int, cluster: Cluster | None) -> DeviceSetup:
    if name != "auto" or cluster is not None:
        raise ValueError(
            "Expected the strategy `auto` and no other workers under JAX, which uses all its "
            f"devices. Received: {'multi-worker' if cluster else name!r}. Set "
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
