"""Weights that share values: in Keras, in training, and in TFLite files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet import ResNetConfig, build
from keras_resnet.compression import cluster, prune, quantize_aware, strip
from keras_resnet.compression.clustering import _neighbors_together
from keras_resnet.compression.layers import compressed_layers
from keras_resnet.export.model import ExportedModel
from keras_resnet.export.outputs import output_names
from keras_resnet.export.runtime import load_runner
from keras_resnet.export.tflite import convert as tflite
from keras_resnet.export.tflite.flatbuffer import parse
from keras_resnet.export.tflite.kernels import _kernels, keep_properties
from keras_resnet.models.info import compressed_kernels, get_info

from ..conftest import randomize


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Logits of two blocks; a third of the normalisations' scales is negative."""
    keras.utils.set_random_seed(0)
    config = ResNetConfig("basic", (1, 1), (8, 16), stem="cifar")
    model = build(config, input_shape=(16, 16, 3), classes=10, classifier_activation=None)
    randomize(model)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma = layer.gamma.numpy()
            gamma[::3] *= -1
            layer.gamma.assign(gamma)
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    random = np.random.default_rng(1)
    return random.integers(0, 256, (16, 4, 4, 3)).repeat(4, 1).repeat(4, 2).astype(np.float32)


def gammas(model: keras.Model) -> np.ndarray:
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    return np.concatenate([norm.gamma.numpy() for norm in norms])


def source_of(model: keras.Model, folder: Path, calibration: np.ndarray | None) -> ExportedModel:
    return ExportedModel(model, calibration, folder, output_names(model), get_info(model))


def probabilities(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """What an artifact's runner gives of logits, too."""
    return np.asarray(keras.ops.softmax(model(images)))


def relative_error(path: Path, model: keras.Model, images: np.ndarray) -> float:
    wanted = probabilities(model, images)
    error = load_runner(path).predict(images) - wanted
    return float(np.sqrt(np.mean(error**2)) / wanted.std())


def test_layers_have_few_values(model: keras.Model) -> None:
    for clusters in (2, 16):
        network = cluster(model, clusters)
        for layer in compressed_layers(network):
            before = np.abs(model.get_layer(layer.name).kernel.numpy())
            values = np.unique(layer.final_kernel())
            assert len(values) == clusters
            # Every weight has the nearest value.
            kernel = layer.kernel.numpy()
            distances = np.abs(kernel[..., None] - values)
            np.testing.assert_array_equal(values[distances.argmin(-1)], layer.final_kernel())
            np.testing.assert_allclose(np.abs(kernel), before)
    names = {layer.name for layer in compressed_layers(cluster(model, 4, skip=["predictions"]))}
    assert names == {x.name for x in model.layers if hasattr(x, "kernel")} - {"predictions"}


def test_values_are_at_least_as_near_as_those_at_equal_distances(model: keras.Model) -> None:
    for layer in compressed_layers(cluster(model, 8)):
        kernel = layer.kernel.numpy()
        linear = np.linspace(kernel.min(), kernel.max(), 8)
        nearest = np.abs(kernel[..., None] - linear).min(-1)
        error = np.mean((layer.final_kernel() - kernel) ** 2)
        assert error < 0.95 * np.mean(nearest**2)
        # Each value is the mean of its weights: what k-means ends with.
        for value in np.unique(layer.final_kernel()):
            mean = kernel[layer.final_kernel() == value].mean()
            assert value == pytest.approx(float(mean), abs=0.02 * float(np.ptp(kernel)))


def test_many_values_are_taken_together_by_their_means() -> None:
    values = np.sort(np.random.default_rng(0).normal(size=20_000))
    counts = np.random.default_rng(1).integers(1, 5, 20_000)
    means, together = _neighbors_together(values, counts)
    assert len(means) == 8192
    assert (np.diff(means) > 0).all()
    assert together.sum() == counts.sum()
    assert (means * together).sum() == pytest.approx((values * counts).sum())
    assert _neighbors_together(values[:9], counts[:9])[0] is not None
    np.testing.assert_array_equal(_neighbors_together(values[:9], counts[:9])[0], values[:9])


def test_one_large_weight_leaves_values_for_the_others(model: keras.Model) -> None:
    network = keras.models.clone_model(model)
    network.set_weights(model.get_weights())
    layer = network.get_layer("conv2_block1_1_conv")
    kernel = layer.kernel.numpy()
    kernel[0, 0, 0, 1] = 1e6
    layer.kernel.assign(kernel)
    found = cluster(network, 16).get_layer(layer.name).final_kernel()
    assert 2 <= len(np.unique(found)) <= 16
    assert found[0, 0, 0, 1] == 1e6


def test_few_values_are_kept_exactly(model: keras.Model) -> None:
    network = keras.models.clone_model(model)
    network.set_weights(model.get_weights())
    layer = network.get_layer("predictions")
    kernel = np.random.default_rng(0).choice([-0.5, 0.125, 3.0], layer.kernel.shape)
    layer.kernel.assign(kernel)
    clustered = cluster(network, 16)
    np.testing.assert_array_equal(clustered.get_layer("predictions").final_kernel(), kernel)
    layer.kernel.assign(kernel * 0)
    clustered = cluster(prune(network, 0.5), 16)
    np.testing.assert_array_equal(clustered.get_layer("predictions").final_kernel(), 0)


def test_negative_scales_become_positive(model: keras.Model, images: np.ndarray) -> None:
    assert (gammas(model) < 0).any()
    network = cluster(model, 16)
    np.testing.assert_allclose(gammas(network), np.abs(gammas(model)))
    # The same network, but for the clusters: with the kernels as they were.
    for layer in compressed_layers(network):
        layer.clusters = 0
    wanted = model(images).numpy()
    np.testing.assert_allclose(network(images), wanted, atol=2e-5 * np.abs(wanted).max())


def test_outputs_with_other_users_keep_their_signs() -> None:
    image = keras.Input((4, 4, 3))
    conv = keras.layers.Conv2D(4, 1, name="conv")(image)
    norm = keras.layers.BatchNormalization(name="norm")(conv)
    model = keras.Model(image, keras.layers.Add()([conv, norm]))
    model.get_layer("norm").gamma.assign([-1, 1, -2, 2])
    network = cluster(model, 16)
    np.testing.assert_array_equal(network.get_layer("norm").gamma, [-1, 1, -2, 2])
    pixels = np.random.default_rng(0).normal(size=(2, 4, 4, 3))
    # Twelve weights keep their values among sixteen.
    np.testing.assert_allclose(network(pixels), model(pixels), atol=1e-5)


def test_training_changes_the_values_only(model: keras.Model, images: np.ndarray) -> None:
    network = cluster(prune(model, 0.5, skip=()), 8)
    before = {x.name: [w.numpy() for w in x.weights] for x in compressed_layers(network)}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(0.3, momentum=0.9, weight_decay=0.01), loss)
    network.get_layer("conv1_bn").gamma.assign(np.full(8, 0.01))
    network.fit(images, np.arange(16) % 10, batch_size=8, epochs=3, verbose=0)
    assert (gammas(network) >= 0).all()
    for layer in compressed_layers(network):
        for weight, value in zip(layer.weights, before[layer.name], strict=True):
            changes = weight.path.split("/")[-1] in ("centroids", "bias")
            assert np.array_equal(weight.numpy(), value) != changes, weight.path
        kernel = layer.final_kernel()
        assert np.mean(kernel == 0) >= 0.5
        assert len(np.unique(kernel)) <= 8


