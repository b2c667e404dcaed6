"""Brings this process together with other workers, or with a TPU, in bounded time.

TensorFlow 2.21 waits for workers for an hour, inside of a call that neither Ctrl-C nor SIGTERM
ends, and does not say for whom. So workers report to the chief first, in a protocol of our own.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_resnet.support.json_text import parse_json
from keras_resnet.training.devices.cluster import Cluster

#: Workers of one run may start that far apart: queues, imports and cold disks.
START_SECONDS = 300.0

#: Once all workers have said that they are there, connecting takes less than a second.
_CONNECT_SECONDS = 60.0

_GREETING = "keras-resnet"
_LONGEST_MESSAGE = 65_536

_connected: dict[Cluster, Any] = {}


class ClusterError(RuntimeError):
    """Workers did not come, or one of them has gone."""


def connect_workers(cluster: Cluster, seconds: float = START_SECONDS) -> Any:
    """The strategy of several workers, the same one at every call.

    All of them have to call it at about the same time, before any other work of TensorFlow.

    Args:
        cluster: the workers, the same on all of them.
        seconds: how long to wait for the others at most.

    Raises:
        ClusterError: they did not come, or could not be connected.
        RuntimeError: TensorFlow had begun its work already.
        ValueError: as for `wait_for_workers`.
    """
    if cluster not in _connected:
        wait_for_workers(cluster, seconds)
        _connected[cluster] = _strategy(cluster)
    return _connected[cluster]


def wait_for_workers(cluster: Cluster, seconds: float = START_SECONDS) -> None:
    """Returns when all workers have called it: the others report to the chief, which answers.

    It uses the chief's own port, which is free again afterwards.

    Args:
        cluster: the workers, the same on all of them.
        seconds: how long to wait at most.

    Raises:
        ClusterError: some did not come in time; the message names them.
        ValueError: this worker's port is taken, or two workers claim to be the same one.
    """
    deadline = time.monotonic() + seconds
    host, port = _split(cluster.addresses[cluster.index])
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # A host's name may stand for another of its networks than the one that others see.
            listener.bind(("127.0.0.1" if host in ("localhost", "127.0.0.1") else "", port))
            listener.listen(cluster.workers)
        except OSError as error:
            raise ValueError(
                f"Expected a free port for worker {cluster.index}. Received: {host}:{port} "
                f"({error.strerror}). Choose another, and tell all workers"
            ) from error
        if cluster.is_chief:
            missing = _gather(cluster, listener, deadline)
    if not cluster.is_chief:
        missing = _report(cluster, deadline, seconds)
    if missing:
        names = ", ".join(f"{index} ({cluster.addresses[index]})" for index in missing)
        raise ClusterError(
            f"Expected all {cluster.workers} workers within {seconds:.0f} s. Received: nothing "
            f"from worker {names}. Start every worker with the same list, and let their ports "
            "through"
        )


def _gather(cluster: Cluster, listener: socket.socket, deadline: float) -> list[int]:
    """The chief's part: waits for the others, tells them the outcome, returns who is missing."""
    present: dict[int, socket.socket] = {}
    trouble = ""
    while len(present) < cluster.workers - 1 and not trouble and time.monotonic() < deadline:
        listener.settimeout(max(0.01, min(1.0, deadline - time.monotonic())))
        with contextlib.suppress(TimeoutError):
            connection, _ = listener.accept()
            # Scanners of ports connect, too, and say nothing or something else.
            message = _receive(connection, time.monotonic() + 5)
            index = message.get("index")
            if message.get("greeting") != _GREETING or not isinstance(index, int):
                connection.close()
                continue
            if message.get("addresses") != list(cluster.addresses) or index in present:
                trouble = (
                    "Expected workers with one list of addresses and another index each. "
                    f"Received: worker {index} twice, or with another list"
                )
            present[-1 if index in present else index] = connection
        present = {index: c for index, c in present.items() if _is_open(c)}
    missing = [i for i in range(1, cluster.workers) if i not in present]
    for connection in present.values():
        with contextlib.suppress(OSError), connection:
            _send(connection, {"missing": missing, "trouble": trouble})
    if trouble:
        raise ValueError(trouble)
    return missing


def _report(cluster: Cluster, deadline: float, seconds: float) -> list[int]:
    """A worker's part: reports to the chief until it answers, and returns who is missing."""
    hello = {
        "greeting": _GREETING,
        "index": cluster.index,
        "addresses": list(cluster.addresses),
    }
    while time.monotonic() < deadline:
        # The chief waits as long as this worker, and may have started later.
        with contextlib.suppress(OSError):
            address = _split(cluster.addresses[0])
            with socket.create_connection(address, timeout=5) as connection:
                _send(connection, hello)
                answer = _receive(connection, deadline + seconds)
                if answer.get("trouble"):
                    raise ValueError(str(answer["trouble"]))
                if "missing" in answer:
                    return [int(index) for index in answer["missing"]]
        time.sleep(0.2)
    return [0]


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket, deadline: float) -> dict[str, Any]:
    """One message; an empty one if none comes."""
    data = b""
    with contextlib.suppress(OSError, ValueError):
        while not data.endswith(b"\n") and len(data) < _LONGEST_MESSAGE:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            part = connection.recv(4096)
            if not part:
                break
            data += part
        message = parse_json(data)
        if isinstance(message, dict):
            return message
    return {}


def _is_open(connection: socket.socket) -> bool:
    """Whether the worker at the other end still waits."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


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
    """The GPUs for this worker: its part of its host's, if workers share a host."""
    gpus: list[Any] = tf.config.list_physical_devices("GPU")
    neighbours = cluster.neighbours
    if cluster.own_devices or len(gpus) < len(neighbours):
        return gpus
    share = len(gpus) // len(neighbours)
    first = neighbours.index(cluster.index) * share
    return gpus[first : first + share]


@functools.cache
def connect_tpu(name: str | None, seconds: float) -> Any:
    """The strategy of a TPU. Never run on one.

    Args:
        name: of the TPU, its address, or `local`; None: that of TPU_NAME.
        seconds: after which the process ends if the TPU does not answer.

    Raises:
        ValueError: there is no TPU, or none that answers.
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


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
