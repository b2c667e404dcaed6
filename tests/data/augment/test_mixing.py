from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.data.augment.mixing import beta, mix, partners_of

COUNT = 600


def seeds_of(count: int) -> np.ndarray:
    return np.stack([np.arange(count), np.full(count, 5)], axis=1).astype(np.int32)


def mixed(
    images: np.ndarray, labels: np.ndarray, seeds: np.ndarray | None = None, **how: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mixes one batch, in a pipeline."""
    seeds = seeds_of(len(images)) if seeds is None else seeds
    batch = tf.data.Dataset.from_tensor_slices((images, labels.astype(np.int32), seeds))
    batch = batch.batch(len(images)).map(lambda *batch: mix(*batch, classes=10, **how))
    return next(batch.as_numpy_iterator())


def black_and_white(count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """White images of class 1 and black ones of class 0 in turn: pixels tell whose they are."""
    labels = np.arange(count) % 2 == 0
    levels = np.where(labels, 255, 0).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, *size, 3)).copy(), labels


@pytest.fixture(scope="module")
def noise() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (24, 9, 7, 3), dtype=np.uint8), rng.integers(0, 10, 24)


def drawn_share(seed: tf.Tensor, a: float) -> float:
    """Beta as the quotient of two Gamma draws, in float64."""
    gamma, uniform = tf.random.split(seed, num=2)
    draws = tf.random.stateless_gamma((2,), gamma, a + 1.0).numpy().astype(float)
    draws *= (1 - tf.random.stateless_uniform((2,), uniform).numpy().astype(float)) ** (1 / a)
    return draws[0] / draws.sum()


@pytest.mark.parametrize(("count", "repeats"), [(24, 1), (23, 1), (24, 3), (21, 3), (5, 4), (1, 1)])
def test_partners(count: int, repeats: int) -> None:
    partners = partners_of(tf.constant(count), repeats).numpy()
    for index, partner in enumerate(partners):
        wanted = index + repeats if index // repeats % 2 == 0 else index - repeats
        assert partner == (wanted if wanted < count else index)
        assert partners[partner] == index


def test_mixup_is_the_formula(noise: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = noise
    results, soft = mixed(images, labels, mixup=0.4)
    for index, (result, label) in enumerate(zip(results, soft, strict=True)):
        share = drawn_share(tf.random.split([index, 5], num=3)[1], 0.4)
        partner = index ^ 1
        expected = share * images[index] + (1 - share) * images[partner]
        assert np.abs(result - expected).max() <= 0.5 + 1e-3
        weights = np.eye(10)[labels[index]] * share + np.eye(10)[labels[partner]] * (1 - share)
        np.testing.assert_allclose(label, weights, atol=1e-6)


@pytest.mark.parametrize("size", [(9, 7), (2, 3), (1, 1)])
def test_cutmix_is_the_formula(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, *size, 3), dtype=np.uint8)
    results, soft = mixed(images, np.arange(30) % 10, cutmix=1.0)
    for index, (result, label) in enumerate(zip(results, soft, strict=True)):
        _, share, place = tf.random.split([index, 5], num=3)
        sides = (np.array(size) * (1 - drawn_share(share, 1.0)) ** 0.5).astype(int)
        centre = (tf.random.stateless_uniform((2,), place).numpy() * size).astype(int)
        top, left = np.maximum(centre - sides // 2, 0)
        bottom, right = np.minimum(centre - sides // 2 + sides, size)
        expected = images[index].copy()
        expected[top:bottom, left:right] = images[index ^ 1][top:bottom, left:right]
        np.testing.assert_array_equal(result, expected)
        pasted = (bottom - top) * (right - left) / (size[0] * size[1])
        assert label[index % 10] == pytest.approx(1 - pasted, abs=1e-6)
        assert label[(index ^ 1) % 10] == pytest.approx(pasted, abs=1e-6)


def test_cutmix_labels_are_shares_of_pixels() -> None:
    results, labels = mixed(*black_and_white(COUNT, (12, 20)), cutmix=1.0)
    white = (results == 255).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(labels[:, 1], white, atol=1e-6)
    assert len(np.unique(white)) > 50
    assert np.isin(results, [0, 255]).all()


@pytest.mark.parametrize("a", [0.1, 0.2, 1.0, 8.0])
def test_shares_are_of_beta(a: float) -> None:
    _, labels = mixed(*black_and_white(COUNT, (1, 1)), mixup=a)
    own = np.where(np.arange(COUNT) % 2 == 0, labels[:, 1], labels[:, 0])
    deviation = (1 / (4 * (2 * a + 1))) ** 0.5
    assert own.mean() == pytest.approx(0.5, abs=4 * deviation / COUNT**0.5)
    assert own.std() == pytest.approx(deviation, rel=0.1)
    # Neighbours draw for themselves.
    assert abs(np.corrcoef(own[:-1], own[1:])[0, 1]) < 0.15


@pytest.mark.parametrize("a", [1e-3, 0.01, 1e4])
def test_beta_is_finite_for_any_parameter(a: float) -> None:
    traced = tf.function(lambda seed: beta(seed, a))
    shares = np.array([traced(tf.constant([index, 1])) for index in range(100)])
    assert np.isfinite(shares).all()
    if a < 1:
        assert 0.3 < (shares > 0.5).mean() < 0.7
        assert (np.minimum(shares, 1 - shares) < 1e-3).mean() > 0.8
    else:
        assert shares == pytest.approx(np.full(100, 0.5), abs=0.02)


def test_both_take_turns_at_random() -> None:
    results, labels = mixed(*black_and_white(COUNT, (16, 16)), mixup=8.0, cutmix=1.0)
    added = ((results > 0) & (results < 255)).any(axis=(1, 2, 3))
    assert added.mean() == pytest.approx(0.5, abs=0.07)
    white = results.mean(axis=(1, 2, 3)) / 255
    np.testing.assert_allclose(labels[:, 1], white, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("how", [{"mixup": 0.3}, {"cutmix": 1.0}, {"mixup": 0.3, "cutmix": 1.0}])
def test_labels_sum_to_one(noise: tuple[np.ndarray, np.ndarray], how: dict[str, float]) -> None:
    _, labels = mixed(*noise, **how)
    assert labels.dtype == np.float32
    assert labels.shape == (24, 10)
    assert labels.min() >= 0
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    assert (labels.max(axis=1) < 1).any()


@pytest.mark.parametrize("repeats", [1, 3])
def test_slices_of_workers_mix_as_the_whole_batch(
    noise: tuple[np.ndarray, np.ndarray], repeats: int
) -> None:
    how = {"mixup": 0.3, "cutmix": 1.0, "repeats": repeats}
    whole = mixed(*noise, **how)
    assert (whole[0] != noise[0]).any()
    for piece in (slice(0, 12), slice(12, 24)):
        part = mixed(noise[0][piece], noise[1][piece], seeds_of(24)[piece], **how)
        np.testing.assert_array_equal(part[0], whole[0][piece])
        np.testing.assert_array_equal(part[1], whole[1][piece])


def test_copies_of_an_image_do_not_mix() -> None:
    labels = np.arange(24) // 4 % 10
    images = np.broadcast_to(labels[:, None, None, None] * 40, (24, 4, 4, 3)).astype(np.uint8)
    _, soft = mixed(images, labels, mixup=5.0, repeats=4)
    for index, label in enumerate(soft):
        partner = index + 4 if index % 8 < 4 else index - 4
        assert set(np.flatnonzero(label)) == {labels[index], labels[partner]}


def test_without_partner_an_image_stays(noise: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = noise[0][:10], np.arange(10)
    for how in ({"mixup": 1.0}, {"cutmix": 1.0}):
        results, soft = mixed(images, labels, repeats=3, **how)
        # 6 mixes with 9; 7 and 8 would mix with 10 and 11, which are not there.
        assert [set(np.flatnonzero(soft[index])) for index in (6, 7, 8)] == [{6, 9}, {7}, {8}]
        np.testing.assert_array_equal(soft[7:9], np.eye(10)[7:9])
        np.testing.assert_array_equal(results[7:9], images[7:9])
        assert (results[6] != images[6]).any()


def test_without_either_only_labels_change(noise: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = mixed(*noise)
    np.testing.assert_array_equal(images, noise[0])
    np.testing.assert_array_equal(labels, np.eye(10)[noise[1]])


def test_a_seed_has_one_result(noise: tuple[np.ndarray, np.ndarray]) -> None:
    how = {"mixup": 0.3, "cutmix": 1.0}
    first, second, other = (
        mixed(*noise, seeds_of(24) + np.int32([0, shift]), **how) for shift in (0, 0, 1)
    )
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert (first[1] != other[1]).any(axis=1).sum() > 15


def test_size_of_the_batch_need_not_be_known(noise: tuple[np.ndarray, np.ndarray]) -> None:
    signature = [
        tf.TensorSpec((None, 9, 7, 3), tf.uint8),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((None, 2), tf.int64),
    ]
    traced = tf.function(lambda *batch: mix(*batch, 10, 0.3, 1.0), input_signature=signature)
    for count in (0, 1, 24):
        images, labels = traced(noise[0][:count], noise[1][:count], seeds_of(count).astype(int))
        assert images.shape == (count, 9, 7, 3)
        assert labels.shape == (count, 10)
