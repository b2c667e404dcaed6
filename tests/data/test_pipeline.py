from __future__ import annotations

import ast
import io
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnet.data import (
    AUGMENTATIONS,
    Augmentation,
    BadRecords,
    DataConfig,
    LabeledImages,
    TooManyBadRecordsError,
    evaluation_batches,
    load_data,
    steps_per_epoch,
    training_batches,
)
from keras_resnet.data.augment.transforms import pad_and_crop
from keras_resnet.data.order import Order
from keras_resnet.data.sources import Record, Source, Subset
from keras_resnet.data.sources.load import load_splits
from keras_resnet.images.protocol import EvalProtocol, eval_transform

from ..conftest import Run


def config_of(batch_size: int = 5, size: int = 8, **fields: object) -> DataConfig:
    return DataConfig("test", size=size, batch_size=batch_size, **fields)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def numbered() -> LabeledImages:
    """Twenty-three 8x8 images; each has its own number in every pixel and as its label."""
    numbers = np.arange(1, 24)
    images = np.broadcast_to(numbers[:, None, None, None], (23, 8, 8, 3)).astype(np.uint8)
    return LabeledImages(images, numbers.astype(np.int32), tuple(map(str, range(24))))


class Encoded:
    """The same images as JPEGs, PNGs and pixels in turn, 24x30, each in one colour."""

    name, class_ids = "encoded", None
    class_names = tuple(map(str, range(24)))
    labels = np.arange(1, 24, dtype=np.int32)

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> Record:
        pixels = np.full((24, 30, 3), 10 * (index + 1), np.uint8)
        if index % 3 == 2:
            return Record(pixels, index + 1)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG" if index % 3 else "PNG", quality=95)
        return Record(file.getvalue(), index + 1)

    def name_of(self, index: int) -> str:
        return f"encoded: {index}"


@pytest.fixture(params=["memory", "encoded"])
def source(request: pytest.FixtureRequest, numbered: LabeledImages) -> Source:
    return numbered if request.param == "memory" else Encoded()


def epochs_of(dataset: tf.data.Dataset, steps: int) -> list[np.ndarray]:
    labels = [batch[1] for batch in dataset.as_numpy_iterator()]
    return [np.concatenate(labels[start : start + steps]) for start in range(0, len(labels), steps)]


def same(first: Iterable[tuple], second: Iterable[tuple]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(
        np.array_equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True)
    )


def test_every_epoch_shows_every_image_once_in_another_order(source: Source) -> None:
    config = config_of()
    dataset = training_batches(source, config, 3)
    assert dataset.cardinality() == 3 * steps_per_epoch(source, config) == 15
    epochs = epochs_of(dataset, 5)
    assert len(epochs) == 3
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), source.labels)
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[1] != epochs[2]).any()


