"""Brings this process together with other workers, or with a TPU, in bounded time."""

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

#: Once all workers have said that they are there, connecting takes less than a second.
_CONNECT_SECONDS = 60.0

_connected: dict[Cluster, tuple[Any, Rendezvous]] = {}


def connect_workers(cluster: Cluster, seconds: float = START_SECONDS) -> tuple[Any, Rendezvous]:
    """Return the strategy of several workers and their rendezvous, the same ones at every call.

    All of them have to call it at about the same time, before any other work of TensorFlow.

    Args:
        cluster: the workers, the same on all of them.
        seconds: how long to wait for the others at most.

    Raises:
        ClusterError: If they did not come, or could not be connected.
        RuntimeError: If TensorFlow had begun its work already.
        ValueError: If they have other versions of packages, or as for `Rendezvous`.
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


def gpus_of(cluster: Cluster) -> list[Any]:
    """Return the GPUs for this worker: its part of its host's, if workers share a host."""
    gpus: list[Any] = tf.config.list_physical_devices("GPU")
    neighbors = cluster.neighbors
    if cluster.own_devices or len(gpus) < len(neighbors):
        return gpus
    share = len(gpus) // len(neighbors)
    first = neighbors.index(cluster.index) * share
    return gpus[first : first + share]


@functools.cache
def connect_tpu(name: str | None, seconds: float) -> Any:
    """Return the strategy of a TPU. Never run on one.

    Args:
        name: of the TPU, its address, or `local`; None: that of TPU_NAME.
        seconds: after which the process ends if the TPU does not answer.

    Raises:
        ValueError: If there is no TPU, or none that answers.
    """
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        host, _, port = resolver.master().removeprefix("grpc://").rpartition(":")
        if resolver.master().startswith("grpc://") and port.isdecimal():
            # TensorFlow waits for a minute and a half for one that does not answer.
            socket.create_connection((host, int(port)), timeout=10).close()
        # Connecting holds Python's lock while it waits, so no thread of ours could end it.
        with _ending_after(seconds):
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, OSError, tf.errors.OpError) as error:
        # The first sentence: what follows are names of devices and kernels.
        reason = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        raise ValueError(
            f"Expected a TPU that answers. Received: {name or 'no name'} "
            f"({reason or 'no reason given'}). Pass its name or address, `local` on a TPU's own "
            "host, or choose another strategy"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


@contextlib.contextmanager
def _ending_after(seconds: float) -> Iterator[None]:
    """End the process with code 1 and a traceback if the block takes longer.

    The calls inside hold Python's lock, so that no handler of signals and no thread runs.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def _keeping_signals() -> Iterator[None]:
    """Put Python's handler of SIGTERM back, which TensorFlow replaces by one that does nothing."""
    yield
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL if handler is None else handler)


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
