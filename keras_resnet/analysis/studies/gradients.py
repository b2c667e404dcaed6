"""Norms of the gradient of the loss at every depth of one network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.analysis.studies.blocks import block_name, layers_by_block
from keras_resnet.analysis.studies.images import given_images
from keras_resnet.analysis.studies.logits import check_has_logits, logits_of, losses
from keras_resnet.models.outputs import bare
from keras_resnet.networks.names import place_of
from keras_resnet.support.checks import check_integer
from keras_resnet.support.progress import Begin, Progress, unannounced, unseen


@dataclass(frozen=True)
class GradientNorms:
    """Norms of the gradient of the cross-entropy, ordered from the input to the output.

    Attributes:
        layers: names of the convolutions on the main path of the blocks.
        kernels: for each convolution, the norm of the gradient of a batch's mean loss at its
            kernel.
        blocks: names of the blocks.
        outputs: for each block, the norm of the gradient of a single image's loss at its output,
            as the root mean square over the images.
        loss: mean loss, with batch statistics as in training.
    """

    layers: tuple[str, ...]
    kernels: tuple[float, ...]
    blocks: tuple[str, ...]
    outputs: tuple[float, ...]
    loss: float

    @property
    def ratio(self) -> float | None:
        """Norm of the first kernel's gradient divided by that of the last; None if one is zero."""
        first, last = self.kernels[0], self.kernels[-1]
        return first / last if first and last else None

    @property
    def factor(self) -> float | None:
        """Factor of the kernels' norms per layer toward the input; see `factor_per_step`."""
        return factor_per_step(self.kernels)

    @property
    def output_factor(self) -> float | None:
        """Factor of the norms at the blocks' outputs per block toward the input."""
        return factor_per_step(self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}
        found = {name: getattr(self, name) for name in ("ratio", "factor", "output_factor")}
        return {**values, **found}


def factor_per_step(norms: Sequence[float]) -> float | None:
    """Return the factor between consecutive norms toward the input.

    The factor is a least squares fit of the logarithms. Below 1, gradients shrink toward the input;
    above 1, they grow.

    Args:
        norms: norms from the input to the output.

    Returns:
        The factor; None if there are fewer than two norms or one is zero.
    """
    if len(norms) < 2 or not min(norms) > 0:
        return None
    slope, _ = np.polyfit(np.arange(len(norms)), np.log(norms), 1)
    return float(np.exp(-slope))


def gradient_norms(
    model: keras.Model,
    data: Any,
    *,
    batch_size: int = 32,
    seed: int = 0,
    begin: Begin = unannounced,
    progress: Progress = unseen,
) -> GradientNorms:
    """Measure the norms of gradients at every depth of a network.

    The gradients are those of a training step without augmentation: batch normalization uses the
    statistics of the batch unless it is frozen. The model does not change.

    Args:
        model: a flat classifier of this package, residual or plain.
        data: as for `lesion_study`.
        batch_size: approximate number of images per batch. Norms are averaged over batches of about
            equal size.
        seed: seed of the choice of images from a source, and of their order.
        begin: called with one step of the work, to time it, before the work begins.
        progress: called after every batch with a description and the share of the batches.

    Raises:
        ValueError: the model does not fit, or an argument is invalid.

    Examples:

    ```python
    gradient_norms(model, "digits").ratio
    ```
    """
    check_integer("batch_size", batch_size)
    probe = Probe(model)
    check_has_logits(model)
    images, labels = given_images(model, data, seed)
    # Shuffled, as a source may be sorted by class.
    order = np.random.default_rng(seed).permutation(len(images))
    batches = np.array_split(order, max(1, round(len(images) / batch_size)))
    state = [variable.numpy() for variable in model.non_trainable_variables]

    def measured(batch: np.ndarray) -> np.ndarray:
        return probe.norms(images[batch].astype(np.float32), labels[batch])[0].numpy()

    found = []
    try:
        with logits_of(model):
            begin(lambda: measured(batches[0]), len(batches), 0)
            for number, batch in enumerate(batches, start=1):
                found.append(measured(batch))
                progress(f"{number} of {len(batches)} batches", number / len(batches))
    finally:
        # A forward pass in training mode updates the moving averages of batch normalization.
        for variable, value in zip(model.non_trainable_variables, state, strict=True):
            variable.assign(value)
    return probe.named(np.mean(found, axis=0))


class Probe:
    """Computation of the gradients at a network's main path kernels and block outputs.

    Args:
        model: a flat network of this package.

    Raises:
        ValueError: no convolutions are named as in `keras_resnet.build`.
    """

    def __init__(self, model: keras.Model) -> None:
        model = bare(model)
        blocks = layers_by_block(model)
        convs = [layer for layers in blocks.values() for layer in layers if _is_main(layer)]
        if not convs:
            raise ValueError(
                "Expected a network with convolutions named as in `keras_resnet.build`. Received: "
                f"{model.name!r}, which has none"
            )
        self.layers = tuple(layer.name for layer in convs)
        self.blocks = tuple(map(block_name, blocks))
        self.kernels = [layer.kernel.value for layer in convs]
        self.model = model
        ends = [layers[-1].output for layers in blocks.values()]
        self.graph = keras.Model(model.input, [*ends, model.output])

    def norms(self, images: Any, labels: Any) -> tuple[Any, list[Any]]:
        """Return a vector of the loss and all norms, and the gradients of the trainable weights.

        The model, whose outputs must be logits, runs in training mode.
        """
        weights = [variable.value for variable in self.model.trainable_variables]
        with tf.GradientTape() as tape:
            # Needed for frozen kernels.
            tape.watch(self.kernels)
            *ends, logits = self.graph(images, training=True)
            loss = tf.reduce_mean(losses(logits, labels))
        found = tape.gradient(loss, [*self.kernels, *ends, *weights])
        kernels, rest = found[: len(self.kernels)], found[len(self.kernels) :]
        outputs, gradients = rest[: len(ends)], rest[len(ends) :]
        # The loss is a mean over n images, whose gradients at an output are 1/n of those of their
        # own losses: the root mean square of these is sqrt(n) times the norm.
        scale = tf.sqrt(tf.cast(tf.shape(images)[0], tf.float32))
        norms = [loss, *map(_norm, kernels), *(scale * _norm(output) for output in outputs)]
        return tf.stack(norms), gradients

    def named(self, values: np.ndarray) -> GradientNorms:
        """Return the vector of `norms` as a `GradientNorms`."""
        loss, *norms = map(float, values)
        count = len(self.layers)
        return GradientNorms(
            self.layers, tuple(norms[:count]), self.blocks, tuple(norms[count:]), loss
        )


def _norm(gradient: Any) -> Any:
    return tf.norm(tf.cast(gradient, tf.float32))


def _is_main(layer: keras.Layer) -> bool:
    """Return whether a layer is a convolution on the main path of a block; projections are 0."""
    place = place_of(layer.name)
    is_conv = place is not None and re.fullmatch(r"[1-9]\d*_conv", place.part) is not None
    return is_conv and isinstance(layer, keras.layers.Conv2D)
