"""Synthetic images, for benchmarks and tests."""

from __future__ import annotations

import colorsys
import functools
import io
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

from keras_resnet.data.sources.base import Record

SYNTHETIC_CLASSES = tuple(f"grating {number}" for number in range(10))

#: Number of different images of a split; a multiple of the number of classes, to balance them.
POOL_SIZE = 250

#: The longest side of a JPEG, in pixels.
_LONGEST = 65_535

_ARGUMENT = re.compile(r"([0-9]+)(?:x([0-9]+)x([0-9]+))?")


@dataclass(frozen=True)
class SyntheticImages:
    """A `Source` of JPEGs of colored gratings with noise; the class sets their hue and orientation.

    An image depends on its size, split and index only. `POOL_SIZE` different images are made at the
    first use and repeat, so that reading takes almost no time.

    Args:
        count: number of records.
        height: height of the images, in pixels.
        width: width of the images, in pixels.
        split: number of the split; other splits have other images.
        name: name in reports.
    """

    count: int
    height: int
    width: int
    split: int = 0
    name: str = "synthetic"

    @property
    def class_names(self) -> tuple[str, ...]:
        return SYNTHETIC_CLASSES

    @property
    def class_ids(self) -> tuple[str, ...] | None:
        return None

    @functools.cached_property
    def _pool(self) -> tuple[bytes, ...]:
        indices = range(min(self.count, POOL_SIZE))
        return tuple(_image(index, self.height, self.width, self.split) for index in indices)

    @property
    def labels(self) -> np.ndarray:
        return np.arange(self.count, dtype=np.int32) % len(SYNTHETIC_CLASSES)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        index = range(self.count)[index]
        return Record(self._pool[index % POOL_SIZE], index % len(SYNTHETIC_CLASSES))

    def name_of(self, index: int) -> str:
        # The name includes the size, as images of another size are different images.
        return f"{self.name}: image {index}, {self.height}x{self.width}"


def load_synthetic(argument: str, size: int) -> tuple[SyntheticImages, SyntheticImages]:
    """Return a training split of synthetic images, and a validation split a tenth as large.

    Args:
        argument: `COUNT` or `COUNTxHEIGHTxWIDTH`: number of training images, and their size in
            pixels; empty for 10,000 images.
        size: height and width if `argument` does not give them.

    Raises:
        ValueError: `argument` has another form.
    """
    match = _ARGUMENT.fullmatch(argument or "10000")
    count, height, width = (int(number or size) for number in match.groups()) if match else [0] * 3
    if count < 1 or not (1 <= height <= _LONGEST and 1 <= width <= _LONGEST):
        raise ValueError(
            "Expected synthetic:COUNT or synthetic:COUNTxHEIGHTxWIDTH, with a count of at least 1 "
            f"and sides of 1 to {_LONGEST} pixels. Received: synthetic:{argument}"
        )
    return (
        SyntheticImages(count, height, width, 0, "synthetic (training)"),
        SyntheticImages(-(-count // 10), height, width, 1, "synthetic (validation)"),
    )


def _image(index: int, height: int, width: int, split: int) -> bytes:
    random = np.random.default_rng((split, index))
    label = index % len(SYNTHETIC_CLASSES)
    angle = np.pi * label / len(SYNTHETIC_CLASSES)
    y, x = np.ogrid[0 : height / width : height * 1j, 0 : 1 : width * 1j]
    # Four to eight stripes at a random phase.
    turns = random.uniform(4, 8) * (x * np.cos(angle) + y * np.sin(angle)) + random.uniform()
    brightness = 0.5 + 0.35 * np.sin(2 * np.pi * turns)
    color = 255 * np.array(colorsys.hsv_to_rgb(label / len(SYNTHETIC_CLASSES), 0.7, 1.0))
    noise = random.integers(-24, 25, (height, width, 1), dtype=np.int8)
    pixels = np.clip(brightness[..., np.newaxis] * color + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()
