from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import tensorflow as tf
from PIL import Image

from keras_resnet.data import LabeledImages
from keras_resnet.data.shards import prepare as preparation
from keras_resnet.data.shards.prepare import prepare
from keras_resnet.data.sources import Source
from keras_resnet.data.sources.folder import load_folder
from keras_resnet.data.sources.imagenet import load_imagenet
from keras_resnet.data.sources.imagenet_labels import validation_synsets
from keras_resnet.data.sources.tfrecord import load_tfrecord
from keras_resnet.images.decode import UnreadableImageError, read_image

from ...conftest import Command

IDS = ("n01440764", "n01443537", "n01484850")
NAMES = ("tench", "goldfish", "great white shark")
#: Classes of the eight validation pictures.
VALIDATION = (2, 0, 1, 1, 0, 2, 2, 0)
STEMS = [f"ILSVRC2012_val_{number:08d}" for number in range(1, 9)]


def encoded(
    seed: int, kind: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (60, 45)
) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def training_pictures() -> dict[str, dict[str, bytes]]:
    """Like ImageNet's: one is CMYK, and one is a PNG that is called JPEG."""
    pictures = {
        wordnet_id: {
            # As in ImageNet's tars, not in the order of the numbers.
            f"{wordnet_id}_{number}.JPEG": encoded(10 * index + number)
            for number in (11, 2, 30, 4, 5)
        }
        for index, wordnet_id in enumerate(IDS)
    }
    pictures[IDS[1]][f"{IDS[1]}_2.JPEG"] = encoded(90, mode="CMYK")
    pictures[IDS[2]][f"{IDS[2]}_2.JPEG"] = encoded(91, kind="PNG")
    pictures[IDS[2]][f"{IDS[2]}_4.JPEG"] = encoded(92, mode="L")
    return pictures


TRAIN = training_pictures()
VAL = {f"{stem}.JPEG": encoded(100 + index) for index, stem in enumerate(STEMS)}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two tars and a file of labels."""
    folder = tmp_path_factory.mktemp("ilsvrc")
    # The second class first: the order of the tar does not matter.
    inner = {f"{IDS[index]}.tar": tar_of(TRAIN[IDS[index]]) for index in (1, 0, 2)}
    (folder / "train.tar").write_bytes(tar_of(inner))
    (folder / "val.tar").write_bytes(tar_of(VAL))
    (folder / "labels.txt").write_text("".join(f"{IDS[label]}\n" for label in VALIDATION))
    return folder


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list, str]]:
    """Keeps what commands do about GPUs from other tests; gets the calls."""
    calls: list[tuple[list, str]] = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *args: calls.append(args))
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "0")
    return calls


def parts_of(archives: Path) -> dict[str, Source]:
    train, validation = load_imagenet(
        archives / "train.tar", archives / "val.tar", archives / "labels.txt", check_counts=False
    )
    return {"train": train, "validation": validation}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def examples(directory: Path, part: str) -> list[dict[str, list]]:
    """What TensorFlow's own reader, which compares checksums, finds in the shards."""
    found = []
    for path in sorted(directory.glob(f"{part}-*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            found.append(
                {name: list(getattr(f, f.WhichOneof("kind")).value) for name, f in features.items()}
            )
    return found


def test_archives_become_imagenet_records(
    archives: Path, tmp_path: Path, command_in_process: Command, hidden: list
) -> None:
    tars = "--train-tar", str(archives / "train.tar"), "--val-tar", str(archives / "val.tar")
    words = "--val-labels", str(archives / "labels.txt"), "--shards", "4", "--no-check-counts"
    output = tmp_path / "records"
    done = command_in_process("data", "prepare", "imagenet", *tars, *words, "--output", str(output))
    assert (done.returncode, done.stderr) == (0, "")
    assert "train: 15 images in 4 shards" in done.stdout
    assert hidden == [([], "GPU")]
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["HIP_VISIBLE_DEVICES"]) == ("", "-1")
    shards = [f"train-{number:05d}-of-00004" for number in range(4)]
    companions = ["checksums.sha256", "dataset.json", "index.npy"]
    names = sorted([*companions, *shards, "validation-00000-of-00001"])
    assert [path.name for path in sorted(output.iterdir())] == names
    found = {e["image/filename"][0].decode(): e for e in examples(output, "train")}
    assert len(found) == 15
    for label, (wordnet_id, name) in enumerate(zip(IDS, NAMES, strict=True)):
        for filename, original in TRAIN[wordnet_id].items():
            example = found[filename]
            assert example["image/class/label"] == [label + 1]
            assert example["image/class/synset"] == [wordnet_id.encode()]
            assert example["image/class/text"] == [name.encode()]
            assert example["image/format"] == [b"JPEG"]
            assert (example["image/height"], example["image/width"]) == ([45], [60])
            (stored,) = example["image/encoded"]
            if filename in (f"{IDS[1]}_2.JPEG", f"{IDS[2]}_2.JPEG"):
                assert Image.open(io.BytesIO(stored)).mode == "RGB"
                assert stored.startswith(b"\xff\xd8\xff")
                difference = read_image(stored).astype(int) - read_image(original)
                assert abs(difference).mean() < 2
            else:
                assert stored == original
    validation = {e["image/filename"][0].decode(): e for e in examples(output, "validation")}
    assert {name: e["image/class/label"] for name, e in validation.items()} == {
        f"{stem}.JPEG": [label + 1] for stem, label in zip(STEMS, VALIDATION, strict=True)
    }
    again = command_in_process(
        "data", "prepare", "imagenet", *tars, *words, "--output", str(output)
    )
    assert again.returncode == 2
    assert "pass `--overwrite`" in again.stderr


