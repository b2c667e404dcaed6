"""Two real processes train together, and what they do about workers that are missing or die."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
import time
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import pytest

from keras_resnet.training.devices.cluster import Cluster, cluster_from, expand_nodes
from keras_resnet.training.devices.connect import ClusterError, wait_for_workers
from keras_resnet.training.devices.keras_mends import (
    averages_scalars_along_an_axis,
    averages_the_first_batch,
    mend_keras,
    trainer_module,
)
from keras_resnet.training.devices.launch import free_ports
from keras_resnet.training.devices.strategies import choose_strategy

from ...conftest import ROOT, Start, ended
from ...fork_server import Process
from .test_strategies import check_cells
from .worker_program import BATCH, facts_of_training, network

MENDED = "Keras is mended: remove the patch from keras_resnet/training/devices/keras_mends.py"


def start_workers(start_program: Start, **options: Any) -> list[Process]:
    """Starts two workers of `worker_program`."""
    addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(2))
    program = ("-m", "tests.training.devices.worker_program", json.dumps(options))
    return [
        start_program(
            *program, folder=ROOT, TF_CONFIG=Cluster(addresses, index, "test").tf_config()
        )
        for index in range(2)
    ]


def said(process: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.communicate(10)[0].splitlines()]


def codes(processes: list[Process], timeout: float) -> list[int]:
    """The exit codes; nothing is left running."""
    try:
        return [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run_alone(start_program: Start, **options: Any) -> list[dict[str, Any]]:
    program = ("-m", "tests.training.devices.worker_program", json.dumps(options))
    done = ended(start_program(*program, folder=ROOT), 300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_two_workers_equal_one_process_until_one_dies(start_program: Start) -> None:
    processes = start_workers(start_program, program="equality", act="SIGKILL", victim=1)
    check_that_the_other_ends(processes, "SIGKILL", 1)
    (chief,), (other,) = map(said, processes)
    setup = choose_strategy("cpu", batch_size=BATCH)
    alone = facts_of_training(setup, network(setup))
    assert chief["replicas"] == 2
    assert alone["replicas"] == 1
    assert len(chief["losses"]) == 3
    assert chief["losses"] == other["losses"] == pytest.approx(alone["losses"], abs=1e-4)
    assert chief["trainable"] == other["trainable"]
    assert chief["evaluated"] == other["evaluated"]
    # Synchronised norms move the statistics of the whole batch.
    assert chief["local"] == other["local"] == pytest.approx(alone["local"], abs=1e-4)
    # The chief writes its own copy without the other.
    assert chief["chief"] == [7.0] * 4
    assert other["chief"] == other["local"]
    # Statistics of 1 and 3.
    assert chief["averaged"] == other["averaged"] == [2.0] * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "victim"),
    [
        ("SIGKILL", 0),
        # Nobody closes the connections of a host that has lost its power.
        ("SIGSTOP", 0),
        ("SIGSTOP", 1),
    ],
)
def test_the_others_end_when_a_worker_dies(start_program: Start, act: str, victim: int) -> None:
    processes = start_workers(start_program, program="equality", act=act, victim=victim)
    check_that_the_other_ends(processes, act, victim)


def check_that_the_other_ends(processes: list[Process], act: str, victim: int) -> None:
    survivor = 1 - victim
    try:
        deadline = time.monotonic() + 120
        if act == "SIGKILL":
            assert processes[victim].wait(120) == -9
        else:
            state = Path(f"/proc/{processes[victim].pid}/stat")
            while state.read_text().split()[2] != "T":
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert processes[survivor].wait(60) == 1
    finally:
        for process in processes:
            process.kill()
            process.wait()
    message = processes[survivor].communicate()[1].splitlines()[-1]
    assert message.startswith("ClusterError: Expected 2 workers until the end. Received: no more")
    assert f"from worker {victim} (127.0.0.1:" in message


@pytest.mark.slow
def test_every_combination_of_two_workers_trains_or_is_refused(start_program: Start) -> None:
    cells = [
        [precision, executed, xla]
        for precision in ("float32", "bfloat16", "float16")
        for executed in (1, 4)
        for xla in (False, True)
    ]
    processes = start_workers(start_program, program="cells", cells=cells)
    assert codes(processes, 240) == [0, 0], processes[0].communicate()[1]
    results = said(processes[0])
    assert [result["cell"] for result in results] == cells
    assert results == said(processes[1])
    check_cells(results)


def unmended_trainer() -> Any:
    """Keras' trainer without the mends, if another test has brought them in."""
    module = trainer_module()

    def original(function: Any) -> Any:
        return getattr(function, "_keras_resnet_mend", function)

    class_ = module.TensorFlowTrainer
    return types.SimpleNamespace(
        reduce_per_replica=original(module.reduce_per_replica),
        TensorFlowTrainer=types.SimpleNamespace(
            _maybe_symbolic_build=original(class_._maybe_symbolic_build)
        ),
    )


