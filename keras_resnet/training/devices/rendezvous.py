"""Workers of one run meet before TensorFlow connects them, and compare what they are about to do.

TensorFlow 2.21 waits for workers for an hour, inside of a call that neither Ctrl-C nor SIGTERM
ends, and does not say for whom. Workers with other settings train on together there, each in its
own way. So all of them connect to the chief first, in a protocol of our own: lines of JSON, over
connections that last as long as the run.
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

#: Workers of one run may start that far apart: queues, imports and cold disks.
START_SECONDS = 300.0

#: How often a worker that waits says for whom.
_SAY_SECONDS = 10.0

#: How often the chief tells the others whom it waits for.
_TELL_SECONDS = 1.0

_GREETING = "keras-resnet"
_LONGEST_MESSAGE = 2**24


class ClusterError(RuntimeError):
    """Workers did not come, or one of them has gone."""


def lost_workers(cluster: Cluster, workers: Iterable[int]) -> ClusterError:
    """Return the error that says which workers have gone."""
    return ClusterError(
        f"Expected {cluster.workers} workers until the end. Received: no more from "
        f"{_named(cluster, workers, ' or ')}. See what it said, and start all workers again"
    )


class Rendezvous:
    """All workers of a run, who have met.

    It uses the chief's own port, which is free again afterwards.

    Args:
        cluster: the workers, the same on all of them.
        seconds: how long to wait for the others at most.

    Raises:
        ClusterError: If some did not come in time; the message names them.
        ValueError: If this worker's port is taken, or two workers claim to be the same one.
    """

    def __init__(self, cluster: Cluster, seconds: float = START_SECONDS) -> None:
        self._cluster = cluster
        deadline = time.monotonic() + seconds
        host, port = cluster.hosts_and_ports[cluster.index]
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                # A host's name may stand for another of its networks than the one others see.
                listener.bind((host if host == "127.0.0.1" else "", port))
                listener.listen(cluster.workers)
            except OSError as error:
                raise ValueError(
                    f"Expected a free port for worker {cluster.index}. Received: {host}:{port} "
                    f"({error.strerror}). Choose another, and tell all workers"
                ) from error
            #: The chief's connections with all others, or that of another worker with the chief.
            self._lines: dict[int, _Line] = {}
            if cluster.is_chief:
                missing = self._gather(listener, deadline)
        if not cluster.is_chief:
            missing = self._report(deadline, seconds)
        if missing:
            raise ClusterError(
                f"Expected all {cluster.workers} workers within {seconds:.0f} s. Received: nothing "
                f"from {_named(cluster, missing)}. Start every worker with the same list, and let "
                "their ports through"
            )

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Refuses what is not the same on all workers; all of them have to call it alike.

        Args:
            facts: what has to be the same, fit for JSON.

        Raises:
            ValueError: If something differs; the message says what, and on which worker.
            ClusterError: If another worker has ended before it came here.
        """
        facts = json.loads(json.dumps(facts, default=np.generic.item))
        answer = self._compare(facts) if self._cluster.is_chief else self._ask(facts)
        if answer["lost"]:
            raise lost_workers(self._cluster, answer["lost"])
        if answer["changes"]:
            raise ValueError(
                "Expected one run on all workers, with the same settings, data and packages. "
                f"Received: {'; '.join(answer['changes'])}. Start all workers alike, with one "
                "output folder that all of them can read"
            )

    def _gather(self, listener: socket.socket, deadline: float) -> list[int]:
        """Return the chief's part: waits for the others, tells them the outcome; who is missing."""
        waiting, trouble = _Waiting(self._cluster), ""
        missing = set(range(1, self._cluster.workers))
        while missing and not trouble and time.monotonic() < deadline:
            listener.settimeout(max(0.01, min(_TELL_SECONDS, deadline - time.monotonic())))
            with contextlib.suppress(TimeoutError):
                trouble = self._admit(_Line(listener.accept()[0]))
            # They say nothing more before all are there, so what can be read is an end.
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
        """Take in a worker that reports; returns what is wrong with it."""
        message: Any = None
        # Scanners of ports connect, too, and say nothing or something else.
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
                f"Expected another index for every worker. Received: two workers with index {index}"
            )
        self._lines[-1 if trouble else index] = line
        return trouble

    def _report(self, deadline: float, seconds: float) -> list[int]:
        """Return a worker's part: reports to the chief until it answers, and returns who is missing."""
        cluster, waiting = self._cluster, _Waiting(self._cluster)
        hello = {"greeting": _GREETING, "index": cluster.index, "addresses": cluster.addresses}
        while time.monotonic() < deadline:
            # Before the chief has come, its port may be another program's.
            with contextlib.suppress(OSError, ValueError):
                line = _Line(socket.create_connection(cluster.hosts_and_ports[0], timeout=5))
                line.send(hello)
                # The chief waits as long as this worker, and may have started later.
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
        """Return the chief's part: takes the others' facts, and tells all what differs."""
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
        """Return a worker's part: tells the chief its facts, and returns what it answers."""
        try:
            self._lines[0].send(facts)
            return self._answer(self._lines[0], _Waiting(self._cluster))
        except (OSError, ValueError):
            return {"lost": [0]}

    def _answer(
        self, line: _Line, waiting: _Waiting, deadline: float = float("inf")
    ) -> dict[str, Any]:
        """Return the chief's answer; meanwhile, say for whom this worker waits.

        Raises:
            OSError: If the connection is closed, or the deadline over.
            ValueError: If it is no answer.
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
        """Return the workers that say something or leave within so many seconds."""
        files = {self._lines[index].fileno(): index for index in workers}
        ready = wait(files, seconds)
        return [index for file, index in files.items() if file in ready]

    def _tell(self, message: Mapping[str, Any], workers: Iterable[int] | None = None) -> None:
        """Send a message to the others; that one has left is noticed when it is waited for."""
        for index in self._lines if workers is None else workers:
            with contextlib.suppress(OSError):
                self._lines[index].send(message)


class _Line:
    """A connection with another worker, which takes and gives one JSON value a line."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._data = connection, b""
        # Loading data may take hours, in which nothing is said.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, message: Any) -> None:
        self._connection.settimeout(60)
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float) -> Any:
        """Return the next message; None: it has not come whole in time.

        Raises:
            OSError: If the connection is closed.
            ValueError: If it is no JSON, or too long.
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
    """Says every ten seconds for whom this worker waits."""

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
