from __future__ import annotations

from pathlib import Path

import pytest

from keras_resnet import load_model

from .conftest import Run


def test_what_cannot_be_loaded_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "broken.keras").write_bytes(b"PK\x03\x04 and then nothing")
    (tmp_path / "model.h5").write_bytes(b"")
    for name, message in (
        ("saved_model", r"Received: the directory .*keras_resnet.export.load_runner"),
        ("broken.keras", r"Expected a readable `.keras` file. Received: .*broken.keras"),
        ("model.h5", r"Expected the path of an existing `.keras` file. Received: .*model.h5"),
        ("none.keras", r"Expected the path of an existing `.keras` file. Received: .*none.keras"),
    ):
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path / name)


DEEP = """
import os, sys, keras, numpy as np
import keras_resnet
path = sys.argv[1]
model = keras_resnet.create_model(sys.argv[2])
model.save(path)
loaded = keras_resnet.load_model(path)
for first, second in zip(model.get_weights(), loaded.get_weights(), strict=True):
    np.testing.assert_array_equal(first, second)
# What a caller does next must not stop at the recursion limit either.
features = keras.Model(loaded.input, loaded.get_layer("avg_pool").output)
keras_resnet.feature_extractor(loaded)
images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
print(len(model.layers), features(images, training=True).shape)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layers"), [("resnet1202", 4213), ("resnet1001v2", 3340)])
def test_very_deep_networks_build_save_and_load(
    name: str, layers: int, tmp_path: Path, run_python: Run
) -> None:
    done = run_python(DEEP, str(tmp_path / "deep.keras"), name)
    assert done.stdout.split(maxsplit=1)[0] == str(layers), done.stderr


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