@pytest.mark.parametrize("sparsity", [pytest.param(None, marks=pytest.mark.full), 0.5])
def test_a_step_is_the_mean_of_those_of_its_weights(
    sparsity: float | None, model: keras.Model, images: np.ndarray
) -> None:
    network = cluster(model if sparsity is None else prune(model, sparsity, skip=()), 8)
    plain = strip(network)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    before = [layer.final_kernel() for layer in compressed_layers(network)]
    for one in (network, plain):
        one.compile(keras.optimizers.SGD(0.1), loss)
        one.fit(images, np.arange(16) % 10, batch_size=16, verbose=0)
    for layer, old in zip(compressed_layers(network), before, strict=True):
        steps = plain.get_layer(layer.name).kernel.numpy() - old
        shared = layer.final_kernel() - old
        assert np.abs(shared).max() > 0
        for value in np.unique(old):
            places = old == value
            wanted = 0 if sparsity and value == 0 else steps[places].mean()
            np.testing.assert_allclose(shared[places], wanted, atol=1e-6)


def test_zeros_of_pruning_are_one_of_the_values(model: keras.Model) -> None:
    network = cluster(prune(model, 0.6, skip=()), 5)
    for layer in compressed_layers(network):
        kernel = layer.final_kernel()
        values = np.unique(kernel)
        assert len(values) == 5
        assert 0 in values
        assert np.mean(kernel == 0) == pytest.approx(0.6, abs=0.02)
    found = compressed_kernels(strip(network))
    assert {kernel.distinct for kernel in found.values()} == {5}


