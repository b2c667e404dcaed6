"""Conversion of arrays between other packages and this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from keras_resnet.networks.blocks import NORM_EPSILON
from keras_resnet.weights.checkpoint import Checkpoint
from keras_resnet.weights.infer import Inferred
from keras_resnet.weights.layers import TORCH_ROLES, Constants, stem_name
from keras_resnet.weights.mapping import Naming

#: Epsilon of every BN of keras.applications' ResNets.
_KERAS_APPLICATIONS_EPSILON = 1.001e-5


def convert(checkpoint: Checkpoint, inferred: Inferred) -> None:
    """Convert the arrays in place, so that this package's network computes the same outputs."""
    for name, roles in checkpoint.layers.items():
        norm = checkpoint.layers.get(name.removesuffix("conv") + "bn", {})
        if name.endswith("_conv") and "bias" in roles and "moving_mean" in norm:
            # A bias before a BN is redundant: it can be subtracted from the moving mean.
            norm["moving_mean"] = norm["moving_mean"] - roles.pop("bias")
        if inferred.family == "keras_applications" and "moving_variance" in roles:
            shift = _KERAS_APPLICATIONS_EPSILON - NORM_EPSILON
            roles["moving_variance"] = (roles["moving_variance"] + shift).astype(np.float32)
    if checkpoint.naming.layout == "akamaster" and inferred.config.shortcut == "A":
        move_zero_channels(checkpoint.layers, inferred.config.filters, to_end=True)
        checkpoint.notes.append(
            "channels were reordered, as akamaster pads zero channels on both sides"
        )
    if inferred.bgr:
        stem = stem_name(checkpoint.layers)
        checkpoint.layers[stem]["kernel"] = checkpoint.layers[stem]["kernel"][:, :, ::-1]


def move_zero_channels(
    layers: dict[str, dict[str, np.ndarray]], filters: Sequence[int], *, to_end: bool
) -> None:
    """Reorder the channels of basic blocks between two ways to pad a shortcut, in place.

    akamaster puts half of the zero channels before the existing channels; this package puts all of
    them after. The channels of all layers that read or write the shortcut are reordered.

    Args:
        layers: layer -> role -> array.
        filters: channels of every stage.
        to_end: whether to convert from akamaster's order to this package's, or back.
    """

    def take(layer: str, role: str, axis: int, order: np.ndarray) -> None:
        roles = layers[layer]
        roles[role] = np.take(roles[role], order if to_end else np.argsort(order), axis)

    order = np.arange(filters[0])
    for stage, count in enumerate(filters, start=2):
        before = order
        extra = count - len(order)
        if extra:
            # akamaster's order: extra // 2 zeros, the existing channels, the other zeros.
            shifted = order + extra // 2
            new = np.setdiff1d(np.arange(count), shifted)
            order = np.concatenate([shifted, new])
        number = 1
        while (name := f"conv{stage}_block{number}") + "_1_conv" in layers:
            reads = before if number == 1 else order
            take(f"{name}_1_conv", "kernel", 2, reads)
            take(f"{name}_2_conv", "kernel", 3, order)
            for role in layers[f"{name}_2_bn"]:
                take(f"{name}_2_bn", role, 0, order)
            number += 1
    if "predictions" in layers:
        take("predictions", "kernel", 0, order)


def adapt_channels(
    layers: dict[str, dict[str, np.ndarray]],
    channels: int,
    saved: Constants | None,
    own: Constants | None,
) -> str:
    """Adapt an RGB stem to another number of channels, in place.

    For one channel, the kernels of the three colors are summed. For other numbers, they are
    repeated and scaled down, as in timm.

    Kernels are also scaled by the ratio of the channels' standard deviations to the colors', and
    the difference of their means is subtracted in the BN after the stem. So a gray image gives the
    same features as its RGB copy; at the edges of the image, where kernels also see padding, only
    if the means of the colors are equal.

    Args:
        layers: layer -> role -> array.
        channels: number of channels of the model.
        saved: mean and standard deviation of RGB for the checkpoint; `None` if unknown.
        own: mean and standard deviation of the model's channels; `None` if the model does not
            normalize.

    Returns:
        A description of the changes, for the report.
    """
    name = stem_name(layers)
    kernel = np.asarray(layers[name]["kernel"], np.float64)
    # The color of each channel; for gray, all three colors.
    colors = np.arange(3 if channels == 1 else channels) % 3
    kernel = kernel[:, :, colors] * (1 if channels == 1 else 3 / channels)
    how = (
        "RGB kernels summed for one channel"
        if channels == 1
        else f"RGB kernels repeated for {channels} channels and scaled by 3/{channels}"
    )
    if saved is None or own is None:
        how += ", as if its pixels were normalized like RGB"
    else:
        index = np.zeros(3, int) if channels == 1 else np.arange(channels)
        saved_mean, saved_std = (np.asarray(values, np.float64)[colors] for values in saved)
        own_mean, own_std = (np.asarray(values, np.float64)[index] for values in own)
        shift = ((own_mean - saved_mean) / saved_std)[:, None]
        constant = (kernel * shift).sum(axis=(0, 1, 2))
        kernel = kernel * (own_std / saved_std)[:, None]
        how += _shift_mean(layers.get(name.removesuffix("conv") + "bn"), constant, shift)
    kernel = kernel.sum(axis=2, keepdims=True) if channels == 1 else kernel
    layers[name]["kernel"] = kernel.astype(np.float32)
    return how


def _shift_mean(norm: dict[str, np.ndarray] | None, constant: np.ndarray, shift: np.ndarray) -> str:
    """Subtract a constant in a BN, in place; return a description for the report."""
    if np.abs(shift).max() < 1e-6:
        return ""
    if norm is None or "moving_mean" not in norm:
        return "; the difference of the means is ignored, as no BN follows the stem"
    norm["moving_mean"] = (norm["moving_mean"] - constant).astype(np.float32)
    return ", the difference of the means subtracted in the next BN; exact except at the edges"


def torch_arrays(
    layers: Mapping[str, Mapping[str, np.ndarray]], naming: Naming
) -> dict[str, np.ndarray]:
    """Convert arrays by layer to a torch state dict in the layout of `naming`.

    Raises:
        ValueError: the layout has no name for a layer, or for a bias.
    """
    state: dict[str, np.ndarray] = {}
    for name, roles in layers.items():
        prefix = naming.prefix(name)
        biased = name.endswith("_conv") and "bias" in roles
        if prefix is None or biased:
            raise ValueError(
                f"Expected a network that the layout {naming.layout!r} can describe. "
                f"Received: one with {'a bias in ' if biased else ''}the layer {name!r}"
            )
        for role, array in roles.items():
            suffix = next(name for name, own in TORCH_ROLES.items() if role in own)
            if array.ndim == 4:
                array = array.transpose(3, 2, 0, 1)
            elif array.ndim == 2:
                # The classifier of timm's pre-activation networks is a 1x1 convolution.
                array = array.T[:, :, None, None] if naming.layout == "timm_resnetv2" else array.T
            state[f"{prefix}.{suffix}"] = np.ascontiguousarray(array)
        if "moving_mean" in roles:
            state[f"{prefix}.num_batches_tracked"] = np.array(0, np.int64)
    return state
