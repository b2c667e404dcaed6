"""The views of an image whose probabilities a protocol averages: crops, mirror images, scales."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from PIL import Image

from keras_resnet.images.protocol import EvalProtocol, EvalTransform, resize_short_side
from keras_resnet.support.checks import check_choice

Protocol = Literal["single", "flip", "ten_crop", "multi_scale"]

#: Short sides of multi-scale evaluation for an input size of 224 (He et al. 2015, section 4.1).
SCALES = (224, 256, 384, 480, 640)


def check_protocol(name: str) -> Protocol:
    """Return the name of a protocol with underscores in place of hyphens, which commands accept.

    Raises:
        ValueError: there is no such protocol.
    """
    name = name.replace("-", "_") if isinstance(name, str) else name
    check_choice("protocol", name, get_args(Protocol))
    return name  # type: ignore[return-value]


def views(image: Image.Image, protocol: Protocol, eval_protocol: EvalProtocol) -> list[np.ndarray]:
    """Return the views of an image, in one batch per size.

    Args:
        image: an image in mode RGB, as `open_image` returns it.
        protocol: `"single"`: the center crop. `"flip"`: the center crop and its mirror image.
            `"ten_crop"`: the crops of the four corners and the center, then their mirror images, in
            the order of torchvision's `TenCrop`. `"multi_scale"`: the whole image at five scales,
            each with its mirror image.
        eval_protocol: sizes and interpolation. For crops of up to 64 pixels, the scales are reduced
            in proportion.

    Returns:
        Arrays `(views, height, width, 3)`, uint8.
    """
    if protocol == "multi_scale":
        share = eval_protocol.size / 224 if eval_protocol.size <= 64 else 1
        whole = [
            resize_short_side(image, round(x * share), eval_protocol.interpolation) for x in SCALES
        ]
        return [with_mirror_images(scaled[np.newaxis]) for scaled in whole]
    transform = EvalTransform(eval_protocol)
    if protocol == "ten_crop":
        return [with_mirror_images(transform.five_crops(image))]
    crop = transform.crop(image)[np.newaxis]
    return [crop if protocol == "single" else with_mirror_images(crop)]


def with_mirror_images(batch: np.ndarray) -> np.ndarray:
    """Return the images `(n, height, width, channels)`, followed by their mirror images."""
    return np.concatenate([batch, batch[:, :, ::-1]])
