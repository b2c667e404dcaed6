"""Weights of other packages give the same logits in our networks, and no others get in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_resnet
from keras_resnet import (
    ResNetConfig,
    build,
    create_model,
    feature_extractor,
    from_checkpoint,
    load_weights,
    save_torch_state_dict,
)
from keras_resnet.models.info import get_info, set_class_names
from keras_resnet.networks.config import IMAGENET_STD
from keras_resnet.weights.mapping import Naming
from keras_resnet.weights.readers import read_arrays

from ..conftest import randomize
from ..networks.test_builder import CONFIGS

FIXTURES = Path(__file__).parents[1] / "fixtures"
HEAD = {"classifier_activation": None, "include_preprocessing": False}

pytestmark = pytest.mark.filterwarnings("ignore:The last stage sees")


def tiny(block: str, **fields: Any) -> ResNetConfig:
    return ResNetConfig(block, (2, 1, 1, 1), (8, 16, 24, 32), **{"stem_filters": 64, **fields})


HALF = {"mean": (127.5,) * 3, "std": (127.5,) * 3}
#: What the fixtures were made as.
NETWORKS = {
    "timm_basic_v15": tiny("basic"),
    "timm_bottleneck_v15": tiny("bottleneck"),
    "timm_bottleneck_d": tiny("bottleneck", stem="C", stem_filters=32, downsample="average"),
    "timm_resnext": tiny("bottleneck", groups=4, width_per_group=32),
    "timm_se": tiny("bottleneck", se_ratio=1 / 16),
    "timm_preact_bottleneck": tiny(
        "bottleneck", version="v2", preact_layout="unit_norm", stem_filters=16, **HALF
    ),
    "transformers_basic": ResNetConfig("basic", (2, 1, 1, 1), (64, 16, 24, 32)),
    "transformers_bottleneck": tiny("bottleneck"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_checkpoints_build_their_network_and_give_their_packages_logits(name: str) -> None:
    model = from_checkpoint(FIXTURES / f"{name}.safetensors", input_shape=(64, 64, 3), **HEAD)
    expected = np.load(FIXTURES / f"{name}_io.npz")
    images = expected["x_nhwc"]
    np.testing.assert_allclose(model(images), expected["logits"], atol=1e-4)
    if "features_nhwc" in expected:
        features = feature_extractor(model, ["C5"])(images)["C5"]
        np.testing.assert_allclose(features, expected["features_nhwc"], rtol=1e-4, atol=1e-4)
    report = model.load_report
    keys = {key for key in load_file(FIXTURES / f"{name}.safetensors") if "tracked" not in key}
    assert {key for loaded in report.loaded.values() for key in loaded} == keys
    assert report.missing == report.unexpected == ()
    assert report.skipped == report.adapted == {}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_we_save_has_the_keys_shapes_and_values_of_the_package(
    name: str, tmp_path: Path
) -> None:
    """Not even the order of the keys in a file matters."""
    original = load_file(FIXTURES / f"{name}.safetensors")
    shuffled = {key: original[key] for key in sorted(original, key=lambda key: key[::-1])}
    save_file(shuffled, tmp_path / "shuffled.safetensors")
    model = build(NETWORKS[name], input_shape=(64, 64, 3), classes=7)
    load_weights(model, tmp_path / "shuffled.safetensors")
    layout = "transformers" if name.startswith("transformers") else None
    saved = load_file(save_torch_state_dict(model, tmp_path / "saved.safetensors", layout))
    assert saved.keys() == original.keys()
    for key, array in original.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(saved[key], array, err_msg=key)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_network_goes_to_torch_and_back_or_is_refused(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    model = build(config, input_shape=(32, 32, 3))
    randomize(model)
    path = tmp_path / "model.safetensors"
    refused = config.preact_layout != "unit_norm" if config.version == "v2" else False
    # The layouts have no names for these.
    if refused or (config.version == "v2" and config.se_ratio):
        with pytest.raises(ValueError, match="that the layout 'timm_resnetv2' can describe"):
            save_torch_state_dict(model, path)
        assert not path.exists()
        return
    save_torch_state_dict(model, path)
    # What the keys do not say is in the file's metadata: strides, groups, blur pooling.
    again = from_checkpoint(path, input_shape=(32, 32, 3))
    assert get_info(again).config == get_info(model).config
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_allclose(again(images), model(images), rtol=1e-5, atol=1e-6)
    fresh = build(config, input_shape=(32, 32, 3))
    load_weights(fresh, path)
    for mine, saved in zip(fresh.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, saved)


def test_pixels_travel_with_what_we_save(tmp_path: Path) -> None:
    config = CONFIGS["basic B"].replace(mean=(1, 2, 3), std=(4, 5, 6))
    model = build(config, input_shape=(16, 16, 3))
    path = save_torch_state_dict(model, tmp_path / "model.safetensors")
    loaded = from_checkpoint(path, input_shape=(16, 16, 3))
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_allclose(loaded(images), model(images), atol=1e-6)
    other = build(CONFIGS["basic B"], input_shape=(16, 16, 3))
    with pytest.raises(ValueError, match=r"mean=\(1, 2, 3\).*Received: `resnet` with mean=\(123.6"):
        load_weights(other, path)
    load_weights(other, path, pixels="model")
    np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0])


# Files of torch, in both of its formats


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_legacy.th"])
def test_torch_files_are_read_without_torch(name: str) -> None:
    expected = load_file(FIXTURES / "torch_expected.safetensors")
    arrays = read_arrays(FIXTURES / name)
    assert arrays.notes == [
        "weights taken from 'state_dict' in the file",
        "prefix 'module.' removed from the keys",
    ]
    counters = {key for key in arrays.values if key.endswith("num_batches_tracked")}
    assert arrays.values.keys() - counters == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(arrays.values[key], array, err_msg=key)
    model = from_checkpoint(FIXTURES / name)
    np.testing.assert_array_equal(model.get_layer("conv1_bn").gamma, expected["bn1.weight"])
    assert model.output_shape == (None, 5)


# keras.applications

THEIRS = {
    "resnet50": (keras.applications.ResNet50, {"version": "v1"}),
    "resnet101": (keras.applications.ResNet101, {"version": "v1"}),
    "resnet152": (keras.applications.ResNet152, {"version": "v1"}),
    "resnet50v2": (keras.applications.ResNet50V2, {"preact_layout": "unit_norm_stride_last"}),
    "resnet101v2": (keras.applications.ResNet101V2, {"preact_layout": "unit_norm_stride_last"}),
    "resnet152v2": (keras.applications.ResNet152V2, {"preact_layout": "unit_norm_stride_last"}),
}
FORMATS = (".h5", ".weights.h5", ".keras")


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.full) for name in ("resnet50", "resnet50v2")),
        *(pytest.param(name, marks=pytest.mark.slow) for name in THEIRS if "1" in name),
    ],
)
def test_keras_applications_give_the_same_from_pixel_to_logit(name: str, tmp_path: Path) -> None:
    builder, fields = THEIRS[name]
    shape = (71, 64, 3)
    theirs = builder(weights=None, input_shape=shape, classes=5, classifier_activation=None)
    randomize(theirs)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype("float32")
    module = keras.applications.resnet_v2 if "v2" in name else keras.applications.resnet
    expected = theirs(module.preprocess_input(pixels.copy()))
    scale = np.abs(expected).max()
    for suffix in FORMATS if "50" in name else (".weights.h5",):
        path = tmp_path / f"theirs{suffix}"
        save = theirs.save_weights if suffix == ".weights.h5" else theirs.save
        save(path)
        # The order of the colours, their mean and deviation are in our graph.
        ours = from_checkpoint(path, input_shape=shape, classifier_activation=None)
        np.testing.assert_allclose(ours(pixels) / scale, expected / scale, atol=1e-4)
        path.unlink()
    assert ours.load_report.notes
    named = create_model(name, input_shape=shape, classes=5, **fields)
    assert [w.shape for w in named.weights] == [w.shape for w in ours.weights]


def test_names_of_the_original_release(tmp_path: Path) -> None:
    """Caffe's, as the first Keras ResNets kept them; ResNet-101 numbers its blocks."""
    shape = (64, 64, 3)
    config = ResNetConfig("bottleneck", (1, 3, 2, 3), (8, 8, 16, 16), version="v1")
    model = build(config, input_shape=shape, **HEAD)
    randomize(model)
    naming = Naming("caffe", numbered=frozenset({4}))
    arrays = {}
    for layer in model.layers:
        for weight in layer.weights:
            arrays[f"{naming.prefix(layer.name)}/{weight.name}:0"] = np.asarray(weight)
    assert {"res3b_branch2a/kernel:0", "res4b1_branch2c/kernel:0", "fc1000/bias:0"} <= set(arrays)
    # The original network takes blue first.
    arrays["conv1/kernel:0"] = arrays["conv1/kernel:0"][:, :, ::-1]
    np.savez(tmp_path / "caffe.npz", **arrays)
    loaded = from_checkpoint(tmp_path / "caffe.npz", input_shape=shape, **HEAD)
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    np.testing.assert_allclose(loaded(images), model(images), atol=1e-5)


