from __future__ import annotations

import numpy as np
import sklearn.datasets

from keras_resnet.data import load_digits


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
