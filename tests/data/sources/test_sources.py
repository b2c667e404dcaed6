from __future__ import annotations

import dataclasses
import errno
import io
import os
import pickle
import re
import struct
import tarfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from keras_resnet.data.config import DataConfig
from keras_resnet.data.sources import (
    ImageFiles,
    LabeledImages,
    Source,
    load_data,
    load_digits,
    load_part,
)
from keras_resnet.data.sources.folder import load_folder
from keras_resnet.data.sources.load import check_source, load_splits
from keras_resnet.images.decode import find_images, read_image

from ...conftest import LFS_POINTER, Run


def test_digits_are_split_once_and_for_all() -> None:
    train, test = load_digits()
    assert (len(train), len(test)) == (1437, 360)
    assert train.images.shape == (1437, 32, 32, 3)
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int32)
    assert test.class_names == tuple("0123456789")
    # Stratified: 36 of each class, give or take one.
    assert set(np.bincount(test.labels)) <= {35, 36, 37}
    # Another split would make earlier figures incomparable.
    assert test.labels[:12].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3, 2, 6]


def test_no_digit_is_lost_doubled_or_altered() -> None:
    train, test = load_digits(size=8)
    originals = np.round(sklearn.datasets.load_digits().images * (255 / 16)).astype(np.uint8)
    kept = np.concatenate([train.images, test.images])
    assert (kept[..., 0] == kept[..., 1]).all()
    assert (kept[..., 0] == kept[..., 2]).all()

    def in_order(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), -1)
        return flat[np.lexsort(flat.T)]

    np.testing.assert_array_equal(in_order(kept[..., 0]), in_order(originals))


def picture(seed: int, size: int = 4) -> bytes:
    """A small PNG, different for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def fill(root: Path, files: dict[str, bytes | int]) -> Path:
    """Writes files below `root`; a number stands for the picture with that seed."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(content) if isinstance(content, int) else content)
    return root


