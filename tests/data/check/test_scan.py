"""Budget: 15 s."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import random
import struct
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from keras_resnet.data.check.scan import KINDS, Finding, ScanReport, scan
from keras_resnet.data.check.traits import traits_of
from keras_resnet.data.sources import LabeledImages, Record
from keras_resnet.images.decode import UnreadableImageError, read_image
from keras_resnet.images.formats import format_of

ORIENTATION = 0x0112


def photograph(seed: int, height: int = 48, width: int = 64) -> Image.Image:
    """Noise that compresses to files of some size, and whose corners are far from grey."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    coarse[[0, 0, -1, -1], [0, -1, 0, -1]] = 30
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def png_of_16_bits() -> bytes:
    """Grey, 40 x 40: Pillow writes 16 bits of grey alone."""
    values = np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40
    return encoded(Image.fromarray(values), "PNG")


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(9)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


@dataclass
class Files:
    """A source of files in memory; one whose contents are an error cannot be read."""

    files: dict[str, tuple[bytes | np.ndarray | Exception, int]]
    name: str = "training"
    class_names: tuple[str, ...] = ("cat", "dog")
    class_ids: None = None
    reading: Callable[[], object] = field(default=lambda: None)

    @property
    def labels(self) -> np.ndarray:
        raise AssertionError("Of TFRecords, the labels may cost another reading.")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        self.reading()
        data, label = list(self.files.values())[index]
        if isinstance(data, Exception):
            raise data
        return Record(data, label)

    def name_of(self, index: int) -> str:
        return list(self.files)[index]


def of_one(data: bytes | np.ndarray, name: str = "picture.jpg") -> list[tuple[str, str]]:
    report = scan([Files({name: (data, 0)})])
    assert {finding.name for finding in report.findings} <= {name}
    return [(finding.kind, finding.detail) for finding in report.findings]


JPEG = encoded(photograph(0), "JPEG")
PNG = encoded(photograph(1), "PNG")
GIF = encoded(photograph(2).convert("L"), "GIF")
BMP = encoded(photograph(3), "BMP")
WEBP = encoded(photograph(4), "WEBP")
CLEAN = {"a.jpg": JPEG, "b.png": PNG, "c.gif": GIF, "d.bmp": BMP, "e.webp": WEBP}


def damaged_png() -> bytes:
    data = bytearray(PNG)
    data[PNG.index(b"IDAT") + 20] ^= 1
    return bytes(data)


#: Name -> contents and the findings that they give. Each picture is another one.
TEXT = (
    'it is text, instead of a binary file ("I am no picture"). Download the file again, from the '
    "link to the file itself"
)

