"""The builder: from a config to a plain, flat functional `keras.Model` of core Keras layers."""

from __future__ import annotations

import dataclasses
import os
import warnings
from typing import Any

import keras
from keras import layers

from keras_resnet.images.labels import PERHAPS_UNTRAINED
from keras_resnet.models.info import ModelInfo, set_info
from keras_resnet.models.untrained import untrained_reason
from keras_resnet.networks.arguments import check_head, check_shape, check_size
from keras_resnet.networks.blocks import conv_norm_act, max_pooling, norm_act, residual_block
from keras_resnet.networks.config import ResNetConfig
from keras_resnet.networks.graph import allow_depth, only
from keras_resnet.networks.plan import NetworkPlan, plan
from keras_resnet.weights.load import load_weights
from keras_resnet.weights.report import LoadReport


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
    """Build the network that `config` describes.

    The model takes images `(batch, height, width, channels)`, uint8 or float, RGB in [0, 255], and
    normalizes them itself, by `config.mean` and `config.std`.

    Args:
        config: the network.
        include_top: whether to add global average pooling and the classifier.
        weights: `None` for random weights, the path of a weights file, or a tag of
            `list_weights()`, whose file is downloaded once. See `load_weights`; its report becomes
            the attribute `load_report` of the model.
        input_tensor: a Keras tensor to use as the input, instead of a new `keras.Input`.
        input_shape: `(height, width, channels)`; height and width may be `None` for any size. The
            default is `(224, 224, 3)`, with the CIFAR stem `(32, 32, 3)`, and without the top
            `(None, None, 3)`.
        pooling: output without the top: `None` for the last feature map
            `(batch, height, width, channels)`, `"avg"` or `"max"` for its global pooling
            `(batch, channels)`.
        classes: number of classes; by default 1000, with the CIFAR stem 10. With 1, the single
            output is the probability of the second of two classes.
        classifier_activation: activation of the classifier; `None` for logits. For a single unit,
            `"softmax"` is replaced by a sigmoid, since the softmax of one number is always 1.
        name: name of the model; by default `"resnet"`.
        include_preprocessing: whether the model normalizes pixels. If not, it expects normalized
            pixels. For images without 3 channels, the mean of the three RGB constants is used for
            every channel.
        dtype: Keras dtype policy of the layers, such as `"mixed_bfloat16"`. Normalization of the
            pixels, global pooling and the classifier are always float32.

    Returns:
        A `keras.Model` with the output `(batch, classes)`, float32; without the top, the features.

    Raises:
        ValueError: an argument is impossible.

    Examples:
        >>> config = keras_resnet.ResNetConfig("basic", (1, 1), (16, 32), stem="cifar")
        >>> model = keras_resnet.build(config, classes=5)
        >>> model.output_shape
        (None, 5)
    """
    check_head(include_top, pooling, classes)
    if input_tensor is None:
        side = config.default_size if include_top else None
        shape = (side, side, 3) if input_shape is None else input_shape
        check_shape(shape)
        # Keras casts uint8 images to the dtype of the input.
        inputs = image = keras.Input(shape=tuple(shape), dtype="float32", name="image")
    else:
        image = _checked_input(input_tensor, input_shape, include_preprocessing)
        inputs = only(keras.utils.get_source_inputs(image))
    network = plan(config, image.shape[-1])
    check_size(network, image.shape[1:3])
    dtype = keras.dtype_policies.get(dtype)

    x = _backbone(config, network, image, include_preprocessing, dtype)
    if include_top or pooling is not None:
        pool = layers.GlobalMaxPooling2D if pooling == "max" else layers.GlobalAveragePooling2D
        pool_name = f"{pooling or 'avg'}_pool"
        x = pool(data_format="channels_last", name=pool_name, dtype="float32")(x)
    if include_top:
        units = int(classes or config.default_classes)
        if units == 1 and classifier_activation in ("softmax", keras.activations.softmax):
            classifier_activation = "sigmoid"
        x = layers.Dense(
            units,
            activation=classifier_activation,
            # Uniform within 1/sqrt(inputs), as in fb.resnet.torch and torchvision.
            kernel_initializer=keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
            name="predictions",
            # In half precision, small probabilities underflow, and losses and exports break.
            dtype="float32",
        )(x)
    # Fewer than 8 layers belong to each convolution.
    allow_depth(sum(8 * len(block.convs) for block in network.blocks))
    model = keras.Model(inputs, x, name=name or "resnet")
    set_info(model, ModelInfo(config=dataclasses.asdict(config)))
    if weights is not None:
        model.load_report = load_weights(model, weights)
        warn_of_changes(model.load_report)
    if include_top and units == 1000:
        PERHAPS_UNTRAINED[model] = untrained_reason
    return model


def warn_of_changes(report: LoadReport) -> None:
    """Warn about weights that were adapted, and layers that got none."""
    changes = [f"{layer}: {how}" for layer, how in report.adapted.items()]
    if report.missing:
        changes.append("the classifier is new, as the weights have none for these classes")
    if changes:
        warnings.warn(f"{report.tag or report.source}: {'; '.join(changes)}.", stacklevel=4)


def _backbone(
    config: ResNetConfig, network: NetworkPlan, image: Any, include_preprocessing: bool, dtype: Any
) -> Any:
    x = _normalized(config, image) if include_preprocessing else image
    for conv in network.stem:
        x = conv_norm_act(x, conv, activation=conv.norm is not None, dtype=dtype)
    if network.pool is not None:
        x = max_pooling(x, network.pool, network.pool_blur, dtype=dtype)
    for block in network.blocks:
        x = residual_block(x, block, dtype=dtype)
    if network.final_norm is not None:
        x = norm_act(x, network.final_norm, dtype=dtype)
    return x


def _checked_input(tensor: Any, shape: Any, include_preprocessing: bool) -> Any:
    """Return `input_tensor`; raise ValueError if the network cannot be built on it."""
    if not keras.backend.is_keras_tensor(tensor):
        raise ValueError(
            "Expected `input_tensor` to be a Keras tensor, such as `keras.Input(shape)`. "
            f"Received: {type(tensor).__name__}"
        )
    if shape is not None and tuple(tensor.shape[1:]) != tuple(shape):
        raise ValueError(
            "Expected `input_shape` to agree with `input_tensor`. "
            f"Received: input_shape={tuple(shape)}, input_tensor.shape={tuple(tensor.shape)}"
        )
    check_shape(tuple(tensor.shape[1:]))
    if "float" not in tensor.dtype and not include_preprocessing:
        raise ValueError(
            "Expected an `input_tensor` of floats with `include_preprocessing=False`. "
            f"Received: dtype={tensor.dtype}"
        )
    return tensor


def _normalized(config: ResNetConfig, image: Any) -> Any:
    mean, std = config.mean, config.std
    channels = image.shape[-1]
    if len(mean) not in (3, channels):
        raise ValueError(
            f"Expected `mean` and `std` for {channels} channels, or for RGB. Received: mean={mean}"
        )
    if len(mean) != channels:
        mean, std = (sum(mean) / 3,) * channels, (sum(std) / 3,) * channels
    # Keras wants the variance, not the standard deviation.
    variance = [deviation**2 for deviation in std]
    return layers.Normalization(-1, list(mean), variance, name="normalization", dtype="float32")(
        image
    )
