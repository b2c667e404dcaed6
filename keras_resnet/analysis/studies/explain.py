"""Explanations of classifications: maps of the pixels of an image that support a class.

xplique 2.0.2 has the same methods, but requires TensorFlow 2.20 or earlier, and its Grad-CAM does
not find the layers of a network inside another model.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any, get_args

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from keras_resnet.analysis.studies.choices import Method
from keras_resnet.analysis.studies.logits import logits_of
from keras_resnet.images.labels import indices_of
from keras_resnet.models.info import get_info
from keras_resnet.models.outputs import class_probabilities
from keras_resnet.models.untrained import untrained_part, warn_if_untrained
from keras_resnet.networks.features import level_layers
from keras_resnet.networks.graph import find_network
from keras_resnet.support.checks import check_choice, check_integer, is_integer


def explain(
    model: keras.Model,
    images: Any,
    class_index: int | str | None = None,
    method: Method = "grad_cam",
    **keywords: Any,
) -> np.ndarray:
    """Return a map of the pixels that support a class, for every image.

    Args:
        model: a classifier of images; for Grad-CAM, see `grad_cam`.
        images: `(n, height, width, channels)` as the model takes them, RGB in [0, 255].
        class_index: index or name of the class; by default the top-1 class of every image.
        method: `"grad_cam"`, `"grad_cam_pp"`, `"integrated_gradients"` or `"occlusion"`.
        **keywords: further arguments of the function of the method: `level` for Grad-CAM, `steps`
            and `baseline` for integrated gradients, `patch` and `stride` for occlusion.

    Returns:
        `(n, height, width)`, float32, in [0, 1]; the maximum of a map is 1 unless it is all zeros.

    Raises:
        ValueError: there is no such method, class or level.

    Examples:

    ```python
    maps = explain(model, images, class_index="tabby", method="integrated_gradients")
    ```
    """
    check_choice("method", method, get_args(Method))
    if "level" in keywords and not method.startswith("grad_cam"):
        raise ValueError(
            f"Expected `level` only with the methods grad_cam and grad_cam_pp. Received: "
            f"level={keywords['level']!r} with {method}"
        )
    warn_if_untrained(model.name, untrained_part(model), stacklevel=2)
    functions: dict[str, Callable[..., np.ndarray]] = {
        "grad_cam": grad_cam,
        "grad_cam_pp": grad_cam_pp,
        "integrated_gradients": integrated_gradients,
        "occlusion": occlusion,
    }
    return functions[method](model, images, class_index, **keywords)


def grad_cam(
    model: keras.Model, images: Any, class_index: int | str | None = None, level: str | None = None
) -> np.ndarray:
    """Return Grad-CAM maps (Selvaraju et al. 2017, arXiv:1610.02391).

    A map is the sum of the channels of a feature map, each weighted by the mean of its gradient,
    clipped at 0 and scaled to a maximum of 1. The gradient is that of the logit of the class, which
    does not vanish for probabilities close to 1.

    Args:
        model: a classifier that is a network of this package or contains one.
        images: `(n, height, width, channels)` as the model takes them, RGB in [0, 255].
        class_index: index or name of the class; by default the top-1 class of every image.
        level: output of a stage, such as `"C2"`; by default the last one.

    Returns:
        `(n, height, width)`, float32, in [0, 1], resized bilinearly to the size of the images. The
        map of an image is all zeros if no feature supports the class.

    Raises:
        ValueError: there is no such class or level, or the model contains no network.

    Examples:

    ```python
    maps = grad_cam(model, images, class_index="tabby")
    ```
    """
    features, gradients = _features_and_gradients(model, images, class_index, level)
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    return _finished((features * weights).sum(axis=-1), np.shape(images)[1:3])


def grad_cam_pp(
    model: keras.Model, images: Any, class_index: int | str | None = None, level: str | None = None
) -> np.ndarray:
    """Return Grad-CAM++ maps (Chattopadhay et al. 2018, arXiv:1710.11063).

    Grad-CAM++ covers several objects of a class better than Grad-CAM. Arguments, result and errors
    are those of `grad_cam`.
    """
    features, gradients = _features_and_gradients(model, images, class_index, level)
    # Equation 19. For the exponential of the logit, higher derivatives are powers of the gradient.
    squares, cubes = gradients**2, gradients**3
    total = features.sum(axis=(1, 2), keepdims=True)
    below = 2 * squares + total * cubes
    alphas = np.divide(squares, below, out=np.zeros_like(squares), where=below != 0)
    weights = (alphas * np.maximum(gradients, 0)).sum(axis=(1, 2), keepdims=True)
    return _finished((features * weights).sum(axis=-1), np.shape(images)[1:3])


def integrated_gradients(
    model: keras.Model,
    images: Any,
    class_index: int | str | None = None,
    *,
    steps: int = 32,
    baseline: float = 0.0,
) -> np.ndarray:
    """Return absolute integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365).

    Args:
        model, images, class_index: as for `explain`.
        steps: number of points on the path from the baseline to the image.
        baseline: pixel value of the baseline, in [0, 255].
    """
    check_integer("steps", steps)
    pixels = np.asarray(images, np.float32)
    classes, _ = explained_classes(model, pixels, class_index)
    total = np.zeros_like(pixels)
    with logits_of(model) as call:
        # Midpoints, with which a sum approximates an integral best.
        for share in (np.arange(steps) + 0.5) / steps:
            point = tf.constant(baseline + share * (pixels - baseline), tf.float32)
            with tf.GradientTape() as tape:
                tape.watch(point)
                score = _score(call(point), classes)
            total += tape.gradient(score, point).numpy()
    attributions = (pixels - baseline) * total / steps
    return _finished(np.abs(attributions).sum(axis=-1), pixels.shape[1:3])


def occlusion(
    model: keras.Model,
    images: Any,
    class_index: int | str | None = None,
    *,
    patch: int | None = None,
    stride: int | None = None,
) -> np.ndarray:
    """Return the drop of the probability when a gray square covers part of the image (Zeiler 2013).

    Args:
        model, images, class_index: as for `explain`.
        patch: side of the square in pixels; by default an eighth of the short side of the image.
        stride: distance between squares in pixels; by default half of `patch`.
    """
    pixels = np.asarray(images, np.float32)
    height, width = pixels.shape[1:3]
    side, corners = _squares((height, width), patch, stride)
    rows = np.arange(len(pixels))
    classes, answers = explained_classes(model, pixels, class_index)
    whole = answers[rows, classes]
    drops, counts = np.zeros(pixels.shape[:3]), np.zeros((height, width))
    gray = pixels.mean(axis=(1, 2, 3), keepdims=True)
    for top, left in corners:
        square = slice(top, top + side), slice(left, left + side)
        covered = pixels.copy()
        covered[:, *square] = gray
        drop = whole - answers_of(model, covered)[rows, classes]
        drops[:, *square] += drop[:, np.newaxis, np.newaxis]
        counts[square] += 1
    return _finished(drops / np.maximum(counts, 1), (height, width))


def _squares(
    size: tuple[int, int], patch: int | None, stride: int | None
) -> tuple[int, list[tuple[int, int]]]:
    """Return the side of the squares, and their top left corners; the last end at the border."""
    side = check_integer("patch", patch or max(1, min(size) // 8))
    step = check_integer("stride", stride or max(1, side // 2))
    ends = [max(total - side, 0) for total in size]
    rows, columns = (sorted({*range(0, last + 1, step), last}) for last in ends)
    return side, list(itertools.product(rows, columns))


def short_run(method: Method, size: tuple[int, int]) -> tuple[dict[str, int], float]:
    """Return keywords for a short run of a method, and the ratio of a full run to it in time."""
    if method == "integrated_gradients":
        default = inspect.signature(integrated_gradients).parameters["steps"].default
        return {"steps": 2}, default / 2
    if method == "occlusion":
        # Plus one run without a square.
        return {"patch": max(size)}, (1 + len(_squares(size, None, None)[1])) / 2
    return {}, 1.0


def overlay(image: np.ndarray, heat: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Return an image with a map laid over it in colors, `(height, width, 3)`, uint8.

    Args:
        image: `(height, width, 3)`, uint8, RGB.
        heat: `(height, width)`, in [0, 1].
        opacity: opacity of the colors where the map is 1.
    """
    import matplotlib

    colors = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    shares = opacity * heat[..., np.newaxis]
    return (image * (1 - shares) + colors * shares).round().astype(np.uint8)