def deny(monkeypatch: pytest.MonkeyPatch, module: Any, function: str) -> None:
    """Lets a function of a module fail as for somebody without the right to read."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(module, function, refuse)


def seen(source: Source) -> list[tuple[bytes, int]]:
    records = [source[index] for index in range(len(source))]
    return [(bytes(record.data), record.label) for record in records]


# Which source


def test_digits_are_enlarged_to_the_configured_size() -> None:
    train, validation = load_data(DataConfig("digits", size=12))
    assert (len(train), len(validation)) == (1437, 360)
    np.testing.assert_array_equal(train[5].data, load_digits(12)[0].images[5])
    assert train[5].data.shape == (12, 12, 3)


@pytest.mark.parametrize("source", ["pictures", "", "http://x/y", "/data/images"])
def test_an_unknown_source_lists_the_known_ones(source: str) -> None:
    with pytest.raises(ValueError, match="Expected a source of images") as error:
        load_data(source)
    for usage in ("digits", "folder:PATH", "csv:FILE", "cifar:PATH", "tfds:NAME[/CONFIG]"):
        assert usage in str(error.value)
    assert "tfrecord:GLOB, synthetic[:COUNT[xHEIGHTxWIDTH]]" in str(error.value)
    assert f"Received: {source!r}" in str(error.value)


@pytest.mark.parametrize(
    ("source", "usage"),
    [
        ("folder", "folder:PATH"),
        ("folder:", "folder:PATH"),
        ("csv", "csv:FILE"),
        ("cifar:", "cifar:PATH"),
        ("tfds", "tfds:NAME[/CONFIG]"),
        ("tfrecord:", "tfrecord:GLOB"),
        ("digits:8", "digits"),
        ("digits:", "digits"),
        ("synthetic:", "synthetic[:COUNT[xHEIGHTxWIDTH]]"),
    ],
)
def test_a_missing_or_useless_argument_is_named(source: str, usage: str) -> None:
    message = f"Expected a source of the form {usage}. Received: {source!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_data(source)


def test_the_home_directory_has_a_short_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "pictures", {f"{name}/{n}.png": n for name in "ab" for n in range(10)})
    train, validation = load_data("folder:~/pictures")
    assert (len(train), len(validation)) == (18, 2)
    rows = "".join(f"pictures/a/{n}.png,{n % 2}\n" for n in range(4))
    (tmp_path / "list.csv").write_text(f"path,label\n{rows}")
    train, validation = load_data(DataConfig("csv:~/list.csv", validation_fraction=0.5))
    assert (len(train), len(validation)) == (2, 2)


def test_a_path_alone_tells_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "pictures"
    fill(folder, {f"{name}/{n}.png": n for name in "ab" for n in range(4)})
    rows = "".join(f"pictures/a/{n}.png,{n % 2}\n" for n in range(4))
    (tmp_path / "list.csv").write_text(f"path,label\n{rows}")
    for alone, kind in (
        (str(folder), "folder"),
        ("~/pictures", "folder"),
        (str(tmp_path / "list.csv"), "csv"),
    ):
        check_source(alone)
        found, expected = load_splits(alone).train, load_splits(f"{kind}:{alone}").train
        assert found.name_of(1) == expected.name_of(1)
        np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.parametrize("source", ["folder:no", "csv:no.csv", "cifar:no", "tfrecord:no/*"])
def test_what_does_not_exist_is_refused_without_opening_it(source: str) -> None:
    with pytest.raises(ValueError, match=rf"existing path\. Received: '{re.escape(source)}'"):
        check_source(source)


def test_what_exists_or_needs_no_file_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tfrecord").touch()
    for source in (
        *("digits", "synthetic", "synthetic:10", "tfds:cifar10", f"folder:{tmp_path}"),
        *(f"tfrecord:{tmp_path}", f"tfrecord:{tmp_path}/*.tfrecord"),
    ):
        check_source(source)


# Splits


def test_a_split_is_stratified_seeded_disjoint_and_complete(tmp_path: Path) -> None:
    counts = {"ant": 20, "bee": 40, "cat": 10}
    files = {f"{name}/{n}.png": b"" for name, count in counts.items() for n in range(count)}
    source = f"folder:{fill(tmp_path, files)}"

    def parts(**settings: Any) -> list[list[str]]:
        both = load_data(DataConfig(source, **settings))
        assert both[0].class_names == both[1].class_names == ("ant", "bee", "cat")
        return [[part.name_of(index) for index in range(len(part))] for part in both]

    train, validation = parts()
    assert (len(train), len(validation)) == (63, 7)
    assert sorted(train + validation) == sorted(str(tmp_path / name) for name in files)
    assert Counter(Path(path).parent.name for path in validation) == {"ant": 2, "bee": 4, "cat": 1}
    assert parts() == [train, validation]
    assert parts(seed=5) == [train, validation]
    assert parts(split_seed=1)[1] != validation
    halves = parts(validation_fraction=0.5)[1]
    assert Counter(Path(path).parent.name for path in halves) == {"ant": 10, "bee": 20, "cat": 5}


def test_a_class_with_one_image_cannot_be_divided(tmp_path: Path) -> None:
    fill(tmp_path, {"a/1.png": 1, "a/2.png": 2, "b/1.png": 3})
    with pytest.raises(ValueError, match="Received: 1 image of b in folder:"):
        load_data(f"folder:{tmp_path}")


# Folders


def test_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    files: dict[str, bytes | int] = {
        "train/10/x.png": 1,
        "train/2/deep/er/y.JPG": 2,
        "train/2/b.webp": 3,
        "train/2/notes.txt": b"",
        "train/2/.hidden.png": 4,
        "train/2/.hidden/a.png": 4,
        "train/B/no image.jpeg": b"no image",
        "train/a/z.gif": 5,
        "train/.git/z.png": 5,
        "train/loose.png": 5,
        "validation/10/1.png": 6,
        "validation/2/1.png": 7,
        "validation/B/1.png": 8,
        "validation/a/1.png": 9,
    }
    train, validation = load_data(f"folder:{fill(tmp_path, files)}")
    assert train.class_names == validation.class_names == ("10", "2", "B", "a")
    assert train.class_ids is None
    # Read, but not decoded.
    assert seen(train) == [
        (picture(1), 0),
        (picture(3), 1),
        (picture(2), 1),
        (b"no image", 2),
        (picture(5), 3),
    ]
    assert train.labels.tolist() == [0, 1, 1, 2, 3]
    assert train.labels.dtype == np.int32
    assert seen(validation) == [(picture(6 + label), label) for label in range(4)]
    assert train.name_of(1) == str(tmp_path / "train/2/b.webp")
    assert (train.name, validation.name) == (
        f"folder:{tmp_path}/train",
        f"folder:{tmp_path}/validation",
    )


def test_images_in_formats_that_are_not_read_are_left_out_with_a_warning(tmp_path: Path) -> None:
    pictures = {f"{name}/{number}.png": number for name in "ab" for number in (4, 5)}
    fill(tmp_path, {**pictures, "a/2.tif": b"II*", "b/3.HEIC": b""})
    left_out = (
        r"folder:.* left out 2 files in .*\(HEIC, TIFF\), such as .*2.tif. Convert such files"
    )
    with pytest.warns(UserWarning, match=left_out):
        assert load_folder(str(tmp_path)).train.labels.tolist() == [0, 0, 1, 1]
    for number in (4, 5):
        (tmp_path / "b" / f"{number}.png").unlink()
    with pytest.raises(ValueError, match=r"with none in b, but 2 files in formats .* `magick"):
        load_data(f"folder:{tmp_path}")


def test_images_are_those_that_find_images_finds(tmp_path: Path) -> None:
    elsewhere = fill(tmp_path / "elsewhere", {"in/1.png": 1, "2.bmp": 2})
    root = fill(tmp_path / "root", {"a/b/1.jpg": 1, "a/b.jpg/2.png": 2, "a/c.jpe": 3, "b/1.png": 4})
    (root / "a/circle").symlink_to(root)
    (root / "a/link").symlink_to(elsewhere)
    (root / "a/self.png").symlink_to("self.png")
    (root / "a/gone.png").symlink_to("nowhere.png")
    (root / "c").symlink_to(fill(tmp_path / "third", {"1.png": 5}))
    train = load_folder(str(root)).train
    assert isinstance(train, ImageFiles)
    assert train.class_names == ("a", "b", "c")
    found = [str(path) for name in "abc" for path in find_images([root / name])]
    # The labels of what is behind the link to all classes would be wrong.
    assert train.paths == [path for path in found if "/circle/" not in path]
    assert sum(path.endswith("link/in/1.png") for path in train.paths) == 1
    assert str(root / "a/b.jpg/2.png") in train.paths
    assert str(root / "c/1.png") in train.paths


def test_no_disk_is_asked_about_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {f"{name}/{n}.jpg": b"" for name in "ab" for n in range(50)})
    asked: list[object] = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda *a, **k: (asked.append(a), real(*a, **k))[1])
    train = load_folder(str(tmp_path)).train
    assert len(train) == 100
    assert len(asked) < 20


def test_wordnet_ids_get_imagenets_names(tmp_path: Path) -> None:
    ids = ("n01440764", "n01443537", "n99999999")
    fill(tmp_path, {f"{part}/{id_}/1.JPEG": 1 for part in ("train", "val") for id_ in ids})
    for part in load_data(f"folder:{tmp_path}"):
        assert part.class_ids == ids
        assert part.class_names == ("tench", "goldfish", "n99999999")
    fill(tmp_path, {f"{part}/n0144/1.JPEG": 1 for part in ("train", "val")})
    train, _ = load_data(f"folder:{tmp_path}")
    assert train.class_ids is None
    assert train.class_names == ("n0144", *ids)


def test_different_classes_of_the_parts_are_named(tmp_path: Path) -> None:
    fill(tmp_path, {f"train/{name}/1.png": 1 for name in ("a", "b", "mule")})
    fill(tmp_path, {f"val/{name}/1.png": 1 for name in ("a", "b")})
    with pytest.raises(ValueError, match=f"Received: mule only in {tmp_path}/train. Rename"):
        load_data(f"folder:{tmp_path}")
    fill(tmp_path, {"val/hinny/1.png": 1})
    with pytest.raises(ValueError, match=f"mule only in .*/train and hinny only in {tmp_path}/val"):
        load_data(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a/x.png": 1, "b/c/y.txt": b"", "c/.x.png": 1}, "Received: .*, with none in b, c$"),
        ({"a/x.txt": b"", "b/x.md": b""}, "Expected images .*png.* Received: .*none of them$"),
        ({"x.png": 1, "y.png": 1}, "images such as x.png directly in .*Put the images of every"),
        ({"x.txt": b""}, "Expected one folder of images per class. Received: none in"),
        ({"cat/x.png": 1}, "at least 2 classes. Received: .*, with cat$"),
        (
            {"train/a/x.png": 1, "train/b/x.png": 1, "val/a/x.png": 1, "val/b/x.txt": b""},
            "Received: .*/val, with none in b$",
        ),
    ],
)
def test_folders_that_are_no_classes(
    tmp_path: Path, files: dict[str, bytes | int], message: str
) -> None:
    fill(tmp_path, files)
    with pytest.raises(ValueError, match=message):
        load_data(f"folder:{tmp_path}")


def test_a_directory_that_is_none_or_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"Received: .*/gone \(No such file or directory\)"):
        load_data(f"folder:{tmp_path}/gone")
    fill(tmp_path, {"x.png": 1})
    with pytest.raises(ValueError, match=r"Received: .*/x.png \(Not a directory\)"):
        load_data(f"folder:{tmp_path}/x.png")
    deny(monkeypatch, os, "scandir")
    with pytest.raises(OSError, match=r"that can be read. Received: .* \(Permission denied\)"):
        load_data(f"folder:{tmp_path}")


def test_files_that_vanish_or_are_none_raise_oserror(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    paths = [str(tmp_path / name) for name in ("gone.png", "pipe.png", ".")]
    files = ImageFiles(paths, np.zeros(3, np.int32), ("a", "b"))
    with pytest.raises(FileNotFoundError, match="gone.png"):
        files[0]
    for index in (1, 2):
        with pytest.raises(OSError, match="Not a regular file"):
            files[index]


# CSV


def listed(tmp_path: Path, text: str, encoding: str = "utf-8") -> str:
    fill(tmp_path, {f"{n}.png": n for n in range(4)})
    (tmp_path / "list.csv").write_text(text, encoding=encoding)
    return f"csv:{tmp_path}/list.csv"


@pytest.mark.parametrize(
    ("encoding", "delimiter"), [("utf-8", ","), ("utf-8-sig", ";"), ("utf-16", "\t")]
)
def test_csv_lists_images_of_both_parts(tmp_path: Path, encoding: str, delimiter: str) -> None:
    absolute = fill(tmp_path / f"else{delimiter} where", {"ä.png": 9}) / "ä.png"
    text = (
        "path, label, split, taken\n"
        "3.png,öl,train,monday\n"
        "ABSOLUTE,bee,validation,\n"
        "gone.png,ant,dev,\n\n"
        "1.png, bee ,train,\n"
        "2.png,ant,val,\n"
    )
    text = text.replace(",", delimiter).replace("ABSOLUTE", f'"{absolute}"')
    source = listed(tmp_path, text, encoding)
    train, validation = load_data(source)
    assert train.class_names == validation.class_names == ("ant", "bee", "öl")
    assert seen(train) == [(picture(3), 2), (picture(1), 1)]
    assert train.labels.tolist() == [2, 1]
    assert train.labels.dtype == np.int32
    assert validation.labels.tolist() == [1, 0, 0]
    assert validation[0].data == picture(9)
    assert validation[2].data == picture(2)
    assert validation.name_of(1) == str(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError):
        validation[1]


def test_csv_without_a_split_is_divided(tmp_path: Path) -> None:
    rows = "".join(f"{n % 4}.png,{label}\n" for n in range(10) for label in (10, 9, 100))
    train, validation = load_data(listed(tmp_path, f"path,label\n{rows}"))
    assert train.class_names == ("9", "10", "100")
    assert np.bincount(train.labels).tolist() == [9, 9, 9]
    assert np.bincount(validation.labels).tolist() == [1, 1, 1]
    # One label that is no number makes all of them text.
    rows = "".join(f"{label},{n}.png\n" for n in range(4) for label in ("x", "10", "9"))
    source = listed(tmp_path, f"label,path\n{rows}")
    halves = load_data(DataConfig(source, validation_fraction=0.5))
    assert [part.class_names for part in halves] == [("10", "9", "x")] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n0.png,a\n", "without `path`; its first row is file, label$"),
        ("0.png,a\n1.png,b\n", "without `path` and `label`; its first row is 0.png, a$"),
        ("", "without `path` and `label`; its first row is empty$"),
        ("path,label\n0.png,a\n1.png,\n", "an empty one in .*/list.csv, line 3$"),
        ("path,label\n0.png\n", "Expected a `label` in every row. .*, line 2$"),
        ("path,label\n ,a\n", "Expected a `path` in every row. .*, line 2$"),
        ("path,label\n0.png,a\n1,2.png,b\n", "Expected 2 fields .* Received: 3 in .*, line 3. Put"),
        ("path,label\n", "Expected a row per image after the header. Received: .*, with none$"),
        ("path,label,split\n0.png,a,train\n1.png,b,x\n", "Received: 'x' in .*, line 3$"),
        (
            "path,label,split\n0.png,a,\n",
            "of train, validation, test, .* Received: '' in .*, line 2$",
        ),
        ("path,label,split\n0.png,a,test\n1.png,b,test\n", "which has only a test split$"),
        ("path,label\n0.png,a\n1.png,a\n", "at least 2 classes. Received: .*, with a$"),
        ("path,label\nx/0.png,a\nx/1.png,b\n", "none of 2 exists, such as .*/x/0.png$"),
    ],
)
def test_csv_that_is_not_as_it_should_be(tmp_path: Path, text: str, message: str) -> None:
    source = listed(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        load_data(source)


def test_csv_that_is_none_or_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"Expected a CSV file. Received: .*/x.csv \(No such file"):
        load_data(f"csv:{tmp_path}/x.csv")
    with pytest.raises(ValueError, match=r"Received: .* \(Is a directory\)"):
        load_data(f"csv:{tmp_path}")
    with pytest.raises(ValueError, match="Expected a text in UTF-8. Received: .*can't decode"):
        load_data(listed(tmp_path, "path,label\n0.png,ö\n", "latin1"))
    deny(monkeypatch, Path, "read_bytes")
    with pytest.raises(OSError, match=r"that can be read. Received: .* \(Permission denied\)"):
        load_data(f"csv:{tmp_path}/list.csv")


# Made-up pictures


def test_synthetic_pictures_are_distinct_and_the_same_every_time() -> None:
    train, validation = load_data("synthetic:260x24x40")
    assert (len(train), len(validation)) == (260, 26)
    assert train.class_names == validation.class_names
    assert len(train.class_names) == 10
    for part in (train, validation):
        assert part.labels.tolist() == [index % 10 for index in range(len(part))]
        assert part.labels.dtype == np.int32
        assert [record[1] for record in seen(part)] == part.labels.tolist()
    pictures = [data for data, _ in seen(train)[:250] + seen(validation)]
    assert len(set(pictures)) == 276
    assert read_image(pictures[3]).shape == (24, 40, 3)
    # 250 are made; then they come again.
    assert train[259].data == train[9].data
    assert seen(load_data("synthetic:260x24x40")[0]) == seen(train)
    with pytest.raises(IndexError):
        train[260]


def test_synthetic_size_and_count_have_defaults() -> None:
    train, validation = load_data(DataConfig("synthetic", size=16))
    assert (len(train), len(validation)) == (10_000, 1_000)
    assert read_image(train[9_999].data).shape == (16, 16, 3)
    train, validation = load_data(DataConfig("synthetic:3", size=20))
    assert (len(train), len(validation)) == (3, 1)
    assert read_image(validation[0].data).shape == (20, 20, 3)


def test_synthetic_classes_can_be_learnt() -> None:
    """By colour alone, and from grey pictures by orientation alone."""
    train, validation = load_data("synthetic:250x32x32")

    def features(part: Source, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return np.stack([of(read_image(data) / 255.0) for data, _ in seen(part)])

    def colour(image: np.ndarray) -> np.ndarray:
        return image.mean((0, 1)) / image.mean()

    def spectrum(image: np.ndarray) -> np.ndarray:
        grey = image.max(-1)
        return np.abs(np.fft.fft2(grey - grey.mean())).ravel()

    for of, least in ((colour, 0.95), (spectrum, 0.7)):
        known = features(train, of)
        means = np.stack([known[train.labels == label].mean(0) for label in range(10)])
        distances = ((features(validation, of)[:, None] - means) ** 2).sum(-1)
        assert (distances.argmin(1) == validation.labels).mean() >= least


@pytest.mark.parametrize("argument", ["0", "-1", "x", "10x20", "10x0x5", "1e3", "5x70000x2", "1.5"])
def test_synthetic_arguments_that_are_none(argument: str) -> None:
    with pytest.raises(ValueError, match=f"COUNTxHEIGHTxWIDTH, .*Received: synthetic:{argument}$"):
        load_data(f"synthetic:{argument}")


def test_threads_read_what_one_reads(tmp_path: Path) -> None:
    train, _ = load_data(
        f"folder:{fill(tmp_path, {f'{k}/{n}.png': n for k in 'ab' for n in range(50)})}"
    )
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(train.__getitem__, range(len(train))))
    assert [(record.data, record.label) for record in read] == seen(train)


# CIFAR


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes bytes as Python 2 wrote its strings, which the original archives are made of."""

    def save_string(self, data: bytes) -> None:
        length = len(data)
        if length < 256:
            self.write(pickle.SHORT_BINSTRING + struct.pack("<B", length) + data)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", length) + data)
        self.memoize(data)

    dispatch: ClassVar[Any] = {**pickle._Pickler.dispatch, bytes: save_string}  # type: ignore[attr-defined]


