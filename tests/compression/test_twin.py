"""The tf_keras twin of a network computes the same, and weights go there and back."""

from __future__ import annotations

import importlib
import inspect
import itertools
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_resnet import ResNetConfig, build, list_models
from keras_resnet.compression import copy_from_twin, copy_to_twin, to_tf_keras
from keras_resnet.networks.graph import inputs_of
from keras_resnet.networks.table import VARIANTS
from keras_resnet.support.extras import require

from ..conftest import Run, randomize

pytestmark = pytest.mark.filterwarnings("ignore:The last stage sees")


def tiny(config: ResNetConfig) -> ResNetConfig:
    """Two narrow stages, with every kind of layer and call that `config` has."""
    # The first bottleneck always projects; a block whose input passes unchanged has to follow.
    blocks = (1, 1) if config.block == "basic" else (1, 2)
    changes: dict[str, Any] = {"blocks": blocks, "filters": (8, 16)}
    if config.stem_filters is not None:
        changes["stem_filters"] = 8
    if config.norm == "group":
        changes["norm_groups"] = 4
    if config.groups > 1:
        changes |= {"groups": 4, "width_per_group": 32}
    return config.replace(**changes)


#: Tiny config -> the entries of `list_models` that it stands for.
NETWORKS: dict[ResNetConfig, list[str]] = {}
for _name in list_models():
    NETWORKS.setdefault(tiny(VARIANTS[_name]), []).append(_name)

_SMALL = ResNetConfig("basic", (1,), (8,), stem="cifar")
_BASIC = ResNetConfig("basic", (1, 1), (8, 16))
_BOTTLENECK = ResNetConfig("bottleneck", (1, 2), (8, 16))
OPTIONS = {
    "A bottleneck, blur": _BOTTLENECK.replace(shortcut="A", blur_pool=True, stem="C"),
    "v1 C, dilation, groups": _BOTTLENECK.replace(
        version="v1",
        shortcut="C",
        blocks=(1, 1, 2),
        filters=(8, 8, 8),
        output_stride=8,
        groups=2,
        width_per_group=32,
    ),
    "v2 C, unit_norm, depth": _BASIC.replace(
        version="v2", shortcut="C", preact_layout="unit_norm", stochastic_depth=0.5
    ),
    "v2 biases": _BOTTLENECK.replace(
        version="v2", preact_layout="unit_norm_stride_last", blocks=(2, 2)
    ),
    "GN, SE, groups": _BOTTLENECK.replace(
        norm="group", norm_groups=4, se_ratio=0.25, groups=2, width_per_group=32
    ),
}


def network(config: ResNetConfig = _SMALL, **keywords: Any) -> keras.Model:
    """A network with values such as training leaves; logits, as probabilities hide errors."""
    keras.utils.set_random_seed(0)
    size = 16 if config.stem == "cifar" else 56
    keywords = {"input_shape": (size, size, 3), "classes": 5, **keywords}
    if keywords.get("include_top", True):
        keywords = {"classifier_activation": None, **keywords}
    model = build(config, **keywords)
    randomize(model)
    return model


def pictures(model: keras.Model, count: int = 2) -> np.ndarray:
    """Noise of the model's size, uint8."""
    shape = [side or 40 for side in model.input_shape[1:]]
    return np.random.default_rng(1).integers(0, 256, (count, *shape), dtype=np.uint8)


def assert_equal_outputs(model: keras.Model, twin: Any, inputs: Any, **call: Any) -> None:
    ours = keras.tree.flatten(model(inputs, **call))
    theirs = keras.tree.flatten(twin(inputs, **call))
    assert len(ours) == len(theirs)
    for expected, output in zip(ours, theirs, strict=True):
        expected = np.asarray(keras.ops.convert_to_numpy(expected), "float32")
        assert np.ptp(expected) > 1e-3
        # 1e-5 of probabilities; of others, in the unit of the largest.
        limit = 1e-5 * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(np.asarray(output), expected, rtol=0, atol=limit)


