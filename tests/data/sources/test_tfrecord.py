from __future__ import annotations

import concurrent.futures
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnet.data import LabeledImages
from keras_resnet.data.shards import random_access as tfrecord_files
from keras_resnet.data.shards.prepare import prepare
from keras_resnet.data.shards.random_access import TFRecordFiles
from keras_resnet.data.sources import tfrecord_classes
from keras_resnet.data.sources.base import Source
from keras_resnet.data.sources.tfrecord import load_tfrecord
from keras_resnet.images.decode import read_image

from ...conftest import LFS_POINTER


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def example(**features: bytes | int | float) -> bytes:
    """A record; `_` in a name stands for `/`."""
    kinds = {
        bytes: lambda value: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])),
        int: lambda value: tf.train.Feature(int64_list=tf.train.Int64List(value=[value])),
        float: lambda value: tf.train.Feature(float_list=tf.train.FloatList(value=[value])),
    }
    given = {name.replace("_", "/"): kinds[type(value)](value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=given)).SerializeToString()


def write(path: Path, *records: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set: 14 training pictures in 4 shards, 5 for validation in 2."""
    random = np.random.default_rng(0)
    parts: dict[str, Source] = {
        part: LabeledImages(
            random.integers(0, 256, (count, 6, 7, 3), dtype=np.uint8),
            (np.arange(count) % 3).astype(np.int32),
            ("red", "green", "blue"),
            ("r", "g", "b"),
        )
        for part, count in (("train", 14), ("validation", 5))
    }
    folder = tmp_path_factory.mktemp("prepared")
    prepare(parts, folder, shards={"train": 4, "validation": 2})
    return folder


@pytest.fixture
def prepared(original: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "prepared"))


def test_records_are_those_of_tensorflows_reader(tmp_path: Path) -> None:
    records = [bytes([number]) * number * 7 for number in range(40)]
    for number in range(4):
        write(tmp_path / str(number), *records[10 * number : 10 * number + 10])
    (tmp_path / "empty").touch()
    paths = [str(tmp_path / name) for name in ("0", "1", "empty", "2", "3")]
    lengths = [[len(record) for record in records[start : start + 10]] for start in (0, 10, 20, 30)]
    lengths.insert(2, [])
    for files in (TFRecordFiles(paths), TFRecordFiles(paths, list(map(np.array, lengths)))):
        assert len(files) == 40
        assert [files.read(index) for index in range(40)] == records
        assert files.name_of(20) == f"{tmp_path / '2'}: record 0"
        for index in (-1, 40):
            with pytest.raises(IndexError, match="from 0 to 39"):
                files.read(index)
    dataset = tf.data.TFRecordDataset(paths).as_numpy_iterator()
    assert list(dataset) == records


def test_pointers_in_a_prepared_set_are_named(prepared: Path) -> None:
    shard = min(prepared.glob("train-*"))
    for path, said in (
        (shard, f"Expected a TFRecord file. Received: {shard}, a Git LFS pointer"),
        (prepared / "index.npy", "index.npy, which cannot be read: a Git LFS pointer"),
        (prepared / "dataset.json", r"dataset.json \(ValueError: a Git LFS pointer"),
    ):
        whole = path.read_bytes()
        path.write_bytes(LFS_POINTER)
        with pytest.raises(ValueError, match=said):
            load_tfrecord(str(prepared))
        path.write_bytes(whole)


@pytest.mark.parametrize("limit", [0, 2, 100])
def test_many_threads_read_many_files(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfrecord_files, "_OPEN_FILES", limit)
    for number in range(8):
        write(tmp_path / str(number), *(b"%d %d" % (number, record) for record in range(50)))
    # File descriptors of this process.
    here = Path("/proc/self/fd")
    before = len(list(here.iterdir())) if here.is_dir() else 0
    files = TFRecordFiles([str(tmp_path / str(number)) for number in range(8)])
    order = np.random.default_rng(0).permutation(400).tolist() * 3
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(files.read, order))
    assert found == [b"%d %d" % divmod(index, 50) for index in order]
    if here.is_dir():
        # Of threads that look at the limit at the same moment, each may keep one.
        assert len(list(here.iterdir())) - before <= (limit and min(limit + 16, 8))
        del files
        assert len(list(here.iterdir())) == before


def test_truncated_files_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-00001"
    write(path, *(example(image_encoded=jpeg(n), image_class_label=n) for n in range(3)))
    whole = path.read_bytes()
    for end, number in ((len(whole) - 1, 2), (len(whole) // 2, 1), (5, 0)):
        path.write_bytes(whole[:end])
        with pytest.raises(
            ValueError, match=f"Received: {path}, .* is truncated at record {number}"
        ):
            load_tfrecord(str(tmp_path))
    for content, said in (
        (
            b"\0just some bytes, which are no TFRecord file",
            "which is truncated at record 0 or not a TFRecord",
        ),
        (b"just some text, which is no TFRecord file", "text, instead of a binary file"),
        (LFS_POINTER, "a Git LFS pointer instead of the file of 102,540,417 bytes. Run `git lfs"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            load_tfrecord(str(tmp_path))
    path.write_bytes(whole)
    files = TFRecordFiles([str(path)])
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=r"Expected a record of \d+ bytes. Received: \d+ bytes from .*train"
    ):
        files.read(2)


def test_prepared_records_and_their_labels_without_reading_them(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scan(path: str) -> np.ndarray:
        raise AssertionError(path)

    monkeypatch.setattr(tfrecord_files, "_lengths", scan)
    train, validation, _ = load_tfrecord(str(prepared))
    assert validation is not None
    assert (len(train), len(validation)) == (14, 5)
    assert (train.class_names, train.class_ids) == (("red", "green", "blue"), ("r", "g", "b"))
    assert train.labels.dtype == np.int32
    assert np.bincount(train.labels).tolist() == [5, 5, 4]
    assert train.name_of(4) == f"{prepared / 'train-00001-of-00004'}: record 0"
    for source in (train, validation):
        records = [source[index] for index in range(len(source))]
        assert [record.label for record in records] == source.labels.tolist()
        assert {read_image(record.data).shape for record in records} == {(6, 7, 3)}
    only, none, _ = load_tfrecord(str(prepared / "train-*"))
    assert (len(only), none) == (14, None)
    empty, part, _ = load_tfrecord(str(prepared / "validation-*"))
    assert part is not None
    assert (len(empty), len(part), empty.class_names) == (0, 5, ("red", "green", "blue"))


def test_without_the_index_records_say_the_same(prepared: Path) -> None:
    expected = load_tfrecord(str(prepared)).train
    (prepared / "index.npy").unlink()
    source = load_tfrecord(str(prepared)).train
    np.testing.assert_array_equal(source.labels, expected.labels)
    assert [source[n] for n in range(14)] == [expected[n] for n in range(14)]


def test_what_does_not_fit_the_description_is_named(prepared: Path) -> None:
    def refused(match: str, pattern: Path = prepared) -> None:
        with pytest.raises(ValueError, match=match):
            load_tfrecord(str(pattern))

    shard = prepared / "train-00002-of-00004"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    refused(
        rf"Expected a file of {len(whole):,} bytes.*"
        rf"train-00002-of-00004 of {len(whole) - 1:,} bytes"
    )
    shard.unlink()
    refused(r"all 4 files of the series .*Received: 3, without train-00002-of-00004")
    refused(r"without train-00002-of-00004", prepared / "train-*")
    shard.write_bytes(whole)
    other = prepared / "train-00000-of-00001"
    other.write_bytes(whole)
    refused("one series of files train-….*series of 00001 and of 00004")
    refused("Received: train-00000-of-00001, which is not", other)
    other.unlink()
    for path in sorted(prepared.glob("validation-*")):
        path.rename(prepared.parent / path.name)
    refused("Received: 4 files without validation-00000-of-00002")
    (prepared.parent / "elsewhere").mkdir()
    for path in sorted(prepared.parent.glob("validation-*")):
        path.rename(prepared.parent / "elsewhere" / path.name)
    refused("files in the directory of .*Received: files in 2", prepared.parent / "*" / "*-of-*")
    for path in sorted((prepared.parent / "elsewhere").glob("validation-*")):
        path.rename(prepared / path.name)
    index = np.load(prepared / "index.npy")
    longer = index.copy()
    longer["length"][0] += 1
    for damaged, words in (
        (index[:-1], r"an array \(18,\)"),
        (index["label"], "an array .* of int32"),
        (longer, "which does not fit train-00000-of-00004"),
    ):
        np.save(prepared / "index.npy", damaged)
        refused(f"Expected the index of 19 records. Received: .*index.npy, {words}")
    (prepared / "index.npy").write_bytes(b"damaged")
    refused("index.npy, which cannot be read")
    index["label"][3] = 3
    np.save(prepared / "index.npy", index)
    refused("labels that are not among 3 classes")
    description = json.loads((prepared / "dataset.json").read_text())
    del description["parts"]
    (prepared / "dataset.json").write_text(json.dumps(description))
    refused(r"as `keras-resnet data prepare` writes it. Received: .*\(KeyError: 'parts'\)")


def test_missing_features_are_listed_with_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "a.tfrecord", example(image=jpeg(0), label=3, weight=0.5))
    with pytest.raises(
        ValueError,
        match=r"features image/encoded \(1 bytes\) and image/class/label \(1 int64\). Received: "
        r"image \(1 bytes\), label \(1 int64\), weight \(1 float\) in .*a\.tfrecord: record 0",
    ):
        load_tfrecord(str(tmp_path))
    write(tmp_path / "a.tfrecord", example(image_encoded=jpeg(0), image_class_label=b"3"))
    with pytest.raises(ValueError, match=r"Received: image/class/label \(1 bytes\), image/enc"):
        load_tfrecord(str(tmp_path))
    write(tmp_path / "a.tfrecord", b"\xff\xff\xff no example")
    with pytest.raises(ValueError, match=r"that is a tf.train.Example. .*a\.tfrecord: record 0"):
        load_tfrecord(str(tmp_path))
    write(tmp_path / "a.tfrecord")
    with pytest.raises(ValueError, match="Expected records. Received: none"):
        load_tfrecord(str(tmp_path))
    with pytest.raises(ValueError, match=r"pattern of TFRecord files. Received: .*none\*, which"):
        load_tfrecord(str(tmp_path / "none*"))


def numbered(label: int, **features: bytes) -> bytes:
    return example(image_encoded=jpeg(label), image_class_label=label, **features)


def test_foreign_imagenet_has_all_classes_and_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfrecord_classes, "_SAMPLE", 1)
    ids = [b"n01443537", b"n15075141", b"n01440764"]
    # Labels of another order, as after a preparation with the devkit's numbers.
    records = [numbered(n + 1, image_class_synset=wordnet) for n, wordnet in enumerate(ids)]
    write(tmp_path / "train-00000-of-00001", *records, numbered(9, image_class_synset=b"n00000000"))
    write(tmp_path / "val-00000-of-00001", records[1])
    write(tmp_path / "test-00000-of-00001", *records)
    train, validation, _ = load_tfrecord(str(tmp_path))
    assert validation is not None
    assert (len(train.class_names), train.class_names[1]) == (1000, "goldfish")
    assert [train[index].label for index in range(3)] == [1, 999, 0]
    assert validation.labels.tolist() == [999]
    for read in (lambda: train[3], lambda: train.labels):
        with pytest.raises(ValueError, match=r"Received: 9, 'n00000000' in .*train.*: record 3"):
            read()


@pytest.mark.parametrize(
    ("least", "features", "names", "ids"),
    [
        (
            1,
            lambda n: {"image_class_text": b"class %d" % n},
            ("class 1", "class 2", "class 3"),
            None,
        ),
        (
            0,
            lambda n: {"image_class_text": b"class %d" % n},
            ("class 0", "class 1", "class 2"),
            None,
        ),
        (1, lambda n: {}, ("0", "1", "2"), None),
        (
            0,
            lambda n: {"image_class_synset": b"id%d" % n},
            ("id0", "id1", "id2"),
            ("id0", "id1", "id2"),
        ),
    ],
)
def test_other_records_are_read_once_for_their_classes(
    least: int,
    features: Callable[[int], dict[str, bytes]],
    names: tuple[str, ...],
    ids: tuple[str, ...] | None,
    tmp_path: Path,
) -> None:
    labels = [least + 2, least + 1, least + 1, least + 2]
    write(tmp_path / "train.tfrecord", *(numbered(n, **features(n)) for n in labels))
    # The least label is only here.
    write(tmp_path / "eval.tfrecord", numbered(least, **features(least)))
    train, validation, _ = load_tfrecord(str(tmp_path))
    assert validation is not None
    assert (train.class_names, train.class_ids) == (names, ids)
    assert train.labels.tolist() == [2, 1, 1, 2]
    assert [train[index].label for index in range(4)] == [2, 1, 1, 2]
    assert train[0].data == jpeg(least + 2)
    assert validation.labels.tolist() == [0]


def test_files_of_no_part_are_training(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"flowers-{number}.tfrecord", numbered(number), numbered(number))
    (tmp_path / "labels.txt").write_text("not a record")
    (tmp_path / ".hidden").write_text("not a record")
    train, validation, _ = load_tfrecord(str(tmp_path))
    assert validation is None
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    some = load_tfrecord(str(tmp_path / "flowers-[12].tfrecord")).train
    assert some.labels.tolist() == [0, 0, 1, 1]


def test_labels_that_cannot_be_classes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.tfrecord"
    for label, match in ((-1, "at least 0. Received: -1"), (10**12, "below the number of records")):
        write(path, example(image_encoded=jpeg(0), image_class_label=label))
        with pytest.raises(ValueError, match=match):
            load_tfrecord(str(tmp_path))


def test_missing_shards_of_others_are_named(tmp_path: Path) -> None:
    for number in (0, 3, 4):
        write(tmp_path / f"train-{number:05d}-of-00010.tfrecord", numbered(1))
    with pytest.raises(
        ValueError,
        match=r"all 10 files .*Received: 3, without train-00001-of-00010\.tfrecord, .* and 2 more",
    ):
        load_tfrecord(str(tmp_path))
