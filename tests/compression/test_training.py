"""Compressed networks in `keras_resnet.training.train`: in parts, the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet import ResNetConfig, build
from keras_resnet.compression import (
    GradualPruning,
    cluster,
    freeze_ranges,
    prune,
    quantize_aware,
    sparsity_of,
)
from keras_resnet.compression.layers import compressed_layers, ranges
from keras_resnet.data import LabeledImages, load_digits
from keras_resnet.training import RECIPES, TrainingInterrupted, override, train

from ..conftest import randomize
from ..training.run.interruption import Count

Digits = tuple[LabeledImages, LabeledImages]


@pytest.fixture(scope="module")
def digits() -> Digits:
    """A hundred training digits and twenty held-out ones, of 8 pixels."""
    parts = zip(load_digits(8), (100, 20), strict=True)
    first, second = (
        LabeledImages(data.images[:n], data.labels[:n], data.class_names) for data, n in parts
    )
    return first, second


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    config = ResNetConfig("basic", (1, 1), (8, 16), stem="cifar")
    model = build(config, input_shape=(8, 8, 3), classes=10)
    randomize(model)
    return model


def compressed(model: keras.Model, digits: Digits) -> keras.Model:
    """With everything at once."""
    return quantize_aware(cluster(prune(model, 0.5), 9), digits[0].images[:32], momentum=0.9)


def gradual() -> list[keras.callbacks.Callback]:
    return [GradualPruning(0.6, 7, every=3)]


@pytest.mark.full
@pytest.mark.parametrize(
    ("make", "callbacks"),
    [
        (compressed, list),
        (lambda model, digits: prune(model, 0), gradual),
    ],
    ids=["aware", "pruned on the way"],
)
def test_an_interrupted_run_ends_with_the_same_bits(
    make: Callable[..., keras.Model],
    callbacks: Callable[[], list[keras.callbacks.Callback]],
    model: keras.Model,
    digits: Digits,
    tmp_path: Path,
) -> None:
    changes = {"batch_size": 25, "optimizer.learning_rate": 0.01, "average.decay": 0.5}
    recipe = override(RECIPES["quick-digits"], changes)

    def run(folder: str, *more: keras.callbacks.Callback) -> keras.Model:
        network = make(model, digits)
        both = [*callbacks(), *more]
        result = train(network, digits, recipe, tmp_path / folder, epochs=2, callbacks=both)
        assert result.steps == 8
        return network

    whole = run("whole")
    with pytest.raises(TrainingInterrupted):
        run("parts", Count(3))
    rest = Count()
    parts = run("parts", rest)
    assert rest.batches == 8 - 3
    start = make(model, digits)
    changed = 0
    for one, other, before in zip(whole.weights, parts.weights, start.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
        changed += not np.array_equal(one.numpy(), before.numpy())
    assert changed > 30


def test_training_learns_ranges_and_keeps_what_was_compressed(
    model: keras.Model, digits: Digits
) -> None:
    network = compressed(model, digits)
    before = {name: (float(x.low), float(x.high)) for name, x in ranges(network).items()}
    zeros = {layer.name: layer.final_kernel() == 0 for layer in compressed_layers(network)}
    recipe = override(RECIPES["quick-digits"], {"batch_size": 25, "optimizer.learning_rate": 0.02})
    train(network, digits, recipe, epochs=1, seed=0)
    after = {name: (float(x.low), float(x.high)) for name, x in ranges(network).items()}
    # That of the head is inside of a layer.
    assert all(after[name] != before[name] for name in ("conv1_relu", "avg_pool", "predictions"))
    for layer in compressed_layers(network):
        assert len(np.unique(layer.final_kernel())) <= 9
        if layer.pruned:
            assert (layer.final_kernel()[zeros[layer.name]] == 0).all()


@pytest.mark.full
def test_frozen_ranges_stay(model: keras.Model, digits: Digits) -> None:
    network = freeze_ranges(compressed(model, digits))
    before = {name: (float(x.low), float(x.high)) for name, x in ranges(network).items()}
    train(network, digits, override(RECIPES["quick-digits"], {"batch_size": 25}), epochs=1)
    assert {n: (float(x.low), float(x.high)) for n, x in ranges(network).items()} == before


def test_gradual_pruning_reaches_its_share(model: keras.Model, digits: Digits) -> None:
    network = prune(model, 0)
    recipe = override(RECIPES["quick-digits"], {"batch_size": 25})
    train(network, digits, recipe, epochs=1, seed=0, callbacks=[GradualPruning(0.75, 4)])
    assert sparsity_of(network)["predictions"] == 0.75
