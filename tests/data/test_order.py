from __future__ import annotations

import itertools

import numpy as np
import pytest

from keras_resnet.data.order import Order


def epochs(order: Order, count: int = 2) -> list[np.ndarray]:
    return [order.epoch(epoch).numpy() for epoch in range(count)]


@pytest.mark.parametrize("block", [1, 4])
def test_every_epoch_is_another_permutation(block: int) -> None:
    order = Order(103, 10, seed=3, block=block)
    first, second = epochs(order)
    assert first.shape == second.shape == (order.steps, 10) == (11, 10)
    for epoch in (first, second):
        assert sorted(epoch.ravel()) == [-1] * 7 + list(range(103))
        assert (epoch[-1, 3:] == -1).all()
    assert (first != second).mean() > 0.9
    assert (first == Order(103, 10, seed=3, block=block).epoch(0).numpy()).all()
    assert (first != Order(103, 10, seed=4, block=block).epoch(0).numpy()).mean() > 0.9


def test_blocks_keep_neighbours_near_each_other() -> None:
    # 256 blocks of 4 make a window of 1,024 records.
    near, far = (
        np.abs(np.diff(np.argsort(Order(8192, 8192, block=block).epoch(0).numpy()[0])))
        for block in (4, 1)
    )
    assert np.median(near[np.arange(8191) % 4 != 3]) < 1024 < np.median(far)
    assert near[np.arange(8191) % 4 != 3].max() < 1024
    # But not side by side.
    assert np.median(near[np.arange(8191) % 4 != 3]) > 100


@pytest.mark.parametrize("repeats", [1, 2])
def test_workers_divide_every_batch(repeats: int) -> None:
    settings = {"seed": 1, "drop_remainder": True, "repeats": repeats}
    whole = Order(50, 12, **settings).epoch(5).numpy()
    parts = [Order(50, 12, worker, 3, **settings).epoch(5).numpy() for worker in range(3)]
    assert whole.shape == (4, 12)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    for one, other in itertools.combinations(parts, 2):
        assert not set(one.ravel()) & set(other.ravel())


def test_repeats_stand_side_by_side_and_an_epoch_is_as_long() -> None:
    epoch = Order(10, 6, repeats=3).epoch(0).numpy().ravel()
    shown, filling = epoch[:10], epoch[10:]
    assert (filling == -1).all()
    images, copies = shown % 10, shown // 10
    assert copies.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert (images[:9].reshape(3, 3) == images[:9:3, None]).all()
    assert len(set(images.tolist())) == 4


def test_without_shuffling_the_order_is_the_sources() -> None:
    assert Order(5, 2, shuffle=False).epoch(7).numpy().tolist() == [[0, 1], [2, 3], [4, -1]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 9, "workers": 2}, "multiple of `workers`"),
        ({"batch_size": 8, "workers": 2, "worker": 2}, "worker=2"),
        ({"batch_size": 11, "drop_remainder": True}, "smaller `batch_size`"),
    ],
)
def test_impossible_orders_are_refused(settings: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Order(10, **settings)
