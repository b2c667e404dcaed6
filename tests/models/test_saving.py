from __future__ import annotations

import importlib
import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from keras_resnet import ResNetConfig, build, load_model, load_weights

from ..conftest import Run


def test_what_cannot_be_loaded_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "broken.keras").write_bytes(b"PK\x03\x04 and then nothing")
    (tmp_path / "model.h5").write_bytes(b"")
    for name, message in (
        ("saved_model", r"Received: the directory .*keras_resnet.export.load_runner"),
        ("broken.keras", r"Expected a readable `.keras` file. Received: .*broken.keras"),
        ("model.h5", r"Expected a readable `.h5` file. Received: .*model.h5: an empty file"),
        ("none.keras", r"Expected the path of an existing `.keras` or `.h5` file. .*none.keras"),
        ("none.h5", r"Expected the path of an existing `.keras` or `.h5` file. .*none.h5"),
    ):
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path / name)


class Doubled(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        return 2 * inputs


def doubled(inputs: Any) -> Any:
    return 2 * inputs


@pytest.mark.parametrize(
    ("layer", "found", "arguments"),
    [
        (
            lambda: keras.layers.Lambda(lambda x: 2 * x, name="twice"),
            "the Lambda layers twice",
            {"safe_mode": False},
        ),
        (
            lambda: keras.layers.Lambda(doubled, name="twice"),
            "the custom classes or functions doubled",
            {"custom_objects": {"doubled": doubled}},
        ),
        (
            lambda: keras.Sequential([Doubled(), keras.layers.Identity()]),
            "the custom classes or functions Doubled",
            {"custom_objects": {"Doubled": Doubled}},
        ),
    ],
)
def test_models_that_need_code_say_which_and_what_can_be_done(
    layer: Callable[[], keras.Layer], found: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    inputs = keras.Input((3,))
    keras.Model(inputs, layer()(inputs)).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="keras_resnet.export.export") as caught:
        load_model(tmp_path / "model.keras")
    assert f"Received: {tmp_path / 'model.keras'}, with {found}, which need" in str(caught.value)
    # The call that the message names works.
    words = ", ".join(
        f"{name}={value if name == 'safe_mode' else dict.fromkeys(value, 0)}"
        for name, value in arguments.items()
    ).replace(": 0", f": {found.rpartition(' ')[2]}")
    assert f"`keras_resnet.load_model(path, {words})`" in str(caught.value)
    model = load_model(tmp_path / "model.keras", **arguments)
    np.testing.assert_array_equal(model(np.ones((1, 3), "f4")), np.full((1, 3), 2.0))


def test_damaged_files_are_refused_with_their_path(tmp_path: Path) -> None:
    model = build(ResNetConfig("basic", (1,), (8,), stem="cifar"), input_shape=(8, 8, 3))
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    half = parts["model.weights.h5"][: len(parts["model.weights.h5"]) // 2]
    for changes in (
        {"model.weights.h5": half},
        {"model.weights.h5": None},
        {"config.json": b"{}"},
        {"config.json": None},
    ):
        with zipfile.ZipFile(tmp_path / "bad.keras", "w") as archive:
            for name, content in {**parts, **changes}.items():
                if content is not None:
                    archive.writestr(name, content)
        for load in (load_model, lambda path: load_weights(model, path)):
            with pytest.raises(ValueError, match=r"Expected .*read.*\. Received: .*bad.keras: "):
                load(tmp_path / "bad.keras")


def test_weights_of_every_type_are_loaded(tmp_path: Path) -> None:
    """With the states of an optimizer and of random generators, and with an empty one."""

    class Odd(keras.layers.Layer):
        def build(self, shape: tuple[int, ...]) -> None:
            self.add_weight(shape=(0, 3), name="nothing")
            self.add_weight(shape=(), dtype="bool", initializer="zeros", name="truth")

        def call(self, inputs: object) -> object:
            return inputs

    layers = [keras.layers.Dense(2, dtype=kind) for kind in ("bfloat16", "float16", "float64")]
    model = keras.Sequential([keras.Input((3,)), *layers, Odd(), keras.layers.Dropout(0.1)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras", custom_objects={"Odd": Odd})
    before, after = (
        [keras.ops.convert_to_numpy(weight) for weight in (*net.weights, *net.optimizer.variables)]
        for net in (model, loaded)
    )
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def test_hostile_weights_are_refused_before_the_library_in_c_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(ResNetConfig("basic", (1,), (8,), stem="cifar"), input_shape=(8, 8, 3))
    model.compile("adam", "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    good = parts["model.weights.h5"]
    with h5py.File(io.BytesIO(good)) as file:
        offset = file["layers/dense/vars/1"].id.get_offset()
    address = good.index(struct.pack("<QQ", offset, 10 * 4))  # Of the classifier's bias, and size.
    claimed = struct.pack("<Q", 2**40)
    tree, middle = good.index(b"TREE"), len(good) // 2
    external = tmp_path / "external.h5"
    with h5py.File(external, "w") as file:
        file["layers/dense/vars/0"] = h5py.ExternalLink("elsewhere.h5", "secret")
    load_model(tmp_path / "model.keras")
    monkeypatch.setattr(h5py, "File", None)
    for bad, reason in (
        (good[:middle], "truncated"),
        (good[:-1], "truncated"),
        (good[: tree + 8] + bytes(range(256)) * 2 + good[tree + 520 :], "HDF5|damaged"),
        (good[: address + 8] + claimed + good[address + 16 :], "numbers, or of too few"),
        (good[:address] + claimed + good[address + 8 :], "truncated or damaged"),
        (good.replace(b"\x11\x20\x1f\0", b"\x16\x20\x1f\0"), "not made of numbers"),
        (external.read_bytes(), "with links"),
        (b"", "no HDF5 file"),
    ):
        assert bad != good
        with zipfile.ZipFile(tmp_path / "bad.keras", "w") as archive:
            for name, content in {**parts, "model.weights.h5": bad}.items():
                archive.writestr(name, content)
        with pytest.raises(ValueError, match=rf"Expected a readable .*bad.keras: .*({reason})"):
            load_model(tmp_path / "bad.keras")


DEEP = """
import sys, time, keras, numpy as np
path, name = sys.argv[1:]
import keras_resnet
keras_resnet.ResNet20()  # Whoever builds first pays for what Keras does once.
keras.utils.set_random_seed(0)
# Blocks that start as the identity: a fresh v1 network of this depth overflows.
model = keras_resnet.create_model(name, zero_init_residual=True)
model.save(path)
loaded = keras_resnet.load_model(path)
for first, second in zip(model.get_weights(), loaded.get_weights(), strict=True):
    np.testing.assert_array_equal(first, second)
# What a caller does next must not stop at the recursion limit either.
features = keras.Model(loaded.input, loaded.get_layer("avg_pool").output)
keras_resnet.feature_extractor(loaded)
images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
loaded.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
loss = loaded.train_on_batch(images, np.array([1, 2]))
probabilities = loaded.predict(images, verbose=0)
assert np.isfinite(loss) and np.isfinite(probabilities).all(), (loss, probabilities)
moved = sum(np.any(a != b) for a, b in zip(model.get_weights(), loaded.get_weights()))
print(len(model.layers), features(images[:1]).shape[-1], moved > 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layers", "features"), [("resnet1202", 4213, 64), ("resnet1001v2", 3340, 256)]
)
def test_very_deep_networks_build_save_load_train_and_predict(
    name: str, layers: int, features: int, tmp_path: Path, run_python: Run
) -> None:
    path = tmp_path / "deep.keras"
    done = run_python(DEEP, str(path), name, timeout=1800)
    assert done.returncode == 0, done.stderr
    *counts, moved = done.stdout.split()
    assert (*counts, moved) == (str(layers), str(features), "True")
    if name == "resnet1001v2":
        # At the default recursion limit; ResNet-1202 needs two frames per block and a higher one.
        code = "import sys, keras; print(keras.saving.load_model(sys.argv[1]).name)"
        done = run_python(code, str(path))
        assert done.stdout.split() == [name], done.stderr


@pytest.mark.slow
def test_networks_deeper_than_the_recursion_limit_build_save_load_and_train(
    tmp_path: Path, run_python: Run
) -> None:
    """The same as for the 1202-layer network, with a lower limit and on narrow images."""
    code = """
import sys
import keras, numpy as np
import keras_resnet
keras.utils.set_random_seed(0)
sys.setrecursionlimit(150)
model = keras_resnet.cifar_resnet(200, input_shape=(4, 4, 3))
keras.Sequential([model, keras.layers.Flatten()]).save(sys.argv[1])
sys.setrecursionlimit(150)
model = keras_resnet.load_model(sys.argv[1])
model.compile("sgd", "sparse_categorical_crossentropy")
images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype("float32")
print(np.isfinite(model.train_on_batch(images, np.array([1, 2]))), model.predict(images).shape)
"""
    done = run_python(code, str(tmp_path / "deep.keras"))
    assert done.stdout.split()[-3:] == ["True", "(2,", "10)"], done.stderr


def small_model(library: Any, depth: int = 1) -> Any:
    layers = library.layers
    image = x = library.Input((8, 8, 3))
    x = layers.Rescaling(1 / 255)(x)
    for _ in range(depth):
        x = layers.Activation("relu")(layers.BatchNormalization()(layers.Conv2D(4, 3)(x)))
        x = layers.ZeroPadding2D(1)(x)
    x = layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    model = library.Model(image, x)
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.5, 1, w.shape) for w in model.get_weights()])
    model.compile("adam", "categorical_crossentropy")
    return model


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize(("library", "depth"), [("keras", 1), ("tf_keras", 1), ("keras", 60)])
def test_whole_models_in_h5_files_of_keras_2_and_3(
    tmp_path: Path, library: str, depth: int
) -> None:
    """With sixty blocks, the description is longer than HDF5 has room for in a header."""
    model = small_model(importlib.import_module(library), depth)
    model.save(tmp_path / "model.h5")
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.float32)
    loaded = load_model(tmp_path / "model.h5")
    np.testing.assert_allclose(loaded(images), np.asarray(model(images)), atol=1e-5)
    assert not loaded.compiled


def test_h5_files_of_weights_say_how_they_are_used(tmp_path: Path) -> None:
    model = small_model(keras)
    model.save_weights(tmp_path / "own.weights.h5")
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv"]
        file.create_group("conv").attrs["weight_names"] = [b"conv/kernel:0"]
        file["conv"]["conv/kernel:0"] = np.zeros((3, 3, 3, 4), np.float32)
    for name in ("own.weights.h5", "old.h5"):
        with pytest.raises(ValueError, match=rf"{name}: weights without a model\. .*`weights`"):
            load_model(tmp_path / name)


def test_hostile_h5_files_are_refused_before_keras_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lambda.h5"
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save(path)
    small_model(keras).save(tmp_path / "good.h5")
    good = (tmp_path / "good.h5").read_bytes()
    shutil.copy(tmp_path / "good.h5", tmp_path / "linked.h5")
    with h5py.File(tmp_path / "linked.h5", "a") as file:
        file["model_weights/secret"] = h5py.ExternalLink("elsewhere.h5", "secret")
    with h5py.File(tmp_path / "chunked.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {}})
        file.create_dataset("model_weights/x", data=np.zeros((64, 64)), compression="gzip")
    (tmp_path / "half.h5").write_bytes(good[: len(good) // 2])
    monkeypatch.setattr(h5py, "File", None)
    for name, reason in (
        ("lambda.h5", "a model with a Lambda layer, whose code would be run"),
        ("linked.h5", "an HDF5 file"),
        ("chunked.h5", "an HDF5 file with parts in 'model_weights/x'"),
        ("half.h5", "truncated"),
    ):
        with pytest.raises(ValueError, match=rf"Received: .*{name}: .*{reason}"):
            load_model(tmp_path / name)
