"""Traits of an image file that decoding changes or drops, and signs of damage."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator

import numpy as np

from keras_resnet.images.decode import UnreadableImageError, read_image
from keras_resnet.images.formats import exif_orientation, format_of, jpeg_segments


def traits_of(data: bytes) -> dict[str, str]:
    """Return the traits of an image file that decoding changes or drops.

    Args:
        data: the contents of a file. Traits of a damaged file may be missing.

    Returns:
        Trait -> description of its effect; the traits are `"cmyk"`, `"16-bit"`, `"rotated"`,
        `"palette"` (with colors, not of grays only), `"alpha"` and `"animated"`. Alpha in BMP files
        is not found.
    """
    traits: dict[str, str] = {}
    kind = format_of(data)
    with contextlib.suppress(IndexError, ValueError, struct.error):
        for trait, value in _FINDERS[kind](data) if kind else ():
            if value:
                traits[trait] = _EFFECTS[trait].format(value)
    return traits


#: Trait -> the effect of decoding on it.
_EFFECTS = {
    "cmyk": "4 inks, converted to RGB",
    "16-bit": "16 bits per channel, of which the highest 8 are read",
    "rotated": "EXIF orientation {}, which is applied",
    "palette": "colors from a palette of at most 256",
    "alpha": "transparency, which is dropped",
    "animated": "several images, of which the first is read",
}

#: Pairs of a trait and its value; a trait with a false value is absent.
_Traits = Iterator[tuple[str, int]]


def _turned(exif: bytes) -> int:
    """Return the EXIF orientation, or 0 if the image is upright."""
    orientation = exif_orientation(exif)
    return orientation if orientation > 1 else 0


def _has_colors(palette: bytes, step: int = 3) -> bool:
    entries = np.frombuffer(palette[: len(palette) // step * step], np.uint8).reshape(-1, step)
    return bool((entries[:, :1] != entries[:, :3]).any())


def _jpeg_traits(data: bytes) -> _Traits:
    is_exif_read = False
    for marker, start, end in jpeg_segments(data):
        content = data[start + 4 : end]
        if marker == 0xDA:
            return
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            yield "cmyk", content[5] == 4
        elif marker == 0xE1 and content.startswith(b"Exif\0\0") and not is_exif_read:
            yield "rotated", _turned(content)
            is_exif_read = True


def _png_traits(data: bytes) -> _Traits:
    depth, colors, position = data[24], data[25], 8
    yield "16-bit", depth == 16
    yield "alpha", colors in (4, 6)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"PLTE" and colors == 3:
            yield "palette", _has_colors(data[position + 8 : position + 8 + length])
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
                yield "palette", _has_colors(own or palette)
            # The byte after the palette is the minimum code size.
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
        yield "palette", _has_colors(data[14 + header : start], step=4)


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
    """Return whether a file lacks the end that its format requires; the format must be known."""
    kind = format_of(data)
    if kind == "JPEG":  # The end marker comes after the last scan.
        return data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")
    if kind == "GIF":
        return not data.rstrip(b"\0").endswith(b";")
    if kind == "PNG":
        return b"IEND" not in data
    claimed = data[2:6] if kind == "BMP" else data[4:8]
    return len(data) < int.from_bytes(claimed, "little") + (0 if kind == "BMP" else 8)


#: A JPEG marker, without and with the fill bytes that may precede it (ITU T.81, section B.1.1.2).
#: Use the second pattern with `match` only: searching a long run of FF takes quadratic time.
_MARKER, _FILLED_MARKER = re.compile(rb"\xff([^\x00\xff])"), re.compile(rb"\xff+([^\x00\xff])")

#: Markers of segments: C0 to CF except the reserved C8, DA to DD, APPn and comments.
_SEGMENTS = {*range(0xC0, 0xD0), *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE} - {0xC8}

#: Bytes that are decoded to at least a few blocks with any Huffman codes.
_FILLER = bytes(range(1, 251)) * 16


def doubt_of(data: bytes, image: np.ndarray) -> str | None:
    """Return the sign of damage in a file that can be decoded, or None if there is none.

    In JPEGs, the signs are missing and surplus restart markers, bytes outside of segments, and gray
    pixels in place of missing data. Changed bits, and gaps after which the decoder still finds at
    least the expected number of blocks, are not found: libjpeg warns of them, but Pillow does not
    pass its warnings on.

    Args:
        data: the contents of the file.
        image: its pixels as `read_image` returns them.
    """
    kind = format_of(data)
    if kind in ("PNG", "BMP", "WebP") and ends_early(data):
        return "its last bytes are missing"
    if kind != "JPEG":
        return None
    reason, end = _walk(data)
    if reason is not None:
        return reason
    # libjpeg fills the image with gray if the data end too early. More data then change pixels,
    # which they do not if the data are complete. Test all corners, as the image may be rotated.
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1]] @ np.array([0.299, 0.587, 0.114])
    if (np.abs(corners - 128) < 1.5).any():
        with contextlib.suppress(UnreadableImageError):
            if not np.array_equal(read_image(data[:end] + _FILLER + data[end:]), image):
                return "its data end before its last pixels, which are filled with gray"
    return None


def _walk(data: bytes) -> tuple[str | None, int]:
    """Return the sign of damage in a JPEG's segments, or None, and where its end marker is."""
    position, interval = 2, 0
    while match := _FILLED_MARKER.match(data, position):
        marker, position = match[1][0], match.end()
        if marker == 0xD9:
            rest = data[position:].rstrip(b"\0")
            # Phones append further JPEGs, videos and other data.
            has_second_end = rest.endswith(b"\xff\xd9") and b"\xff\xd8\xff" not in rest
            reason = "it has two end markers, and the data between them is not read"
            return (reason if has_second_end else None), match.end() - 2
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
                    return "its restart markers are missing or out of order", 0
    return "it has bytes between its segments that belong to no segment", 0
