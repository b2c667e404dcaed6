"""A data set is the old one or the new one, whole, wherever `prepare` is killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_resnet.data import LabeledImages
from keras_resnet.data.shards import prepare as preparation
from keras_resnet.data.shards.prepare import prepare
from keras_resnet.data.sources.tfrecord import load_tfrecord

from ...killing import EveryKill, contents


def parts() -> dict[str, LabeledImages]:
    """Twelve pictures of two classes."""
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    return {"train": LabeledImages(images, np.arange(12, dtype=np.int32) % 2, ("even", "odd"))}


def test_killed_anywhere_a_set_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, every_kill = tmp_path / "out", EveryKill(tmp_path)
    prepare(parts(), output, shards={"train": 3})
    (output / "notes.md").write_text("mine")
    monkeypatch.setattr(preparation, "publish", every_kill)
    dataset = prepare(parts(), output, shards={"train": 2}, overwrite=True)
    shards = ["train-00000-of-00002", "train-00001-of-00002"]
    assert every_kill.published == [*shards, "index.npy", "checksums.sha256", "dataset.json"]
    assert [shard["name"] for shard in dataset["parts"]["train"]["shards"]] == shards


def half_published(output: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Two shards in the place of three; the process ended before the first got its name.

    Returns:
        The contents that the new data set is to have.
    """
    whole = output.with_name("whole")
    prepare(parts(), whole, shards={"train": 2})
    prepare(parts(), output, shards={"train": 3})
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target.name == "train-00000-of-00002" and target.parent == output:
            raise SystemExit
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(SystemExit):
            prepare(parts(), output, shards={"train": 2}, overwrite=True)
    return contents(whole)


def test_what_is_half_published_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    half_published(output, monkeypatch)
    # The earlier ones have left; as if one of them had not.
    (output / "train-00001-of-00003").touch()
    with pytest.raises(ValueError, match=f"Received: {output}, whose files are being replaced"):
        load_tfrecord(str(output))


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_same_call_finishes_what_was_half_published(
    overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    expected = half_published(output, monkeypatch)
    work = output / ".preparing"
    made = {path.name: path.stat().st_ino for path in work.glob("train-*-of-00002")}
    assert len(made) == 2
    with pytest.warns(UserWarning, match=f"while it published its results in {output}"):
        dataset = prepare(parts(), output, shards={"train": 2}, overwrite=overwrite)
    assert dataset == json.loads((output / "dataset.json").read_text())
    assert contents(output) == expected
    assert {name: (output / name).stat().st_ino for name in made} == made


def test_another_call_finds_what_was_half_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    expected = half_published(output, monkeypatch)
    with (
        pytest.warns(UserWarning, match="while it published its results"),
        pytest.raises(FileExistsError, match="pass `overwrite=True`"),
    ):
        prepare(parts(), output, shards={"train": 1})
    assert contents(output) == expected
    prepare(parts(), output, shards={"train": 1}, overwrite=True)
    assert len(list(output.glob("train-*"))) == 1
    assert not work_of(output).exists()


@pytest.mark.parametrize("same", [True, False])
def test_killed_when_all_was_published_nothing_is_left_to_do(
    same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    words: dict[str, Any] = {"shards": {"train": 2}}

    def killed(self: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(preparation.UnfinishedWork, "remove", killed)
        with pytest.raises(SystemExit):
            prepare(parts(), output, **words)
    before = contents(output)
    assert work_of(output).exists()
    if same:
        prepare(parts(), output, **words)
    else:
        with pytest.raises(FileExistsError, match="pass `overwrite=True`"):
            prepare(parts(), output, seed=7, **words)
    assert contents(output) == before


def work_of(output: Path) -> Path:
    return output / ".preparing"


def test_what_lies_under_the_names_of_the_index_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "index.npy").write_text("mine")
    with pytest.raises(FileExistsError, match=r"another data set\. Received: .* with index\.npy"):
        prepare(parts(), tmp_path)
    assert list(contents(tmp_path)) == ["index.npy"]
