"""The parts of a network as functions on Keras tensors.

Tensors are `(batch, height, width, channels)`. Only core Keras layers and operations are used, with
an explicit `data_format="channels_last"`, so that a saved model loads without this package and
computes the same under every backend and `image_data_format`.

Every function takes `dtype`, the Keras dtype policy of its layers; `None` is the global policy.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from keras_resnet.networks.plan import BlockPlan, Conv, Gate, Norm

#: Momentum of the moving averages of every BatchNormalization (torch's 0.1 is 0.9 in Keras), and
#: epsilon of every normalization, as in torchvision and timm.
BN_MOMENTUM = 0.9
NORM_EPSILON = 1e-5


def conv_norm_act(x: Any, conv: Conv, *, activation: bool = True, dtype: Any = None) -> Any:
    """Apply a convolution, BN or GN, ReLU (if `activation`), blur pooling (if planned).

    Strided convolutions are padded by the same amount on both sides, as in the paper's Caffe
    networks and torch; Keras' `padding="same"` would pad an even-sized image on one side only.

    Args:
        x: `(batch, height, width, conv.input_filters)`.
        conv: the plan of the convolution.
        activation: whether a ReLU follows.

    Returns:
        `(batch, ceil(height / conv.strides), ceil(width / conv.strides), conv.filters)`.
    """
    settings = {"data_format": "channels_last", "dtype": dtype}
    padding = conv.kernel_size // 2
    if conv.kernel_strides > 1 and padding:
        x = layers.ZeroPadding2D(padding, name=f"{conv.name}_pad", **settings)(x)
    # He et al. 2015 (Delving Deep into Rectifiers), in the fan-out form of fb.resnet.torch and
    # torchvision.
    he = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    x = layers.Conv2D(
        conv.filters,
        conv.kernel_size,
        strides=conv.kernel_strides,
        padding="valid" if conv.kernel_strides > 1 else "same",
        dilation_rate=conv.dilation,
        groups=conv.groups,
        use_bias=conv.bias,
        kernel_initializer="zeros" if conv.zero_init else he,
        name=f"{conv.name}_conv",
        **settings,
    )(x)
    if conv.norm is not None:
        x = normalization(x, conv.norm, dtype=dtype)
    if activation:
        x = layers.Activation("relu", name=f"{conv.name}_relu", dtype=dtype)(x)
    return blur_pooling(x, conv.name, conv.strides, dtype=dtype) if conv.blur else x


def normalization(x: Any, norm: Norm, *, dtype: Any = None) -> Any:
    """Apply batch normalization, or group normalization if `norm.groups` is set; keep the shape."""
    settings = {
        "axis": -1,
        "epsilon": NORM_EPSILON,
        "gamma_initializer": "zeros" if norm.zero_init else "ones",
        "name": norm.name,
        "dtype": dtype,
    }
    if norm.groups is None:
        return layers.BatchNormalization(momentum=BN_MOMENTUM, **settings)(x)
    return layers.GroupNormalization(norm.groups, **settings)(x)


def norm_act(x: Any, norm: Norm, *, dtype: Any = None) -> Any:
    """Apply BN or GN, ReLU; keep the shape.

    It is the pre-activation of a block, and the last layers of a pre-activation network.
    """
    x = normalization(x, norm, dtype=dtype)
    return layers.Activation("relu", name=f"{norm.prefix}_relu", dtype=dtype)(x)


def blur_pooling(x: Any, name: str, strides: int, *, dtype: Any = None) -> Any:
    """Reflect the edges, filter with [1, 2, 1] / 4 along both axes, subsample (Zhang 2019).

    Two averages over 2x2 pixels are that filter. Unlike a frozen depthwise kernel, they have no
    weights to train, decay or lose.

    Args:
        x: `(batch, height, width, channels)`.
        name: prefix of the layers' names.
        strides: of the subsampling, along both axes.

    Returns:
        `(batch, ceil(height / strides), ceil(width / strides), channels)`.
    """
    before = 1
    if None in x.shape[1:3]:
        # A single pixel has no neighbor to reflect: it has to be copied. So the last pixel is
        # copied, the edge before the first is reflected, and the copy is cropped again.
        x = _padded(x, 0, 1, "symmetric")
        x = _padded(x, 1, 0, "reflect")
        settings = {"data_format": "channels_last", "name": f"{name}_blur_crop", "dtype": dtype}
        x, before = layers.Cropping2D(((0, 1), (0, 1)), **settings)(x), 0
    x = _padded(x, before, 1, "reflect")
    for number, step in enumerate((1, strides), start=1):
        x = layers.AveragePooling2D(
            2, strides=step, data_format="channels_last", name=f"{name}_blur{number}", dtype=dtype
        )(x)
    return x


def _padded(x: Any, before: int, after: int, mode: str) -> Any:
    """Pad height and width; by an operation, since no core layer reflects."""
    return keras.ops.pad(x, ((0, 0), (before, after), (before, after), (0, 0)), mode=mode)


def max_pooling(x: Any, padding: str, blur: bool, *, dtype: Any = None) -> Any:
    """Apply 3x3 max pooling with stride 2 and one pixel of padding on every side.

    Args:
        x: output of the stem, `(batch, height, width, channels)`.
        padding: `"zeros"`, or `"edges"` for windows that end at the edges of the image. After a
            ReLU there is no difference.
        blur: whether the pooling has stride 1 and blur pooling with stride 2 follows.

    Returns:
        `(batch, ceil(height / 2), ceil(width / 2), channels)`.
    """
    name, settings = "pool1", {"data_format": "channels_last", "dtype": dtype}
    if padding == "zeros":
        x = layers.ZeroPadding2D(1, name=f"{name}_pad", **settings)(x)
        x = layers.MaxPooling2D(3, strides=1 if blur else 2, name=f"{name}_pool", **settings)(x)
    else:
        # "same" pads both sides only without a stride, so a second layer picks every other window.
        x = layers.MaxPooling2D(3, strides=1, padding="same", name=f"{name}_pool", **settings)(x)
        if not blur:
            x = layers.MaxPooling2D(1, strides=2, name=f"{name}_subsample", **settings)(x)
    return blur_pooling(x, name, 2, dtype=dtype) if blur else x


def shortcut(x: Any, block: BlockPlan, *, dtype: Any = None) -> Any:
    """Apply the shortcut of `block`.

    - Projection: 1x1, BN; in a pre-activation network only 1x1.
    - Projection of the D shortcut: 2x2 average pooling, 1x1, BN.
    - Identity: nothing, or subsampling if the block has a stride.
    - Shortcut A where the width grows: subsampling, then zero channels after the existing ones.

    Args:
        x: `(batch, height, width, block.input_filters)`.
        block: the plan of the block.

    Returns:
        `(batch, ceil(height / block.strides), ceil(width / block.strides), block.filters)`.
    """
    name, settings = f"{block.name}_0", {"data_format": "channels_last", "dtype": dtype}
    if block.projection is not None:
        if (strides := block.average_strides) is not None:
            # The windows overlap where dilation replaced the stride. With "same", the last window
            # of an odd size averages only the pixels inside of the image.
            pool = layers.AveragePooling2D(2, strides, "same", name=f"{name}_pool", **settings)
            x = pool(x)
        return conv_norm_act(x, block.projection, activation=False, dtype=dtype)
    if block.strides > 1:
        # Pooling over one pixel with a stride is subsampling.
        x = layers.MaxPooling2D(1, block.strides, name=f"{name}_subsample", **settings)(x)
    if extra := block.filters - block.input_filters:
        # With "channels_first" the layer pads the last two axes: width and channels here.
        settings["data_format"] = "channels_first"
        x = layers.ZeroPadding2D(((0, 0), (0, extra)), name=f"{name}_pad", **settings)(x)
    return x


def gate(x: Any, plan: Gate, *, dtype: Any = None) -> Any:
    """Scale channels by global average pooling, 1x1, ReLU, 1x1, sigmoid (Hu et al. 2018).

    Args:
        x: `(batch, height, width, channels)`.
        plan: the plan of the gate.

    Returns:
        The shape of `x`.
    """
    settings = {"data_format": "channels_last", "dtype": dtype}
    scale = layers.GlobalAveragePooling2D(keepdims=True, name=f"{plan.name}_pool", **settings)(x)
    for conv in plan.convs:
        activation = "sigmoid" if conv is plan.convs[-1] else "relu"
        scale = layers.Conv2D(conv.filters, 1, activation=activation, name=conv.name, **settings)(
            scale
        )
    return layers.Multiply(name=f"{plan.name}_scale", dtype=dtype)([x, scale])


def residual_block(x: Any, block: BlockPlan, *, dtype: Any = None) -> Any:
    """Apply a residual block; a plain network's block has no shortcut and no addition.

    - Basic: 3x3, BN, ReLU, 3x3, BN, add, ReLU.
    - Bottleneck: 1x1, BN, ReLU, 3x3, BN, ReLU, 1x1, BN, add, ReLU.
    - Basic, pre-activation: BN, ReLU, 3x3, BN, ReLU, 3x3, add.
    - Bottleneck, pre-activation: BN, ReLU, 1x1, BN, ReLU, 3x3, BN, ReLU, 1x1, add.

    Squeeze-and-excitation and then stochastic depth come right before the addition. In a
    pre-activation block, any other shortcut than the identity starts after the first ReLU.

    Args:
        x: `(batch, height, width, block.input_filters)`.
        block: the plan of the block.

    Returns:
        `(batch, ceil(height / block.strides), ceil(width / block.strides), block.filters)`.
    """
    bypass = residual = x
    if block.preactivation_norm is not None:
        residual = norm_act(x, block.preactivation_norm, dtype=dtype)
        if block.shortcut != "identity":
            bypass = residual
    for conv in block.convs:
        last = conv is block.convs[-1]
        residual = conv_norm_act(residual, conv, activation=not last, dtype=dtype)
    if block.gate is not None:
        residual = gate(residual, block.gate, dtype=dtype)
    if block.drop_rate:
        residual = layers.Dropout(
            block.drop_rate, noise_shape=(None, 1, 1, 1), name=f"{block.name}_drop", dtype=dtype
        )(residual)
    post_activation = block.preactivation is None
    if block.shortcut is not None:
        # The last layer of a block is named `…_out`, as in keras.applications. The shortcut is the
        # first input, so that Keras lists its layers before those of the main path.
        name = f"{block.name}_{'add' if post_activation else 'out'}"
        inputs = [shortcut(bypass, block, dtype=dtype), residual]
        residual = layers.Add(name=name, dtype=dtype)(inputs)
    if not post_activation:
        return residual
    return layers.Activation("relu", name=f"{block.name}_out", dtype=dtype)(residual)