def pickled(content: Any) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(content)
    # Where NumPy was then.
    return file.getvalue().replace(b"numpy._core.", b"numpy.core.")


@dataclass(frozen=True)
class Cifar:
    """Small files as in an original archive, and what has to be read from them."""

    folder: str
    files: dict[str, bytes]
    train: tuple[np.ndarray, list[int]]
    test: tuple[np.ndarray, list[int]]
    names: tuple[str, ...]


def cifar(classes: int, binary: bool) -> Cifar:
    random = np.random.default_rng(classes)
    # Not in the order of the alphabet.
    names = [f"class {(7 * number + 3) % classes}" for number in range(classes)]
    members = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    members, kind = (members, "batches") if classes == 10 else (["train", "test"], "")
    files: dict[str, bytes] = {}
    parts: list[tuple[np.ndarray, list[int]]] = []
    for member in members:
        images = random.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
        labels = [0, classes - 1, *random.integers(0, classes, 2).tolist()]
        coarse = random.integers(0, 20, 4).tolist()
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(4, 3072)
        if binary:
            before = [labels] if classes == 10 else [coarse, labels]
            files[f"{member}.bin"] = (
                np.hstack([np.array(before).T, planes]).astype(np.uint8).tobytes()
            )
        elif classes == 10:
            files[member] = pickled(
                {b"batch_label": b"x" * 300, b"labels": labels, b"data": planes}
            )
        else:
            content = {b"fine_labels": labels, b"coarse_labels": coarse, b"data": planes}
            files[member] = pickled(content)
        parts.append((images, labels))
    encoded = [name.encode() for name in names]
    if binary:
        name = "batches.meta.txt" if classes == 10 else "fine_label_names.txt"
        files[name] = b"\n".join([*encoded, b"", b""])
    elif classes == 10:
        files["batches.meta"] = pickled({b"num_vis": 3072, b"label_names": encoded})
    else:
        coarse_names = [b"coarse %d" % number for number in range(20)]
        content = {b"fine_label_names": encoded, b"coarse_label_names": coarse_names}
        files["meta"] = pickled(content)
    train = np.concatenate([images for images, _ in parts[:-1]])
    labels = [label for _, batch in parts[:-1] for label in batch]
    folder = f"cifar-{classes}-{'binary' if binary else 'python'}"
    if kind:
        folder = f"cifar-10-{kind}-{'bin' if binary else 'py'}"
    return Cifar(folder, files, (train, labels), parts[-1], tuple(names))


