"""`build(config)`: from a config to a plain, flat functional `keras.Model` of core Keras layers."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import keras
from keras import layers

from keras_resnet.blocks import conv_norm_act, residual_block
from keras_resnet.config import ResNetConfig
from keras_resnet.plan import plan

#: Below this height or width, the last stage sees the image through so few pixels that accuracy suffers.
SMALL_FINAL_MAP = 4


def build(
    config: ResNetConfig,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: Any = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    *,
    include_preprocessing: bool = True,
    dtype: Any = None,
) -> keras.Model:
    """Builds the network that `config` describes.

    The model takes images `(batch, height, width, channels)`, uint8 or float, RGB in [0, 255], and normalises them
    itself (`config.mean`, `config.std`).

    Args:
        config: the network.
        include_top: whether to add global average pooling and the classifier.
        weights: `None` for random weights, or the path of a `.keras` file of the same network (a file of a network
            with a classifier also serves a model without one). Nothing is ever downloaded.
        input_tensor: a Keras tensor to build on, instead of a new input.
        input_shape: `(height, width, channels)`; height and width may be `None`. By default 224x224x3 (CIFAR stem:
            32x32x3), or any size of 3 channels if `include_top` is false.
        pooling: without the top: `None` for the last feature map `(batch, h, w, c)`, `"avg"` or `"max"` for its global
            pooling `(batch, c)`.
        classes: width of the classifier; by default 1000 (CIFAR stem: 10).
        classifier_activation: activation of the classifier; `None` for logits.
        name: name of the model.
        include_preprocessing: whether the graph contains the normalisation. If not, the caller passes normalised
            pixels. For other than 3 channels the average of the RGB constants serves every channel.
        dtype: Keras dtype policy of the layers, e.g. `"mixed_bfloat16"`. Normalisation and classifier stay float32.

    Returns:
        A `keras.Model` with the output `(batch, classes)`, or the features.

    Raises:
        ValueError: an argument is impossible; the message says what was expected and what was received.
    """
    _check_head(include_top, pooling, classes)
    inputs, image = _image_input(config, include_top, input_tensor, input_shape)
    check_size(config, image.shape[1:3])
    dtype = keras.dtype_policies.get(dtype)

    x = _normalized(config, image) if include_preprocessing else image
    network = plan(config, image.shape[-1])
    x = conv_norm_act(x, network.stem, dtype=dtype)
    if network.max_pool:
        # The pooled map has been through ReLU, so padding with zeros equals padding with minus infinity.
        x = layers.ZeroPadding2D(1, data_format="channels_last", name="pool1_pad", dtype=dtype)(x)
        x = layers.MaxPooling2D(3, strides=2, data_format="channels_last", name="pool1_pool", dtype=dtype)(x)
    for block in network.blocks:
        x = residual_block(x, block, dtype=dtype)
    if include_top:
        x = layers.GlobalAveragePooling2D(data_format="channels_last", name="avg_pool", dtype=dtype)(x)
        x = layers.Dense(
            config.default_classes if classes is None else classes,
            activation=classifier_activation,
            # Uniform within 1/sqrt(inputs), as in fb.resnet.torch and torchvision.
            kernel_initializer=keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
            name="predictions",
            # Probabilities in half precision lose small classes and break losses and exports.
            dtype="float32",
        )(x)
    elif pooling is not None:
        pool = layers.GlobalAveragePooling2D if pooling == "avg" else layers.GlobalMaxPooling2D
        x = pool(data_format="channels_last", name=f"{pooling}_pool", dtype=dtype)(x)

    model = keras.Model(inputs, x, name=name or "resnet")
    if weights is not None:
        _load_weights(model, weights)
    return model


def _check_head(include_top: bool, pooling: str | None, classes: int | None) -> None:
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"Expected `pooling` to be None, 'avg' or 'max'. Received: pooling={pooling!r}")
    if include_top and pooling is not None:
        raise ValueError(
            "Expected `pooling=None` with `include_top=True`, which always averages. "
            f"Received: pooling={pooling!r}. Pass `include_top=False` to get pooled features"
        )
    if classes is not None and (not isinstance(classes, int) or isinstance(classes, bool) or classes < 1):
        raise ValueError(f"Expected `classes` to be an integer of at least 1. Received: classes={classes!r}")


def _image_input(config: ResNetConfig, include_top: bool, input_tensor: Any, input_shape: Any) -> tuple[Any, Any]:
    """Returns what the model's inputs are and the tensor that holds the image."""
    if input_tensor is not None:
        if not keras.backend.is_keras_tensor(input_tensor):
            raise ValueError(
                "Expected `input_tensor` to be a Keras tensor, such as `keras.Input(shape=(224, 224, 3))`. "
                f"Received: {type(input_tensor).__name__}"
            )
        if input_shape is not None and tuple(input_tensor.shape[1:]) != tuple(input_shape):
            raise ValueError(
                "Expected `input_shape` to agree with `input_tensor`. "
                f"Received: input_shape={tuple(input_shape)}, input_tensor.shape={tuple(input_tensor.shape)}"
            )
        _check_shape(tuple(input_tensor.shape[1:]))
        return keras.utils.get_source_inputs(input_tensor), input_tensor
    if input_shape is None:
        side = config.default_size if include_top else None
        input_shape = (side, side, 3)
    _check_shape(input_shape)
    # Pixels stay float32 up to the normalisation under every dtype policy; uint8 images are cast on entry.
    image = keras.Input(shape=tuple(input_shape), dtype="float32", name="image")
    return image, image


