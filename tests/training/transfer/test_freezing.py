from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet import ResNetConfig, build, feature_extractor
from keras_resnet.training.run.copy import training_copy
from keras_resnet.training.transfer.freezing import freeze, split_levels, unfreeze

from ...conftest import randomize

TINY = ResNetConfig("basic", (1, 1, 1), (8, 8, 16), stem="cifar")
SHAPE = (16, 16, 3)


def network(config: ResNetConfig = TINY, **keywords: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = build(config, **{"input_shape": SHAPE, "classes": 3, **keywords})
    randomize(model)
    return model


def wrapped(kind: str = "functional", **keywords: Any) -> keras.Model:
    """A network with a layer before and behind it that have weights."""
    inner = network(include_top=False, pooling="avg", name="inner", **keywords)
    before, behind = keras.layers.Conv2D(3, 1, name="before"), keras.layers.Dense(3, name="behind")
    if kind == "sequential":
        return keras.Sequential([keras.Input(SHAPE), before, inner, behind])
    image, age = keras.Input(SHAPE), keras.Input((1,))
    x = inner(before(image))
    x = keras.layers.Concatenate()([x, keras.layers.Dense(2, name="age")(age)])
    return keras.Model([image, age], behind(x))


def flags(model: keras.Model) -> dict[str, bool]:
    """Which layers with weights train."""
    return {layer.name: bool(layer.trainable_weights) for layer in model.layers if layer.weights}


def norms(model: keras.Model) -> dict[str, np.ndarray]:
    return {
        weight.path: np.asarray(weight)
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
        for weight in layer.weights
    }


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name].tobytes() != after[name].tobytes()}


def fit_five_steps(model: keras.Model) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (20, *SHAPE)).astype("float32")
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(images, random.integers(0, 3, 20), batch_size=4, epochs=1, verbose=0)


def test_levels_take_their_layers_by_name() -> None:
    model = network()
    report = freeze(model, "C2", bn="training")
    assert {name for name, trains in flags(model).items() if not trains} == {
        "conv1_conv",
        "conv1_bn",
        "conv2_block1_1_conv",
        "conv2_block1_1_bn",
        "conv2_block1_2_conv",
        "conv2_block1_2_bn",
    }
    assert report.levels == ("C3", "C4", "head")
    assert set(report.frozen) == {name for name, trains in flags(model).items() if not trains}
    assert set(report.trainable) == {name for name, trains in flags(model).items() if trains}
    assert report.frozen_weights + report.trainable_weights == model.count_params()
    assert report.trainable_weights == sum(w.numpy().size for w in model.trainable_weights)


@pytest.mark.parametrize(
    ("upto", "first"),
    [
        ("stem", "conv2_block1_1_conv"),
        ("C3", "conv4_block1_1_conv"),
        ("C4", "predictions"),
        ("backbone", "predictions"),
        (None, "predictions"),
    ],
)
def test_freezing_up_to_a_level(upto: str | None, first: str) -> None:
    model = network()
    report = freeze(model, upto)
    assert report.trainable[0] == first
    assert report.trainable[-1] == "predictions"
    assert not any(name.endswith("_bn") for name in report.trainable)
    assert model.trainable


def test_unfreezing_down_to_a_level_leaves_deeper_layers() -> None:
    model = network()
    freeze(model)
    model.get_layer("conv2_block1_1_conv").trainable = True
    report = unfreeze(model, "C4")
    assert report.levels == ("C2", "C4", "head")
    assert report.trainable == (
        "conv2_block1_1_conv",
        "conv4_block1_1_conv",
        "conv4_block1_0_conv",
        "conv4_block1_2_conv",
        "predictions",
    )
    report = unfreeze(model, "C3", bn="training")
    assert "conv3_block1_1_bn" in report.trainable
    assert "conv2_block1_1_bn" in report.frozen
    for downto in (None, "backbone", "stem"):
        freeze(model)
        assert unfreeze(model, downto, bn="training").frozen == ()
    freeze(model)
    for layer in model.layers:
        layer.trainable = False
    assert unfreeze(model, "head").trainable == ("predictions",)