def test_zero_channels_on_both_sides_are_reordered(tmp_path: Path) -> None:
    """akamaster's option A, as its paper-faithful CIFAR networks have it."""
    config = keras_resnet.ResNetConfig("basic", (2, 2, 2), (4, 8, 16), stem="cifar", shortcut="A")
    model = build(config, input_shape=(16, 16, 3), **HEAD)
    randomize(model)
    path = save_torch_state_dict(model, tmp_path / "theirs.safetensors", "akamaster")
    state = load_file(path)
    assert {"linear.weight", "layer3.1.conv2.weight"} <= state.keys()

    def norm(x: Any, prefix: str) -> Any:
        scale = state[f"{prefix}.weight"] / np.sqrt(state[f"{prefix}.running_var"] + 1e-5)
        return (x - state[f"{prefix}.running_mean"]) * scale + state[f"{prefix}.bias"]

    def conv(x: Any, prefix: str, strides: int) -> Any:
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return keras.ops.conv(
            padded, state[f"{prefix}.weight"].transpose(2, 3, 1, 0), strides, "valid"
        ).numpy()

    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    x = np.maximum(norm(conv(images, "conv1", 1), "bn1"), 0)
    for stage in range(3):
        for block in range(2):
            prefix, strides = f"layer{stage + 1}.{block}", 1 + (stage > 0 and block == 0)
            y = np.maximum(norm(conv(x, f"{prefix}.conv1", strides), f"{prefix}.bn1"), 0)
            y = norm(conv(y, f"{prefix}.conv2", 1), f"{prefix}.bn2")
            extra = (y.shape[-1] - x.shape[-1]) // 2
            x = np.pad(x[:, ::strides, ::strides], ((0, 0),) * 3 + ((extra, extra),))
            x = np.maximum(x + y, 0)
    expected = x.mean((1, 2)) @ state["linear.weight"].T + state["linear.bias"]
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-4)
    loaded = from_checkpoint(path, input_shape=(16, 16, 3), **HEAD)
    np.testing.assert_allclose(loaded(images), expected, rtol=1e-4, atol=1e-4)
    assert any("reordered" in note for note in loaded.load_report.notes)


