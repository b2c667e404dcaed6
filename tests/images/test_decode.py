from __future__ import annotations

import io
import os
import random
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, features

from keras_resnet.images import formats as image_formats
from keras_resnet.images.decode import MAX_PIXELS, UnreadableImageError, find_images, read_image
from keras_resnet.images.formats import CONVERT

from ..conftest import LFS_POINTER

EXIF_ORIENTATION = 0x0112


def photograph(height: int = 47, width: int = 61, seed: int = 0) -> np.ndarray:
    """Smooth colours, such as JPEG keeps."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


#: First bytes of files in formats that are not read.
OTHERS = [
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
    (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a HEIC image"),
    (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "an AVIF image"),
    (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "an AVIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"II+\0", "a TIFF image"),
    (b"II*\0\x10\0\0\0CR\2\0", "a Canon raw image"),
    (b"\0\0\0\x14ftypqt  ", "a video"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
    (b"8BPS\0\1", "a Photoshop image"),
    (b"%PDF-1.7\n", "a PDF document"),
    (b'<?xml version="1.0"?>\n<!-- x -->\n<svg width="1">', "an SVG image"),
]


PIXELS = photograph()
IMAGE = Image.fromarray(PIXELS)
PALETTED = IMAGE.quantize(37)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[EXIF_ORIENTATION] = orientation
    tags[0x011A] = 72.0  # Resolution, which Pillow looks up while it opens a JPEG.
    return tags


def png(width: int, height: int, depth: int, colours: int, data: bytes, *more: bytes) -> bytes:
    """A PNG of bare chunks; `data` are filtered rows, `more` chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def bmp(width: int, height: int, bits: int, compression: int, data: bytes) -> bytes:
    palette = bytes(range(256)) * 4 if bits == 8 else b""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    start = 14 + len(info) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start) + info + palette + data


