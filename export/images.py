"""Images for calibration and for verification."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from keras_resnet.images.protocol import DEFAULT_SIZE
from keras_resnet.models.info import ModelInfo
from keras_resnet.models.input import ModelInput

if TYPE_CHECKING:
    from keras_resnet.data import DataConfig, Source

#: Smallest number of calibration images: fewer give unreliable ranges.
MINIMUM_IMAGES = 16

#: Largest number of images from an iterable or a data source: more hardly change the ranges.
CALIBRATION_IMAGES = 256
VERIFICATION_IMAGES = 256

#: Number of noise images, for exports without any images.
_NOISE_IMAGES = 16

#: Limit of `_noisiness`, above which images look like noise.
_NOISY = 0.9


@dataclass(frozen=True)
class ImageSet:
    """Images in the size and type that a model takes.

    Attributes:
        images: float32 `(n, height, width, channels)`, RGB in [0, 255].
        source: description of their origin, for the report.
        labels: classes, integer `(n,)`; `None` if they are not known.
    """

    images: np.ndarray
    source: str
    labels: np.ndarray | None = None

    def summary(self) -> dict[str, Any]:
        """Return the count, source, range of the pixels and images per class, for the report."""
        per_class = None if self.labels is None else Counter(self.labels.tolist())
        return {
            "count": len(self.images),
            "source": self.source,
            "pixels": {
                "lowest": float(self.images.min()),
                "highest": float(self.images.max()),
                "mean": float(self.images.mean(dtype=np.float64)),
            },
            "images_per_class": per_class
            and {"lowest": min(per_class.values()), "highest": max(per_class.values())},
        }

    def part(self, which: np.ndarray) -> ImageSet:
        """Return the images that a boolean mask `(n,)` selects."""
        labels = None if self.labels is None else self.labels[which]
        return ImageSet(self.images[which], self.source, labels)


def image_sets(
    shape: tuple[int | None, ...],
    info: ModelInfo,
    calibration: Any,
    images: Any,
    labels: Any,
    seed: int,
) -> tuple[ImageSet | None, ImageSet]:
    """Return the calibration images, `None` if there are none, and the verification images.

    The arguments `calibration`, `images`, `labels` and `seed` are those of `export`.

    Args:
        shape: shape of the model's input, `(batch, height, width, channels)`.
        info: information about the model, with its protocol and class names.
        calibration: images for the calibration.
        images: images for the verification.
        labels: classes of `images`.
        seed: seed of the choice among the images of a data source.

    Raises:
        ValueError: the images do not fit the model, or are unfit for calibration.
    """
    if images is None and labels is not None:
        raise ValueError("Expected `images` together with `labels`. Received: `labels` alone")
    reader = _Reader(shape, info, seed)
    if images is None and _is_source(calibration):
        images = calibration
    verification = None
    if images is not None:
        verification = reader.read(images, "images", "validation", VERIFICATION_IMAGES, labels)
    calibrating = None
    if calibration is not None:
        calibrating = reader.read(calibration, "calibration images", "train", CALIBRATION_IMAGES)
        if verification is None:
            held_out = np.arange(len(calibrating.images)) % 4 == 3
            verification = calibrating.part(held_out)
            calibrating = calibrating.part(~held_out)
        check_calibration(calibrating.images)
        _warn_if_reused(calibrating.images, verification.images)
    return calibrating, verification or _noise(shape)


class _Reader:
    """Reader of images in the size and type that a model takes."""

    def __init__(self, shape: tuple[int | None, ...], info: ModelInfo, seed: int) -> None:
        self._shape, self._info, self._seed = shape, info, seed

    def read(self, images: Any, what: str, part: str, count: int, labels: Any = None) -> ImageSet:
        """Read at most `count` images from an iterable, or from the named part of a data source.

        `what` describes the images in error messages.
        """
        if _is_source(images):
            if labels is not None:
                raise ValueError(
                    "Expected no `labels` with a data source, which has its own. "
                    f"Received: labels with {images!r}"
                )
            return self._of_source(images, part, count)
        if not isinstance(images, np.ndarray) or images.ndim != 4:
            # Files are decoded, resized and cropped as for a prediction.
            items = itertools.islice(images, count if labels is None else None)
            images = [self._prepared(item, index, what) for index, item in enumerate(items)]
        array = image_array(images, self._shape, what)
        labels = None if labels is None else np.asarray(labels)
        if labels is not None and labels.shape != (len(array),):
            raise ValueError(
                f"Expected `labels` of shape ({len(array)},), one for each image. "
                f"Received: shape {labels.shape}"
            )
        return ImageSet(array, "given as images", labels)

    def _prepared(self, item: Any, index: int, what: str) -> Any:
        """Return a file as pixels. Arrays stay as they are; `image_array` checks their shape."""
        if isinstance(item, (str, bytes)) or hasattr(item, "__fspath__"):
            return ModelInput(self._shape, self._info).prepared(item, index)
        if isinstance(item, (tuple, list)) and len(item) == 2 and np.ndim(item[1]) == 0:
            raise ValueError(
                f"Expected {what} without labels. Received: pairs of an image and a label. Pass "
                "the images, and the labels as `labels`"
            )
        return np.asarray(item)

    def _of_source(self, data: str | DataConfig, part: str, count: int) -> ImageSet:
        from keras_resnet.data import DataConfig, load_part
        from keras_resnet.data.bad_records import read_good

        config = DataConfig(data) if isinstance(data, str) else data
        source = load_part(config, part)
        labels = _labels_for(source, self._info)
        chosen = balanced(source.labels, count, self._seed)
        take = ModelInput(self._shape, self._info)
        pixels = read_good(
            source,
            chosen.tolist(),
            lambda index: take.prepared(source[index].data, index),
            config.max_bad_fraction,
        )
        chosen = np.array(list(pixels))
        array = image_array(list(pixels.values()), self._shape, f"images of {source.name}")
        return ImageSet(array, f"{source.name}, {len(chosen)} of {len(source)}", labels[chosen])


def _is_source(images: Any) -> TypeGuard[str | DataConfig]:
    from keras_resnet.data import DataConfig

    return isinstance(images, (str, DataConfig))


def balanced(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the indices of `count` records, balanced over the classes, in ascending order.

    Args:
        labels: class of every record, integer `(n,)`.
        count: number of indices; all records are taken if there are fewer.
        seed: seed of the choice within the classes.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    # Take the first record of every class, then the second of every class, and so on.
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        own = labels[order] == label
        rank[own] = np.arange(own.sum())
    return np.sort(order[np.argsort(rank, kind="stable")][:count])


def check_calibration(images: np.ndarray) -> None:
    """Raise ValueError if images are unfit for calibration, and warn if they may be.

    Args:
        images: float32 `(n, height, width, channels)`.

    Raises:
        ValueError: there are too few images, their pixels look divided by 255, or most images have
            a single color.
    """
    different = len({image.tobytes() for image in images})
    if different < MINIMUM_IMAGES:
        equal = "" if different == len(images) else f", {different} of them different"
        raise ValueError(
            f"Expected at least {MINIMUM_IMAGES} different calibration images. "
            f"Received: {len(images)}{equal}. Without `images`, every fourth calibration image is "
            "left out, to verify on. Pass more images like those the network will see"
        )
    if images.max() <= 1:
        raise ValueError(
            "Expected calibration images with pixels in [0, 255], as every artifact takes them. "
            f"Received: pixels in [{images.min():g}, {images.max():g}], as if divided by 255. "
            "Multiply them by 255"
        )
    plain = int((np.ptp(images, axis=(1, 2)).max(-1) == 0).sum())
    if plain > len(images) / 2:
        raise ValueError(
            f"Expected photographs for calibration. Received: {plain} of {len(images)} images "
            "with a single color each"
        )
    if plain:
        warnings.warn(
            f"{plain} of {len(images)} calibration images have a single color each.", stacklevel=4
        )
    if _noisiness(images) > _NOISY:
        warnings.warn(
            "The calibration images look like noise: neighboring pixels differ as much as distant "
            "ones. Ranges measured on noise do not fit photographs.",
            stacklevel=4,
        )


def _warn_if_reused(calibration: np.ndarray, verification: np.ndarray) -> None:
    """Warn if verification images are calibration images, too."""
    seen = {image.tobytes() for image in calibration}
    again = sum(image.tobytes() in seen for image in verification)
    if again:
        warnings.warn(
            f"{again} of {len(verification)} verification images are calibration images, too: int8 "
            "artifacts look better on these than on others.",
            stacklevel=4,
        )


def _noisiness(images: np.ndarray) -> float:
    """Return how noisy images are: about 1 for noise, far less for photographs.

    The measure is the median, over the images, of the mean difference of neighboring pixels
    relative to that of random pairs of pixels.
    """
    if min(images.shape[1:3]) < 4:
        return 0.0
    neighbors = np.abs(np.diff(images, axis=2)).mean((1, 2, 3))
    mixed = np.random.default_rng(0).permutation(images.shape[1] * images.shape[2])
    flat = images.reshape(len(images), -1, images.shape[3])
    anywhere = np.abs(flat - flat[:, mixed]).mean((1, 2))
    return float(np.median(neighbors / np.maximum(anywhere, 1e-6)))


def _labels_for(source: Source, info: ModelInfo) -> np.ndarray:
    """Return the labels of a data source as indices of the model's classes."""
    if info.class_names is None or source.class_names == info.class_names:
        return source.labels
    columns = {name: index for index, name in enumerate(info.class_names)}
    unknown = [name for name in source.class_names if name not in columns]
    if unknown:
        raise ValueError(
            "Expected images of the model's classes. Received: images of "
            f"{', '.join(unknown[:5])} in {source.name}, which are no classes of the model"
        )
    return np.array([columns[name] for name in source.class_names], np.int32)[source.labels]


