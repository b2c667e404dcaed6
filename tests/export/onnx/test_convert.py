"""ONNX files of every kind of network, in ONNX Runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from keras import layers

from keras_resnet import ResNetConfig, build
from keras_resnet.export.errors import layer_errors
from keras_resnet.export.metadata import of_onnx
from keras_resnet.export.model import ExportedModel
from keras_resnet.export.onnx import (
    convert as writer,
    half as onnx_half,
    quantize as onnx_quantize,
)
from keras_resnet.export.onnx.inspect import float_layers, operators
from keras_resnet.export.options import ExportOptions
from keras_resnet.export.outputs import named_outputs, output_names
from keras_resnet.models.info import get_info, set_class_names
from keras_resnet.networks.features import feature_extractor

from ...conftest import randomize

Writer = Callable[[ExportedModel, Path], None]

BASE: dict[str, Any] = {
    "block": "basic",
    "blocks": (1, 1),
    "filters": (8, 16),
    "stem": "cifar",
}
BOTTLENECK = {**BASE, "block": "bottleneck"}
CONFIGS: dict[str, dict[str, Any]] = {
    "v1": {**BOTTLENECK, "version": "v1"},
    "v2": {**BASE, "version": "v2"},
    "v2 of timm": {**BOTTLENECK, "version": "v2", "preact_layout": "unit_norm"},
    "shortcut A": {**BASE, "shortcut": "A"},
    "group norm": {**BASE, "norm": "group", "norm_groups": 4},
    "squeeze": {**BASE, "se_ratio": 0.25},
    "stochastic depth": {**BASE, "stochastic_depth": 0.3},
    "deep stem": {**BASE, "stem": "C", "downsample": "average"},
    "blur": {**BASE, "stem": "imagenet", "blur_pool": True},
    "dilation": {**BASE, "stem": "imagenet", "output_stride": 4},
    "groups": {**BOTTLENECK, "groups": 4},
}


def network(config: dict[str, Any], shape: tuple[int | None, ...] = (32, 32, 3)) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = build(ResNetConfig(**config), input_shape=shape, classes=5)
    randomize(model)
    return model


def sequential() -> keras.Model:
    """An ordinary Keras CNN with augmentation inside."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Rescaling(1 / 127.5, -1),
            layers.RandomFlip(),
            layers.RandomRotation(0.1),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.SeparableConv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.2),
            layers.Flatten(),
            layers.Dense(5, activation="softmax"),
        ]
    )


def source_of(
    model: keras.Model, folder: Path, calibration: np.ndarray | None = None, **options: Any
) -> ExportedModel:
    return ExportedModel(
        model, calibration, folder, output_names(model), get_info(model), ExportOptions(**options)
    )


def pictures(count: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, channels))
    return coarse.repeat(8, axis=1).repeat(8, axis=2).astype(np.float32)


def run(path: Path, images: np.ndarray, layout: str = "NHWC") -> dict[str, np.ndarray]:
    """The file's outputs, with the channels last."""
    session = writer.session(str(path))
    names = [output.name for output in session.get_outputs()]
    if layout == "NCHW":
        images = images.transpose(0, 3, 1, 2)
    values = session.run(names, {"image": images})
    first = layout == "NCHW"
    values = [v.transpose(0, 2, 3, 1) if first and v.ndim == 4 else v for v in values]
    return dict(zip(names, values, strict=True))


def assert_close(
    path: Path, model: keras.Model, images: np.ndarray, atol: float, **how: str
) -> None:
    expected = named_outputs(model(images, training=False), output_names(model))
    received = run(path, images, **how)
    assert list(received) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, atol=atol * np.abs(value).max())


#: The other networks are among the longer proofs.
FEW = ("v2 of timm", "group norm", "blur")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in FEW else pytest.mark.full) for kind in CONFIGS]
)
def test_every_network_has_no_stray_operators(kind: str, tmp_path: Path) -> None:
    model, path = network(CONFIGS[kind]), tmp_path / "model.onnx"
    writer.write_float32(source_of(model, tmp_path, layout="NCHW"), path)
    assert_close(path, model, pictures(3), 1e-5, layout="NCHW")
    found = operators(path)
    unwanted = {"Transpose", "BatchNormalization", "Cast", "Shape", "MatMul", "SpaceToDepth"}
    assert not unwanted & set(found)
    convolutions = sum(isinstance(layer, layers.Conv2D) for layer in model.layers)
    assert found["Conv"] == convolutions
    # Group normalisation brings its groups together and apart.
    assert found.get("Reshape", 0) == (2 * 6 if kind == "group norm" else 0)
    # Only what reflects or adds channels cannot be the padding of what follows.
    assert found.get("Pad", 0) == {"shortcut A": 1, "blur": 2}.get(kind, 0)