#: One file of each kind that Pillow writes.
FILES: dict[str, bytes] = {
    "jpeg": encoded(IMAGE, "JPEG"),
    "jpeg progressive": encoded(
        IMAGE, "JPEG", progressive=True, exif=exif(6), comment=b"hello", icc_profile=b"x" * 300
    ),
    "jpeg grey": encoded(IMAGE.convert("L"), "JPEG"),
    "jpeg cmyk": encoded(IMAGE.convert("CMYK"), "JPEG"),
    "jpeg of several": encoded(IMAGE, "MPO", save_all=True, append_images=[IMAGE.rotate(180)]),
    "png": encoded(IMAGE, "PNG", exif=exif(6)),
    "png alpha": encoded(Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]])), "PNG"),
    "png grey alpha": encoded(IMAGE.convert("LA"), "PNG"),
    "png palette": encoded(PALETTED, "PNG"),
    "png palette of 4": encoded(IMAGE.quantize(4), "PNG", bits=2),
    "png transparent palette": encoded(PALETTED, "PNG", transparency=bytes(range(37))),
    "png 1 bit": encoded(IMAGE.convert("1"), "PNG"),
    "png animated": encoded(IMAGE, "PNG", save_all=True, append_images=[IMAGE.rotate(180)]),
    "gif": encoded(PALETTED, "GIF"),
    "gif transparent": encoded(PALETTED, "GIF", transparency=3, interlace=1),
    "gif grey": encoded(IMAGE.convert("L"), "GIF"),
    "gif animated": encoded(PALETTED, "GIF", save_all=True, append_images=[PALETTED.rotate(90)]),
    "bmp": encoded(IMAGE, "BMP"),
    "bmp palette": encoded(PALETTED, "BMP"),
    "bmp grey": encoded(IMAGE.convert("L"), "BMP"),
    "bmp 1 bit": encoded(IMAGE.convert("1"), "BMP"),
    "bmp alpha": encoded(IMAGE.convert("RGBA"), "BMP"),
    "webp": encoded(IMAGE, "WEBP", exif=exif(6)),
    "webp lossless": encoded(IMAGE.convert("RGBA"), "WEBP", lossless=True),
    "webp animated": encoded(IMAGE, "WEBP", save_all=True, append_images=[IMAGE.rotate(180)]),
}
#: Those of them that stand for their formats.
FORMATS = ("jpeg", "png", "gif", "bmp", "webp")


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("kind", FILES)
def test_pixels_are_pillows(kind: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.asarray(
            ImageOps.exif_transpose(Image.open(io.BytesIO(FILES[kind]))).convert("RGB")
        )
    image = read_image(FILES[kind])
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    np.testing.assert_array_equal(image, expected)
    # The name of a file says nothing, and a string is a path.
    (tmp_path / "picture.dat").write_bytes(FILES[kind])
    np.testing.assert_array_equal(read_image(tmp_path / "picture.dat"), expected)
    np.testing.assert_array_equal(read_image(str(tmp_path / "picture.dat")), expected)


def test_colours_are_right() -> None:
    """The test above would not see an error that Pillow shares."""
    for kind in ("png alpha", "png animated", "bmp", "bmp alpha", "webp lossless"):
        np.testing.assert_array_equal(read_image(FILES[kind]), PIXELS)
    np.testing.assert_array_equal(read_image(FILES["png"]), np.rot90(PIXELS, -1))
    for kind in ("gif", "bmp palette", "png palette"):
        np.testing.assert_array_equal(read_image(FILES[kind]), np.asarray(PALETTED.convert("RGB")))
    for kind in ("jpeg", "jpeg cmyk", "webp animated"):
        assert np.abs(read_image(FILES[kind]).astype(int) - PIXELS).mean() < 3, kind


def test_transparency_is_dropped_as_torchvision_and_timm_do() -> None:
    invisible = np.dstack([PIXELS, np.zeros_like(PIXELS[..., 0])])
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        data = encoded(Image.fromarray(invisible), kind, **options)
        np.testing.assert_array_equal(read_image(data), PIXELS)
    np.testing.assert_array_equal(
        read_image(FILES["png transparent palette"]), read_image(FILES["png palette"])
    )


@pytest.mark.parametrize(
    ("colours", "channels"), [(0, (0, 0, 0)), (2, (0, 1, 2)), (4, (0, 0, 0)), (6, (0, 1, 2))]
)
def test_16_bits_keep_the_upper_8(colours: int, channels: tuple[int, ...]) -> None:
    depth = {0: 1, 2: 3, 4: 2, 6: 4}[colours]
    values = np.array([[0, 255, 256, 511], [32768, 65279, 65280, 65535]], np.uint16)
    pixels = np.stack([values, values[::-1], values[:, ::-1], values], axis=-1)[..., :depth]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    image = read_image(png(4, 2, 16, colours, rows))
    np.testing.assert_array_equal(image, (pixels >> 8).astype(np.uint8)[..., channels])


def test_cmyk_is_inverted_only_by_adobe() -> None:
    """Ink of 51, 0, 102, 25 of 255 is (204, 255, 153) * 230 / 255, whoever wrote it."""
    ink = Image.new("CMYK", (16, 16), (51, 0, 102, 25))
    expected = np.array([184, 230, 138])
    adobe = encoded(ink, "JPEG", quality=100)
    assert np.abs(read_image(adobe) - expected).max() <= 2
    start = adobe.index(b"\xff\xee")
    end = start + 2 + int.from_bytes(adobe[start + 2 : start + 4], "big")
    paper = Image.fromarray(255 - np.asarray(ink), "CMYK")
    plain = encoded(paper, "JPEG", quality=100)
    plain = plain[:start] + plain[end:]
    assert b"Adobe" not in plain
    assert np.abs(read_image(plain) - expected).max() <= 2


def test_ycck() -> None:
    """What Adobe stores of ink (c, m, y, k): Y, Cb and Cr of (c, m, y), and 255 - k."""
    cyan, magenta, yellow, black = 51, 0, 102, 25
    channels = Image.new("RGB", (16, 16), (cyan, magenta, yellow)).convert("YCbCr").split()
    stored = np.dstack(
        [*(np.asarray(channel) for channel in channels), np.full((16, 16), 255 - black, np.uint8)]
    )
    # Pillow inverts what it writes.
    data = encoded(Image.fromarray(255 - stored, "CMYK"), "JPEG", quality=100)
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    ycck = data[:transform] + b"\2" + data[transform + 1 :]
    assert np.abs(read_image(ycck) - np.array([184, 230, 138])).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_orientation(kind: str, orientation: int, order: str) -> None:
    start = b"II*\0" if order == "<" else b"MM\0*"
    block = start + struct.pack(
        f"{order}IHHHIHHHHIHHI", 8, 2, 0x0100, 3, 1, 61, 0, 0x0112, 3, 1, orientation, 0, 0
    )
    data = encoded(
        IMAGE, kind, exif=b"Exif\0\0" + block, **({"lossless": True} if kind == "WEBP" else {})
    )
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(read_image(data), np.asarray(upright.convert("RGB")))
    corner = {1: "", 2: "|", 3: "-|", 4: "-", 5: "T", 6: "T|", 7: "T-|", 8: "T-"}[orientation]
    expected = PIXELS.transpose(1, 0, 2) if "T" in corner else PIXELS
    expected = expected[::-1] if "-" in corner else expected
    expected = expected[:, ::-1] if "|" in corner else expected
    assert np.abs(read_image(data).astype(int) - expected).mean() < 3


@pytest.mark.parametrize(
    "block", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"XX*\0" + bytes(30)]
)
def test_damaged_exif_data_is_ignored(block: bytes) -> None:
    data = encoded(IMAGE, "PNG", exif=b"Exif\0\0" + block)
    np.testing.assert_array_equal(read_image(data), PIXELS)