# What does not fit


def changed(name: str, tmp_path: Path, **changes: np.ndarray | None) -> Path:
    state = {**load_file(FIXTURES / f"{name}.safetensors"), **changes}
    path = tmp_path / "changed.safetensors"
    save_file({key: np.ascontiguousarray(v) for key, v in state.items() if v is not None}, path)
    return path


def test_wrong_weights_are_refused_by_name_and_shape_and_change_nothing(tmp_path: Path) -> None:
    state = load_file(FIXTURES / "timm_basic_v15.safetensors")
    model = build(tiny("basic"), input_shape=(64, 64, 3), classes=7)
    before = model.get_weights()
    kernel = state["layer2.0.conv1.weight"]
    nan = state["fc.bias"] * np.nan
    for changes, message in (
        ({"fc.bias": None}, "it lacks predictions/bias"),
        ({"bn1.running_mean": None}, r"it lacks conv1_bn/moving_mean"),
        ({"layer1.0.conv2.weight": None}, "lacks|no kernel for conv2_block1_2_conv"),
        ({"layer1.2.conv1.weight": kernel}, "conv2_block3_1_conv|no kernel"),
        ({"extra.weight": kernel}, r"it also has extra.weight\. In Python, `load_w"),
        # Transposed; swapped with a layer of another shape.
        (
            {"layer2.0.conv1.weight": kernel.transpose(1, 0, 2, 3)},
            r"layer2.0.conv1.weight has the shape \(3, 3, 16, 8\).*\(3, 3, 8, 16\)",
        ),
        ({"layer2.0.conv1.weight": state["layer3.0.conv1.weight"]}, "layer2.0.conv1.weight has"),
        # Swapped with an array of equal shape that cannot be what it is said to be.
        ({"bn1.running_var": state["bn1.running_mean"] - 9}, "never negative.*bn1.running_var"),
        ({"fc.bias": nan}, "NaN or infinity in fc.bias"),
        ({"fc.bias": np.zeros(7, np.int64)}, "Expected floats. Received: fc.bias of int64"),
    ):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            load_weights(model, changed("timm_basic_v15", tmp_path, **changes))
    for path, message in (
        (FIXTURES / "timm_bottleneck_v15.safetensors", "it has another|it also has|it lacks"),
        (FIXTURES / "timm_preact_bottleneck.safetensors", "it lacks conv1_bn"),
        (FIXTURES / "none.safetensors", "existing weights file .*none.safetensors"),
        (FIXTURES / "README.md", "Expected the path of an existing weights file"),
    ):
        with pytest.raises(ValueError, match=message):
            load_weights(model, path)
    for weight, unchanged in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, unchanged)


