"""The pixel contract, and evaluation transforms.

Models take RGB in [0, 255] and normalize it themselves. Before that, images are resized and center
cropped, as for the published accuracies on ImageNet.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from PIL import Image

from keras_resnet.images.decode import MAX_PIXELS, ImageLike, UnreadableImageError, open_image
from keras_resnet.support.checks import check_choice, store_integers

Interpolation = Literal["bilinear", "bicubic"]

_PILLOW_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
#: TensorFlow's names of the same kernels. The cubic one has a = -0.5 in both, unlike OpenCV's.
_TENSORFLOW_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}

#: Limit of pixels of a resized image; above it, crops are resized directly. A strip of 1 x 60,000
#: pixels would be resized to 256 x 15,360,000.
_LARGE = 2**25

#: Default height and width of images.
DEFAULT_SIZE = 224

#: Images up to this size, such as CIFAR's, are evaluated without a crop.
_WHOLE = 64


@dataclass(frozen=True)
class EvalProtocol:
    """Preparation of images for single-crop evaluation.

    Args:
        size: side of the square center crop, in pixels.
        resize: short side of the image before the crop, in pixels, at least `size`.
        interpolation: `"bilinear"` or `"bicubic"`, with antialiasing.

    Raises:
        ValueError: a field has another value.

    Examples:
        >>> protocol = keras_resnet.images.EvalProtocol(224, resize=232, interpolation="bicubic")
    """

    size: int = DEFAULT_SIZE
    resize: int = 256
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        store_integers(self, ("size", "resize"))
        if self.resize < self.size:
            raise ValueError(
                "Expected `resize`, the short side, to be at least `size`, the side of the crop. "
                f"Received: resize={self.resize}, size={self.size}"
            )
        check_choice("interpolation", self.interpolation, get_args(Interpolation))

    @classmethod
    def from_crop_pct(
        cls,
        size: int = DEFAULT_SIZE,
        crop_pct: float = 0.875,
        interpolation: Interpolation = "bilinear",
    ) -> EvalProtocol:
        """Return the protocol of a timm checkpoint: `resize` is `size / crop_pct`, rounded down.

        Args:
            size: side of the crop, in pixels.
            crop_pct: side of the crop relative to the short side, more than 0 and at most 1.
            interpolation: `"bilinear"` or `"bicubic"`.

        Raises:
            ValueError: an argument has another value.
        """
        if not isinstance(crop_pct, (int, float, np.number)) or not 0 < crop_pct <= 1:
            raise ValueError(
                f"Expected `crop_pct` to be more than 0 and at most 1. Received: {crop_pct!r}"
            )
        return cls(size, math.floor(size / crop_pct), interpolation)

    @classmethod
    def of_size(cls, size: int, interpolation: Interpolation = "bilinear") -> EvalProtocol:
        """Return the common protocol for a size: a crop of 87.5 %, up to 64 pixels no crop."""
        if size <= _WHOLE:
            return cls(size, size, interpolation)
        return cls.from_crop_pct(size, interpolation=interpolation)

    def scaled_to(self, size: int) -> EvalProtocol:
        """Return the protocol for another size, in the same proportion; up to 64 pixels no crop."""
        resize = size if size <= _WHOLE else round(self.resize * (size / self.size))
        return EvalProtocol(size, resize, self.interpolation)


def eval_transform(
    protocol: EvalProtocol | None = None, *, max_pixels: int = MAX_PIXELS
) -> EvalTransform:
    """Return the evaluation transform of a protocol.

    Args:
        protocol: sizes and interpolation; by default a crop of 224 pixels after bilinear resizing
            to 256.
        max_pixels: limit of height times width of an image file.

    Examples:
        >>> transform = keras_resnet.images.eval_transform()
        >>> transform("cat.jpg").shape
        (224, 224, 3)
    """
    return EvalTransform(protocol or EvalProtocol(), max_pixels)


@dataclass(frozen=True)
class EvalTransform:
    """Transform that resizes the short side and crops the center, like torchvision.

    Pillow resizes, and sizes and offsets follow torchvision's `Resize` and `CenterCrop`, so the
    pixels are equal to those of the published accuracies. Smaller images are enlarged.

    JPEGs are decoded at full size. libjpeg could decode them at half size in less time, but pixels
    of the crop would differ by up to 4 levels. Decoding an image takes memory: twice the size of
    the file and, per pixel, 4 bytes for JPEG, at most 8 for PNG, GIF, BMP or CMYK JPEG, 16 for
    WebP, and 4 more if EXIF rotates it. With `MAX_PIXELS` these are 0.4 to 1.5 GB. Only the crop is
    kept.

    Attributes:
        protocol: sizes and interpolation.
        max_pixels: limit of height times width of an image file.
    """

    protocol: EvalProtocol
    max_pixels: int = MAX_PIXELS

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """Transform one image or a batch.

        Args:
            images: one image as for `read_image`, or a batch: a list or tuple of images, or an
                array `(n, height, width, channels)`. Floats that look scaled to [0, 1] or
                normalized cause a warning.

        Returns:
            `(size, size, 3)` for one image, `(n, size, size, 3)` for a batch; uint8, RGB.

        Raises:
            UnreadableImageError: an image cannot be read; in a batch, the message has its index.
        """
        warn_if_scaled(images, stacklevel=2)
        if not isinstance(images, (list, tuple)) and getattr(images, "ndim", 3) != 4:
            return self.crop(open_image(cast(ImageLike, images), max_pixels=self.max_pixels))
        several = cast(Sequence[ImageLike], images)
        batch = np.empty((len(several), self.protocol.size, self.protocol.size, 3), np.uint8)
        for index, image in enumerate(several):
            try:
                batch[index] = self.crop(open_image(image, max_pixels=self.max_pixels))
            except UnreadableImageError as error:
                raise UnreadableImageError(f"{error}, at index {index} of the batch") from error
        return batch

    def five_crops(self, picture: Image.Image) -> np.ndarray:
        """Return the crops at the four corners and the center, in the order of `FiveCrop`.

        Args:
            picture: image in mode RGB, from `open_image`.

        Returns:
            The crops `(5, size, size, 3)`, uint8, at the top left, top right, bottom left, bottom
            right and center.
        """
        rows, columns = _resized_sides(picture, self.protocol.resize)
        bottom, right = rows - self.protocol.size, columns - self.protocol.size
        corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), self._center(rows, columns))
        return np.stack(self._crops(picture, corners))

    def crop(self, picture: Image.Image) -> np.ndarray:
        """Return the center crop of an image in mode RGB, `(size, size, 3)`, uint8."""
        center = self._center(*_resized_sides(picture, self.protocol.resize))
        return self._crops(picture, [center])[0]

    def _center(self, rows: int, columns: int) -> tuple[int, int]:
        """Return top and left of the center crop; halves are rounded to even, as in torchvision."""
        top, left = (round((side - self.protocol.size) / 2) for side in (rows, columns))
        return top, left

    def _crops(self, picture: Image.Image, corners: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return squares of the resized image with the given top left corners."""
        size, protocol = self.protocol.size, self.protocol
        rows, columns = _resized_sides(picture, protocol.resize)
        if rows * columns > _LARGE:
            kernel = _PILLOW_FILTERS[protocol.interpolation]
            down, right = picture.height / rows, picture.width / columns
            boxes = (
                (left * right, top * down, (left + size) * right, (top + size) * down)
                for top, left in corners
            )
            return [np.array(picture.resize((size, size), kernel, box)) for box in boxes]
        resized = resize_short_side(picture, protocol.resize, protocol.interpolation)
        return [resized[top : top + size, left : left + size].copy() for top, left in corners]

    def graph(self, image: Any) -> Any:
        """Transform one image with TensorFlow operations, for `tf.data` and for exported graphs.

        Like Pillow, it resizes rows first and rounds before it resizes columns. About one value in
        a thousand differs from Pillow's by one level; a few in a hundred do where many values are
        exact halves before rounding. TensorFlow runs these operations on CPUs only.

        Args:
            image: `(height, width, 3)` of static or dynamic size, uint8 or float, RGB in [0, 255].

        Returns:
            `(size, size, 3)`, uint8, RGB.

        Raises:
            ValueError: the static shape is not `(height, width, 3)`.
        """
        import tensorflow as tf

        image = tf.convert_to_tensor(image)
        if not image.shape.is_compatible_with((None, None, 3)):
            raise ValueError(
                f"Expected an image of shape (height, width, 3). Received: {image.shape}"
            )
        image = tf.ensure_shape(image, (None, None, 3))
        if image.dtype != tf.uint8:
            image = tf.round(tf.cast(image, tf.float32))
        sides = tf.unstack(tf.shape(image, tf.int64)[:2])
        short = tf.minimum(*sides)
        pixels, sizes = image[tf.newaxis], list(sides)
        for axis in (1, 0):
            resized = self.protocol.resize * sides[axis] // short
            sizes[axis] = self.protocol.size
            scale, offset = [1.0, 1.0], [0.0, 0.0]
            scale[axis] = tf.cast(resized / sides[axis], tf.float32)
            # `tf.round` rounds halves to even.
            offset[axis] = -tf.round(tf.cast(resized - sizes[axis], tf.float32) / 2)
            # `tf.image.resize` calls this operation, but cannot restrict it to the crop.
            pixels = tf.raw_ops.ScaleAndTranslate(
                images=pixels,
                size=tf.cast(tf.stack(sizes), tf.int32),
                scale=tf.stack(scale),
                translation=tf.stack(offset),
                kernel_type=_TENSORFLOW_KERNELS[self.protocol.interpolation],
                antialias=True,
            )
            pixels = tf.floor(tf.clip_by_value(pixels, 0, 255) + 0.5)
        shape = (self.protocol.size, self.protocol.size, 3)
        return tf.ensure_shape(tf.cast(pixels[0], tf.uint8), shape)