@pytest.mark.parametrize("fields", [{"crop": "pad"}, {"flip": 0.5}, {"mixup": 1.0}])
def test_every_epoch_varies_every_image_anew(fields: dict) -> None:
    """The same image, alone in its batches, so that nothing but the epoch differs."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (1, 8, 8, 3), np.uint8).repeat(2, axis=0)
    pixels[1] = 255 - pixels[1]
    one = LabeledImages(pixels, np.arange(2), ("a", "b"))
    config = config_of(2, augmentation=Augmentation(**fields))
    epochs = training_batches(one, config, 8).as_numpy_iterator()
    # In the order of the labels, as the order in the batch differs anyway.
    shown = {
        images[np.argsort(np.asarray(y).reshape(2, -1)[:, -1])].tobytes() for images, y in epochs
    }
    assert len(shown) > 2


def test_batches_are_uint8_and_keep_image_and_label_together(source: Source) -> None:
    scale = 1 if isinstance(source, LabeledImages) else 10
    for images, labels in training_batches(source, config_of(), 1).as_numpy_iterator():
        assert images.dtype == np.uint8
        assert images.shape == (len(labels), 8, 8, 3)
        assert labels.dtype == np.int32
        np.testing.assert_allclose(images[:, 3, 3, 0], scale * labels, atol=1)


@pytest.mark.parametrize(
    "name",
    ["cifar", *(pytest.param(name, marks=pytest.mark.full) for name in ("inception", "he2015"))],
)
def test_two_runs_with_one_seed_give_identical_bytes(source: Source, name: str) -> None:
    def batches(seed: int) -> list[tuple]:
        config = config_of(seed=seed, augmentation=AUGMENTATIONS[name])
        return list(training_batches(source, config, 2).as_numpy_iterator())

    first = batches(7)
    assert same(first, batches(7))
    assert not same(first, batches(8))


EVERYTHING = Augmentation(
    "inception",
    flip=0.5,
    auto="timm-randaugment",
    auto_deviation=0.5,
    auto_contrast=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    lighting=0.1,
    erasing=0.5,
    mixup=0.2,
    cutmix=1.0,
    repeats=2,
)


@pytest.mark.parametrize(
    "start", [*(pytest.param(step, marks=pytest.mark.full) for step in (1, 4, 10)), 7]
)
def test_restarting_goes_on_with_exactly_the_next_batch(source: Source, start: int) -> None:
    """At any step, within an epoch and between two."""
    config = config_of(augmentation=AUGMENTATIONS["cifar"], seed=3)
    whole = list(training_batches(source, config, 2).as_numpy_iterator())
    rest = training_batches(source, config, 2, start_step=start)
    assert rest.cardinality() == 10 - start
    assert same(whole[start:], rest.as_numpy_iterator())


def test_restart_beyond_the_end_is_refused(numbered: LabeledImages) -> None:
    assert training_batches(numbered, config_of(), 2, start_step=10).cardinality() == 0
    with pytest.raises(ValueError, match="at most 10, that is 2 epochs of 5 steps"):
        training_batches(numbered, config_of(), 2, start_step=11)


@pytest.mark.parametrize(
    "source", [pytest.param("memory", marks=pytest.mark.full), "encoded"], indirect=True
)
def test_workers_get_disjoint_and_complete_parts_of_every_batch(source: Source) -> None:
    """And together exactly what one process would get, mixing included."""
    how = Augmentation("inception", mixup=0.2, cutmix=1.0, repeats=2)
    config = config_of(8, augmentation=how, drop_remainder=True)
    whole = list(training_batches(source, config, 2).as_numpy_iterator())
    parts = [
        list(training_batches(source, config, 2, worker=worker, workers=2).as_numpy_iterator())
        for worker in range(2)
    ]
    assert [len(part) for part in (whole, *parts)] == [4, 4, 4]
    joined = [
        tuple(np.concatenate(pair) for pair in zip(*both, strict=True))
        for both in zip(*parts, strict=True)
    ]
    assert same(whole, joined)


@pytest.mark.full
def test_all_augmentations_together_give_images_and_shares_of_classes() -> None:
    train, _ = load_data(DataConfig("synthetic:60x40x50", size=32))
    config = config_of(16, 32, augmentation=EVERYTHING)
    batches = list(training_batches(train, config, 2).as_numpy_iterator())
    rest = training_batches(train, config, 2, start_step=2)
    assert same(batches[2:], rest.as_numpy_iterator())
    for images, labels in batches:
        assert images.shape == (len(labels), 32, 32, 3)
        assert images.dtype == np.uint8
        assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
        np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-5)
        assert labels.shape[1] == 10


def test_images_of_one_batch_are_cropped_differently() -> None:
    picture = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1).repeat(50, axis=0)
    alike = LabeledImages(picture.repeat(3, axis=3), np.zeros(50, np.int32), ("0",))
    config = config_of(50, augmentation=Augmentation("pad"))
    first, second = (images for images, _ in training_batches(alike, config, 2))
    assert len(np.unique(first.numpy().reshape(50, -1), axis=0)) > 20
    assert (first.numpy() != second.numpy()).any()


def test_half_of_the_images_are_flipped() -> None:
    ramp = np.tile(np.arange(8, dtype=np.uint8)[None, None, :, None], (400, 8, 1, 3))
    source = LabeledImages(ramp, np.zeros(400, np.int32), ("0",))
    config = config_of(100, augmentation=Augmentation(flip=0.5))
    images = np.concatenate([x for x, _ in training_batches(source, config, 1)])
    flipped = images[:, 0, 0, 0] == 7
    np.testing.assert_array_equal(images[flipped], ramp[:1, :, ::-1].repeat(flipped.sum(), 0))
    np.testing.assert_array_equal(images[~flipped], ramp[: (~flipped).sum()])
    # Three deviations of a fair coin.
    assert abs(flipped.mean() - 0.5) < 3 * 0.5 / 20


@pytest.mark.parametrize("fill", [(0, 0, 0), (125, 123, 114)])
def test_crop_is_a_window_of_the_padded_image(fill: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    padded = np.empty((10, 9, 3), np.uint8)
    padded[:] = fill
    padded[2:8, 2:7] = image
    windows = {padded[y : y + 6, x : x + 5].tobytes() for y in range(5) for x in range(5)}
    crops = {
        pad_and_crop(tf.constant(image), [seed, 3], padding=2, fill=fill).numpy().tobytes()
        for seed in range(300)
    }
    assert crops == windows


def test_the_colour_reaches_padding_and_moved_images(numbered: LabeledImages) -> None:
    for how in (
        Augmentation("pad", fill=(1, 2, 3)),
        Augmentation(fill=(1, 2, 3), auto="timm-randaugment", auto_probability=1.0),
        Augmentation(fill=(1, 2, 3), auto="trivialaugment-wide"),
    ):
        batches = training_batches(numbered, config_of(augmentation=how), 2).as_numpy_iterator()
        assert any((images == (1, 2, 3)).all(axis=-1).any() for images, _ in batches)


def test_evaluation_shows_every_image_once_in_order(source: Source) -> None:
    dataset = evaluation_batches(source, config_of(10))
    assert dataset.cardinality() == 3
    batches = list(dataset.as_numpy_iterator())
    assert [len(labels) for _, labels, _ in batches] == [10, 10, 3]
    np.testing.assert_array_equal(np.concatenate([b[1] for b in batches]), source.labels)
    np.testing.assert_array_equal(np.concatenate([b[2] for b in batches]), np.ones(23))


def test_padded_evaluation_counts_every_image_exactly_once(source: Source) -> None:
    parts = [
        list(evaluation_batches(source, config_of(10), worker=w, workers=2).as_numpy_iterator())
        for w in range(2)
    ]
    assert [[x[0].shape for x in part] for part in parts] == [[(5, 8, 8, 3)] * 3] * 2
    labels, weights = (
        np.concatenate([np.concatenate([x[k] for x in pair]) for pair in zip(*parts, strict=True)])
        for k in (1, 2)
    )
    np.testing.assert_array_equal(labels[weights > 0], source.labels)
    assert len(np.unique(weights[weights > 0])) == 1
    # Keras divides by places, so the weights make up for those that are empty.
    assert weights.sum() == pytest.approx(30)


def test_padding_changes_neither_loss_nor_accuracy_of_keras(numbered: LabeledImages) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(24, activation="softmax", kernel_initializer="he_normal"))
    model.compile(loss="sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    plain, padded = (
        model.evaluate(evaluation_batches(numbered, config_of(10), pad=pad), verbose=0)
        for pad in (False, True)
    )
    assert plain[1] > 0
    assert padded == pytest.approx(plain, rel=1e-5)


def test_evaluation_images_are_the_protocols() -> None:
    train, _ = load_data("synthetic:20x70x50")
    protocol = EvalProtocol(32, 40, "bicubic")
    config = config_of(4, 32, protocol=protocol)
    (images, *_) = next(evaluation_batches(train, config).as_numpy_iterator())
    expected = eval_transform(protocol)([train[index].data for index in range(4)])
    difference = np.abs(images.astype(int) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.05


def test_fit_takes_exactly_the_steps_that_there_are() -> None:
    """Of a dataset of unknown cardinality, Keras takes one step too many per epoch."""
    config = config_of(8, 8, augmentation=AUGMENTATIONS["inception"])
    train, validation = load_data(DataConfig("synthetic:50x16x16", size=8))
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.compile("sgd", "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    steps = steps_per_epoch(train, config)
    model.fit(
        training_batches(train, config, 3),
        epochs=3,
        steps_per_epoch=steps,
        validation_data=evaluation_batches(validation, config),
        shuffle=False,
        verbose=0,
    )
    assert int(model.optimizer.iterations.numpy()) == 3 * steps == 3 * 7
    # And where `fit` finds out by itself.
    model.fit(training_batches(train, config, 1), epochs=1, shuffle=False, verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 4 * steps


@pytest.fixture
def dirty(tmp_path: Path) -> Path:
    """Two classes of ten pictures, of which five are not what their names say, and two are bad."""
    for name, colour in (("a", 40), ("b", 200)):
        (tmp_path / name).mkdir()
        for number in range(10):
            picture = Image.new("RGB", (20, 16), (colour, colour, colour))
            picture.save(tmp_path / name / f"{number}.jpg", quality=95)
    whole = (tmp_path / "a" / "3.jpg").read_bytes()
    (tmp_path / "a" / "3.jpg").write_bytes(whole[: len(whole) - 30])
    (tmp_path / "b" / "0.jpg").write_bytes(b"")
    Image.new("RGB", (20, 16), (200, 200, 200)).save(tmp_path / "b" / "1.jpg", "BMP")
    Image.new("CMYK", (20, 16), (0, 0, 0, 55)).save(tmp_path / "b" / "2.jpg", "JPEG", quality=95)
    Image.fromarray(np.full((16, 20), 200 * 257, np.uint16)).save(tmp_path / "b" / "3.jpg", "PNG")
    return tmp_path


@pytest.mark.parametrize("name", ["none", "inception"])
def test_training_skips_counts_and_names_bad_files(
    dirty: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = load_splits(f"folder:{dirty}").train
    bad = BadRecords(source.name, len(source), 0.2)
    config = config_of(8, augmentation=AUGMENTATIONS[name])
    dataset = training_batches(source, config, 2, bad=bad)
    batches = list(dataset.as_numpy_iterator())
    assert [len(labels) for _, labels in batches] == [8, 8, 4] * 2
    for images, labels in batches:
        # What stands for a bad file has its own label.
        np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), np.where(labels, 200, 40), atol=3)
    assert set(bad.found) == {str(dirty / "a" / "3.jpg"), str(dirty / "b" / "0.jpg")}
    assert "truncated" in bad.found[str(dirty / "a" / "3.jpg")]
    assert "empty" in bad.found[str(dirty / "b" / "0.jpg")]
    # Once each, whatever the number of epochs.
    assert len([record for record in caplog.records if "Skipped" in record.message]) == 2


def test_too_many_bad_files_stop_training(dirty: Path) -> None:
    source = load_splits(f"folder:{dirty}").train
    bad = BadRecords(source.name, len(source), 0.05)
    dataset = training_batches(source, config_of(8), 1, bad=bad)
    # And go on stopping it.
    for _ in range(2):
        with pytest.raises(tf.errors.InvalidArgumentError, match="at most 5.00% unreadable"):
            list(dataset)
    assert isinstance(bad.error, TooManyBadRecordsError)
    assert "Received: 2 of 20" in str(bad.error)


def test_where_nothing_can_be_read_training_stops(dirty: Path) -> None:
    source = load_splits(f"folder:{dirty}").train
    for path in source.paths:
        Path(path).write_bytes(b"no image")
    config = config_of(4, max_bad_fraction=1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="whose 20 images cannot be read"):
        list(training_batches(source, config, 1))


@pytest.mark.parametrize("name", [pytest.param("he2015", marks=pytest.mark.full), "inception"])
def test_a_damaged_file_leaves_its_neighbours_as_they_are(tmp_path: Path, name: str) -> None:
    """Also where the decoder shrinks them, which is not repeated in Python."""
    random = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(4):
            noise = random.integers(0, 256, (80, 60, 3), dtype=np.uint8)
            picture = Image.fromarray(noise).resize((600, 800))
            picture.save(tmp_path / label / f"{number}.jpg")
    source = load_splits(f"folder:{tmp_path}").train
    config = config_of(8, 32, augmentation=AUGMENTATIONS[name], max_bad_fraction=0.5)
    order = Order(8, 8, seed=0).epoch(0).numpy()[0]
    whole, _ = next(training_batches(source, config, 1).as_numpy_iterator())
    damaged = tmp_path / "a" / "2.jpg"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    rescued, _ = next(training_batches(source, config, 1).as_numpy_iterator())
    differs = (whole != rescued).any(axis=(1, 2, 3))
    assert order[differs].tolist() == [2]


def test_labels_of_a_part_are_looked_up_once(tmp_path: Path) -> None:
    train, _ = load_data("synthetic:20x8x8")
    part = Subset(train, np.arange(10), "ten")
    assert part.labels is part.labels


@pytest.mark.full
def test_two_replicas_get_equal_parts_and_exact_losses(run_python: Run) -> None:
    code = """