def test_impossible_clusters_are_refused(model: keras.Model) -> None:
    for clusters in (1, 257):
        with pytest.raises(ValueError, match=f"from 2 to 256 `clusters`. Received: {clusters}"):
            cluster(model, clusters)
    with pytest.raises(ValueError, match="from 3 to 256 `clusters`. Received: 2"):
        cluster(prune(model, 0.5), 2)
    with pytest.raises(ValueError, match="`skip` to name layers with kernels.*conv1_bn"):
        cluster(model, 8, skip=["conv1_bn"])
    with pytest.raises(ValueError, match="Received: predictions, which already are"):
        others = [x.name for x in model.layers if hasattr(x, "kernel") and x.name != "predictions"]
        cluster(cluster(model, 8, skip=others), 4)


@pytest.fixture(scope="module")
def small(model: keras.Model, images: np.ndarray) -> keras.Model:
    """Pruned, clustered and ready for int8."""
    return quantize_aware(cluster(prune(model, 0.5, skip=()), 8), images)


@pytest.fixture(scope="module")
def source(small: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    return source_of(strip(small), tmp_path_factory.mktemp("files"), None)


@pytest.mark.parametrize(
    "name",
    [
        "int8",
        *(
            pytest.param(name, marks=pytest.mark.full)
            for name in ("int16x8", "float32", "float16", "dynamic")
        ),
    ],
)
def test_files_keep_values_and_zeros(
    name: str,
    source: ExportedModel,
    small: keras.Model,
    images: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[tuple[str, np.ndarray, np.ndarray]] = []

    def spy(model: Any, source: ExportedModel) -> None:
        keep_properties(model, source)
        for kernel in _kernels(model, source):
            data = bytes(model.buffers[kernel.tensor.buffer].data)
            dtype = {0: np.float32, 1: np.float16, 9: np.int8}[kernel.tensor.type]
            written = np.frombuffer(data, dtype).reshape(kernel.values.shape)
            found.append((kernel.layer, kernel.values, written))

    monkeypatch.setattr(tflite, "keep_properties", spy)
    path = source.workspace / f"{name}.tflite"
    getattr(tflite, f"write_{name}")(source, path)
    assert {layer for layer, *_ in found} == {x.name for x in compressed_layers(small)}
    for layer, values, written in found:
        assert np.mean(values == 0) >= 0.49
        assert not written[values == 0].any(), layer
        # In float, each channel has a scale of its own from its normalisation.
        for part in [written] if written.dtype == np.int8 else written:
            assert len(np.unique(part)) <= 8, layer
    assert relative_error(path, small, images) < 0.05


@pytest.mark.full
def test_quantized_before_it_is_clustered(
    model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    network = cluster(quantize_aware(model, images), 6)
    assert {layer.rounding for layer in compressed_layers(network)} == {"tensor"}
    # Sharing values has moved activations beyond the ends that were learned before.
    source = source_of(strip(network), tmp_path, images)
    tflite.write_int8(source, tmp_path / "model.tflite")
    assert relative_error(tmp_path / "model.tflite", network, images) < 0.1


def test_files_without_the_property_are_refused(source: ExportedModel) -> None:
    content = tflite._float_model(source)

    def changed(layer: str, zeros: bool) -> Any:
        file = parse(content)
        kernel = next(x for x in _kernels(file, source) if x.layer == layer)
        values = np.frombuffer(bytes(file.buffers[kernel.tensor.buffer].data), np.float32).copy()
        (places,) = np.nonzero((values == 0) == zeros)
        values[places[:9]] = np.arange(1, 10) * 0.37
        file.buffers[kernel.tensor.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
        return file

    keep_properties(parse(content), source)
    with pytest.raises(ValueError, match=r"zeros of layer 'conv2_block1_2_conv'.*Received: 9 "):
        keep_properties(changed("conv2_block1_2_conv", True), source)
    # More than half of the weights are zero; nine others in one channel are too many values.
    message = r"at most 8 distinct weights in layer 'conv3_block1_1_conv'. Received: \d+ in"
    with pytest.raises(ValueError, match=message):
        keep_properties(changed("conv3_block1_1_conv", False), source)


@pytest.mark.full
def test_scales_that_are_negative_again_are_told(
    model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    """Folded into the kernel, they would double the number of values."""
    clustered = cluster(model, 8)
    norm = clustered.get_layer("conv2_block1_1_bn")
    norm.gamma.assign(norm.gamma * np.array([1, -1] * 4))
    network = strip(clustered)
    with pytest.raises(ValueError, match=r"at most 8 .* layer 'conv2_block1_1_conv'.*Received: 1"):
        tflite.write_int8(source_of(network, tmp_path, images), tmp_path / "model.tflite")


def test_weights_that_were_trained_since_are_free(
    model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    network = strip(cluster(model, 4))
    layer = network.get_layer("predictions")
    layer.kernel.assign(np.random.default_rng(0).normal(size=layer.kernel.shape))
    tflite.write_int8(source_of(network, tmp_path, images), tmp_path / "model.tflite")
    assert relative_error(tmp_path / "model.tflite", network, images) < 0.1