def test_first_picture_of_a_gif_that_fills_a_part_of_the_screen() -> None:
    """Screens without palettes, local palettes, and a picture that is larger than its screen."""
    whole = FILES["gif grey"]
    picture = whole.index(b",\0\0\0\0")
    for offset, screen, palette in (((3, 5), (80, 60), True), ((9, 0), (10, 10), False)):
        header = whole[:6] + struct.pack("<HHBBB", *screen, 0, 0, 0)
        frame = b"," + struct.pack("<HHHHB", *offset, 61, 47, 0x87 if palette else 0)
        control = b"!\xf9\x04\x01\0\0\x07\0"
        colours = bytes(reversed(range(256))) + bytes(range(256)) + bytes(256)
        data = header + control + frame + (colours if palette else b"") + whole[picture + 10 :]
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        image = read_image(data)
        np.testing.assert_array_equal(image, expected)
        left, top = offset
        assert image.shape == (max(screen[1], top + 47), max(screen[0], left + 61), 3)
        empty = tuple(colours[21:24]) if palette else (7, 7, 7)
        assert tuple(image[-1, 0]) == empty


def test_bmp_from_the_top_and_with_run_lengths() -> None:
    down = bmp(2, -2, 24, 0, bytes([1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10, 11, 12, 0, 0]))
    assert read_image(down).tolist() == [[[3, 2, 1], [6, 5, 4]], [[9, 8, 7], [12, 11, 10]]]
    # Three pixels of colour 4 and an end of line, then two of colour 8 and the end.
    runs = bmp(3, 2, 8, 1, bytes([3, 4, 0, 0, 2, 8, 1, 4, 0, 1]))
    palette = np.frombuffer(bytes(range(256)) * 4, np.uint8).reshape(-1, 4)[:, 2::-1]
    np.testing.assert_array_equal(read_image(runs), palette[[[8, 8, 4], [4, 4, 4]]])
    with pytest.raises(UnreadableImageError, match="it is run-length encoded and has more than 4"):
        read_image(bmp(4000, 1001, 8, 1, bytes([0, 1])))


def test_what_follows_a_jpeg_is_ignored() -> None:
    """Telephones append films, which may hold any number of what looks like scans."""
    film = b"\xff\xda\0\2" * 1000
    np.testing.assert_array_equal(read_image(FILES["jpeg"] + film), read_image(FILES["jpeg"]))