@pytest.mark.parametrize("widths", [(24, 32, 64), (24, 48, 64), (64, 32, 64)])
def test_stems_of_other_widths_are_named(widths: tuple[int, int, int], tmp_path: Path) -> None:
    """timm's tiered stem has the keys of a C stem."""
    name = "timm_bottleneck_d"
    changes: dict[str, np.ndarray | None] = {}
    state = load_file(FIXTURES / f"{name}.safetensors")
    for layer, before, filters in zip((0, 3, 6), (3, *widths), widths, strict=False):
        changes[f"conv1.{layer}.weight"] = np.ones((filters, before, 3, 3), "f4")
        norm = f"conv1.{layer + 1}" if layer < 6 else "bn1"
        for part in ("weight", "bias", "running_mean", "running_var"):
            changes[f"{norm}.{part}"] = np.ones(filters, "f4")
    assert changes.keys() <= state.keys()
    tiered = r" \(timm's tiered stem, as in resnet26t\)" if widths[0] == 24 else ""
    said = (
        rf"with \[{widths[0]}, {widths[1]}, 64\] filters{tiered}, which this package does not have"
    )
    path = changed(name, tmp_path, **changes)
    with pytest.raises(ValueError, match=said):
        from_checkpoint(path)
    with pytest.raises(ValueError, match=said):
        build(NETWORKS[name], classes=7, weights=path)


