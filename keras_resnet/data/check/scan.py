"""Finds what is wrong with a data set before training does: bad files, doubles, leaks."""

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
    # No image comes out.
    "error": ("unreadable", "truncated", "damaged", "huge"),
    # One does, but probably not the one that was meant, or not where.
    "warning": (
        *("leak", "label conflict", "duplicate", "same pixels"),
        *("wrong suffix", "suspicious", "tiny", "constant"),
    ),
    # Reading changes something.
    "note": ("cmyk", "16-bit", "rotated", "palette", "alpha", "animated"),
}
#: What can be found, in the order of reports, and how bad it is.
KINDS = {kind: severity for severity, kinds in _KINDS.items() for kind in kinds}

#: Images that a thread checks in one go.
_CHUNK = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one image.

    Attributes:
        kind: a key of `KINDS`.
        severity: the value there.
        name: the image, as its source calls it.
        detail: what there is, in words.
    """

    kind: str
    severity: Severity
    name: str
    detail: str


@dataclass(frozen=True)
class ScanReport:
    """Contents and faults of a data set.

    Attributes:
        sources: name and number of images of each part.
        classes: name of each class -> its images in each part, without those whose label could not
            be read.
        findings: in the order of `KINDS`; of one kind in the order of the images, or for doubles in
            that of the images that they double.
    """

    sources: tuple[tuple[str, int], ...]
    classes: Mapping[str, tuple[int, ...]]
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Findings per kind, of the kinds that there are."""
        found = collections.Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    @property
    def images(self) -> int:
        """Images in all parts."""
        return sum(count for _, count in self.sources)

    @property
    def errors(self) -> int:
        """Images that cannot be read."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def bad_fraction(self) -> float:
        """Share of the images that cannot be read, 0 to 1: what `max_bad_fraction` bounds."""
        return self.errors / self.images if self.images else 0.0

    @property
    def extremes(self) -> tuple[str, str]:
        """The classes with the most and with the fewest images of the first part."""
        by_count = sorted(self.classes, key=lambda name: self.classes[name][0])
        return by_count[-1], by_count[0]

    @property
    def imbalance(self) -> float | None:
        """Images of the largest class per image of the smallest; None if the smallest has none."""
        most, least = (self.classes[name][0] for name in self.extremes)
        return most / least if least else None

    def to_dict(self) -> dict[str, Any]:
        """Everything in it, as JSON takes it."""
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
    """Reads and decodes every image of a data set and lists what is wrong or unusual.

    Nothing stays in memory but 36 bytes per image and the findings. Doubles have the same bytes, or
    other bytes and the same pixels; each is reported once, against the first image that it doubles:
    as a leak if that is in another part, as a label conflict if it is of another class (both may be
    so), else as a duplicate. Resized or re-encoded copies are not found.

    JPEG decoders put up with damaged data; `doubt_of` says what of that is found.

    Args:
        sources: parts of one data set with the same classes, training first.
        small: images with a side of fewer pixels are reported as tiny.
        workers: threads; by default one per processor.
        progress: is told what is being done and which share is done, at most 100 times.

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
    # Threads are enough: reading, decoding and hashing leave Python's lock alone. (Two of them on
    # two cores check 1.4 to 1.8 times as many JPEGs as one; two processes were no faster.)
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
    found += _doubles(sources, starts, hashes, labels, decoded)
    order = {kind: number for number, kind in enumerate(KINDS)}
    found.sort(key=lambda finding: order[finding.kind])
    names = sources[0].class_names
    parts = [labels[start:end] for start, end in itertools.pairwise(starts)]
    counts = [np.bincount(part[part >= 0], minlength=len(names)).tolist() for part in parts]
    return ScanReport(
        tuple((source.name, len(source)) for source in sources),
        dict(zip(names, zip(*counts, strict=True), strict=True)),
        tuple(found),
    )


class _Check(NamedTuple):
    """The result for one image: findings, its label or -1, and, if it decodes, hashes."""

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
        find("unreadable", f"its label {label} is none of the {len(source.class_names)} classes")
        return _Check(found)
    contents = None if isinstance(data, np.ndarray) else data
    kind = None if contents is None else format_of(contents)
    suffix = PurePath(name).suffix.lower()
    if kind and suffix in SUFFIXES and _SUFFIX_FORMATS.get(suffix, "JPEG") != kind:
        find("wrong suffix", f"it is a {kind}")
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


#: JPEG has all others.
_SUFFIX_FORMATS = {".png": "PNG", ".gif": "GIF", ".bmp": "BMP", ".webp": "WebP"}


def _hash(*parts: bytes | memoryview) -> bytes:
    """16 bytes of SHA-256, for which processors have instructions."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()[:16]


def _failure(error: UnreadableImageError, data: bytes | None, kind: str | None) -> tuple[str, str]:
    reason = str(error).partition("the given bytes (")[2].removesuffix(")") or str(error)
    if data is None or kind is None:
        return "unreadable", reason.replace("that is none of these", "it is of no format we read")
    if "`max_pixels=" in reason:
        return "huge", reason
    return ("truncated", "its end is missing") if ends_early(data) else ("damaged", reason)


def _doubles(
    sources: Sequence[Source],
    starts: Sequence[int],
    hashes: np.ndarray,
    labels: np.ndarray,
    decoded: np.ndarray,
) -> Iterator[Finding]:
    """Findings about images that are there more than once."""
    names = sources[0].class_names

    def place_of(index: int) -> tuple[int, str]:
        part = int(np.searchsorted(starts, index, side="right")) - 1
        return part, sources[part].name_of(index - starts[part])

    (indices,) = np.nonzero(decoded)
    for column, (kind, what) in enumerate((("duplicate", "bytes"), ("same pixels", "pixels"))):
        own = hashes[indices, column]
        _, firsts, groups = np.unique(own, return_index=True, return_inverse=True)
        firsts = indices[firsts][groups]
        doubles = np.flatnonzero(firsts != indices)
        for double in doubles[np.argsort(firsts[doubles], kind="stable")]:
            first, index = int(firsts[double]), int(indices[double])
            (part, name), (first_part, first_name) = place_of(index), place_of(first)
            found = {}
            if part != first_part:
                found["leak"] = f", which is in {sources[first_part].name}"
            if labels[first] != labels[index]:
                pair = f"{names[labels[first]]!r} there, {names[labels[index]]!r} here"
                found["label conflict"] = f": {pair}"
            for special, more in (found or {kind: ""}).items():
                detail = f"same {what} as {first_name}{more}"
                yield Finding(special, KINDS[special], name, detail)
        # Copies of the bytes are copies of the pixels, too: one of each goes on.
        indices = np.unique(firsts)
