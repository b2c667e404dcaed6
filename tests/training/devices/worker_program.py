"""What a worker of the tests runs: trains a tiny network, says what came of it as lines of JSON.

python -m tests.training.devices.worker_program '{"steps": 3, …}'
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.data import DataConfig, LabeledImages, training_batches
from keras_resnet.training.devices.cluster import cluster_from
from keras_resnet.training.devices.strategies import DeviceSetup, choose_strategy
from keras_resnet.training.optimizers.averaging import average_bn_across_replicas

BATCH = 12
STEPS = 3


def say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def source() -> LabeledImages:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH * STEPS, 8, 8, 3), dtype=np.uint8)
    return LabeledImages(
        images, random.integers(0, 3, len(images)).astype(np.int32), ("a", "b", "c")
    )


def network(
    setup: DeviceSetup, precision: str = "float32", synchronized: bool = True
) -> keras.Model:
    """A compiled convolution, norm and head."""
    policies = {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
    policy = policies.get(precision, precision)
    keras.utils.set_random_seed(0)
    layers = keras.layers
    with setup.scope():
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.Rescaling(1 / 127.5, offset=-1, dtype=policy),
                layers.Conv2D(4, 3, use_bias=False, dtype=policy),
                layers.BatchNormalization(synchronized=synchronized, dtype=policy),
                layers.ReLU(dtype=policy),
                layers.Flatten(),
                layers.Dense(3, dtype="float32"),
            ]
        )


def compiled(
    model: keras.Model,
    setup: DeviceSetup,
    precision: str = "float32",
    executed: int = 1,
    xla: bool = False,
) -> None:
    with setup.scope():
        optimizer: Any = keras.optimizers.SGD(0.1, momentum=0.9)
        if precision == "float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1024)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(
            optimizer,
            loss=loss,
            weighted_metrics=["accuracy"],
            jit_compile=xla,
            steps_per_execution=executed,
        )


def batches(setup: DeviceSetup, epochs: int) -> Any:
    config = DataConfig("tiny", size=8, batch_size=BATCH, drop_remainder=True, seed=1)
    with setup.scope():
        parts = training_batches(
            source(), config, epochs, worker=setup.worker, workers=setup.workers
        )
        return setup.distribute(parts)


class Note(keras.callbacks.Callback):
    """Notes losses of single steps."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(float(logs["loss"]))


class Die(keras.callbacks.Callback):
    """Sends a signal to this process after two steps."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self._number = number

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 1:
            os.kill(os.getpid(), self._number)


def equality(options: dict[str, Any]) -> None:
    """Trains three steps; then, with an act, on and on until a worker dies of it."""
    setup = choose_strategy(batch_size=BATCH, cluster=cluster_from(None, None, os.environ))
    say(**facts_of_training(setup, model := network(setup)))
    if "act" not in options:
        return
    dies = setup.worker == options["victim"]
    with setup.explaining_lost_workers():
        model.fit(
            batches(setup, 10**4),
            epochs=10**4,
            steps_per_epoch=STEPS,
            verbose=0,
            shuffle=False,
            callbacks=[Die(signal.Signals[options["act"]])] if dies else [],
        )


def facts_of_training(setup: DeviceSetup, model: keras.Model) -> dict[str, Any]:
    compiled(model, setup)
    noted = Note()
    model.fit(batches(setup, 1), steps_per_epoch=STEPS, verbose=0, shuffle=False, callbacks=[noted])
    trainable = [variable.numpy().tolist() for variable in model.trainable_variables]
    norm = model.layers[2]
    local = norm.moving_mean.numpy().tolist()
    if setup.is_chief:
        # Reading and writing its own copy takes no other worker.
        norm.moving_mean.assign(np.full(4, 7.0))
    chief = norm.moving_mean.numpy().tolist()
    norm.moving_mean.assign(np.full(4, 1.0 + 2 * setup.worker))
    average_bn_across_replicas(model)
    evaluated = model.evaluate(batches(setup, 1), steps=STEPS, verbose=0, return_dict=True)
    return {
        "losses": noted.losses,
        "trainable": trainable,
        "local": local,
        "chief": chief,
        "averaged": norm.moving_mean.numpy().tolist(),
        "evaluated": evaluated,
        "replicas": setup.replicas,
    }


def cells(options: dict[str, Any]) -> None:
    """Trains every combination of `options["cells"]` with the patches, and says how it ended."""
    if options.get("devices"):
        split_cpu(options["devices"])
    cluster = cluster_from(None, None, os.environ)
    for precision, executed, xla in options["cells"]:
        facts = {"cell": [precision, executed, xla]}
        try:
            setup = choose_strategy(
                "multi-worker" if cluster else "mirrored",
                batch_size=BATCH,
                dtype=precision,
                steps_per_execution=executed,
                jit_compile=xla,
                cluster=cluster,
            )
        except ValueError as error:
            say(**facts, refused=str(error))
            continue
        model = network(setup, precision)
        compiled(model, setup, precision, executed, xla)
        # Three steps, four at a time: the end comes in the middle of an execution.
        history = model.fit(
            batches(setup, 1), epochs=1, steps_per_epoch=STEPS, verbose=0, shuffle=False
        )
        say(
            **facts,
            loss=history.history["loss"][-1],
            steps=int(model.optimizer.iterations.numpy()),
            replicas=setup.replicas,
        )


def split_cpu(devices: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(cpu, parts)


def infinite(options: dict[str, Any]) -> None:
    """An infinite gradient on the second of two replicas, with and without the patch."""
    split_cpu(2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    images = np.ones((4, 2), np.float32)
    images[3] = np.inf
    if options["patched"]:
        from keras_resnet.training.devices.keras_patches import patch_keras

        patch_keras()
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        model.compile(optimizer, loss="mse", jit_compile=False)
    before = model.get_weights()[0].tolist()
    data = tf.data.Dataset.from_tensor_slices((images, np.zeros((4, 1), np.float32)))
    model.fit(data.batch(4, drop_remainder=True), verbose=0, shuffle=False)
    say(before=before, after=model.get_weights()[0].tolist())


def unpatched(options: dict[str, Any]) -> None:
    """Two replicas, two steps per execution, with Keras as it is."""
    split_cpu(2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    setup = DeviceSetup("mirrored", strategy, 2, None, ())
    model = network(setup)
    compiled(model, setup, executed=options["executed"], xla=options["xla"])
    try:
        model.fit(batches(setup, 1), steps_per_epoch=2, verbose=0, shuffle=False)
    except tf.errors.OpError as error:
        say(failed=str(error))
    else:
        say(failed=None)


if __name__ == "__main__":
    chosen = json.loads(sys.argv[1])
    program = {f.__name__: f for f in (equality, cells, infinite, unpatched)}[chosen["program"]]
    try:
        program(chosen)
    except (RuntimeError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
