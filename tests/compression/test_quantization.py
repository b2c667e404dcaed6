"""Quantization-aware networks, and the int8 artifacts that are made of them without images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from keras_resnet import ResNetConfig, build, load_model
from keras_resnet.compression import freeze_ranges, quantize_aware, strip
from keras_resnet.compression.layers import ActivationRange, compressed_layers, ranges
from keras_resnet.data import load_digits
from keras_resnet.export import export, load_runner
from keras_resnet.export.model import ExportedModel
from keras_resnet.export.onnx import quantize as onnx_int8
from keras_resnet.export.options import ExportOptions
from keras_resnet.export.outputs import output_names
from keras_resnet.export.tflite import convert as tflite, flatbuffer, inspect as tflite_inspect
from keras_resnet.export.tflite.private import BuiltinOperator
from keras_resnet.models.info import (
    CompressedKernels,
    KernelProperty,
    LearnedRanges,
    ModelInfo,
    get_info,
    learned_ranges,
    set_info,
)

from ..conftest import randomize

OPS = BuiltinOperator
BASIC = ResNetConfig("basic", (1, 1), (8, 16), stem="cifar")
BOTTLENECK = ResNetConfig("bottleneck", (1, 1), (8, 16), stem="cifar")
NETWORKS = {
    "v1": BOTTLENECK.replace(version="v1"),
    "v1.5": BOTTLENECK,
    "v2": BASIC.replace(version="v2"),
    "squeeze-excite": BASIC.replace(se_ratio=0.25),
    "groups": BOTTLENECK.replace(groups=2, width_per_group=32),
    "A": BASIC.replace(shortcut="A"),
    "average": BASIC.replace(downsample="average"),
}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    random = np.random.default_rng(1)
    return random.integers(0, 256, (16, 4, 4, 3)).repeat(4, 1).repeat(4, 2).astype(np.float32)


def network(config: ResNetConfig, **keywords: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = build(config, input_shape=(16, 16, 3), classes=10, **keywords)
    randomize(model)
    # Random heads are so sure that their probabilities hide errors.
    head = model.layers[-1]
    head.kernel.assign(head.kernel * 0.3)
    return model


def source_of(
    model: keras.Model, folder: Path, images: np.ndarray | None = None, **options: Any
) -> ExportedModel:
    names, info = output_names(model), get_info(model)
    return ExportedModel(model, images, folder, names, info, ExportOptions(**options))


def difference(one: Any, other: Any) -> float:
    return float(np.abs(np.asarray(one) - np.asarray(other)).mean())


def trained(model: keras.Model, images: np.ndarray, steps: int) -> keras.Model:
    """After some steps, so that neither weights nor ranges are those of the float network."""
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy")
    model.fit(images, np.arange(16) % 10, batch_size=8, epochs=steps // 2, verbose=0)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_stay_close(name: str, images: np.ndarray) -> None:
    model = network(NETWORKS[name])
    aware = quantize_aware(model, images)
    assert 1e-5 < difference(aware(images), model(images)) < 0.01
    # Inputs of every operator are integers: pixels are, and all others have ranges.
    places = set(ranges(aware))
    assert {"normalization", "conv1_relu", "conv2_block1_out", "avg_pool", "predictions"} <= places
    assert {layer.rounding for layer in compressed_layers(aware)} == {"channel"}
    names = {x.name for x in aware.layers if not isinstance(x, ActivationRange)}
    assert names == {layer.name for layer in model.layers}
    for layer in model.layers:
        if "bn" in layer.name:
            for one, other in zip(layer.weights, aware.get_layer(layer.name).weights, strict=True):
                np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_ranges_start_at_the_activations(images: np.ndarray) -> None:
    model = network(BASIC)
    found = ranges(quantize_aware(model, images, momentum=0.5))
    for name in ("normalization", "conv2_block1_1_relu", "conv2_block1_2_bn", "avg_pool"):
        seen = keras.Model(model.inputs, model.get_layer(name).output)([images]).numpy()
        # Kernels are rounded already.
        assert float(found[name].low) == pytest.approx(min(seen.min(), 0), abs=0.05)
        assert float(found[name].high) == pytest.approx(seen.max(), rel=0.02)
    assert {layer.momentum for layer in found.values()} == {0.5}
    # Before the softmax.
    assert float(found["predictions"].high) > 1


@dataclasses.dataclass(frozen=True)
class Case:
    """A network after some steps of training, and what became of it."""

    floating: keras.Model
    aware: keras.Model
    stripped: keras.Model
    source: ExportedModel


@pytest.fixture(
    scope="module",
    params=[
        "v2",
        *(pytest.param(name, marks=pytest.mark.full) for name in ("v1.5 SE groups", "A")),
    ],
)
def case(
    request: pytest.FixtureRequest, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    configs = {
        "v1.5 SE groups": NETWORKS["groups"].replace(se_ratio=0.25),
        "v2": NETWORKS["v2"],
        "A": NETWORKS["A"],
    }
    floating = network(configs[request.param])
    aware = trained(quantize_aware(floating, images, momentum=0.8), images, 30)
    stripped = strip(freeze_ranges(aware))
    return Case(floating, aware, stripped, source_of(stripped, tmp_path_factory.mktemp("files")))


@pytest.mark.parametrize("name", ["int8", "int8_io", "uint8_io", "int16x8"])
def test_tflite_computes_what_the_network_learned(
    name: str, case: Case, images: np.ndarray
) -> None:
    path = case.source.workspace / f"{name}.tflite"
    getattr(tflite, f"write_{name}")(case.source, path)
    assert tflite_inspect.float_operators(path) == ()
    received = load_runner(path).predict(images)
    wanted = case.aware(images).numpy()
    # Steps of probabilities are 1/256.
    assert difference(received, wanted) < 0.006
    assert difference(received, wanted) < 0.2 * difference(received, case.floating(images))


def test_tflite_has_the_learned_ranges(case: Case) -> None:
    path = case.source.workspace / "model.tflite"
    tflite.write_int8(case.source, path)
    known = learned_ranges(case.stripped)
    assert known is not None
    model = flatbuffer.read(path)
    graph = model.subgraphs[0]
    # A layer of several operators has its range behind the last of them that does not squash.
    tensors = {
        graph.tensors[operator.outputs[0]].name.decode().split(";")[-1].split(":")[0]: operator
        for operator in graph.operators
        if flatbuffer.builtin(model, operator) not in (OPS.LOGISTIC, OPS.SOFTMAX)
    }
    compared = {name: graph.tensors[op.outputs[0]] for name, op in tensors.items() if name in known}
    for name, tensor in compared.items():
        low, high = known[name]
        assert tensor.quantization.scale == [pytest.approx((high - low) / 255, rel=1e-5)], name
        zero = -128 - low / (high - low) * 255
        assert tensor.quantization.zeroPoint[0] == pytest.approx(zero, abs=0.51), name
    assert {"normalization", "conv2_block1_out", "avg_pool"} <= set(compared)
    assert len(compared) >= len(known) - 1


def test_onnx_has_the_learned_ranges(case: Case, images: np.ndarray) -> None:
    path = case.source.workspace / "model.onnx"
    onnx_int8.write_int8(case.source, path)
    received = load_runner(path).predict(images)
    # Its weights have 7 bits.
    wanted = case.aware(images).numpy()
    assert difference(received, wanted) < 0.02
    assert difference(received, wanted) < 0.5 * difference(received, case.floating(images))
    known = learned_ranges(case.stripped) or {}
    scales = [(high - low) / 255 for low, high in known.values()]
    graph = onnx.load(path).graph
    constants = {x.name: onnx.numpy_helper.to_array(x) for x in graph.initializer}
    steps = [constants[node.input[1]] for node in graph.node if node.op_type == "QuantizeLinear"]
    inside = [float(step) for step in steps if step.ndim == 0 and not np.isclose(step, 1)]
    # Scales that are not learned: pixels less their means, and what sigmoids put out.
    others = [s for s in inside if not np.isclose(scales, s, rtol=1e-4).any()]
    assert len(inside) - len(others) >= 6
    assert all(np.isclose([1 / 255, 275.145 / 255], s, rtol=1e-3).any() for s in others)


@pytest.mark.full
def test_images_change_nothing_that_is_learned(case: Case, images: np.ndarray) -> None:
    folder = case.source.workspace
    other = source_of(case.stripped, folder, 255 - images / 2)
    for source, name in ((case.source, "without"), (other, "with")):
        tflite.write_int8(source, folder / f"{name}.tflite")
    assert (folder / "with.tflite").read_bytes() == (folder / "without.tflite").read_bytes()


@pytest.fixture(scope="module")
def aware(images: np.ndarray) -> keras.Model:
    return quantize_aware(network(BASIC), images)


def test_ranges_hold_for_their_weights_only(aware: keras.Model, tmp_path: Path) -> None:
    model = strip(aware)
    known = learned_ranges(model)
    assert known is not None
    layer = ranges(aware)["conv1_relu"]
    assert known["conv1_relu"] == (float(layer.low), float(layer.high))
    # They are in files, of plain classes.
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert learned_ranges(loaded) == known
    assert not compressed_layers(loaded)
    norm = loaded.get_layer("conv1_bn")
    norm.gamma.assign(norm.gamma * 1.01)
    assert learned_ranges(loaded) is None
    with pytest.raises(ValueError, match="`calibration` images for the target 'tflite-int8'"):
        export(loaded, tmp_path / "out", ["tflite-int8"], timing=None)
    for write in (tflite.write_int8, onnx_int8.write_int8):
        with pytest.raises(ValueError, match="Expected calibration images for int"):
            write(source_of(loaded, tmp_path), tmp_path / "model")


def test_files_of_aware_networks_come_back(
    aware: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    """Here; `models/test_fresh_processes.py` loads them where nothing has been imported before."""
    aware.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), aware(images))
    ends = [
        {name: (float(x.low), float(x.high)) for name, x in ranges(model).items()}
        for model in (loaded, aware)
    ]
    assert ends[0] == ends[1]


@pytest.mark.full
def test_skipped_layers_stay_in_float(images: np.ndarray, tmp_path: Path) -> None:
    model = network(BASIC)
    name = "conv2_block1_2_conv"
    aware = quantize_aware(model, images, skip=[name])
    assert type(aware.get_layer(name)) is keras.layers.Conv2D
    assert "conv2_block1_2_bn" not in ranges(aware)
    assert len(ranges(aware)) == len(ranges(quantize_aware(model, images))) - 1
    stripped = strip(aware)
    source = source_of(stripped, tmp_path, images, keep_float=(name,))
    for write in (tflite.write_int8, tflite.write_int16x8):
        write(source, tmp_path / "model.tflite")
        assert name in tflite_inspect.float_layers(tmp_path / "model.tflite")
        assert difference(load_runner(tmp_path / "model.tflite").predict(images), aware(images)) < (
            0.006
        )
    # The sum takes in integers: without images, nobody knows their range.
    with pytest.raises(ValueError, match=f"Received: none, and no learned range of {name} and con"):
        tflite.write_int8(source_of(stripped, tmp_path, keep_float=(name,)), tmp_path / "model")


@pytest.mark.full
def test_mixed_precision_learns_for_the_same_artifact(images: np.ndarray, tmp_path: Path) -> None:
    aware = quantize_aware(network(BASIC, dtype="mixed_bfloat16"), images, momentum=0.8)
    assert aware.get_layer("conv2_block1_1_conv").compute_dtype == "bfloat16"
    trained(aware, images, 6)
    assert {weight.dtype for weight in aware.weights} == {"float32"}
    # In doubt between classes as it is, it has no top one that rounding could not change.
    report = export(
        freeze_ranges(aware),
        tmp_path,
        ("tflite-int8", "onnx-int8"),
        allow_disagreement=True,
        timing=None,
    )
    known = learned_ranges(strip(aware))
    assert known is not None
    assert set(known) == set(ranges(aware))
    for row in report.artifacts[1:]:
        received = load_runner(tmp_path / str(row.file_name)).predict(images)
        assert difference(received, aware(images)) < 0.03


@pytest.mark.full
def test_dead_units_can_be_exported(images: np.ndarray, tmp_path: Path) -> None:
    """A range of zeros has no step."""
    model = network(BASIC)
    model.get_layer("conv2_block1_1_bn").beta.assign(np.full(8, -1000.0))
    aware = quantize_aware(model, images)
    assert float(ranges(aware)["conv2_block1_1_relu"].high) == 0
    source = source_of(strip(aware), tmp_path)
    tflite.write_int8(source, tmp_path / "model.tflite")
    onnx_int8.write_int8(source, tmp_path / "model.onnx")
    for name, limit in (("model.tflite", 0.006), ("model.onnx", 0.02)):
        assert difference(load_runner(tmp_path / name).predict(images), aware(images)) < limit


def test_layers_without_an_int8_form_are_refused_by_name(images: np.ndarray) -> None:
    model = build(BASIC.replace(norm="group", norm_groups=4), input_shape=(16, 16, 3))
    with pytest.raises(ValueError, match=r"conv1_gn \(GroupNormalization\)|GroupNormalization\)"):
        quantize_aware(model, images)
    image = keras.Input((16, 16, 3))
    inner = keras.layers.Conv2D(4, 3, name="conv")(image)
    odd = keras.layers.Activation("silu", name="odd")(inner)
    leaky = keras.layers.ReLU(negative_slope=0.1, name="leaky")(odd)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D(name="pool")(leaky))
    message = r"odd \(silu\), leaky \(another ReLU\)\. Name these in `skip`"
    with pytest.raises(ValueError, match=message):
        quantize_aware(model, images)
    aware = quantize_aware(model, images, skip=["odd", "leaky"])
    assert set(ranges(aware)) == {"conv", "pool"}
    nested = keras.Sequential([keras.Input((16, 16, 3)), model], name="nested")
    with pytest.raises(ValueError, match="flat functional model.*Received: 'nested'"):
        quantize_aware(nested, images)


def test_impossible_calls_are_refused(aware: keras.Model, images: np.ndarray) -> None:
    plain = network(BASIC)
    with pytest.raises(ValueError, match="`skip` to name layers. Received: head"):
        quantize_aware(plain, images, skip=["head"])
    for wrong in (images[0], images[:0], images[..., :1], images[:, :8]):
        with pytest.raises(ValueError, match=r"images of shape \(None, 16, 16, 3\)"):
            quantize_aware(plain, wrong)
    with pytest.raises(
        ValueError, match=r"pixels of at most (1.0|0.99\d*), which seem to be divided"
    ):
        quantize_aware(plain, images / 255)
    with pytest.raises(ValueError, match="one from `quantize_aware`"):
        quantize_aware(aware, images)
    with pytest.raises(ValueError, match="Received: one without ranges"):
        freeze_ranges(plain)


def test_freezing_ends_what_was_traced_before(images: np.ndarray) -> None:
    """Keras keeps the step of the last `fit`, which would observe on."""
    aware = trained(quantize_aware(network(BASIC), images, momentum=0.5), images, 2)
    freeze_ranges(aware)
    ends = [float(x.high) for x in ranges(aware).values()]
    statistics = aware.get_layer("conv1_bn").moving_mean.numpy()
    # Batches of the same shape, or Keras would trace anew for that.
    aware.fit(images / 2, np.arange(16) % 10, batch_size=8, verbose=0)
    assert [float(x.high) for x in ranges(aware).values()] == ends
    np.testing.assert_array_equal(aware.get_layer("conv1_bn").moving_mean.numpy(), statistics)


def test_frozen_ranges_stay_in_training_and_in_files(images: np.ndarray, tmp_path: Path) -> None:
    model = freeze_ranges(quantize_aware(network(BASIC), images))
    model.save(tmp_path / "model.keras")
    model = load_model(tmp_path / "model.keras")

    def state() -> list[float]:
        norm = model.get_layer("conv1_bn")
        ends = [float(end) for x in ranges(model).values() for end in (x.low, x.high)]
        return [*ends, *norm.moving_mean.numpy(), *norm.gamma.numpy()]

    before, kernel = state(), model.get_layer("conv1_conv").kernel.numpy()
    trained(model, images, 4)
    assert state() == before
    assert np.abs(model.get_layer("conv1_conv").kernel.numpy() - kernel).max() > 0
    others = freeze_ranges(quantize_aware(network(BASIC), images), bn=False)
    assert others.get_layer("conv1_bn").trainable
    # Whoever thaws a network does not thaw its ranges.
    others.trainable = True
    assert not any(layer.observing for layer in ranges(others).values())


def test_info_survives_its_json() -> None:
    model = network(BASIC)
    known = {"a": (-1.5, 2.0)}
    kernels = CompressedKernels({"a": KernelProperty(3, 7)}, "y")
    set_info(model, ModelInfo(kernels=kernels, task="labels"))
    info = dataclasses.replace(get_info(model), weights="w")
    assert ModelInfo.from_json(info.to_json()) == info
    info = dataclasses.replace(info, ranges=LearnedRanges(known, "x"))
    assert ModelInfo.from_json(info.to_json()) == info


@pytest.mark.slow
def test_training_repairs_a_network_with_outliers(tmp_path: Path) -> None:
    """A channel that is three hundred times as large takes nearly all steps of its tensor."""
    train_data, test_data = load_digits(8)
    images, labels = train_data.images.astype(np.float32), train_data.labels
    keras.utils.set_random_seed(0)
    model = build(BASIC.replace(shortcut="A"), input_shape=(8, 8, 3), classes=10)

    def fit(network: keras.Model, epochs: int, rate: float) -> None:
        network.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        network.fit(images, labels, batch_size=64, epochs=epochs, verbose=0)

    def accuracy(probabilities: np.ndarray) -> float:
        return float((probabilities.argmax(-1) == test_data.labels).mean())

    def accuracy_in_int8(network: keras.Model, calibration: np.ndarray | None) -> float:
        path = tmp_path / "model.tflite"
        tflite.write_int8(source_of(network, tmp_path, calibration), path)
        return accuracy(load_runner(path).predict(test_data.images))

    fit(model, 6, 0.01)
    before = model.predict(test_data.images, verbose=0)
    assert accuracy(before) > 0.95
    for stage in (2, 3):
        norm = model.get_layer(f"conv{stage}_block1_1_bn")
        kernel = model.get_layer(f"conv{stage}_block1_2_conv").kernel
        factors = np.where(np.arange(norm.gamma.shape[0]) == norm.gamma.numpy().argmax(), 300, 1)
        norm.gamma.assign(norm.gamma * factors)
        norm.beta.assign(norm.beta * factors)
        kernel.assign(kernel / factors[:, None])
    np.testing.assert_allclose(model.predict(test_data.images, verbose=0), before, atol=1e-5)
    assert accuracy_in_int8(model, images[:64]) < 0.3
    aware = quantize_aware(model, images[:64])
    fit(aware, 24, 0.02)
    assert accuracy_in_int8(strip(aware), None) > 0.9