def test_arrays() -> None:
    np.testing.assert_array_equal(read_image(PIXELS), PIXELS)
    copy = read_image(PIXELS)
    copy[:] = 0
    assert PIXELS.any()
    grey = PIXELS[..., 0]
    for array in (grey, grey[..., np.newaxis]):
        image = read_image(array)
        assert image.shape == (47, 61, 3)
        np.testing.assert_array_equal(image, np.dstack([grey] * 3))
    np.testing.assert_array_equal(read_image(np.dstack([PIXELS, grey])), PIXELS)
    for dtype in (np.float16, np.float32, np.float64):
        levels = np.array([[0, 0.4, 0.6, 254.6, 255]], dtype)
        assert read_image(levels)[0, :, 0].tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2, 2), np.uint8), r"4 channels. Received: an array of shape \(2, 2, 2\)"),
        (np.zeros((1, 2, 2, 3), np.uint8), r"Received: an array of shape \(1, 2, 2, 3\)"),
        (np.zeros(3, np.uint8), r"Received: an array of shape \(3,\)"),
        (np.zeros((0, 5, 3), np.uint8), r"Received: an array of shape \(0, 5, 3\)"),
        (np.zeros((2, 2, 3), np.int64), "uint8 or float pixels.* array of int64. Convert it"),
        (np.zeros((2, 2, 3), bool), "Received: an array of bool"),
        (np.full((2, 2), 255.1), r"pixels in \[0, 255\]. Received: an array of pixels in \[255.1,"),
        (np.full((2, 2), -0.1), r"an array of pixels in \[-0.1, -0.1\]"),
        (np.full((2, 2), np.nan), r"an array of pixels in \[nan, nan\]"),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(UnreadableImageError, match=message):
        read_image(array)


def test_other_things_are_type_errors() -> None:
    with pytest.raises(
        TypeError, match="a path, bytes or a NumPy array. Received: Image. Convert it"
    ):
        read_image(IMAGE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"\0\1\2\3 no image", "that is none of these"),
        (
            b"hello, world, how are you?",
            r'it is text, instead of a binary file \("hello, world, how are you\?"\). Download .*',
        ),
        (
            LFS_POINTER,
            "it is a Git LFS pointer instead of the file of 102,540,417 bytes. Run .*pull.*",
        ),
        *((start + bytes(100), f"it is {kind}. {re.escape(CONVERT)}") for start, kind in OTHERS),
        (b"\xff\xd8\xff", "Pillow: not a JPEG file"),
        (b"\x89PNG\r\n\x1a\n", "it is truncated or damaged"),
        (b"GIF89a", "it is truncated or damaged"),
        (b"GIF89a" + bytes(7) + b";", "it is truncated or damaged"),
        (b"BM", "it is truncated or damaged"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "it is truncated or damaged"),
        (png(4, 4, 8, 3, bytes(20)), "it has no palette"),
        (FILES["png"].replace(b"IDAT", b"IDAT\1", 1), "the checksum of its IDAT chunk is wrong"),
    ],
)
def test_what_is_no_image_is_named_with_the_reason(
    data: bytes, reason: str, tmp_path: Path
) -> None:
    formats = r"Expected an image \(JPEG, PNG, GIF, BMP or WebP\)."
    with pytest.raises(
        UnreadableImageError, match=rf"^{formats} Received: the given bytes \({reason}\)$"
    ):
        read_image(data)
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"^{formats} Received: {path} \({reason}\)$"):
        read_image(path)


