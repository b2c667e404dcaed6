"""Decoders of image files, which may be damaged or hostile.

Pillow decodes the pixels. Its `Image.open` has process-wide settings
(`ImageFile.LOAD_TRUNCATED_IMAGES`, `Image.MAX_IMAGE_PIXELS`) and warnings; changing these, or
Python's warning filters, would affect other threads. So metadata and further frames, which Pillow
warns about, are removed from the file first, and the pixels are decoded by `Image.frombytes`, which
ignores these settings.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

#: Limits of the scans of a progressive JPEG, and of pixels times scans. Encoders write about ten
#: scans; each takes a pass over all pixels.
_MAX_SCANS, _MAX_SCANNED_PIXELS = 100, 2 * 10**9

#: Limit of segments, chunks or blocks. The largest PNG in 8 KiB chunks has 90,000.
_MAX_PARTS = 100_000

#: Limit of the pixels, and of the bytes, of a run-length encoded BMP, which Pillow decodes in
#: Python, a million pixels in a quarter of a second.
_MAX_RUN_LENGTH = 4_000_000


class ImageFormatError(ValueError):
    """Error for a damaged or too large file; the message ends a sentence about the file."""


#: A function from the bytes of a file and the limit of its pixels to an image in mode RGB. On
#: damaged files, Pillow raises many kinds of exceptions: SyntaxError, KeyError, …
Decoder = Callable[[bytes, int], Image.Image]


def decoder_of(data: bytes) -> Decoder | None:
    """Return the decoder for a file by its first 16 bytes; `None` for unsupported formats."""
    return next((decoder for _, start, decoder in _DECODERS if start.match(data)), None)


def format_of(data: bytes) -> str | None:
    """Return a format such as `"JPEG"` by a file's first 16 bytes; `None` if it is unsupported."""
    return next((name for name, start, _ in _DECODERS if start.match(data)), None)


