"""Which weights pruning makes zero, that they stay zero, and that files have the same zeros."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest

from keras_resnet import ResNetConfig, build
from keras_resnet.compression import (
    GradualPruning,
    cluster,
    prune,
    quantize_aware,
    sparsity_of,
    strip,
)
from keras_resnet.compression.layers import compressed_layers
from keras_resnet.compression.rebuild import kernels
from keras_resnet.export.model import ExportedModel
from keras_resnet.export.outputs import output_names
from keras_resnet.export.tflite import convert as tflite, flatbuffer
from keras_resnet.models.info import compressed_kernels, get_info

from ..conftest import randomize

FIRST = "conv1_conv"


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Two blocks of 8 and 16 channels."""
    keras.utils.set_random_seed(0)
    config = ResNetConfig("basic", (1, 1), (8, 16), stem="cifar")
    model = build(config, input_shape=(16, 16, 3), classes=10)
    randomize(model)
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    random = np.random.default_rng(1)
    return random.integers(0, 256, (16, 4, 4, 3)).repeat(4, 1).repeat(4, 2).astype(np.float32)


def kernels_of(model: keras.Model) -> dict[str, np.ndarray]:
    found = {x.name: x for x in model.layers if hasattr(x, "kernel")}
    return {
        name: layer.final_kernel() if hasattr(layer, "final_kernel") else layer.kernel.numpy()
        for name, layer in found.items()
    }


def test_the_smallest_weights_of_every_layer_become_zero(model: keras.Model) -> None:
    before = kernels_of(model)
    after = kernels_of(prune(model, 0.7))
    np.testing.assert_array_equal(after[FIRST], before[FIRST])
    for name in set(before) - {FIRST}:
        zeros = after[name] == 0
        assert zeros.sum() == round(0.7 * zeros.size)
        assert np.abs(before[name])[zeros].max() <= np.abs(before[name])[~zeros].min()
        np.testing.assert_array_equal(after[name][~zeros], before[name][~zeros])
    # The given network stays.
    np.testing.assert_array_equal(kernels_of(model)["predictions"], before["predictions"])


def test_shares_are_told(model: keras.Model) -> None:
    shares = sparsity_of(prune(model, 0.5))
    assert shares.pop(FIRST) == 0
    assert list(shares)[-1] == "predictions"
    assert set(shares.values()) == {0.5}
    assert set(sparsity_of(model).values()) == {0.0}
    assert sparsity_of(strip(prune(model, 0.25, skip=())))[FIRST] == 0.25


def test_two_of_every_four_input_channels(model: keras.Model) -> None:
    before = kernels_of(model)
    pruned = prune(model, pattern="2:4")
    for layer in compressed_layers(pruned):
        kernel = before[layer.name]
        *rest, inputs, outputs = kernel.shape
        mask = layer.mask.numpy().reshape(*rest, inputs // 4, 4, outputs)
        np.testing.assert_array_equal(mask.sum(-2), 2)
        groups = np.abs(kernel).reshape(mask.shape)
        kept, lost = np.where(mask, groups, np.inf), np.where(mask, 0, groups)
        assert (kept.min(-2) >= lost.max(-2)).all()
    assert {layer.name for layer in compressed_layers(pruned)} == set(before) - {FIRST}
    # Three channels make no groups of four.
    everything = prune(model, pattern="2:4", skip=())
    assert FIRST not in {layer.name for layer in compressed_layers(everything)}


def test_blocks_of_four_output_channels(model: keras.Model) -> None:
    before = kernels_of(model)
    pruned = prune(model, 0.75, pattern="block")
    names = {layer.name for layer in compressed_layers(pruned)}
    # Ten classes are no blocks of four.
    assert names == set(before) - {FIRST, "predictions"}
    for layer in compressed_layers(pruned):
        blocks = layer.mask.numpy().reshape(*layer.mask.shape[:-1], -1, 4)
        np.testing.assert_array_equal(blocks.min(-1), blocks.max(-1))
        kept = blocks.max(-1)
        assert kept.mean() == 0.25
        sums = np.abs(before[layer.name]).reshape(blocks.shape).sum(-1)
        assert sums[kept == 1].min() >= sums[kept == 0].max()


def test_zeros_stay_in_training(model: keras.Model, images: np.ndarray) -> None:
    pruned = prune(model, 0.6)
    zeros = {name: kernel == 0 for name, kernel in kernels_of(pruned).items()}
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01)
    pruned.compile(optimizer, "sparse_categorical_crossentropy")
    pruned.fit(images, np.arange(16) % 10, batch_size=8, epochs=3, verbose=0)
    for name, kernel in kernels_of(pruned).items():
        np.testing.assert_array_equal(kernel == 0, zeros[name])
        assert np.abs(kernel - kernels_of(model)[name]).max() > 1e-3