def test_description_checksums_and_reading_back(archives: Path, tmp_path: Path) -> None:
    dataset = prepare(parts_of(archives), tmp_path, shards={"train": 4}, seed=5)
    assert json.loads((tmp_path / "dataset.json").read_text()) == dataset
    assert (dataset["class_names"], dataset["class_ids"]) == (list(NAMES), list(IDS))
    assert (dataset["label_offset"], dataset["seed"], dataset["short_side"]) == (1, 5, None)
    train = dataset["parts"]["train"]
    assert (train["records"], train["class_counts"], train["skipped"]) == (15, [5, 5, 5], [])
    assert [shard["records"] for shard in train["shards"]] == [4, 4, 4, 3]
    for shard in train["shards"]:
        data = (tmp_path / shard["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["bytes"], shard["sha256"])
    if shutil.which("sha256sum"):
        words = ["sha256sum", "--strict", "-c", "checksums.sha256"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.count(": OK")) == (0, 7)
    source, validation, _ = load_tfrecord(str(tmp_path))
    assert validation is not None
    assert (source.class_names, source.class_ids, len(validation)) == (NAMES, IDS, 8)
    kept = {data for pictures in TRAIN.values() for data in pictures.values()}
    assert len(kept & {source[index].data for index in range(15)}) == 13
    assert [source[index].label for index in range(15)] == source.labels.tolist()
    assert sorted(validation[index].data for index in range(8)) == sorted(VAL.values())


def test_records_are_shuffled_by_the_seed_alone(archives: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare(parts_of(archives), tmp_path / name, shards={"train": 2}, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    orders = [
        [e["image/filename"][0] for e in examples(tmp_path / name, "train")] for name in ("a", "c")
    ]
    assert sorted(orders[0]) == sorted(orders[1])
    assert len({tuple(orders[0]), tuple(orders[1]), tuple(sorted(orders[0]))}) == 3
    first_shard = {name[:9] for name in orders[0][:8]}
    assert len(first_shard) > 1


def test_extracted_folders_give_the_same_bytes(archives: Path, tmp_path: Path) -> None:
    for wordnet_id, pictures in TRAIN.items():
        (tmp_path / "train" / wordnet_id).mkdir(parents=True)
        for name, data in pictures.items():
            (tmp_path / "train" / wordnet_id / name).write_bytes(data)
    for label, (name, data) in zip(VALIDATION, VAL.items(), strict=True):
        (tmp_path / "val" / IDS[label]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "val" / IDS[label] / name).write_bytes(data)
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / name).write_bytes(data)
    prepare(parts_of(archives), tmp_path / "tars")
    for validation, labels in (("val", None), ("flat", archives / "labels.txt")):
        parts = load_imagenet(tmp_path / "train", tmp_path / validation, labels, check_counts=False)
        prepare(
            dict(zip(("train", "validation"), parts, strict=True)), tmp_path / f"of-{validation}"
        )
        assert contents(tmp_path / f"of-{validation}") == contents(tmp_path / "tars")
    with pytest.raises(ValueError, match=r"Expected `validation_labels` for .*val\.tar"):
        load_imagenet(tmp_path / "train", archives / "val.tar", check_counts=False)


def devkit_files() -> tuple[bytes, bytes]:
    """A meta.mat whose numbers are in another order than the ids, and the ground truth."""
    numbers = {IDS[0]: 2, IDS[1]: 3, IDS[2]: 1, "n00001740": 4}
    rows = [(number, wordnet_id, "words") for wordnet_id, number in numbers.items()]
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")]
    file = io.BytesIO()
    scipy.io.savemat(file, {"synsets": np.array(rows, dtype=kinds).reshape(-1, 1)})
    truth = "".join(f"{numbers[IDS[label]]}\n" for label in VALIDATION)
    return file.getvalue(), truth.encode()


def write_labels(kind: str, folder: Path) -> Path:
    meta, truth = devkit_files()
    if kind == "synsets":
        path = folder / "imagenet_2012_validation_synset_labels.txt"
        path.write_text("".join(f"{IDS[label]}\n" for label in VALIDATION))
    elif kind == "kaggle":
        path = folder / "LOC_val_solution.csv"
        rows = [
            f"{stem},{IDS[label]} 85 1 499 272 {IDS[label]} 1 2 3 4"
            for stem, label in zip(STEMS, VALIDATION, strict=True)
        ]
        path.write_text("\n".join(["ImageId,PredictionString", *rows[::-1]]) + "\n")
    elif kind == "devkit":
        path = folder / "ILSVRC2012_devkit_t12.tar.gz"
        inside = "ILSVRC2012_devkit_t12/data/"
        files = {"meta.mat": meta, "ILSVRC2012_validation_ground_truth.txt": truth}
        path.write_bytes(gzip.compress(tar_of({inside + name: d for name, d in files.items()})))
    else:
        path = folder / "ILSVRC2012_validation_ground_truth.txt"
        path.write_bytes(truth)
        (folder / "meta.mat").write_bytes(meta)
    return path


@pytest.mark.parametrize("kind", ["synsets", "kaggle", "devkit", "ground truth"])
def test_every_kind_of_validation_labels(kind: str, tmp_path: Path) -> None:
    path = write_labels(kind, tmp_path)
    expected = [IDS[label] for label in VALIDATION]
    assert validation_synsets(path, STEMS) == expected
    # Of a part of the pictures, by their numbers and not their order.
    assert validation_synsets(path, [STEMS[6], STEMS[1]]) == [expected[6], expected[1]]
    with pytest.raises(ValueError, match="the class of ILSVRC2012_val_00000009 in .*none for it"):
        validation_synsets(path, ["ILSVRC2012_val_00000009"])


def test_wrong_labels_are_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    for text in ("", "1\n2\n", "n01440764\ntench\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"Expected validation labels: .*Received: {path}"):
            validation_synsets(path, STEMS)
    path.write_text("n01440764\n")
    with pytest.raises(ValueError, match="named like ILSVRC2012_val_00000001.JPEG"):
        validation_synsets(path, ["holiday"])
    (tmp_path / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    path.write_text("1\n")
    with pytest.raises(ValueError, match=r"meta\.mat with the table `synsets`"):
        validation_synsets(path, STEMS[:1])


def test_counts_are_checked_before_anything_is_written(
    archives: Path, tmp_path: Path, command_in_process: Command, hidden: list
) -> None:
    output = tmp_path / "records"
    tars = "--train-tar", str(archives / "train.tar"), "--val-tar", str(archives / "val.tar")
    labels = "--val-labels", str(archives / "labels.txt")
    words = "data", "prepare", "imagenet", *tars, *labels, "--output", str(output)
    done = command_in_process(*words)
    assert done.returncode == 2
    assert (
        "Expected 1,281,167 training images, 50,000 validation images and 1,000 classes. "
        "Received: 15 training images, 8 validation images and 3 classes."
    ) in done.stderr
    assert not output.exists()
    done = command_in_process(*words, "--train-dir", str(tmp_path))
    assert "Expected either --train-tar or --train-dir. Received: both" in done.stderr


def test_damaged_archives_are_refused(archives: Path, tmp_path: Path) -> None:
    whole = (archives / "train.tar").read_bytes()
    damaged = tmp_path / "train.tar"
    for data in (whole[: len(whole) // 2], whole[:300], b"no tar" * 1000):
        damaged.write_bytes(data)
        with pytest.raises(
            ValueError, match=r"Expected a complete, uncompressed tar. Received: .*train"
        ):
            load_imagenet(
                damaged, archives / "val.tar", archives / "labels.txt", check_counts=False
            )
    with pytest.raises(ValueError, match="a tar of tars named by WordNet ids"):
        load_imagenet(archives / "val.tar", archives / "val.tar", check_counts=False)
    (tmp_path / "others.txt").write_text("n02084071\n" * 8)
    with pytest.raises(ValueError, match=r"of the 3 classes of .*Received: n02084071"):
        load_imagenet(
            archives / "train.tar",
            archives / "val.tar",
            tmp_path / "others.txt",
            check_counts=False,
        )


def folder_of(path: Path, pictures: dict[str, bytes]) -> Source:
    for name, data in pictures.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return load_folder(str(path)).train


def test_larger_pictures_are_reduced_and_smaller_ones_left_alone(tmp_path: Path) -> None:
    pictures = {
        "cat/wide.jpg": encoded(1, size=(200, 101)),
        "cat/tall.png": encoded(2, kind="PNG", size=(50, 130)),
        "dog/small.jpg": encoded(3, size=(300, 32)),
        "dog/small.png": encoded(4, kind="PNG", size=(20, 20)),
    }
    prepare({"train": folder_of(tmp_path / "in", pictures)}, tmp_path / "out", short_side=32)
    found = {e["image/filename"][0].decode(): e for e in examples(tmp_path / "out", "train")}
    sizes = {name: (e["image/width"][0], e["image/height"][0]) for name, e in found.items()}
    assert sizes == {
        "wide.jpg": (63, 32),
        "tall.png": (32, 83),
        "small.jpg": (300, 32),
        "small.png": (20, 20),
    }
    formats = {name: e["image/format"][0] for name, e in found.items()}
    assert [formats[name] for name in ("tall.png", "small.png")] == [b"JPEG", b"PNG"]
    for name in ("small.jpg", "small.png"):
        assert found[name]["image/encoded"] == [pictures[f"dog/{name}"]]
    for name in ("wide.jpg", "tall.png"):
        original = Image.fromarray(read_image(pictures[f"cat/{name}"]))
        expected = io.BytesIO()
        resized = original.resize(sizes[name], Image.Resampling.BICUBIC)
        resized.save(expected, "JPEG", quality=95)
        assert found[name]["image/encoded"] == [expected.getvalue()]


def test_pixels_lose_nothing(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)
    labels = np.arange(6, dtype=np.int32) % 2
    prepare({"train": LabeledImages(images, labels, ("even", "odd"))}, tmp_path, seed=3)
    source = load_tfrecord(str(tmp_path)).train
    found = [source[index] for index in range(6)]
    originals = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert {read_image(r.data).tobytes(): r.label for r in found} == originals
    assert source.class_ids is None


def test_unreadable_pictures_are_named_or_listed(tmp_path: Path) -> None:
    broken = encoded(5)[:300]
    pictures = {f"cat/{n}.jpg": encoded(n) for n in range(4)} | {
        "dog/bad.jpg": broken,
        "dog/1.jpg": encoded(9),
    }
    source = folder_of(tmp_path / "in", pictures)
    output = tmp_path / "out"
    with pytest.raises(UnreadableImageError, match=r"Received: .*dog/bad\.jpg \(it is truncated"):
        prepare({"train": source}, output, shards={"train": 2})
    assert [path.name for path in output.iterdir()] == [".preparing"]
    with pytest.raises(ValueError, match=r"Received: skip_unreadable True \(before: False\)"):
        prepare({"train": source}, output, shards={"train": 2}, skip_unreadable=True)
    dataset = prepare(
        {"train": source}, output, shards={"train": 2}, skip_unreadable=True, overwrite=True
    )
    train = dataset["parts"]["train"]
    assert (train["records"], train["class_counts"]) == (5, [4, 1])
    assert train["skipped"] == [str(tmp_path / "in" / "dog" / "bad.jpg")]
    assert len(load_tfrecord(str(output)).train) == 5


#: Says what TensorFlow is imported with, and runs the command.
WATCHED = """
import importlib.abc, os, pathlib, sys
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "tensorflow":
            seen = os.environ["CUDA_VISIBLE_DEVICES"], os.environ["HIP_VISIBLE_DEVICES"]
            pathlib.Path(sys.argv[0]).write_text(repr(seen))
sys.meta_path.insert(0, Watch())
from keras_resnet.cli import main
del sys.argv[0]
main()
"""


@pytest.mark.full
def test_killed_half_way_the_result_is_the_same(
    tmp_path: Path, command_in_process: Command, hidden: list
) -> None:
    picture = encoded(1, size=(720, 640))
    for number in range(96):
        path = tmp_path / "in" / "abc"[number % 3] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        # A comment of its own makes each a different file.
        path.write_bytes(picture[:2] + b"\xff\xfe\x00\x06%04d" % number + picture[2:])
    output, seen = tmp_path / "out", tmp_path / "seen"
    words = ["data", "prepare", "folder", str(tmp_path / "in"), "--output", str(output)]
    words += ["--shards", "24", "--short-side", "128", "--seed", "3"]
    variables = {**os.environ, "CUDA_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED, str(seen), *words], env=variables, stdout=subprocess.DEVNULL
    )
    work = output / ".preparing"
    deadline = time.monotonic() + 120
    while len(list(work.glob("train-*.json"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert seen.read_text() == "('', '-1')"
    assert [path.name for path in output.iterdir()] == [".preparing"]
    finished = [path.name.removesuffix(".json") for path in sorted(work.glob("train-*.json"))]
    assert 3 <= len(finished) < 24
    # Neither a shard that is damaged nor one whose entry is, is believed in.
    (work / finished[0]).write_bytes(b"x" * (work / finished[0]).stat().st_size)
    (work / f"{finished[1]}.json").write_text("{")
    kept = {name: (work / name).stat().st_ino for name in finished[2:]}
    before = contents_of_files(work)
    done = command_in_process(*words[:-1], "4")
    assert done.returncode == 2
    assert "Received: seed 4 (before: 3)." in done.stderr
    assert contents_of_files(work) == before
    done = command_in_process(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert {name: (output / name).stat().st_ino for name in kept} == kept
    assert not work.exists()
    another = tmp_path / "another"
    words[5] = str(another)
    assert command_in_process(*words).returncode == 0
    assert contents(output) == contents(another)


def contents_of_files(directory: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if path.is_file() and path.name != ".lock"
    }


def test_failure_leaves_earlier_results_and_success_replaces_them(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(parts_of(archives), tmp_path, shards={"train": 3})
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="pass `overwrite=True`"):
        prepare(parts_of(archives), tmp_path, shards={"train": 2})
    (tmp_path / "notes.md").write_text("mine")

    def fails(*arguments: object, **settings: object) -> None:
        raise OSError("no disk")

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "write_description", fails)
        with pytest.raises(OSError, match="no disk"):
            prepare(parts_of(archives), tmp_path, shards={"train": 2}, overwrite=True)
    assert contents_of_files(tmp_path) == {**before, "notes.md": b"mine"}
    prepare(parts_of(archives), tmp_path, shards={"train": 2}, overwrite=True)
    assert len(list(tmp_path.glob("train-*"))) == 2
    assert (tmp_path / "notes.md").read_text() == "mine"
    assert len(load_tfrecord(str(tmp_path)).train) == 15


def test_shards_of_others_are_never_mixed_in(archives: Path, tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00002").write_bytes(b"")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="without shards of another data set.*-of-00002"):
            prepare(parts_of(archives), tmp_path, shards={"train": 3}, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["train-00000-of-00002"]


def test_one_process_at_a_time(archives: Path, tmp_path: Path) -> None:
    problems: list[str] = []

    def second(step: str, done: float) -> None:
        if not problems:
            with pytest.raises(ValueError, match="process \\d+ on .* is at work") as caught:
                prepare(parts_of(archives), tmp_path)
            problems.append(str(caught.value))

    prepare(parts_of(archives), tmp_path, progress=second)
    assert len(problems) == 1


@pytest.fixture
def bad_arguments(archives: Path, tmp_path: Path) -> Iterator[Callable[..., str]]:
    parts = parts_of(archives)

    def message(parts_: dict[str, Source] | None = None, **keywords: object) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            prepare(parts if parts_ is None else parts_, tmp_path, **keywords)  # type: ignore[arg-type]
        return str(caught.value)

    yield message
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments_are_named(archives: Path, bad_arguments: Callable[..., str]) -> None:
    parts = parts_of(archives)
    assert "from 1 to 15 shards" in bad_arguments(shards={"train": 16})
    assert "`short_side` to be an integer of at least 1. Received: 0" in bad_arguments(short_side=0)
    assert "`seed` to be from 0 to 2**32 - 1. Received: -1" in bad_arguments(seed=-1)
    assert "Received: ['dev', 'train']" in bad_arguments(
        {"train": parts["train"], "dev": parts["train"]}
    )
    images = np.zeros((2, 4, 4, 3), np.uint8)
    other = LabeledImages(images, np.zeros(2, np.int32), ("a", "b"), name="others")
    alone = LabeledImages(images, np.zeros(2, np.int32), ("a",), name="others")
    assert "at least 2 classes. Received: others, with a" in bad_arguments({"train": alone})
    assert "same classes in imagenet (training) and others" in bad_arguments(
        {"train": parts["train"], "validation": other}
    )


def test_default_shards_have_a_size_that_disks_like(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_SHARD_BYTES", 4000)
    dataset = prepare(parts_of(archives), tmp_path)
    sizes = [shard["bytes"] for shard in dataset["parts"]["train"]["shards"]]
    assert len(sizes) > 2
    assert 2500 < np.mean(sizes) < 6500
