"""The parts of a network as functions on Keras tensors.

Only core Keras layers and operations are used, with `data_format="channels_last"` said explicitly,
so that a saved model loads without this package and means the same under every backend and
`image_data_format`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from keras_resnet.networks.plan import BlockPlan, Conv, Gate, Norm

#: Moving-average momentum of every BatchNormalization (Keras counts it the other way round than
#: torch, so torch's 0.1 is 0.9 here) and epsilon of every normalisation (torchvision, timm).
BN_MOMENTUM = 0.9
NORM_EPSILON = 1e-5


def conv_norm_act(x: Any, conv: Conv, *, activation: bool = True, dtype: Any = None) -> Any:
    """Convolution, BN or GN (if the plan has one), ReLU (if `activation`), blur (if it strides).

    Strided convolutions are padded by the same amount on both sides, as in the paper's Caffe
    networks and torch; Keras' `padding="same"` would pad an even-sized image on one side only.
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
    """Batch or group normalisation over the channels."""
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
    """BN or GN, ReLU: a pre-activation, and the end of a pre-activation network."""
    x = normalization(x, norm, dtype=dtype)
    return layers.Activation("relu", name=f"{norm.prefix}_relu", dtype=dtype)(x)


def blur_pooling(x: Any, name: str, strides: int, *, dtype: Any = None) -> Any:
    """Reflected edges, the binomial filter [1, 2, 1] in both axes, the stride.

    Averaging over two pixels twice is that filter, and unlike a frozen depthwise kernel it has no
    weights that anyone could train, decay or lose.
    """
    before = 1
    if None in x.shape[1:3]:
        # A single pixel has no neighbour to reflect; its copies are the edges. So a copy stands
        # behind the last pixel until the edge before the first is there.
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
    """Height and width padded by an operation without a layer: no layer reflects."""
    return keras.ops.pad(x, ((0, 0), (before, after), (before, after), (0, 0)), mode=mode)


def max_pooling(x: Any, padding: str, blur: bool, *, dtype: Any = None) -> Any:
    """3x3 max pooling with stride 2 and one pixel of padding on every side.

    Args:
        x: the stem's output.
        padding: `"zeros"`, or `"edges"` for windows that end at the image's edges. After ReLU there
            is no difference.
        blur: whether blur pooling does the striding.
        dtype: dtype policy.
    """
    name, settings = "pool1", {"data_format": "channels_last", "dtype": dtype}
    if padding == "zeros":
        x = layers.ZeroPadding2D(1, name=f"{name}_pad", **settings)(x)
        x = layers.MaxPooling2D(3, strides=1 if blur else 2, name=f"{name}_pool", **settings)(x)
    else:
        # Padded on both sides only without a stride; so every other window is picked afterwards.
        x = layers.MaxPooling2D(3, strides=1, padding="same", name=f"{name}_pool", **settings)(x)
        if not blur:
            x = layers.MaxPooling2D(1, strides=2, name=f"{name}_subsample", **settings)(x)
    return blur_pooling(x, name, 2, dtype=dtype) if blur else x


def shortcut(x: Any, block: BlockPlan, *, dtype: Any = None) -> Any:
    """The shortcut of `block`.

    A projection: 1x1, BN; in a pre-activation network 1x1 alone; the D shortcut pools before it.
    Else the identity, subsampled if the block has a stride, and padded with zero channels, after
    the existing ones, if it widens (shortcut A).
    """
    name, settings = f"{block.name}_0", {"data_format": "channels_last", "dtype": dtype}
    if block.projection is not None:
        if (strides := block.average_strides) is not None:
            # Where the stride became dilation, the windows overlap. The last ones are cut off at
            # the edge of images of odd size.
            pool = layers.AveragePooling2D(2, strides, "same", name=f"{name}_pool", **settings)
            x = pool(x)
        return conv_norm_act(x, block.projection, activation=False, dtype=dtype)
    if block.strides > 1:
        # Pooling over one pixel with a stride is subsampling.
        x = layers.MaxPooling2D(1, block.strides, name=f"{name}_subsample", **settings)(x)
    if extra := block.filters - block.input_filters:
        # Told that channels come first, the layer pads the last two axes: of an NHWC tensor, width
        # and channels.
        settings["data_format"] = "channels_first"
        x = layers.ZeroPadding2D(((0, 0), (0, extra)), name=f"{name}_pad", **settings)(x)
    return x


def gate(x: Any, plan: Gate, *, dtype: Any = None) -> Any:
    """Global average, 1x1, ReLU, 1x1, sigmoid; scales the channels (Hu et al. 2018)."""
    settings = {"data_format": "channels_last", "dtype": dtype}
    scale = layers.GlobalAveragePooling2D(keepdims=True, name=f"{plan.name}_pool", **settings)(x)
    for conv in plan.convs:
        activation = "sigmoid" if conv is plan.convs[-1] else "relu"
        scale = layers.Conv2D(conv.filters, 1, activation=activation, name=conv.name, **settings)(
            scale
        )
    return layers.Multiply(name=f"{plan.name}_scale", dtype=dtype)([x, scale])


def residual_block(x: Any, block: BlockPlan, *, dtype: Any = None) -> Any:
    """A residual block; a plain one if it has no shortcut.

    Post-activation, basic: 3x3, BN, ReLU, 3x3, BN, add, ReLU. Bottleneck: 1x1, BN, ReLU, 3x3, BN,
    ReLU, 1x1, BN, add, ReLU.

    Pre-activation, basic: BN, ReLU, 3x3, BN, ReLU, 3x3, add. Bottleneck: BN, ReLU, 1x1, BN, ReLU,
    3x3, BN, ReLU, 1x1, add. A shortcut that changes the width starts after the first BN and ReLU.

    A gate (squeeze-and-excitation) and stochastic depth come right before the addition.
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
        # keras.applications names the last layer of a block `…_out`, whichever it is. The shortcut
        # comes first: Keras follows the first input to the end before it turns to the others.
        name = f"{block.name}_{'add' if post_activation else 'out'}"
        inputs = [shortcut(bypass, block, dtype=dtype), residual]
        residual = layers.Add(name=name, dtype=dtype)(inputs)
    if not post_activation:
        return residual
    return layers.Activation("relu", name=f"{block.name}_out", dtype=dtype)(residual)
