"""A meeting of all workers before TensorFlow connects them, to compare their settings.

TensorFlow 2.21 waits up to an hour for missing workers without naming them, in a call that neither
Ctrl-C nor SIGTERM can end, and it does not notice different settings. Therefore, all workers first
connect to the chief with a protocol of this package: lines of JSON, over connections that stay open
during the run.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterable, Mapping
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from keras_resnet.support.checks import differences
from keras_resnet.support.json_text import parse_json
from keras_resnet.support.terminal import console
from keras_resnet.training.devices.cluster import Cluster

#: Longest time between the starts of two workers, which depends on queues, imports and disks.
START_SECONDS = 300.0

#: Interval at which a waiting worker prints which workers are missing.
_SAY_SECONDS = 10.0

#: Interval at which the chief tells the other workers which workers are missing.
_TELL_SECONDS = 1.0

_GREETING = "keras-resnet"
_LONGEST_MESSAGE = 2**24


class ClusterError(RuntimeError):
    """Raised if a worker is missing or has ended."""


def lost_workers(cluster: Cluster, workers: Iterable[int]) -> ClusterError:
    """Return the error for workers that have ended."""
    return ClusterError(
        f"Expected {cluster.workers} workers until the end. Received: nothing more from "
        f"{_named(cluster, workers, ' or ')}. Look at its output, and start all workers again"
    )


class Rendezvous:
    """The connections between all workers of a run, made when they are created.

    They use the port of the chief, which is free again afterward.

    Args:
        cluster: the cluster, with the same addresses on all workers.
        seconds: time limit for waiting for other workers.

    Raises:
        ClusterError: If workers are missing after that time; the message names them.
        ValueError: If the port of this worker is in use, or two workers have the same index.
    """

    def __init__(self, cluster: Cluster, seconds: float = START_SECONDS) -> None:
        self._cluster = cluster
        deadline = time.monotonic() + seconds
        host, port = cluster.hosts_and_ports[cluster.index]
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                # The host name may belong to another network than the one that others use.
                listener.bind((host if host == "127.0.0.1" else "", port))
                listener.listen(cluster.workers)
            except OSError as error:
                raise ValueError(
                    f"Expected a free port for worker {cluster.index}. Received: {host}:{port} "
                    f"({error.strerror}). Choose another port, in the list of every worker"
                ) from error
            #: Connections by worker: those of the chief with all others, or of a worker with it.
            self._lines: dict[int, _Line] = {}
            if cluster.is_chief:
                missing = self._gather(listener, deadline)
        if not cluster.is_chief:
            missing = self._report(deadline, seconds)
        if missing:
            raise ClusterError(
                f"Expected all {cluster.workers} workers within {seconds:.0f} s. Received: nothing "
                f"from {_named(cluster, missing)}. Start every worker with the same list, and open "
                "their ports in the firewall"
            )

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Raise ValueError unless `facts` are equal on all workers, which all have to call it.

        Args:
            facts: JSON-serializable values that have to be equal.

        Raises:
            ValueError: If a value differs; the message says which, and on which worker.
            ClusterError: If another worker has ended.
        """
        facts = json.loads(json.dumps(facts, default=np.generic.item))
        answer = self._compare(facts) if self._cluster.is_chief else self._ask(facts)
        if answer["lost"]:
            raise lost_workers(self._cluster, answer["lost"])
        if answer["changes"]:
            raise ValueError(
                "Expected the same settings, data and packages on all workers. Received: "
                f"{'; '.join(answer['changes'])}. Start all workers with the same arguments and an "
                "output folder that all of them can read"
            )

    def _gather(self, listener: socket.socket, deadline: float) -> list[int]:
        """Wait for the other workers, tell them the result, and return the missing (chief only)."""
        waiting, trouble = _Waiting(self._cluster), ""
        missing = set(range(1, self._cluster.workers))
        while missing and not trouble and time.monotonic() < deadline:
            listener.settimeout(max(0.01, min(_TELL_SECONDS, deadline - time.monotonic())))
            with contextlib.suppress(TimeoutError):
                trouble = self._admit(_Line(listener.accept()[0]))
            # Workers send nothing else before all are connected, so a readable one has ended.
            for index in self._readable(self._lines, 0):
                del self._lines[index]
            missing = set(range(1, self._cluster.workers)) - self._lines.keys()
            self._tell({"waiting": sorted(missing)})
            waiting.say(missing)
        self._tell({"missing": sorted(missing), "trouble": trouble})
        if trouble:
            raise ValueError(trouble)
        return sorted(missing)

    def _admit(self, line: _Line) -> str:
        """Accept the connection of a worker; return an error message, or an empty string."""
        message: Any = None
        # Port scanners connect, too, and send nothing or something else.
        with contextlib.suppress(OSError, ValueError):
            message = line.receive(5)
        if not isinstance(message, dict) or message.get("greeting") != _GREETING:
            return ""
        index: Any = message.get("index")
        addresses = message.get("addresses")
        trouble = ""
        if addresses != list(self._cluster.addresses):
            trouble = (
                "Expected the same list of addresses on all workers. Received: "
                f"{list(self._cluster.addresses)} on worker 0, {addresses} on worker {index}"
            )
        elif index in (0, *self._lines):
            trouble = (
                "Expected a different index for every worker. Received: two workers with index "
                f"{index}"
            )
        self._lines[-1 if trouble else index] = line
        return trouble

    def _report(self, deadline: float, seconds: float) -> list[int]:
        """Connect to the chief, and return the missing workers (all workers except the chief)."""
        cluster, waiting = self._cluster, _Waiting(self._cluster)
        hello = {"greeting": _GREETING, "index": cluster.index, "addresses": cluster.addresses}
        while time.monotonic() < deadline:
            # Before the chief starts, another program may use its port.
            with contextlib.suppress(OSError, ValueError):
                line = _Line(socket.create_connection(cluster.hosts_and_ports[0], timeout=5))
                line.send(hello)
                # The chief waits equally long, and may have started later.
                answer = self._answer(line, waiting, deadline + seconds)
                self._lines = {0: line}
                break
            waiting.say([0])
            time.sleep(0.2)
        else:
            return [0]
        if answer["trouble"]:
            raise ValueError(answer["trouble"])
        return list(answer["missing"])

    def _compare(self, facts: Any) -> dict[str, Any]:
        """Receive the facts of all workers, and tell them which differ (chief only)."""
        waiting = _Waiting(self._cluster)
        lost: list[int] = []
        known: dict[int, Any] = {}
        pending = set(self._lines)
        while pending and not lost:
            for index in self._readable(pending, _TELL_SECONDS):
                try:
                    theirs = self._lines[index].receive(_TELL_SECONDS)
                except (OSError, ValueError):
                    lost.append(index)
                    continue
                if theirs is not None:
                    known[index] = theirs
                    pending.remove(index)
            self._tell({"waiting": sorted(pending)}, known)
            waiting.say(pending)
        changes = [
            change
            for index in sorted(known)
            for change in differences(
                facts, known[index], words=f"{{}} on worker 0, {{}} on worker {index}"
            )
        ]
        answer = {"lost": lost, "changes": changes}
        self._tell(answer)
        return answer

    def _ask(self, facts: Any) -> dict[str, Any]:
        """Send facts to the chief, and return its answer (all workers except the chief)."""
        try:
            self._lines[0].send(facts)
            return self._answer(self._lines[0], _Waiting(self._cluster))
        except (OSError, ValueError):
            return {"lost": [0]}

    def _answer(
        self, line: _Line, waiting: _Waiting, deadline: float = float("inf")
    ) -> dict[str, Any]:
        """Wait for the answer of the chief, and print which workers are missing meanwhile.

        Raises:
            OSError: If the connection is closed, or the deadline is over.
            ValueError: If the answer is malformed.
        """
        missing = [0]
        while time.monotonic() < deadline:
            message = line.receive(_TELL_SECONDS)
            if message is not None:
                if "waiting" not in message:
                    return dict(message)
                missing = message["waiting"]
            waiting.say(missing)
        raise TimeoutError

    def _readable(self, workers: Iterable[int], seconds: float) -> list[int]:
        """Return the workers that send something or end within some seconds."""
        files = {self._lines[index].fileno(): index for index in workers}
        ready = wait(files, seconds)
        return [index for file, index in files.items() if file in ready]

    def _tell(self, message: Mapping[str, Any], workers: Iterable[int] | None = None) -> None:
        """Send a message to other workers; those that have ended are noticed later."""
        for index in self._lines if workers is None else workers:
            with contextlib.suppress(OSError):
                self._lines[index].send(message)