def archive(path: Path, data: Cifar) -> Path:
    """Writes the original kind of archive, with a folder and other files in it."""
    others = {"readme.html": b"<html>", "._data_batch_1": b"of a Macintosh"}
    with tarfile.open(path, "w:gz") as file:
        for name, content in {**others, **data.files}.items():
            member = tarfile.TarInfo(f"{data.folder}/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def check_cifar(source: str, data: Cifar) -> None:
    parts = load_splits(source).train, load_part(source, "test")
    for part, (images, labels) in zip(parts, (data.train, data.test), strict=True):
        assert isinstance(part, LabeledImages)
        np.testing.assert_array_equal(part.images, images)
        assert part.images.dtype == np.uint8
        assert part.labels.tolist() == labels
        assert part.labels.dtype == np.int32
        assert part.class_names == data.names
        assert part[1].label == labels[1]


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("binary", [False, True])
def test_cifar_as_published(tmp_path: Path, classes: int, binary: bool) -> None:
    data = cifar(classes, binary)
    assert list(data.names) != sorted(data.names)
    version = "binary" if binary else "python"
    path = archive(tmp_path / f"cifar-{classes}-{version}.tar.gz", data)
    check_cifar(f"cifar:{path}", data)
    check_cifar(f"cifar:{tmp_path}", data)
    check_cifar(f"cifar:{fill(tmp_path / 'x' / data.folder, {**data.files})}", data)
    check_cifar(f"cifar:{tmp_path}/x", data)


def test_cifar_pickled_by_python_3(tmp_path: Path) -> None:
    data = cifar(10, binary=False)
    for protocol in (2, 4):
        files: dict[str, bytes | int] = {
            name: pickle.dumps(pickle.loads(content, encoding="bytes"), protocol)
            for name, content in data.files.items()
        }
        check_cifar(f"cifar:{fill(tmp_path / str(protocol), files)}", data)
    content = pickle.loads(data.files["batches.meta"], encoding="latin1")
    fill(tmp_path / "2", {"batches.meta": pickle.dumps(content, 2)})
    check_cifar(f"cifar:{tmp_path}/2", data)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("member", ["data_batch_3", "batches.meta"])
def test_a_hostile_pickle_does_not_run(tmp_path: Path, member: str) -> None:
    content = {b"data": Hostile(tmp_path / "run")}
    files = {**cifar(10, binary=False).files, member: pickle.dumps(content, 2)}
    with pytest.raises(ValueError, match=f": {member}, which calls `posix.mkdir`. It was not"):
        load_data(f"cifar:{fill(tmp_path / 'data', files)}")
    assert not (tmp_path / "run").exists()
    # It would have run.
    pickle.loads(files[member])
    assert (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"(S'1'\nibuiltins\neval\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
    ],
)
def test_no_name_leads_out_of_a_pickle(tmp_path: Path, program: bytes) -> None:
    files = {**cifar(100, binary=False).files, "train": program}
    with pytest.raises(ValueError, match="train, which calls `builtins.eval`"):
        load_data(f"cifar:{fill(tmp_path, files)}")