KINDS_OF_FILES: dict[str, tuple[bytes, dict[str, str]]] = {
    "empty.jpg": (b"", {"unreadable": "it is empty"}),
    "text.png": (b"I am no picture", {"unreadable": TEXT}),
    "half.jpg": (JPEG[: len(JPEG) // 2], {"truncated": "its end is missing"}),
    "half.png": (PNG[: len(PNG) // 2], {"truncated": "its end is missing"}),
    "half.gif": (GIF[: len(GIF) // 2], {"truncated": "its end is missing"}),
    "half.bmp": (BMP[: len(BMP) // 2], {"truncated": "its end is missing"}),
    "half.webp": (WEBP[: len(WEBP) // 2], {"truncated": "its end is missing"}),
    "bits.png": (damaged_png(), {"damaged": "the checksum of its IDAT chunk is wrong"}),
    "huge.png": (
        png_that_claims(10_000, 9_000),
        {"huge": "it claims 10000 x 9000 pixels, more than `max_pixels=89478485`"},
    ),
    "bitmap.jpg": (encoded(photograph(10), "BMP"), {"wrong suffix": "its format is BMP"}),
    "png.JPEG": (encoded(photograph(11), "PNG"), {"wrong suffix": "its format is PNG"}),
    "jpeg.webp": (encoded(photograph(12), "JPEG"), {"wrong suffix": "its format is JPEG"}),
    "narrow.png": (encoded(photograph(13, 200, 31), "PNG"), {"tiny": "31 x 200 pixels"}),
    "constant.png": (
        encoded(Image.new("RGB", (40, 32), (1, 2, 3)), "PNG"),
        {"constant": "all pixels are R=1 G=2 B=3"},
    ),
    "ink.jpg": (
        encoded(photograph(14).convert("CMYK"), "JPEG"),
        {"cmyk": "4 inks, converted to RGB"},
    ),
    "deep.png": (
        png_of_16_bits(),
        {"16-bit": "16 bits per channel, of which the highest 8 are read"},
    ),
    "turned.jpg": (
        encoded(photograph(15), "JPEG", exif=turned(6)),
        {"rotated": "EXIF orientation 6, which is applied"},
    ),
    "upright.jpg": (encoded(photograph(16), "JPEG", exif=turned(1)), {}),
    "transparent.png": (
        encoded(photograph(17).quantize(50), "PNG", transparency=bytes(range(50))),
        {
            "palette": "colors from a palette of at most 256",
            "alpha": "transparency, which is dropped",
        },
    ),
    "moving.gif": (
        encoded(
            photograph(18).convert("L"),
            "GIF",
            save_all=True,
            append_images=[photograph(19).convert("L")],
        ),
        {"animated": "several images, of which the first is read"},
    ),
    **{f"clean {name}": (data, {}) for name, data in CLEAN.items()},
}


def test_every_kind_of_file_is_found_and_nothing_else() -> None:
    source = Files({name: (data, 0) for name, (data, _) in KINDS_OF_FILES.items()})
    report = scan([source])
    found = {name: {} for name in KINDS_OF_FILES}
    for finding in report.findings:
        assert finding.severity == KINDS[finding.kind]
        found[finding.name][finding.kind] = finding.detail
    assert found == {name: findings for name, (_, findings) in KINDS_OF_FILES.items()}
    assert report.errors == 9
    assert report.bad_fraction == 9 / len(KINDS_OF_FILES)
    assert report.counts["truncated"] == 5
    assert report.counts["alpha"] == 1
    # In the order of the kinds, errors first.
    assert list(report.counts) == [kind for kind in KINDS if kind in report.counts]
    order = [list(KINDS).index(finding.kind) for finding in report.findings]
    assert order == sorted(order)


def test_a_clean_set_gives_none() -> None:
    train = Files({name: (data, index % 2) for index, (name, data) in enumerate(CLEAN.items())})
    validation = Files({"f.jpg": (encoded(photograph(5), "JPEG"), 1)}, "validation")
    report = scan([train, validation])
    assert report == ScanReport(
        (("training", 5), ("validation", 1)), {"cat": (3, 0), "dog": (2, 1)}, ()
    )
    assert (report.errors, report.bad_fraction, report.counts) == (0, 0.0, {})
    assert report.extremes == ("cat", "dog")
    assert report.imbalance == 1.5
    assert scan([Files({})]).bad_fraction == 0


def findings_of(*sources: Files) -> list[tuple[str, str, str]]:
    return [(finding.kind, finding.name, finding.detail) for finding in scan(sources).findings]


def test_doubles() -> None:
    """The same file twice, the same pixels in two ways, other labels, both parts."""
    again = encoded(photograph(1), "PNG", compress_level=1)
    assert again != PNG
    train = Files(
        {
            "a.jpg": (JPEG, 0),
            "b.png": (PNG, 1),
            "a copy.jpg": (JPEG, 0),
            "b dog.png": (again, 1),
            "b bitmap.bmp": (encoded(photograph(1), "BMP"), 0),
            "a dog.jpg": (JPEG, 1),
        }
    )
    validation = Files({"a leak.jpg": (JPEG, 0), "b leak.png": (again, 0)}, "validation")
    assert findings_of(train, validation) == [
        ("leak", "a leak.jpg", "same bytes as a.jpg, which is in training"),
        ("leak", "b leak.png", "same bytes as b dog.png, which is in training"),
        ("label conflict", "a dog.jpg", "same bytes as a.jpg: 'cat' there, 'dog' here"),
        ("label conflict", "b leak.png", "same bytes as b dog.png: 'dog' there, 'cat' here"),
        ("label conflict", "b bitmap.bmp", "same pixels as b.png: 'dog' there, 'cat' here"),
        ("duplicate", "a copy.jpg", "same bytes as a.jpg"),
        ("same pixels", "b dog.png", "same pixels as b.png"),
    ]


def test_doubles_of_arrays() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    images[4] = images[1]
    images[3] = 7
    labels = np.array([0, 1, 0, 1, 1], np.int32)
    report = scan([LabeledImages(images, labels, ("cat", "dog"), name="arrays")])
    assert report.findings == (
        Finding("duplicate", "warning", "arrays: image 4", "same bytes as arrays: image 1"),
        Finding("constant", "warning", "arrays: image 3", "all pixels are R=7 G=7 B=7"),
    )
    # The same bytes in another shape are another picture; pixels of a file equal an array's.
    flat = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    png = encoded(Image.fromarray(flat), "PNG")
    source = Files({"wide": (flat, 0), "high": (flat.reshape(64, 32, 3), 0), "file.png": (png, 0)})
    assert findings_of(source) == [("same pixels", "file.png", "same pixels as wide")]


def test_undecodable_doubles_are_only_errors() -> None:
    assert findings_of(Files({"a.jpg": (b"", 0), "b.jpg": (b"", 1)})) == [
        ("unreadable", "a.jpg", "it is empty"),
        ("unreadable", "b.jpg", "it is empty"),
    ]


def test_records_that_cannot_be_read() -> None:
    """Whatever a source raises, the others are scanned; what has no label is in no class."""
    source = Files(
        {
            "gone.jpg": (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), 0),
            "no record": (ValueError("Expected a record. Received: nothing"), 0),
            "bug": (KeyError("x"), 0),
            "memory": (MemoryError(), 0),
            "label": (JPEG, 2),
            "negative": (JPEG, -1),
            "floats": (np.full((40, 40, 3), np.nan), 1),
            "fine.jpg": (JPEG, 1),
        }
    )
    report = scan([source])
    assert [(finding.kind, finding.name, finding.detail) for finding in report.findings] == [
        ("unreadable", "gone.jpg", "No such file or directory"),
        ("unreadable", "no record", "Expected a record. Received: nothing"),
        ("unreadable", "bug", "'x'"),
        ("unreadable", "memory", "MemoryError"),
        ("unreadable", "label", "its label 2 is not one of 2 classes"),
        ("unreadable", "negative", "its label -1 is not one of 2 classes"),
        (
            "unreadable",
            "floats",
            "Expected an image with pixels in [0, 255]. Received: an array of pixels in [nan, nan]",
        ),
    ]
    assert report.classes == {"cat": (0,), "dog": (2,)}
    assert report.imbalance is None
    assert report.bad_fraction == 7 / 8


# What decoders of JPEG put up with.


def after_scan(data: bytes) -> int:
    """Where the entropy-coded data start."""
    start = data.index(b"\xff\xda")
    return start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_whole_jpegs_are_not_suspicious(options: dict[str, Any]) -> None:
    for seed in range(10):
        assert of_one(encoded(photograph(seed), "JPEG", quality=95, **options)) == []
    # Grey corners, at which the check for missing data looks twice.
    grey = np.asarray(photograph(1, 64, 64)).copy()
    grey[:24], grey[-24:] = 128, 128
    assert of_one(encoded(Image.fromarray(grey), "JPEG", **options)) == []


def test_cut_jpeg_with_an_end_marker() -> None:
    """Decoders fill it up with grey and say nothing."""
    start = after_scan(JPEG)
    expected = [("suspicious", "its data end before its last pixels, which are filled with gray")]
    assert len(JPEG) - start > 300
    for end in range(start + 20, len(JPEG) - 100, 37):
        if JPEG[end - 1] != 0xFF:
            assert of_one(JPEG[:end] + b"\xff\xd9") == expected
    # Turned, the last pixels are first.
    data = encoded(photograph(0), "JPEG", exif=turned(3))
    half = data[: (after_scan(data) + len(data)) // 2].rstrip(b"\xff") + b"\xff\xd9"
    assert of_one(half)[0] == expected[0]


def test_markers_where_none_belong() -> None:
    middle = (after_scan(JPEG) + len(JPEG)) // 2
    doubts = {
        b"\xff\x01": "it has bytes between its segments that belong to no segment",
        b"\xff\xd0": "its restart markers are missing or out of order",
        b"\xff\xd9": "it has two end markers, and the data between them is not read",
        b"\xff\xfe\0\4ab": "it has bytes between its segments that belong to no segment",
    }
    for inserted, doubt in doubts.items():
        found = of_one(JPEG[:middle] + inserted + JPEG[middle:])
        assert found == [("suspicious", doubt)], inserted
    for marker in (b"\xff\x05", b"\xff\xc0", b"\xff\xd8"):
        found = of_one(JPEG[:middle] + marker + JPEG[middle:])
        assert found == [("damaged", "it is truncated or damaged")], marker
    # In the header, too.
    tables = JPEG.index(b"\xff\xdb")
    found = of_one(JPEG[:tables] + b"\0\0" + JPEG[tables:])
    assert found == [("suspicious", doubts[b"\xff\x01"])]


def test_restart_markers_out_of_order() -> None:
    data = encoded(photograph(0, 160, 64), "JPEG", restart_marker_rows=1)
    first, third = data.index(b"\xff\xd0"), data.index(b"\xff\xd2")
    without = data[:first] + data[third:]
    found = of_one(without)
    assert found == [("suspicious", "its restart markers are missing or out of order")]


def test_what_follows_a_jpeg_is_not_suspicious() -> None:
    """Telephones append films and further pictures, and some disks zeros."""
    several = encoded(photograph(0), "MPO", save_all=True, append_images=[photograph(1)])
    for data in (JPEG + bytes(1000), JPEG + b"a film" * 100, several, JPEG + JPEG):
        assert of_one(data) == []


def test_missing_last_bytes() -> None:
    end = PNG.index(b"IEND") - 4
    assert of_one(PNG[:end], "a.png") == [("suspicious", "its last bytes are missing")]


def test_damaged_files_stop_nothing() -> None:
    """Bits flipped, ends cut, bytes inserted: each file gives an image or one error."""
    generator = random.Random(0)
    whole = [data for data, _ in KINDS_OF_FILES.values() if data]
    files: dict[str, tuple[bytes | np.ndarray | Exception, int]] = {}
    for number in range(600):
        data = bytearray(generator.choice(whole))
        if number % 3 == 0:
            del data[generator.randrange(len(data)) :]
        elif number % 3 == 1:
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        else:
            position = generator.randrange(len(data))
            data[position:position] = generator.randbytes(generator.randint(1, 20))
        files[f"{number}.png"] = bytes(data), 0
    report = scan([Files(files)])
    errors = [finding.name for finding in report.findings if finding.severity == "error"]
    assert 300 < len(errors) == len(set(errors)) < 600
    for name, (data, _) in files.items():
        try:
            read_image(data)  # type: ignore[arg-type]
        except UnreadableImageError:
            assert name in errors
        else:
            assert name not in errors


def test_long_runs_take_linear_time() -> None:
    """Searching for markers and what fills up before them would take hours here."""
    middle = (after_scan(JPEG) + len(JPEG)) // 2
    start = time.process_time()
    for filled in (b"\xff" * 10**6 + b"\0", b"\xff" * 10**6 + b"\xfe\0\2", b"\xff\xd0" * 10**5):
        for position in (JPEG.index(b"\xff\xdb"), middle, len(JPEG) - 2, len(JPEG)):
            of_one(JPEG[:position] + filled + JPEG[position:])
    picture = GIF.index(b",\0\0\0\0")
    for filled in (b"!\xfe" + b"\1a" * 10**5 + b"\0", b"!\xfe\0" * 10**5, b"x" * 10**6):
        of_one(GIF[:picture] + filled + GIF[picture:])
    assert time.process_time() - start < 60


# Traits.


def test_traits_of_all_formats() -> None:
    image, other = photograph(0), photograph(1)
    alpha = image.convert("RGBA")
    alpha.putalpha(other.convert("L"))
    colours = image.quantize(20)
    cases: list[tuple[bytes, str, set[str]]] = [
        (JPEG, "JPEG", set()),
        (encoded(image.convert("CMYK"), "JPEG", exif=turned(8)), "JPEG", {"cmyk", "rotated"}),
        (encoded(alpha, "PNG", exif=turned(3)), "PNG", {"alpha", "rotated"}),
        (encoded(image.convert("LA"), "PNG"), "PNG", {"alpha"}),
        (encoded(image.convert("1"), "PNG"), "PNG", set()),
        (encoded(colours, "PNG"), "PNG", {"palette"}),
        (encoded(image, "PNG", save_all=True, append_images=[other]), "PNG", {"animated"}),
        (encoded(image.convert("L"), "GIF"), "GIF", set()),
        (encoded(colours, "GIF", transparency=3), "GIF", {"palette", "alpha"}),
        (encoded(colours, "GIF", save_all=True, append_images=[other]), "GIF",
         {"palette", "animated"}),
        (encoded(image.convert("L"), "BMP"), "BMP", set()),
        (encoded(colours, "BMP"), "BMP", {"palette"}),
        (encoded(image, "WEBP", exif=turned(6)), "WebP", {"rotated"}),
        (encoded(image, "WEBP", lossless=True), "WebP", set()),
        (encoded(alpha, "WEBP"), "WebP", {"alpha"}),
        (encoded(alpha, "WEBP", lossless=True), "WebP", {"alpha"}),
        (encoded(image, "WEBP", save_all=True, append_images=[other]), "WebP", {"animated"}),
    ]  # fmt: skip
    for data, kind, traits in cases:
        assert format_of(data) == kind
        assert set(traits_of(data)) == traits, (kind, traits)
        # Damaged files, too: whatever is found, nothing is raised.
        for end in range(0, len(data), len(data) // 40 + 1):
            assert set(traits_of(data[:end])) <= set(traits_of(data)) | {"palette"}
    assert format_of(b"II*\0") is None
    assert traits_of(b"") == {}


# How it runs.


def test_order_and_findings_do_not_depend_on_threads() -> None:
    files = {f"{index}.jpg": (JPEG if index % 3 else b"", index % 2) for index in range(100)}
    reports = [scan([Files(files)], workers=workers) for workers in (1, 3, None)]
    assert reports[0] == reports[1] == reports[2]
    names = [finding.name for finding in reports[0].findings if finding.kind == "unreadable"]
    assert names == [f"{index}.jpg" for index in range(0, 100, 3)]


def test_progress() -> None:
    told: list[tuple[str, float]] = []
    files = {f"{index}": (b"", 0) for index in range(250)}
    scan([Files(files)], progress=lambda step, done: told.append((step, done)))
    assert len(told) == 100
    assert told[-1] == ("250 of 250 images", 1.0)
    shares = [done for _, done in told]
    assert shares == sorted(shares)


def test_few_images_are_read_ahead_and_interruption_ends_it() -> None:
    """So that neither memory nor the time to stop grows with the data set."""
    count = 0
    lock = threading.Lock()

    def reading() -> None:
        nonlocal count
        with lock:
            count += 1

    def interrupt(step: str, done: float) -> None:
        time.sleep(0.2)
        raise KeyboardInterrupt

    files = Files({f"{index}": (b"", 0) for index in range(2000)}, reading=reading)
    with pytest.raises(KeyboardInterrupt):
        scan([files], workers=2, progress=interrupt)
    time.sleep(0.2)
    assert 0 < count <= 20 + 2 * 4 * 8 + 3 * 8
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_other_classes_are_refused() -> None:
    one, other = Files({}), Files({}, "validation", ("cat", "cow", "dog"))
    message = r"same classes. Received: 2 in training, 3 in validation$"
    with pytest.raises(ValueError, match=message):
        scan([one, other])
    with pytest.raises(ValueError, match=r"same classes. Received: no sources$"):
        scan([])


# The command.


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A training and a validation part, with errors, a leak and a conflict."""
    root = tmp_path / "pictures"
    jpegs = [encoded(photograph(seed), "JPEG") for seed in range(6)]
    train = {f"train/cat/{seed}.jpg": jpegs[seed] for seed in range(3)}
    broken = {f"train/dog/broken {number:02}.png": b"" for number in range(22)}
    write(root, {**train, **broken, "train/dog/same.jpg": jpegs[0], "train/dog/4.jpg": jpegs[4]})
    write(root, {"val/cat/5.jpg": jpegs[5], "val/cat/leak.jpg": jpegs[1], "val/dog/p.jpg": PNG})
    return root


def test_command(pictures: Path, tmp_path: Path, command_in_process: Any) -> None:
    result = command_in_process("data", "scan", f"folder:{pictures}")
    assert (result.returncode, result.stderr) == (1, "")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    for row in ("unreadable error 22", "leak warning 1", "label conflict warning 1"):
        assert row in lines
    train = pictures / "train"
    assert f"unreadable: {train}/dog/broken 19.png: it is empty" in lines
    assert f"unreadable: {train}/dog/broken 20.png: it is empty" not in lines
    assert "unreadable: and 2 more; --output writes all of them" in lines
    leak = f"same bytes as {train}/cat/1.jpg, which is in folder:{train}"
    assert f"leak: {pictures}/val/cat/leak.jpg: {leak}" in lines
    conflict = f"same bytes as {train}/cat/0.jpg: 'cat' there, 'dog' here"
    assert f"label conflict: {train}/dog/same.jpg: {conflict}" in lines
    assert f"wrong suffix: {pictures}/val/dog/p.jpg: its format is PNG" in lines
    assert lines[-1] == ("22 of 30 images (73.33%) cannot be read and will be skipped; 3 warnings.")

    output = tmp_path / "report.csv"
    source = f"folder:{pictures}"
    result = command_in_process("data", "scan", source, "--output", str(output))
    assert result.returncode == 1
    assert f"Written: {output}, 25 findings." in result.stdout
    assert "and 2 more\n" in result.stdout
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 25
    assert rows[0] == {
        "kind": "unreadable",
        "severity": "error",
        "name": f"{train}/dog/broken 00.png",
        "detail": "it is empty",
    }
    assert [row["kind"] for row in rows[22:]] == ["leak", "label conflict", "wrong suffix"]

    again = command_in_process("data", "scan", source, "--output", str(output))
    assert again.returncode == 2
    assert f"Expected a new file. Received: {output}. Pass `--overwrite`" in again.stderr


def test_command_as_json(pictures: Path, tmp_path: Path, command_in_process: Any) -> None:
    output = tmp_path / "report.json"
    output.write_text("old")
    arguments = ("--json", "--small", "49", "--output", str(output), "--overwrite")
    result = command_in_process("data", "scan", f"folder:{pictures}", *arguments)
    assert result.returncode == 1
    report = json.loads(result.stdout)
    assert json.loads(output.read_text()) == report
    assert report["sources"] == [
        {"name": f"folder:{pictures}/train", "images": 27},
        {"name": f"folder:{pictures}/val", "images": 3},
    ]
    assert report["counts"] == {
        "unreadable": 22,
        "leak": 1,
        "label conflict": 1,
        "wrong suffix": 1,
        "tiny": 8,
    }
    assert report["classes"] == {"cat": [3, 2], "dog": [24, 1]}
    assert (report["most"], report["least"], report["imbalance"]) == ("dog", "cat", 8.0)
    assert report["bad_fraction"] == 22 / 30
    assert len(report["findings"]) == 33


def test_command_with_a_clean_set(tmp_path: Path, command_in_process: Any) -> None:
    train = {f"train/{'cat' if 'a' <= name < 'c' else 'dog'}/{name}": CLEAN[name] for name in CLEAN}
    write(tmp_path, train)
    write(tmp_path, {"val/cat/5.jpg": encoded(photograph(5), "JPEG")})
    write(tmp_path, {"val/dog/6.jpg": encoded(photograph(6), "JPEG")})
    result = command_in_process("data", "scan", f"folder:{tmp_path}")
    assert (result.returncode, result.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "finding severity images" not in lines
    assert lines[-1] == "All 7 images can be read; 0 warnings."
    output = tmp_path / "report.csv"
    command_in_process("data", "scan", f"folder:{tmp_path}", "--output", str(output))
    assert output.read_text() == "kind,severity,name,detail\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense:1"], "Received: 'nonsense:1'"),
        (["digits", "--output", "report.txt"], "Expected `--output` to end in .csv or .json"),
        (["digits", "--small", "0"], "'--small'"),
    ],
)
def test_command_refuses(arguments: Sequence[str], message: str, command_in_process: Any) -> None:
    result = command_in_process("data", "scan", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