def origins(twin: Any) -> dict[str, list[str]]:
    """`keras_resnet.networks.graph.inputs_of` of a tf_keras model."""
    found = {}
    for layer in twin.get_config()["layers"]:
        calls = layer["inbound_nodes"]
        # A tensor alone is (layer, call, output, arguments); several are a list of those.
        nodes = [node if isinstance(node[0], (list, tuple)) else [node] for node in calls]
        found[layer["name"]] = [place[0] for node in nodes for place in node]
    return found


@pytest.fixture
def tfmot(monkeypatch: pytest.MonkeyPatch) -> Any:
    """tensorflow-model-optimization without its trace in the environment of later processes."""
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    return importlib.import_module("tensorflow_model_optimization")


NAMES = {config: names[0] for config, names in NETWORKS.items()}
NAMES |= {config: name for name, config in OPTIONS.items()}


@pytest.mark.parametrize(
    "config",
    [
        *(pytest.param(config, marks=pytest.mark.full) for config in list(NETWORKS)[3:]),
        *list(NETWORKS)[:3],
        *OPTIONS.values(),
    ],
    ids=lambda config: NAMES[config],
)
def test_twins_equal_their_networks(config: ResNetConfig) -> None:
    model = network(config)
    twin = to_tf_keras(model)
    assert_equal_outputs(model, twin, pictures(model))
    assert origins(twin) == inputs_of(model)
    assert isinstance(twin, require("tf_keras").Model)
    assert twin.name == model.name


def test_tiny_networks_stand_for_all() -> None:
    assert sorted(itertools.chain(*NETWORKS.values())) == sorted(list_models())
    values = {
        field: {getattr(config, field) for config in NETWORKS}
        for field in ("block", "version", "shortcut", "stem", "downsample", "norm", "blur_pool")
    }
    for field, found in values.items():
        assert found == {getattr(config, field) for config in VARIANTS.values()}, field


@pytest.mark.parametrize(
    "keywords",
    [
        {"include_top": False, "pooling": "avg"},
        {"include_top": False, "pooling": "max", "include_preprocessing": False},
        {"input_shape": (16, 24, 1), "classifier_activation": "sigmoid"},
        {"input_shape": (None, None, 3), "classifier_activation": "softmax"},
        {
            "config": _BASIC.replace(norm="group", norm_groups=4, blur_pool=True),
            "input_shape": (None, None, 3),
            "include_top": False,
        },
    ],
)
def test_heads_and_inputs(keywords: dict[str, Any]) -> None:
    model = network(**keywords)
    twin = to_tf_keras(model)
    assert twin.input_shape == model.input_shape
    assert twin.output_shape == model.output_shape
    assert_equal_outputs(model, twin, pictures(model).astype("float32") / 64)


def test_mixed_precision_becomes_float32() -> None:
    for policy in ("mixed_float16", "bfloat16"):
        model, exact = network(dtype=policy), network()
        twin = to_tf_keras(model)
        assert {layer.compute_dtype for layer in twin.layers} == {"float32"}
        assert {variable.dtype.name for variable in twin.weights} == {"float32"}
        copy_from_twin(twin, exact)
        assert_equal_outputs(exact, twin, pictures(model))
        values = [weight.astype("float32") for weight in model.get_weights()]
        copy_from_twin(twin, model)
        for before, after in zip(values, model.get_weights(), strict=True):
            np.testing.assert_array_equal(after.astype("float32"), before)


def test_trainable_flags_and_frozen_statistics() -> None:
    model = network()
    for layer in model.layers:
        layer.trainable = not isinstance(layer, layers.BatchNormalization)
    twin = to_tf_keras(model)
    assert {layer.name: layer.trainable for layer in twin.layers} == {
        layer.name: layer.trainable for layer in model.layers
    }
    assert len(twin.trainable_weights) == len(model.trainable_weights) < len(model.weights)
    # A frozen BN normalises by its moving statistics even in training.
    assert_equal_outputs(model, twin, pictures(model), training=True)
    model.trainable = False
    model.get_layer("predictions").trainable = True
    twin = to_tf_keras(model)
    assert twin.trainable is False
    assert [layer.name for layer in twin.layers if layer.trainable] == ["predictions"]


