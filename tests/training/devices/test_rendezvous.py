"""Workers wait for each other, and refuse to train different things together."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet.training.devices import connect, rendezvous
from keras_resnet.training.devices.cluster import Cluster
from keras_resnet.training.devices.launch import free_ports
from keras_resnet.training.devices.rendezvous import ClusterError, Rendezvous


def local_cluster(workers: int, index: int = 0) -> Cluster:
    addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(workers))
    return Cluster(addresses, index, "test")


def outcome(cluster: Cluster, index: int, seconds: float, *facts: dict[str, Any]) -> str:
    try:
        workers = Rendezvous(dataclasses.replace(cluster, index=index), seconds)
        for known in facts:
            workers.require_same(known)
    except (ClusterError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "ready"


@contextlib.contextmanager
def knock(cluster: Cluster, index: int = 0, text: str | None = None) -> Iterator[None]:
    """Connects to the chief, and says what a worker says, or another text."""
    hello = {"greeting": "keras-resnet", "index": index, "addresses": cluster.addresses}
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            connection = socket.create_connection(cluster.hosts_and_ports[0])
            break
        assert time.monotonic() < deadline
    with connection:
        connection.sendall((text or json.dumps(hello) + "\n").encode())
        yield


def test_workers_wait_for_each_other() -> None:
    cluster = local_cluster(3)
    with ThreadPoolExecutor(3) as threads:
        others = [threads.submit(outcome, cluster, index, 20) for index in (1, 2)]
        time.sleep(0.5)
        assert not any(other.done() for other in others)
        chief = threads.submit(outcome, cluster, 0, 20)
        assert {chief.result(), *(other.result() for other in others)} == {"ready"}
    # TensorFlow needs the port next.
    with socket.create_server(("127.0.0.1", int(cluster.addresses[0].rpartition(":")[2]))):
        pass


def test_missing_workers_are_named_on_all_others() -> None:
    cluster = local_cluster(4)
    with ThreadPoolExecutor(2) as threads:
        results = [threads.submit(outcome, cluster, index, 1.5).result for index in (0, 2)]
        messages = {result() for result in results}
    missing = ", ".join(f"{i} ({cluster.addresses[i]})" for i in (1, 3))
    (message,) = messages
    assert message.startswith(
        f"ClusterError: Expected all 4 workers within 2 s. Received: nothing from worker {missing}."
    )
    assert f"nothing from worker 0 ({cluster.addresses[0]})" in outcome(cluster, 1, 0.5)


def test_workers_that_disagree_are_refused() -> None:
    cluster = local_cluster(3)
    other = dataclasses.replace(cluster, addresses=(*cluster.addresses[:2], "127.0.0.1:9"))
    with ThreadPoolExecutor(2) as threads:
        chief = threads.submit(outcome, cluster, 0, 10)
        worker = threads.submit(outcome, other, 1, 10)
        addresses = f"{list(cluster.addresses)} on worker 0, {list(other.addresses)} on worker 1"
        assert f"Received: {addresses}" in chief.result()
        assert worker.result() == chief.result()
        results = [threads.submit(outcome, cluster, index, 10) for index in (0, 1)]
        with knock(cluster, index=1):
            (message,) = {result.result() for result in results}
        assert "Received: two workers with index 1" in message


def test_strangers_and_workers_that_leave_do_not_count() -> None:
    cluster = local_cluster(2)
    with ThreadPoolExecutor(1) as threads:
        chief = threads.submit(outcome, cluster, 0, 10)
        with knock(cluster, text="GET / HTTP/1.1\r\n\r\n\n"):
            time.sleep(0.3)
        assert not chief.done()
        # This one says the right words, so the chief goes on.
        with knock(cluster, index=1):
            assert chief.result() == "ready"


def test_a_taken_port_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cluster = Cluster((f"127.0.0.1:{port}", "127.0.0.1:9"), 0, "test")
        with pytest.raises(ValueError, match=f"Expected a free port for worker 0. .*:{port}"):
            Rendezvous(cluster, 1)


def together(cluster: Cluster, *facts: list[dict[str, Any]]) -> list[str]:
    """What comes of workers with these facts, one after the other."""
    with ThreadPoolExecutor(len(facts)) as threads:
        results = [threads.submit(outcome, cluster, i, 20, *own) for i, own in enumerate(facts)]
        return [result.result() for result in results]


def test_what_differs_is_said_on_all_workers() -> None:
    same = {"step": np.int64(3), "sizes": (1, 2), "seed": 0}
    run: dict[str, Any] = {"recipe": {"learning_rate": 0.1, "names": ["a"] * 10_000}, "seed": 0}
    other: dict[str, Any] = {"recipe": {**run["recipe"], "learning_rate": 0.5}, "seed": 0}
    assert together(local_cluster(3), [same, run], [same, run], [same, run]) == ["ready"] * 3
    messages = together(local_cluster(3), [same, run], [same, {**run, "seed": 5}], [same, other])
    (message,) = set(messages)
    assert message.startswith(
        "ValueError: Expected the same settings, data and packages on all workers. "
        "Received: seed: 0 on worker 0, 5 on worker 1; recipe.learning_rate: 0.1 on worker 0, 0.5 "
        "on worker 2. Start all workers with the same arg"
    )


def test_workers_that_end_before_they_have_compared_are_named() -> None:
    cluster = local_cluster(3)
    others = together(cluster, [{}, {}], [{}], [{}, {}])
    message = f"Received: nothing more from worker 1 ({cluster.addresses[1]})."
    assert [message in result for result in others] == [True, False, True]
    cluster = local_cluster(2)
    alone = together(cluster, [], [{}])
    assert f"nothing more from worker 0 ({cluster.addresses[0]})." in alone[1]


def test_workers_say_for_whom_they_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendezvous, "_SAY_SECONDS", 0.3)
    monkeypatch.setattr(rendezvous, "_TELL_SECONDS", 0.1)
    cluster = local_cluster(3)
    met, arrived = threading.Event(), threading.Event()

    def wait_until_said(waiting: int, missing: int) -> None:
        heard, deadline = "", time.monotonic() + 30
        for_whom = re.escape(f"for worker {missing} ({cluster.addresses[missing]}).")
        while not re.search(f"Worker {waiting} has waited [0-9]+ s {for_whom}", heard):
            heard += capsys.readouterr().out
            assert time.monotonic() < deadline, heard
            time.sleep(0.05)

    def last(index: int) -> str:
        workers = Rendezvous(dataclasses.replace(cluster, index=index), 60)
        met.set()
        arrived.wait(60)
        workers.require_same({})
        return "ready"

    with ThreadPoolExecutor(3) as threads:
        results = [threads.submit(outcome, cluster, 1, 60, {})]
        wait_until_said(1, missing=0)
        results.append(threads.submit(outcome, cluster, 0, 60, {}))
        wait_until_said(0, missing=2)
        wait_until_said(1, missing=2)
        results.append(threads.submit(last, 2))
        met.wait(60)
        capsys.readouterr()
        wait_until_said(0, missing=2)
        wait_until_said(1, missing=2)
        arrived.set()
        assert [result.result() for result in results] == ["ready"] * 3


def test_versions_of_packages_have_to_be_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    facts: dict[str, Any] = {}

    class Alone:
        def __init__(self, cluster: Cluster, seconds: float) -> None: ...

        def require_same(self, known: dict[str, Any]) -> None:
            facts.update(known)

    monkeypatch.setattr(connect, "Rendezvous", Alone)
    monkeypatch.setattr(connect, "_strategy", lambda cluster: "strategy")
    monkeypatch.setattr(connect, "_connected", {})
    assert connect.connect_workers(local_cluster(2))[0] == "strategy"
    assert sorted(facts) == ["keras", "keras_resnet", "numpy", "tensorflow"]
    assert facts["keras"] == keras.__version__
