"""Writing our weights as state dicts that torch's packages load."""

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
    """Writes a network's weights as a `.safetensors` file that torch's packages load.

    `safetensors.torch.load_file(path)` gives the state dict of torchvision's or timm's network of
    the same architecture. The constants of the pixels, which those keep elsewhere, are in the
    file's metadata as `mean` and `std`, in pixel units. So is what the keys do not say, such as
    strides and class names, for `from_checkpoint`.

    Args:
        model: a network of this package, or a model with one inside.
        path: of the file, with the suffix `.safetensors`.
        layout: whose names: `"torchvision"` (also timm's `resnet*`), `"timm_resnetv2"`,
            `"transformers"` or `"akamaster"`. By default `"timm_resnetv2"` for v2 networks, else
            `"torchvision"`.
        dtype: of the numbers in the file. In `"float16"` it is half as large and each number has
            11 significant bits; loaders give the network's own precision back.

    Returns:
        The path.

    Raises:
        ValueError: the layout cannot describe the network, or float16 not hold its numbers.
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
    # What the keys cannot say: strides, blur pooling, class names.
    metadata = {"format": "pt", ENTRY: get_info(network).to_json()}
    constants = pixel_constants(network)
    if constants is not None:
        metadata |= {"mean": json.dumps(constants[0]), "std": json.dumps(constants[1])}
    with whole_file(path) as partial:
        # Not `save_file`, whose files nobody but their owner may read.
        partial.write_bytes(save(state, metadata))
    return path


def _half(key: str, array: np.ndarray) -> np.ndarray:
    """The array in float16; counters stay what they are."""
    if array.dtype.kind != "f":
        return array
    largest = float(np.abs(array).max(initial=0.0))
    if largest > float(np.finfo(np.float16).max):
        raise ValueError(
            f"Expected numbers up to 65504 for `dtype='float16'`. Received: {largest:.6g} in "
            f"{key}. Write float32"
        )
    return array.astype(np.float16)


def _move_zero_channels(network: keras.Model, arrays: dict[str, dict[str, np.ndarray]]) -> None:
    """Reorders the channels of a network with shortcut A for akamaster's way to pad."""
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