#: Suffixes, in lower case, of image files in unsupported formats -> format.
OTHER_SUFFIXES = {
    **dict.fromkeys((".heic", ".heif"), "HEIC"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".avif": "AVIF",
    ".jxl": "JPEG XL",
    ".jp2": "JPEG 2000",
}

#: Advice for unsupported formats; `mogrify` writes new files beside the old ones.
CONVERT = (
    "Convert such files to PNG or JPEG, e.g. with ImageMagick: `magick mogrify -format png FILES`"
)

#: Unsupported formats that messages name, with patterns of the first bytes of a file.
_OTHER_FORMATS: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    # ISO/IEC 23008-12, annexes B and C: brands, the major one first; both have `mif1`.
    ("an AVIF image", re.compile(rb"....ftyp(avi[fs]|(mif1|msf1)....(....)*avi[fs])", re.DOTALL)),
    ("a HEIC image", re.compile(rb"....ftyp(he[iv][cxms]|mif1|msf1)", re.DOTALL)),
    ("a Canon raw image", re.compile(rb"....ftypcrx |II\*\0....CR", re.DOTALL)),
    ("a video", re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", re.DOTALL)),
    ("a TIFF image", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("a JPEG XL image", re.compile(rb"\xff\x0a|\0\0\0\x0cJXL ")),
    ("a JPEG 2000 image", re.compile(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ")),
    ("a Photoshop image", re.compile(rb"8BPS")),
    ("a PDF document", re.compile(rb"%PDF-")),
    ("an SVG image", re.compile(rb"(\xef\xbb\xbf)?\s*(<[?!][^>]*>\s*)*<svg[\s>]", re.IGNORECASE)),
)


def other_format_of(data: bytes) -> str | None:
    """Return the name of an unsupported format, such as `"a HEIC image"`; `None` if unknown.

    Args:
        data: at least the first 64 bytes of the file, or the whole file.
    """
    start = data[:1024]
    return next((name for name, known in _OTHER_FORMATS if known.match(start)), None)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageFormatError("it has no pixels")
    if width * height > max_pixels:
        raise ImageFormatError(
            f"it claims {width} x {height} pixels, more than `max_pixels={max_pixels}`"
        )


def _check_parts(count: int) -> None:
    if count > _MAX_PARTS:
        raise ImageFormatError(f"it is made of more than {_MAX_PARTS:,} parts")


#: EXIF orientation -> the operation that makes the image upright (EXIF 2.32, section 4.6.4).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright_rgb(image: Image.Image, orientation: int = 1) -> Image.Image:
    """Convert an image to mode RGB, and rotate it according to its EXIF orientation."""
    if image.mode.startswith("I"):  # 16-bit gray of a PNG.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    # `convert` would copy an RGB image.
    image = image if image.mode == "RGB" else image.convert("RGB")
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def exif_orientation(exif: bytes) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if it is missing or the data is damaged."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * entry)
            if (tag, kind) == (0x0112, 3):
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


#: A marker of a JPEG (ITU T.81, table B.1), except for stuffed zeros, padding and restarts.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment up to the end of the image."""
    position, count = 2, 0
    while match := _MARKER.search(data, position):
        marker, position = data[match.end() - 1], match.end()
        if marker == 0xD9:
            return
        count += 1
        _check_parts(count)
        if marker in (0x01, 0xD8):  # These have no length.
            continue
        length = struct.unpack_from(">H", data, position)[0]
        if length < 2:  # The length includes its own two bytes.
            raise ImageFormatError("it is truncated or damaged")
        position += length
        yield marker, match.start(), position


def plain_jpeg_size(data: bytes, max_pixels: int, *, whole: bool = True) -> tuple[int, int] | None:
    """Return height and width of a JPEG that all decoders decode alike; `None` for other files.

    Such a JPEG is upright, gray or RGB (not CMYK), and within the limits of pixels and scans. Only
    the header is read, so the rest may still be damaged.

    Args:
        data: the file, or its beginning.
        max_pixels: limit of height times width.
        whole: whether `data` is the whole file. If not, `None` is returned for progressive JPEGs,
            whose scans cannot be counted.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    size, scans = None, 1
    try:
        for marker, start, _ in jpeg_segments(data):
            if marker == 0xE1 and data.startswith(b"Exif\0\0", start + 4):
                # An EXIF segment ends before 64 KiB.
                if exif_orientation(data[start + 4 : start + 4 + 2**16]) != 1:
                    return None
            # SOF0 to SOF2, ITU T.81, B.2.2: baseline, extended and progressive Huffman coding.
            elif marker in (0xC0, 0xC1, 0xC2):
                precision, height, width, components = struct.unpack_from(">BHHB", data, start + 4)
                small = 0 < height * width <= max_pixels
                if not small or precision != 8 or components not in (1, 3):
                    return None
                size = (height, width)
                if marker == 0xC2:
                    scans = data.count(b"\xff\xda") if whole else _MAX_SCANS + 1
            elif marker == 0xDA:
                return size if size and not _too_many_scans(scans, *size) else None
    except (struct.error, ImageFormatError):
        pass
    return None


def _too_many_scans(scans: int, width: int, height: int) -> bool:
    return scans > _MAX_SCANS or scans * width * height > _MAX_SCANNED_PIXELS


def _decode_jpeg(data: bytes, max_pixels: int) -> Image.Image:
    """Decode a JPEG without its metadata, about which Pillow would warn."""
    kept, orientation, scans = [data[:2]], 0, 0
    for marker, start, end in jpeg_segments(data):
        content = data[start + 4 : end]
        if marker == 0xDA:
            scans += 1
            if scans == 1:
                kept.append(data[start:])
            if scans > _MAX_SCANS:
                raise ImageFormatError(f"it has more than {_MAX_SCANS} scans")
        elif scans:
            continue
        elif marker == 0xE1 and content.startswith(b"Exif\0\0"):
            orientation = orientation or exif_orientation(content)
        # Of application segments and comments, only JFIF and Adobe define the channels.
        elif (
            not (0xE0 <= marker <= 0xEF or marker == 0xFE)
            or (marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14)
            or (marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12)
        ):
            kept.append(data[start:end])
    plain = b"".join(kept)
    header = JpegImagePlugin.JpegImageFile(io.BytesIO(plain))
    _check_size(*header.size, max_pixels)
    if _too_many_scans(scans, *header.size):
        raise ImageFormatError(f"it has {scans} scans, too many for so large an image")
    # Only Adobe's CMYK is inverted, but Pillow inverts all CMYK.
    inverted = header.mode == "CMYK" and "adobe" in header.info
    rawmode = "CMYK;I" if inverted else header.mode
    image = Image.frombytes(header.mode, header.size, plain, "jpeg", rawmode, "")
    return _upright_rgb(image, orientation)


def _decode_png(data: bytes, max_pixels: int) -> Image.Image:
    """Decode only the chunks of a PNG that define its pixels and its orientation."""
    header, pixels, orientation, position, count = [data[:8]], [], 1, 8, 0
    while position + 12 <= len(data):
        count += 1
        _check_parts(count)
        length, kind = struct.unpack_from(">I4s", data, position)
        start, position = position, position + 12 + length
        content = data[start + 8 : position - 4]
        if kind == b"IEND" or position > len(data):
            break
        if kind == b"eXIf":
            orientation = exif_orientation(content)
        if kind not in (b"IHDR", b"PLTE", b"IDAT"):
            continue
        if struct.pack(">I", zlib.crc32(kind + content)) != data[position - 4 : position]:
            raise ImageFormatError(f"the checksum of its {kind.decode()} chunk is wrong")
        if kind == b"IDAT":
            pixels.append(content)
        else:
            header.append(data[start:position])
    if len(header) < 2 or not pixels:
        raise EOFError
    # Pillow reads the header up to the first IDAT chunk.
    header.append(struct.pack(">I4s", 0, b"IDAT"))
    opened = PngImagePlugin.PngImageFile(io.BytesIO(b"".join(header)))
    _check_size(*opened.size, max_pixels)
    rawmode, interlaced = opened.tile[0].args, opened.info.get("interlace", 0)
    image = Image.frombytes(opened.mode, opened.size, b"".join(pixels), "zip", rawmode, interlaced)
    return _upright_rgb(_with_palette(image, opened), orientation)


def _with_palette(image: Image.Image, header: Image.Image) -> Image.Image:
    if image.mode == "P":
        if header.palette is None:
            raise ImageFormatError("it has no palette")
        image.putpalette(header.palette)
    return image


def _decode_gif(data: bytes, max_pixels: int) -> Image.Image:
    """Decode the first frame of a GIF.

    The part of the screen that the frame does not cover gets the transparent color, as in Pillow.
    For frames larger than the screen, `Image.MAX_IMAGE_PIXELS` applies, too.
    """
    _check_gif_blocks(data)
    header = GifImagePlugin.GifImageFile(io.BytesIO(data))
    _check_size(*header.size, max_pixels)
    codec, extents, offset, args = header.tile[0]
    assert extents is not None
    assert isinstance(args, tuple)
    left, top, right, bottom = extents
    _check_size(right - left, bottom - top, max_pixels)
    mode = "L" if header.mode == "L" else "P"
    picture = Image.frombytes(mode, (right - left, bottom - top), data[offset:], codec, *args)
    screen = Image.new(mode, header.size, header.info.get("transparency", 0))
    screen.paste(picture, (left, top))
    return _upright_rgb(_with_palette(screen, header))


def _check_gif_blocks(data: bytes) -> None:
    """Check the number of blocks before the first frame (GIF89a, sections 15 to 26)."""
    flags = data[10]
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    count = 0
    while data[position] not in b",;":
        is_extension, count, position = data[position] == 0x21, count + 1, position + 1
        if is_extension:
            position += 1
            while size := data[position]:
                count, position = count + 1, position + 1 + size
                _check_parts(count)
            position += 1
        _check_parts(count)


def _decode_bmp(data: bytes, max_pixels: int) -> Image.Image:
    header = BmpImagePlugin.BmpImageFile(io.BytesIO(data))
    _check_size(*header.size, max_pixels)
    codec, _, offset, args = header.tile[0]
    if codec != "raw":
        if max(header.width * header.height, len(data)) > _MAX_RUN_LENGTH:
            raise ImageFormatError(
                f"it is run-length encoded and has more than {_MAX_RUN_LENGTH:,} pixels or bytes"
            )
        # This decoder reads from the file itself, and ignores Pillow's settings.
        header.load()
        return _upright_rgb(header)
    assert isinstance(args, tuple)
    pixels = memoryview(data)[offset:]
    image = Image.frombytes(header.mode, header.size, pixels, codec, *args)
    return _upright_rgb(_with_palette(image, header))


def _decode_webp(data: bytes, max_pixels: int) -> Image.Image:
    # The decoder allocates memory for the whole image when it opens the file. It also raises if the
    # image has more than twice `Image.MAX_IMAGE_PIXELS`.
    _check_size(*_webp_size(data), max_pixels)
    image = WebPImagePlugin.WebPImageFile(io.BytesIO(data))
    _check_size(*image.size, max_pixels)
    image.load()
    return _upright_rgb(image, exif_orientation(image.info.get("exif", b"")))


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height from the first chunk (RFC 9649, sections 2.5 to 2.7)."""
    kind = data[12:16]
    if kind == b"VP8X":
        sides = int.from_bytes(data[24:27], "little"), int.from_bytes(data[27:30], "little")
        return sides[0] + 1, sides[1] + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


_DECODERS: tuple[tuple[str, re.Pattern[bytes], Decoder], ...] = (
    ("JPEG", re.compile(rb"\xff\xd8\xff"), _decode_jpeg),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), _decode_png),
    ("GIF", re.compile(rb"GIF8[79]a"), _decode_gif),
    ("BMP", re.compile(rb"BM"), _decode_bmp),
    ("WebP", re.compile(rb"RIFF....WEBPVP8[ XL]", re.DOTALL), _decode_webp),
)
