from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet import ResNetConfig, build, feature_extractor, load_model, set_class_names
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.models.info import ModelInfo, get_info, set_info
from keras_resnet.training.transfer.freezing import freeze
from keras_resnet.training.transfer.heads import check_image_size, replace_head, swap_stem

from ...conftest import randomize

TINY = ResNetConfig("basic", (1, 1, 1), (8, 8, 16), stem="cifar")
LARGE = ResNetConfig("basic", (1, 1), (8, 16))
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype("float32")


def network(config: ResNetConfig = TINY, **keywords: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = build(config, **{"input_shape": (16, 16, 3), **keywords})
    randomize(model)
    return model


def pooled(model: keras.Model) -> bytes:
    return np.asarray(
        keras.Model(model.input, model.get_layer("avg_pool").output)(IMAGES)
    ).tobytes()


@pytest.mark.parametrize(
    "top", [{}, {"include_top": False, "pooling": "avg"}, {"include_top": False}]
)
def test_the_backbone_stays_as_it_is(top: dict[str, Any], tmp_path: Path) -> None:
    model = network(**top)
    maps = feature_extractor(model)(IMAGES)
    result = replace_head(model, 5, names=list("abcde"), dropout=0.3)
    for level, after in feature_extractor(result)(IMAGES).items():
        assert np.asarray(maps[level]).tobytes() == np.asarray(after).tobytes()
    mean = np.asarray(maps["C4"]).mean((1, 2))
    np.testing.assert_allclose(np.frombuffer(pooled(result), "f4").reshape(4, 16), mean, rtol=1e-5)
    assert [layer.name for layer in result.layers][-3:] == ["avg_pool", "head_drop", "predictions"]
    assert result.name == model.name
    for layer in feature_extractor(model).layers:
        assert result.get_layer(layer.name) is layer
    outputs = np.asarray(result(IMAGES))
    assert outputs.shape == (4, 5)
    np.testing.assert_allclose(outputs.sum(-1), 1, rtol=1e-5)
    result.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert np.asarray(loaded(IMAGES)).tobytes() == outputs.tobytes()
    assert get_info(loaded).class_names == tuple("abcde")


def test_a_new_head_replaces_all_of_the_old_one() -> None:
    model = network()
    before = pooled(model)
    once = replace_head(model, 4, dropout=0.5)
    hidden = keras.layers.Dense(7, name="hidden")(once.get_layer("avg_pool").output)
    custom = keras.Model(once.input, keras.layers.Dense(2)(hidden))
    for old in (once, custom):
        twice = replace_head(old, 3, name="twice")
        assert [layer.name for layer in twice.layers][-2:] == ["avg_pool", "predictions"]
        assert (twice.name, twice.output_shape) == ("twice", (None, 3))
        assert pooled(twice) == before
    assert model.output_shape == (None, 10)


def test_the_pooling_of_a_network_stays() -> None:
    model = network(include_top=False, pooling="max")
    result = replace_head(model, 3)
    assert result.layers[-2].name == "max_pool"
    assert result.layers[-1].input is model.output


def test_the_new_head_starts_as_the_builders() -> None:
    built, new = build(TINY, classes=200).layers[-1], replace_head(network(), 200).layers[-1]
    assert new.get_config() == built.get_config()
    assert np.abs(new.kernel).max() <= 16**-0.5 * 1.0001
    assert np.abs(new.kernel).max() > 16**-0.5 * 0.9
    assert not np.any(new.bias)


def test_labels_are_independent() -> None:
    model = replace_head(network(), 5, task="labels")
    outputs = np.asarray(model(IMAGES))
    logits = np.frombuffer(pooled(model), "f4").reshape(4, 16) @ np.asarray(model.layers[-1].kernel)
    np.testing.assert_allclose(outputs, 1 / (1 + np.exp(-logits)), rtol=1e-4)
    assert np.abs(outputs.sum(-1) - 1).min() > 0.1


def test_values_may_be_negative() -> None:
    model = replace_head(network(), 1, task="values", names=["degrees"])
    model.layers[-1].bias.assign([-1000.0])
    assert np.max(model(IMAGES)) < -100
    assert get_info(model).class_names == ("degrees",)


def test_the_head_is_float32_under_every_policy() -> None:
    model = network(dtype="mixed_bfloat16", include_top=False)
    result = replace_head(model, 3, dropout=0.1)
    assert {layer.compute_dtype for layer in result.layers[-3:]} == {"float32"}
    assert result(IMAGES).dtype == "float32"
    assert result.get_layer("conv1_conv").compute_dtype == "bfloat16"


def test_a_new_head_learns_on_a_frozen_backbone() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(48) % 3
    images = random.integers(0, 100, (48, 16, 16, 3)).astype("float32")
    images[np.arange(48), :, :, labels] += 150
    model = replace_head(network(), 3, names=["red", "green", "blue"])
    before = pooled(model)
    report = freeze(model)
    assert report.trainable == ("predictions",)
    model.compile(
        keras.optimizers.Adam(0.05),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    model.fit(images, labels, batch_size=16, epochs=10, verbose=0)
    assert model.evaluate(images, labels, verbose=0)[1] == 1.0
    assert pooled(model) == before


def test_what_the_model_knows_stays_but_for_names() -> None:
    model = network(classes=3)
    told = ModelInfo(None, None, "some/tag", EvalProtocol(16, 20), dataclasses.asdict(TINY))
    set_info(model, told)
    set_class_names(model, list("abc"), ["1", "2", "3"])
    assert get_info(replace_head(model, 3)) == told
    assert get_info(replace_head(model, 2, names=["x", "y"])) == dataclasses.replace(
        told, class_names=("x", "y")
    )
    assert get_info(model).class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "`classes` to be an integer of at least 1. Received: 0"),
        ({"classes": 2.0}, "Received: 2.0"),
        ({"classes": True, "task": "labels"}, "Received: True"),
        ({"classes": 3, "task": "boxes"}, "`task` to be one of .*Received: 'boxes'"),
        ({"classes": 3, "dropout": 1.0}, "less than 1. Received: dropout=1.0"),
        ({"classes": 3, "dropout": -0.1}, "Received: dropout=-0.1"),
        ({"classes": 3, "names": ["a", "b"]}, "Expected 3 strings as `names`.*2 of them"),
        ({"classes": 3, "names": "abc"}, "Expected 3 strings as `names`.*'abc'"),
    ],
)
def test_impossible_heads_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace_head(network(), **arguments)