def resize_short_side(
    picture: Image.Image, resize: int, interpolation: Interpolation = "bilinear"
) -> np.ndarray:
    """Resize an image to a short side of `resize` pixels, like torchvision's `Resize`.

    Args:
        picture: image in mode RGB, from `open_image`.
        resize: length of the short side, in pixels.
        interpolation: `"bilinear"` or `"bicubic"`, with antialiasing.

    Returns:
        `(height, width, 3)`, uint8, RGB.

    Raises:
        UnreadableImageError: the result would have more than 33 million pixels.
    """
    rows, columns = _resized_sides(picture, resize)
    if rows * columns > _LARGE:
        raise UnreadableImageError(
            f"Expected an image of at most {_LARGE:,} pixels after resizing. Received: "
            f"{rows} x {columns}"
        )
    return np.asarray(picture.resize((columns, rows), _PILLOW_FILTERS[interpolation]))


def _resized_sides(picture: Image.Image, resize: int) -> tuple[int, int]:
    """Return height and width with a short side of `resize`; the long side is rounded down."""
    short = min(picture.size)
    return resize * picture.height // short, resize * picture.width // short


def preprocess_input(x: Any) -> Any:
    """Return `x` unchanged, as the models of this package normalize pixels themselves.

    It makes programs for `keras.applications` run without changes.

    Args:
        x: images, uint8 or float, RGB in [0, 255]. Floats that look scaled to [0, 1] or normalized
            cause a warning, once per process.

    Returns:
        `x`.
    """
    warn_if_scaled(x, stacklevel=2)
    return x


