"""`keras-resnet train` as a user runs it: in processes of its own, killed and started again."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnet
from keras_resnet.training.devices.launch import free_ports

from ...conftest import Command, Start, ended
from ...fork_server import Process
from .histories import read_history

#: A network of three blocks; everything that a state has to contain is switched on.
TRAIN = (
    *("train", "--model", "resnet20", "--data", "digits", "--recipe", "quick-digits"),
    *("--size", "16", "--epochs", "2", "--batch-size", "48", "--seed", "3"),
    *("--set", "network.blocks=[1,1,1]", "--set", "network.filters=[8,16,24]"),
    *("--checkpoint-every", "5"),
)
EVERYTHING = (
    *("--set", "network.stochastic_depth=0.2", "--set", "average.decay=0.9"),
    *("--set", "augmentation.mixup=0.2", "--set", "precise_bn=3"),
)
#: Batches of the run.
TOTAL = 60


def weights(folder: Path, name: str = "last.keras") -> list[np.ndarray]:
    model = keras.saving.load_model(folder / name)
    return [np.asarray(weight) for weight in model.get_weights()]


def newest(folder: Path) -> int:
    """Batches that the newest state has seen."""
    steps = (int(path.stem.split("-")[1]) for path in folder.glob("checkpoints/step-*"))
    return max(steps, default=0)


def wait_for_more(process: Process | subprocess.Popen[bytes], folder: Path, least: int) -> None:
    """Until the run has a state of at least so many batches, or has ended."""
    deadline = time.monotonic() + 120
    while newest(folder) < least and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_same(one: Path, other: Path) -> None:
    assert read_history(one) == read_history(other)
    for expected, found in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(expected, found)


@pytest.mark.full
@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([signal.SIGKILL], id="killed"),
        pytest.param([signal.SIGKILL, signal.SIGTERM], id="killed, then terminated"),
    ],
)
def test_killed_and_terminated_runs_end_with_the_same_bits(
    signals: list[signal.Signals],
    start_command: Start,
    keras_resnet_command: Command,
    tmp_path: Path,
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    # `TestResume` of test_trainer.py has everything in one process.
    command = (*TRAIN, *(EVERYTHING if len(signals) > 1 else ()), "--output")
    done = keras_resnet_command(*command, str(whole))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Weight decay 0.001 (coupled) on 8 kernels; not on 1 bias" in done.stdout
    assert re.search(r"^Epoch 2/2: loss .* images/s, 0:00:00 left$", done.stdout, re.MULTILINE)
    for number in signals:
        code = -9 if number == signal.SIGKILL else 143
        process = start_command(*command, str(parts), merged=True)
        wait_for_more(process, parts, newest(parts) + 5)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == code, output
        assert newest(parts) < TOTAL
        if code == 143:
            assert "Traceback" not in output
            said = re.search(r"Interrupted. The last saved state is .*step-(\d+).safet", output)
            assert said is not None
            assert int(said[1]) == newest(parts)
    done = keras_resnet_command(*command, str(parts))
    assert done.returncode == 0, done.stderr
    assert f"Resuming {parts}: " in done.stdout
    assert_same(whole, parts)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_run_killed_at_many_random_steps_ends_with_the_same_bits(
    backend: str, dtype: str, command: str, installed_command: Command, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = (*TRAIN, *EVERYTHING, "--dtype", dtype, "--output")
    done = installed_command(*arguments, str(whole), KERAS_BACKEND=backend)
    assert done.returncode == 0, done.stderr
    chance, kills = random.Random(f"{backend}{dtype}"), 0
    while kills < 6:
        variables = {**os.environ, "KERAS_BACKEND": backend}
        process = subprocess.Popen(
            [command, *arguments, str(parts)], stdout=subprocess.DEVNULL, env=variables
        )
        wait_for_more(process, parts, newest(parts) + 1)
        time.sleep(chance.random() / 4)
        process.kill()
        process.communicate()
        kills += 1
        if newest(parts) >= TOTAL:
            break
    assert kills >= 5
    done = installed_command(*arguments, str(parts), KERAS_BACKEND=backend)
    assert done.returncode == 0, done.stderr
    assert_same(whole, parts)


def test_bad_arguments_are_one_sentence(command_in_process: Command, tmp_path: Path) -> None:
    output = ("--output", str(tmp_path / "out"))
    for arguments, message in (
        (("--set", "optimizer.rate=1"), "Did you mean optimizer.rate_groups?"),
        (("--set", "optimizer.momentum=2"), "`--set optimizer.momentum` to be a number in [0, 1]"),
        (("--strategy", "gpus"), "Expected `--strategy` to be one of"),
        (("--strategy", "multi-worker"), "Expected workers for the strategy `multi-worker`"),
        (("--worker-index", "1"), "Expected `--workers` and `--worker-index` together"),
        (("--profile", "5"), "Expected `--profile` with the first and the last batch"),
        (("--dtype", "int8"), "Expected `--dtype` to be one of"),
    ):
        done = command_in_process(*TRAIN, *arguments, *output)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


class TestWorkers:
    """Two real processes, each with its part of every batch."""

    #: Whole batches only, as several workers leave the rest of an epoch out.
    SAME = ("--sync-bn", "--set", "augmentation.crop=none", "--set", "average.decay=0.9")

    @pytest.fixture
    def pictures(self, tmp_path: Path) -> str:
        """A list of 96 small pictures to train on and 20 to validate."""
        from PIL import Image

        noise = np.random.default_rng(0)
        for index in range(116):
            label = index % 2
            pixels = noise.integers(0, 120, (16, 16, 3)) + 120 * label
            path = tmp_path / "pictures" / ("validation" if index >= 96 else "train")
            file = path / ("bright" if label else "dark") / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(file)
        return f"folder:{tmp_path / 'pictures'}"

    def arguments(self, pictures: str, output: Path, *others: str) -> tuple[str, ...]:
        given = list(TRAIN)
        given[given.index("digits")] = pictures
        return (*given, *self.SAME, *others, "--output", str(output))

    def check_refused(
        self, start_command: Start, arguments: Sequence[tuple[str, ...]], *messages: str
    ) -> None:
        """Starts a worker with each of the arguments; all have to end with all messages."""
        addresses = ",".join(f"127.0.0.1:{port}" for port in free_ports(len(arguments)))
        processes = [
            start_command(*own, "--workers", addresses, "--worker-index", str(index))
            for index, own in enumerate(arguments)
        ]
        for done in [ended(process, 120) for process in processes]:
            assert done.returncode == 2, done.stderr
            for message in messages:
                assert message in done.stderr

    @pytest.mark.full
    def test_other_settings_are_refused_on_all(
        self, start_command: Start, pictures: str, tmp_path: Path
    ) -> None:
        output = tmp_path / "out"
        one = self.arguments(pictures, output)
        other = (*one, "--seed", "5", "--set", "optimizer.learning_rate=0.5", "--dtype", "bfloat16")
        self.check_refused(
            start_command,
            (one, (*other, "--checkpoint-every", "7")),
            "recipe.optimizer.learning_rate: 0.05 on worker 0, 0.5 on worker 1; ",
            "seed: 3 on worker 0, 5 on worker 1; ",
            "dtype: 'float32' on worker 0, 'bfloat16' on worker 1; ",
            "checkpoint_every: 5 on worker 0, 7 on worker 1. Start all workers with the same",
        )
        assert not output.exists()

    @pytest.mark.full
    def test_other_data_and_weights_are_refused_on_all(
        self, start_command: Start, pictures: str, tmp_path: Path
    ) -> None:
        one = self.arguments(pictures, tmp_path / "out")
        other = list(one)
        other[other.index(pictures)] += "/train"
        self.check_refused(
            start_command, (one, tuple(other)), "train_data.images: 96 on worker 0, "
        )
        given = keras_resnet.create_model(
            "resnet20", blocks=(1, 1, 1), filters=(8, 16, 24), classes=2, input_shape=(16, 16, 3)
        )
        files = [tmp_path / f"{index}.weights.h5" for index in range(2)]
        for index, file in enumerate(files):
            given.set_weights([weight + index for weight in given.get_weights()])
            given.save_weights(file)
        weighted = [(*one, "--weights", str(file)) for file in files]
        self.check_refused(start_command, weighted, "weights: '")

    @pytest.mark.full
    def test_together_they_are_one(
        self,
        keras_resnet_command: Command,
        start_command: Start,
        pictures: str,
        tmp_path: Path,
    ) -> None:
        alone = keras_resnet_command(*self.arguments(pictures, tmp_path / "one"))
        assert alone.returncode == 0, alone.stderr
        done = keras_resnet_command(
            *("launch", "--local-workers", "2", "--"),
            *self.arguments(pictures, tmp_path / "two"),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        one, two = read_history(tmp_path / "one"), read_history(tmp_path / "two")
        assert set(one) == set(two)
        for name in one:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-4, err_msg=name)
        for expected, found in zip(
            weights(tmp_path / "one"), weights(tmp_path / "two"), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        # Only the chief speaks and writes.
        assert not re.search(r"^\[1\] Epoch", done.stdout, re.MULTILINE)
        assert len(list((tmp_path / "two" / "tensorboard" / "train").iterdir())) == 1
        # The other worker has to see the states of the chief.
        folders = [self.arguments(pictures, tmp_path / name) for name in ("two", "elsewhere")]
        message = "saved state in the output folder.step-0000000004.safetensors: '"
        self.check_refused(start_command, folders, message, "' on worker 0, absent on worker 1")

    @pytest.mark.slow
    @pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
    @pytest.mark.parametrize("victim", [0, 1])
    def test_one_that_ends_ends_all_and_all_go_on_together(
        self,
        victim: int,
        signal_number: signal.Signals,
        start_command: Start,
        keras_resnet_command: Command,
        pictures: str,
        tmp_path: Path,
    ) -> None:
        launch = ("launch", "--local-workers", "2", "--")
        more = ("--epochs", "8")
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        done = keras_resnet_command(*launch, *self.arguments(pictures, whole, *more))
        assert done.returncode == 0, done.stdout + done.stderr
        process = start_command(*launch, *self.arguments(pictures, parts, *more), merged=True)
        wait_for_more(process, parts, 6)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(sorted(children, key=int)[victim]), signal_number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode != 0, output
        if signal_number == signal.SIGKILL:
            assert f"Worker {victim} was ended by SIGKILL" in output
        assert "Traceback" not in output
        assert not (parts / "last.keras").exists()
        done = keras_resnet_command(*launch, *self.arguments(pictures, parts, *more))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Resuming" in done.stdout
        expected: dict[str, Any] = read_history(whole)
        for name, values in read_history(parts).items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-4, err_msg=name)