def test_strides_that_shapes_do_not_show_are_refused() -> None:
    path = FIXTURES / "timm_bottleneck_v15.safetensors"
    with pytest.raises(ValueError, match="conv3_block1_2_conv sees pixels 4 apart, the model's 8"):
        build(tiny("bottleneck", version="v1"), classes=7, weights=path)
    with pytest.raises(ValueError, match="it lacks conv3_block1_0_pool"):
        build(tiny("bottleneck", downsample="average"), classes=7, weights=path)
    build(tiny("bottleneck", output_stride=8), classes=7, weights=path)


def test_what_fits_is_loaded_if_not_strict(tmp_path: Path) -> None:
    state = load_file(FIXTURES / "timm_basic_v15.safetensors")
    path = changed(
        "timm_basic_v15", tmp_path, **{"conv1.weight": None, "extra.weight": state["fc.weight"]}
    )
    model = build(tiny("basic"), input_shape=(64, 64, 3), classes=7)
    stem = np.asarray(model.get_layer("conv1_conv").kernel)
    with pytest.raises(ValueError, match="no kernel for conv1_conv"):
        load_weights(model, path)
    path = changed(
        "timm_basic_v15", tmp_path, **{"layer1.0.bn1.bias": None, "extra.weight": state["fc.bias"]}
    )
    report = load_weights(model, path, strict=False)
    assert report.missing == tuple(
        f"conv2_block1_1_bn/{role}" for role in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    assert report.unexpected == ("extra.weight",)
    assert not np.array_equal(stem, model.get_layer("conv1_conv").kernel)
    assert "missing  conv2_block1_1_bn/gamma" in str(report)
    assert report.to_dict()["unexpected"] == ["extra.weight"]


# Adaptation


def test_another_number_of_classes_keeps_the_new_classifier() -> None:
    path = FIXTURES / "timm_basic_v15.safetensors"
    with pytest.warns(UserWarning, match="the classifier is new, as the weights have none"):
        model = build(tiny("basic"), input_shape=(64, 64, 3), classes=3, weights=path)
    report = model.load_report
    assert report.missing == ("predictions/kernel", "predictions/bias")
    assert report.skipped == dict.fromkeys(
        ("fc.weight", "fc.bias"), "it is for 7 classes, the model for 3"
    )
    bare = build(tiny("basic"), include_top=False, weights=path)
    assert bare.load_report.skipped["fc.bias"] == "the model has no classifier"
    np.testing.assert_array_equal(bare.get_weights()[0], model.get_weights()[0])
    with pytest.warns(UserWarning, match="the classifier is new"):
        assert from_checkpoint(path, classes=3).load_report.missing == report.missing
    headless = from_checkpoint(path, include_top=False, pooling="avg")
    assert headless.output_shape == (None, 32)


@pytest.mark.parametrize("equal", [True, False])
def test_grey_images_give_what_their_rgb_replication_gives(equal: bool, tmp_path: Path) -> None:
    """To rounding; where the colours' means differ, but for what the image's edges change."""
    mean = (120.0,) * 3 if equal else (123.675, 116.28, 103.53)
    config = tiny("basic", mean=mean, std=(50.0, 60.0, 70.0))
    settings: dict[str, Any] = {"classes": 7, "classifier_activation": None}
    source = build(config, input_shape=(96, 96, 3), **settings)
    load_weights(source, FIXTURES / "timm_basic_v15.safetensors", pixels="model")
    path = save_torch_state_dict(source, tmp_path / "source.safetensors")
    with pytest.warns(UserWarning, match="RGB kernels summed for one channel"):
        grey = build(config, input_shape=(96, 96, 1), weights=path, **settings)
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 1)).astype("float32")
    replicated = images.repeat(3, axis=-1)
    if equal:
        np.testing.assert_allclose(grey(images), source(replicated), rtol=1e-4, atol=1e-4)
    stems = [
        keras.Model(model.input, model.get_layer("conv1_bn").output) for model in (grey, source)
    ]
    ours, expected = np.asarray(stems[0](images)), np.asarray(stems[1](replicated))
    np.testing.assert_allclose(ours[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(grey(images), source(replicated), atol=0.1)


def test_more_channels_repeat_the_colours() -> None:
    """Scaled by what the colours' deviations and the channels' differ in."""
    path = FIXTURES / "timm_basic_v15.safetensors"
    kernel = load_file(path)["conv1.weight"].transpose(2, 3, 1, 0)
    for channels, message in ((4, "scaled by 3/4"), (2, "scaled by 3/2"), (13, "scaled by 3/13")):
        with pytest.warns(UserWarning, match=message):
            model = build(tiny("basic"), input_shape=(64, 64, channels), classes=7, weights=path)
        adapted = np.asarray(model.get_layer("conv1_conv").kernel)
        deviation = sum(IMAGENET_STD) / 3
        for index in range(channels):
            factor = 3 / channels * deviation / IMAGENET_STD[index % 3]
            np.testing.assert_allclose(
                adapted[:, :, index], kernel[:, :, index % 3] * factor, rtol=1e-5, atol=1e-8
            )


def test_stems_of_other_channels_fit_their_own(tmp_path: Path) -> None:
    """As timm's `in_chans=1` networks: nothing to adapt, constants as the builder has them."""
    state = load_file(FIXTURES / "timm_basic_v15.safetensors")
    for channels in (1, 4):
        kernel = state["conv1.weight"][:, [0] * channels]
        path = changed("timm_basic_v15", tmp_path, **{"conv1.weight": kernel})
        model = from_checkpoint(path, input_shape=(64, 64, None))
        assert model.input_shape == (None, 64, 64, channels)
        assert model.load_report.adapted == {}
        built = build(tiny("basic"), input_shape=(64, 64, channels), classes=7, weights=path)
        np.testing.assert_array_equal(built.get_weights()[0], model.get_weights()[0])


# Pixels that a file does not speak of, or speaks of otherwise


def test_constants_that_the_user_names_win_over_conventions_only(tmp_path: Path) -> None:
    path = FIXTURES / "timm_basic_v15.safetensors"
    half = {"mean": (127.5,) * 3, "std": (127.5,) * 3}
    model = from_checkpoint(path, input_shape=(64, 64, 3), **half)
    assert any(
        "with the constants of the model: mean=(127.5" in note for note in model.load_report.notes
    )
    assert model.get_layer("normalization").get_config()["mean"] == [127.5] * 3
    saved = save_torch_state_dict(model, tmp_path / "saved.safetensors")
    with pytest.raises(
        ValueError, match="Expected a model that normalizes pixels with mean=.127.5"
    ):
        from_checkpoint(saved, input_shape=(64, 64, 3), mean=(0, 0, 0))


def test_networks_that_do_not_normalise_stay_apart(tmp_path: Path) -> None:
    bare = build(tiny("basic"), input_shape=(64, 64, 3), include_preprocessing=False)
    bare.save(tmp_path / "bare.keras")
    model = build(tiny("basic"), input_shape=(64, 64, 3))
    with pytest.raises(ValueError, match="does not normalize its pixels"):
        load_weights(model, tmp_path / "bare.keras")
    load_weights(model, tmp_path / "bare.keras", pixels="model")
    np.testing.assert_array_equal(model.get_weights()[0], bare.get_weights()[0])


def test_our_weights_files_say_what_they_do_not_say(tmp_path: Path) -> None:
    fields = {"version": "v2", "preact_layout": "unit_norm_stride_last"}
    for config in (tiny("bottleneck", version="v1"), CONFIGS["v2 stride last"].replace(**fields)):
        model = build(config, input_shape=(64, 64, 3), classes=7)
        model.save_weights(tmp_path / "model.weights.h5")
        fresh = build(config, input_shape=(64, 64, 3), classes=7)
        report = load_weights(fresh, tmp_path / "model.weights.h5")
        assert report.notes == (
            "such a file does not show strides, dilation and pixels, nor layers without weights "
            "(shortcuts, pooling, anti-aliasing), so they were not compared",
        )
        np.testing.assert_array_equal(fresh.get_weights()[-1], model.get_weights()[-1])


def test_class_names_stay_where_a_file_has_none(tmp_path: Path) -> None:
    model = build(tiny("basic"), input_shape=(64, 64, 3), classes=7)
    set_class_names(model, list("abcdefg"))
    load_weights(model, FIXTURES / "timm_basic_v15.safetensors")
    assert get_info(model).class_names == tuple("abcdefg")
    path = save_torch_state_dict(model, tmp_path / "named.safetensors")
    assert get_info(from_checkpoint(path)).class_names == tuple("abcdefg")


def test_backbones_start_a_new_classifier(tmp_path: Path) -> None:
    """As keras.applications' `_notop` files and timm's with `num_classes=0` do."""
    path = changed("timm_basic_v15", tmp_path, **{"fc.weight": None, "fc.bias": None})
    with pytest.warns(UserWarning, match="the classifier is new"):
        model = build(tiny("basic"), input_shape=(64, 64, 3), classes=7, weights=path)
    assert model.load_report.missing == ("predictions/kernel", "predictions/bias")
    assert from_checkpoint(path).output_shape == (None, None, None, 32)


@pytest.mark.parametrize(
    "config",
    [
        ResNetConfig("bottleneck", (1, 1), (8, 16), stem="cifar", shortcut="A"),
        ResNetConfig("basic", (1, 1), (8, 16), stem="cifar", shortcut="A", stem_filters=4),
        ResNetConfig("basic", (1, 1), (8, 16), stem="cifar", shortcut=None),
    ],
)
def test_networks_that_akamaster_does_not_have_are_refused(
    config: ResNetConfig, tmp_path: Path
) -> None:
    model = build(config, input_shape=(16, 16, 3))
    with pytest.raises(ValueError, match="for the layout 'akamaster'. Received: 'resnet'"):
        save_torch_state_dict(model, tmp_path / "model.safetensors", "akamaster")


def test_shortcuts_of_networks_with_one_block_per_stage(tmp_path: Path) -> None:
    for kind in "BC":
        config = ResNetConfig("basic", (1, 1), (8, 16), stem="cifar", shortcut=kind)
        model = build(config, input_shape=(16, 16, 3))
        path = save_torch_state_dict(model, tmp_path / "model.safetensors")
        state = load_file(path)
        save_file(state, path)  # Without the metadata.
        assert get_info(from_checkpoint(path)).config == get_info(model).config


def test_state_dicts_in_half_precision(tiny_model: keras.Model, tmp_path: Path) -> None:
    whole = save_torch_state_dict(tiny_model, tmp_path / "whole.safetensors")
    half = save_torch_state_dict(tiny_model, tmp_path / "half.safetensors", dtype="float16")
    numbers = sum(weight.size for weight in tiny_model.get_weights())
    assert whole.stat().st_size - half.stat().st_size == pytest.approx(2 * numbers, abs=500)
    copy = keras.models.clone_model(tiny_model)
    load_weights(copy, half)
    for received, expected in zip(copy.get_weights(), tiny_model.get_weights(), strict=True):
        assert received.dtype == np.float32
        np.testing.assert_array_equal(received, expected.astype(np.float16).astype(np.float32))
    with pytest.raises(
        ValueError, match="`dtype` to be one of .*'float16'.*. Received: 'bfloat16'"
    ):
        save_torch_state_dict(copy, half, dtype="bfloat16")  # type: ignore[arg-type]
    kernel, bias = copy.get_layer("predictions").get_weights()
    copy.get_layer("predictions").set_weights([kernel, bias + 1e5])
    before = half.read_bytes()
    with pytest.raises(
        ValueError, match=r"up to 65504 .*Received: 1\d+ in fc.bias. Pass `dtype='float32'`"
    ):
        save_torch_state_dict(copy, half, dtype="float16")
    assert half.read_bytes() == before
