from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_resnet
from keras_resnet import ResNetConfig, build, feature_extractor
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.models.info import get_info, set_info
from keras_resnet.networks.features import pooled

CONFIGS = {
    "basic": ResNetConfig("basic", (1, 2, 1, 1), (8, 8, 16, 16)),
    "plain": ResNetConfig("basic", (1, 1, 1, 1), (8, 8, 16, 16), shortcut=None),
    **{
        f"{version} {layout}": ResNetConfig(
            "bottleneck", (2, 2, 2, 1), (8, 8, 8, 8), version=version, preact_layout=layout
        )
        for version, layout in (
            ("v1", "stem_norm"),
            ("v1.5", "stem_norm"),
            ("v2", "stem_norm"),
            ("v2", "unit_norm"),
            ("v2", "unit_norm_stride_last"),
        )
    },
    "v2 plain": ResNetConfig("basic", (1, 1, 1, 1), (8, 8, 8, 8), version="v2", shortcut=None),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_levels_have_the_strides_that_their_names_promise(config: ResNetConfig) -> None:
    model = build(config, input_shape=(128, 160, 3))
    features = feature_extractor(model)
    maps = features(np.zeros((1, 128, 160, 3), np.uint8))
    assert {name: tuple(x.shape) for name, x in maps.items()} == {
        f"C{level}": (1, 128 >> level, 160 >> level, width)
        for level, width in zip((2, 3, 4, 5), config.output_widths, strict=True)
    }


@pytest.mark.parametrize("layout", ["stem_norm", "unit_norm", "unit_norm_stride_last"])
def test_dilated_networks_have_the_same_levels(layout: str, tmp_path: Path) -> None:
    config = ResNetConfig(
        "bottleneck", (2, 2, 2), (8, 8, 8), version="v2", stem="cifar", preact_layout=layout
    )
    model = build(config, include_top=False, input_shape=(16, 16, 3))
    model.save(tmp_path / "model.keras")
    dilated = build(
        config.replace(output_stride=1),
        include_top=False,
        input_shape=(16, 16, 3),
        weights=tmp_path / "model.keras",
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    expected, maps = feature_extractor(model)(images), feature_extractor(dilated)(images)
    for level, step in (("C2", 1), ("C3", 2), ("C4", 4)):
        np.testing.assert_allclose(
            maps[level][:, ::step, ::step], expected[level], rtol=1e-4, atol=1e-4
        )


def test_output_stride_stops_the_strides() -> None:
    config = CONFIGS["v1.5 stem_norm"].replace(output_stride=16)
    maps = feature_extractor(build(config, input_shape=(128, 128, 3))).output
    assert [maps[level].shape[1] for level in ("C2", "C3", "C4", "C5")] == [32, 16, 8, 8]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_last_level_is_what_the_head_sees(version: str) -> None:
    model = build(CONFIGS["basic"].replace(version=version), input_shape=(128, 128, 3))
    images = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)
    last = feature_extractor(model, ["C5"])(images)["C5"]
    seen = keras.Model(model.input, model.get_layer("avg_pool").input)(images)
    np.testing.assert_array_equal(last, seen)
    assert np.min(last) == 0


def test_features_of_fine_tuned_and_reloaded_models(tmp_path: Path) -> None:
    base = keras_resnet.ResNet20(include_top=False, pooling="avg", input_shape=(32, 32, 3))
    head = keras.layers.Dense(3, activation="softmax", name="flowers")(base.output)
    tuned = keras.Model(base.input, head)
    tuned.compile("sgd", "sparse_categorical_crossentropy")
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    tuned.train_on_batch(images, np.array([0, 1, 2, 0]))
    features = feature_extractor(tuned, ("C2", "C4"))
    assert list(features.output) == ["C2", "C4"]
    expected = features(images)
    assert [tuple(expected[level].shape) for level in ("C2", "C4")] == [
        (4, 32, 32, 16),
        (4, 8, 8, 64),
    ]
    tuned.save(tmp_path / "tuned.keras")
    features.save(tmp_path / "features.keras")
    for model in (
        feature_extractor(keras.saving.load_model(tmp_path / "tuned.keras"), ("C2", "C4")),
        keras.saving.load_model(tmp_path / "features.keras"),
    ):
        for level, values in model(images).items():
            np.testing.assert_array_equal(values, expected[level])


def test_features_keep_how_images_are_prepared(tmp_path: Path) -> None:
    model = keras_resnet.ResNet20()
    keras_resnet.set_class_names(model, [f"class {index}" for index in range(10)])
    protocol = EvalProtocol(32, 48, "bicubic")
    set_info(model, dataclasses.replace(get_info(model), protocol=protocol))
    for features in (feature_extractor(model, ("C3",)), pooled(model), pooled(model, "C2")):
        features.save(tmp_path / "features.keras")
        for found in (features, keras_resnet.load_model(tmp_path / "features.keras")):
            info = get_info(found)
            assert info.protocol == protocol
            assert info.config is not None
            assert info.config["stem"] == "cifar"
            # They put out no classes.
            assert info.class_names is None
    assert get_info(model).class_names is not None


def test_levels_that_are_not_there_are_refused() -> None:
    model = keras_resnet.ResNet20()
    with pytest.raises(ValueError, match=r"some of \('C2', 'C3', 'C4'\). Received: levels=.*C5"):
        feature_extractor(model, ("C2", "C5"))
    for levels in ([], "C2"):
        with pytest.raises(ValueError, match="Received: levels="):
            feature_extractor(model, levels)
    image = keras.Input((32, 32, 3))
    nested = keras.Model(image, model(image))
    with pytest.raises(ValueError, match=r"Pass the model inside: `model.get_layer\('resnet20'\)`"):
        feature_extractor(nested)
