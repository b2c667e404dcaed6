"""Normalisations without a convolution before them, as depthwise convolutions."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from keras_resnet import ResNetConfig, build
from keras_resnet.compression import quantize_aware, strip
from keras_resnet.export import load_runner
from keras_resnet.export.model import ExportedModel
from keras_resnet.export.options import ExportOptions
from keras_resnet.export.outputs import output_names
from keras_resnet.export.tflite import convert as tflite, inspect as tflite_inspect, ranges
from keras_resnet.export.tflite.flatbuffer import builtin, parse, serialize
from keras_resnet.export.tflite.norms import norms_as_convolutions
from keras_resnet.export.tflite.private import BuiltinOperator
from keras_resnet.models.info import get_info

from ...conftest import randomize

OPS = BuiltinOperator
V2 = ResNetConfig("basic", (2, 1), (8, 16), stem="cifar", version="v2")


def network(config: ResNetConfig = V2) -> keras.Model:
    """A network with values such as training leaves."""
    keras.utils.set_random_seed(0)
    model = build(config, input_shape=(16, 16, 3), classes=10)
    randomize(model)
    return model


def with_wide_scales() -> keras.Model:
    """The same network, but for the size of the channels that the blocks of stage 2 add to.

    Those that are thirty times as large have a thirtieth of the scale in the normalisations.
    """
    model, sizes = network(), np.geomspace(1, 30, 8).astype(np.float32)
    first = model.get_layer("conv1_bn")
    first.gamma.assign(first.gamma * sizes)
    first.beta.assign(first.beta * sizes)
    kernel = model.get_layer("conv2_block1_1_conv").kernel
    kernel.assign(kernel / sizes[:, None])
    for block in (1, 2):
        kernel = model.get_layer(f"conv2_block{block}_2_conv").kernel
        kernel.assign(kernel * sizes)
    for name in ("conv2_block2_preact_bn", "conv3_block1_preact_bn"):
        norm = model.get_layer(name)
        norm.moving_mean.assign(norm.moving_mean * sizes)
        norm.moving_variance.assign(norm.moving_variance * sizes**2)
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    random = np.random.default_rng(1)
    return random.integers(0, 256, (24, 4, 4, 3)).repeat(4, 1).repeat(4, 2).astype(np.float32)


@pytest.fixture(scope="module")
def source(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    model = with_wide_scales()
    np.testing.assert_allclose(model(images), network()(images), atol=1e-4)
    return ExportedModel(model, images, tmp_path_factory.mktemp("v2"), output_names(model))


def counts(content: bytes) -> dict[int, int]:
    model = parse(content)
    numbers = [builtin(model, operator) for operator in model.subgraphs[0].operators]
    return {number: numbers.count(number) for number in set(numbers)}


def outputs(content: bytes, images: np.ndarray) -> np.ndarray:
    interpreter = Interpreter(model_content=content)
    return np.asarray(interpreter.get_signature_runner()(image=images)["probabilities"])


def rewritten(content: bytes) -> bytes:
    model = parse(content)
    norms_as_convolutions(model)
    return serialize(model)


def test_the_same_numbers_come_out(source: ExportedModel, images: np.ndarray) -> None:
    content = tflite._float_model(source)
    after = rewritten(content)
    before_counts, after_counts = counts(content), counts(after)
    # One before the first block of stage 3, one in the second block of stage 2, one at the end.
    assert after_counts.get(OPS.DEPTHWISE_CONV_2D, 0) == 3
    assert OPS.DEPTHWISE_CONV_2D not in before_counts
    # Each was a product and a sum; the pixels' product stays, and the sums of the blocks.
    assert before_counts[OPS.MUL] - after_counts.get(OPS.MUL, 0) == 3
    assert before_counts[OPS.ADD] - after_counts[OPS.ADD] == 3
    assert after_counts[OPS.ADD] == 3
    received, wanted = outputs(after, images), source.model(images).numpy()
    np.testing.assert_allclose(received, outputs(content, images), atol=1e-5)
    np.testing.assert_allclose(received, wanted, atol=1e-4)


def test_pixels_and_folded_normalisations_stay(tmp_path: Path, images: np.ndarray) -> None:
    model = network(ResNetConfig("basic", (1, 1), (8, 16), stem="cifar"))
    content = tflite._float_model(ExportedModel(model, None, tmp_path, output_names(model)))
    assert counts(rewritten(content)) == counts(content)
    np.testing.assert_array_equal(outputs(rewritten(content), images), outputs(content, images))


def test_a_product_alone_is_one_too(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3))
    pooled = keras.layers.MaxPooling2D(2)(keras.layers.Conv2D(4, 3, activation="relu")(image))
    scale = np.array([0.5, -2.0, 3.0, 0.001], np.float32)
    scaled = keras.layers.Rescaling(scale.tolist())(pooled)
    head = keras.layers.Dense(3, activation="softmax")
    model = keras.Model(image, head(keras.layers.GlobalAveragePooling2D()(scaled)))
    source = ExportedModel(model, None, tmp_path, output_names(model))
    content = tflite._float_model(source)
    after = rewritten(content)
    assert counts(after)[OPS.DEPTHWISE_CONV_2D] == 1
    images = np.random.default_rng(0).uniform(0, 1, (3, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(outputs(after, images), outputs(content, images), atol=1e-6)


def relative_error(path: Path, model: keras.Model, images: np.ndarray) -> float:
    wanted = model(images).numpy()
    error = load_runner(path).predict(images) - wanted
    return float(np.sqrt(np.mean(error**2)) / wanted.std())


def test_int8_is_better_with_them(
    source: ExportedModel, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source.workspace / "with.tflite"
    tflite.write_int8(source, path)
    assert tflite_inspect.operators(path)["DEPTHWISE_CONV_2D"] == 3
    assert tflite_inspect.float_operators(path) == ()
    error = relative_error(path, source.model, images)
    without = ExportedModel(source.model, images, source.workspace, source.outputs)
    monkeypatch.setattr(ranges, "norms_as_convolutions", lambda model: None)
    path = source.workspace / "without.tflite"
    tflite.write_int8(without, path)
    assert "DEPTHWISE_CONV_2D" not in tflite_inspect.operators(path)
    assert error < 0.75 * relative_error(path, source.model, images)


@pytest.mark.full
def test_layers_keep_their_names(source: ExportedModel, images: np.ndarray) -> None:
    layer = "conv3_block1_preact_bn"
    for write in (tflite.write_int8, tflite.write_int16x8):
        options = ExportOptions(keep_float=(layer,))
        kept = ExportedModel(
            source.model, images, source.workspace, source.outputs, options=options
        )
        path = source.workspace / "kept.tflite"
        write(kept, path)
        (operator,) = tflite_inspect.float_operators(path)
        assert (operator.operator, operator.layers[0]) == ("DEPTHWISE_CONV_2D", layer)
        assert relative_error(path, source.model, images) < 0.15


def test_learned_ranges_are_those_of_the_convolutions(
    source: ExportedModel, images: np.ndarray, tmp_path: Path
) -> None:
    aware = quantize_aware(source.model, images)
    model = strip(aware)
    path = tmp_path / "model.tflite"
    tflite.write_int8(ExportedModel(model, None, tmp_path, source.outputs, get_info(model)), path)
    assert tflite_inspect.float_operators(path) == ()
    wanted = aware(images).numpy()
    error = load_runner(path).predict(images) - wanted
    assert np.sqrt(np.mean(error**2)) < 0.1 * wanted.std()
