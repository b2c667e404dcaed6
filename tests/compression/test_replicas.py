"""Networks with observed ranges on two replicas."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import ResNetConfig, build
from keras_resnet.compression import quantize_aware
from keras_resnet.compression.layers import ActivationRange, ranges
from keras_resnet.data import LabeledImages
from keras_resnet.training import RECIPES, override, train

from ..conftest import Run, randomize

CHANGES = {"batch_size": 16, "optimizer.learning_rate": 0.01, "augmentation.crop": "none"}
RECIPE = override(RECIPES["quick-digits"], CHANGES)


def part(count: int, seed: int) -> LabeledImages:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return LabeledImages(images, random.integers(0, 3, count).astype(np.int32), ("a", "b", "c"))


DATA = (part(64, 1), part(16, 2))


def aware() -> keras.Model:
    """With a range in the head and others that are layers of their own."""
    keras.utils.set_random_seed(0)
    config = ResNetConfig("basic", (1,), (8,), stem="cifar")
    model = build(config, input_shape=(8, 8, 3), classes=3)
    randomize(model)
    return quantize_aware(model, DATA[0].images[:32].astype(np.float32), momentum=0.7)


def copies(end: keras.Variable) -> list[float]:
    """The values that the replicas have."""
    return [float(copy.numpy()) for copy in getattr(end.value, "values", [end.value])]


class Ends(keras.callbacks.Callback):
    """Both ends of every range on every replica, after the last batch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[list[float]]] = {}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        for name, layer in ranges(self.model).items():
            self.found[name] = [copies(end) for end in (layer.low, layer.high)]


def trained(strategy: Any) -> dict[str, Any]:
    """Ends before and after, those of the replicas, and the losses of two epochs."""
    model, ends = aware(), Ends()

    def now() -> dict[str, list[float]]:
        return {name: [float(x.low), float(x.high)] for name, x in ranges(model).items()}

    before = now()
    history = train(model, DATA, RECIPE, epochs=2, strategy=strategy, callbacks=[ends]).history
    return {"before": before, "after": now(), "copies": ends.found, "loss": history["loss"]}


def observed_once(first: float, second: float) -> list[float]:
    """The upper end on each of two replicas after their first batches, of one value each."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        layer = ActivationRange()
        layer.build((1,))

    @tf.function
    def step() -> None:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        layer(tf.where(replica == 0, [first], [second]), training=True)

    strategy.run(step)
    return copies(layer.high)


REPLICAS = """
import json
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.compression.test_replicas import observed_once, trained
print(json.dumps({**trained("mirrored"), "once": observed_once(1.0, 3.0)}))
"""


@pytest.mark.slow
def test_two_replicas_observe_nearly_what_one_does(run_python: Run) -> None:
    done = run_python(REPLICAS)
    assert done.returncode == 0, done.stderr
    two, one = json.loads(done.stdout.splitlines()[-1]), trained("cpu")
    assert two["once"] == [2.0, 2.0]
    assert two["before"] == one["before"]
    assert two["loss"] == pytest.approx(one["loss"], rel=0.1)
    assert two["copies"].keys() == one["after"].keys()
    moved = 0.0
    for name, ends in two["copies"].items():
        low, high = one["after"][name]
        assert np.isfinite(ends).all()
        # Least and greatest of half a batch are a little nearer to each other than of a whole one.
        for copies_of, end, alone in zip(ends, two["after"][name], (low, high), strict=True):
            assert copies_of == [end, end]
            assert abs(end - alone) < 0.15 * (high - low)
        moved = max(moved, *np.abs(np.subtract((low, high), one["before"][name])) / (high - low))
    assert moved > 0.3