@pytest.mark.parametrize(
    ("kind", "layout", "transposes"), [("shortcut A", "NHWC", 1), ("group norm", "NCHW", 0)]
)
def test_layouts_take_any_size_and_batch(
    kind: str, layout: str, transposes: int, tmp_path: Path
) -> None:
    config = {**CONFIGS[kind], "blocks": (1,), "filters": (8,), "shortcut": "C"}
    model, path = network(config, (None, None, 6)), tmp_path / "model.onnx"
    writer.write_float32(source_of(model, tmp_path, layout=layout), path)
    assert operators(path).get("Transpose", 0) == transposes
    for images in (pictures(2, 6), pictures(3, 6)[:, :24]):
        assert_close(path, model, images, 1e-5, layout=layout)
    shape = writer.session(str(path)).get_inputs()[0].shape
    assert (shape[0], shape[3 if layout == "NHWC" else 1]) == ("batch", 6)
    assert f"RGB pixels in [0, 255], {layout}" in onnx.load(path).doc_string
    onnx_half.write_float16(source_of(model, tmp_path, layout=layout), path)
    assert_close(path, model, pictures(2, 6), 2e-2, layout=layout)


@pytest.mark.parametrize(("layout", "transposes"), [("NHWC", 3), ("NCHW", 0)])
def test_feature_maps_are_outputs(layout: str, transposes: int, tmp_path: Path) -> None:
    model, path = feature_extractor(network(BASE)), tmp_path / "model.onnx"
    calibration = pictures(16)
    source = source_of(model, tmp_path, calibration, layout=layout)
    for write, atol in (
        (writer.write_float32, 1e-5),
        (onnx_half.write_float16, 1e-2),
        (onnx_quantize.write_int8, 0.2),
    ):
        write(source, path)
        assert operators(path).get("Transpose", 0) == transposes
        assert_close(path, model, pictures(2), atol, layout=layout)


def test_one_channel_needs_no_reshape_in_nchw(tmp_path: Path) -> None:
    model, path = network(BASE, (32, 32, 1)), tmp_path / "model.onnx"
    writer.write_float32(source_of(model, tmp_path, layout="NCHW"), path)
    assert_close(path, model, pictures(3, 1), 1e-5, layout="NCHW")
    assert not {"Transpose", "Reshape"} & set(operators(path))


@pytest.mark.parametrize("layout", [pytest.param("NHWC", marks=pytest.mark.full), "NCHW"])
@pytest.mark.parametrize(
    ("write", "atol"),
    [
        (writer.write_float32, 1e-5),
        (onnx_half.write_float16, 1e-2),
        (onnx_quantize.write_int8, 0.1),
    ],
)
def test_batch_size_can_be_fixed(write: Writer, atol: float, layout: str, tmp_path: Path) -> None:
    model, path = sequential(), tmp_path / "model.onnx"
    # Eighteen images do not fill the last batch.
    write(source_of(model, tmp_path, pictures(18), batch_size=4, layout=layout), path)
    shape = writer.session(str(path)).get_inputs()[0].shape
    assert shape == ([4, 32, 32, 3] if layout == "NHWC" else [4, 3, 32, 32])
    assert_close(path, model, pictures(4), atol, layout=layout)
    # What `Flatten` puts side by side is in Keras' order.
    assert operators(path)["Transpose"] == (2 if layout == "NHWC" else 1)
    assert "Shape" not in operators(path)


def test_layers_are_as_they_were_after_a_failure(tmp_path: Path) -> None:
    model = network(CONFIGS["group norm"])
    before = np.asarray(model(pictures(2)))

    class Failing(layers.Layer):
        fails = False

        def call(self, x: Any) -> Any:
            if self.fails:
                raise RuntimeError("no tracing")
            return x

    failing = Failing()
    broken = keras.Model(model.input, failing(model.output))
    failing.fails = True
    source = ExportedModel(broken, None, tmp_path, ("probabilities",))
    with pytest.raises(RuntimeError, match="no tracing"):
        writer.float_model(source)
    assert not any("call" in vars(layer) for layer in broken.layers)
    np.testing.assert_array_equal(model(pictures(2)), before)