def test_keras_still_has_the_faults_of_several_workers() -> None:
    assert averages_scalars_along_an_axis(unmended_trainer()), MENDED
    assert averages_the_first_batch(unmended_trainer()), MENDED


@pytest.mark.slow
def test_keras_still_fails_with_several_steps_per_execution(start_program: Start) -> None:
    (result,) = run_alone(start_program, program="unmended", executed=2, xla=False)
    assert "placeholder" in str(result["failed"]), MENDED


@pytest.mark.slow
def test_keras_still_fails_with_xla_on_several_replicas(start_program: Start) -> None:
    (result,) = run_alone(start_program, program="unmended", executed=1, xla=True)
    assert "variable" in str(result["failed"]), "XLA works: allow it in strategies.py"


@pytest.mark.slow
def test_keras_still_overlooks_infinite_gradients_of_other_replicas(start_program: Start) -> None:
    (result,) = run_alone(start_program, program="infinite", mended=False)
    assert str(result["after"]) == "[[nan], [nan]]", MENDED


@pytest.mark.slow
def test_a_step_with_an_infinite_gradient_is_left_out_on_all_replicas(start_program: Start) -> None:
    (result,) = run_alone(start_program, program="infinite", mended=True)
    assert result["before"] == result["after"]


@pytest.fixture
def mended() -> Iterator[Any]:
    """Keras with the mends, and as it was afterwards."""
    module = trainer_module()
    places = [(module, "reduce_per_replica"), (keras.optimizers.LossScaleOptimizer, "check_finite")]
    places += [
        (module.TensorFlowTrainer, name) for name in ("_maybe_symbolic_build", "_make_function")
    ]
    before = [getattr(owner, name) for owner, name in places]
    mend_keras()
    yield module
    for (owner, name), function in zip(places, before, strict=True):
        setattr(owner, name, function)


def test_the_mends_are_made_once_and_leave_one_replica_alone(mended: Any) -> None:
    assert not averages_scalars_along_an_axis(mended)
    assert not averages_the_first_batch(mended)
    first = (mended.reduce_per_replica, mended.TensorFlowTrainer._make_function)
    mend_keras()
    assert first == (mended.reduce_per_replica, mended.TensorFlowTrainer._make_function)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=2)
    model.fit(keras.ops.ones((8, 2)), keras.ops.ones((8, 1)), batch_size=2, verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 4


def test_another_trainer_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_module().TensorFlowTrainer
    monkeypatch.delattr(trainer, "_make_function")
    with pytest.raises(RuntimeError, match=r"Install keras==3\.15"):
        mend_keras()


def local_cluster(workers: int, index: int = 0) -> Cluster:
    addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(workers))
    return Cluster(addresses, index, "test")


def outcome(cluster: Cluster, index: int, seconds: float) -> str:
    try:
        wait_for_workers(dataclasses.replace(cluster, index=index), seconds)
    except (ClusterError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "ready"


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
        assert "worker 1 twice, or with another list" in chief.result()
        assert worker.result() == chief.result()


def test_strangers_and_workers_that_leave_do_not_count() -> None:
    cluster = local_cluster(2)
    host, _, port = cluster.addresses[0].rpartition(":")
    hello = {"greeting": "keras-resnet", "index": 1, "addresses": list(cluster.addresses)}

    def knock() -> None:
        for text in (b"GET / HTTP/1.1\r\n\r\n\n", json.dumps(hello).encode() + b"\n"):
            time.sleep(0.3)
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(text)
                time.sleep(0.3)

    thread = threading.Thread(target=knock)
    with ThreadPoolExecutor(1) as threads:
        chief = threads.submit(outcome, dataclasses.replace(cluster), 0, 6)
        thread.start()
        result = chief.result()
    thread.join()
    # The second one said the right words, so the chief went on.
    assert result == "ready"


def test_a_taken_port_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cluster = Cluster((f"127.0.0.1:{port}", "127.0.0.1:9"), 0, "test")
        with pytest.raises(ValueError, match=f"Expected a free port for worker 0. .*:{port}"):
            wait_for_workers(cluster, 1)


def test_workers_of_the_command_line() -> None:
    cluster = cluster_from("a:1,b:2", 1, {"TF_CONFIG": "broken"})
    assert cluster == Cluster(("a:1", "b:2"), 1, "--workers")
    assert (cluster.workers, cluster.is_chief) == (2, False)
    assert cluster_from("a:1", 0, {}) is None
    assert cluster_from(None, None, {}) is None
    assert cluster_from(None, None, {"TF_CONFIG": cluster.tf_config()}) == dataclasses.replace(
        cluster, origin="TF_CONFIG"
    )


@pytest.mark.parametrize(
    ("workers", "index", "message"),
    [
        ("a:1,b:2", None, "together"),
        (None, 0, "together"),
        ("a:1,b", 0, "Expected addresses `host:port` of workers. Received: 'b'"),
        ("a:1,b:99999", 0, "'b:99999'"),
        ("a:1,,b:1", 0, "''"),
        ("a:1,b:1,a:1", 0, "a:1 twice, from --workers"),
        ("a:1,b:2", 2, "from 0 to 1. Received: 2"),
        ("a:1,b:2", -1, "from 0 to 1. Received: -1"),
    ],
)
def test_bad_workers_are_refused(workers: str | None, index: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cluster_from(workers, index, {})


def tf_config(cluster: Any, role: Any = "worker", index: Any = 0) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})}


