"""`build(config)`: from a config to a plain, flat functional `keras.Model` of core Keras layers."""

from __future__ import annotations

import dataclasses
import os
import warnings
from typing import Any

import keras
from keras import layers

from keras_resnet.images.labels import DOUBTFUL
from keras_resnet.models.info import ModelInfo, set_info
from keras_resnet.models.untrained import doubt
from keras_resnet.networks.arguments import check_head, check_shape, check_size
from keras_resnet.networks.blocks import conv_norm_act, max_pooling, norm_act, residual_block
from keras_resnet.networks.config import ResNetConfig
from keras_resnet.networks.graph import allow_depth
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
    """Builds the network that `config` describes.

    The model takes images `(batch, height, width, channels)`, uint8 or float, RGB in [0, 255], and
    normalises them itself (`config.mean`, `config.std`).

    Args:
        config: the network.
        include_top: whether to add global average pooling and the classifier.
        weights: `None` for random weights; the path of a file of weights; or a tag of
            `list_weights()`, which is downloaded once. See `load_weights`; its report becomes the
            model's attribute `load_report`.
        input_tensor: a Keras tensor to build on, instead of a new input.
        input_shape: `(height, width, channels)`; height and width may be `None`. By default
            224x224x3 (CIFAR stem: 32x32x3), or any size of 3 channels if `include_top` is false.
        pooling: without the top: `None` for the last feature map `(batch, h, w, c)`, `"avg"` or
            `"max"` for its global pooling `(batch, c)`.
        classes: width of the classifier; by default 1000 (CIFAR stem: 10). 1 is for two classes:
            the model puts out the probability of the second one.
        classifier_activation: activation of the classifier; `None` for logits. Of a single unit,
            softmax stands for a sigmoid, as it would always be 1.
        name: name of the model.
        include_preprocessing: whether the graph contains the normalisation. If not, the caller
            passes normalised pixels. For other than 3 channels the average of the RGB constants
            serves every channel.
        dtype: Keras dtype policy of the layers, e.g. `"mixed_bfloat16"`. The normalisation of the
            pixels, global pooling and the classifier stay float32.

    Returns:
        A `keras.Model` with the output `(batch, classes)`, or the features.

    Raises:
        ValueError: an argument is impossible; the message says what was expected and what was
            received.
    """
    check_head(include_top, pooling, classes)
    if input_tensor is None:
        side = config.default_size if include_top else None
        shape = (side, side, 3) if input_shape is None else input_shape
        check_shape(shape)
        # Pixels stay float32 up to the normalisation under every dtype policy; uint8 images are
        # cast on entry.
        inputs = image = keras.Input(shape=tuple(shape), dtype="float32", name="image")
    else:
        image = _checked_input(input_tensor, input_shape, include_preprocessing)
        sources = keras.utils.get_source_inputs(image)
        inputs = sources[0] if len(sources) == 1 else sources
    network = plan(config, image.shape[-1])
    check_size(network, image.shape[1:3])
    dtype = keras.dtype_policies.get(dtype)

    x = _backbone(config, network, image, include_preprocessing, dtype)
    if include_top or pooling is not None:
        pool = layers.GlobalMaxPooling2D if pooling == "max" else layers.GlobalAveragePooling2D
        name_of_pool = f"{pooling or 'avg'}_pool"
        x = pool(data_format="channels_last", name=name_of_pool, dtype="float32")(x)
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
            # Probabilities in half precision lose small classes and break losses and exports.
            dtype="float32",
        )(x)
    # A convolution comes with fewer than 8 other layers.
    allow_depth(sum(8 * len(block.convs) for block in network.blocks))
    model = keras.Model(inputs, x, name=name or "resnet")
    set_info(model, ModelInfo(config=dataclasses.asdict(config)))
    if weights is not None:
        model.load_report = load_weights(model, weights)
        warn_of_changes(model.load_report)
    if include_top and units == 1000:
        DOUBTFUL[model] = doubt
    return model


def warn_of_changes(report: LoadReport) -> None:
    """Warns of what loading weights has adapted or left new."""
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
    """The caller's tensor; refuses one that cannot hold images."""
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