def planes(count: int, width: int = 3072, dtype: str = "uint8") -> np.ndarray:
    return np.zeros((count, width), dtype)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({b"data": planes(2), b"labels": [1]}, "data_batch_2, with 2 images and 1 labels$"),
        ({b"data": planes(2), b"labels": [1, 10]}, r"labels in \[0, 9\].*labels in \[1, 10\]$"),
        ({b"data": planes(2), b"labels": [-1, 1]}, r"with labels in \[-1, 1\]$"),
        ({b"data": planes(2), b"labels": [1, 1.5]}, "Expected a list `labels` of integers"),
        ({b"data": planes(2), b"fine_labels": [1, 1]}, "Expected a list `labels` of integers"),
        ({b"data": planes(2, 3071), b"labels": [1, 1]}, r"with uint8 \(2, 3071\)$"),
        ({b"data": planes(2, 3072, "int64"), b"labels": [1, 1]}, r"with int64 \(2, 3072\)$"),
        ({b"data": planes(0), b"labels": []}, r"with uint8 \(0, 3072\)$"),
        ({b"data": [1], b"labels": [1]}, "with list$"),
        ({b"labels": [1]}, "with NoneType$"),
        ([1], "Expected a pickled dict. Received: .*data_batch_2, with a list$"),
    ],
)
def test_cifar_pickles_that_are_no_batches(tmp_path: Path, content: Any, message: str) -> None:
    files = {**cifar(10, binary=False).files, "data_batch_2": pickled(content)}
    with pytest.raises(ValueError, match=message):
        load_data(f"cifar:{fill(tmp_path, files)}")