def test_training_moves_the_variance_to_the_unbiased_estimate() -> None:
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, layers.BatchNormalization(momentum=0.0, name="bn")(image))
    twin = to_tf_keras(model)
    values = np.random.default_rng(0).normal(size=(2, 4, 4, 1)).astype("float32")
    assert_equal_outputs(model, twin, values, training=True)
    biased, unbiased = float(values.var()), float(values.var(ddof=1))
    assert float(model.get_layer("bn").moving_variance[0]) == pytest.approx(biased, rel=1e-4)
    assert float(twin.get_layer("bn").moving_variance[0]) == pytest.approx(unbiased, rel=1e-4)


def test_stochastic_depth_drops_whole_images() -> None:
    image = keras.Input((4, 4, 2))
    drop = layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), name="drop")
    twin = to_tf_keras(keras.Model(image, drop(image)))
    output = twin(np.ones((64, 4, 4, 2), "float32"), training=True).numpy().reshape(64, -1)
    assert {tuple(np.unique(row)) for row in output} == {(0.0,), (2.0,)}


def other_layers() -> keras.Model:
    """The layers that networks of this package have not, but that are in the table."""
    image = keras.Input((8, 8, 4), name="image")
    scaled = layers.Rescaling([0.5, 1.0, 2.0, 3.0], offset=-1.0, name="scaled")(image)
    blurred = layers.DepthwiseConv2D(3, padding="same", activation="silu", name="blur")(scaled)
    limited = layers.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.5, name="relu")(scaled)
    joined = layers.Concatenate(name="joined")([blurred, limited])
    turned = layers.Permute((2, 1, 3), name="turned")(joined)
    rows = layers.Reshape((8, -1), name="rows")(turned)
    padded = keras.ops.pad(turned, ((0, 0), (1, 2), (0, 0), (0, 0)))
    return keras.Model(
        {"image": image},
        {
            "soft": layers.Softmax(axis=1, name="soft")(rows),
            "flat": layers.Flatten(name="flat")(padded),
            "gelu": layers.Activation("gelu", name="gelu")(joined),
        },
        name="others",
    )


def test_the_other_layers_and_structured_outputs() -> None:
    model = other_layers()
    twin = to_tf_keras(model)
    values = {"image": np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype("float32")}
    assert list(twin(values)) == list(model(values)) == ["soft", "flat", "gelu"]
    assert_equal_outputs(model, twin, values)


@pytest.mark.parametrize("name", ["silu", "gelu", "mish", "elu", "selu", "softplus", "softsign"])
def test_activations_are_the_same_functions(name: str) -> None:
    vector = keras.Input((41,))
    model = keras.Model(vector, layers.Activation(name, name="act")(vector))
    values = np.linspace(-5, 5, 41, dtype="float32")[None]
    assert_equal_outputs(model, to_tf_keras(model), values)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_inputs_keep_their_order(order: tuple[int, int]) -> None:
    image = keras.Input((4,), name="image")
    twice = layers.Rescaling(2.0, name="twice")(image)
    ten = layers.Rescaling(10.0, name="ten")(image)
    pair = [(twice, ten)[index] for index in order]
    both = layers.Concatenate(name="both")(pair), layers.Add(name="sum")(pair)
    model = keras.Model(image, both)
    twin = to_tf_keras(model)
    values = np.arange(8, dtype="float32").reshape(2, 4)
    factors = np.array([2.0, 10.0])[list(order)]
    np.testing.assert_allclose(twin(values)[0], np.hstack([values * f for f in factors]))
    assert origins(twin)["sum"] == [("twice", "ten")[index] for index in order]


def test_shared_layers_are_shared() -> None:
    first, second = keras.Input((3,), name="first"), keras.Input((3,), name="second")
    dense = layers.Dense(3, name="dense")
    inner = dense(first)
    model = keras.Model([second, first], layers.Add(name="sum")([dense(inner), dense(second)]))
    twin = to_tf_keras(model)
    assert len(twin.weights) == 2
    values = [np.eye(3, dtype="float32"), np.full((3, 3), 2.0, "float32")]
    assert_equal_outputs(model, twin, values)


