"""Strength of the layers' responses (He et al. 2015, Figure 7), and the first layer's filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_resnet.networks.names import place_of
from keras_resnet.support.progress import Begin, Progress, unannounced, unseen


@dataclass(frozen=True)
class Responses:
    """Standard deviations of layer responses, over all images, places and channels.

    Attributes:
        names: of the 3x3 convolutions, by depth.
        deviations: of what each puts out after its normalisation, before any ReLU.
    """

    names: tuple[str, ...]
    deviations: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; `sorted` is in descending order, as in the lower figure."""
        return {
            "names": list(self.names),
            "deviations": list(self.deviations),
            "sorted": sorted(self.deviations, reverse=True),
        }


def layer_responses(
    model: keras.Model,
    images: Any,
    batch_size: int = 128,
    *,
    begin: Begin = unannounced,
    progress: Progress = unseen,
) -> Responses:
    """Measures how strongly the 3x3 convolutions of a network respond.

    Args:
        model: a flat network of this package. Where no normalisation follows, as at the end of a
            pre-activation block, the response is what the convolution itself puts out.
        images: `(n, height, width, channels)` as the model takes them.
        batch_size: images that are run at once.
        begin: is given one step of the work, to be timed, before it begins.
        progress: is told after every batch.

    Raises:
        ValueError: the model has no 3x3 convolutions in blocks named as in `keras_resnet.build`.
    """
    outputs = {}
    layers = {layer.name: layer for layer in model.layers}
    for name, layer in layers.items():
        is_spatial = getattr(layer, "kernel_size", None) == (3, 3)
        if not is_spatial or not name.endswith("_conv") or place_of(name) is None:
            continue
        norms = (layers.get(name.removesuffix("conv") + kind) for kind in ("bn", "gn"))
        norm = next((norm for norm in norms if norm is not None), None)
        outputs[name] = layer.output if norm is None else norm.output
    if not outputs:
        raise ValueError(
            "Expected a flat network with 3x3 convolutions named as in `keras_resnet.build`. "
            f"Received: {model.name!r} without any"
        )
    probe = keras.Model(model.input, outputs)
    pixels = np.asarray(images, np.float32)
    sums = np.zeros((3, len(outputs)))

    def run(start: int) -> Any:
        # Not compiled, which takes longer than the few batches of a study.
        return probe(pixels[start : start + batch_size], training=False)

    begin(lambda: run(0), len(pixels) / min(batch_size, len(pixels)), 0)
    for start in range(0, len(pixels), batch_size):
        found = run(start)
        values = [
            np.asarray(keras.ops.convert_to_numpy(found[name]), np.float64) for name in outputs
        ]
        sums += [
            [x.size for x in values],
            [x.sum() for x in values],
            [(x**2).sum() for x in values],
        ]
        done = min(start + batch_size, len(pixels))
        progress(f"{done} of {len(pixels)} images", done / len(pixels))
    counts, totals, squares = sums
    deviations = np.sqrt(np.maximum(squares / counts - (totals / counts) ** 2, 0))
    return Responses(tuple(outputs), tuple(deviations.tolist()))


def first_filters(model: keras.Model) -> np.ndarray:
    """Kernels of the first convolution as images: `(filters, height, width, 3)`, float, in [0, 1].

    All are scaled alike, with zero at 0.5. Kernels of other than three channels are averaged over
    them and shown in grey.

    Raises:
        ValueError: the model has no convolution.
    """
    layers = list(model.layers)
    for layer in layers:
        if isinstance(layer, keras.Model):
            layers.extend(layer.layers)
    first = next((layer for layer in layers if isinstance(layer, keras.layers.Conv2D)), None)
    if first is None:
        raise ValueError(f"Expected a model with a convolution. Received: {model.name!r}")
    kernel = np.asarray(first.get_weights()[0], np.float64).transpose(3, 0, 1, 2)
    if kernel.shape[-1] != 3:
        kernel = kernel.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    return 0.5 + kernel / (2 * max(np.abs(kernel).max(), np.finfo(float).tiny))