def _features_and_gradients(
    model: keras.Model, images: Any, class_index: int | str | None, level: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return a level's feature maps, `(n, h, w, channels)`, and the logits' gradients there."""
    layers = level_layers(find_network(model))
    level = level or list(layers)[-1]
    check_choice("level", level, tuple(layers))
    pixels = np.asarray(images, np.float32)
    classes, _ = explained_classes(model, pixels, class_index)
    layer, seen = layers[level], []
    original = layer.call
    with logits_of(model) as call, tf.GradientTape() as tape:

        def watched(*arguments: Any, **keywords: Any) -> Any:
            output = original(*arguments, **keywords)
            tape.watch(output)
            seen.append(output)
            return output

        # The layer may be in a nested model, whose tensors are not part of the outer graph.
        layer.call = watched
        try:
            score = _score(call(pixels), classes)
        finally:
            del layer.call
    (gradient,) = tape.gradient(score, seen)
    return tf.cast(seen[0], tf.float32).numpy(), tf.cast(gradient, tf.float32).numpy()


def _score(logits: Any, classes: np.ndarray) -> Any:
    if logits.shape[-1] == 1:
        # A single unit is the logit of the second of two classes.
        return tf.reduce_sum(tf.where(classes == 1, logits[:, 0], -logits[:, 0]))
    return tf.reduce_sum(tf.gather(logits, classes, axis=1, batch_dims=1))


def explained_classes(
    model: keras.Model, pixels: np.ndarray, class_index: int | str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the class to explain of every image, `(n,)`, int, and the outputs of `answers_of`."""
    answers = answers_of(model, pixels)
    if class_index is None:
        return answers.argmax(axis=1), answers
    index: Any = class_index
    if isinstance(class_index, str):
        index = indices_of(get_info(model).class_names or ()).get(class_index, class_index)
    if not is_integer(index, 0) or int(index) >= answers.shape[1]:
        raise ValueError(
            f"Expected `class_index` to be an index below {answers.shape[1]} or the name of a "
            f"class. Received: {class_index!r}"
        )
    return np.full(len(pixels), int(index)), answers


def answers_of(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Return the probabilities of all classes, or their logits, `(n, classes)`."""
    answers = keras.tree.flatten(model.predict_on_batch(pixels))[0]
    return class_probabilities(np.asarray(answers), logits=False, pairs=True)


def _finished(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Clip maps at 0, scale the maximum of each to 1, and resize them to the images."""
    found = np.zeros((len(maps), *size), np.float32)
    for target, values in zip(found, np.maximum(maps, 0).astype(np.float32), strict=True):
        if values.max() > 0:
            scaled = Image.fromarray(values / values.max())
            enlarged = np.asarray(scaled.resize((size[1], size[0]), Image.Resampling.BILINEAR))
            target[:] = enlarged / enlarged.max()
    return found
