"""Two real processes train together, and what they do about workers that die."""

from __future__ import annotations

import json
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import pytest

from keras_resnet.training.devices.cluster import Cluster
from keras_resnet.training.devices.keras_patches import (
    averages_scalars_along_an_axis,
    averages_the_first_batch,
    patch_keras,
    trainer_module,
)
from keras_resnet.training.devices.launch import free_ports
from keras_resnet.training.devices.strategies import choose_strategy

from ...conftest import ROOT, Start, ended
from ...fork_server import Process
from .test_strategies import check_cells
from .worker_program import BATCH, facts_of_training, network

FIXED = "Keras is fixed: remove the patch from keras_resnet/training/devices/keras_patches.py"


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


@pytest.mark.full
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
    assert message.startswith("ClusterError: Expected 2 workers until the end. Received: nothing")
    assert f"more from worker {victim} (127.0.0.1:" in message


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


def unpatched_trainer() -> Any:
    """Keras' trainer without the patches, if another test has brought them in."""
    module = trainer_module()

    def original(function: Any) -> Any:
        return getattr(function, "_keras_resnet_patch", function)

    class_ = module.TensorFlowTrainer
    return types.SimpleNamespace(
        reduce_per_replica=original(module.reduce_per_replica),
        TensorFlowTrainer=types.SimpleNamespace(
            _maybe_symbolic_build=original(class_._maybe_symbolic_build)
        ),
    )


def test_keras_still_has_the_faults_of_several_workers() -> None:
    assert averages_scalars_along_an_axis(unpatched_trainer()), FIXED
    assert averages_the_first_batch(unpatched_trainer()), FIXED


@pytest.mark.slow
def test_keras_still_fails_with_several_steps_per_execution(start_program: Start) -> None:
    (result,) = run_alone(start_program, program="unpatched", executed=2, xla=False)
    assert "placeholder" in str(result["failed"]), FIXED


@pytest.mark.slow
def test_keras_still_fails_with_xla_on_several_replicas(start_program: Start) -> None:
    (result,) = run_alone(start_program, program="unpatched", executed=1, xla=True)
    assert "variable" in str(result["failed"]), "XLA works: allow it in strategies.py"


@pytest.mark.slow
def test_keras_still_overlooks_infinite_gradients_of_other_replicas(start_program: Start) -> None:
    (result,) = run_alone(start_program, program="infinite", patched=False)
    assert str(result["after"]) == "[[nan], [nan]]", FIXED


@pytest.mark.slow
def test_a_step_with_an_infinite_gradient_is_left_out_on_all_replicas(start_program: Start) -> None:
    (result,) = run_alone(start_program, program="infinite", patched=True)
    assert result["before"] == result["after"]


@pytest.fixture
def patched() -> Iterator[Any]:
    """Keras with the patches, and as it was afterwards."""
    module = trainer_module()
    places = [(module, "reduce_per_replica"), (keras.optimizers.LossScaleOptimizer, "check_finite")]
    places += [
        (module.TensorFlowTrainer, name) for name in ("_maybe_symbolic_build", "_make_function")
    ]
    before = [getattr(owner, name) for owner, name in places]
    patch_keras()
    yield module
    for (owner, name), function in zip(places, before, strict=True):
        setattr(owner, name, function)


def test_the_patches_are_made_once_and_leave_one_replica_alone(patched: Any) -> None:
    assert not averages_scalars_along_an_axis(patched)
    assert not averages_the_first_batch(patched)
    first = (patched.reduce_per_replica, patched.TensorFlowTrainer._make_function)
    patch_keras()
    assert first == (patched.reduce_per_replica, patched.TensorFlowTrainer._make_function)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=2)
    model.fit(keras.ops.ones((8, 2)), keras.ops.ones((8, 1)), batch_size=2, verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 4


def test_another_trainer_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_module().TensorFlowTrainer
    monkeypatch.delattr(trainer, "_make_function")
    with pytest.raises(RuntimeError, match=r"Install keras==3\.15"):
        patch_keras()