@pytest.mark.parametrize("kept", [0, 1, 100, 3000, -1])
@pytest.mark.parametrize("binary", [False, True])
def test_truncated_cifar_files(tmp_path: Path, kept: int, binary: bool) -> None:
    data = cifar(100, binary)
    member = "train.bin" if binary else "train"
    files = {**data.files, member: data.files[member][:kept]}
    with pytest.raises(ValueError, match=f": {member}.*is truncated or damaged"):
        load_data(f"cifar:{fill(tmp_path, files)}")


def test_cifar_labels_and_names_have_to_fit(tmp_path: Path) -> None:
    data = cifar(10, binary=True)
    wrong = bytearray(data.files["data_batch_1.bin"])
    wrong[3073] = 10
    fill(tmp_path, {**data.files, "data_batch_1.bin": bytes(wrong)})
    with pytest.raises(ValueError, match=r"data_batch_1.bin, with labels in \[0, 10\]$"):
        load_data(f"cifar:{tmp_path}")
    fill(tmp_path, {**data.files, "batches.meta.txt": b"a\nb\na\n"})
    with pytest.raises(
        ValueError, match="names of 10 classes. Received: .*meta.txt, with 2. Download"
    ):
        load_data(f"cifar:{tmp_path}")
    other = fill(tmp_path / "x", {**cifar(100, binary=False).files, "meta": pickled({b"a": 1})})
    with pytest.raises(
        ValueError, match="names of 100 classes. Received: .*: meta, with 0. Download"
    ):
        load_data(f"cifar:{other}")


