"""Finding and reading image files; an image is read completely or not at all."""

from __future__ import annotations

import glob
import os
import stat
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np
from PIL import Image

from keras_resnet.images.formats import (
    CONVERT,
    OTHER_SUFFIXES,
    ImageFormatError,
    decoder_of,
    other_format_of,
)
from keras_resnet.support.placeholders import START, not_binary

#: An image: a path, the bytes of a file, or an array of pixels.
ImageLike = str | os.PathLike[str] | bytes | bytearray | np.ndarray

Decoded = TypeVar("Decoded", np.ndarray, Image.Image)

#: Default limit of pixels per image, above which Pillow warns of decompression bombs.
MAX_PIXELS = 1024**3 // 4 // 3

#: Suffixes, in lower case, of the files that `find_images` looks for.
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp"})

#: Limits of a file's size: an uncompressed PNG of 16 bits and four channels, and metadata.
_BYTES_PER_PIXEL, _LARGEST_METADATA = 8, 2**26

_FORMATS = "JPEG, PNG, GIF, BMP or WebP"


class UnreadableImageError(ValueError):
    """Error for an image that is missing, damaged, too large or of another format.

    The message names the image and the reason.
    """


def read_image(source: ImageLike, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image: JPEG, PNG, GIF, BMP or WebP, recognized by its content.

    The pixels are those of Pillow's `convert("RGB")`, as in the loaders of torchvision and timm: an
    alpha channel or a transparent color is dropped, not composited on a background, and color
    profiles are ignored. There are three differences to these loaders: the EXIF orientation is
    applied; 16-bit gray keeps its upper 8 bits, as 16-bit color does; and CMYK is inverted only in
    JPEGs with an Adobe marker. Of an animation, the first frame is read.

    Args:
        source: a path; the bytes of a file; or an array `(height, width)`, `(height, width, 1)`,
            `(height, width, 3)` or `(height, width, 4)`, RGB, uint8 or float in [0, 255]; floats
            are rounded.
        max_pixels: limit of height times width, checked before a file is decoded; by default about
            89 million.

    Returns:
        A new array `(height, width, 3)`, uint8, RGB.

    Raises:
        UnreadableImageError: the file is missing, unreadable, truncated, damaged, too large or of
            another format, or the array has another shape, dtype or range.
        TypeError: `source` is neither a path, bytes nor an array.

    Examples:
        >>> pixels = keras_resnet.images.read_image("cat.jpg")
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    return _decoded(source, max_pixels, np.array)


def open_image(image: ImageLike, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image like `read_image`, but return a Pillow image in mode RGB."""
    if isinstance(image, np.ndarray):
        return Image.fromarray(_from_array(image))
    return _decoded(image, max_pixels, lambda decoded: decoded)


def _decoded(
    image: ImageLike, max_pixels: int, finish: Callable[[Image.Image], Decoded]
) -> Decoded:
    if isinstance(image, (bytes, bytearray)):
        name, data = "the given bytes", bytes(image)
    elif isinstance(image, (str, os.PathLike)):
        name, data = os.fspath(image), _contents(image, max_pixels)
    else:
        raise TypeError(
            "Expected an image as a path, bytes or a NumPy array. Received: "
            f"{type(image).__name__}. Convert it with `numpy.asarray`"
        )
    decode = decoder_of(data)
    if decode is None:
        _refuse(name, _unknown(data))
    try:
        return finish(decode(data, max_pixels))
    # On damaged files, Pillow raises many kinds of exceptions: SyntaxError, KeyError, …
    except Exception as error:
        _refuse(name, _reason(error), error)


def find_images(paths_or_globs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """List image files, without duplicates.

    Args:
        paths_or_globs: any of

            - files, with any suffix;
            - directories, searched recursively for visible files with an image suffix, sorted;
            - glob patterns with `*`, `?`, `[…]` and `**`, for directories and files with an image
              suffix, sorted.

    Returns:
        Paths in the order of `paths_or_globs`. Files in formats that cannot be read, such as HEIC,
        are left out with a warning.

    Raises:
        ValueError: an entry names no readable image, or a directory cannot be read.
    """
    if isinstance(paths_or_globs, (str, os.PathLike)):
        paths_or_globs = [paths_or_globs]
    found: dict[Path, None] = {}
    for name in paths_or_globs:
        reason = "which names none"
        try:
            listed = dict.fromkeys(_images_of(Path(name)))
            images = {x: None for x in listed if not is_other_image(x) or x == Path(name)}
            others = [x for x in listed if x not in images]
            if others:
                reason = f"with {some_others(others)}. {CONVERT}"
            if others and images:
                warnings.warn(f"{os.fspath(name)}: left out {reason[5:]}", stacklevel=2)
        except OSError as error:
            images, reason = {}, f"where {error.filename or name} cannot be read: {error.strerror}"
        if not images:
            raise ValueError(
                "Expected files, directories or glob patterns that name images "
                f"({_FORMATS}). Received: {os.fspath(name)}, {reason}"
            )
        found.update(images)
    return list(found)


def _images_of(path: Path) -> Iterator[Path]:
    # Checked before glob patterns, because file names may contain brackets.
    if path.exists():
        yield from _images_below(path) if path.is_dir() else [path]
        return
    # `Path.glob` does not accept absolute patterns.
    for match in sorted(map(Path, glob.glob(str(path), recursive=True))):  # noqa: PTH207
        if match.is_dir():
            yield from _images_below(match)
        elif _is_called_image(match):
            yield match


def _images_below(directory: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield image files below a directory; follow links, which are common, but no cycles."""
    real = os.path.realpath(directory)
    for path in sorted(directory.iterdir()) if real not in above else ():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _images_below(path, (*above, real))
        elif _is_called_image(path):
            yield path


def _is_called_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES or is_other_image(path)


def is_other_image(path: str | os.PathLike[str]) -> bool:
    """Return whether a file has the suffix of an image format that is not supported, as HEIC."""
    # For millions of files, creating a `Path` for each would take seconds.
    return os.path.splitext(path)[1].lower() in OTHER_SUFFIXES  # noqa: PTH122


def some_others(paths: Sequence[str | os.PathLike[str]]) -> str:
    """Describe files in unsupported formats: number, formats and an example."""
    formats = sorted({OTHER_SUFFIXES[Path(path).suffix.lower()] for path in paths})
    return (
        f"{len(paths)} {'file' if len(paths) == 1 else 'files'} in formats that are not read "
        f"({', '.join(formats)}), such as {os.fspath(paths[0])}"
    )


def _refuse(name: str, reason: str, cause: Exception | None = None) -> NoReturn:
    raise UnreadableImageError(
        f"Expected an image ({_FORMATS}). Received: {name} ({reason})"
    ) from cause


def _unknown(data: bytes) -> str:
    """Describe a file of no supported format, for the end of "Received: holiday.jpg (…)"."""
    if not data:
        return "it is empty"
    if other := other_format_of(data):
        return f"it is {other}. {CONVERT}"
    instead = not_binary(data[:START])
    return f"it is {instead}" if instead else "that is none of these"


def _reason(error: Exception) -> str:
    """Describe an error of a decoder, for the end of "Received: holiday.jpg (…)"."""
    said = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    if isinstance(error, ImageFormatError):
        return said
    # Parsers raise these at an early end of a file; some messages of Pillow do not help users.
    early = (IndexError, struct.error, EOFError)
    if isinstance(error, early) or isinstance(error.__cause__, early) or said in _UNHELPFUL:
        return "it is truncated or damaged"
    return f"Pillow: {said or type(error).__name__}"


_UNHELPFUL = (
    "Truncated File Read",
    "cannot decode image data",
    "could not create decoder object",
    "failed to read next frame",
    "not enough image data",
    "not identified by this driver",
)


def _contents(image: str | os.PathLike[str], max_pixels: int) -> bytes:
    """Return the bytes of an image file; the first bytes only of any other file."""
    name = os.fspath(image)
    try:
        path = Path(image)
        mode, size = path.stat().st_mode, path.stat().st_size
        if stat.S_ISDIR(mode):
            _refuse(name, "it is a directory")
        # Reading from a pipe or a device might never end.
        if not stat.S_ISREG(mode):
            _refuse(name, "it is not a regular file")
        if size > _BYTES_PER_PIXEL * max_pixels + _LARGEST_METADATA:
            _refuse(name, f"it has {size:,} bytes, too many for `max_pixels={max_pixels}`")
        with path.open("rb") as file:
            data = file.read(START)
            return data + file.read() if decoder_of(data) else data
    except OSError as error:
        _refuse(name, error.strerror or str(error), error)
    except UnreadableImageError:
        raise
    except ValueError as error:  # The path contains a null character.
        _refuse(repr(name), str(error), error)


def _from_array(array: np.ndarray) -> np.ndarray:
    image = array[..., np.newaxis] if array.ndim == 2 else array
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or not image.size:
        raise UnreadableImageError(
            "Expected an image of shape (height, width), or (height, width, channels) with 1, 3 or "
            f"4 channels. Received: an array of shape {array.shape}"
        )
    if np.issubdtype(image.dtype, np.floating):
        low, high = float(image.min()), float(image.max())
        # This form also refuses NaN.
        if not (low >= 0 and high <= 255):
            raise UnreadableImageError(
                "Expected an image with pixels in [0, 255]. Received: an array of pixels in "
                f"[{low:g}, {high:g}]"
            )
        image = np.rint(image).astype(np.uint8)
    elif image.dtype != np.uint8:
        raise UnreadableImageError(
            "Expected an image of uint8 or float pixels in [0, 255]. Received: an array of "
            f"{image.dtype}. Convert it with `astype`"
        )
    return image.repeat(3, axis=-1) if image.shape[-1] == 1 else image[..., :3].copy()
