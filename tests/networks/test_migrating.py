"""What is said of coming from keras.applications, measured on both networks."""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnet
from keras_resnet.weights.registry import find_weights

from ..conftest import ROOT, randomize

THEIRS = keras.applications.resnet50
SHAPE = (64, 64, 3)
PADS = {f"conv{stage}_block1_2_pad" for stage in (3, 4, 5)}
#: Layers that the tutorials get by name.
NAMED = ("conv4_block6_out", "conv5_block1_out", "conv5_block3_out", "avg_pool", "predictions")

pytestmark = pytest.mark.filterwarnings("ignore:The last stage sees 64x64 images")


@pytest.fixture(scope="module")
def theirs() -> keras.Model:
    model = THEIRS.ResNet50(weights=None, input_shape=SHAPE)
    randomize(model)
    return model


@pytest.fixture(scope="module")
def ours() -> Iterator[dict[str, keras.Model]]:
    """By version: with v1.5, the default, and v1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield {
            version: keras_resnet.ResNet50(input_shape=SHAPE, version=version)
            for version in ("v1.5", "v1")
        }


@pytest.fixture
def tutorials() -> ModuleType:
    """The example, as a module of its own."""
    path = ROOT / "examples" / "migrating_from_keras_applications.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def with_their_import(tutorials: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example with the line of its imports as it was before it was changed."""
    source = inspect.getsource(tutorials)
    assert source.count("keras_resnet import") == source.count("keras_resnet") == 1
    for name in ("ResNet50", "preprocess_input", "decode_predictions"):
        assert getattr(tutorials, name) is getattr(keras_resnet, name)
        monkeypatch.setattr(tutorials, name, getattr(THEIRS, name))
    return tutorials


def test_arguments() -> None:
    def parameters(function: Any) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(function).parameters)

    a, b = parameters(THEIRS.ResNet50), parameters(keras_resnet.ResNet50)
    assert list(b)[: len(a)] == list(a)
    assert {name: (a[name].default, b[name].default) for name in a} == {
        "include_top": (True, True),
        "weights": ("imagenet", None),
        "input_tensor": (None, None),
        "input_shape": (None, None),
        "pooling": (None, None),
        "classes": (1000, 1000),
        "classifier_activation": ("softmax", "softmax"),
        "name": ("resnet50", None),
    }
    extras = {name: b[name].kind for name in b if name not in a}
    assert list(extras) == ["include_preprocessing", "dtype", "config_overrides"]
    assert inspect.Parameter.POSITIONAL_OR_KEYWORD not in extras.values()
    assert list(parameters(THEIRS.preprocess_input)) == ["x", "data_format"]
    assert list(parameters(keras_resnet.preprocess_input)) == ["x"]
    a, b = parameters(THEIRS.decode_predictions), parameters(keras_resnet.decode_predictions)
    assert list(a) == ["preds", "top"]
    assert list(b) == ["predictions", "top", "class_names", "class_ids"]
    assert a["top"].default == b["top"].default == 5


def test_layers_have_the_same_names_and_order(
    theirs: keras.Model, ours: dict[str, keras.Model]
) -> None:
    a = [layer.name for layer in theirs.layers]
    for version, extra in (("v1.5", PADS), ("v1", set())):
        b = [layer.name for layer in ours[version].layers]
        assert set(b) - set(a) == {"image", "normalization"} | extra
        assert [name for name in a if name not in b] == [theirs.layers[0].name]
        assert [name for name in b if name in a] == a[1:]
        assert set(NAMED) < set(a) & set(b)
    # So that a layer's number is another.
    counts = [len(model.layers) for model in (theirs, *ours.values())]
    assert counts == [177, 181, 178]
    assert a.index("conv5_block1_out") == 154
    assert [layer.name for layer in ours["v1.5"].layers].index("conv5_block1_out") == 158


def test_weights_differ_by_the_biases_of_convolutions(
    theirs: keras.Model, ours: dict[str, keras.Model]
) -> None:
    a = {weight.path: weight.shape for weight in theirs.weights}
    for model in ours.values():
        b = {weight.path: weight.shape for weight in model.weights}
        biases = {path for path in a if path.endswith("_conv/bias")}
        assert len(biases) == 53
        assert {path: shape for path, shape in a.items() if path not in biases} == b
    assert (theirs.count_params(), ours["v1.5"].count_params()) == (25_636_712, 25_610_152)


def settings(theirs: keras.Model, ours: keras.Model) -> dict[str, set[tuple[str, str]]]:
    """Values of layers' settings, and shapes, that are not the same: theirs and ours."""
    found: dict[str, set[tuple[str, str]]] = {}
    for layer in theirs.layers[1:]:
        same = ours.get_layer(layer.name)
        assert type(same) is type(layer)
        a = {**layer.get_config(), "shape": layer.output.shape}
        b = {**same.get_config(), "shape": same.output.shape}
        assert a.keys() == b.keys()
        for key in a:
            if a[key] != b[key] and key != "kernel_initializer":
                found.setdefault(key, set()).add((str(a[key]), str(b[key])))
    return found


