"""The pixel contract: models take RGB in [0, 255] and normalize it themselves.

What is left to do outside of them is the evaluation transform, resize and center crop, with which
accuracies on ImageNet are published.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from PIL import Image

from keras_resnet.images.decode import MAX_PIXELS, ImageSource, UnreadableImageError, open_image
from keras_resnet.support.checks import check_choice, store_integers

Interpolation = Literal["bilinear", "bicubic"]

_PILLOW_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
#: TensorFlow's names of the same kernels. Keys' cubic has a = -0.5 in both, unlike OpenCV's.
_TENSORFLOW_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}

#: A resized picture with more pixels is not made as a whole: a strip of 1 x 60,000 pixels would
#: become one of 256 x 15,360,000.
_LARGE = 2**25

#: Height and width of images where nothing says another.
DEFAULT_SIZE = 224

#: Images of at most this size, as CIFAR's, are evaluated whole.
_WHOLE = 64


@dataclass(frozen=True)
class EvalProtocol:
    """The preparation of images for single-crop evaluation; `dataclasses.asdict` is fit for JSON.

    Args:
        size: side of the square center crop, in pixels.
        resize: the short side before the crop, in pixels, at least `size`.
        interpolation: `"bilinear"` or `"bicubic"`, with antialiasing.

    Raises:
        ValueError: a field has another value than these.
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
        """The protocol of a timm checkpoint: `resize` is `size / crop_pct`, rounded down.

        Raises:
            ValueError: `crop_pct`, what the crop takes of the short side, is not more than 0 and at
                most 1, or another argument is wrong.
        """
        if not isinstance(crop_pct, (int, float, np.number)) or not 0 < crop_pct <= 1:
            raise ValueError(
                f"Expected `crop_pct` to be more than 0 and at most 1. Received: {crop_pct!r}"
            )
        return cls(size, math.floor(size / crop_pct), interpolation)

    @classmethod
    def of_size(cls, size: int, interpolation: Interpolation = "bilinear") -> EvalProtocol:
        """Return the usual protocol of a size: a crop of 87.5 %; up to 64 pixels, the image."""
        if size <= _WHOLE:
            return cls(size, size, interpolation)
        return cls.from_crop_pct(size, interpolation=interpolation)

    def scaled_to(self, size: int) -> EvalProtocol:
        """The same for another size, with the short side in proportion; small images are whole."""
        resize = size if size <= _WHOLE else round(self.resize * (size / self.size))
        return EvalProtocol(size, resize, self.interpolation)


def eval_transform(
    protocol: EvalProtocol | None = None, *, max_pixels: int = MAX_PIXELS
) -> EvalTransform:
    """The evaluation transform of a protocol, by default 256 -> 224, bilinear.

    Args:
        protocol: sizes and interpolation.
        max_pixels: height times width that an image file may have.
    """
    return EvalTransform(protocol or EvalProtocol(), max_pixels)