def test_missing_cifar_files_are_named(tmp_path: Path) -> None:
    data = cifar(10, binary=False)
    fill(tmp_path / "some", {"data_batch_1": data.files["data_batch_1"]})
    message = (
        "Expected all files of cifar-10-batches-py. Received: .*/some without "
        "data_batch_2, data_batch_3, data_batch_4, data_batch_5, test_batch, batches.meta$"
    )
    with pytest.raises(ValueError, match=message):
        load_data(f"cifar:{tmp_path}/some")
    files = {name: content for name, content in data.files.items() if name != "test_batch"}
    path = archive(tmp_path / "mine.tgz", dataclasses.replace(data, files=files))
    with pytest.raises(ValueError, match="Received: .*/mine.tgz without test_batch$"):
        load_data(f"cifar:{path}")


def test_cifar_that_is_none_or_more_than_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Received: .*/gone, which does not exist$"):
        load_data(f"cifar:{tmp_path}/gone")
    with pytest.raises(ValueError, match="Received: .*, which has neither$"):
        load_data(f"cifar:{tmp_path}")
    # A directory called as a file of CIFAR-100 is none.
    fill(tmp_path, {"train/a.png": 1})
    with pytest.raises(ValueError, match="Received: .*, which has neither$"):
        load_data(f"cifar:{tmp_path}")
    path = archive(tmp_path / "x.tar.gz", dataclasses.replace(cifar(10, binary=True), files={}))
    with pytest.raises(ValueError, match="such as data_batch_1. Received: .*/x.tar.gz, which has"):
        load_data(f"cifar:{path}")
    for classes in (10, 100):
        archive(tmp_path / f"cifar-{classes}-python.tar.gz", cifar(classes, binary=False))
    two = "with cifar-10-python.tar.gz, cifar-100-python.tar.gz. Pass the path of one"
    with pytest.raises(ValueError, match=two):
        load_data(f"cifar:{tmp_path}")
    for classes in (10, 100):
        fill(tmp_path / f"{cifar(classes, True).folder}", {**cifar(classes, True).files})
    with pytest.raises(ValueError, match="with cifar-10-batches-bin, cifar-100-binary. Pass"):
        load_data(f"cifar:{tmp_path}")
    for classes in (10, 100):
        fill(tmp_path / "both", {**cifar(classes, True).files})
    with pytest.raises(ValueError, match="with cifar-10-batches-bin, cifar-100-binary. Pass"):
        load_data(f"cifar:{tmp_path}/both")


