"""Writing of weights as state dicts for torch packages."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import get_args

import keras
import numpy as np
from safetensors.numpy import save

from keras_resnet.models.info import ENTRY, get_info
from keras_resnet.networks.graph import find_network
from keras_resnet.support.checks import check_choice
from keras_resnet.support.files import whole_file
from keras_resnet.weights.convert import move_zero_channels, torch_arrays
from keras_resnet.weights.layers import arrays_of, pixel_constants
from keras_resnet.weights.mapping import TORCH_LAYOUTS, Layout, Naming, TorchDtype


def save_torch_state_dict(
    model: keras.Model,
    path: str | os.PathLike[str],
    layout: Layout | None = None,
    dtype: TorchDtype = "float32",
) -> Path:
    """Write a network's weights as a `.safetensors` file for torch packages.

    `safetensors.torch.load_file(path)` returns the state dict of the same network in torchvision or
    timm. The metadata of the file contain `mean` and `std` of the pixels in [0, 255], and, for
    `from_checkpoint`, the config and class names.

    Args:
        model: a network of this package, or a model with one as a layer.
        path: path of the file, with the suffix `.safetensors`.
        layout: layout of the names: `"torchvision"` (also for timm's `resnet*`), `"timm_resnetv2"`,
            `"transformers"` or `"akamaster"`. By default `"timm_resnetv2"` for v2 networks, else
            `"torchvision"`.
        dtype: dtype of the arrays in the file. With `"float16"`, the file is half as large and
            numbers have 11 significant bits.

    Returns:
        The path.

    Raises:
        ValueError: the layout cannot describe the network, or float16 cannot represent a number.

    Examples:
        >>> model = keras_resnet.create_model("resnet20")
        >>> keras_resnet.save_torch_state_dict(model, "resnet20.safetensors", "akamaster")
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"Expected a path with the suffix `.safetensors`. Received: {path}")
    check_choice("layout", layout, (None, *TORCH_LAYOUTS))
    check_choice("dtype", dtype, get_args(TorchDtype))
    network = find_network(model)
    arrays = arrays_of(network)
    v2 = "post_bn" in arrays or "post_gn" in arrays
    naming = Naming(
        layout or ("timm_resnetv2" if v2 else "torchvision"),
        deep_stem="conv1_1_conv" in arrays,
        average=any(layer.name.endswith("_0_pool") for layer in network.layers),
    )
    if naming.layout == "akamaster" and not any(name.endswith("_0_conv") for name in arrays):
        _move_zero_channels(network, arrays)
    state = torch_arrays(arrays, naming)
    if dtype == "float16":
        state = {key: _half(key, array) for key, array in state.items()}
    # Strides, blur pooling and class names, which the keys do not show.
    metadata = {"format": "pt", ENTRY: get_info(network).to_json()}
    constants = pixel_constants(network)
    if constants is not None:
        metadata |= {"mean": json.dumps(constants[0]), "std": json.dumps(constants[1])}
    with whole_file(path) as partial:
        # `save_file` would write a file that only its owner can read.
        partial.write_bytes(save(state, metadata))
    return path


def _half(key: str, array: np.ndarray) -> np.ndarray:
    """Convert an array of floats to float16; return other arrays unchanged."""
    if array.dtype.kind != "f":
        return array
    largest = float(np.abs(array).max(initial=0.0))
    if largest > float(np.finfo(np.float16).max):
        raise ValueError(
            f"Expected numbers up to 65504 for `dtype='float16'`. Received: {largest:.6g} in "
            f"{key}. Pass `dtype='float32'`"
        )
    return array.astype(np.float16)


def _move_zero_channels(network: keras.Model, arrays: dict[str, dict[str, np.ndarray]]) -> None:
    """Reorder the channels of a network with shortcut A for akamaster's padding, in place."""
    stages = [stage for stage in range(2, 10) if f"conv{stage}_block1_2_conv" in arrays]
    filters = [arrays[f"conv{stage}_block1_2_conv"]["kernel"].shape[3] for stage in stages]
    residual = any(isinstance(layer, keras.layers.Add) for layer in network.layers)
    stem = arrays.get("conv1_conv", {}).get("kernel")
    same = stem is not None and stem.shape[3] == filters[0]
    if not residual or not same or "conv2_block1_3_conv" in arrays:
        raise ValueError(
            "Expected basic blocks, a stem as wide as the first stage and shortcuts for the layout "
            f"'akamaster'. Received: {network.name!r}"
        )
    move_zero_channels(arrays, filters, to_end=False)
