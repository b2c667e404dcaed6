"""Which processes train together: what the command line, `TF_CONFIG` and Slurm say."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from keras_resnet.training.devices.cluster import Cluster, cluster_from, expand_nodes


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
        ("a:1,b:1,a:1", 0, "different address .* worker. Received: a:1 and a:1, from --work"),
        ("a:1,b:1,A:01", 0, "Received: a:1 and A:01, from --workers"),
        ("a:1,b:2", 2, "from 0 to 1. Received: 2"),
        ("a:1,b:2", -1, "from 0 to 1. Received: -1"),
        ("a:1,b:2", True, "from 0 to 1. Received: True"),
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
        ({"TF_CONFIG": "{cluster"}, "invalid JSON"),
        ({"TF_CONFIG": "[1]"}, r"Received: \[1\]"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}}'}, "Received: {"),
        (tf_config({"worker": ["a:1"], "ps": ["b:1"]}), "the role 'ps'"),
        (tf_config({"worker": ["a:1", "b:1"]}, "evaluator"), "the role 'evaluator'"),
        (tf_config({"worker": ["a:1", "b:1"]}, "worker", 2), "worker 2 of 2"),
        (tf_config({"chief": ["a:1", "b:1"], "worker": ["c:1"]}), "and 2 chiefs"),
        (tf_config({"worker": "a:1"}), "Received: {"),
        (tf_config({"worker": [1, 2]}), "Received: {"),
        (tf_config({"worker": ["a:1", "a:1"]}), "Received: a:1 and a:1, from TF_CONFIG"),
        (
            tf_config({"chief": ["localhost:1"], "worker": ["b:1", "127.0.0.1:1"]}),
            "Received: localhost:1 and 127.0.0.1:1, from TF_CONFIG",
        ),
        (tf_config({"worker": ["a:1", "b:1"]}, index=True), "the index True"),
        (tf_config({"worker": ["a:1", "b:1"]}, index=1.0), "the index 1.0"),
        (tf_config({"worker": ["a:1", "b:1"]}, index="-1"), "the index '-1'"),
        (
            {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker"}}'},
            "the index None",
        ),
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
    assert cluster.neighbors == (2, 3)
    own = cluster_from(None, None, {**SLURM, "SLURM_GPUS_PER_TASK": "1"})
    assert own is not None
    assert own.own_devices


def test_names_of_one_host_are_neighbors() -> None:
    cluster = Cluster(("localhost:1", "other:1", "127.0.0.1:2", "OTHER:2"), 0, "test")
    assert cluster.neighbors == (0, 2)
    assert dataclasses.replace(cluster, index=3).neighbors == (1, 3)


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