def test_freezing_again() -> None:
    model = network()
    first = freeze(model, "C3")
    unfreeze(model, bn="training")
    assert freeze(model, "C3") == first
    # What is behind the level stays as it is: C3 stays frozen, with its normalisation.
    again = freeze(model, "stem", bn="training")
    assert again.levels == ("C4", "head")
    assert "conv4_block1_1_bn" in again.trainable
    assert "conv3_block1_1_bn" in again.frozen


def test_frozen_normalisation_is_frozen_in_the_whole_network() -> None:
    model = network()
    unfreeze(model, bn="training")
    report = unfreeze(model, "C4", bn="frozen")
    assert set(report.frozen) == {
        layer.name for layer in model.layers if layer.name.endswith("_bn")
    }


@pytest.mark.parametrize("layout", ["stem_norm", "unit_norm"])
def test_the_norm_behind_the_last_level_belongs_to_it(layout: str) -> None:
    model = network(TINY.replace(version="v2", preact_layout=layout))
    assert "post_bn" in freeze(model, "C3", bn="training").trainable
    assert "post_bn" in freeze(model, "C4", bn="training").frozen


def test_levels_of_an_imagenet_network() -> None:
    config = ResNetConfig(
        "bottleneck", (1, 1, 1, 1), (8, 8, 8, 8), stem="C", blur_pool=True, se_ratio=0.25
    )
    model = network(config, input_shape=(128, 128, 3))
    levels = split_levels(model)
    assert [*levels] == ["stem", "C2", "C3", "C4", "C5", "head"]
    stem = [layer.name for layer in levels["stem"]]
    assert stem[:2] == ["image", "normalization"]
    assert {"conv1_1_conv", "conv1_3_bn", "pool1_pool", "pool1_blur2"} < set(stem)
    assert [layer.name for layer in levels["head"]] == ["avg_pool", "predictions"]
    for level in ("C2", "C3", "C4", "C5"):
        names = {layer.name for layer in levels[level]}
        assert names == {
            layer.name for layer in model.layers if layer.name.startswith(f"conv{level[1]}_")
        }
    # The levels are those of the feature maps.
    features = feature_extractor(model, ["C3"])
    inside = {layer.name for level in ("stem", "C2", "C3") for layer in levels[level]}
    assert {layer.name for layer in features.layers} == inside


def test_layers_with_names_of_their_own() -> None:
    image = keras.Input(SHAPE)
    adapter = keras.layers.Conv2D(3, 1, name="adapter")(image)
    base = network(include_top=False, pooling="avg", input_tensor=adapter, input_shape=None)
    hidden = keras.layers.Dense(4, name="hidden")(base.output)
    side = keras.layers.Conv2D(2, 1, name="side")(base.get_layer("conv2_block1_out").output)
    model = keras.Model(image, [keras.layers.Dense(3, name="last")(hidden), side])
    report = freeze(model)
    assert set(report.trainable) == {"side", "hidden", "last"}
    assert report.frozen[0] == "adapter"


def test_group_normalisation_is_an_ordinary_layer() -> None:
    model = network(TINY.replace(norm="group", norm_groups=4))
    report = unfreeze(model, bn="frozen")
    assert report.frozen == ()
    assert "conv1_gn" in report.trainable
    assert "conv3_block1_1_gn" in freeze(model, "C3").frozen


@pytest.mark.parametrize("kind", ["functional", "sequential"])
@pytest.mark.parametrize("off", ["model", "inner", "neither"])
def test_a_model_around_a_network(kind: str, off: str) -> None:
    model = wrapped(kind)
    inner = model.get_layer("inner")
    if off != "neither":
        {"model": model, "inner": inner}[off].trainable = False
    report = freeze(model, "C3")
    head = {"behind"} if kind == "sequential" else {"behind", "age"}
    convs = {f"conv4_block1_{number}_conv" for number in (0, 1, 2)}
    assert set(report.trainable) == convs | head
    assert {"before", "conv1_conv", "conv4_block1_1_bn"} < set(report.frozen)
    assert model.trainable
    assert inner.trainable
    assert report.trainable_weights == sum(w.numpy().size for w in model.trainable_weights)
    assert "before" in unfreeze(model).trainable