def test_what_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("missing.jpg", "No such file or directory"),
        ("link", "No such file or directory"),
        ("x" * 300, "File name too long"),
        ("", "it is a directory"),
        ("pipe", "it is not a regular file"),
        ("null\0.jpg", "(stat: )?embedded null (byte|character in path)"),
    ):
        with pytest.raises(UnreadableImageError, match=rf"Received: .*{name[:4]}.* \({reason}\)$"):
            read_image(tmp_path / name)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(FILES["png"])
    path.chmod(0)
    with pytest.raises(UnreadableImageError, match=r"picture.png \(Permission denied\)$"):
        read_image(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_truncation_is_refused(kind: str) -> None:
    """Up to the last bytes, which hold no pixels in some formats."""
    data = FILES[kind]
    whole = read_image(data)
    for end in [*range(0, len(data) - 16, 7), len(data) - 16]:
        with pytest.raises(UnreadableImageError):
            read_image(data[:end])
    for end in range(len(data) - 15, len(data)):
        try:
            image = read_image(data[:end])
        except UnreadableImageError:
            continue
        np.testing.assert_array_equal(image, whole)


def huge(kind: str, width: int, height: int) -> bytes:
    """A small file that claims a large image."""
    data = bytearray(FILES["webp lossless" if kind == "webp" else kind])
    if kind == "jpeg":
        frame = data.index(b"\xff\xc0") + 5
        data[frame : frame + 4] = struct.pack(">HH", height, width)
    elif kind == "png":
        return png(width, height, 8, 2, bytes(10))
    elif kind == "gif":
        data[6:10] = struct.pack("<HH", width, height)
    elif kind == "bmp":
        data[18:26] = struct.pack("<II", width, height)
    else:
        data[21:25] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return bytes(data)


@pytest.mark.parametrize("kind", FORMATS)
def test_images_of_too_many_pixels_are_refused_before_they_are_decoded(kind: str) -> None:
    message = rf"\(it claims 16000 x 16001 pixels, more than `max_pixels={MAX_PIXELS}`\)"
    with pytest.raises(UnreadableImageError, match=message):
        read_image(huge(kind, 16000, 16001))
    height, width, _ = read_image(FILES[kind]).shape
    read_image(FILES[kind], max_pixels=height * width)
    with pytest.raises(UnreadableImageError, match="claims .* `max_pixels=2866`"):
        read_image(FILES[kind], max_pixels=height * width - 1)


def test_progressive_jpeg_of_many_scans_is_refused() -> None:
    data = encoded(IMAGE, "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    np.testing.assert_array_equal(read_image(data[:-2] + scan * 50 + data[-2:]).shape, (47, 61, 3))
    with pytest.raises(UnreadableImageError, match="it has more than 100 scans"):
        read_image(data[:-2] + scan * 100 + data[-2:])


def test_pillows_warnings_do_not_leak() -> None:
    """Each of these makes Pillow warn, which the fixture above turns into errors."""
    broken = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHII", 0x0112, 3, 900, 5000)
    noisy = {
        "metadata": encoded(IMAGE, "JPEG", exif=broken),
        "transparency": FILES["png transparent palette"],
        "animation": png(1, 1, 8, 0, bytes(2), chunk(b"acTL", bytes(8))),
    }
    for data in noisy.values():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Image.open(io.BytesIO(data)).convert("RGB").getexif()
        assert caught
        assert read_image(data).dtype == np.uint8


@pytest.mark.parametrize("kind", FILES)
def test_pillows_global_settings_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FILES[kind]
    expected = read_image(data)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    if not kind.startswith("webp"):  # The one exception, see `_decode_webp`.
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    np.testing.assert_array_equal(read_image(data), expected)
    with pytest.raises(UnreadableImageError):
        read_image(data[: len(data) // 2] if "animated" not in kind else data[: len(data) // 4])
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def mutations(data: bytes, count: int, generator: random.Random) -> Iterator[bytes]:
    """Truncated, bits flipped, bytes of the header replaced, bytes inserted: in turn."""
    for number in range(count):
        mutated = bytearray(data)
        if number % 4 == 0:
            del mutated[generator.randrange(len(data)) :]
        elif number % 4 == 1:
            for _ in range(generator.randint(1, 8)):
                mutated[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        elif number % 4 == 2:
            for _ in range(generator.randint(1, 4)):
                mutated[generator.randrange(min(len(data), 64))] = generator.randrange(256)
        else:
            position = generator.randrange(len(data))
            mutated[position:position] = generator.randbytes(generator.randint(1, 20))
        yield bytes(mutated)


def outcome(data: bytes) -> tuple[tuple[int, ...], bytes] | str:
    try:
        image = read_image(data)
    except UnreadableImageError as error:
        return str(error)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    return image.shape, image.tobytes()


def test_damaged_files_are_read_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(0)
    mutated = [data for file in FILES.values() for data in mutations(file, 60, generator)]
    outcomes = [outcome(data) for data in mutated]
    refused = [found for found in outcomes if isinstance(found, str)]
    assert len(outcomes) == 1500
    assert 500 < len(refused) < 1400
    for message in refused:
        assert re.fullmatch(r"Expected an image .*\. Received: the given bytes \(.+\)", message)
    # The setting under which Pillow itself lets most of them pass.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert [outcome(data) for data in mutated] == outcomes


def test_threads_do_not_disturb_each_other() -> None:
    expected = {kind: read_image(data) for kind, data in FILES.items()}
    failures: list[str] = []

    def work() -> None:
        for _ in range(5):
            for kind, data in FILES.items():
                if not np.array_equal(read_image(data), expected[kind]):
                    failures.append(kind)

    threads = [threading.Thread(target=work) for _ in range(4)]
    before = list(warnings.filters)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert list(warnings.filters) == before


def test_every_decoder_is_tested() -> None:
    decoders = {image_formats.decoder_of(data) for data in FILES.values()}
    assert len(decoders) == len(FORMATS) == len(image_formats._DECODERS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b/2.PNG",
        "b/10.jpg",
        "b/notes.txt",
        "b/._10.jpg",
        "a/deep/er/x.webp",
        "a.jpeg",
        ".hidden/x.jpg",
        "[1].gif",
        "data.bin",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_find_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*names: str | Path) -> list[str]:
        return [str(path.relative_to(folder)) for path in find_images([folder / n for n in names])]

    everything = ["[1].gif", "a/deep/er/x.webp", "a.jpeg", "b/10.jpg", "b/2.PNG"]
    assert found("") == everything
    assert found("*") == everything
    assert found("b", "a.jpeg", "b/2.PNG") == ["b/10.jpg", "b/2.PNG", "a.jpeg"]
    assert found("**/*.[Pj]*[gG]") == ["a.jpeg", "b/10.jpg", "b/2.PNG"]
    assert found("[1].gif") == ["[1].gif"]
    assert found("data.bin") == ["data.bin"]
    assert find_images([]) == []
    monkeypatch.chdir(folder)
    assert find_images("b/?.PNG") == find_images(Path("b/2.PNG")) == [Path("b/2.PNG")]


def test_find_images_follows_links_but_not_in_circles(folder: Path) -> None:
    (folder / "b" / "up").symlink_to(folder)
    (folder / "c").symlink_to(folder / "a" / "deep")
    below = [str(path.relative_to(folder)) for path in find_images([folder])]
    assert below == ["[1].gif", "a/deep/er/x.webp", "a.jpeg", "b/10.jpg", "b/2.PNG", "c/er/x.webp"]


def test_images_in_other_formats_are_named_not_passed_over(folder: Path) -> None:
    (folder / "b" / "1.HEIC").touch()
    (folder / "b" / "3.tif").touch()
    left_out = rf"b: left out 2 files .* read \(HEIC, TIFF\), such as .*1.HEIC. {CONVERT}"
    with pytest.warns(UserWarning, match=left_out):
        assert [path.name for path in find_images([folder / "b"])] == ["10.jpg", "2.PNG"]
    # Named itself, a file is taken whatever it is called.
    assert find_images([folder / "b" / "3.tif"]) == [folder / "b" / "3.tif"]
    with pytest.raises(ValueError, match=r"Received: .*\*.tif, with 1 file in .*\(TIFF\).*magick"):
        find_images([folder / "b" / "*.tif"])


def test_real_files_of_other_formats_are_named() -> None:
    for kind, name in (("TIFF", "a TIFF image"), ("AVIF", "an AVIF image")):
        if kind == "AVIF" and not features.check("avif"):
            continue
        with pytest.raises(UnreadableImageError, match=f"it is {name}. Convert such files"):
            read_image(encoded(IMAGE, kind))


@pytest.mark.parametrize(
    "name", ["missing.jpg", "*.tiff", "empty", "b/*.txt", "missing/*", "", "null\0"]
)
def test_what_names_no_image_is_named(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder / "b")
    (folder / "empty").mkdir()
    path: Callable[[str], str] = lambda name: str(folder / name) if name else "empty"  # noqa: E731
    with pytest.raises(ValueError, match="files, directories or glob patterns") as caught:
        find_images([folder / "a.jpeg", path(name)])
    assert str(caught.value).endswith(f"Received: {path(name)}, which names none")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_directory_that_cannot_be_listed_is_named(folder: Path) -> None:
    (folder / "b").chmod(0)
    try:
        with pytest.raises(ValueError, match=r"where .*/b cannot be read: Permission denied$"):
            find_images([folder])
    finally:
        (folder / "b").chmod(0o700)