def test_settings(theirs: keras.Model, ours: dict[str, keras.Model]) -> None:
    of_both = {
        "use_bias": {("True", "False")},
        "epsilon": {("1.001e-05", "1e-05")},
        "momentum": {("0.99", "0.9")},
        "axis": {("3", "-1")},
    }
    # Of 1x1 convolutions, all paddings are the same.
    assert settings(theirs, ours["v1"]) == {**of_both, "padding": {("valid", "same")}}
    assert settings(theirs, ours["v1.5"]) == {
        **of_both,
        "padding": {("valid", "same"), ("same", "valid")},
        "strides": {("(2, 2)", "(1, 1)"), ("(1, 1)", "(2, 2)")},
        "shape": {
            (f"(None, {side}, {side}, {width})", f"(None, {2 * side}, {2 * side}, {width})")
            for side, width in ((8, 128), (4, 256), (2, 512))
        },
    }
    # These are the layers whose maps are larger; what a block puts out is not.
    for stage in (3, 4, 5):
        for name in ("conv", "bn", "relu"):
            layer = f"conv{stage}_block1_1_{name}"
            side = theirs.get_layer(layer).output.shape[1]
            assert ours["v1.5"].get_layer(layer).output.shape[1] == 2 * side
    starts = [
        type(model.get_layer("conv1_conv").kernel_initializer).__name__
        for model in (theirs, ours["v1.5"])
    ]
    assert starts == ["GlorotUniform", "VarianceScaling"]


def test_their_weights_need_their_strides_and_pixels(
    theirs: keras.Model, ours: dict[str, keras.Model], tmp_path: Path
) -> None:
    path = tmp_path / "theirs.weights.h5"
    theirs.save_weights(path)
    with pytest.raises(ValueError, match=r"strides are elsewhere.*`version` decides"):
        keras_resnet.load_weights(ours["v1.5"], path)
    with pytest.raises(ValueError, match=r"mean=\(123\.68, 116\.779, 103\.939\).*from_checkpoint"):
        keras_resnet.load_weights(ours["v1"], path)
    mean, std = (123.68, 116.779, 103.939), (1.0, 1.0, 1.0)
    model = keras_resnet.ResNet50(weights=path, input_shape=SHAPE, version="v1", mean=mean, std=std)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *SHAPE)).astype("float32")
    expected = np.asarray(theirs(THEIRS.preprocess_input(pixels.copy())))
    np.testing.assert_allclose(model(keras_resnet.preprocess_input(pixels)), expected, atol=1e-5)
    assert np.ptp(expected) > 0.1
    row = find_weights("keras/resnet50.imagenet", "resnet50")
    assert (row.config, row.mean, row.std) == ({"version": "v1"}, mean, std)
    assert find_weights("imagenet", "resnet50").tag == "timm/resnet50.a1_in1k"


@pytest.fixture
def without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predicts a few pictures without compiling a graph, which takes longer."""

    def predict(model: keras.Model, x: np.ndarray, verbose: int) -> np.ndarray:
        return np.asarray(model(x, training=False))

    monkeypatch.setattr(keras.Model, "predict", predict)


@pytest.mark.usefixtures("without_graphs")
def test_tutorials_run_with_their_import(
    with_their_import: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That they run with ours, test_examples.py checks."""
    for output, shape in (
        (with_their_import.vectors(), (2, 2048)),
        (with_their_import.feature_maps(), (1, 4, 4, 1024)),
    ):
        assert output.shape == shape
        assert np.ptp(output) > 0
    # The names of the classes would be downloaded, so ours serve here.
    monkeypatch.setattr(with_their_import, "decode_predictions", keras_resnet.decode_predictions)
    found = with_their_import.classify()
    assert [tuple(map(type, row)) for row in found] == [(str, str, float)] * 3
    assert found[0][2] >= found[1][2] >= found[2][2] > 0


def test_fit_overrules_training_false_inside_a_model() -> None:
    """What README says, of Keras itself: statistics move where normalisation is trainable."""
    for trainable in (True, False):
        image = keras.Input((4,))
        norm = keras.layers.BatchNormalization(trainable=trainable, name="norm")
        base = keras.Model(image, norm(image), name="base")
        outer = keras.Input((4,))
        model = keras.Model(outer, keras.layers.Dense(1)(base(outer, training=False)))
        model.compile("sgd", "mse")
        model.fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0)
        assert bool(np.any(norm.moving_mean.numpy() != 0)) == trainable


def test_the_same_layers_are_fine_tuned(
    with_their_import: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[list[str]] = []

    def fit(model: keras.Model, images: np.ndarray, *_: Any, **__: Any) -> None:
        trained.append([weight.path for weight in model.trainable_weights])
        base = model.get_layer("resnet50")
        before = [weight.numpy() for weight in base.non_trainable_weights]
        model(images[:2], training=True)
        for old, new in zip(before, base.non_trainable_weights, strict=True):
            np.testing.assert_array_equal(old, new)

    monkeypatch.setattr(keras.Model, "fit", fit)
    assert with_their_import.transfer().output_shape == (None, 2)
    for name in ("ResNet50", "preprocess_input"):
        monkeypatch.setattr(with_their_import, name, getattr(keras_resnet, name))
    assert with_their_import.transfer().output_shape == (None, 2)
    (_, theirs), (head, ours) = trained[:2], trained[2:]
    assert [path.split("/")[-1] for path in head] == ["kernel", "bias"]
    # The head is named by a counter.
    assert ours[:-2] == [path for path in theirs[:-2] if not path.endswith("_conv/bias")]
    assert len(ours[:-2]) == 6
    assert {path.split("/")[0][:12] for path in ours[:-2]} == {"conv5_block2", "conv5_block3"}