def test_other_models_are_refused() -> None:
    model = network()
    several = keras.Model(model.input, [model.output, model.get_layer("avg_pool").output])
    with pytest.raises(ValueError, match="one output. Received: .* with 2"):
        replace_head(several, 3)
    around = keras.Sequential([keras.Input((16, 16, 3)), network(name="inner")])
    with pytest.raises(ValueError, match=r"model\.get_layer\('inner'\)"):
        replace_head(around, 3)
    base = network(include_top=False)
    flat = keras.Model(base.input, keras.layers.Flatten()(base.output))
    with pytest.raises(ValueError, match=r"ends with a feature map.*\(None, 256\)"):
        replace_head(flat, 3)


def test_small_images_are_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        large, tiny = build(LARGE, input_shape=(16, 20, 3)), build(TINY, input_shape=(12, 12, 3))
        around = keras.Sequential([keras.Input((16, 20, 3)), large])
    for model in (large, around):
        message = r"C3, .* only 2x3 positions for 16x20 images.*stem='cifar'.*four times"
        with pytest.warns(UserWarning, match=message):
            check_image_size(model)
    with pytest.warns(UserWarning, match="C4, .* only 3x3 .* accuracy: enlarge the images.$"):
        check_image_size(tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_image_size(network())
        check_image_size(build(LARGE, input_shape=(32, 32, 3)))
        check_image_size(build(LARGE, include_top=False))


CONFIGS = {
    "imagenet": LARGE,
    "C": LARGE.replace(stem="C", blur_pool=True),
    "v2": LARGE.replace(version="v2", preact_layout="unit_norm"),
    "slim": ResNetConfig(
        "basic", (2, 1), (8, 16), version="v2", preact_layout="unit_norm_stride_last"
    ),
    "dilated": LARGE.replace(output_stride=4),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_another_stem_takes_the_other_weights(config: ResNetConfig, tmp_path: Path) -> None:
    model = network(config, input_shape=(32, 32, 3), classes=4)
    set_info(model, dataclasses.replace(get_info(model), protocol=EvalProtocol(32, 40)))
    set_class_names(model, list("abcd"))
    freeze(model)
    model.save(tmp_path / "model.keras")
    model = load_model(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="newly initialized"):
        result = swap_stem(model, (16, 16, 3))
    for layer in result.layers:
        assert layer.trainable
        if layer.weights and not layer.name.startswith("conv1_"):
            theirs = model.get_layer(layer.name)
            assert theirs is not layer
            for ours, weight in zip(layer.weights, theirs.weights, strict=True):
                np.testing.assert_array_equal(ours, weight)
    assert result.get_layer("conv1_conv").kernel.shape == (3, 3, 3, 8)
    sides = {"dilated": 16}.get(next(k for k, v in CONFIGS.items() if v is config), 8)
    assert feature_extractor(result).output["C3"].shape == (None, sides, sides, 16)
    assert result.output_shape == (None, 4)
    stride = 1 if config.output_stride else None
    assert ResNetConfig(**get_info(result).config) == config.replace(
        stem="cifar", output_stride=stride
    )
    assert get_info(result).class_names == tuple("abcd")
    assert get_info(result).protocol is None


def test_another_stem_computes_the_same_behind_it() -> None:
    """The whole of the network behind the stem, head included, fed with the same numbers."""
    model = replace_head(network(LARGE, input_shape=(32, 32, 3)), 3, task="labels", dropout=0.2)
    with pytest.warns(UserWarning, match="newly initialized"):
        result = swap_stem(model, (8, 8, 1), name="small")
    assert (result.name, result.input_shape) == ("small", (None, 8, 8, 1))
    assert result.layers[-2].rate == 0.2
    x = np.random.default_rng(0).normal(0, 1, (2, 8, 8, 8)).astype("float32")
    before = keras.Model(model.get_layer("pool1_pool").output, model.output)(x)
    after = keras.Model(result.get_layer("conv1_relu").output, result.output)(x)
    np.testing.assert_allclose(before, after, rtol=1e-5)
    assert np.ptp(before) > 0.01


@pytest.mark.parametrize("top", [{"include_top": False}, {"dtype": "mixed_bfloat16"}])
def test_another_stem_keeps_head_policy_and_pixels(top: dict[str, Any]) -> None:
    model = network(LARGE, input_shape=(32, 32, 3), include_preprocessing=False, **top)
    with pytest.warns(UserWarning, match="newly initialized"):
        result = swap_stem(model, (16, 16, 3))
    assert not any(layer.name == "normalization" for layer in result.layers)
    assert len(result.output_shape) == len(model.output_shape)
    for layer in result.layers[1:]:
        if not layer.name.startswith("conv1_"):
            assert layer.dtype_policy.name == model.get_layer(layer.name).dtype_policy.name


def test_impossible_stems_are_refused() -> None:
    with pytest.raises(ValueError, match="already has this stem"):
        swap_stem(network(), (16, 16, 3))
    model = network(LARGE, input_shape=(32, 32, 3), classes=10)
    with pytest.raises(ValueError, match=r"Expected an input shape.*\(16, 16\)"):
        swap_stem(model, (16, 16))
    unnamed = keras.Model(model.input, model.output, name="stranger")
    with pytest.raises(ValueError, match="knows its config.* 'stranger', which has no config"):
        swap_stem(unnamed, (16, 16, 3))
    for head in (
        keras.ops.tanh(model.output),
        keras.layers.Add()([model.output, keras.layers.Dense(10)(model.output)]),
    ):
        other = keras.Model(model.input, head)
        set_info(other, get_info(model))
        with pytest.raises(ValueError, match="layers form a chain"):
            swap_stem(other, (16, 16, 3))
