"""Files that would keep a decoder busy are refused after a bounded part of them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from keras_resnet.images import formats
from keras_resnet.images.decode import MAX_PIXELS, UnreadableImageError, read_image
from keras_resnet.images.formats import plain_jpeg_size

from .test_decode import FILES, IMAGE, PALETTED, bmp, chunk, encoded

JPEG, PNG, GIF = FILES["jpeg"], FILES["png"], FILES["gif"]
PROGRESSIVE = encoded(IMAGE, "JPEG", progressive=True)
GIF_START = GIF.index(b",", 13 + 3 * 64)
ROWS = (b"\1\1" * 61 + b"\0\0") * 47 + b"\0\1"

#: What comes again and again, and the file around that.
REPEATED: dict[str, tuple[bytes, bytes, bytes]] = {
    "jpeg metadata": (JPEG[:2], b"\xff\xe1\0\2", JPEG[2:]),
    "jpeg restart intervals": (JPEG[:2], b"\xff\xdd\0\4\0\0", JPEG[2:]),
    "jpeg markers without length": (JPEG[:2], b"\xff\x01", JPEG[2:]),
    "jpeg comments behind the pixels": (JPEG[:-2], b"\xff\xfe\0\2", JPEG[-2:]),
    "png texts": (PNG[:33], chunk(b"tEXt"), PNG[33:]),
    "png empty pixels": (PNG[:33], chunk(b"IDAT"), PNG[33:]),
    "png palettes": (PNG[:33], chunk(b"PLTE", bytes(3)), PNG[33:]),
    "gif controls": (GIF[:GIF_START], b"!\xf9\4\0\0\0\0\0", GIF[GIF_START:]),
    "gif comments": (GIF[:GIF_START], b"!\xfe\1x\0", GIF[GIF_START:]),
    "gif long comment": (GIF[:GIF_START] + b"!\xfe", b"\1x", b"\0" + GIF[GIF_START:]),
    "gif junk": (GIF[:GIF_START], b"\1", GIF[GIF_START:]),
}


@pytest.mark.parametrize("kind", REPEATED)
def test_files_of_many_parts_are_refused(kind: str) -> None:
    start, part, end = REPEATED[kind]
    read_image(start + part * 900 + end)
    with pytest.raises(UnreadableImageError, match="it is made of more than 100,000 parts"):
        read_image(start + part * 100_001 + end)


class Counted(bytes):
    """Bytes that count how often a part of them is taken."""

    taken = 0

    def __getitem__(self, index: object) -> object:  # type: ignore[override]
        Counted.taken += 1
        return super().__getitem__(index)  # type: ignore[index]


@pytest.mark.parametrize("kind", REPEATED)
def test_the_rest_of_them_is_not_looked_at(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a file is, the work is the same."""
    monkeypatch.setattr(formats, "_MAX_PARTS", 100)
    start, part, end = REPEATED[kind]
    decode = formats.decoder_of(start + end)
    assert decode is not None
    counts = []
    for count in (1_000, 30_000):
        Counted.taken = 0
        with pytest.raises(formats.ImageFormatError, match="more than 100 parts"):
            decode(Counted(start + part * count + end), MAX_PIXELS)
        counts.append(Counted.taken)
    assert counts[0] == counts[1] < 1000


def test_segments_without_length_are_damage() -> None:
    for length in (b"\0\0", b"\0\1"):
        data = JPEG[:2] + b"\xff\xe1" + length + JPEG[2:]
        with pytest.raises(UnreadableImageError, match="it is truncated or damaged"):
            read_image(data)
        assert plain_jpeg_size(data, MAX_PIXELS) is None


def test_scans_times_pixels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]

    def more(count: int) -> bytes:
        return PROGRESSIVE[:-2] + scan * count + PROGRESSIVE[-2:]

    scans = PROGRESSIVE.count(b"\xff\xda")
    assert plain_jpeg_size(PROGRESSIVE, MAX_PIXELS) == (47, 61)
    assert plain_jpeg_size(PROGRESSIVE, MAX_PIXELS, whole=False) is None
    assert plain_jpeg_size(more(100), MAX_PIXELS) is None
    monkeypatch.setattr(formats, "_MAX_SCANNED_PIXELS", (scans + 1) * 47 * 61)
    read_image(more(1))
    with pytest.raises(UnreadableImageError, match=f"{scans + 2} scans, too many for so large"):
        read_image(more(2))
    assert plain_jpeg_size(more(1), MAX_PIXELS) == (47, 61)
    assert plain_jpeg_size(more(2), MAX_PIXELS) is None


def test_run_lengths_are_bounded_in_pixels_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    good = bmp(61, 47, 8, 1, ROWS)
    assert read_image(good).shape == (47, 61, 3)
    monkeypatch.setattr(formats, "_MAX_RUN_LENGTH", len(good))
    read_image(good)
    with pytest.raises(UnreadableImageError, match="it is run-length encoded and has more than"):
        read_image(bmp(61, 47, 8, 1, b"\0\2\0\0" + ROWS))


def test_files_larger_than_their_pixels_could_be_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.jpg"
    path.write_bytes(JPEG)
    with path.open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(UnreadableImageError, match=r"\(it has 1,099,511,627,776 bytes, too many"):
        read_image(path)


def test_webp_of_many_chunks_and_frames_is_no_bomb() -> None:
    """libwebp goes through them in C; only that they are read is asserted."""
    frames = encoded(IMAGE, "WEBP", save_all=True, append_images=[PALETTED.convert("RGB")] * 50)
    assert read_image(frames).shape == (47, 61, 3)
    body = FILES["webp lossless"][12:]
    sides = (60).to_bytes(3, "little") + (46).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + sides
    data = extended + b"ABCD\0\0\0\0" * 50_000 + body
    data = b"RIFF" + struct.pack("<I", len(data) + 4) + b"WEBP" + data
    np.testing.assert_array_equal(read_image(data), read_image(FILES["webp lossless"]))