def _noise(shape: tuple[int | None, ...]) -> ImageSet:
    size = (_NOISE_IMAGES, shape[1] or DEFAULT_SIZE, shape[2] or DEFAULT_SIZE, shape[3] or 3)
    pixels = np.random.default_rng(0).integers(0, 256, size)
    return ImageSet(pixels.astype(np.float32), "noise")


def filled_up(batch: np.ndarray, size: int | None) -> np.ndarray:
    """Return the batch with its last image repeated up to `size`; unchanged if `size` is None."""
    return batch if size is None else batch.take(range(size), axis=0, mode="clip")


def image_array(
    images: Iterable[Any] | np.ndarray, input_shape: tuple[int | None, ...], what: str
) -> np.ndarray:
    """Stack images into a float32 array `(n, height, width, channels)`.

    Args:
        images: images `(height, width, channels)`, uint8 or float, RGB in [0, 255].
        input_shape: shape of the model's input, `(batch, height, width, channels)`.
        what: description of the images, for error messages.

    Raises:
        ValueError: the images do not fit `input_shape`, or have pixels outside of [0, 255].
    """
    images = images if isinstance(images, np.ndarray) else list(images)
    shape = ", ".join("any" if side is None else str(side) for side in input_shape[1:])
    expected = f"Expected {what} of shape (n, {shape})"
    try:
        array = np.asarray(images, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{expected}. Received: something else ({error})") from error
    matches = array.ndim == 4 and all(
        want in (None, have) for want, have in zip(input_shape[1:], array.shape[1:], strict=True)
    )
    if not matches or not len(array):
        raise ValueError(f"{expected}. Received: {array.shape}")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255):
        raise ValueError(
            f"Expected {what} with pixels in [0, 255]. Received: pixels in [{low:g}, {high:g}]"
        )
    return array
