"""The views of an image that a protocol averages over: crops, mirror images, scales."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from PIL import Image

from keras_resnet.images.protocol import EvalProtocol, EvalTransform, resize_short_side
from keras_resnet.support.checks import check_choice

Protocol = Literal["single", "flip", "ten_crop", "multi_scale"]

#: Short sides of multi-scale evaluation (He et al. 2015, section 4.1), for networks of 224 pixels.
SCALES = (224, 256, 384, 480, 640)


def check_protocol(name: str) -> Protocol:
    """The name of a protocol; hyphens, as commands have them, become underscores."""
    name = name.replace("-", "_") if isinstance(name, str) else name
    check_choice("protocol", name, get_args(Protocol))
    return name  # type: ignore[return-value]


def views(image: Image.Image, protocol: Protocol, how: EvalProtocol) -> list[np.ndarray]:
    """Batches of views of one image; those of a batch have one size.

    Args:
        image: in mode RGB, as `open_image` gives it.
        protocol: `"single"`: the centre crop. `"flip"`: that and its mirror image. `"ten_crop"`:
            the four corners and the centre, then their mirror images, in the order of torchvision's
            `TenCrop`. `"multi_scale"`: the whole image at five scales, each with its mirror image.
        how: sizes and interpolation. The scales of networks for images of up to 64 pixels are in
            proportion to theirs of 224.

    Returns:
        Arrays `(views, height, width, 3)`, uint8.
    """
    if protocol == "multi_scale":
        share = how.size / 224 if how.size <= 64 else 1
        whole = [resize_short_side(image, round(x * share), how.interpolation) for x in SCALES]
        return [with_mirror_images(picture[np.newaxis]) for picture in whole]
    transform = EvalTransform(how)
    if protocol == "ten_crop":
        return [with_mirror_images(transform.five_crops(image))]
    crop = transform.crop(image)[np.newaxis]
    return [crop if protocol == "single" else with_mirror_images(crop)]


def with_mirror_images(batch: np.ndarray) -> np.ndarray:
    """The images `(n, height, width, channels)`, then each of them mirrored left to right."""
    return np.concatenate([batch, batch[:, :, ::-1]])