def test_shares_of_gradual_pruning_by_hand() -> None:
    gradual = GradualPruning(0.8, 100, begin=20)
    shares = {20: 0.0, 40: 0.8 * (1 - 0.75**3), 60: 0.7, 100: 0.8, 101: 0.8, 0: 0.0}
    assert {step: gradual.at(step) for step in shares} == pytest.approx(shares)


class Watch(keras.callbacks.Callback):
    """Remembers the zeros at the start of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[np.ndarray] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.masks.append(self.model.get_layer("conv3_block1_2_conv").mask.numpy())


def gradually(
    model: keras.Model, images: np.ndarray, epochs: int, callback: GradualPruning, **options: Any
) -> list[np.ndarray]:
    """Four steps in every epoch."""
    if not getattr(model, "compiled", False):
        model.compile(
            keras.optimizers.SGD(0.02, momentum=0.9), "sparse_categorical_crossentropy", **options
        )
    watch = Watch()
    model.fit(
        images,
        np.arange(16) % 10,
        batch_size=4,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[callback, watch],
    )
    return watch.masks


def test_gradual_pruning_follows_its_schedule(model: keras.Model, images: np.ndarray) -> None:
    network = prune(model, 0)
    assert set(sparsity_of(network).values()) == {0.0}
    gradual = GradualPruning(0.75, 12, begin=2, every=3)
    masks = gradually(network, images, 4, gradual)
    size = masks[0].size
    # Every third step, and what is pruned stays so.
    wanted = [gradual.at(min(step - step % 3, 12)) for step in range(16)]
    assert [1 - mask.mean() for mask in masks] == pytest.approx(wanted, abs=1 / size)
    for before, after in pairwise(masks):
        assert (after <= before).all()
    shares = sparsity_of(network)
    assert shares.pop(FIRST) == 0
    assert set(shares.values()) == {0.75}


@pytest.mark.full
def test_gradual_pruning_of_some_layers(model: keras.Model, images: np.ndarray) -> None:
    """Others keep the zeros that they have."""
    network = prune(model, 0.25)
    gradually(network, images, 1, GradualPruning(0.75, 4, every=1, layers=["predictions"]))
    shares = sparsity_of(network)
    assert shares.pop("predictions") == 0.75
    assert shares.pop(FIRST) == 0
    assert set(shares.values()) == {0.25}


@pytest.mark.parametrize("end", [8, pytest.param(7, marks=pytest.mark.full)])
def test_the_last_step_reaches_the_wished_share(
    end: int, model: keras.Model, images: np.ndarray
) -> None:
    network = prune(model, 0)
    gradually(network, images, 2, GradualPruning(0.5, end, every=5))
    assert sparsity_of(network)["conv3_block1_2_conv"] == 0.5


@pytest.mark.full
def test_steps_that_run_at_once_are_not_missed(model: keras.Model, images: np.ndarray) -> None:
    network = prune(model, 0)
    # Called back at 0, 4, 8, 12 and 16; due at 0, 5, 10 and 15.
    gradual = GradualPruning(0.5, 10, every=5)
    masks = gradually(network, images, 4, gradual, steps_per_execution=4)
    shares = [1 - mask.mean() for mask in masks]
    assert shares == pytest.approx([0, gradual.at(0), gradual.at(8), 0.5], abs=1e-3)


@pytest.mark.full
def test_training_in_parts_prunes_the_same(model: keras.Model, images: np.ndarray) -> None:
    results = []
    for parts in ((4,), (1, 3)):
        network = prune(model, 0)
        for epochs in parts:
            # A new callback knows nothing of the steps before.
            gradually(network, images, epochs, GradualPruning(0.6, 14, every=3))
        results.append(kernels_of(network))
    for name, kernel in results[0].items():
        np.testing.assert_array_equal(results[1][name], kernel)


@pytest.mark.full
def test_a_step_is_pruned_after_once(model: keras.Model, images: np.ndarray) -> None:
    # Due after the steps 4, 8 and 12; one that starts at step 4 cannot know of what was done there.
    for parts, times in (((3,), 3), ((1, 2), 4)):
        network = prune(model, 0)
        layer = network.get_layer("predictions")
        with mock.patch.object(layer, "unrounded_kernel", wraps=layer.unrounded_kernel) as pruned:
            for epochs in parts:
                gradually(network, images, epochs, GradualPruning(0.5, 12, every=4))
        assert pruned.call_count == times


def test_pruning_again_adds_to_the_zeros(model: keras.Model) -> None:
    once = prune(model, 0.3)
    twice = prune(once, 0.6)
    less = prune(once, 0.1)
    for name, kernel in kernels_of(once).items():
        assert (kernels_of(twice)[name][kernel == 0] == 0).all()
        np.testing.assert_array_equal(kernels_of(less)[name], kernel)
    assert sparsity_of(twice)["predictions"] == 0.6
    names = [layer.name for layer in kernels(model)]
    apart = sparsity_of(prune(prune(model, 0.3, skip=names[1:]), 0.6, skip=names[:1]))
    assert apart[names[0]] == pytest.approx(0.3, abs=0.02)
    assert all(share == pytest.approx(0.6, abs=0.02) for share in list(apart.values())[1:])


def test_impossible_pruning_is_refused(model: keras.Model, images: np.ndarray) -> None:
    for sparsity in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"`sparsity` in \[0, 1\). Received: {sparsity}"):
            prune(model, sparsity)
    with pytest.raises(ValueError, match="'2:4', 'block'.. Received: '1:4'"):
        prune(model, pattern="1:4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`skip` to name layers with kernels.*conv1_bn, head"):
        prune(model, skip=["conv1_bn", "head"])
    with pytest.raises(ValueError, match="functional model.*'nested'.*contains the model 'resnet"):
        prune(keras.Sequential([keras.Input((16, 16, 3)), model], name="nested"))
    for values in ({"end": 0}, {"end": 9, "begin": 9}, {"end": 9, "every": 0}):
        with pytest.raises(ValueError, match="0 <= `begin` < `end`"):
            GradualPruning(0.5, **values)
    with pytest.raises(ValueError, match="Received: one with the pattern 2:4"):
        gradually(prune(model, pattern="2:4"), images, 1, GradualPruning(0.5, 10))
    with pytest.raises(ValueError, match="Received: one with no masks"):
        gradually(prune(model, 0), images, 1, GradualPruning(0.5, 10, layers=[FIRST]))
    with pytest.raises(ValueError, match="fewer than 256 shared values.* conv2_block1_1_conv"):
        prune(cluster(model, 256))
    everything = [layer.name for layer in kernels(model)]
    with pytest.raises(ValueError, match="all of which are skipped or do not fit"):
        prune(model, skip=everything)
    with pytest.raises(ValueError, match="Received: one with no masks"):
        gradually(quantize_aware(model, images), images, 1, GradualPruning(0.5, 10))


def test_strip_leaves_keras_classes_only(model: keras.Model, images: np.ndarray) -> None:
    pruned = cluster(prune(model, 0.5), 6)
    stripped = strip(pruned)
    kinds = {type(layer) for layer in model.layers}
    assert {type(layer) for layer in stripped.layers} == kinds
    assert [layer.name for layer in stripped.layers] == [layer.name for layer in model.layers]
    assert [w.path for w in stripped.weights] == [w.path for w in model.weights]
    np.testing.assert_array_equal(stripped(images), pruned(images))
    assert compressed_kernels(stripped)["predictions"].distinct == 6
    assert compressed_kernels(stripped)["predictions"].zeros > 0
    stripped.get_layer("predictions").bias.assign_add(np.ones(10, "float32"))
    assert not compressed_kernels(stripped)
    copy = strip(model)
    assert copy is not model
    np.testing.assert_array_equal(copy(images), model(images))


def weights_in(path: Path) -> dict[str, np.ndarray]:
    """The kernels in a TFLite file by the first layer of their operators."""
    model = flatbuffer.read(path)
    tensors, found = model.subgraphs[0].tensors, {}
    for operator in model.subgraphs[0].operators:
        names = tensors[operator.outputs[0]].name.decode().split(";")
        constants = [tensors[i] for i in operator.inputs[1:2]]
        if constants and len(constants[0].shape) in (2, 4):
            data = model.buffers[constants[0].buffer].data
            dtype = {0: np.float32, 9: np.int8}.get(constants[0].type)
            if data is not None and dtype is not None and "conv" in names[0]:
                found[names[0]] = np.frombuffer(bytes(data), dtype).reshape(constants[0].shape)
    return found


def test_files_have_the_same_zeros(model: keras.Model, images: np.ndarray, tmp_path: Path) -> None:
    stripped = strip(prune(model, 0.6))
    source = ExportedModel(stripped, images, tmp_path, output_names(stripped), get_info(stripped))
    for write, name in ((tflite.write_float32, "float"), (tflite.write_int8, "int8")):
        path = tmp_path / f"{name}.tflite"
        write(source, path)
        written = weights_in(path)
        compared = 0
        for layer, kernel in kernels_of(stripped).items():
            if layer in written and layer != FIRST:
                zeros = np.moveaxis(kernel, -1, 0) == 0
                values = written[layer].reshape(zeros.shape)
                assert not values[zeros].any(), (name, layer)
                # Of integers, what rounds to zero is one, too.
                share = np.mean(values == 0)
                assert share == zeros.mean() if name == "float" else share >= zeros.mean()
                compared += 1
        assert compared >= 5
