"""Which devices are chosen, and which combinations train there."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import Mock

import pytest
import tensorflow as tf

from keras_resnet import ResNetConfig, build
from keras_resnet.data import load_digits
from keras_resnet.training import override, train
from keras_resnet.training.devices import connect
from keras_resnet.training.devices.cluster import Cluster
from keras_resnet.training.devices.rendezvous import ClusterError
from keras_resnet.training.devices.strategies import (
    DeviceSetup,
    _check_combination,
    choose_strategy,
    require_whole_executions,
)
from keras_resnet.training.recipes.table import find_recipe

from ...conftest import ROOT, Run, Start, ended

CLUSTER = Cluster(("a:1", "b:2"), 1, "--workers")


def run_cells(start_program: Start, cells: list[list[Any]]) -> list[dict[str, Any]]:
    """Trains combinations on two logical processors, in one process."""
    options = json.dumps({"program": "cells", "devices": 2, "cells": cells})
    process = start_program("-m", "tests.training.devices.worker_program", options, folder=ROOT)
    done = ended(process, 300)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["cell"] for result in results] == cells
    return results


def check_cells(results: list[dict[str, Any]]) -> None:
    for result in results:
        if result["cell"][2]:
            assert "Pass `jit_compile=False`" in result["refused"]
        else:
            # Three steps, of which four are taken at once where there are four.
            assert result["steps"] == 3
            assert result["replicas"] == 2
            assert result["loss"] == pytest.approx(results[0]["loss"], abs=0.01)


def test_two_replicas_train_four_steps_at_a_time(start_program: Start) -> None:
    # The second model is another program: two strategies in one process would fail here.
    cells = [["float32", 1, False], ["float16", 4, False], ["float32", 1, True]]
    check_cells(run_cells(start_program, cells))


@pytest.mark.slow
def test_every_combination_on_two_replicas_trains_or_is_refused(start_program: Start) -> None:
    precisions = ("float32", "bfloat16", "float16")
    cells = [[p, n, xla] for p in precisions for n in (1, 4) for xla in (0, 1)]
    check_cells(run_cells(start_program, cells))


def test_one_processor_needs_no_strategy() -> None:
    for name in ("auto", "cpu", "mirrored"):
        setup = choose_strategy(name, batch_size=7, dtype="float16", jit_compile=True)  # type: ignore[arg-type]
        assert (setup.name, setup.strategy, setup.replicas) == ("cpu", None, 1)
        assert (setup.worker, setup.workers, setup.is_chief) == (0, 1, True)
        assert "Training on one CPU." in setup.notes[0]
    assert "found one device only" in setup.notes[0]
    data = tf.data.Dataset.range(4).batch(2)
    assert setup.distribute(data) is data
    with setup.scope():
        assert not tf.distribute.has_strategy()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "horovod"}, "Expected `strategy` to be one of"),
        ({"dtype": "int8"}, "Expected `dtype` to be one of"),
        ({"steps_per_execution": 0}, "`steps_per_execution` to be an integer of at least 1"),
        ({"name": "gpu"}, "Expected a GPU that TensorFlow can use. Received: none"),
        ({"name": "multi-worker"}, "Expected workers for the strategy"),
        ({"name": "mirrored", "cluster": CLUSTER}, "with the 2 workers of --workers"),
        ({"cluster": CLUSTER, "jit_compile": True}, "Pass `jit_compile=False`"),
        ({"cluster": CLUSTER, "batch_size": 9}, "a multiple of the 2 replicas. Received: 9"),
        ({"name": "tpu", "dtype": "float16"}, "TPUs compute in bfloat16"),
        ({"name": "tpu"}, "Expected a TPU that answers. Received: no name"),
        ({"name": "tpu", "tpu": "local"}, "TPUs not found"),
        # TensorFlow waits for a minute and a half for a connection that is refused.
        ({"name": "tpu", "tpu": "grpc://127.0.0.1:1"}, "refused"),
    ],
)
def test_what_does_not_work_is_refused_at_once(
    arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TPU_NAME", raising=False)
    if arguments.get("name") == "gpu" and tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match=message):
        choose_strategy(**{"batch_size": 8, **arguments})


def test_refusals_name_combinations_by_their_parts() -> None:
    _check_combination("mirrored", 1, "float32", True)
    _check_combination("mirrored", 2, "float16", False)
    _check_combination("tpu", 8, "bfloat16", True)
    xla = "Received: bfloat16 on 2 replicas, with XLA. XLA cannot compile"
    with pytest.raises(ValueError, match=xla):
        _check_combination("multi-worker", 2, "bfloat16", True)
    with pytest.raises(ValueError, match="float16 on tpu, without XLA. TPUs compute in bfloat16"):
        _check_combination("tpu", 1, "float16", False)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mirrored", {"jit_compile": True}, "float32 on 2 replicas, with XLA.*`jit_compile=False`"),
        ("multi-worker", {"jit_compile": True}, "on 2 replicas, with XLA"),
        ("mirrored", {"batch_size": 25}, "a multiple of the 2 replicas. Received: 25"),
        ("tpu", {"dtype": "float16"}, "TPUs compute in bfloat16"),
        ("mirrored", {"steps_per_execution": 0}, "`steps_per_execution` to be an integer of at le"),
    ],
)
def test_train_refuses_with_devices_that_were_chosen_before_what_it_refuses_with_names(
    name: str, arguments: dict[str, Any], message: str, tiny_config: ResNetConfig
) -> None:
    setup = DeviceSetup(name, None, 2, None, ())
    recipe = override(find_recipe("quick-digits"), {"batch_size": arguments.pop("batch_size", 32)})
    model = build(tiny_config, input_shape=(16, 16, 3), classes=10)
    with pytest.raises(ValueError, match=message):
        train(model, load_digits(16), recipe, epochs=1, strategy=setup, **arguments)


def test_executions_have_to_be_whole() -> None:
    require_whole_executions(12, 4, "steps per epoch")
    with pytest.raises(ValueError, match="divisor of the 10 steps per epoch.* Received: 4"):
        require_whole_executions(10, 4, "steps per epoch")


def test_a_process_that_has_begun_its_work_is_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    tf.constant(1)
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: None)
    monkeypatch.setattr(connect, "Rendezvous", Mock())
    for _ in range(2):
        with pytest.raises(RuntimeError, match="before any other use of TensorFlow"):
            connect.connect_workers(CLUSTER)


def test_gpus_of_a_host_are_divided_among_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = list("abcd")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    addresses = ("h:1", "other:1", "h:2")
    assert connect.gpus_of(Cluster(addresses, 0, "test")) == ["a", "b"]
    assert connect.gpus_of(Cluster(addresses, 2, "test")) == ["c", "d"]
    assert connect.gpus_of(Cluster(addresses, 1, "test")) == gpus
    assert connect.gpus_of(Cluster(addresses, 2, "test", own_devices=True)) == gpus
    gpus[1:] = []
    # One that all see may be another one for each of them.
    assert connect.gpus_of(Cluster(addresses, 2, "test")) == ["a"]


@pytest.mark.parametrize("index", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_connecting_takes_bounded_time(run_python: Run, index: int) -> None:
    """TensorFlow alone waits for an hour, deaf to signals, and holds Python's lock."""
    code = f"""
from keras_resnet import ResNetConfig, build
from keras_resnet.data import load_digits
from keras_resnet.training import override, train
from keras_resnet.training.devices import connect
from keras_resnet.training.devices.cluster import Cluster
from keras_resnet.training.devices.launch import free_ports
connect._CONNECT_SECONDS = 2
connect._strategy(Cluster(tuple(f"127.0.0.1:{{port}}" for port in free_ports(2)), {index}, "test"))
"""
    done = run_python(code, timeout=60)
    assert done.returncode == 1
    assert "Timeout (0:00:02)!" in done.stderr
    assert "connect.py" in done.stderr


