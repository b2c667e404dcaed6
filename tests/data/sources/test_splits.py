"""Which images are trained on, which are chosen by, and which are kept for a last figure."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_resnet.cli import inputs
from keras_resnet.data.config import DataConfig
from keras_resnet.data.shards.prepare import prepare
from keras_resnet.data.sources import Source, folder as folder_module, load_data, load_part
from keras_resnet.data.sources.load import load_every_split, load_splits
from keras_resnet.data.sources.splits import split_of

from .test_sources import fill
from .test_tfrecord import numbered, write


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("train", "train Train TRAINING training_set seg_train train2017 trainset train-images"),
        (
            "validation",
            "validation val Valid dev eval val_set EVALUATION validate validation_set valset",
        ),
        ("test", "test Test tests testing test_set TEST-1 holdout hold-out seg_test testData"),
        (None, "trains trainer cat invalid testament evaluator prevalid plane seg_pred 2017"),
    ],
)
def test_usual_names_of_parts(part: str | None, names: str) -> None:
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), part)


def parts(root: Path, **folders: int) -> str:
    """A folder source whose parts hold so many images of two classes each."""
    shutil.rmtree(root, ignore_errors=True)
    for number, (folder, count) in enumerate(folders.items()):
        place = folder.replace("__", "/")
        fill(root, {f"{place}/{c}/{n}.png": 100 * number + n for c in "ab" for n in range(count)})
    return f"folder:{root}"


def names_of(source: Source) -> set[str]:
    return {source.name_of(index) for index in range(len(source))}


@pytest.mark.parametrize(
    ("validation", "test"),
    [
        ("valid", "test"),
        ("Val", "TEST"),
        ("dev", None),
        ("eval", "testing"),
        ("validation_set__validation_set", "test_set__test_set"),
        ("data__val", "data__test"),
    ],
)
def test_validation_is_validation_whatever_it_is_called(
    tmp_path: Path, validation: str, test: str | None
) -> None:
    train = "data__Train" if validation.startswith("data") else "Train"
    source = parts(tmp_path, **{train: 5, validation: 3}, **({test: 2} if test else {}))
    train_part, validation_part = load_data(source)
    assert train_part.class_names == ("a", "b")
    assert (len(train_part), len(validation_part)) == (10, 6)
    assert all(f"/{validation.replace('__', '/')}/" in name for name in names_of(validation_part))
    if test:
        assert len(load_part(source, "test")) == 4
        assert all(f"/{test.replace('__', '/')}/" in x for x in names_of(load_part(source, "test")))
    else:
        with pytest.raises(
            ValueError, match="a source with a test split. Received: .*which has none$"
        ):
            load_part(source, "test")


@pytest.mark.parametrize("folders", [("train", "test"), ("Training", "Test"), ("training_set",)])
def test_without_validation_it_is_divided_off_the_training_part(
    tmp_path: Path, folders: tuple[str, ...]
) -> None:
    source = parts(tmp_path, **dict.fromkeys(folders, 10))
    said: list[str] = []
    train, validation = load_data(source, said.append)
    assert (len(train), len(validation)) == (18, 2)
    assert not names_of(train) & names_of(validation)
    assert all(f"/{folders[0]}/" in name for name in names_of(train) | names_of(validation))
    unread = " Its test split is not read." if len(folders) > 1 else ""
    assert said == [
        f"folder:{tmp_path}/{folders[0]} has no validation split: 2 of its 20 images, 10% of every "
        f"class, are set aside for validation.{unread}",
        "An accuracy on 2 validation images is precise to about ±41 points only; a larger "
        "`validation_fraction` makes it more precise.",
    ]
    assert names_of(load_part(source, "validation")) == names_of(validation)
    load_data(parts(tmp_path / "both", train=2, val=2), said.append)
    (own,) = said[2:]
    assert own.startswith("An accuracy on 4 validation images is precise to about ±35 points only")


def test_a_test_part_without_labels_disturbs_nothing(tmp_path: Path) -> None:
    source = parts(tmp_path, train=10)
    fill(tmp_path, {"test/1.png": 1, "test/2.png": 2})
    assert [len(part) for part in load_data(source)] == [18, 2]
    with pytest.raises(ValueError, match=r"images such as 1.png directly in .*/test"):
        load_part(source, "test")
    with pytest.warns(UserWarning, match=r"The test split is left out: .*directly in .*/test"):
        assert list(load_every_split(source)) == ["train"]


def test_a_test_part_alone_is_not_trained_on(tmp_path: Path) -> None:
    source = parts(tmp_path, test=4)
    assert len(load_part(source, "test")) == 8
    with pytest.raises(ValueError, match="Received: folder:.*, which has only a test split$"):
        load_data(source)


def test_csv_keeps_its_parts_apart(tmp_path: Path) -> None:
    fill(tmp_path, {f"{n}.png": n for n in range(9)})

    def source(*names: str) -> str:
        rows = [f"{n}.png,{'ab'[n // 3 % 2]},{names[n % len(names)]}" for n in range(9)]
        (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
        return f"csv:{tmp_path}/list.csv"

    for names in (("train", "val", "test"), ("Training", "dev", "Test"), ("train", "eval", "TEST")):
        train, validation = load_data(source(*names))
        test = load_part(source(*names), "test")
        for number, part in enumerate((train, validation, test)):
            assert names_of(part) == {f"{tmp_path}/{n}.png" for n in range(number, 9, 3)}
    halves = load_data(DataConfig(source("train", "train", "test"), validation_fraction=0.5))
    assert sorted(map(len, halves)) == [3, 3]
    assert not {name for half in halves for name in names_of(half)} & {
        f"{tmp_path}/{n}.png" for n in range(2, 9, 3)
    }


@pytest.mark.parametrize(
    "names",
    [
        ("train-0.tfrecord", "valid-0.tfrecord", "test-0.tfrecord"),
        ("flowers_Train_0", "flowers_dev_0", "flowers_Test_0"),
        ("train/0", "val/0", "test/0"),
    ],
)
def test_tfrecords_keep_their_parts_apart(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, *[numbered(label) for label in (0, 1)] * (number + 1))
    source = f"tfrecord:{tmp_path}/*/*" if "/" in names[0] else f"tfrecord:{tmp_path}"
    assert [len(part) for part in load_data(source)] == [2, 4]
    assert len(load_part(source, "test")) == 6
    (tmp_path / names[1]).unlink()
    found = load_splits(source)
    assert (len(found.train), found.validation) == (2, None)


def test_the_test_part_of_tfrecords_has_no_say_in_the_classes(tmp_path: Path) -> None:
    write(tmp_path / "train", *[numbered(label) for label in (0, 1)] * 5)
    write(tmp_path / "test", numbered(1), numbered(2))
    train, _ = load_data(DataConfig(f"tfrecord:{tmp_path}", validation_fraction=0.2))
    assert train.class_names == ("0", "1")
    test = load_part(f"tfrecord:{tmp_path}", "test")
    assert test[0].label == 1
    with pytest.raises(ValueError, match="Expected one of 2 classes.* Received: 2"):
        test[1]


def test_prepared_shards_keep_the_test_part(tmp_path: Path) -> None:
    source = parts(tmp_path / "images", train=6, dev=3, test=2)
    prepare(load_every_split(source), tmp_path / "shards")
    shards = f"tfrecord:{tmp_path}/shards"
    assert [len(part) for part in load_data(shards)] == [12, 6]
    assert len(load_part(shards, "test")) == 4


def test_what_is_of_no_part_is_not_left_out_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = parts(tmp_path, train=5, validate=3, test=2)
    assert [len(part) for part in load_data(source)] == [10, 6]
    fill(tmp_path, {"extra/c/1.png": 1, "seg_pred/1.png": 2})
    with pytest.warns(UserWarning, match=f"^Left out of {source}: extra, seg_pred. Their names"):
        assert [len(part) for part in load_data(source)] == [10, 6]
    read = folder_module._entries

    def denied(directory: str) -> Any:
        if directory.endswith("/extra"):
            raise PermissionError(directory)
        return read(directory)

    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "_entries", denied)
        with pytest.warns(UserWarning, match="extra, seg_pred"):
            load_data(source)
    for folder in ("fold9", "fold9__fold9"):
        source = parts(tmp_path, train__train=5, test=2, **{folder: 3})
        with pytest.raises(ValueError, match=r"where fold9 has the class folders of train/train\."):
            load_data(source)
    records = tmp_path / "records"
    records.mkdir()
    for name in ("train-0", "validate-0", "other-0"):
        write(records / name, *[numbered(label) for label in (0, 1)] * 2)
    with pytest.warns(UserWarning, match=f"^Left out of tfrecord:{records}: other-0. Their"):
        assert [len(part) for part in load_data(f"tfrecord:{records}")] == [4, 4]


def test_a_validation_part_alone_is_for_evaluation(tmp_path: Path) -> None:
    source = parts(tmp_path, validate=4)
    assert len(load_part(source, "validation")) == 8
    for received in (load_data, lambda source: load_part(source, "train")):
        with pytest.raises(
            ValueError, match="a training split. .*, which has only a validation split$"
        ):
            received(source)


def test_two_names_for_one_part_are_refused(tmp_path: Path) -> None:
    source = parts(tmp_path, train=2, val=2, valid=2)
    with pytest.raises(ValueError, match="one name for the validation split. .*val and valid"):
        load_data(source)


@pytest.mark.parametrize(
    "folders",
    [
        # Folds, parts of other names, parts inside of classes, and a name without a counterpart.
        ("fold1/a", "fold1/b", "fold2/a", "fold2/b"),
        ("cat/train", "cat/test", "dog/train", "dog/test"),
        ("cat/train", "cat/val", "dog"),
        ("train/a", "train/b", "more"),
    ],
)
def test_folders_of_classes_are_no_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    fill(tmp_path, {f"{folder}/{n}.png": n for folder in folders for n in range(10)})
    with pytest.raises(ValueError, match="images per class, inside .* only folders in"):
        load_data(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    "folders",
    [
        # As in Tiny ImageNet; and classes that happen to be called like parts.
        ("n01440764/images", "n01443537/images"),
        ("cat/indoor", "cat/outdoor", "dog/indoor"),
        ("valid", "invalid"),
        ("train", "plane"),
        ("test1", "control"),
    ],
)
def test_these_are_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    fill(tmp_path, {f"{folder}/{n}.png": n for folder in folders for n in range(10)})
    train, _ = load_data(f"folder:{tmp_path}")
    assert len(train.class_names) == 2


def test_links_to_classes_are_followed_but_not_to_other_classes(tmp_path: Path) -> None:
    kept = fill(tmp_path / "kept", {f"{c}/{n}.png": n for c in ("cat", "dog") for n in range(3)})
    root = tmp_path / "set/links"
    root.mkdir(parents=True)
    fill(tmp_path / "set/other", {"eel.png": 9})
    for name in ("cat", "dog"):
        (root / name).symlink_to(kept / name)
    fill(root, {"ape/1.png": 7})
    # To all classes, and to what they are in with other things.
    (root / "ape/all").symlink_to(root)
    (root / "ape/above").symlink_to(tmp_path)
    found = load_splits(f"folder:{root}").train
    assert np.bincount(found.labels).tolist() == [1, 3, 3]
    (root / "ape/dogs").symlink_to(root / "dog")
    with pytest.raises(ValueError, match="where ape and dog lead to the same folder .*kept/dog"):
        load_splits(f"folder:{root}")
    (root / "ape/dogs").unlink()
    (root / "bee").symlink_to("nowhere")
    with pytest.warns(UserWarning, match=r"links/bee is left out: it is a broken link"):
        load_splits(f"folder:{root}")


def test_names_that_look_alike_are_told(tmp_path: Path) -> None:
    accents = "caf\u00e9", "cafe\u0301"
    for pair in (("Cat", "cat"), accents):
        root = tmp_path / pair[0]
        fill(root, {f"{name}/{n}.png": n for name in (*pair, "dog") for n in range(2)})
        with pytest.warns(UserWarning, match="2 classes whose names differ only in case") as told:
            load_splits(f"folder:{root}")
        assert all(repr(name) in str(told[0].message) for name in pair)
    files = {f"train/{accents[0]}/1.png": 1, f"val/{accents[1]}/1.png": 1}
    fill(tmp_path / "parts", {**files, "train/x/1.png": 1, "val/x/1.png": 1})
    with pytest.raises(ValueError, match="same class folders .* in another case or Unicode form"):
        load_data(f"folder:{tmp_path}/parts")


def test_commands_say_what_is_put_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs.load_images(parts(tmp_path, train=20, test=4), 32, 0.1)
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(
        "4 of its 40 images, 10% of every class, are set aside for validation. "
        "Its test split is not read."
    )
    assert said[1].startswith("An accuracy on 4 validation images")
    assert said[2].endswith("36 images to train on, 4 to validate, 2 classes.")
