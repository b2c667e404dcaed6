"""Linear probes and nearest neighbors of a fixed network."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_resnet
from keras_resnet.data import LabeledImages, TooManyBadRecordsError
from keras_resnet.data.sources.folder import load_folder
from keras_resnet.images.decode import read_image
from keras_resnet.images.protocol import EvalProtocol, eval_transform
from keras_resnet.training.transfer import baselines as module
from keras_resnet.training.transfer.baselines import Baselines, _balanced, baselines, vectors


@pytest.fixture(scope="module", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Every call would compile the same network again, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "pooled", functools.cache(module.pooled))
        yield


NAMES = ("red", "green", "blue", "grey")
COLOURS = np.array([(180, 60, 60), (60, 180, 60), (60, 60, 180), (100, 100, 100)])


def coloured(counts: tuple[int, ...], seed: int, name: str = "colours") -> LabeledImages:
    """Noise around the colour of each class, in mixed order."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(counts)), counts))
    noise = random.integers(-60, 60, (len(labels), 32, 32, 3))
    return LabeledImages((COLOURS[labels][:, None, None] + noise).astype(np.uint8), labels, NAMES,
                         name=name)  # fmt: skip


def relabelled(source: LabeledImages, labels: np.ndarray) -> LabeledImages:
    return LabeledImages(source.images, labels, source.class_names, name=source.name)


def test_vectors_are_what_the_classifier_sees(tiny_model: keras.Model) -> None:
    source = coloured((12, 11, 10, 9), seed=0)
    steps = []
    found, labels = vectors(
        tiny_model, source, batch_size=32, progress=lambda what, done: steps.append((what, done))
    )
    seen = keras.Model(tiny_model.input, tiny_model.get_layer("avg_pool").output)
    np.testing.assert_allclose(found, seen.predict(source.images, verbose=0), atol=1e-5)
    np.testing.assert_array_equal(labels, source.labels)
    assert (found.dtype, found.shape, labels.dtype) == (np.float32, (42, 24), np.int32)
    assert steps == [("vectors of colours", 0.5), ("vectors of colours", 1.0)]


@pytest.mark.parametrize("pooling", [None, "max"])
def test_networks_without_a_classifier_give_what_they_pool(
    pooling: str | None, tiny_model: keras.Model
) -> None:
    config = keras_resnet.ResNetConfig("basic", (1, 1, 1), (8, 16, 24), stem="cifar", shortcut="A")
    model = keras_resnet.build(
        config, include_top=False, pooling=pooling, input_shape=(None, None, 3)
    )
    model.set_weights(tiny_model.get_weights()[:-2])
    source = coloured((3, 3, 3, 3), seed=0)
    last = tiny_model.get_layer("avg_pool").input
    pool = keras.layers.GlobalMaxPooling2D if pooling else keras.layers.GlobalAveragePooling2D
    wanted = keras.Model(tiny_model.input, pool()(last)).predict(source.images, verbose=0)
    found, _ = vectors(model, source, protocol=EvalProtocol(32, 32))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_images_are_prepared_as_at_evaluation(tiny_model: keras.Model) -> None:
    source = coloured((2, 2, 2, 2), seed=0)
    protocol = EvalProtocol(32, 48)
    found, _ = vectors(tiny_model, source, protocol=protocol)
    prepared = eval_transform(protocol)(source.images)
    np.testing.assert_allclose(
        found, vectors(tiny_model, relabelled_images(source, prepared))[0], atol=0.05
    )
    assert np.abs(found - vectors(tiny_model, source)[0]).max() > 0.1


def relabelled_images(source: LabeledImages, images: np.ndarray) -> LabeledImages:
    return LabeledImages(images, source.labels, source.class_names)


def test_a_limit_takes_as_many_of_every_class_as_there_are(tiny_model: keras.Model) -> None:
    source = coloured((9, 8, 5, 2), seed=1)
    found, labels = vectors(tiny_model, source, limit=13, seed=1)
    # What the smallest class leaves goes to the others, but for what cannot be divided.
    assert np.bincount(labels).tolist() == [3, 3, 3, 2]
    indices = _balanced(source.labels, 13, seed=1)
    np.testing.assert_array_equal(labels, source.labels[indices])
    seen = module.pooled(tiny_model)(source.images[indices])
    np.testing.assert_allclose(found, seen, atol=1e-5)
    np.testing.assert_array_equal(indices, _balanced(source.labels, 13, seed=1))
    assert not np.array_equal(indices, _balanced(source.labels, 13, seed=2))


@pytest.mark.parametrize(
    ("limit", "counts"),
    [(4, [1, 1, 1, 1]), (7, [1, 1, 1, 1]), (12, [3, 3, 3, 3]), (15, [4, 4, 4, 3]),
     (40, [13, 13, 10, 3]), (62, [29, 20, 10, 3]), (63, [30, 20, 10, 3]), (99, [30, 20, 10, 3])],
)  # fmt: skip
def test_how_a_limit_is_divided(limit: int, counts: list[int]) -> None:
    labels = coloured((30, 20, 10, 3), seed=1).labels
    indices = _balanced(labels, limit, seed=0)
    assert np.bincount(labels[indices]).tolist() == counts
    assert (np.diff(indices) > 0).all()


