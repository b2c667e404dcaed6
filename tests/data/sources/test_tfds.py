from __future__ import annotations

import io
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from keras_resnet.data.config import DataConfig
from keras_resnet.data.sources import load_data, load_part
from keras_resnet.data.sources.tfds import load_tfds
from keras_resnet.images.decode import read_image
from keras_resnet.images.labels import imagenet_classes

from ...conftest import Start


def pixels(seed: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (5, 6, channels), dtype=np.uint8)


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(seed)).save(file, "JPEG")
    return file.getvalue()


class KerasResnetToys(tfds.core.GeneratorBasedBuilder):
    """Six examples for training and four for each other split; image and label have their seed."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        tfds.core.BuilderConfig(name=name)
        for name in (
            "colour",
            "late",
            "grey",
            "files",
            "train_only",
            "shares",
            "test_only",
            "with_test",
            "two_images",
            "pair",
            "wordnet",
            "unlabelled",
            "detection",
            "deep",
            "float",
        )
    ]

    @property
    def own(self) -> str:
        return str(self.builder_config.name)

    def _info(self) -> tfds.core.DatasetInfo:
        names = ["zebra", "ant", "bee"]
        if self.own == "wordnet":
            names = ["n01443537", "n01440764", "n99999999"]
        image = tfds.features.Image(shape=(None, None, 1 if self.own == "grey" else 3))
        label = tfds.features.ClassLabel(names=names)
        features = {"id": tfds.features.Text(), "picture": image, "kind": label}
        keys = None
        if self.own == "late":
            features["kind"] = tfds.features.ClassLabel(num_classes=3)
        if self.own in ("two_images", "pair"):
            features["depth"] = tfds.features.Image(shape=(None, None, 1))
            features["colour"] = tfds.features.ClassLabel(num_classes=5)
            keys = ("picture", "kind") if self.own == "pair" else None
        elif self.own == "wordnet":  # A map of segments is no second picture.
            features["mask"] = tfds.features.LabeledImage(shape=(None, None, 1), labels=2)
        elif self.own == "detection":
            del features["kind"]
            features["objects"] = tfds.features.Sequence({"kind": label})
        elif self.own == "deep":
            features["picture"] = tfds.features.Image(shape=(None, None, 3), dtype=np.uint16)
        elif self.own == "float":
            features["picture"] = tfds.features.Image(shape=(None, None, 1), dtype=np.float32)
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=keys
        )

    def _split_generators(self, manager: Any) -> dict[str, Any]:
        if self.own == "late":
            self.info.features["kind"].names = ["zebra", "ant", "bee"]
        splits = {"train": range(6), "validation": range(100, 104)}
        if self.own == "with_test":
            splits["test"] = range(200, 204)
        elif self.own == "shares":
            splits = {"10pct": range(6), "validation": range(100, 104)}
        elif self.own in ("train_only", "test_only"):
            splits = {self.own.removesuffix("_only"): range(12)}
        return {split: self._generate_examples(seeds) for split, seeds in splits.items()}

    def _generate_examples(self, seeds: range) -> Iterator[tuple[int, dict[str, Any]]]:
        for seed in seeds:
            image: Any = pixels(seed, 1 if self.own == "grey" else 3)
            if self.own == "files":
                image = io.BytesIO(jpeg(seed))
            label = -1 if self.own == "unlabelled" and seed >= 100 else seed % 3
            example = {"id": f"example {seed}", "picture": image, "kind": label}
            if self.own in ("two_images", "pair"):
                example |= {"depth": pixels(seed, 1), "colour": 4}
            elif self.own == "wordnet":
                example["mask"] = pixels(seed, 1)
            yield seed, example


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path


def prepare(config: str, data_dir: Path, file_format: str = "tfrecord") -> Any:
    builder = KerasResnetToys(config=config, data_dir=data_dir, file_format=file_format)
    builder.download_and_prepare()
    return builder


def by_seed(part: Any, count: int) -> dict[int, Any]:
    """Records by the seed of their pixels: tfds shuffles them when it prepares."""
    seeds = {
        pixels(seed).tobytes(): seed for seed in (*range(12), *range(100, 104), *range(200, 204))
    }
    records = [part[index] for index in range(count)]
    return {seeds[read_image(record.data).tobytes()]: record for record in records}


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_a_prepared_data_set_is_read_in_its_format(data_dir: Path, file_format: str) -> None:
    prepare("colour", data_dir, file_format)
    assert list(data_dir.rglob(f"*-train.{file_format}-00000-of-00001"))
    train, validation = load_data("tfds:keras_resnet_toys/colour")
    assert (len(train), len(validation)) == (6, 4)
    # In the data set's order.
    assert train.class_names == validation.class_names == ("zebra", "ant", "bee")
    assert train.class_ids is None
    for part, seeds in ((train, range(6)), (validation, range(100, 104))):
        records = by_seed(part, len(part))
        assert sorted(records) == list(seeds)
        for seed, record in records.items():
            # Stored as PNG, and not decoded.
            assert isinstance(record.data, bytes)
            assert record.data.startswith(b"\x89PNG")
            assert record.label == seed % 3
        assert part.labels.tolist() == [part[index].label for index in range(len(part))]
        assert part.labels.dtype == np.int32
    assert train.name == "tfds:keras_resnet_toys/colour (train)"
    assert validation.name == "tfds:keras_resnet_toys/colour (validation)"
    place = "-train.tfrecord-00000-of-00001: record 2"
    if file_format == "array_record":
        place = "tfds:keras_resnet_toys/colour (train): example 2"
    assert train.name_of(2).endswith(place)
    with pytest.raises(IndexError):
        train[6]


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_threads_read_what_one_reads(data_dir: Path, file_format: str) -> None:
    prepare("colour", data_dir, file_format)
    indices = [index % 6 for index in range(600)]
    with ThreadPoolExecutor(8) as threads:
        # Opened here, so that the first reads are at the same time, too.
        train, _ = load_data("tfds:keras_resnet_toys/colour")
        read = list(threads.map(train.__getitem__, indices))
    alone = [train[index] for index in range(6)]
    assert len({record.data for record in alone}) == 6
    assert read == [alone[index] for index in indices]


def test_a_data_set_is_prepared_if_it_is_not(data_dir: Path) -> None:
    train, _ = load_data("tfds:keras_resnet_toys/colour")
    assert sorted(by_seed(train, 6)) == list(range(6))
    written = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.tfrecord*")}
    assert len(written) == 2
    load_data("tfds:keras_resnet_toys/colour")
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.tfrecord*")} == written


def test_names_that_are_in_the_download_are_found() -> None:
    for _ in ("prepared", "opened again"):
        train, validation = load_data("tfds:keras_resnet_toys/late")
        assert train.class_names == validation.class_names == ("zebra", "ant", "bee")


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_grey_images_become_rgb_and_files_stay_as_they_are(
    data_dir: Path, file_format: str
) -> None:
    prepare("grey", data_dir, file_format)
    train, _ = load_data("tfds:keras_resnet_toys/grey")
    images = {read_image(train[index].data).tobytes() for index in range(6)}
    assert read_image(train[0].data).shape == (5, 6, 3)
    assert images == {pixels(seed, 1).repeat(3, axis=-1).tobytes() for seed in range(6)}
    prepare("files", data_dir, file_format)
    train, _ = load_data("tfds:keras_resnet_toys/files")
    assert {train[index].data for index in range(6)} == {jpeg(seed) for seed in range(6)}


def test_only_load_part_opens_the_split_test(data_dir: Path) -> None:
    for config in ("with_test", "train_only"):
        prepare(config, data_dir)
    _, validation = load_data("tfds:keras_resnet_toys/with_test")
    assert sorted(by_seed(validation, 4)) == list(range(100, 104))
    assert validation.name.endswith("(validation)")
    test = load_part("tfds:keras_resnet_toys/with_test", "test")
    assert sorted(by_seed(test, 4)) == list(range(200, 204))
    assert load_tfds("keras_resnet_toys/train_only")[1:] == (None, None)
    train, validation = load_data(
        DataConfig("tfds:keras_resnet_toys/train_only", validation_fraction=0.25)
    )
    assert sorted([*by_seed(train, 9), *by_seed(validation, 3)]) == list(range(12))
    assert sorted(validation.labels.tolist()) == [0, 1, 2]


def test_the_supervised_pair_decides_between_several(data_dir: Path) -> None:
    prepare("pair", data_dir)
    train, _ = load_data("tfds:keras_resnet_toys/pair")
    assert train.class_names == ("zebra", "ant", "bee")
    assert {seed: record.label for seed, record in by_seed(train, 6).items()} == {
        seed: seed % 3 for seed in range(6)
    }


def test_wordnet_ids_get_imagenets_names(data_dir: Path) -> None:
    prepare("wordnet", data_dir)
    for part in load_data("tfds:keras_resnet_toys/wordnet"):
        assert part.class_ids == ("n01443537", "n01440764", "n99999999")
        assert part.class_names == ("goldfish", "tench", "n99999999")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("two_images", "with 2 such images and 2 labels among id (Text), picture (Image)"),
        (
            "detection",
            "with 1 such images and 0 labels among id (Text), picture (Image), objects (Seq",
        ),
        ("deep", "with 0 such images and 1 labels among id (Text), picture (Image)"),
        ("float", "with 0 such images and 1 labels among"),
    ],
)
def test_data_sets_for_other_purposes_are_refused(config: str, message: str) -> None:
    with pytest.raises(ValueError, match="one image .* and one class label") as error:
        load_data(f"tfds:keras_resnet_toys/{config}")
    assert message in str(error.value)


def test_a_data_set_without_training_is_refused(data_dir: Path) -> None:
    prepare("test_only", data_dir)
    message = "Received: tfds:keras_resnet_toys/test_only, which has only a test split$"
    with pytest.raises(ValueError, match=message):
        load_data("tfds:keras_resnet_toys/test_only")
    assert len(load_part("tfds:keras_resnet_toys/test_only", "test")) == 12


def test_splits_of_no_part_are_told(data_dir: Path) -> None:
    prepare("shares", data_dir)
    with (
        pytest.warns(UserWarning, match="^Left out of tfds:keras_resnet_toys/shares: 10pct. Their"),
        pytest.raises(ValueError, match="a training split. .*, which has only a validation split$"),
    ):
        load_data("tfds:keras_resnet_toys/shares")


def test_examples_without_a_label_are_no_records(data_dir: Path) -> None:
    prepare("unlabelled", data_dir)
    _, validation = load_data("tfds:keras_resnet_toys/unlabelled")
    with pytest.raises(ValueError, match=r"label in \[0, 2\]. Received: -1 in .*: record 0$"):
        validation[0]


def test_damaged_files_are_named(data_dir: Path) -> None:
    builder = prepare("colour", data_dir)
    path = Path(builder.info.splits["train"].filepaths[0])
    whole = path.read_bytes()
    first = int.from_bytes(whole[:8], "little")
    path.write_bytes(whole[:12] + b"\xff" * first + whole[12 + first :])
    train, _ = load_data("tfds:keras_resnet_toys/colour")
    with pytest.raises(ValueError, match="with `picture` and `kind`.*: record 0, which is damaged"):
        train[0]
    assert train[1].label in range(3)
    path.write_bytes(whole[12 + first + 4 :])
    with pytest.raises(ValueError, match="Expected 6 examples in the split train. Received: 5, in"):
        load_data("tfds:keras_resnet_toys/colour")
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="Expected a complete TFRecord file"):
        load_data("tfds:keras_resnet_toys/colour")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="-train.tfrecord"):
        load_data("tfds:keras_resnet_toys/colour")


def test_unknown_names_are_refused_with_similar_ones() -> None:
    with pytest.raises(ValueError, match="Received: tfds:cifar_10. Similar: .*cifar10") as error:
        load_data("tfds:cifar_10")
    assert len(str(error.value)) < 200
    with pytest.raises(ValueError, match=r"Received: tfds:qqqqqqqqq. `tfds.list_builders\(\)`"):
        load_data("tfds:qqqqqqqqq")
    with pytest.raises(ValueError, match="Received: tfds:keras_resnet_toys/red: .*red not found"):
        load_data("tfds:keras_resnet_toys/red")


def test_a_failed_download_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, manager: Any) -> None:
        raise AssertionError("Manual download\nrequired.")

    monkeypatch.setattr(KerasResnetToys, "_split_generators", fail)
    message = "download and prepare keras_resnet_toys/colour. Received: AssertionError: Manual down"
    with pytest.raises(OSError, match=message):
        load_data("tfds:keras_resnet_toys/colour")


def test_mocked_cifar10() -> None:
    with tfds.testing.mock_data(num_examples=7):
        train, validation = load_data("tfds:cifar10")
        assert (len(train), len(validation)) == (7, 7)
        # Its names are in the download.
        assert train.class_names[:3] == ("0", "1", "2")
        assert train.class_ids is None
        images = [read_image(train[index].data) for index in range(7)]
        assert {image.shape for image in images} == {(32, 32, 3)}
        assert len({image.tobytes() for image in images}) == 7
        assert train.labels.tolist() == [train[index].label for index in range(7)]
        assert set(train.labels.tolist()) <= set(range(10))


def test_mocked_imagenet() -> None:
    with tfds.testing.mock_data(num_examples=3):
        train, validation = load_data("tfds:imagenet2012")
        ids, names = zip(*imagenet_classes(), strict=True)
        for part in (train, validation):
            assert (part.class_ids, part.class_names) == (ids, names)
            record = part[2]
            assert read_image(record.data).shape[-1] == 3
            assert 0 <= record.label < 1000
        assert validation.name == "tfds:imagenet2012 (validation)"


def test_mocked_grey_images() -> None:
    with tfds.testing.mock_data(num_examples=2):
        train, _ = load_data("tfds:mnist")
        image = read_image(train[1].data)
        assert image.shape == (28, 28, 3)
        assert (image[..., :1] == image).all()
        assert train.class_names == tuple("0123456789")


STALLED = """
import sys
import tensorflow_datasets as tfds
class Stalled(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(8, 8, 3)),
            "label": tfds.features.ClassLabel(num_classes=2),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))
    def _generate_examples(self):
        yield from ()
    def _split_generators(self, manager):
        manager.download(sys.argv[1])
        return {"train": self._generate_examples()}
from keras_resnet import cli
def run(**_):
    from keras_resnet.data import load_data
    load_data("tfds:stalled")
cli.app = run
cli.main()
"""


def test_an_interrupted_download_ends_at_once(start_program: Start, tmp_path: Path) -> None:
    """The client of tfds waits for its threads, and these for the server."""
    reached, over = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            reached.set()
            over.wait(120)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = tmp_path / "program.py"
    program.write_text(STALLED)
    process = start_program(
        *(str(program), f"http://127.0.0.1:{server.server_port}/file"),
        TFDS_DATA_DIR=str(tmp_path / "data"),
    )
    try:
        assert reached.wait(100)
        time.sleep(0.5)
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert time.monotonic() - asked < 8
    finally:
        process.kill()
        over.set()
        server.shutdown()
        server.server_close()
    assert "keras-resnet: Interrupted." in process.communicate()[1]
