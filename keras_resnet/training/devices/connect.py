"""Connects this process with other workers, or with a TPU, in bounded time."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_resnet.training.devices.cluster import Cluster
from keras_resnet.training.devices.rendezvous import ClusterError

#: Once all workers have said that they are there, connecting takes less than a second.
_CONNECT_SECONDS = 60.0

_connected: set[Cluster] = set()


def is_connected(cluster: Cluster) -> bool:
    """Whether `workers` has connected this process already."""
    return cluster in _connected


@functools.cache
def workers(cluster: Cluster) -> Any:
    """The strategy of several workers, the same one at every call.

    All of them have to call it at about the same time, before any other work of TensorFlow.

    Raises:
        ClusterError: they could not be connected.
        RuntimeError: TensorFlow had begun its work already.
    """
    tf.config.set_visible_devices(gpus_of(cluster), "GPU")
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        rpc_layer="grpc",
    )
    try:
        with _ending_after(_CONNECT_SECONDS), _keeping_signals():
            strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except tf.errors.OpError as error:
        # Threads of TensorFlow that wait for the others would hold up the end of the process.
        atexit.register(_leave)
        raise ClusterError(
            f"Expected {cluster.workers} workers that reach each other. Received: {error.message}"
        ) from error
    except RuntimeError as error:
        if "program startup" not in str(error):
            raise
        raise RuntimeError(
            "Expected to connect with the other workers before any work of TensorFlow. Received: a "
            "process in which it has begun. Choose the strategy first"
        ) from error
    _connected.add(cluster)
    return strategy


def gpus_of(cluster: Cluster) -> list[Any]:
    """The GPUs for this worker: its part of its host's, if workers share a host."""
    gpus: list[Any] = tf.config.list_physical_devices("GPU")
    neighbours = cluster.neighbours
    if cluster.own_devices or len(gpus) < len(neighbours):
        return gpus
    share = len(gpus) // len(neighbours)
    first = neighbours.index(cluster.index) * share
    return gpus[first : first + share]


@functools.cache
def tpu(name: str | None, seconds: float) -> Any:
    """The strategy of a TPU. Never run on one.

    Args:
        name: of the TPU, its address, or `local`; None: that of TPU_NAME.
        seconds: after which the process ends if the TPU does not answer.

    Raises:
        ValueError: there is no TPU, or none that answers.
    """
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        _check_answers(resolver.master())
        # Connecting holds Python's lock while it waits, so no thread of ours could end it.
        with _ending_after(seconds):
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, OSError, tf.errors.OpError) as error:
        # The first sentence: what follows are names of devices and kernels.
        why = _first_sentence(str(error))
        raise ValueError(
            f"Expected a TPU that answers. Received: {name or 'no name'} ({why}). Pass its name or "
            "address, `local` on a TPU's own host, or choose another strategy"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def _check_answers(address: str) -> None:
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    if address.startswith("grpc://") and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextlib.contextmanager
def _ending_after(seconds: float) -> Iterator[None]:
    """Ends the process with code 1 and a traceback if the block takes longer.

    The calls inside hold Python's lock, so that no handler of signals and no thread runs.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def _keeping_signals() -> Iterator[None]:
    """Puts Python's handler of SIGTERM back, which TensorFlow replaces by one that does nothing."""
    yield
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL if handler is None else handler)


def _first_sentence(text: str) -> str:
    return text.splitlines()[0].split(". ")[0].rstrip(".") if text.strip() else "no reason given"


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