class _Line:
    """A connection with another worker, for one JSON value per line."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._data = connection, b""
        # Loading data may take hours, in which nothing is sent.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, message: Any) -> None:
        self._connection.settimeout(60)
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float) -> Any:
        """Return the next message, or None if it is not complete in time.

        Raises:
            OSError: If the connection is closed.
            ValueError: If the message is not JSON, or too long.
        """
        deadline = time.monotonic() + seconds
        while b"\n" not in self._data:
            self._connection.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                part = self._connection.recv(2**16)
            except TimeoutError:
                return None
            if not part:
                raise ConnectionResetError
            self._data += part
            if len(self._data) > _LONGEST_MESSAGE:
                raise ValueError
        text, _, self._data = self._data.partition(b"\n")
        return parse_json(text)


class _Waiting:
    """Prints every ten seconds which workers this worker waits for."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._begun = self._said = time.monotonic()

    def say(self, missing: Iterable[int]) -> None:
        now = time.monotonic()
        if now - self._said >= _SAY_SECONDS:
            self._said = now
            console.print(
                f"Worker {self._cluster.index} has waited {now - self._begun:.0f} s for "
                f"{_named(self._cluster, missing)}."
            )


def _named(cluster: Cluster, workers: Iterable[int], between: str = ", ") -> str:
    return "worker " + between.join(f"{i} ({cluster.addresses[i]})" for i in sorted(workers))
