"""A reader of the part of HDF5 that Keras writes, without the C library.

On damaged files, the C library crashes, loops endlessly or opens other files. This reader reads no
byte twice, so that the size of the file bounds time and memory. Reference: HDF5 File Format
Specification 3.0; superblock 0, object headers 1, symbol tables, contiguous arrays.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

#: HDF5's datatype messages -> NumPy dtypes, for the dtypes of Keras variables.
_TYPES: dict[bytes, Any] = {
    bytes.fromhex("11200f0002000000 00001000 0a05000a 0f000000"): "<f2",
    bytes.fromhex("11201f0004000000 00002000 17080017 7f000000"): "<f4",
    bytes.fromhex("11203f0008000000 00004000 340b0034 ff030000"): "<f8",
    bytes.fromhex("1500000002000000"): ml_dtypes.bfloat16,
    bytes.fromhex("1802000001000000 1008000001000000 00000800")
    + b"FALSE\0\0\0TRUE\0\0\0\0\0\1": "?",
} | {
    struct.pack("<BB2xI2xH", 0x10, 8 * (kind == "i"), size, 8 * size): f"<{kind}{size}"
    for kind in "iu"
    for size in (1, 2, 4, 8)
}
#: Types of header messages; `_PLACE` is the data layout, `_ELSEWHERE` external data files.
_SPACE, _TYPE, _FILL, _ELSEWHERE, _PLACE, _FILTERS, _ATTRIBUTE = 1, 3, 5, 7, 8, 11, 12
_MORE, _GROUP, _TIME = 16, 17, 18

#: Size and element type of variable-length strings.
_HEAPED = bytes.fromhex("10000000 1000000001000000 00000800")

#: Header messages, besides attributes, of arrays and of groups that Keras writes.
_WRITTEN = ({_SPACE, _TYPE, _FILL, _PLACE, _TIME}, {_GROUP})

#: Limits: characters of a name, and messages in all headers. Keras models have fewer.
_LONGEST_NAME, _MOST_MESSAGES = 256, 2**19


class Hdf5File:
    """Groups, attributes and arrays of an HDF5 file in memory.

    Attributes:
        objects: header of every group and array by path: type and content of its messages.
        members: names of the members of every group by path.
    """

    def __init__(self, content: bytes) -> None:
        self.content = memoryview(content)
        self.taken: list[tuple[int, int]] = []
        self.bytes_left, self.string_bytes_left = len(content), len(content)
        self.messages_left = _MOST_MESSAGES
        self.heaps: dict[int, dict[int, memoryview]] = {}
        self.objects: dict[str, list[tuple[int, memoryview]]] = {}
        self.members: dict[str, set[str]] = {}
        if content[:8] != b"\x89HDF\r\n\x1a\n":
            raise ValueError("no HDF5 file")
        version, sizes, trees, base, end, driver, root, known, cached = self.unpack(
            "<8xB4xHxI4xQ8xQQ8xQI4x16s", 0
        )
        usual = (version, sizes, trees, base, driver) == (0, 0x0808, 0x100004, 0, 2**64 - 1)
        if not usual or end > len(content):
            raise ValueError(
                "an HDF5 file that is truncated, or of a kind that Keras does not write"
            )
        found = [("", root, known, cached)]
        for path, address, known, cached in found:  # The list grows during the loop.
            self.objects[path] = list(self.messages(address))
            group = self.message(path, _GROUP)
            if known and cached != group:
                raise ValueError("an HDF5 file with a group that lies in two places")
            children = list(self.children(*struct.unpack_from("<QQ", group)) if group else ())
            found += [(f"{path}/{name}".lstrip("/"), *child) for name, child in children]
            self.members[path] = {name for name, _ in children}
            if len(path) > 4 * _LONGEST_NAME:
                raise ValueError("an HDF5 file with groups in groups in groups")
        if len(self.objects) < len(found):
            raise ValueError("an HDF5 file with two objects of the same name")

    def take(self, start: int, size: int) -> memoryview:
        """Return a part of the file; parts must not overlap, see `check_overlaps`."""
        self.bytes_left -= size
        if start + size > len(self.content) or self.bytes_left < 0:
            raise ValueError("an HDF5 file that is truncated or damaged")
        self.taken.append((start, start + size))
        return self.content[start : start + size]

    def unpack(self, layout: str, start: int) -> tuple[Any, ...]:
        return struct.unpack(layout, self.take(start, struct.calcsize(layout)))

    def check_overlaps(self) -> None:
        if any(start < end for (_, end), (start, _) in itertools.pairwise(sorted(self.taken))):
            raise ValueError("an HDF5 file whose parts overlap")

    def check(self, *, with_empty_lists: bool = False) -> None:
        """Raise ValueError if any part of the file is not as Keras writes it.

        Other files are safe to open with the C library: they contain no types, links or filters
        for it to interpret, and no wrong sizes.

        Args:
            with_empty_lists: whether to accept attributes that are empty lists of numbers. Whole
                models in `.h5` files have them for layers without weights, `.keras` files do not.
        """
        for path, messages in self.objects.items():
            kinds = sorted(kind for kind, _ in messages if kind != _ATTRIBUTE)
            fill = self.message(path, _FILL)
            known = any(kinds == sorted(written & set(kinds)) for written in _WRITTEN)
            if not known or (fill is not None and (fill[0] != 2 or any(fill[4:]))):
                raise ValueError(f"an HDF5 file with parts in {path!r} that Keras does not write")
            for _, form, space, data in self.attributes(path):
                if with_empty_lists and _type_of(form) and not math.prod(_dimensions(space)):
                    continue
                if form[0] & 15 not in (3, 9) or not list(self.texts(form, space, data)):
                    raise ValueError(f"an HDF5 file with an attribute of {path!r} that is no text")
            if kinds and _GROUP not in kinds:
                self.array(path)
        self.check_overlaps()

    def messages(self, address: int) -> Iterator[tuple[int, memoryview]]:
        version, count, size = self.unpack("<BxH4xI4x", address)
        self.messages_left -= count
        if version != 1 or self.messages_left < 0:
            raise ValueError("an HDF5 file of a kind that Keras does not write")
        blocks = [self.take(address + 16, size)]
        for block in blocks:
            rest = block
            while len(rest) >= 8 and count:
                kind, length, shared = struct.unpack_from("<HHB", rest)
                body, rest, count = rest[8 : 8 + length], rest[8 + length :], count - 1
                if len(body) < length or shared & 2 or kind in (2, 6):  # Links to other files.
                    raise ValueError("an HDF5 file with a damaged header, or with links")
                if kind == _MORE:
                    blocks.append(self.take(*struct.unpack_from("<QQ", body)))
                elif kind:
                    yield kind, body
        if count:
            raise ValueError("an HDF5 file that lacks part of a header")

    def children(self, tree: int, heap: int) -> Iterator[tuple[str, tuple[int, int, bytes]]]:
        """Yield name, address, link type and cached symbol table of each member of a group."""
        signature, size, start = self.unpack("<4s4xQ8xQ", heap)
        names = bytes(self.take(start, size))
        nodes: list[tuple[int, int | None]] = [(tree, None)]
        for address, level in nodes:
            kind, own, used = self.unpack("<5sBH16x", address)
            if signature != b"HEAP" or kind != b"TREE\0" or level not in (None, own) or used > 32:
                raise ValueError("an HDF5 file with a damaged group")
            below = self.unpack(f"<{2 * used}Q", address + 24)[1::2]
            nodes += [(child, own - 1) for child in below if own]
            for child in below if not own else ():
                kind, count = self.unpack("<4s2xH", child)
                entries = self.take(child + 8, 40 * count)
                for offset, target, link, cached in struct.iter_unpack("<QQI4x16s", entries):
                    stop = names.find(b"\0", offset, offset + _LONGEST_NAME)
                    if kind != b"SNOD" or count > 8 or link > 1 or stop <= offset:
                        raise ValueError("an HDF5 file with a damaged group, or with links")
                    yield names[offset:stop].decode(), (target, link, cached)

    def message(self, path: str, kind: int) -> memoryview | None:
        return next((body for own, body in self.objects.get(path, ()) if own == kind), None)

    def shape(self, path: str) -> tuple[int, ...]:
        space = self.message(path, _SPACE)
        if space is None or space[0] != 1:
            raise ValueError(f"an HDF5 file without the array {path}")
        return _dimensions(space)

    def array(self, path: str) -> np.ndarray:
        shape, kind, place = self.shape(path), self.message(path, _TYPE), self.message(path, _PLACE)
        elsewhere = self.message(path, _ELSEWHERE) or self.message(path, _FILTERS)
        if elsewhere or kind is None or place is None or bytes(place[:2]) != b"\3\1":
            raise ValueError(
                f"{path} is compressed, in chunks or elsewhere; Keras writes it plainly"
            )
        types = _type_of(kind)
        address, size = struct.unpack_from("<QQ", place, 2)
        if not types or size != math.prod(shape) * np.dtype(types[0]).itemsize:
            raise ValueError(f"{path} is not made of numbers, or of too few for its shape {shape}")
        return np.frombuffer(self.take(address, size) if size else b"", types[0]).reshape(shape)

    def strings(self, path: str, name: str) -> list[str] | None:
        """Return the strings of an attribute; `None` if there is no such attribute."""
        for own, *value in self.attributes(path):
            if bytes(own).rstrip(b"\0") == name.encode():
                return [text.decode() for text in self.texts(*value)]
        return None

    def attributes(self, path: str) -> Iterator[list[memoryview]]:
        """Yield name, type, dimensions and content of each attribute."""
        for _, body in (item for item in self.objects.get(path, ()) if item[0] == _ATTRIBUTE):
            parts, start = [], 9 if body[0] == 3 else 8
            for size in struct.unpack_from("<HHH", body, 2):
                parts.append(body[start : start + size])
                start += -(-size // 8) * 8 if body[0] == 1 else size
            yield [*parts, body[start:]]

    def texts(self, form: memoryview, space: memoryview, data: memoryview) -> Iterator[bytes]:
        count, (kind, size) = math.prod(_dimensions(space)), struct.unpack_from("<H2xI", form)
        # Fixed-length strings; references to variable-length strings.
        fixed, heaped = kind & 15 == 3, kind & 0xF0F == 0x109 and form[4:20] == _HEAPED
        if count and (not (fixed or heaped) or not 0 < count * size <= len(data)):
            raise ValueError("an HDF5 file with a damaged attribute")
        for start in range(0, count * size, size or 1):
            text = bytes(data[start : start + size])
            yield (text if fixed else self.heap_object(*struct.unpack("<IQI", text))).rstrip(b"\0")

    def heap_object(self, length: int, address: int, index: int) -> bytes:
        if address not in self.heaps:
            objects = self.heaps[address] = {}
            signature, size = self.unpack("<4s4xQ", address)
            rest = self.take(address + 16, size - 16)
            while len(rest) >= 16 and any(rest[:2]) and signature == b"GCOL":
                number, own = struct.unpack_from("<H6xQ", rest)  # The number 0 is free space.
                objects[number] = rest[16 : 16 + own]
                rest = rest[16 + -(-own // 8) * 8 :]
        text = self.heaps[address].get(index, b"")
        self.string_bytes_left -= length
        if len(text) < length or self.string_bytes_left < 0:
            raise ValueError("an HDF5 file with damaged strings")
        return bytes(text[:length])


def _type_of(form: memoryview) -> list[Any]:
    """Return the NumPy dtype of a datatype message, in a list that is empty for other types."""
    return [known for written, known in _TYPES.items() if form[: len(written)] == written]


def _dimensions(space: memoryview) -> tuple[int, ...]:
    version, rank, _, kind = struct.unpack_from("<4B", space)
    if version not in (1, 2) or (version == 2 and kind == 2):
        return (0,)
    return struct.unpack_from(f"<{rank}Q", space, 8 if version == 1 else 4)
