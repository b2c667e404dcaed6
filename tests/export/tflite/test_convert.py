"""TFLite files of every precision, run in LiteRT: their ends, exceptions from int8 and insides."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from keras_resnet import ResNetConfig, build, feature_extractor
from keras_resnet.export.errors import layer_errors
from keras_resnet.export.metadata import of_tflite
from keras_resnet.export.model import ExportedModel
from keras_resnet.export.options import ExportOptions
from keras_resnet.export.outputs import output_names
from keras_resnet.export.tflite import convert as tflite, inspect as tflite_inspect
from keras_resnet.export.tflite.flatbuffer import parse
from keras_resnet.export.tflite.layers import LayerNames, nodes_of
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.models.info import ModelInfo

from ...conftest import randomize

WRITERS: dict[str, Callable[[ExportedModel, Path], None]] = {
    "float32": tflite.write_float32,
    "float16": tflite.write_float16,
    "dynamic": tflite.write_dynamic,
    "int8": tflite.write_int8,
    "int8-io": tflite.write_int8_io,
    "uint8-io": tflite.write_uint8_io,
    "int16x8": tflite.write_int16x8,
}

#: Root mean square error of the outputs over their deviation that a precision may have.
ERRORS = {"float32": 1e-5, "float16": 0.005, "dynamic": 0.06}


def coarse(channels: int = 3, size: int = 8) -> np.ndarray:
    """Forty pictures of squares `(32, 32, channels)`; never quite black nor white."""
    squares = np.random.default_rng(1).integers(5, 250, (40, size, size, channels))
    return squares.repeat(32 // size, 1).repeat(32 // size, 2).astype(np.float32)


def source_of(model: keras.Model, folder: Path, **options: Any) -> ExportedModel:
    calibration = coarse(model.input_shape[-1])
    return ExportedModel(
        model, calibration, folder, output_names(model), options=ExportOptions(**options)
    )


def run(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Float outputs of float images, whatever the types of the file's ends are."""
    signature = Interpreter(str(path)).get_signature_runner("serving_default")
    details = signature.get_output_details()
    taken = tflite_inspect.quantize_input(images, signature.get_input_details()["image"])
    values = signature(image=taken)
    return {
        name: tflite_inspect.dequantize_output(value, details[name])
        for name, value in values.items()
    }


def expected(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    values = keras.tree.flatten(model(images, training=False))
    return dict(zip(output_names(model), map(np.asarray, values), strict=True))


def relative_error(received: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((received - wanted) ** 2)) / wanted.std())


