"""Scan of a data set for unreadable, duplicate and suspicious images and for leaks."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

import numpy as np

from keras_resnet.data.check.traits import doubt_of, ends_early, traits_of
from keras_resnet.data.sources.base import Source
from keras_resnet.data.threads import map_in_threads
from keras_resnet.images.decode import SUFFIXES, UnreadableImageError, read_image
from keras_resnet.images.formats import format_of
from keras_resnet.support.progress import Progress, unseen

Severity = Literal["error", "warning", "note"]

_KINDS: dict[Severity, tuple[str, ...]] = {
    # The image cannot be read.
    "error": ("unreadable", "truncated", "damaged", "huge"),
    # The image can be read, but is probably wrong or in the wrong place.
    "warning": (
        *("leak", "label conflict", "duplicate", "same pixels"),
        *("wrong suffix", "suspicious", "tiny", "constant"),
    ),
    # Reading converts the image or drops some of its contents.
    "note": ("cmyk", "16-bit", "rotated", "palette", "alpha", "animated"),
}
#: Kind of finding -> severity, in the order of reports.
KINDS = {kind: severity for severity, kinds in _KINDS.items() for kind in kinds}

#: Images per task of a thread.
_CHUNK = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding about one image.

    Attributes:
        kind: a key of `KINDS`.
        severity: the severity of the kind.
        name: the name of the image in its source.
        detail: a description of the finding.
    """

    kind: str
    severity: Severity
    name: str
    detail: str


@dataclass(frozen=True)
class ScanReport:
    """The contents of a data set and the findings about its images.

    Attributes:
        sources: name and number of images of each split.
        classes: class name -> number of images in each split, without images whose label cannot be
            read.
        findings: findings in the order of `KINDS`, then of the images; duplicates are in the order
            of the images that they duplicate.
    """

    sources: tuple[tuple[str, int], ...]
    classes: Mapping[str, tuple[int, ...]]
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings of each kind, for the kinds that were found."""
        found = collections.Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    @property
    def images(self) -> int:
        """Number of images in all splits."""
        return sum(count for _, count in self.sources)

    @property
    def errors(self) -> int:
        """Number of images that cannot be read."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def bad_fraction(self) -> float:
        """Share of the images that cannot be read, 0 to 1; compare with `max_bad_fraction`."""
        return self.errors / self.images if self.images else 0.0

    @property
    def extremes(self) -> tuple[str, str]:
        """The classes with the most and with the fewest images in the first split."""
        by_count = sorted(self.classes, key=lambda name: self.classes[name][0])
        return by_count[-1], by_count[0]

    @property
    def imbalance(self) -> float | None:
        """Ratio of the largest class to the smallest one; None if the smallest has no images."""
        most, least = (self.classes[name][0] for name in self.extremes)
        return most / least if least else None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data for JSON."""
        most, least = self.extremes
        return {
            "sources": [{"name": name, "images": count} for name, count in self.sources],
            "bad_fraction": self.bad_fraction,
            "counts": self.counts,
            "classes": {name: list(counts) for name, counts in self.classes.items()},
            "most": most,
            "least": least,
            "imbalance": self.imbalance,
            "findings": [asdict(finding) for finding in self.findings],
        }


def scan(
    sources: Sequence[Source],
    *,
    small: int = 32,
    workers: int | None = None,
    progress: Progress = unseen,
) -> ScanReport:
    """Read and decode every image of a data set, and report faulty and unusual ones.

    Only the findings and 36 bytes per image are held in memory. Duplicates have the same bytes, or
    different bytes and the same pixels. Each is reported once, with the first image that it
    duplicates: as a leak if that image is in another split, as a label conflict if it has another
    class (both are possible), otherwise as a duplicate. Resized and re-encoded copies are not
    found.

    JPEG decoders accept many damaged files; see `doubt_of` for the damage that is found.

    Args:
        sources: the splits of one data set, with the same classes; the training split first.
        small: images with a side of fewer pixels are reported as tiny.
        workers: number of threads; by default one per core.
        progress: called with a description and the share of the work that is done, at most 100
            times.

    Raises:
        ValueError: there are no sources, or they have different classes.
    """
    if len({source.class_names for source in sources}) != 1:
        classes = [f"{len(source.class_names)} in {source.name}" for source in sources]
        raise ValueError(
            "Expected sources with the same classes. "
            f"Received: {', '.join(classes) or 'no sources'}"
        )
    starts = [0, *itertools.accumulate(len(source) for source in sources)]
    hashes = np.zeros((starts[-1], 2), "V16")
    labels = np.full(starts[-1], -1, np.int32)
    decoded = np.zeros(starts[-1], bool)
    found: list[Finding] = []
    places = ((source, index) for source in sources for index in range(len(source)))
    # Threads suffice: reading, decoding and hashing release Python's lock. (On two cores, two
    # threads check 1.4 to 1.8 times as many JPEGs as one; two processes were no faster.)
    checks = map_in_threads(
        lambda place: _check(*place, small), places, workers=workers, chunk=_CHUNK
    )
    with contextlib.closing(checks):
        for index, check in enumerate(checks):
            found += check.found
            labels[index] = check.label
            if check.hashes is not None:
                hashes[index], decoded[index] = check.hashes, True
            percent = 100 * (index + 1) // len(labels)
            if percent > 100 * index // len(labels):
                progress(f"{index + 1} of {len(labels)} images", (index + 1) / len(labels))
    found += _duplicates(sources, starts, hashes, labels, decoded)
    order = {kind: number for number, kind in enumerate(KINDS)}
    found.sort(key=lambda finding: order[finding.kind])
    names = sources[0].class_names
    splits = [labels[start:end] for start, end in itertools.pairwise(starts)]
    counts = [np.bincount(split[split >= 0], minlength=len(names)).tolist() for split in splits]
    return ScanReport(
        tuple((source.name, len(source)) for source in sources),
        dict(zip(names, zip(*counts, strict=True), strict=True)),
        tuple(found),
    )


class _Check(NamedTuple):
    """The result for one image.

    Attributes:
        found: the findings.
        label: the label; -1 if it cannot be read.
        hashes: hashes of the bytes and of the pixels; None if the image cannot be decoded.
    """

    found: list[Finding]
    label: int = -1
    hashes: tuple[bytes, bytes] | None = None


def _check(source: Source, index: int, small: int) -> _Check:
    name = source.name_of(index)
    found: list[Finding] = []

    def find(kind: str, detail: str) -> None:
        found.append(Finding(kind, KINDS[kind], name, detail))

    try:
        data, label = source[index]
    except Exception as error:
        find("unreadable", getattr(error, "strerror", None) or str(error) or type(error).__name__)
        return _Check(found)
    if not 0 <= label < len(source.class_names):
        find("unreadable", f"its label {label} is not one of {len(source.class_names)} classes")
        return _Check(found)
    contents = None if isinstance(data, np.ndarray) else data
    kind = None if contents is None else format_of(contents)
    suffix = PurePath(name).suffix.lower()
    if kind and suffix in SUFFIXES and _SUFFIX_FORMATS.get(suffix, "JPEG") != kind:
        find("wrong suffix", f"its format is {kind}")
    try:
        image = read_image(data)
    except UnreadableImageError as error:
        find(*_failure(error, contents, kind))
        return _Check(found, label)
    height, width, _ = image.shape
    if min(height, width) < small:
        find("tiny", f"{width} x {height} pixels")
    if (image[0] == image[0, 0]).all() and (image == image[0]).all():
        find("constant", "all pixels are R={} G={} B={}".format(*image[0, 0]))
    pixels = _hash(f"{height} {width} ".encode(), image.data)
    if contents is None:
        return _Check(found, label, (pixels, pixels))
    if doubt := doubt_of(contents, image):
        find("suspicious", doubt)
    for trait, detail in traits_of(contents).items():
        find(trait, detail)
    return _Check(found, label, (_hash(contents), pixels))


#: Suffix -> format; all other suffixes are of JPEG.
_SUFFIX_FORMATS = {".png": "PNG", ".gif": "GIF", ".bmp": "BMP", ".webp": "WebP"}


def _hash(*contents: bytes | memoryview) -> bytes:
    """Return the first 16 bytes of SHA-256, which processors have instructions for."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.digest()[:16]


