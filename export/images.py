"""The images that an export needs: to calibrate int8 with, and others to verify on."""

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

#: With fewer images the activation ranges are guesses.
MINIMUM_IMAGES = 16

#: Of any iterable and any data source, so many are used; more hardly move the ranges.
CALIBRATION_IMAGES = 256
VERIFICATION_IMAGES = 256

#: Without any real image, so many of noise show whether the arithmetic is the same.
_NOISE_IMAGES = 16

#: How much neighbouring pixels differ, divided by how much any two do: 1 for noise, far less in
#: pictures.
_NOISY = 0.9


@dataclass(frozen=True)
class ImageSet:
    """Images as a model takes them.

    Attributes:
        images: float32 `(n, height, width, channels)`, RGB in [0, 255].
        source: where they are from, in words.
        labels: class of each, `(n,)`, if known.
    """

    images: np.ndarray
    source: str
    labels: np.ndarray | None = None

    def summary(self) -> dict[str, Any]:
        """Summary for a report: count, source, range of the pixels, images per class."""
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
        """Some of them, by a mask `(n,)`."""
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
    """Calibration images, checked, and verification images, which are others.

    Args:
        shape: the model's input, `(batch, height, width, channels)`.
        info: what the model knows about itself: protocol and class names.
        calibration: as of `export`, and so are the others.
        images: those to verify on.
        labels: the classes of `images`, if these are images.
        seed: of the choice among the images of a data source.

    Raises:
        ValueError: the images cannot be right; the message says how.
    """
    if images is None and labels is not None:
        raise ValueError("Expected `images` together with `labels`. Received: labels only")
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
    """Reads images as a model takes them."""

    def __init__(self, shape: tuple[int | None, ...], info: ModelInfo, seed: int) -> None:
        self._shape, self._info, self._seed = shape, info, seed

    def read(self, images: Any, what: str, part: str, count: int, labels: Any = None) -> ImageSet:
        """Reads at most `count` images of an iterable, or of that part of a data source."""
        if _is_source(images):
            if labels is not None:
                raise ValueError(
                    "Expected no `labels` with a data source, which has its own. "
                    f"Received: labels with {images!r}"
                )
            return self._of_source(images, part, count)
        if not isinstance(images, np.ndarray) or images.ndim != 4:
            # What is no picture of this model's size is prepared as for a prediction.
            items = itertools.islice(images, count if labels is None else None)
            images = [self._prepared(item, index, what) for index, item in enumerate(items)]
        array = image_array(images, self._shape, what)
        labels = None if labels is None else np.asarray(labels)
        if labels is not None and labels.shape != (len(array),):
            raise ValueError(
                f"Expected one label per image, {len(array)}. "
                f"Received: labels of shape {labels.shape}"
            )
        return ImageSet(array, "given as images", labels)

    def _prepared(self, item: Any, index: int, what: str) -> Any:
        """One image; an array of another shape stays as it is, for `image_array` to complain of."""
        if isinstance(item, (str, bytes)) or hasattr(item, "__fspath__"):
            return ModelInput(self._shape, self._info).prepared(item, index)
        if isinstance(item, (tuple, list)) and len(item) == 2 and np.ndim(item[1]) == 0:
            raise ValueError(
                f"Expected {what} alone. Received: pairs of an image and a label; pass the images, "
                "and `labels` apart"
            )
        return np.asarray(item)

    def _of_source(self, data: str | DataConfig, part: str, count: int) -> ImageSet:
        # Of everything in the package, this alone needs the readers of data sets here.
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
    """Indices of `count` records, as many of every class as there are, in ascending order.

    Args:
        labels: class of every record, `(n,)`.
        count: how many are wanted; all of them if there are no more.
        seed: of the choice within the classes.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    # The first of every class, then the second of every class, and so on.
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        own = labels[order] == label
        rank[own] = np.arange(own.sum())
    return np.sort(order[np.argsort(rank, kind="stable")][:count])


def check_calibration(images: np.ndarray) -> None:
    """Refuses images `(n, height, width, channels)` that give wrong ranges; warns of unlikely ones.

    Raises:
        ValueError: too few images, pixels that were evidently divided by 255, or one colour each.
    """
    different = len({image.tobytes() for image in images})
    if different < MINIMUM_IMAGES:
        equal = "" if different == len(images) else f", {different} of them different"
        raise ValueError(
            f"Expected at least {MINIMUM_IMAGES} different calibration images. "
            f"Received: {len(images)}{equal}, without the fourth that is held out to verify on "
            "where no others are given. Pass more images like those the network will see"
        )
    if images.max() <= 1:
        raise ValueError(
            "Expected calibration images with pixels in [0, 255], which every artifact takes. "
            f"Received: pixels in [{images.min():g}, {images.max():g}], as if divided by 255"
        )
    plain = int((np.ptp(images, axis=(1, 2)).max(-1) == 0).sum())
    if plain > len(images) / 2:
        raise ValueError(
            "Expected pictures to calibrate with. "
            f"Received: {plain} of {len(images)} images of a single colour each"
        )
    if plain:
        warnings.warn(
            f"{plain} of {len(images)} calibration images have a single colour each.", stacklevel=4
        )
    if _noisiness(images) > _NOISY:
        warnings.warn(
            "The calibration images look like noise: neighbouring pixels differ as much as any "
            "others. Ranges that are taken from noise do not fit pictures.",
            stacklevel=4,
        )


def _warn_if_reused(calibration: np.ndarray, verification: np.ndarray) -> None:
    """Warns of images that are verified on although int8's ranges were made for them."""
    seen = {image.tobytes() for image in calibration}
    again = sum(image.tobytes() in seen for image in verification)
    if again:
        warnings.warn(
            f"{again} of {len(verification)} images to verify on are calibration images too: int8 "
            "looks better on these than on others.",
            stacklevel=4,
        )


