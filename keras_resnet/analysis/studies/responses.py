"""Standard deviations of layer responses (He et al. 2015, Figure 7), and first-layer filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_resnet.networks.names import place_of
from keras_resnet.support.progress import Begin, Progress, unannounced, unseen


@dataclass(frozen=True)
class Responses:
    """Standard deviations of layer responses over all images, positions and channels.

    Attributes:
        names: names of the 3x3 convolutions, by depth.
        deviations: standard deviation of each convolution's output after its normalization, before
            any ReLU.
    """

    names: tuple[str, ...]
    deviations: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; `sorted` are the deviations in descending order."""
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
    """Measure the standard deviations of the responses of a network's 3x3 convolutions.

    Args:
        model: a flat network of this package. The response of a convolution without a following
            normalization, such as the last one of a pre-activation block, is its own output.
        images: `(n, height, width, channels)` as the model takes them, RGB in [0, 255].
        batch_size: images that are run together.
        begin: called with one step of the work, to time it, before the work begins.
        progress: called after every batch with a description and the share of the images.

    Raises:
        ValueError: no 3x3 convolutions are named as in `keras_resnet.build`.

    Examples:

    ```python
    responses = layer_responses(model, images)
    dict(zip(responses.names, responses.deviations))
    ```
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
            f"Received: {model.name!r}, which has none"
        )
    probe = keras.Model(model.input, outputs)
    pixels = np.asarray(images, np.float32)
    sums = np.zeros((3, len(outputs)))

    def run(start: int) -> Any:
        # Not compiled: compilation takes longer than the few batches of a study.
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
    """Return the kernels of the first convolution as images.

    All kernels are scaled by the same factor, and 0 becomes 0.5. Kernels without three channels are
    averaged over their channels, to gray.

    Args:
        model: a model with a convolution, possibly in a nested model.

    Returns:
        `(filters, height, width, 3)`, float64, in [0, 1].

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
