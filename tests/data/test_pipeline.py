from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.data import LabeledImages, evaluation_batches, training_batches
from keras_resnet.data.pipeline import steps_per_epoch
from keras_resnet.data.transforms import pad_and_crop


@pytest.fixture(scope="module")
def numbered() -> LabeledImages:
    """Twenty-three 6x6 images; each has its own number in every pixel and as its label."""
    numbers = np.arange(1, 24)
    images = np.broadcast_to(numbers[:, None, None, None], (23, 6, 6, 3)).astype(np.uint8)
    return LabeledImages(images, numbers.astype(np.int32), tuple(map(str, range(24))))


def epochs_of(dataset: tf.data.Dataset, steps: int) -> list[np.ndarray]:
    labels = [batch[1] for batch in dataset.as_numpy_iterator()]
    return [np.concatenate(labels[start : start + steps]) for start in range(0, len(labels), steps)]


def test_every_epoch_shows_every_image_once_in_another_order(numbered: LabeledImages) -> None:
    dataset = training_batches(numbered, 5, 3, seed=1)
    assert dataset.cardinality() == 3 * steps_per_epoch(numbered, 5) == 15
    epochs = epochs_of(dataset, 5)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), numbered.labels)
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[1] != epochs[2]).any()


def test_batches_are_uint8_and_keep_image_and_label_together(numbered: LabeledImages) -> None:
    for images, labels in training_batches(numbered, 5, 1, seed=1).as_numpy_iterator():
        assert images.dtype == np.uint8
        assert images.shape == (len(labels), 6, 6, 3)
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)


def test_order_and_augmentation_depend_on_the_seed_alone(numbered: LabeledImages) -> None:
    def crops(seed: int) -> list[np.ndarray]:
        dataset = training_batches(numbered, 5, 2, seed=seed, augment=pad_and_crop)
        return [images for images, _ in dataset.as_numpy_iterator()]

    for first, second in zip(crops(7), crops(7), strict=True):
        np.testing.assert_array_equal(first, second)
    assert any((first != second).any() for first, second in zip(crops(7), crops(8), strict=True))


def test_images_of_one_batch_are_cropped_differently() -> None:
    picture = np.arange(36, dtype=np.uint8).reshape(1, 6, 6, 1).repeat(50, axis=0).repeat(3, axis=3)
    same = LabeledImages(picture, np.zeros(50, np.int32), ("0",))
    first, second = (
        images for images, _ in training_batches(same, 50, 2, seed=0, augment=pad_and_crop)
    )
    assert len(np.unique(first.numpy().reshape(50, -1), axis=0)) > 20
    assert (first.numpy() != second.numpy()).any()


def test_crop_is_a_window_of_the_padded_image() -> None:
    image = np.random.default_rng(0).integers(1, 256, (6, 5, 3), dtype=np.uint8)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[y : y + 6, x : x + 5].tobytes() for y in range(5) for x in range(5)}
    crops = {
        pad_and_crop(tf.constant(image), [seed, 3], padding=2).numpy().tobytes()
        for seed in range(300)
    }
    assert crops == windows


def test_evaluation_shows_every_image_once_in_order(numbered: LabeledImages) -> None:
    dataset = evaluation_batches(numbered, 10)
    assert dataset.cardinality() == 3
    np.testing.assert_array_equal(
        np.concatenate([labels for _, labels in dataset]), numbered.labels
    )
