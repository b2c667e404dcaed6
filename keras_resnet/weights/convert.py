"""Arrays of other packages, turned into what our layers compute with."""

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
    """Makes the arrays those of our network with the same outputs, in place."""
    for name, roles in checkpoint.layers.items():
        norm = checkpoint.layers.get(name.removesuffix("conv") + "bn", {})
        if name.endswith("_conv") and "bias" in roles and "moving_mean" in norm:
            # A bias before a BN is redundant: the BN's mean makes up for it.
            norm["moving_mean"] = norm["moving_mean"] - roles.pop("bias")
        if inferred.family == "keras_applications" and "moving_variance" in roles:
            shift = _KERAS_APPLICATIONS_EPSILON - NORM_EPSILON
            roles["moving_variance"] = (roles["moving_variance"] + shift).astype(np.float32)
    if checkpoint.naming.layout == "akamaster" and inferred.config.shortcut == "A":
        move_zero_channels(checkpoint.layers, inferred.config.filters, to_end=True)
        checkpoint.notes.append(
            "zero channels on both sides, as akamaster pads them: channels were reordered"
        )
    if inferred.bgr:
        stem = stem_name(checkpoint.layers)
        checkpoint.layers[stem]["kernel"] = checkpoint.layers[stem]["kernel"][:, :, ::-1]


def move_zero_channels(
    layers: dict[str, dict[str, np.ndarray]], filters: Sequence[int], *, to_end: bool
) -> None:
    """Reorders the channels of basic blocks between two ways to pad a shortcut, in place.

    akamaster puts half of the new zero channels before the old ones, we put all behind them. Where
    old channels are moved, everything that reads or writes them is reordered alike.

    Args:
        layers: arrays by our layers' names.
        filters: channels of every stage.
        to_end: from theirs to ours; else back.
    """

    def take(layer: str, role: str, axis: int, order: np.ndarray) -> None:
        roles = layers[layer]
        roles[role] = np.take(roles[role], order if to_end else np.argsort(order), axis)

    order = np.arange(filters[0])
    for stage, count in enumerate(filters, start=2):
        before = order
        extra = count - len(order)
        if extra:
            # Theirs: extra // 2 zeros, the old channels, the rest of the zeros.
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
    theirs: Constants | None,
    ours: Constants | None,
) -> str:
    """Makes a stem for RGB one for another number of channels, in place; says how.

    One channel: the kernels of the three colors are added up. Otherwise, as timm does it: the
    three are repeated until there are enough, and scaled down.

    Every kernel is scaled by what its color's deviation and its channel's differ in, and what
    their means differ in goes into the BN behind the stem. A gray image then gives what its RGB
    replication gave; at the image's edges, where the kernel also sees padding, only if the colors
    had equal means.

    Args:
        layers: arrays by our layers' names.
        channels: of the model at hand.
        theirs: mean and deviation of RGB that the weights want; `None` if not known.
        ours: those of the model at hand, per channel; `None` if it does not normalize.
    """
    name = stem_name(layers)
    kernel = np.asarray(layers[name]["kernel"], np.float64)
    # Per channel of the model, or in the case of gray per color, which all are channel 0.
    colors = np.arange(3 if channels == 1 else channels) % 3
    kernel = kernel[:, :, colors] * (1 if channels == 1 else 3 / channels)
    how = (
        "RGB kernels added up for one channel"
        if channels == 1
        else f"RGB kernels repeated for {channels} channels and scaled by 3/{channels}"
    )
    if theirs is None or ours is None:
        how += ", as if its pixels were normalized like the colors'"
    else:
        index = np.zeros(3, int) if channels == 1 else np.arange(channels)
        their_mean, their_std = (np.asarray(values, np.float64)[colors] for values in theirs)
        our_mean, our_std = (np.asarray(values, np.float64)[index] for values in ours)
        shift = ((our_mean - their_mean) / their_std)[:, None]
        constant = (kernel * shift).sum(axis=(0, 1, 2))
        kernel = kernel * (our_std / their_std)[:, None]
        how += _shift_mean(layers.get(name.removesuffix("conv") + "bn"), constant, shift)
    kernel = kernel.sum(axis=2, keepdims=True) if channels == 1 else kernel
    layers[name]["kernel"] = kernel.astype(np.float32)
    return how


def _shift_mean(norm: dict[str, np.ndarray] | None, constant: np.ndarray, shift: np.ndarray) -> str:
    """Takes a constant out of what a BN sees; says what is lost."""
    if np.abs(shift).max() < 1e-6:
        return ""
    if norm is None or "moving_mean" not in norm:
        return "; what the colors' means differ in is lost, as no BN follows the stem"
    norm["moving_mean"] = (norm["moving_mean"] - constant).astype(np.float32)
    return ", their means into the BN behind it; exact but at the image's edges"


def torch_arrays(
    layers: Mapping[str, Mapping[str, np.ndarray]], naming: Naming
) -> dict[str, np.ndarray]:
    """Arrays by our names, as a torch state dict in the layout of `naming`.

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
            suffix = next(name for name, ours in TORCH_ROLES.items() if role in ours)
            if array.ndim == 4:
                array = array.transpose(3, 2, 0, 1)
            elif array.ndim == 2:
                # timm's pre-activation networks classify by a 1x1 convolution.
                array = array.T[:, :, None, None] if naming.layout == "timm_resnetv2" else array.T
            state[f"{prefix}.{suffix}"] = np.ascontiguousarray(array)
        if "moving_mean" in roles:
            state[f"{prefix}.num_batches_tracked"] = np.array(0, np.int64)
    return state