import keras, tensorflow as tf
from keras_resnet.data import (
    AUGMENTATIONS, DataConfig, evaluation_batches, load_data, steps_per_epoch, training_batches
)

cpu = tf.config.list_physical_devices("CPU")[0]
logical = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(cpu, [logical, logical])
config = DataConfig("synthetic:50x16x16", size=8, batch_size=8, augmentation=AUGMENTATIONS["cifar"])
train, validation = load_data(config)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.compile("sgd", "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    steps = steps_per_epoch(train, config)
    batches = training_batches(train, config, 2)
    held_out = evaluation_batches(validation, config)
    try:
        training_batches(train, DataConfig("x", size=8, batch_size=7), 1)
    except ValueError as error:
        print(error)
model.fit(
    batches, epochs=2, steps_per_epoch=steps, validation_data=held_out, shuffle=False, verbose=0
)
print(steps, int(model.optimizer.iterations.numpy()))
both = model.evaluate(held_out, verbose=0)
alone = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), model.layers[-1]])
alone.compile(loss="sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
print(both, alone.evaluate(evaluation_batches(validation, config), verbose=0))
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    refusal, counts, losses = result.stdout.splitlines()[-3:]
    assert "multiple of the 2 replicas. Received: 7" in refusal
    assert counts == "6 12"
    both, alone = ast.literal_eval(losses.replace("] [", "], ["))
    assert both == pytest.approx(alone, rel=1e-4)


def test_a_batch_beyond_the_images_has_no_places_without_any(
    numbered: LabeledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those would be cropped and resized as if they were images."""
    sizes: list[int] = []
    monkeypatch.setattr(
        "keras_resnet.data.pipeline.Order",
        lambda count, size, *rest, **more: sizes.append(size) or Order(count, size, *rest, **more),
    )
    config = config_of(100_000)
    ((images, labels),) = training_batches(numbered, config, 1)
    assert sorted(labels.numpy()) == sorted(numbered.labels)
    (shown,) = evaluation_batches(numbered, config)
    np.testing.assert_array_equal(shown[1], numbered.labels)
    assert sizes == [len(numbered), len(numbered)]
    assert len(images) == len(numbered)


def test_bad_files_have_no_weight_in_evaluation(dirty: Path) -> None:
    source = load_splits(f"folder:{dirty}").train
    config = config_of(8, max_bad_fraction=0.2)
    good = ~np.isin(np.arange(20), [3, 10])
    for pad in (False, True):
        dataset = evaluation_batches(source, config, pad=pad)
        batches = list(dataset.as_numpy_iterator())
        assert len(batches) == dataset.cardinality() == 3
        images, labels, weights = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        assert len(weights) == (24 if pad else 18)
        counted = weights > 0
        np.testing.assert_array_equal(labels[counted], source.labels[good])
        assert not images[~counted].any()
        np.testing.assert_allclose(
            images[counted].mean(axis=(1, 2, 3)), np.where(labels[counted], 200, 40), atol=3
        )


def test_a_batch_without_any_readable_image_counts_for_nothing(dirty: Path) -> None:
    source = load_splits(f"folder:{dirty}").train
    for number in range(4):
        (dirty / "a" / f"{number}.jpg").write_bytes(b"no image")
    config = config_of(4, max_bad_fraction=1)
    first = next(evaluation_batches(source, config).as_numpy_iterator())
    assert [len(part) for part in first] == [1, 1, 1]
    assert first[2][0] == 0


def test_files_that_vanish_are_bad_files(dirty: Path) -> None:
    source = load_splits(f"folder:{dirty}").train
    (dirty / "a" / "7.jpg").unlink()
    bad = BadRecords(source.name, len(source), 1)
    assert len(list(training_batches(source, config_of(10), 1, bad=bad))) == 2
    assert "No such file" in bad.found[str(dirty / "a" / "7.jpg")]


@pytest.mark.slow
def test_memory_stays_flat_over_three_epochs_of_20000_images(run_python: Run) -> None:
    code = """
import resource
from keras_resnet.data import AUGMENTATIONS, DataConfig, load_data, training_batches

config = DataConfig("synthetic:20000x128x128", size=64, augmentation=AUGMENTATIONS["inception"])
train, _ = load_data(config)
assert len(train) == 20000
batches = iter(training_batches(train, config, 3))
for epoch in range(3):
    for _ in range(79):
        next(batches)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    result = run_python(code)
    first, _, last = map(int, result.stdout.split())
    assert last <= 1.05 * first