def _failure(error: UnreadableImageError, data: bytes | None, kind: str | None) -> tuple[str, str]:
    """Return the kind and the detail of the finding about an image that cannot be decoded."""
    reason = str(error).partition("the given bytes (")[2].removesuffix(")") or str(error)
    if data is None or kind is None:
        return "unreadable", reason.replace(
            "that is none of these", "its format is not one that can be read"
        )
    if "`max_pixels=" in reason:
        return "huge", reason
    return ("truncated", "its end is missing") if ends_early(data) else ("damaged", reason)


def _duplicates(
    sources: Sequence[Source],
    starts: Sequence[int],
    hashes: np.ndarray,
    labels: np.ndarray,
    decoded: np.ndarray,
) -> Iterator[Finding]:
    """Yield the findings about images that occur more than once."""
    names = sources[0].class_names

    def split_and_name(index: int) -> tuple[int, str]:
        split = int(np.searchsorted(starts, index, side="right")) - 1
        return split, sources[split].name_of(index - starts[split])

    (indices,) = np.nonzero(decoded)
    for column, (kind, content) in enumerate((("duplicate", "bytes"), ("same pixels", "pixels"))):
        _, firsts, groups = np.unique(
            hashes[indices, column], return_index=True, return_inverse=True
        )
        firsts = indices[firsts][groups]
        duplicates = np.flatnonzero(firsts != indices)
        for duplicate in duplicates[np.argsort(firsts[duplicates], kind="stable")]:
            first, index = int(firsts[duplicate]), int(indices[duplicate])
            (split, name), (first_split, first_name) = split_and_name(index), split_and_name(first)
            found = {}
            if split != first_split:
                found["leak"] = f", which is in {sources[first_split].name}"
            if labels[first] != labels[index]:
                pair = f"{names[labels[first]]!r} there, {names[labels[index]]!r} here"
                found["label conflict"] = f": {pair}"
            for special, more in (found or {kind: ""}).items():
                detail = f"same {content} as {first_name}{more}"
                yield Finding(special, KINDS[special], name, detail)
        # Images with the same bytes have the same pixels: compare the pixels of one of them only.
        indices = np.unique(firsts)