@pytest.fixture(scope="module")
def files(tiny_model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network in every precision."""
    folder = tmp_path_factory.mktemp("files")
    info = ModelInfo(class_names=tuple("abcdefghij"), protocol=EvalProtocol(size=32))
    source = dataclasses.replace(source_of(tiny_model, folder), info=info)
    for name, write in WRITERS.items():
        write(source, folder / f"model-{name}.tflite")
    return folder


@pytest.mark.parametrize("name", WRITERS)
def test_every_precision_computes_what_keras_does(
    name: str, files: Path, tiny_model: keras.Model
) -> None:
    images = coarse()
    received = run(files / f"model-{name}.tflite", images)["probabilities"]
    wanted = expected(tiny_model, images)["probabilities"]
    assert received.dtype == np.float32
    assert relative_error(received, wanted) < ERRORS.get(name, 0.12)


def test_uint8_takes_raw_pixels(files: Path, tiny_model: keras.Model) -> None:
    interpreter = Interpreter(str(files / "model-uint8-io.tflite"))
    signature = interpreter.get_signature_runner("serving_default")
    details = signature.get_input_details()["image"]
    assert (details["dtype"], details["quantization"]) == (np.uint8, (1.0, 0))
    pixels = coarse().astype(np.uint8)
    probabilities = signature(image=pixels)["probabilities"]
    assert probabilities.dtype == np.uint8
    wanted = expected(tiny_model, pixels)["probabilities"]
    assert relative_error(probabilities / 256, wanted) < 0.08
    (image,) = Interpreter(str(files / "model-int8-io.tflite")).get_input_details()
    assert (image["dtype"], image["quantization"]) == (np.int8, (1.0, -128))


def test_uint8_input_of_another_scale_is_refused(
    tiny_model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        tflite_inspect,
        "describe",
        lambda path: {"inputs": [{"dtype": "uint8", "scale": 0.99, "zero_point": 0}]},
    )
    with pytest.raises(ValueError, match=r"raw uint8 pixels.*Received: uint8, scale 0\.99"):
        tflite.write_uint8_io(source_of(tiny_model, tmp_path), tmp_path / "model.tflite")


def test_what_computes_in_float(files: Path, tiny_model: keras.Model) -> None:
    for name in ("int8", "int8-io", "uint8-io", "int16x8"):
        assert tflite_inspect.float_layers(files / f"model-{name}.tflite") == ()
    everything = tflite_inspect.float_layers(files / "model-float32.tflite")
    layers = [layer.name for layer in tiny_model.layers]
    assert set(everything) <= set(layers)
    assert {"normalization", "conv1_conv", "conv1_bn", "conv2_block1_add"} <= set(everything)
    assert {"avg_pool", "predictions"} <= set(everything)
    # Large weights are integers there; sums have no weights.
    assert "conv2_block1_add" in tflite_inspect.float_layers(files / "model-dynamic.tflite")
    assert "conv4_block1_2_conv" not in tflite_inspect.float_layers(files / "model-dynamic.tflite")


def test_operators_are_counted(files: Path) -> None:
    counted = tflite_inspect.operators(files / "model-float32.tflite")
    # A stem and three blocks of two.
    assert (counted["CONV_2D"], counted["ADD"], counted["SOFTMAX"]) == (7, 3, 1)
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(counted)
    ends = tflite_inspect.operators(files / "model-int8.tflite")
    assert (ends["QUANTIZE"], ends["DEQUANTIZE"], ends["CONV_2D"]) == (1, 1, 7)


def test_description_is_beside_and_inside_the_file(files: Path) -> None:
    for name in WRITERS:
        path = files / f"model-{name}.tflite"
        described = tflite_inspect.describe(path)
        assert json.loads(path.with_suffix(".json").read_text()) == described
        assert described["class_names"] == list("abcdefghij")
        assert described["protocol"]["size"] == 32
        assert of_tflite(path).class_names == tuple("abcdefghij")
    assert described["pixels"]["channels"] == "RGB"
    assert described["pixels"]["range"] == [0, 255]
    constants = described["pixels"]["normalization_in_graph"]
    np.testing.assert_allclose(constants["mean"], (123.675, 116.28, 103.53), rtol=1e-5)
    np.testing.assert_allclose(constants["std"], (58.395, 57.12, 57.375), rtol=1e-5)
    described = tflite_inspect.describe(files / "model-uint8-io.tflite")
    assert described["inputs"] == [
        {
            "name": "image",
            "shape": [None, 32, 32, 3],
            "dtype": "uint8",
            "scale": 1.0,
            "zero_point": 0,
        }
    ]
    assert described["outputs"] == [
        {
            "name": "probabilities",
            "shape": [None, 10],
            "dtype": "uint8",
            "scale": 1 / 256,
            "zero_point": 0,
        }
    ]


def test_no_tflite_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_text("something else")
    with pytest.raises(ValueError, match="Expected a TFLite file"):
        tflite_inspect.describe(tmp_path / "model.tflite")


def details_of(dtype: type, scale: float, zero_point: int) -> dict[str, Any]:
    scales = np.array([scale] if scale else [], np.float32)
    parameters = {"scales": scales, "zero_points": np.array([zero_point])}
    return {"dtype": dtype, "quantization_parameters": parameters}


def test_ends_are_turned_into_integers_and_back() -> None:
    values = np.array([-10.0, 0.0, 0.6, 254.4, 300.0])
    taken = tflite_inspect.quantize_input(values, details_of(np.int8, 1.0, -128))
    assert (taken.dtype, taken.tolist()) == (np.int8, [-128, -128, -127, 126, 127])
    taken = tflite_inspect.quantize_input(values, details_of(np.int16, 0.01, 0))
    assert taken.tolist() == [-1000, 0, 60, 25440, 30000]
    taken = tflite_inspect.quantize_input(values, details_of(np.float32, 0, 0))
    assert (taken.dtype, taken.tolist()) == (np.float32, values.astype(np.float32).tolist())
    back = tflite_inspect.dequantize_output(
        np.array([0, 128, 255], np.uint8), details_of(np.uint8, 0.5, 128)
    )
    assert (back.dtype, back.tolist()) == (np.float32, [-64.0, 0.0, 63.5])
    same = tflite_inspect.dequantize_output(np.ones(2, np.float32), details_of(np.float32, 0, 0))
    assert same.tolist() == [1.0, 1.0]


@pytest.fixture(scope="module")
def outlier_model() -> keras.Model:
    """A CNN in which `wide` makes one channel 300 times as large and `undo` takes that back."""
    keras.utils.set_random_seed(1)
    image = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 64, -2.0)(image)
    for name, stride in (("stem", 1), ("wide", 1), ("undo", 2), ("last", 2)):
        layer = keras.layers.Conv2D(
            16, 3, strides=stride, padding="same", activation="relu", name=name
        )
        x = layer(x)
    features = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, keras.layers.Dense(10, name="predictions")(features))
    for name, index, factor in (
        ("wide", (..., 3), 300),
        ("undo", (slice(None),) * 2 + (3,), 1 / 300),
    ):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[index] *= factor
        model.get_layer(name).set_weights([kernel, bias])
    kernel = np.random.default_rng(0).normal(0, 6, (16, 10))
    # Without a bias that takes the mean away, every picture would be of the same class.
    mean = np.mean(keras.Model(image, features)(coarse()), axis=0)
    model.get_layer("predictions").set_weights([kernel, -mean @ kernel])
    return model


def agreement(path: Path, model: keras.Model) -> float:
    (received,), (wanted,) = (run(path, coarse()).values(), expected(model, coarse()).values())
    return float((received.argmax(-1) == wanted.argmax(-1)).mean())


@pytest.mark.full
def test_outlier_channel_is_named_and_repaired(outlier_model: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    plain = source_of(outlier_model, tmp_path)
    tflite.write_int8(plain, path)
    assert agreement(path, outlier_model) < 0.7
    errors = layer_errors(plain, coarse()[:16])
    worst, second, third = list(errors)[:3]
    assert (worst, second) == ("wide", "undo")
    assert errors[worst] > 2 * errors[second] > 4 * errors[third]
    assert list(errors.values()) == sorted(errors.values(), reverse=True)
    for name in ("int8", "uint8-io", "int16x8"):
        WRITERS[name](source_of(outlier_model, tmp_path, keep_float=(worst, second)), path)
        assert tflite_inspect.float_layers(path) == ("wide", "undo")
        assert agreement(path, outlier_model) >= 0.95


def test_infinite_activations_are_refused(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, kernel_initializer="ones", name="grows")(image)
    x = keras.layers.Conv2D(4, 3, kernel_initializer="ones", name="bursts")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))
    for name in ("grows", "bursts"):
        layer = model.get_layer(name)
        layer.set_weights([1e18 * weight for weight in layer.get_weights()])
    with pytest.raises(
        ValueError, match="infinity or NaN in the output of bursts. Check that the network"
    ):
        tflite.calibrated_model(source_of(model, tmp_path))


def test_layers_to_keep_in_float_have_to_exist(tmp_path: Path) -> None:
    model = augmented()
    source = source_of(model, tmp_path)
    graph, names = parse(tflite.calibrated_model(source)), LayerNames(source)
    for layer, message in (
        ("conv2d_7", "layers of the network.*'conv2d_7'. Close matches: .*conv2d_1"),
        ("dropout", "'dropout', which has none. It may be part of '"),
    ):
        with pytest.raises(ValueError, match=f"Expected `keep_float`.*{message}"):
            nodes_of((layer,), graph, names)
    # `conv2d_1` is a layer, and what TensorFlow calls the scope of `conv2d`.
    kernels = {}
    for layer in ("conv2d", "conv2d_1", "dense", "dense_1"):
        (kernels[layer],) = nodes_of((layer,), graph, names)
    assert len(set(kernels.values())) == 4
    order = [
        graph.subgraphs[0].tensors[o.outputs[0]].name.decode() for o in graph.subgraphs[0].operators
    ]
    assert sorted(kernels, key=lambda layer: order.index(kernels[layer])) == list(kernels)


def augmented() -> keras.Model:
    """An ordinary Keras network, with layers that change images while training."""
    keras.utils.clear_session()
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.RandomFlip(),
            layers.RandomRotation(0.1),
            layers.RandomContrast(0.1),
            layers.Conv2D(8, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(4),
            layers.Conv2D(8, 3),
            layers.Dropout(0.2),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.Dense(5),
        ]
    )
    randomize(model)
    return model


def small(channels: int = 3, **fields: Any) -> keras.Model:
    fields = {"shortcut": "A", "mean": (120.0,) * channels, "std": (60.0,) * channels, **fields}
    config = ResNetConfig("basic", (1, 1), (8, 16), stem="cifar", **fields)
    model = build(config, input_shape=(32, 32, channels), classifier_activation=None)
    randomize(model)
    return model


KINDS: dict[str, Callable[[], keras.Model]] = {
    "v1 of 1 channel": lambda: small(1, version="v1", shortcut="B"),
    "v2 with SE": lambda: small(version="v2", se_ratio=0.25, stochastic_depth=0.2),
    "dilation, 6 channels": lambda: small(6, shortcut="B", output_stride=1),
    "features": lambda: feature_extractor(small()),
    "augmentation": augmented,
}


#: The other networks are among the longer proofs.
FEW = ("v2 with SE", "features")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in FEW else pytest.mark.full) for kind in KINDS]
)
def test_networks_of_all_kinds(kind: str, tmp_path: Path) -> None:
    model = KINDS[kind]()
    source = source_of(model, tmp_path)
    images = coarse(model.input_shape[-1])
    wanted = expected(model, images)
    for name in ("uint8-io", "int16x8"):
        path = tmp_path / f"{name}.tflite"
        WRITERS[name](source, path)
        received = run(path, images)
        assert set(received) == set(wanted)
        for output, value in wanted.items():
            assert relative_error(received[output], value) < 0.12, (name, output)


@pytest.mark.full
def test_group_normalisation_needs_float(tmp_path: Path) -> None:
    config = ResNetConfig("basic", (1,), (8,), stem="cifar", norm="group", norm_groups=4)
    model = build(config, input_shape=(32, 32, 3), classifier_activation=None)
    randomize(model)
    norms = tuple(layer.name for layer in model.layers if layer.name.endswith("_gn"))
    wanted = expected(model, coarse())["logits"]
    path = tmp_path / "model.tflite"
    for name in ("int8", "int16x8"):
        with pytest.raises(
            ValueError, match="(?s)one with NEG.*in the layers .*keep_float"
        ) as caught:
            WRITERS[name](source_of(model, tmp_path), path)
        assert all(norm in str(caught.value) for norm in norms)
        WRITERS[name](source_of(model, tmp_path, keep_float=norms), path)
        assert set(norms) <= set(tflite_inspect.float_layers(path))
        assert relative_error(run(path, coarse())["logits"], wanted) < 0.12


def test_fixed_batch_size(tiny_model: keras.Model, tmp_path: Path) -> None:
    wanted = expected(tiny_model, coarse()[:3])["probabilities"]
    path = tmp_path / "model.tflite"
    source = source_of(tiny_model, tmp_path, batch_size=3)
    tflite.write_uint8_io(source, path)
    assert tflite_inspect.describe(path)["inputs"][0]["shape"] == [3, 32, 32, 3]
    assert tflite_inspect.describe(path)["outputs"][0]["shape"] == [3, 10]
    received = run(path, coarse()[:3])["probabilities"]
    assert relative_error(received, wanted) < 0.12
    assert len(layer_errors(source, coarse()[:4])) > 8


def test_without_calibration_integers_are_refused(tiny_model: keras.Model, tmp_path: Path) -> None:
    source = dataclasses.replace(source_of(tiny_model, tmp_path), calibration=None)
    for name in ("int8", "uint8-io", "int16x8"):
        with pytest.raises(ValueError, match="Expected calibration images.*Received: none"):
            WRITERS[name](source, tmp_path / "model.tflite")
    assert not (tmp_path / "model.tflite").exists()