def test_what_onnx_cannot_express_is_named(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Activation("gelu")(image))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(x))
    with pytest.raises(ValueError, match="standard ONNX operators.*Received: one that needs Erfc$"):
        writer.write_float32(source_of(model, tmp_path), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("kind", [pytest.param("v2", marks=pytest.mark.full), "group norm"])
def test_float16_and_int8_are_what_they_say(kind: str, tmp_path: Path) -> None:
    model, path = network(CONFIGS[kind]), tmp_path / "model.onnx"
    set_class_names(model, list("abcde"))
    source = source_of(model, tmp_path, pictures(16))
    onnx_half.write_float16(source, path)
    assert_close(path, model, pictures(4), 2e-2)
    assert of_onnx(writer.session(str(path)))[0].class_names == tuple("abcde")
    graph = onnx.load(path).graph
    types = {value.name: value.data_type for value in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert types[node.input[1]] == onnx.TensorProto.FLOAT16
    # After the pixels' normalisation and before softmax; and around each group normalisation,
    # whose variances float16 is too narrow for.
    assert operators(path)["Cast"] == (2 + 2 * 6 if kind == "group norm" else 2)

    onnx_quantize.write_int8(source, path)
    assert float_layers(path) == ()
    assert of_onnx(writer.session(str(path)))[0].class_names == tuple("abcde")
    assert_close(path, model, pictures(4), 0.25)
    graph = onnx.load(path).graph
    kernels = [v for v in graph.initializer if v.data_type == onnx.TensorProto.INT8 and v.dims]
    kernels = [value for value in kernels if len(value.dims) == 4]
    scales = {v.name: list(v.dims) for v in graph.initializer}
    assert kernels
    for kernel in kernels:
        assert np.abs(onnx.numpy_helper.to_array(kernel)).max() <= 64
        assert scales[kernel.name.replace("_quantized", "_scale")] == [kernel.dims[0]]


def test_values_beyond_float16_are_refused_by_layer(tmp_path: Path) -> None:
    model, path = network(BASE), tmp_path / "model.onnx"
    head = model.get_layer("predictions")
    kernel, bias = head.get_weights()
    head.set_weights([kernel, bias + 7e4])
    with pytest.raises(ValueError, match="weights of at most 65504.*in the layer 'predictions'"):
        onnx_half.write_float16(source_of(model, tmp_path), path)
    head.set_weights([kernel, bias])
    norm = model.get_layer("conv2_block1_1_bn")
    norm.set_weights([norm.gamma * 5e4, *norm.get_weights()[1:]])
    with pytest.raises(
        ValueError, match="activations of at most 65504.*in the layer 'conv2_block1_1_conv'"
    ):
        onnx_half.write_float16(source_of(model, tmp_path, pictures(2)), path)
    assert not path.exists()


@pytest.fixture(scope="module")
def outlier() -> keras.Model:
    """A classifier with a channel 300 times as wide as the others, which the next layer undoes."""
    model = network({**BASE, "blocks": (2, 1)})
    wide, undoing = model.get_layer("conv2_block2_1_conv"), model.get_layer("conv2_block2_2_conv")
    norm = model.get_layer("conv2_block2_1_bn")
    gamma, beta, mean, variance = norm.get_weights()
    kernel = wide.get_weights()[0]
    kernel[..., 3] *= 300
    wide.set_weights([kernel])
    # As if the norm had been calibrated before the channel was scaled.
    beta[3], mean[3] = 300 * beta[3], 300 * mean[3]
    norm.set_weights([gamma, beta, mean, variance])
    kernel = undoing.get_weights()[0]
    kernel[:, :, 3] /= 300
    undoing.set_weights([kernel])
    return model


@pytest.mark.full
def test_layer_with_an_outlier_channel_is_named_and_can_be_kept(
    outlier: keras.Model, tmp_path: Path
) -> None:
    path, images = tmp_path / "model.onnx", pictures(32, seed=1)
    source = source_of(outlier, tmp_path, pictures(16))
    expected = outlier(images).numpy()

    def error(keep: tuple[str, ...]) -> float:
        options = ExportOptions(keep_float=keep)
        onnx_quantize.write_int8(dataclasses.replace(source, options=options), path)
        return float(np.abs(run(path, images)["probabilities"] - expected).mean())

    errors = layer_errors(source, images[:8])
    worst, second = list(errors.items())[:2]
    assert worst[0] == "conv2_block2_1_conv"
    assert worst[1] > 3 * second[1]
    assert list(errors.values()) == sorted(errors.values(), reverse=True)
    assert {"conv1_conv", "predictions"} <= set(errors)
    disturbed = error(())
    assert float_layers(path) == ()
    repaired = error((worst[0],))
    # The layer that takes in the wide channel is float with it.
    assert float_layers(path) == ("conv2_block2_1_conv", "conv2_block2_2_conv")
    assert repaired < disturbed / 3
    kept = dataclasses.replace(source, options=ExportOptions(keep_float=(worst[0],)))
    assert worst[0] not in layer_errors(kept, images[:4])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "conv2_block1_1_cnv",
            "Received: 'conv2_block1_1_cnv'. Close matches: conv2_block1_1_conv",
        ),
        ("conv1_bn", "'conv1_bn', which has none. It may be part of 'conv1_conv': keep"),
    ],
)
def test_layers_that_cannot_be_kept_are_refused(name: str, message: str, tmp_path: Path) -> None:
    source = source_of(network(BASE), tmp_path, pictures(16), keep_float=(name,))
    with pytest.raises(ValueError, match=message):
        onnx_quantize.write_int8(source, tmp_path / "model.onnx")


def test_int8_needs_calibration_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected calibration images.*Received: none"):
        onnx_quantize.write_int8(source_of(network(BASE), tmp_path), tmp_path / "model.onnx")