@dataclass(frozen=True)
class EvalTransform:
    """Resizes the short side and crops the center: torchvision's `Resize` and `CenterCrop`.

    Pillow does it, as it did for the published accuracies, and the sizes and offsets follow
    torchvision's rules, so the pixels are the same. Smaller images are enlarged.

    Files are decoded whole, also large JPEGs: at half of their size, which libjpeg could do faster,
    pixels of the crop would be off by up to 4 levels. While it is decoded, a picture takes 4 bytes
    per pixel in memory as a JPEG, at most 8 as a PNG, GIF, BMP or JPEG in CMYK and 16 as WebP, 4
    more if EXIF turns it, and twice the size of its file; of `MAX_PIXELS`, that is 0.4 to 1.5 GB.
    Afterwards there is only the crop.

    Attributes: as the arguments of `eval_transform`.
    """

    protocol: EvalProtocol
    max_pixels: int = MAX_PIXELS

    def __call__(self, images: ImageSource | Sequence[ImageSource]) -> np.ndarray:
        """Transforms one image or a batch.

        Args:
            images: one image: whatever `read_image` takes; or a batch: a list or tuple of them, or
                an array `(n, height, width, channels)`. Floats that look scaled are warned of.

        Returns:
            uint8, RGB: `(size, size, 3)` of one image, `(n, size, size, 3)` of a batch.

        Raises:
            UnreadableImageError: an image cannot be read; of a batch, the message says which.
        """
        warn_if_scaled(images, stacklevel=2)
        if not isinstance(images, (list, tuple)) and getattr(images, "ndim", 3) != 4:
            return self.crop(open_image(cast(ImageSource, images), max_pixels=self.max_pixels))
        several = cast(Sequence[ImageSource], images)
        batch = np.empty((len(several), self.protocol.size, self.protocol.size, 3), np.uint8)
        for index, image in enumerate(several):
            try:
                batch[index] = self.crop(open_image(image, max_pixels=self.max_pixels))
            except UnreadableImageError as error:
                raise UnreadableImageError(f"{error}, at index {index} of the batch") from error
        return batch

    def five_crops(self, picture: Image.Image) -> np.ndarray:
        """The corners and the center of one image, in the order of torchvision's `FiveCrop`.

        Args:
            picture: in mode RGB, as `open_image` gives it.

        Returns:
            `(5, size, size, 3)`, uint8: top left, top right, bottom left, bottom right, center.
        """
        rows, columns = _resized_sides(picture, self.protocol.resize)
        bottom, right = rows - self.protocol.size, columns - self.protocol.size
        corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), self._center(rows, columns))
        return np.stack(self._crops(picture, corners))

    def crop(self, picture: Image.Image) -> np.ndarray:
        """The center of one image in mode RGB, as `open_image` gives it."""
        center = self._center(*_resized_sides(picture, self.protocol.resize))
        return self._crops(picture, [center])[0]

    def _center(self, rows: int, columns: int) -> tuple[int, int]:
        """Top and left of the center crop; halves are rounded to even, as torchvision does."""
        top, left = (round((side - self.protocol.size) / 2) for side in (rows, columns))
        return top, left

    def _crops(self, picture: Image.Image, corners: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Squares of the resized image, by their top left corners."""
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
        """The same as TensorFlow operations, for `tf.data` and for models that take any size.

        It puts out uint8, as the call does: what the models take, and a quarter of float32 in every
        buffer of a pipeline. Like Pillow, it resizes along the rows first and rounds in between, so
        that only values at the edge of rounding differ, by one level: one in a thousand, or a few
        in a hundred where the scale gives many exact halves. TensorFlow does it on CPUs only.

        Args:
            image: one image, `(height, width, 3)`, of static or dynamic size, uint8 or float, RGB
                in [0, 255].

        Returns:
            `(size, size, 3)`, uint8.

        Raises:
            ValueError: the static shape is another.
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
            # What `tf.image.resize` calls, which could not leave out what is not in the crop.
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
    """The image with a short side of `resize` pixels, as torchvision's `Resize` makes it.

    Args:
        picture: in mode RGB, as `open_image` gives it.
        resize: pixels of the short side.
        interpolation: `"bilinear"` or `"bicubic"`, with antialiasing.

    Returns:
        `(height, width, 3)`, uint8.

    Raises:
        UnreadableImageError: it would have more than 33 million pixels, as a long strip has.
    """
    rows, columns = _resized_sides(picture, resize)
    if rows * columns > _LARGE:
        raise UnreadableImageError(
            f"Expected an image of at most {_LARGE:,} pixels after resizing. Received: "
            f"{rows} x {columns}"
        )
    return np.asarray(picture.resize((columns, rows), _PILLOW_FILTERS[interpolation]))


def _resized_sides(picture: Image.Image, resize: int) -> tuple[int, int]:
    """Height and width with a short side of `resize`; the long side is rounded down."""
    short = min(picture.size)
    return resize * picture.height // short, resize * picture.width // short


def preprocess_input(x: Any) -> Any:
    """Returns `x` itself: the models of this package normalize their pixels themselves.

    It exists because keras.applications has it, whose models differ in what they want.

    Args:
        x: images, uint8 or float in [0, 255], RGB. Warns once per process of floats that look
            scaled.
    """
    warn_if_scaled(x, stacklevel=2)
    return x


_warned = False


def warn_if_scaled(images: Any, stacklevel: int = 1) -> None:
    """Warns, once per process, of images that were divided by 255 or normalized.

    Models take pixels in [0, 255]; they would answer wrongly, but without an error. Integers are
    fine, and so are zeros, with which models are warmed up.

    Args:
        images: an array or tensor, or a list or tuple of them; what is something else or has no
            values yet, such as a tensor of a graph, is not looked at.
        stacklevel: whose line the warning names: 1 is the caller's, 2 its caller's, and so on.
    """
    global _warned
    if _warned:
        return
    several = images if isinstance(images, (list, tuple)) else (images,)
    ranges = [found for image in several if (found := _float_range(image))]
    if not ranges:
        return
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    # The brightest pixel that ImageNet's mean and deviation make is 2.64.
    if (high <= 1 or (low < 0 and high <= 3)) and (low, high) != (0, 0):
        _warned = True
        warnings.warn(
            "Expected pixels in [0, 255], which the models normalize themselves. Received: floats "
            f"in [{low:.3g}, {high:.3g}], which look scaled to [0, 1] or normalized. Pass the "
            "pixels as they are",
            stacklevel=stacklevel + 1,
        )


def _float_range(images: Any) -> tuple[float, float] | None:
    """Lowest and highest value of an array or tensor of floats; None of all else."""
    if "float" not in str(getattr(images, "dtype", "")):
        return None
    try:
        array = np.asarray(images)
    # Tensors of graphs, on other devices, with gradients.
    except (TypeError, ValueError, NotImplementedError, RuntimeError):
        return None
    return (float(array.min()), float(array.max())) if array.size else None
