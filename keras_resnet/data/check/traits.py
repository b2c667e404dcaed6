"""Traits of an image file besides its pixels: what reading it changes, and doubts."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator

import numpy as np

from keras_resnet.images.decode import UnreadableImageError, read_image
from keras_resnet.images.formats import exif_orientation, format_of, jpeg_segments


def traits_of(data: bytes) -> dict[str, str]:
    """Return the traits of a file that its decoder changes or leaves out.

    Args:
        data: all of a file that can be decoded; of a damaged one, traits may be missing.

    Returns:
        Any of `"cmyk"`, `"16-bit"`, `"rotated"`, `"palette"` (of colours, not of greys), `"alpha"`
        and `"animated"`, each with what reading makes of it. Alpha in BMPs is not found.
    """
    traits: dict[str, str] = {}
    kind = format_of(data)
    with contextlib.suppress(IndexError, ValueError, struct.error):
        for trait, value in _FINDERS[kind](data) if kind else ():
            if value:
                traits[trait] = _READING[trait].format(value)
    return traits


#: What reading makes of each trait.
_READING = {
    "cmyk": "4 inks, converted to RGB",
    "16-bit": "16 bits per channel, of which the upper 8 are read",
    "rotated": "EXIF orientation {}, which is applied",
    "palette": "colours from a palette of at most 256",
    "alpha": "transparency, which is dropped",
    "animated": "several images, of which the first is read",
}

#: Traits with their values; those of a false value are absent.
_Traits = Iterator[tuple[str, int]]


def _turned(exif: bytes) -> int:
    """The orientation, or 0 if that is upright."""
    orientation = exif_orientation(exif)
    return orientation if orientation > 1 else 0


def _coloured(palette: bytes, step: int = 3) -> bool:
    entries = np.frombuffer(palette[: len(palette) // step * step], np.uint8).reshape(-1, step)
    return bool((entries[:, :1] != entries[:, :3]).any())


def _jpeg_traits(data: bytes) -> _Traits:
    upright = False
    for marker, start, end in jpeg_segments(data):
        content = data[start + 4 : end]
        if marker == 0xDA:
            return
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            yield "cmyk", content[5] == 4
        elif marker == 0xE1 and content.startswith(b"Exif\0\0") and not upright:
            yield "rotated", _turned(content)
            upright = True  # The first counts.


def _png_traits(data: bytes) -> _Traits:
    depth, colours, position = data[24], data[25], 8
    yield "16-bit", depth == 16
    yield "alpha", colours in (4, 6)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"PLTE" and colours == 3:
            yield "palette", _coloured(data[position + 8 : position + 8 + length])
        elif kind == b"tRNS":
            yield "alpha", True
        elif kind == b"acTL":
            yield "animated", int.from_bytes(data[position + 8 : position + 12], "big") > 1
        elif kind == b"eXIf":
            yield "rotated", _turned(data[position + 8 : position + 8 + length])
        elif kind == b"IEND":
            return
        position += 12 + length


def _gif_palette(data: bytes, position: int, flags: int) -> bytes:
    return data[position : position + (3 << (flags & 7) + 1)] if flags & 0x80 else b""


def _gif_traits(data: bytes) -> _Traits:
    palette, images = _gif_palette(data, 13, data[10]), 0
    position = 13 + len(palette)
    while data[position] != 0x3B and images < 2:
        kind = data[position]
        if kind == 0x2C:
            images += 1
            own = _gif_palette(data, position + 10, data[position + 9])
            if images == 1:
                yield "palette", _coloured(own or palette)
            # After the palette, a byte about the codes.
            position += 11 + len(own)
        elif kind == 0x21:
            if data[position + 1] == 0xF9 and not images:
                yield "alpha", data[position + 3] & 1
            position += 2
        else:
            position += 1
            continue
        while data[position]:
            position += data[position] + 1
        position += 1
        yield "animated", images > 1


def _bmp_traits(data: bytes) -> _Traits:
    start, header = struct.unpack_from("<II", data, 10)
    if header >= 40 and int.from_bytes(data[28:30], "little") <= 8:
        yield "palette", _coloured(data[14 + header : start], step=4)


def _webp_traits(data: bytes) -> _Traits:
    if data[12:16] == b"VP8L":
        yield "alpha", data[24] >> 4 & 1
    if data[12:16] != b"VP8X":
        return
    yield "alpha", data[20] & 0x10
    yield "animated", data[20] & 0x02
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            yield "rotated", _turned(data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2


_FINDERS = {
    "JPEG": _jpeg_traits,
    "PNG": _png_traits,
    "GIF": _gif_traits,
    "BMP": _bmp_traits,
    "WebP": _webp_traits,
}


def ends_early(data: bytes) -> bool:
    """Whether a file, of a format that we read, lacks the end that its format has."""
    kind = format_of(data)
    if kind == "JPEG":  # After the last scan.
        return data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")
    if kind == "GIF":
        return not data.rstrip(b"\0").endswith(b";")
    if kind == "PNG":
        return b"IEND" not in data
    claimed = data[2:6] if kind == "BMP" else data[4:8]
    return len(data) < int.from_bytes(claimed, "little") + (0 if kind == "BMP" else 8)


#: A marker of a JPEG; one with what may fill up before it, ITU T.81, section B.1.1.2. The second
#: is not for searching: in a long run of FF, that would take quadratic time.
_MARKER, _FILLED_MARKER = re.compile(rb"\xff([^\x00\xff])"), re.compile(rb"\xff+([^\x00\xff])")

#: Markers of segments: C0 to CF but the reserved C8, DA to DD, APPn and comments.
_SEGMENTS = {*range(0xC0, 0xD0), *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE} - {0xC8}

#: Enough to fill some blocks, whatever the Huffman codes.
_FILLER = bytes(range(1, 251)) * 16


def doubt_of(data: bytes, image: np.ndarray) -> str | None:
    """Return a doubt about a file that was decoded all the same, or None.

    In JPEGs, restart markers that are missing or too many, bytes that belong to no segment, and
    grey that stands for missing data. Not found are changed bits and gaps from which the decoder
    has recovered with the right number of blocks or with some to spare: of those libjpeg warns, but
    Pillow passes no warnings on.

    Args:
        data: the file.
        image: what `read_image` made of it.
    """
    kind = format_of(data)
    if kind in ("PNG", "BMP", "WebP") and ends_early(data):
        return "its last bytes are missing"
    if kind != "JPEG":
        return None
    reason, end = _walk(data)
    if reason is not None:
        return reason
    # Where data end too early, libjpeg fills in grey. That has no effect on the pixels where data
    # are enough; where not, pixels change with more. Corners, as the image may have been turned.
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1]] @ np.array([0.299, 0.587, 0.114])
    if (np.abs(corners - 128) < 1.5).any():
        with contextlib.suppress(UnreadableImageError):
            if not np.array_equal(read_image(data[:end] + _FILLER + data[end:]), image):
                return "its data end before its last pixels, which are filled with grey"
    return None


def _walk(data: bytes) -> tuple[str | None, int]:
    """Goes through the segments of a JPEG: what does not belong, and where its end marker is."""
    position, interval = 2, 0
    while match := _FILLED_MARKER.match(data, position):
        marker, position = match[1][0], match.end()
        if marker == 0xD9:
            rest = data[position:].rstrip(b"\0")
            # Telephones append further JPEGs, films and other things.
            doubled = rest.endswith(b"\xff\xd9") and b"\xff\xd8\xff" not in rest
            reason = "it has two end markers, and what is between them is not read"
            return (reason if doubled else None), match.end() - 2
        if marker not in _SEGMENTS:
            break
        segment = data[position : position + int.from_bytes(data[position : position + 2], "big")]
        position += len(segment)
        if marker == 0xDD:
            interval = int.from_bytes(segment[2:4], "big")
        if marker == 0xDA:
            for count, inside in enumerate(_MARKER.finditer(data, position)):
                position = inside.start()
                if not 0xD0 <= inside[1][0] <= 0xD7:
                    break
                if not interval or inside[1][0] != 0xD0 + count % 8:
                    return "its restart markers are not those that belong there", 0
    return "it has bytes between its segments that belong to none", 0
