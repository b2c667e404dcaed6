"""Changed data are known as such when work goes on, and it is said what has changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet import ResNetConfig, build
from keras_resnet.data import DataConfig, LabeledImages, identity, load_data
from keras_resnet.data.identity import defaults_of_earlier, identity_of, states_of
from keras_resnet.data.shards.prepare import WORK_DIRECTORY, prepare
from keras_resnet.data.sources import Subset
from keras_resnet.data.sources.load import load_splits
from keras_resnet.jobs import compress as compress_module
from keras_resnet.jobs.compress import CompressionOptions, compress
from keras_resnet.support.progress import unsaid
from keras_resnet.training import RECIPES, ResumeError, finetune, override, train
from keras_resnet.training.run import trainer
from keras_resnet.training.run.folder import differences

from .sources.test_sources import fill, picture

RECIPE = override(RECIPES["quick-digits"], {"batch_size": 8})


def renamed(root: Path) -> None:
    (root / "cat/1.png").rename(root / "cat/99.png")


def replaced_with_its_time_kept(root: Path) -> None:
    before = (root / "cat/1.png").stat()
    (root / "cat/1.png").write_bytes(picture(55, 17))
    os.utime(root / "cat/1.png", ns=(before.st_atime_ns, before.st_mtime_ns))


def added_and_removed(root: Path) -> None:
    shutil.copy(root / "cat/1.png", root / "cat/98.png")
    (root / "cat/2.png").unlink()


def emptied(root: Path) -> None:
    (root / "cat/1.png").write_bytes(b"")


def swapped(root: Path) -> None:
    (root / "cat").rename(root / "x")
    (root / "dog").rename(root / "cat")
    (root / "x").rename(root / "dog")


def moved_between_classes(root: Path) -> None:
    (root / "cat/1.png").rename(root / "dog/97.png")


Change = Callable[[Path], None]

CHANGES: list[Change] = [renamed, replaced_with_its_time_kept, added_and_removed, emptied, swapped]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        f"{c}/{n}.png": picture(n + 50 * (c == "dog"), 16)
        for c in ("cat", "dog", "eel")
        for n in range(12)
    }
    return fill(tmp_path / "data", files)


@pytest.mark.parametrize("change", [*CHANGES, moved_between_classes])
@pytest.mark.parametrize("cheap", [True, False])
def test_every_change_of_files_is_seen_in_its_class(
    root: Path, change: Change, cheap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cheap:
        monkeypatch.setattr(identity, "_HASHED_BYTES", 0)
    before = identity_of(load_splits(f"folder:{root}").train)
    assert identity_of(load_splits(f"folder:{root}").train) == before
    change(root)
    after = identity_of(load_splits(f"folder:{root}").train)
    changed = {line.split(":")[0] for line in differences(before, after)}
    both = change in (swapped, moved_between_classes)
    assert changed - {"labels"} == ({"files.cat", "files.dog"} if both else {"files.cat"})


def test_contents_count_where_they_are_cheap_and_times_where_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [root / "cat/1.png", root / "gone.png"]
    before = states_of(paths)
    os.utime(paths[0], (0, 0))
    assert states_of(paths) == before
    assert before[1] == "missing"
    monkeypatch.setattr(identity, "_HASHED_BYTES", 10)
    assert states_of(paths) == [f"{paths[0].stat().st_size} 0", "missing"]
    os.utime(paths[0], (0, 1))
    assert states_of(paths)[0].endswith(" 1000000000")


def test_other_sources_are_known_by_what_they_have(root: Path, tmp_path: Path) -> None:
    images = np.zeros((4, 8, 8, 3), np.uint8)
    labels = np.array([0, 1, 0, 1])
    one = LabeledImages(images, labels, ("a", "b"))
    other = images.copy()
    other[2, 3, 3, 1] = 1
    assert identity_of(one) == identity_of(LabeledImages(images.copy(), labels, ("a", "b")))
    changed = identity_of(LabeledImages(other, labels, ("a", "b")))
    assert {key for key in changed if changed[key] != identity_of(one)[key]} == {"pixels"}
    halves = [identity_of(Subset(one, np.array(own), "half")) for own in ([0, 1], [0, 3])]
    assert differences(*halves)
    sizes = [identity_of(load_data(f"synthetic:20x{side}x8")[0]) for side in (8, 9)]
    assert differences(*sizes)
    # Runs from before sizes were told apart have this name.
    assert sizes[0]["source"] == "synthetic (training)"
    parts = {"train": load_splits(f"folder:{root}").train}
    prepare(parts, tmp_path / "shards", seed=1, shards={"train": 3})
    before = identity_of(load_splits(f"tfrecord:{tmp_path}/shards").train)
    prepare(parts, tmp_path / "shards", seed=2, shards={"train": 3}, overwrite=True)
    lines = differences(before, identity_of(load_splits(f"tfrecord:{tmp_path}/shards").train))
    assert len(lines) == 3
    assert lines[0].startswith(f"files.{tmp_path}/shards/train-00000-of-00003: ")


def tiny(tiny_config: ResNetConfig) -> Any:
    return build(tiny_config, classes=3, input_shape=(16, 16, 3))


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training ends before its first step, with its folder as a killed one leaves it."""

    def end(*_: object, **__: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(trainer, "_compiled_copy", end)
    monkeypatch.setattr(compress_module, "_exported", end)


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_does_not_go_on_with_changed_data(
    root: Path, tmp_path: Path, tiny_config: ResNetConfig, begun: None, change: Change
) -> None:
    model = build(tiny_config, classes=3, input_shape=(16, 16, 3))
    data = DataConfig(f"folder:{root}", validation_fraction=0.25)
    for _ in range(2):
        with pytest.raises(SystemExit):
            train(model, data, RECIPE, tmp_path / "run")
    change(root)
    said = r"_data.files.cat: '\d+ images, names \w+, contents \w+' → '\d+ images, "
    with pytest.raises(ResumeError, match=said):
        train(model, data, RECIPE, tmp_path / "run")


def test_neither_fine_tuning_nor_compression_goes_on_with_changed_data(
    root: Path, tmp_path: Path, tiny_config: ResNetConfig, begun: None
) -> None:
    model = build(tiny_config, classes=3, input_shape=(16, 16, 3))
    data = DataConfig(f"folder:{root}", validation_fraction=0.25)

    def tune() -> None:
        keywords: Any = {"recipe": RECIPE, "compare": False, "say": unsaid}
        finetune(model, data, tmp_path / "tuned", **keywords)

    def squeeze() -> None:
        options = CompressionOptions(("prune",))
        compress(model, data.source, tmp_path / "small", options, recipe=RECIPE, say=unsaid)

    for work in (tune, squeeze):
        for _ in range(2):
            with pytest.raises(SystemExit):
                work()
    (tmp_path / "small/1-prune").mkdir()
    (tmp_path / "small/1-prune/config.json").write_text("{}")
    swapped(root)
    for work in (tune, squeeze):
        with pytest.raises(ResumeError, match=r"(?s)_data.files.cat: .*_data.files.dog: "):
            work()


def test_a_class_more_is_another_run_for_those_that_noted_contents(root: Path) -> None:
    before = identity_of(load_splits(f"folder:{root}").train)
    fill(root, {"fox/1.png": 3})
    now = identity_of(load_splits(f"folder:{root}").train)
    settings = {"train_data": now, "validation_data": now}
    # Those of validation are known, those of training are not.
    earlier = {"train_data": {"source": now["source"]}, "validation_data": before}
    with pytest.warns(UserWarning, match="did not record the contents of the images"):
        defaults = defaults_of_earlier(settings, earlier)
    changed = {line.split(": ")[0] for line in differences(earlier, settings, defaults)}
    assert {name for name in changed if name.startswith("validation_data.files")} == {
        "validation_data.files.fox"
    }
    assert not any(name.startswith("train_data") for name in changed)


def test_a_compression_of_before_contents_were_noted_goes_on(
    root: Path, tmp_path: Path, tiny_config: ResNetConfig, begun: None
) -> None:
    def squeeze(fraction: float = 0.25) -> None:
        keywords: Any = {"recipe": RECIPE, "say": unsaid, "validation_fraction": fraction}
        options = CompressionOptions(("prune",))
        compress(tiny(tiny_config), f"folder:{root}", folder, options, **keywords)

    folder = tmp_path / "small"
    keras.utils.set_random_seed(0)
    with pytest.raises(SystemExit):
        squeeze()
    config = json.loads((folder / "config.json").read_text())
    for name in ("format", "train_data", "validation_data"):
        del config[name]
    earlier = {**config, "data": f"folder:{root}", "validation_fraction": 0.25}
    (folder / "config.json").write_text(json.dumps(earlier))
    (folder / "model.keras").touch()
    keras.utils.set_random_seed(0)
    with (
        pytest.warns(UserWarning, match="did not record the contents of the images"),
        pytest.raises(SystemExit),
    ):
        squeeze()
    keras.utils.set_random_seed(0)
    with (
        pytest.warns(UserWarning, match="did not record the contents of the images"),
        pytest.raises(ResumeError, match=r"validation_fraction: 0.25 → 0.2\nUse the same network"),
    ):
        squeeze(0.2)


@pytest.mark.parametrize("change", CHANGES)
def test_preparing_does_not_go_on_with_changed_images(
    root: Path, tmp_path: Path, change: Change
) -> None:
    output = tmp_path / "shards"

    def parts() -> Any:
        return {"train": load_splits(f"folder:{root}").train}

    def stop(step: str, done: float) -> None:
        if len(list((output / WORK_DIRECTORY).glob("train-*.json"))) > 1:
            raise SystemExit(143)

    with pytest.raises(SystemExit):
        prepare(parts(), output, shards={"train": 6}, progress=stop)
    change(root)
    with pytest.raises(ValueError, match=r"unfinished work in .*Received: train.*files.cat \d+ im"):
        prepare(parts(), output, shards={"train": 6}, skip_unreadable=True)
    prepare(parts(), output, shards={"train": 6}, skip_unreadable=True, overwrite=True)
    prepare(parts(), tmp_path / "fresh", shards={"train": 6}, skip_unreadable=True)
    for path in (tmp_path / "fresh").iterdir():
        assert (output / path.name).read_bytes() == path.read_bytes()
