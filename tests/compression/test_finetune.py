"""Compressed networks in `finetune`: what was reached stays, and heads go along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet import ResNetConfig, build
from keras_resnet.compression import cluster, freeze_ranges, prune, quantize_aware
from keras_resnet.compression.layers import (
    ActivationRange,
    CompressedDense,
    compressed_layers,
    ranges,
)
from keras_resnet.data import LabeledImages
from keras_resnet.export import export, load_runner
from keras_resnet.models.info import set_class_names
from keras_resnet.training import (
    FinetuneResult,
    Phase,
    TrainingInterrupted,
    find_recipe,
    finetune,
    freeze,
    override,
    replace_head,
    swap_stem,
    unfreeze,
)

from ..conftest import randomize
from ..training.run.interruption import Count

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
RECIPE = override(
    find_recipe("finetune"),
    {"optimizer.learning_rate": 0.02, "optimizer.weight_decay": 0, "batch_size": 12},
)
PHASES = (Phase("C3", 2),)
#: Of 48 images.
BATCHES = 4


def part(count: int, seed: int) -> LabeledImages:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count).astype(np.int32)
    noise = random.integers(-30, 30, (count, 8, 8, 3))
    pixels = np.array(list(COLOURS.values()))[labels][:, None, None] + noise
    return LabeledImages(pixels.astype(np.uint8), labels, tuple(COLOURS))


DATA = (part(48, 1), part(24, 2))
IMAGES = DATA[0].images.astype(np.float32)


def network(classes: int, version: Any = "v1.5") -> keras.Model:
    """One that knows other classes, or, of three, those of the data."""
    keras.utils.set_random_seed(0)
    config = ResNetConfig("basic", (1, 1), (8, 16), stem="cifar", version=version)
    model = build(config, input_shape=(8, 8, 3), classes=classes)
    randomize(model)
    if classes == 3:
        set_class_names(model, list(COLOURS))
    return model


def everything(model: keras.Model) -> keras.Model:
    return quantize_aware(cluster(prune(model, 0.5), 9), IMAGES[:32], momentum=0.8)


def aware(model: keras.Model) -> keras.Model:
    return quantize_aware(model, IMAGES[:32], momentum=0.8)


def run(model: keras.Model, folder: Path | None = None, **keywords: Any) -> FinetuneResult:
    known = {"recipe": RECIPE, "phases": PHASES, "compare": False, "say": lambda text: None}
    return finetune(model, DATA, folder, **{**known, **keywords})


def ends(model: keras.Model) -> dict[str, tuple[float, float]]:
    return {name: (float(x.low), float(x.high)) for name, x in ranges(model).items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    """With new classes, without interruption."""
    return run(everything(network(10)), tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.full
def test_a_kept_head_is_the_same_layer(tmp_path: Path) -> None:
    model = everything(network(3))
    head = model.get_layer("predictions")
    result = run(model)
    assert result.model.get_layer("predictions") is head
    assert_kept(everything(network(3)), result, tmp_path)


@pytest.mark.full
def test_new_classes_leave_the_rest_as_it_was(whole: FinetuneResult, tmp_path: Path) -> None:
    assert whole.model.output_shape == (None, 3)
    assert_kept(everything(network(10)), whole, tmp_path)


def assert_kept(start: keras.Model, result: FinetuneResult, folder: Path) -> None:
    """Zeros are zeros, few values stay few, and int8 has the learned ranges."""
    trained = result.model
    losses = result.phases[0].history["loss"]
    assert losses[-1] < losses[0]
    for old in compressed_layers(start):
        layer, kernel = trained.get_layer(old.name), old.final_kernel()
        if layer.pruned:
            assert (layer.final_kernel()[kernel == 0] == 0).all()
        if layer.clusters:
            assert len(np.unique(layer.final_kernel())) <= 9
        if old.name != "predictions":
            assert (layer.pruned, layer.clusters) == (old.pruned, old.clusters)
            same = np.array_equal(layer.final_kernel(), kernel)
            assert same != old.name.startswith("conv3"), old.name
    before, after = ends(start), ends(trained)
    assert after.keys() == before.keys()
    moved = {name for name in after if after[name] != before[name]}
    assert {"avg_pool", "predictions", "conv3_block1_out"} <= moved
    assert all(name.startswith(("conv3", "avg_pool", "predictions")) for name in moved)
    # Without calibration: all ranges are learned. The report compares with the stripped network,
    # whose activations are not rounded; here, the trained one counts.
    images = DATA[1].images
    targets = ("tflite-int8", "onnx-int8")
    report = export(trained, folder, targets, images=images, timing=None, allow_disagreement=True)
    wanted = trained.predict(images.astype(np.float32), verbose=0)
    for row in report.artifacts[1:]:
        received = load_runner(folder / str(row.file_name)).predict(images)
        assert np.abs(received - wanted).mean() < 0.03


def test_a_new_head_is_rounded_as_the_old_one_was() -> None:
    model = freeze_ranges(aware(network(10)))
    head = replace_head(model, 3, dropout=0.5).get_layer("predictions")
    assert isinstance(head, CompressedDense)
    assert (head.rounding, head.pruned, head.clusters) == ("channel", None, 0)
    # Others are frozen, but this one has seen nothing.
    assert head.range is not None
    assert (head.range.observing, head.range.momentum) == (True, 0.8)
    skipped = quantize_aware(network(10), IMAGES[:32], skip=["predictions"])
    assert type(replace_head(skipped, 3).get_layer("predictions")) is keras.layers.Dense
    assert type(replace_head(prune(network(10)), 3).get_layer("predictions")) is keras.layers.Dense
    for pooling in ("avg", None):
        body = build(
            ResNetConfig("basic", (1, 1), (8, 16), stem="cifar"),
            input_shape=(8, 8, 3),
            include_top=False,
            pooling=pooling,
        )
        result = replace_head(aware(body), 3)
        assert isinstance(result.get_layer("avg_pool_range"), ActivationRange)
        assert {"avg_pool", "predictions"} <= set(ranges(result))


def test_a_range_starts_with_the_first_batch() -> None:
    model = replace_head(aware(network(10)), 3)
    head = model.get_layer("predictions")
    assert ends(model)["predictions"] == (0, 0)
    np.testing.assert_allclose(model(IMAGES[:4]), 1 / 3, atol=1e-6)
    seen = keras.Model(model.input, head.input)(IMAGES[:16])
    logits = seen @ head.final_kernel() + head.bias.numpy()
    model(IMAGES[:16], training=True)
    low, high = ends(model)["predictions"]
    # Batch normalisation takes other statistics in training, so that this is about as far.
    assert low < 0 < high
    assert 0.3 < (high - low) / float(np.ptp(np.append(logits, 0))) < 3


@pytest.mark.parametrize("version", ["v1.5", "v2"])
def test_levels_have_their_ranges(version: str) -> None:
    model = aware(network(3, version))
    every = {x.name: x for x in model.layers if isinstance(x, ActivationRange)}
    freeze(model)
    assert {name for name, x in every.items() if x.trainable} == {"avg_pool_range"}
    assert model.get_layer("predictions").range.trainable
    report = unfreeze(model, "C3", bn="frozen")
    assert report.levels == ("C3", "head")
    behind = {name for name, x in every.items() if x.trainable} - {"avg_pool_range"}
    assert behind
    assert behind == {x for x in every if x.startswith(("conv3", "post"))}
    assert not any(
        x.trainable for x in model.layers if isinstance(x, keras.layers.BatchNormalization)
    )
    unfreeze(model)
    assert all(x.trainable for x in every.values())


@pytest.mark.full
def test_an_interrupted_one_ends_with_the_same_bits(whole: FinetuneResult, tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        run(everything(network(10)), tmp_path, callbacks=(Count(BATCHES + 2),))
    rest = Count()
    parts = run(everything(network(10)), tmp_path, callbacks=(rest,))
    # Of two epochs.
    assert rest.batches == 2 * BATCHES - (BATCHES + 2)
    assert whole.best == parts.best
    for one, other in zip(whole.model.weights, parts.model.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)
    assert ends(keras.saving.load_model(tmp_path / "last.keras")) == ends(whole.model)


def test_stems_of_compressed_networks_stay() -> None:
    config = ResNetConfig("basic", (1, 1), (8, 16))
    model = prune(build(config, input_shape=(32, 32, 3), classes=3), 0.5)
    with pytest.raises(ValueError, match="Expected a plain network. Received: 'resnet', a compr"):
        swap_stem(model, (32, 32, 3))