def test_a_model_that_is_switched_off_is_repaired() -> None:
    model = network()
    model.trainable = False
    model.get_layer("predictions").trainable = True
    # This is why: the model counts before its layers.
    assert model.trainable_weights == []
    # The setter would switch the deeper layers on, too.
    assert unfreeze(model, "C4").levels == ("C4", "head")
    assert len(model.trainable_weights) == 3 + 2
    model.trainable = False
    assert freeze(model, "C3").levels == ("C4", "head")
    assert len(model.trainable_weights) == 3 + 2
    model.trainable = False
    assert freeze(model).trainable == ("predictions",)


def test_training_copies_keep_what_is_frozen() -> None:
    model = network()
    report = freeze(model, "C3")
    copy = training_copy(model)
    assert tuple(name for name, trains in flags(copy).items() if trains) == report.trainable
    assert freeze(copy, "C3") == report


def test_frozen_normalisation_survives_saving_and_training(tmp_path: Path) -> None:
    model = network()
    fit_five_steps(model)
    unfreeze(model, bn="frozen")
    before = norms(model)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert changed(before, norms(loaded)) == set()
    kernel = np.asarray(loaded.get_layer("conv1_conv").kernel)
    fit_five_steps(loaded)
    assert changed(before, norms(loaded)) == set()
    assert not np.array_equal(kernel, loaded.get_layer("conv1_conv").kernel)
    images = np.random.default_rng(1).integers(0, 256, (4, *SHAPE)).astype("float32")
    training, inference = (np.asarray(loaded(images, training=mode)) for mode in (True, False))
    assert training.tobytes() == inference.tobytes()

    unfreeze(loaded, bn="training")
    fit_five_steps(loaded)
    assert changed(before, norms(loaded)) == before.keys()
    training, inference = (np.asarray(loaded(images, training=mode)) for mode in (True, False))
    assert np.abs(training - inference).max() > 1e-3


def test_frozen_part_stays_and_the_rest_learns(tmp_path: Path) -> None:
    model = network()
    freeze(model, "C3", bn="training")
    model.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    before = {weight.path: np.asarray(weight) for weight in model.weights}
    fit_five_steps(model)
    after = {weight.path: np.asarray(weight) for weight in model.weights}
    assert changed(before, after) == {
        path for path in before if path.split("/")[0].startswith(("conv4_", "predictions"))
    }


def test_frozen_normalisation_inside_another_model(tmp_path: Path) -> None:
    model = wrapped("sequential")
    model.layers[-1].activation = keras.activations.softmax
    unfreeze(model)
    before = norms(model.get_layer("inner"))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fit_five_steps(loaded)
    assert changed(before, norms(loaded.get_layer("inner"))) == set()


def test_report_reads_well() -> None:
    model = network()
    every = model.count_params()
    assert str(freeze(model)) == (
        f"Trains head: 1 of 19 layers with 51 of {every:,} weights.\n"
        "Batch normalization is frozen everywhere and keeps its statistics."
    )
    assert str(unfreeze(model, "C4", bn="training")).splitlines()[1] == (
        "Batch normalization trains with the layers around it."
    )
    headless = network(include_top=False)
    assert str(freeze(headless)).startswith("Trains nothing: all 18 layers with ")


def test_unknown_levels_and_modes_are_refused() -> None:
    model = network()
    before = flags(model)
    known = "stem, C2, C3, C4, backbone. Received: upto='C5'"
    with pytest.raises(ValueError, match=known):
        freeze(model, "C5")
    with pytest.raises(ValueError, match="upto='head'"):
        freeze(model, "head")
    with pytest.raises(ValueError, match="upto=''"):
        freeze(model, "")
    with pytest.raises(ValueError, match="head, C4, C3, C2, stem, backbone. Received: downto='C9'"):
        unfreeze(model, "C9")
    with pytest.raises(ValueError, match="this model: C4, C3.*downto='head'"):
        unfreeze(network(include_top=False), "head")
    for call in (freeze, unfreeze):
        with pytest.raises(
            ValueError, match="`bn` to be one of .'frozen', 'training'.. Received: 'off'"
        ):
            call(model, bn="off")
        with pytest.raises(ValueError, match="with 0 of them"):
            call(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    assert flags(model) == before


def test_stages_are_in_the_order_of_their_numbers() -> None:
    config = ResNetConfig("basic", (1,) * 9, (8,) * 9, stem="cifar")
    levels = split_levels(build(config, input_shape=(512, 512, 3), classes=3))
    assert list(levels) == ["stem", *(f"C{number}" for number in range(2, 11)), "head"]
