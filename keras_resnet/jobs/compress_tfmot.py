"""The engine "tfmot" of `compress`: tensorflow-model-optimization with the tf_keras twin.

Data, augmentation, loss, optimizer and schedule are those of the recipe, as in `train`. Pruning,
clustering and quantization are done by tensorflow-model-optimization.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_resnet.compression.options import CompressionOptions
from keras_resnet.compression.rebuild import kernels
from keras_resnet.compression.tfmot import (
    REMEDY,
    TfmotNetwork,
    clustering_network,
    place_of,
    pruning_network,
    quantizing_network,
)
from keras_resnet.data import BadRecords, DataConfig, Source, training_batches
from keras_resnet.jobs.compression_report import pruning_pace
from keras_resnet.support.files import whole_file
from keras_resnet.support.progress import Say
from keras_resnet.support.terminal import progress_bar
from keras_resnet.training import Recipe, override
from keras_resnet.training.losses import balanced_weights, make_loss
from keras_resnet.training.optimizers.optimizers import make_optimizer
from keras_resnet.training.optimizers.schedules import make_schedule
from keras_resnet.training.run.callbacks import DivergedError
from keras_resnet.training.run.copy import precision_of, training_copy
from keras_resnet.training.run.fitting import bad_records_named
from keras_resnet.training.run.folder import RunFolder
from keras_resnet.training.run.resolved import (
    DEFAULTS,
    ResolvedRecipe,
    identity,
    resolve_recipe,
)

#: File with the variables of the twin, in their order, which is written when a phase is finished.
WEIGHTS_FILE = "twin.npz"


class Phase(NamedTuple):
    """A phase of the training.

    Attributes:
        name: name of the phase, part of the name of its folder.
        resolved: the recipe of the phase.
        fixed_bn: whether batch normalization is frozen.
        fixed_ranges: whether ranges are fixed.
    """

    name: str
    resolved: ResolvedRecipe
    fixed_bn: bool = False
    fixed_ranges: bool = False


class TfmotEngine:
    """Compression of one network by one method.

    An interrupted phase is trained from its beginning; a finished phase is not trained again.
    """

    def __init__(
        self,
        model: keras.Model,
        images: np.ndarray,
        sources: tuple[Source, Source],
        options: CompressionOptions,
        recipe: Recipe,
        config: DataConfig,
        seed: int,
        settling: float,
        **keywords: Any,
    ) -> None:
        """Prepare the compression; for the arguments, see `compress`.

        `settling` is the factor of the learning rate in the last phase.

        Raises:
            ValueError: If this engine or tensorflow-model-optimization does not support a setting.
            ImportError: If a package is not installed.
        """
        _check(model, options, recipe, keywords)
        self._model, self._sources, self._seed = model, sources, seed

        def resolved(epochs: float, factor: float = 1.0) -> ResolvedRecipe:
            rate = {"optimizer.learning_rate": recipe.optimizer.learning_rate * factor}
            changed = override(recipe, rate)
            found = resolve_recipe(
                model, sources[0], changed, config=config, epochs=epochs, seed=seed
            )
            if found.training.size != (model.input_shape[1] or found.training.size):
                _refuse(f"training images of {found.training.size} pixels", "images of its size")
            return found

        method = options.methods[0]
        self._phases = [Phase(method, resolved(options.epochs))]
        if method == "qat" and options.frozen_bn:
            self._phases.append(Phase("frozen-bn", resolved(options.frozen_bn), True))
        if method == "qat" and options.settle:
            self._phases.append(Phase("settle", resolved(options.settle, settling), True, True))
        self._network = _wrapped(model, images, options, self._phases[0].resolved.total)
        # Listed now, as freezing layers changes the order of variables.
        self._variables = list(self._network.twin.variables)

    def run(self, folder: Path, images: np.ndarray, say: Say) -> tuple[keras.Model, np.ndarray]:
        """Train all phases that are not finished in `folder`.

        Returns:
            The resulting Keras 3 network, and the classes that the twin predicts for `images`.
        """
        self._train_phases(folder, say)
        self._network.round_kernels()
        parts = [images[start : start + 64] for start in range(0, len(images), 64)]
        logits = [self._network.twin(part, training=False).numpy() for part in parts]
        return self._network.to_keras(), np.concatenate(logits).argmax(-1)

    def _train_phases(self, folder: Path, say: Say) -> None:
        for number, phase in enumerate(self._phases, 1):
            say(f"Phase {number}: {phase.name}, by tensorflow-model-optimization")
            run = RunFolder(folder / f"{number}-{phase.name}")
            with run.held():
                known = identity(self._model, self._sources, phase.resolved, self._seed, "float32")
                settings = {"engine": "tfmot", **known}
                what = "phase by tensorflow-model-optimization"
                run.claim(settings, what, DEFAULTS, replaces=True, others=[WEIGHTS_FILE])
                file = run.path / WEIGHTS_FILE
                if file.exists():
                    with np.load(file) as saved:
                        for name, variable in zip(saved.files, self._variables, strict=True):
                            variable.assign(saved[name])
                    say(f"This phase is already finished: {file}")
                    continue
                self._train(phase, say)
                with whole_file(file) as new:
                    np.savez(new, *(variable.numpy() for variable in self._variables))

    def _train(self, phase: Phase, say: Say) -> None:
        import tensorflow as tf

        tf.random.set_seed(self._seed)
        source, resolved = self._sources[0], phase.resolved
        epochs = math.ceil(resolved.total / resolved.batches_per_epoch)
        limit = resolved.training.max_bad_fraction
        bad = BadRecords(source.name, len(source), limit)
        batches = training_batches(source, resolved.training, epochs, bad=bad).take(resolved.total)
        take_step = self._step(phase)
        callback = self._network.callback
        if callback is not None:
            callback.on_train_begin()
        losses: list[float] = []
        with bad_records_named(bad), progress_bar(phase.name, lines=0) as show:
            for number, (images, labels) in enumerate(batches, 1):
                show(f"batch {number} of {resolved.total}", (number - 1) / resolved.total)
                losses.append(float(take_step(tf.cast(images, tf.float32), labels)))
                if not math.isfinite(losses[-1]):
                    raise DivergedError(
                        f"Expected a finite loss. Received: {losses[-1]:g} at step {number} of "
                        f"{phase.name}. Try a lower `rate`"
                    )
                if number % resolved.batches_per_epoch == 0 or number == resolved.total:
                    epoch = math.ceil(number / resolved.batches_per_epoch)
                    say(f"Epoch {epoch} of {epochs}: loss {np.mean(losses):.4f}")
                    losses = []
        if callback is not None:
            # The last step may have changed pruned weights.
            callback.on_epoch_end(epochs)

    def _step(self, phase: Phase) -> Any:
        """Return a function of images and labels that takes a step and returns the loss."""
        import tensorflow as tf

        twin, recipe = self._network.twin, phase.resolved.recipe
        layers = [getattr(layer, "layer", layer) for layer in twin.layers]
        norms = [layer for layer in layers if "BatchNormalization" in type(layer).__name__]
        # Wrappers list the scales as trainable even if the wrapped layer is frozen.
        fixed = {id(x) for norm in norms for x in norm.weights} if phase.fixed_bn else set()
        for norm in norms if phase.fixed_bn else ():
            norm.trainable = False
        balanced = recipe.loss.class_weights == "balanced"
        source = self._sources[0]
        weights = balanced_weights(source.labels, len(source.class_names)) if balanced else None
        loss = make_loss(recipe.loss, weights)
        # Optimizers of Keras 3 accept only variables of Keras 3, so they update copies.
        variables = [x for x in twin.trainable_variables if id(x) not in fixed]
        copies = [_copy(variable, self._network.positive) for variable in variables]
        optimizer = make_optimizer(recipe.optimizer, make_schedule(recipe, 1))
        optimizer.build(copies)

        @tf.function(reduce_retracing=True)
        def step(images: Any, labels: Any) -> Any:
            if phase.fixed_ranges:
                self._network.round_kernels()
            with tf.GradientTape() as tape:
                # With `training=False`, ranges do not change, but gradients still pass.
                value = loss(labels, twin(images, training=not phase.fixed_ranges))
            gradients = tape.gradient(value, variables)
            for copy, variable in zip(copies, variables, strict=True):
                copy.assign(variable)
            optimizer.apply(gradients, copies)
            for copy, variable in zip(copies, variables, strict=True):
                variable.assign(copy.value)
            return value

        return step


def _copy(variable: Any, positive: frozenset[str]) -> keras.Variable:
    """Return a Keras 3 copy of a variable of the twin, with its name, for rules on names."""
    layer, _, name = place_of(variable).rpartition("/")
    with keras.name_scope(layer):
        copy = keras.Variable(variable.numpy(), name=name)
    if layer in positive and name == "gamma":
        copy.constraint = keras.constraints.NonNeg()
    return copy


def _wrapped(
    model: keras.Model, images: np.ndarray, options: CompressionOptions, steps: int
) -> TfmotNetwork:
    method = options.methods[0]
    if method == "qat":
        return quantizing_network(model, training_copy, images)
    names = [layer.name for layer in kernels(model)]
    skip = [name for name in names if name in options.skip]
    if method == "cluster":
        return clustering_network(model, training_copy, options.clusters, skip=skip)
    last, every = pruning_pace(steps)
    # The schedule supports only multiples of the interval.
    end = max(every, last // every * every)
    left = [names[0], *skip]
    return pruning_network(model, training_copy, options.sparsity, end, every=every, skip=left)


def _check(
    model: keras.Model, options: CompressionOptions, recipe: Recipe, keywords: Mapping[str, Any]
) -> None:
    """Raise ValueError for settings that would be ignored."""
    given = [f"`{name}`" for name, value in keywords.items() if value is not None]
    optimizer, methods = recipe.optimizer, options.methods
    refused: Sequence[tuple[bool, str, str]] = (
        (bool(given), f"{', '.join(given)}, for `train`", "no arguments of `train`"),
        (len(methods) > 1, ", ".join(methods), "one method"),
        (options.pattern != "unstructured", f"pattern={options.pattern!r}", "single weights"),
        ("qat" in methods and bool(options.skip), f"skip={options.skip}", "all layers in int8"),
        (precision_of(model, None) != "float32", precision_of(model, None), "float32"),
        (model.output_shape[-1] == 1, "a single unit", "a unit for each class"),
        (optimizer.accumulation > 1, f"{optimizer.accumulation}", "no `optimizer.accumulation`"),
        (recipe.average.decay > 0, f"{recipe.average.decay:g}", "no `average.decay`"),
        (recipe.precise_bn > 0, f"{recipe.precise_bn}", "no `precise_bn`"),
        (recipe.loss.l2_sp > 0, f"{recipe.loss.l2_sp:g}", "no `loss.l2_sp`"),
    )
    for wrong, received, expected in refused:
        if wrong:
            _refuse(received, expected)


def _refuse(received: str, expected: str) -> None:
    raise ValueError(f"Expected {expected} with engine='tfmot'. Received: {received}. {REMEDY}")