def test_colours_are_told_apart(tiny_model: keras.Model) -> None:
    train, validation = coloured((20, 15, 10, 8), seed=0), coloured((10, 10, 10, 30), seed=1)
    steps: list[float] = []
    weights = tiny_model.get_weights()
    found = baselines(tiny_model, train, validation, progress=lambda what, done: steps.append(done))
    assert found.linear_probe > 0.97
    assert found.nearest_neighbors > 0.9
    # The most common training class is red.
    assert found.majority == pytest.approx(10 / 60)
    assert (found.neighbors, found.train_images, found.validation_images) == (8, 53, 60)
    assert found == baselines(tiny_model, train, validation)
    assert steps == sorted(steps)
    assert 0.8 < steps[-1] <= 1
    for before, after in zip(weights, tiny_model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_shuffled_labels_are_guessed(tiny_model: keras.Model) -> None:
    random = np.random.default_rng(0)
    parts = coloured((40,) * 4, seed=0), coloured((40,) * 4, seed=1)
    # Of validation as well: else one guess would be right or wrong for all images of a colour.
    train, validation = (relabelled(part, random.permutation(part.labels)) for part in parts)
    found = baselines(tiny_model, train, validation)
    # Three standard deviations of the share of right guesses are 0.1.
    assert abs(found.nearest_neighbors - 0.25) < 0.11
    assert abs(found.linear_probe - 0.25) < 0.11


def test_a_limit_keeps_the_shares_of_the_classes(tiny_model: keras.Model) -> None:
    """Red is told from grey, but grey has the labels of green and of blue at random."""
    random = np.random.default_rng(0)

    def part(seed: int) -> LabeledImages:
        source = coloured((30, 0, 0, 270), seed)
        grey = np.where(random.random(300) < 0.9, 1, 2)
        return relabelled(source, np.where(source.labels == 3, grey, 0))

    found = baselines(tiny_model, part(0), part(1), limit=60)
    assert (found.train_images, found.validation_images) == (60, 60)
    # All of grey is called green, which is right nine times in ten; without the weights, half.
    assert found.linear_probe > 0.8


def test_few_images_get_a_probe_too(tiny_model: keras.Model) -> None:
    found = baselines(
        tiny_model, coloured((3, 3, 3, 1), seed=0), coloured((5,) * 4, seed=1), neighbors=2
    )
    assert found.neighbors == 1
    assert found.linear_probe > 0.7


def test_what_they_say() -> None:
    found = Baselines(0.9, 0.8, 0.1, 20, 5000, 360)
    assert str(found).splitlines() == [
        "Linear probe: 90.00%, 20 nearest neighbors: 80.00%, most common class: 10.00%",
        "from 5,000 training images, on 360 validation images",
    ]
    assert found.to_dict() == {
        "linear_probe": 0.9,
        "nearest_neighbors": 0.8,
        "majority": 0.1,
        "neighbors": 20,
        "train_images": 5000,
        "validation_images": 360,
    }


def test_what_cannot_be_judged_is_refused(tiny_model: keras.Model) -> None:
    good, empty = coloured((2, 2, 2, 2), seed=0), coloured((0, 0, 0, 0), seed=0, name="nothing")
    unlabelled = relabelled(good, np.where(good.labels == 1, -1, good.labels))
    single = relabelled(good, np.zeros(8))
    fewer = LabeledImages(good.images, good.labels % 3, NAMES[:3], name="three")
    for train, validation, message in (
        (unlabelled, good, "from 0 to 3 for all images. Received: colours, with 2 other labels"),
        (good, unlabelled, "2 other labels, such as -1"),
        (good, empty, "labeled images. Received: none in nothing"),
        (empty, good, "labeled images. Received: none in nothing"),
        (single, good, "at least two classes. Received: 8 images of one class in colours"),
        (good, fewer, "same classes. Received: 4 classes in colours, 3 different ones in"),
    ):
        with pytest.raises(ValueError, match=message):
            baselines(tiny_model, train, validation)
    with pytest.raises(ValueError, match="at least 4, one image per class. Received: 3"):
        vectors(tiny_model, good, limit=3)
    with pytest.raises(ValueError, match="`neighbors` to be .* Received: 0"):
        baselines(tiny_model, good, good, neighbors=0)


def test_damaged_files_are_left_out_up_to_a_share(tiny_model: keras.Model, tmp_path: Path) -> None:
    source = coloured((4, 4, 4, 4), seed=0)
    for index, (image, label) in enumerate(zip(source.images, source.labels, strict=True)):
        folder = tmp_path / NAMES[label]
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    files = load_folder(tmp_path).train
    whole = module.pooled(tiny_model)(np.stack([read_image(files[i].data) for i in range(16)]))
    labels = files.labels
    Path(files.name_of(2)).write_bytes(b"no picture")
    with pytest.raises(TooManyBadRecordsError, match=r"Received: 1 of 16"):
        vectors(tiny_model, files)
    found, rest = vectors(tiny_model, files, max_bad_fraction=0.1)
    np.testing.assert_allclose(found, np.delete(whole, 2, axis=0), atol=1e-5)
    np.testing.assert_array_equal(rest, np.delete(labels, 2))
