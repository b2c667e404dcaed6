"""The parts of a network as functions on Keras tensors.

Only core Keras layers are used, with `data_format="channels_last"` said explicitly, so that a saved
model loads without this package and means the same under every backend and `image_data_format`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from keras_resnet.plan import BlockPlan, Conv

#: Moving-average momentum and epsilon of every BatchNormalization (torchvision, timm; Keras counts
#: momentum the other way round than torch, so torch's 0.1 is 0.9 here).
BN_MOMENTUM = 0.9
BN_EPSILON = 1e-5


def conv_norm_act(x: Any, conv: Conv, *, activation: bool = True, dtype: Any = None) -> Any:
    """Convolution, BN and, if `activation`, ReLU.

    Strided convolutions are padded by the same amount on both sides, as in the paper's Caffe
    networks and torch; Keras' `padding="same"` would pad an even-sized image on one side only.
    """
    padding = conv.kernel_size // 2
    if conv.strides > 1 and padding:
        x = layers.ZeroPadding2D(
            padding, data_format="channels_last", name=f"{conv.name}_pad", dtype=dtype
        )(x)
    x = layers.Conv2D(
        conv.filters,
        conv.kernel_size,
        strides=conv.strides,
        padding="valid" if conv.strides > 1 else "same",
        groups=conv.groups,
        use_bias=False,
        # He et al. 2015 (Delving Deep into Rectifiers), in the fan-out form of fb.resnet.torch and
        # torchvision.
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        data_format="channels_last",
        name=f"{conv.name}_conv",
        dtype=dtype,
    )(x)
    x = layers.BatchNormalization(
        axis=-1, momentum=BN_MOMENTUM, epsilon=BN_EPSILON, name=f"{conv.name}_bn", dtype=dtype
    )(x)
    return layers.Activation("relu", name=f"{conv.name}_relu", dtype=dtype)(x) if activation else x


def shortcut(x: Any, block: BlockPlan, *, dtype: Any = None) -> Any:
    """The shortcut of `block`: identity, projection (1x1, BN) or zero-padded identity."""
    if block.projection is not None:
        return conv_norm_act(x, block.projection, activation=False, dtype=dtype)
    if block.shortcut == "zero_padded":
        return _zero_padded(x, block, dtype)
    return x


def _zero_padded(x: Any, block: BlockPlan, dtype: Any) -> Any:
    """Shortcut A: every `strides`-th pixel, then zero channels appended after the existing ones."""
    if block.strides > 1:
        # Pooling over one pixel with a stride is subsampling.
        x = layers.MaxPooling2D(
            1,
            strides=block.strides,
            data_format="channels_last",
            name=f"{block.name}_0_subsample",
            dtype=dtype,
        )(x)
    extra = block.filters - block.input_filters
    if extra:
        # Told that channels come first, the layer pads the last two axes: of an NHWC tensor, width
        # and channels.
        x = layers.ZeroPadding2D(
            ((0, 0), (0, extra)),
            data_format="channels_first",
            name=f"{block.name}_0_pad",
            dtype=dtype,
        )(x)
    return x


def residual_block(x: Any, block: BlockPlan, *, dtype: Any = None) -> Any:
    """A post-activation block; a plain one if it has no shortcut.

    Basic: 3x3, BN, ReLU, 3x3, BN, add, ReLU. Bottleneck: 1x1, BN, ReLU, 3x3, BN, ReLU, 1x1, BN,
        add, ReLU.
    """
    residual = x
    for conv in block.convs:
        residual = conv_norm_act(
            residual, conv, activation=conv is not block.convs[-1], dtype=dtype
        )
    if block.shortcut is not None:
        residual = layers.Add(name=f"{block.name}_add", dtype=dtype)(
            [shortcut(x, block, dtype=dtype), residual]
        )
    return layers.Activation("relu", name=f"{block.name}_out", dtype=dtype)(residual)