def _check_shape(shape: Any) -> None:
    def is_size(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1

    valid = isinstance(shape, (tuple, list)) and len(shape) == 3 and is_size(shape[2])
    if not valid or not all(side is None or is_size(side) for side in shape[:2]):
        raise ValueError(
            "Expected an input shape (height, width, channels), channels last, with at least one channel; height and "
            f"width may be None. Received: {shape}"
        )


def check_size(config: ResNetConfig, size: tuple[int | None, int | None]) -> None:
    """Refuses images that are used up before the last stage, and warns about those that nearly are."""
    known = [side for side in size if side is not None]
    # Each step that halves the resolution needs two pixels to halve.
    smallest = config.stride // 2 + 1
    if known and min(known) < smallest:
        raise ValueError(
            f"Expected images of at least {smallest}x{smallest} pixels: this network reduces them by {config.stride}. "
            f"Received: {size[0]}x{size[1]}. Enlarge the images"
            + (", or pass `stem='cifar'`, which reduces four times less" if config.stem == "imagenet" else "")
        )
    if known and -(-min(known) // config.stride) < SMALL_FINAL_MAP:
        height, width = (None if side is None else -(-side // config.stride) for side in size)
        warnings.warn(
            f"The last stage sees {size[0]}x{size[1]} images as {height}x{width} positions, which costs accuracy. "
            + ("Pass `stem='cifar'` for small images." if config.stem == "imagenet" else "Enlarge the images."),
            stacklevel=3,
        )


def _normalized(config: ResNetConfig, image: Any) -> Any:
    mean, std = config.mean, config.std
    channels = image.shape[-1]
    if len(mean) != channels:
        mean = (sum(mean) / len(mean),) * channels
        std = (sum(std) / len(std),) * channels
    return layers.Rescaling(
        # A multiplication and an addition: unlike a division they exist in integer-only TFLite.
        scale=[1 / s for s in std],
        offset=[-m / s for m, s in zip(mean, std, strict=True)],
        name="normalization",
        dtype="float32",
    )(image)


def _load_weights(model: keras.Model, weights: str | os.PathLike[str]) -> None:
    """Copies the weights of the model saved in a `.keras` file, layer by layer, by name and shape."""
    path = Path(weights)
    if path.suffix != ".keras" or not path.is_file():
        raise ValueError(
            "Expected `weights` to be None or the path of an existing `.keras` file. "
            f"Received: weights={str(weights)!r}"
        )
    try:
        saved = keras.saving.load_model(path, compile=False)
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"Expected `weights` to be a readable `.keras` file. Received: {path}: {error}") from error
    sources = {layer.name: layer for layer in saved.layers if layer.weights}
    targets = {layer.name: layer for layer in model.layers if layer.weights}
    missing = sorted(set(targets) - set(sources))
    unexpected = sorted(set(sources) - set(targets) - {"predictions"})
    reshaped = [
        f"{name} {_shapes(sources[name])} instead of {_shapes(layer)}"
        for name, layer in targets.items()
        if name in sources and _shapes(sources[name]) != _shapes(layer)
    ]
    for problem, names in (("it lacks", missing), ("it also has", unexpected), ("shapes differ:", reshaped)):
        if names:
            raise ValueError(
                f"Expected `weights` to hold the layers of `{model.name}`. Received: {path}: {problem} "
                f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            )
    for name, layer in targets.items():
        layer.set_weights(sources[name].get_weights())


def _shapes(layer: keras.Layer) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]
