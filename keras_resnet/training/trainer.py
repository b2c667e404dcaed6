"""A thin layer over `compile` and `model.fit`."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import keras
import tensorflow as tf

from keras_resnet.data import (
    BadRecords,
    DataConfig,
    Source,
    evaluation_batches,
    steps_per_epoch,
    training_batches,
)
from keras_resnet.model_info import set_class_names
from keras_resnet.training.optimizers import SGD
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.schedules import warmup_cosine


@dataclass(frozen=True)
class TrainResult:
    """What a training run left behind.

    Attributes:
        history: one value per epoch of `loss`, `accuracy`, `val_loss`, `val_accuracy` and
            `learning_rate`.
        steps: optimizer steps taken.
    """

    history: dict[str, list[float]]
    steps: int


def train(
    model: keras.Model,
    data: tuple[Source, Source],
    recipe: Recipe,
    *,
    seed: int = 0,
) -> TrainResult:
    """Trains `model` in place by `recipe`.

    The same seed and the same initial weights give the same weights on one CPU machine, if the
    process has called `tf.config.experimental.enable_op_determinism()`.

    Args:
        model: a classifier `(batch, height, width, 3)` -> `(batch, classes)`. It takes over the
            names of the classes.
        data: the images to train on, and those to evaluate after every epoch, which are used for
            nothing else: the last weights are kept, not the best.
        recipe: how.
        seed: of data order and augmentation.

    Raises:
        ValueError: the model has another number of classes than the data.
        TooManyBadRecordsError: too many images cannot be read.
    """
    train_data, validation_data = data
    classes = len(train_data.class_names)
    if model.output_shape[-1] != classes:
        raise ValueError(
            f"Expected a model of the {classes} classes of {train_data.name}. Received: "
            f"{model.name}, of {model.output_shape[-1]} classes. Build it with `classes={classes}`"
        )
    set_class_names(model, train_data.class_names, train_data.class_ids)
    config = DataConfig(
        train_data.name,
        size=model.input_shape[1],
        batch_size=recipe.batch_size,
        augmentation=recipe.augmentation,
        seed=seed,
    )
    steps = steps_per_epoch(train_data, config)
    epochs = int(recipe.duration)
    total_steps = epochs * steps
    warmup_steps = min(round(recipe.schedule.warmup * steps), total_steps - 1)
    optimizer = SGD(
        warmup_cosine(recipe.learning_rate, warmup_steps, total_steps),
        momentum=recipe.optimizer.momentum,
        coupled_weight_decay=recipe.optimizer.weight_decay,
    )
    # A second model on the same layers is compiled, so that the caller's stays free of optimizer
    # state and saves small.
    trained = keras.Model(model.inputs, model.outputs, name=model.name)
    is_linear = getattr(model.layers[-1], "activation", None) is keras.activations.linear
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=is_linear)
    trained.compile(optimizer, loss=loss, weighted_metrics=["accuracy"])
    bad = [BadRecords(part.name, len(part), config.max_bad_fraction) for part in data]
    try:
        history = trained.fit(
            training_batches(train_data, config, epochs, bad=bad[0]),
            epochs=epochs,
            steps_per_epoch=steps,
            validation_data=evaluation_batches(validation_data, config, bad=bad[1]),
            callbacks=[_RecordLearningRate()],
            shuffle=False,
            # A bar on a terminal, a line per epoch elsewhere.
            verbose=1 if sys.stdout.isatty() else 2,
        )
    except tf.errors.OpError:
        for part in bad:
            if part.error is not None:
                raise part.error from None
        raise
    return TrainResult(history.history, int(optimizer.iterations.numpy()))


class _RecordLearningRate(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)