def test_a_chief_is_worker_0() -> None:
    hosts = {"chief": ["c:1"], "worker": ["w:1", "w:2"]}
    addresses = ("c:1", "w:1", "w:2")
    for role, index, expected in (("chief", 0, 0), ("worker", 0, 1), ("worker", "1", 2)):
        cluster = cluster_from(None, None, tf_config(hosts, role, index))
        assert cluster == Cluster(addresses, expected, "TF_CONFIG")


@pytest.mark.parametrize("text", ["", "{}", '{"environment": "cloud"}', '{"cluster": {}}'])
def test_a_tf_config_without_cluster_is_none(text: str) -> None:
    assert cluster_from(None, None, {"TF_CONFIG": text}) is None
    assert cluster_from(None, None, tf_config({"chief": ["a:1"]}, "chief")) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TF_CONFIG": "{cluster"}, "no JSON"),
        ({"TF_CONFIG": "[1]"}, r"Received: \[1\]"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}}'}, "Received: {"),
        (tf_config({"worker": ["a:1"], "ps": ["b:1"]}), "the role 'ps'"),
        (tf_config({"worker": ["a:1", "b:1"]}, "evaluator"), "the role 'evaluator'"),
        (tf_config({"worker": ["a:1", "b:1"]}, "worker", 2), "worker 2 of 2"),
        (tf_config({"chief": ["a:1", "b:1"], "worker": ["c:1"]}), "and 2 chiefs"),
        (tf_config({"worker": "a:1"}), "Received: {"),
        (tf_config({"worker": [1, 2]}), "Received: {"),
        (tf_config({"worker": ["a:1", "a:1"]}), "a:1 twice, from TF_CONFIG"),
    ],
)
def test_a_bad_tf_config_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cluster_from(None, None, environment)


SLURM = {
    "SLURM_PROCID": "2",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_JOB_NODELIST": "n[08-10]",
    "SLURM_STEP_NODELIST": "n[08,10],big",
    "SLURM_TASKS_PER_NODE": "9",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_JOB_ID": "1003",
}


def test_tasks_of_srun_are_workers() -> None:
    cluster = cluster_from(None, None, SLURM)
    port = 12_000 + 1003 % 312 * 64
    addresses = (f"n08:{port}", f"n08:{port + 1}", f"n10:{port}", f"n10:{port + 1}", f"big:{port}")
    assert cluster == Cluster(addresses, 2, "Slurm")
    assert cluster.neighbours == (2, 3)
    own = cluster_from(None, None, {**SLURM, "SLURM_GPUS_PER_TASK": "1"})
    assert own is not None
    assert own.own_devices


def test_a_batch_script_without_srun_trains_alone() -> None:
    script = {key: value for key, value in SLURM.items() if "STEP" not in key}
    assert cluster_from(None, None, {**script, "SLURM_NTASKS": "5"}) is None
    assert cluster_from(None, None, {**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SLURM_PROCID": "x"}, "a number in SLURM_PROCID"),
        ({"SLURM_PROCID": "5"}, "from 0 to 4. Received: 5, from Slurm"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2,2"}, "5 tasks on the nodes of the Slurm step"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2x2"}, r"such as 2\(x3\),1"),
        ({"SLURM_DISTRIBUTION": "cyclic"}, "--distribution=block"),
        ({"SLURM_STEP_NODELIST": "n[1-2"}, "list of nodes"),
        ({"SLURM_STEP_NODELIST": "n[a-b]"}, "ranges of numbers"),
    ],
)
def test_a_bad_slurm_step_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cluster_from(None, None, {**SLURM, **changes})


def test_nodes_are_expanded() -> None:
    assert expand_nodes("gpu-a") == ["gpu-a"]
    assert expand_nodes("n[1-3]") == ["n1", "n2", "n3"]
    assert expand_nodes("n[001-002,010],m") == ["n001", "n002", "n010", "m"]
    assert expand_nodes("r[1-2]n[08-09].x") == ["r1n08.x", "r1n09.x", "r2n08.x", "r2n09.x"]
    assert expand_nodes("n[9-11]") == ["n9", "n10", "n11"]