_warned = False


def warn_if_scaled(images: Any, stacklevel: int = 1) -> None:
    """Warn, once per process, about images that look divided by 255 or normalized.

    Models take pixels in [0, 255]; other pixels give wrong predictions without an error. Integers
    and zeros, which are used to warm up models, cause no warning.

    Args:
        images: an array or tensor, or a list or tuple of them. Other types and symbolic tensors are
            ignored.
        stacklevel: as in `warnings.warn`: 1 for the caller of this function.
    """
    global _warned
    if _warned:
        return
    several = images if isinstance(images, (list, tuple)) else (images,)
    ranges = [found for image in several if (found := _float_range(image))]
    if not ranges:
        return
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    # Normalized with ImageNet's mean and standard deviation, pixels are at most 2.64.
    if (high <= 1 or (low < 0 and high <= 3)) and (low, high) != (0, 0):
        _warned = True
        warnings.warn(
            "Expected pixels in [0, 255], which the models normalize themselves. Received: floats "
            f"in [{low:.3g}, {high:.3g}], which look scaled to [0, 1] or normalized. Pass the "
            "pixels as they are",
            stacklevel=stacklevel + 1,
        )


def _float_range(images: Any) -> tuple[float, float] | None:
    """Return the lowest and highest value of an array or tensor of floats; `None` for others."""
    if "float" not in str(getattr(images, "dtype", "")):
        return None
    try:
        array = np.asarray(images)
    # Raised for symbolic tensors, and for tensors on other devices or with gradients.
    except (TypeError, ValueError, NotImplementedError, RuntimeError):
        return None
    return (float(array.min()), float(array.max())) if array.size else None
