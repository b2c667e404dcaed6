from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
from safetensors import SafetensorError, safe_open

from keras_resnet.support.checks import differences
from keras_resnet.training.run import state_file
from keras_resnet.training.run.folder import RunFolder
from keras_resnet.training.run.state_file import ResumeError, RunState

VALUES = {
    "step": 7,
    "history": {"loss": [2.5, float("nan"), float("inf")]},
    "best": None,
    "rng": 2**120 + 1,
    "name": 'ä "sha256":"' + "0" * 64 + '"',
}


def state(step: int = 7, size: int = 10) -> RunState:
    return RunState({"weights": np.full(size, step, np.float32)}, {"step": step})


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_states_come_back_as_they_were(tmp_path: Path) -> None:
    variable = keras.Variable(np.arange(4), dtype="bfloat16")
    arrays: dict[str, Any] = {
        str(dtype): np.arange(6).reshape(2, 3).astype(dtype)
        for dtype in (bool, "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
    }
    arrays |= {
        "bfloat16": np.arange(5).astype(ml_dtypes.bfloat16),
        "variable": variable,
        "nan": np.array([np.nan, -0.0, np.inf, 1e-45], np.float32),
        "scalar": np.float32(3.5),
        "zero-dimensional": np.array(True),
        "empty": np.zeros((0, 3), np.float16),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "every other": np.arange(10)[::2],
    }
    folder = RunFolder(tmp_path / "new")
    path = folder.save(7, RunState(arrays, VALUES))
    assert path == tmp_path / "new" / "checkpoints" / "step-0000000007.safetensors"
    found = folder.latest()
    assert found is not None
    assert found[0] == path
    assert json.dumps(found[1].values) == json.dumps(VALUES)
    assert set(found[1].arrays) == set(arrays)
    for name, value in arrays.items():
        expected, array = np.asarray(value), found[1].arrays[name]
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        assert array.tobytes() == expected.astype(array.dtype).tobytes(), name
    # Other tools read the file, too.
    with safe_open(path, "np") as file:
        assert json.loads(file.metadata()["values"])["step"] == 7
        np.testing.assert_array_equal(file.get_tensor("every other"), [0, 2, 4, 6, 8])


@pytest.mark.parametrize("keep", [0, -1, True, 2.0])
def test_keep_is_at_least_one(tmp_path: Path, keep: Any) -> None:
    with pytest.raises(ValueError, match="`keep` to be an integer of at least 1"):
        RunFolder(tmp_path, keep)


def test_only_the_newest_stay(tmp_path: Path) -> None:
    inside = tmp_path / "checkpoints"
    (inside / "step-0000000009.safetensors").mkdir(parents=True)
    (inside / "step-notes.txt").write_text("kept")
    for step in (1, 5, 30, 200):
        RunFolder(tmp_path, keep=2).save(step, state(step))
    assert [path.name for path in RunFolder(tmp_path).state_files()] == [
        "step-0000000030.safetensors",
        "step-0000000200.safetensors",
    ]
    assert len(list(inside.iterdir())) == 4
    RunFolder(tmp_path, keep=1).save(200, state(201))
    found = RunFolder(tmp_path).latest()
    assert found is not None
    assert found[1].arrays["weights"][0] == 201
    assert len(RunFolder(tmp_path).state_files()) == 1


def test_modes_of_files_are_as_the_umask_says(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    path = RunFolder(tmp_path).save(1, state())
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_nothing_saved_is_nothing(tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "missing").latest() is None
    assert RunFolder(tmp_path).latest() is None


def test_damaged_states_are_fallen_back_from(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, keep=3)
    paths = [folder.save(step, state(step)) for step in (1, 2, 3)]
    damage(paths[2])
    message = (
        r"step-0000000003.safetensors \(its SHA-256 does not match\) in .* is damaged; falling "
    )
    with pytest.warns(UserWarning, match=message + "back to step-0000000002.safetensors"):
        found = folder.latest()
    assert found is not None
    assert found[1].values == {"step": 2}
    paths[1].write_bytes(b"")
    with pytest.warns(UserWarning, match=r"0002.safetensors \(it is empty\) in .* are damaged; f"):
        assert folder.latest()[1].values == {"step": 1}  # type: ignore[index]
    # The run goes on from the first; what is damaged goes once the next is there.
    folder.save(2, state(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert folder.latest()[1].values == {"step": 4}  # type: ignore[index]
    assert folder.state_files() == paths[:2]
    for path in paths[:2]:
        damage(path)
    with pytest.raises(
        OSError, match="Expected an undamaged state file in .*: only damaged ones: .*000"
    ):
        folder.latest()
    assert folder.state_files() == paths[:2]


def test_a_run_does_not_write_over_one_that_is_further(tmp_path: Path) -> None:
    path = RunFolder(tmp_path, keep=1).save(500, state(500))
    with pytest.raises(ResumeError, match="a step of at least 500, .* Received: 10. Resume"):
        RunFolder(tmp_path, keep=1).save(10, state(10))
    assert RunFolder(tmp_path).state_files() == [path]


def test_what_cannot_be_opened_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2):
        folder.save(step, state(step))
    read, number = Path.read_bytes, errno.ESTALE

    def fail(path: Path) -> bytes:
        if "2.safe" in path.name:
            raise OSError(number, os.strerror(number))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        folder.latest()
    number = errno.EIO
    with pytest.warns(UserWarning, match="it cannot be read from the disk"):
        assert folder.latest()[1].values == {"step": 1}  # type: ignore[index]


def test_a_later_version_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_file, "_VERSION", "2")
    RunFolder(tmp_path).save(1, state())
    monkeypatch.undo()
    with pytest.raises(ResumeError, match="of version 1. Received: .*, of version 2. Update"):
        RunFolder(tmp_path).latest()


def test_every_truncation_and_flipped_bit_is_noticed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    path = folder.save(7, RunState({"a": np.arange(50, dtype=np.float32)}, VALUES))
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    random = np.random.default_rng(0)
    places = [
        *range(0, 80),
        *random.integers(0, header, 100),
        *random.integers(0, len(content), 100),
    ]
    broken = [content[: len(content) * part // 16] for part in range(16)]
    broken += [content[:-1], content[:7], content[:8], content + b"\0", content[:header]]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        broken.append(bytes(changed))
    for other in broken:
        path.write_bytes(other)
        with pytest.raises(OSError, match="only damaged ones"):
            folder.latest()
    path.write_bytes(content)
    assert folder.latest() is not None


def test_files_of_others_are_damaged(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    (tmp_path / "checkpoints").mkdir()
    save_file({"a": np.zeros(3)}, tmp_path / "checkpoints" / "step-0000000001.safetensors")
    with pytest.raises(OSError, match="its metadata contain no SHA-256"):
        RunFolder(tmp_path).latest()


@pytest.mark.parametrize("error", [OSError, SafetensorError])
def test_a_full_disk_leaves_the_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    folder = RunFolder(tmp_path, keep=1)
    path = folder.save(1, state(1))
    content = path.read_bytes()

    def fill(arrays: Any, name: Path, metadata: Any) -> None:
        name.write_bytes(b"half")
        text = "I/O error: No space left on device (os error 28)"
        raise OSError(errno.ENOSPC, text) if error is OSError else error(text)

    monkeypatch.setattr(state_file, "save_file", fill)
    with pytest.raises(OSError, match="The disk of .* full. Free some space and run again"):
        folder.save(2, state(2))
    assert [(file, file.read_bytes()) for file in path.parent.iterdir()] == [(path, content)]


_SAVING = """
import sys
import numpy as np
from keras_resnet.training.run.state_file import RunState
from keras_resnet.training.run.folder import RunFolder

folder = RunFolder(sys.argv[1], keep=2)
found = folder.latest()
step = 0 if found is None else found[1].values["step"]
while True:
    step += 1
    arrays = {str(i): np.full(200_000, step, np.float32) for i in range(5)}
    folder.save(step, RunState(arrays, {"step": step}))
    print(step, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_state(tmp_path: Path) -> None:
    folder, printed, leftovers = RunFolder(tmp_path), 0, 0
    random, inside = np.random.default_rng(0), folder.states_folder
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", _SAVING, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        assert int(first) >= printed + 1, "it went on from where the last one was"
        # A save takes tens of milliseconds: the kill falls anywhere in one.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(random.uniform(0.02, 0.2))
        process.kill()
        printed = int([first, *process.stdout.read().split()][-1])
        process.wait()
        leftovers += any(path.name.startswith(".partial-") for path in inside.iterdir())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = folder.latest()
        assert found is not None
        step = found[1].values["step"]
        assert step in (printed, printed + 1)
        assert len(found[1].arrays) == 5
        assert all((array == step).all() for array in found[1].arrays.values())
        with folder.held():
            pass
        assert not list(inside.glob(".partial-*"))
    assert leftovers, "no kill came while a file was being written"


def test_differences_of_settings_are_named() -> None:
    old = {
        "recipe": {
            "optimizer": {"learning_rate": 0.1, "nesterov": True, "clip_norm": None},
            "milestones": [30, 60],
            "rates": [0.5, {"stem": 1}],
        },
        "seed": 0,
        "gone": "x",
    }
    same = {
        "seed": 0.0,
        "gone": "x",
        "recipe": {
            "rates": [0.5, {"stem": 1.0}],
            "milestones": [30, 60],
            "optimizer": {"clip_norm": None, "nesterov": True, "learning_rate": 0.1},
        },
    }
    assert differences(old, same) == []
    new: dict[str, Any] = json.loads(json.dumps(same))
    new["recipe"]["optimizer"] = {"learning_rate": 0.2, "nesterov": False, "momentum": 0.9}
    new["recipe"]["milestones"] = [30]
    new["recipe"]["rates"][1]["stem"] = 2
    new["seed"] = {"a": 1}
    del new["gone"]
    assert differences(old, new) == [
        "recipe.optimizer.learning_rate: 0.1 → 0.2",
        "recipe.optimizer.nesterov: True → False",
        "recipe.optimizer.clip_norm: None → absent",
        "recipe.optimizer.momentum: absent → 0.9",
        "recipe.milestones: [30, 60] → [30]",
        "recipe.rates: [0.5, {'stem': 1}] → [0.5, {'stem': 2}]",
        "seed: 0 → {'a': 1}",
        "gone: 'x' → absent",
    ]


def test_settings_are_compared_as_json_has_them(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    settings = {"seed": np.int64(3), "milestones": (30, 60.0), "kept": {"rate": None}}
    assert folder.claim(settings, "training run", {}) == {}
    folder.write_config({**settings, "more": 1})
    assert folder.claim({**settings, "milestones": [30, 60]}, "training run", {}) == {"more": 1}
    with pytest.raises(ResumeError, match="settings of the training run in .*:\n  seed: 3 → 4\nU"):
        folder.claim({**settings, "seed": 4}, "training run", {})
