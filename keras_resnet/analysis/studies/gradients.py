"""Norms of the loss's gradient, by depth, of one network."""

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
    """Norms of the gradient of the cross-entropy, from the input to the output.

    Attributes:
        layers: names of the convolutions of the blocks' main paths, first to last.
        kernels: norm of the gradient at the kernel of each, of the mean loss of a batch.
        blocks: names of the blocks.
        outputs: norm of the gradient of an image's loss at each block's output: the root of the
            mean square over the images.
        loss: the mean loss, with batch statistics as in training.
    """

    layers: tuple[str, ...]
    kernels: tuple[float, ...]
    blocks: tuple[str, ...]
    outputs: tuple[float, ...]
    loss: float

    @property
    def ratio(self) -> float | None:
        """The first kernel's norm divided by the last one's; None if either is zero."""
        first, last = self.kernels[0], self.kernels[-1]
        return first / last if first and last else None

    @property
    def factor(self) -> float | None:
        """The factor of the kernels' norms per layer on the way back, see `factor_per_step`."""
        return factor_per_step(self.kernels)

    @property
    def output_factor(self) -> float | None:
        """The same of the gradients at the blocks' outputs, per block."""
        return factor_per_step(self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}
        found = {name: getattr(self, name) for name in ("ratio", "factor", "output_factor")}
        return {**values, **found}


def factor_per_step(norms: Sequence[float]) -> float | None:
    """The factor between neighbouring norms, towards the input, by least squares of logarithms.

    Below 1 gradients shrink on their way back, above 1 they grow.

    Args:
        norms: from the input to the output.

    Returns:
        The factor; None of fewer than two norms, or if one of them is zero.
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
    """Measures how strong gradients are at every depth of a network.

    Gradients are those of a training step without augmentation: batch normalisation, unless it is
    frozen, uses the statistics of the batch. The model is left as it was.

    Args:
        model: a flat network of this package with a classifier, residual or plain.
        data: as for `lesion_study`.
        batch_size: images per gradient. Norms are averaged over the batches, of which none has less
            than half as many.
        seed: of the choice of images from a source, and of their order.
        begin: is given one step of the work, to be timed, before it begins.
        progress: is told after every batch.

    Raises:
        ValueError: the model or an argument is wrong.
    """
    check_integer("batch_size", batch_size)
    probe = Probe(model)
    check_has_logits(model)
    images, labels = given_images(model, data, seed)
    # Sources may be sorted by class.
    order = np.random.default_rng(seed).permutation(len(images))
    batches = np.array_split(order, max(1, round(len(images) / batch_size)))
    state = [variable.numpy() for variable in model.non_trainable_variables]

    def measured(rows: np.ndarray) -> np.ndarray:
        return probe.norms(images[rows].astype(np.float32), labels[rows])[0].numpy()

    found = []
    try:
        with logits_of(model):
            begin(lambda: measured(batches[0]), len(batches), 0)
            for number, rows in enumerate(batches, start=1):
                found.append(measured(rows))
                progress(f"{number} of {len(batches)} batches", number / len(batches))
    finally:
        # A forward pass in training mode moves the averages of batch normalisation.
        for variable, value in zip(model.non_trainable_variables, state, strict=True):
            variable.assign(value)
    return probe.named(np.mean(found, axis=0))


class Probe:
    """Computes gradients at the main path's kernels and at the blocks' outputs of a network."""

    def __init__(self, model: keras.Model) -> None:
        model = bare(model)
        blocks = layers_by_block(model)
        convs = [layer for layers in blocks.values() for layer in layers if _is_main(layer)]
        if not convs:
            raise ValueError(
                "Expected a network with convolutions named as in `keras_resnet.build`. Received: "
                f"{model.name!r} without any"
            )
        self.layers = tuple(layer.name for layer in convs)
        self.blocks = tuple(map(block_name, blocks))
        self.kernels = [layer.kernel.value for layer in convs]
        self.model = model
        ends = [layers[-1].output for layers in blocks.values()]
        self.graph = keras.Model(model.input, [*ends, model.output])

    def norms(self, images: Any, labels: Any) -> tuple[Any, list[Any]]:
        """The loss and the norms of kernels and outputs, in one vector; and weights' gradients.

        The model has to put out logits. Runs it in training mode.
        """
        weights = [variable.value for variable in self.model.trainable_variables]
        with tf.GradientTape() as tape:
            # Frozen layers are not watched otherwise.
            tape.watch(self.kernels)
            *ends, logits = self.graph(images, training=True)
            loss = tf.reduce_mean(losses(logits, labels))
        asked = tape.gradient(loss, [*self.kernels, *ends, *weights])
        kernels, rest = asked[: len(self.kernels)], asked[len(self.kernels) :]
        outputs, gradients = rest[: len(ends)], rest[len(ends) :]
        # The loss is a mean: each image's gradient is a so-manieth part of that of its own loss.
        scale = tf.sqrt(tf.cast(tf.shape(images)[0], tf.float32))
        norms = [loss, *map(_norm, kernels), *(scale * _norm(output) for output in outputs)]
        return tf.stack(norms), gradients

    def named(self, values: np.ndarray) -> GradientNorms:
        """A vector of `norms` as plain numbers."""
        loss, *norms = map(float, values)
        count = len(self.layers)
        return GradientNorms(
            self.layers, tuple(norms[:count]), self.blocks, tuple(norms[count:]), loss
        )


def _norm(gradient: Any) -> Any:
    return tf.norm(tf.cast(gradient, tf.float32))


def _is_main(layer: keras.Layer) -> bool:
    """Whether it is a convolution of a block's main path; projections are part 0."""
    place = place_of(layer.name)
    is_conv = place is not None and re.fullmatch(r"[1-9]\d*_conv", place.part) is not None
    return is_conv and isinstance(layer, keras.layers.Conv2D)