def _noisiness(images: np.ndarray) -> float:
    """Return neighboring pixels' difference divided by that of any two: median over images."""
    if min(images.shape[1:3]) < 4:
        return 0.0
    neighbours = np.abs(np.diff(images, axis=2)).mean((1, 2, 3))
    mixed = np.random.default_rng(0).permutation(images.shape[1] * images.shape[2])
    flat = images.reshape(len(images), -1, images.shape[3])
    anywhere = np.abs(flat - flat[:, mixed]).mean((1, 2))
    return float(np.median(neighbours / np.maximum(anywhere, 1e-6)))


def _labels_for(source: Source, info: ModelInfo) -> np.ndarray:
    """The source's labels, as classes of the model."""
    if info.class_names is None or source.class_names == info.class_names:
        return source.labels
    columns = {name: index for index, name in enumerate(info.class_names)}
    unknown = [name for name in source.class_names if name not in columns]
    if unknown:
        raise ValueError(
            "Expected images of the model's classes. "
            f"Received: {source.name} with {', '.join(unknown[:5])}, which the model does not know"
        )
    return np.array([columns[name] for name in source.class_names], np.int32)[source.labels]


def _noise(shape: tuple[int | None, ...]) -> ImageSet:
    size = (_NOISE_IMAGES, shape[1] or DEFAULT_SIZE, shape[2] or DEFAULT_SIZE, shape[3] or 3)
    pixels = np.random.default_rng(0).integers(0, 256, size)
    return ImageSet(pixels.astype(np.float32), "noise")


def filled_up(batch: np.ndarray, size: int | None) -> np.ndarray:
    """The batch with its last image repeated up to `size`, for what takes that size only."""
    return batch if size is None else batch.take(range(size), axis=0, mode="clip")


def image_array(
    images: Iterable[Any] | np.ndarray, input_shape: tuple[int | None, ...], what: str
) -> np.ndarray:
    """Stacks images into float32 `(n, height, width, channels)`.

    Args:
        images: images `(height, width, channels)`, uint8 or float, RGB in [0, 255].
        input_shape: the model's, `(batch, height, width, channels)`.
        what: what they are, for messages.

    Raises:
        ValueError: the model does not take such images, or the pixels are not in [0, 255].
    """
    images = images if isinstance(images, np.ndarray) else list(images)
    shape = ", ".join("any" if side is None else str(side) for side in input_shape[1:])
    expected = f"Expected {what} of shape (n, {shape})"
    try:
        array = np.asarray(images, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{expected}. Received: what is no array of numbers: {error}") from error
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
