"""Images that are made up: for benchmarks and tests of everything behind the data."""

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

#: Of each part. A multiple of the number of classes, so that all are equally frequent.
POOL_SIZE = 250

#: Sides that a JPEG can have.
_LONGEST = 65_535

_ARGUMENT = re.compile(r"([0-9]+)(?:x([0-9]+)x([0-9]+))?")


@dataclass(frozen=True)
class SyntheticImages:
    """JPEG files of coloured gratings with noise, whose class decides hue and orientation.

    They depend on the size, the part and the index alone. `POOL_SIZE` different ones are made at
    the first use and take turns, so that reading costs next to nothing.

    Args:
        count: how many records there are.
        height: of the images, in pixels.
        width: likewise.
        part: parts with different numbers have different images.
        name: what reports call them.
    """

    count: int
    height: int
    width: int
    part: int = 0
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
        return tuple(_image(index, self.height, self.width, self.part) for index in indices)

    @property
    def labels(self) -> np.ndarray:
        return np.arange(self.count, dtype=np.int32) % len(SYNTHETIC_CLASSES)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        place = range(self.count)[index]
        return Record(self._pool[place % POOL_SIZE], place % len(SYNTHETIC_CLASSES))

    def name_of(self, index: int) -> str:
        # Images of another size are others.
        return f"{self.name}: image {index}, {self.height}x{self.width}"


def load_synthetic(argument: str, size: int) -> tuple[SyntheticImages, SyntheticImages]:
    """Makes images up: a training part, and a tenth as many others for validation.

    Args:
        argument: `COUNT` or `COUNTxHEIGHTxWIDTH`: how many images for training, and their size;
            or nothing, for 10,000.
        size: height and width, if `argument` has none.

    Raises:
        ValueError: `argument` is none of these.
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


def _image(index: int, height: int, width: int, part: int) -> bytes:
    random = np.random.default_rng((part, index))
    label = index % len(SYNTHETIC_CLASSES)
    angle = np.pi * label / len(SYNTHETIC_CLASSES)
    y, x = np.ogrid[0 : height / width : height * 1j, 0 : 1 : width * 1j]
    # Four to eight stripes, from anywhere.
    turns = random.uniform(4, 8) * (x * np.cos(angle) + y * np.sin(angle)) + random.uniform()
    brightness = 0.5 + 0.35 * np.sin(2 * np.pi * turns)
    colour = 255 * np.array(colorsys.hsv_to_rgb(label / len(SYNTHETIC_CLASSES), 0.7, 1.0))
    noise = random.integers(-24, 25, (height, width, 1), dtype=np.int8)
    pixels = np.clip(brightness[..., np.newaxis] * colour + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()