class Strategy:
    """Stands for one of two workers with two replicas each."""

    def distribute_datasets_from_function(self, make: Any) -> Any:
        return make(None)


def test_parts_of_workers_are_divided_among_their_replicas() -> None:
    setup = DeviceSetup("multi-worker", Strategy(), 4, CLUSTER, ())
    data = tf.data.Dataset.range(12).batch(6, drop_remainder=True)
    parts = setup.distribute(data)
    assert int(parts.cardinality()) == 4
    assert [part.numpy().tolist() for part in parts][:2] == [[0, 1, 2], [3, 4, 5]]


def test_lost_workers_are_named() -> None:
    setup = DeviceSetup("multi-worker", None, 2, CLUSTER, ())
    text = "Collective ops is aborted by: … remote target /job:worker/replica:0/task:0 while …"
    with (
        pytest.raises(ClusterError, match=r"nothing more from worker 0 \(a:1\)\."),
        setup.explaining_lost_workers(),
    ):
        raise tf.errors.UnavailableError(None, None, text)
    three = Cluster(("a:1", "b:2", "c:3"), 1, "test")
    setup = DeviceSetup("multi-worker", None, 3, three, ())
    with (
        pytest.raises(ClusterError, match=r"nothing more from worker 0 \(a:1\) or 2 \(c:3\)\."),
        setup.explaining_lost_workers(),
    ):
        raise tf.errors.AbortedError(None, None, "Collective ops is aborted by: …")
    for error in (
        tf.errors.InvalidArgumentError(None, None, text),
        tf.errors.UnavailableError(None, None, "a file system"),
    ):
        with pytest.raises(type(error)), setup.explaining_lost_workers():
            raise error
    alone = DeviceSetup("cpu", None, 1, None, ())
    with pytest.raises(tf.errors.UnavailableError), alone.explaining_lost_workers():
        raise tf.errors.UnavailableError(None, None, text)


@pytest.mark.full
def test_jax_divides_batches_among_its_devices(run_new_python: Run) -> None:
    code = """
import json
from keras_resnet.training.devices.strategies import choose_strategy
from tests.training.devices.worker_program import BATCH, STEPS, batches, compiled, network
setup = choose_strategy(batch_size=BATCH, dtype="bfloat16", steps_per_execution=3, jit_compile=True)
model = network(setup, "bfloat16", synchronized=False)
compiled(model, setup, "bfloat16", 3, True)
with setup.scope():
    model.fit(batches(setup, 1), steps_per_epoch=STEPS, verbose=0, shuffle=False)
messages = []
for wrong in ({"name": "mirrored"}, {"batch_size": 3}):
    try:
        choose_strategy(**{"batch_size": BATCH, **wrong})
    except ValueError as error:
        messages.append(str(error))
devices = len(model.layers[1].kernel.value.sharding.device_set)
steps = int(model.optimizer.iterations.value)
print(json.dumps([setup.name, setup.replicas, devices, steps, messages]))
"""
    done = run_new_python(
        code,
        KERAS_BACKEND="jax",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
        PYTHONPATH=str(ROOT),
    )
    assert done.returncode == 0, done.stderr
    name, replicas, devices, steps, messages = json.loads(done.stdout.splitlines()[-1])
    assert (name, replicas, devices, steps) == ("data-parallel", 2, 2, 3)
    assert "Expected the strategy `auto`" in messages[0]
    assert "a multiple of the 2 replicas. Received: 3" in messages[1]
