"""Connection with other workers, or with a TPU, in bounded time."""

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

import keras
import numpy as np
import tensorflow as tf

import keras_resnet
from keras_resnet.training.devices.cluster import Cluster
from keras_resnet.training.devices.rendezvous import START_SECONDS, ClusterError, Rendezvous

#: Time limit for connecting, which takes less than a second once all workers have met.
_CONNECT_SECONDS = 60.0

_connected: dict[Cluster, tuple[Any, Rendezvous]] = {}


def connect_workers(cluster: Cluster, seconds: float = START_SECONDS) -> tuple[Any, Rendezvous]:
    """Return the strategy of several workers and their rendezvous, the same ones at every call.

    All workers have to call this function at about the same time, before any other use of
    TensorFlow.

    Args:
        cluster: the cluster, with the same addresses on all workers.
        seconds: time limit for waiting for other workers.

    Raises:
        ClusterError: If workers are missing or cannot be connected.
        RuntimeError: If TensorFlow is already in use.
        ValueError: If workers have different versions of packages, or as for `Rendezvous`.
    """
    if cluster not in _connected:
        rendezvous = Rendezvous(cluster, seconds)
        packages = (keras_resnet, keras, tf, np)
        rendezvous.require_same({package.__name__: package.__version__ for package in packages})
        _connected[cluster] = _strategy(cluster), rendezvous
    return _connected[cluster]


def _strategy(cluster: Cluster) -> Any:
    tf.config.set_visible_devices(gpus_of(cluster), "GPU")
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        rpc_layer="grpc",
    )
    try:
        with _ending_after(_CONNECT_SECONDS), _keeping_signals():
            return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except tf.errors.OpError as error:
        # Waiting threads of TensorFlow would delay the end of the process.
        atexit.register(_leave)
        raise ClusterError(
            f"Expected {cluster.workers} workers that can reach each other. Received: "
            f"{error.message}"
        ) from error
    except RuntimeError as error:
        if "program startup" not in str(error):
            raise
        raise RuntimeError(
            "Expected to connect with the other workers before any other use of TensorFlow. "
            "Received: a process that already uses it. Call `choose_strategy` first"
        ) from error


def gpus_of(cluster: Cluster) -> list[Any]:
    """Return the GPUs of this worker: a part of the host's GPUs if workers share the host."""
    gpus: list[Any] = tf.config.list_physical_devices("GPU")
    neighbors = cluster.neighbors
    if cluster.own_devices or len(gpus) < len(neighbors):
        return gpus
    share = len(gpus) // len(neighbors)
    first = neighbors.index(cluster.index) * share
    return gpus[first : first + share]


@functools.cache
def connect_tpu(name: str | None, seconds: float) -> Any:
    """Return the strategy of a TPU. It has never been tested on one.

    Args:
        name: name or address of the TPU, or `local`; None: the value of `TPU_NAME`.
        seconds: time after which the process ends if the TPU does not respond.

    Raises:
        ValueError: If there is no TPU, or it does not respond.
    """
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        host, _, port = resolver.master().removeprefix("grpc://").rpartition(":")
        if resolver.master().startswith("grpc://") and port.isdecimal():
            # TensorFlow waits for a minute and a half for a TPU that does not respond.
            socket.create_connection((host, int(port)), timeout=10).close()
        # Connecting holds Python's global lock while it waits, so no Python thread could end it.
        with _ending_after(seconds):
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, OSError, tf.errors.OpError) as error:
        # Only the first sentence, as names of devices and kernels follow.
        reason = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        raise ValueError(
            f"Expected a TPU that answers. Received: {name or 'no name'} "
            f"({reason or 'no reason given'}). Pass its name or address, `local` on a TPU's own "
            "host, or choose another strategy"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


@contextlib.contextmanager
def _ending_after(seconds: float) -> Iterator[None]:
    """End the process with code 1 and a traceback if the context takes longer than `seconds`.

    Signal handlers and threads could not do this, as the calls inside hold Python's global lock.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def _keeping_signals() -> Iterator[None]:
    """Restore the SIGTERM handler, which TensorFlow replaces by one that does nothing."""
    yield
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL if handler is None else handler)


def _leave() -> None:
    """End the process without waiting for threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