def test_damaged_archives(tmp_path: Path) -> None:
    data = cifar(10, binary=False)
    path = archive(tmp_path / "cifar-10-python.tar.gz", data)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for content in (b"", b"no archive", LFS_POINTER):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="Expected an archive of CIFAR. Received: .*gz, a?"):
            load_data(f"cifar:{path}")
    for content in (whole[: len(whole) // 2], whole[:200], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match="Expected a complete archive of CIFAR. Received: .*gz, w"
        ):
            load_data(f"cifar:{path}")


def test_cifar_files_that_are_git_lfs_pointers(tmp_path: Path) -> None:
    for binary in (True, False):
        data = cifar(10, binary=binary)
        for name in ("test_batch", "batches.meta"):
            files = {n: LFS_POINTER if n.startswith(name) else c for n, c in data.files.items()}
            with pytest.raises(ValueError, match=rf"Received: .*{name}\S*, a Git LFS pointer"):
                load_data(f"cifar:{fill(tmp_path / f'{name} {binary}', files)}")


def test_cifar_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {**cifar(10, binary=True).files})
    deny(monkeypatch, Path, "read_bytes")
    with pytest.raises(OSError, match="Permission denied"):
        load_data(f"cifar:{tmp_path}")


def test_the_table_of_sources_needs_neither_tensorflow_nor_keras(run_new_python: Run) -> None:
    done = run_new_python(
        "import sys, keras_resnet.data.sources.load, keras_resnet.data.config\n"
        "print({'tensorflow', 'keras'} & set(sys.modules))"
    )
    assert done.stdout.strip() == "set()"