def test_adapted_normalization() -> None:
    image = keras.Input((3,), name="image")
    adapted = layers.Normalization(name="adapted")
    adapted.adapt(np.random.default_rng(0).normal(5, 3, (64, 3)))
    model = keras.Model(image, adapted(image))
    twin = to_tf_keras(model)
    values = np.random.default_rng(1).normal(5, 3, (8, 3)).astype("float32")
    assert_equal_outputs(model, twin, values)
    mean, variance, count = adapted.get_weights()
    twin.get_layer("adapted").set_weights([mean + 1, variance * 4, count])
    copy_from_twin(twin, model)
    np.testing.assert_allclose(model(values), (values - mean - 1) / np.sqrt(variance * 4), 1e-5)


def test_weights_go_there_and_back() -> None:
    model = network(OPTIONS["v2 biases"])
    twin = to_tf_keras(model)
    random = np.random.default_rng(3)
    changed = [random.uniform(0.5, 1, weight.shape) for weight in model.get_weights()]
    model.set_weights(changed)
    copy_to_twin(model, twin)
    for layer in model.layers:
        for ours, theirs in zip(
            layer.get_weights(), twin.get_layer(layer.name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    twin.set_weights([weight + 0.25 for weight in twin.get_weights()])
    copy_from_twin(twin, model)
    for before, after in zip(changed, model.get_weights(), strict=True):
        np.testing.assert_array_equal(after, before.astype("float32") + np.float32(0.25))
    assert_equal_outputs(model, twin, pictures(model))


def test_copies_of_what_does_not_match_are_refused_before_anything_is_copied() -> None:
    model, other = network(), network(classes=4)
    twin = to_tf_keras(model)
    before = other.get_weights()
    with pytest.raises(ValueError, match=r"'predictions' with .*\(8, 4\).*\(8, 5\)"):
        copy_from_twin(twin, other)
    with pytest.raises(ValueError, match="'predictions', which the Keras 3 model lacks"):
        copy_from_twin(twin, network(include_top=False))
    with pytest.raises(ValueError, match="'predictions', which the twin lacks"):
        copy_to_twin(other, to_tf_keras(network(include_top=False)))
    for value, now in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(value, now)


@pytest.mark.full
def test_quantize_aware_training_takes_a_twin(tfmot: Any) -> None:
    model = network(tiny(VARIANTS["resnet18"]), include_preprocessing=False)
    twin = to_tf_keras(model)
    quantized = tfmot.quantization.keras.quantize_model(twin)
    assert "quant_conv2_block1_1_conv" in {layer.name for layer in quantized.layers}
    images = pictures(model).astype("float32") / 128 - 1
    assert quantized(images).shape == (2, 5)
    with pytest.raises(ValueError, match="Strip the wrappers"):
        copy_from_twin(quantized, model)


def test_pruning_takes_a_twin_and_its_weights_come_back(tfmot: Any) -> None:
    config = OPTIONS["v2 C, unit_norm, depth"].replace(blur_pool=True)
    model = network(config, include_preprocessing=False)
    twin = to_tf_keras(model)
    kernels = [weight for weight in twin.trainable_weights if "kernel" in weight.name]
    for kernel in kernels:
        kernel.assign(np.where(kernel.numpy() > 0, kernel.numpy(), 0))
    sparsity = tfmot.sparsity.keras
    wrapped = sparsity.prune_low_magnitude(
        twin, pruning_schedule=sparsity.ConstantSparsity(0.5, begin_step=0)
    )
    images = pictures(model).astype("float32") / 128 - 1
    assert wrapped(images).shape == (2, 5)
    stripped = sparsity.strip_pruning(wrapped)
    copy_from_twin(stripped, model)
    assert_equal_outputs(model, stripped, images)
    kernel = model.get_layer("conv3_block1_1_conv").get_weights()[0]
    assert 0.3 < np.mean(kernel == 0) < 0.7


def refused(output: Callable[[Any], Any]) -> keras.Model:
    image = keras.Input((8, 8, 4), name="image")
    return keras.Model(image, output(image), name="model")


REFUSED = {
    r"act \(Activation with activation='hard_sigmoid'\)$": lambda x: layers.Activation(
        "hard_sigmoid", name="act"
    )(x),
    r"act \(Activation with activation='relu6'\)$": lambda x: layers.Activation(
        "relu6", name="act"
    )(x),
    r"conv \(Conv2D with kernel_regularizer=.*L2": lambda x: layers.Conv2D(
        1, 1, kernel_regularizer="l2", name="conv"
    )(x),
    r"bn \(BatchNormalization with renorm=True": lambda x: layers.BatchNormalization(
        renorm=True, name="bn"
    )(x),
    r"odd \(PReLU\), worse \(LayerNormalization\)$": lambda x: layers.LayerNormalization(
        name="worse"
    )(layers.PReLU(name="odd")(x)),
    r"drop \(Dropout called with training\)$": lambda x: layers.Dropout(0.5, name="drop")(
        x, training=True
    ),
    r"\w+ \(operation Add\)$": lambda x: x + x,
    r"\w+ \(operation Absolute\)$": lambda x: keras.ops.abs(x),
    r"pad\w* \(Pad with mode='wrap'\)$": lambda x: keras.ops.pad(
        x, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="wrap"
    ),
    r"pad\w* \(Pad called with constant_values\)$": lambda x: keras.ops.pad(
        x, ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=3.0
    ),
    r"inner \(Functional\). Rebuild the model without nested": lambda x: keras.Model(
        x, x * 2, name="inner"
    )(x),
}


@pytest.mark.parametrize("message", REFUSED, ids=range(len(REFUSED)))
def test_layers_without_an_equal_are_named(message: str) -> None:
    expected = f"^Expected a network of layers with an equivalent in tf_keras. Received: {message}"
    with pytest.raises(ValueError, match=expected):
        to_tf_keras(refused(REFUSED[message]))


class Conv2D(layers.Conv2D):
    """Not what its name says."""

    def call(self, inputs: Any) -> Any:
        return 2 * super().call(inputs)


def test_own_classes_and_models_without_a_graph_are_refused() -> None:
    with pytest.raises(ValueError, match=r"own \(Conv2D\)"):
        to_tf_keras(refused(Conv2D(1, 1, name="own")))
    stack = keras.Sequential([layers.Dense(2)], name="stack")
    with pytest.raises(ValueError, match=r"functional .*Received: 'stack' \(Sequential\)"):
        to_tf_keras(stack)
    with pytest.raises(ValueError, match="functional .*Received: 3"):
        to_tf_keras(3)


def test_depth_is_not_limited_by_recursion() -> None:
    limit, depth = sys.getrecursionlimit(), len(inspect.stack())
    vector = x = keras.Input((2,))
    for number in range(400):
        x = layers.Activation("linear", name=f"layer{number}")(x)
    model = keras.Model(vector, x)
    try:
        # Enough for every call within a layer, but not for a step per layer.
        sys.setrecursionlimit(depth + 300)
        assert len(to_tf_keras(model).layers) == 401
    finally:
        sys.setrecursionlimit(limit)


_TWIN = """
import numpy as np
from keras_resnet.compression import copy_from_twin, to_tf_keras
config = keras_resnet.ResNetConfig("basic", (1,), (8,), stem="cifar")
model = keras_resnet.build(config, input_shape=(8, 8, 3), classifier_activation=None)
twin = to_tf_keras(model)
x = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype("float32")
first = np.abs(np.asarray(model(x)) - np.asarray(twin(x))).max()
twin.set_weights([weight * 1.5 for weight in twin.get_weights()])
copy_from_twin(twin, model)
second = np.abs(np.asarray(model(x)) - np.asarray(twin(x))).max()
print(keras.backend.backend(), keras.__version__[0], tf_keras.__version__[0],
      first < 1e-4, second < 1e-4, np.ptp(np.asarray(model(x))) > 0.1)
"""


@pytest.mark.full
@pytest.mark.parametrize(
    ("imports", "backend"),
    [
        ("import tf_keras, keras, keras_resnet", "tensorflow"),
        ("import keras, keras_resnet, tf_keras", "jax"),
        ("import tensorflow_model_optimization, tf_keras, keras, keras_resnet", "tensorflow"),
    ],
)
def test_any_order_of_imports_and_any_backend(
    run_new_python: Run, monkeypatch: pytest.MonkeyPatch, imports: str, backend: str
) -> None:
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    done = run_new_python(imports + _TWIN, KERAS_BACKEND=backend)
    assert done.stdout.split() == [backend, "3", "2", "True", "True", "True"], done.stderr
