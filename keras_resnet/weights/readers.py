"""Files of weights of every format, read into arrays by key.

Nothing in a file is ever run, and no size that it claims is believed: what does not fit into the
file is refused before memory is reserved.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from keras_resnet.weights.torch_pickle import checked_members, is_torch_file, read_torch, unwrapped

_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".th", ".tar", ".ckpt")
_HDF5_SUFFIXES = (".h5", ".hdf5")
SUFFIXES = (".keras", *_HDF5_SUFFIXES, ".safetensors", ".npz", *_TORCH_SUFFIXES)

_deserialize: Any = safetensors.deserialize
_SAFETENSORS_TYPES = {"BOOL": "?"} | {
    f"{kind.upper()}{8 * size}": f"<{kind}{size}" for kind in "fiu" for size in (1, 2, 4, 8)
}

#: HDF5's descriptions of the numbers that weights, and the state of random generators, are.
_HDF5_TYPES = {
    bytes.fromhex("11200f0002000000 00001000 0a05000a 0f000000"): "<f2",
    bytes.fromhex("11201f0004000000 00002000 17080017 7f000000"): "<f4",
    bytes.fromhex("11203f0008000000 00004000 340b0034 ff030000"): "<f8",
    bytes.fromhex("1000000004000000 00002000"): "<u4",
}
#: Its messages that matter here: what an array or a group is, and what it is called.
_SPACE, _TYPE, _ELSEWHERE, _PLACE, _FILTERS, _ATTRIBUTE, _MORE, _GROUP = 1, 3, 7, 8, 11, 12, 16, 17

#: A key and its array.
_Item = tuple[str, np.ndarray]

#: More than any ResNet has: characters of a key, bytes that list tensors, parts of HDF5 headers.
_LONGEST_KEY, _LONGEST_LIST, _MOST_PARTS = 256, 2**24, 2**20

#: What Keras has called the weights of a layer over the years, in HDF5 files.
_KERAS_ROLES = {
    "W": "kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    # Keras 1 said deviation, and meant the variance.
    "running_std": "moving_variance",
    "running_variance": "moving_variance",
}


@dataclass
class Arrays:
    """The contents of a file.

    Attributes:
        values: array by key; a layer's name, a dot, and which of its weights it is.
        metadata: what else the file says, in words.
        notes: what was decided on the way, for the report.
        layers: names of all layers of a Keras model, also of those without weights.
    """

    values: dict[str, np.ndarray]
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    layers: frozenset[str] = frozenset()


def read_arrays(path: str | os.PathLike[str]) -> Arrays:
    """Reads a `.safetensors`, torch, `.h5`, `.keras` or `.npz` file.

    Raises:
        ValueError: there is no such file, or it is damaged, or holds no weights.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        raise ValueError(
            f"Expected the path of an existing file of weights ({', '.join(SUFFIXES)}). "
            f"Received: {path}"
        )
    try:
        arrays = _read(path)
        if not arrays.values:
            raise ValueError("no weights in it")
        for key in arrays.values:
            if len(key) > _LONGEST_KEY or not key.isprintable():
                raise ValueError(f"a name that no layer has: {key}")
    except Exception as error:
        # Each library, and each kind of damage, has errors of its own.
        reason = str(error) if isinstance(error, ValueError) else f"damaged or too large: {error!r}"
        # What comes from the file may be long, and made to confuse a terminal.
        reason = "".join(char if char.isprintable() else " " for char in reason[:400])
        raise ValueError(
            f"Expected a file of weights that can be read. Received: {path}: {reason}"
        ) from error
    return arrays


def _read(path: Path) -> Arrays:
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix == ".npz":
        return _read_npz(path)
    if suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            checked_members(archive)
            return _read_hdf5(archive.read("model.weights.h5"))
    if suffix in _HDF5_SUFFIXES:
        return _read_hdf5(path.read_bytes())
    if not is_torch_file(path):
        raise ValueError("neither a zip archive nor a pickle, as torch writes them")
    values, notes = unwrapped(read_torch(path))
    if sum(value.nbytes for value in values.values()) > 16 * path.stat().st_size:
        raise ValueError("the same tensors under many names")
    return Arrays(values, notes=notes)


def _read_safetensors(path: Path) -> Arrays:
    values = {}
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if length > _LONGEST_LIST:
        raise ValueError(f"a list of tensors of {length} bytes")
    for key, tensor in _deserialize(content):
        kind, data = tensor["dtype"], tensor["data"]
        if kind == "BF16":
            # Numpy lacks it; it is the upper half of float32.
            array = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        elif kind in _SAFETENSORS_TYPES:
            array = np.frombuffer(data, _SAFETENSORS_TYPES[kind])
        else:
            raise ValueError(f"{key} is of type {kind}, which weights of a ResNet do not have")
        values[key] = array.reshape(tensor["shape"])
    header = json.loads(content[8 : 8 + length])
    values, notes = unwrapped(values)
    return Arrays(values, header.get("__metadata__") or {}, notes)


def _read_npz(path: Path) -> Arrays:
    with zipfile.ZipFile(path) as archive:
        members = checked_members(archive)
        return Arrays(
            _collected(
                (_keras_key(name.removesuffix(".npy")), _npy_array(archive.read(member)))
                for name, member in members.items()
            )
        )


def _npy_array(content: bytes) -> np.ndarray:
    # `np.load` would first reserve the memory that the header claims.
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array with a header that is longer than those of numbers")
    shape, columns_first, dtype = np.lib.format.read_array_header_1_0(file)
    data = memoryview(content)[file.tell() :]
    if dtype.kind not in "biuf" or len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of {dtype} of the shape {shape} in {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if columns_first else "C")


def _collected(items: Iterable[_Item]) -> dict[str, np.ndarray]:
    values: dict[str, np.ndarray] = {}
    for key, array in items:
        if key in values:
            raise ValueError(f"{key} is there twice")
        values[key] = array
    return values


def _read_hdf5(content: bytes) -> Arrays:
    file = _Hdf5(content)
    groups = {
        path: file.strings(path, "name") or []
        for path in file.objects
        if path.startswith("layers/") and path.endswith("/vars")  # Not those of the optimizer.
    }
    values, layers = _collected(_keras3_weights(file, groups)), [*itertools.chain(*groups.values())]
    if not values:
        root = "model_weights" if "model_weights" in file.objects else ""
        layers = list(_listed(file, root, "layer_names"))
        values = _collected(_legacy_weights(file, root, layers))
    file.check_overlaps()
    return Arrays(values, layers=frozenset(layers))


def _keras3_weights(file: _Hdf5, groups: Mapping[str, list[str]]) -> Iterator[_Item]:
    """What `model.save_weights("….weights.h5")` writes: groups `vars` that carry layers' names."""
    for group, names in groups.items():
        count = len(file.inside[group])
        if not names or not count:
            continue
        if len(names) > 1 or file.inside[group] != set(map(str, range(count))):
            raise ValueError(f"an HDF5 file with a damaged {group}")
        norm = len(file.shape(f"{group}/0")) == 1
        roles = ("gamma", "beta", "moving_mean", "moving_variance") if norm else ("kernel", "bias")
        # Layers with more are none of a ResNet.
        for number, role in enumerate(roles[:count] if count <= len(roles) else ()):
            yield f"{names[0]}.{role}", file.array(f"{group}/{number}")


def _legacy_weights(file: _Hdf5, root: str, layers: list[str]) -> Iterator[_Item]:
    """What Keras wrote before: groups by layer, each with the list of its weights' names."""
    for layer in layers:
        group = f"{root}/{layer}".lstrip("/")
        for name in _listed(file, group, "weight_names"):
            parts = name.split("/")
            # Inside a nested model, the name of the layer comes before that of the weight.
            owner = parts[-2] if len(parts) > 1 else layer
            yield _keras_key(f"{owner}/{parts[-1]}"), file.array(f"{group}/{name}")


def _listed(file: _Hdf5, path: str, name: str) -> Iterator[str]:
    """An attribute that Keras splits where it is long: `layer_names0`, `layer_names1`, …"""
    whole = file.strings(path, name)
    yield from whole or ()
    number = 0
    while whole is None and (part := file.strings(path, f"{name}{number}")) is not None:
        yield from part
        number += 1


def _keras_key(key: str) -> str:
    """`res2a_branch2a/res2a_branch2a_W_1:0` -> `res2a_branch2a.kernel`."""
    layer, _, weight = re.sub(r":\d+$", "", key).replace("/", ".").rpartition(".")
    weight = weight.removeprefix(f"{layer.rpartition('.')[2]}_")
    weight = re.sub(r"_\d+$", "", weight)
    return f"{layer}.{_KERAS_ROLES.get(weight, weight)}"


class _Hdf5:
    """The part of HDF5 that Keras writes, read without the library in C.

    That one follows what a damaged file says, into crashes, endless loops and other files. Here, no
    byte belongs to two parts, so that the size of the file bounds time and memory. Source: HDF5
    File Format Specification 3.0; superblock 0, object headers 1, symbol tables, contiguous arrays.

    Attributes:
        objects: by path, the header of every group and array: kind and content of its messages.
        inside: by path of a group, what is in it.
    """

    def __init__(self, content: bytes) -> None:
        self.content = memoryview(content)
        self.taken: list[tuple[int, int]] = []
        self.left, self.left_to_say = len(content), len(content)
        self.heaps: dict[int, dict[int, memoryview]] = {}
        self.objects: dict[str, list[tuple[int, memoryview]]] = {}
        self.inside: dict[str, set[str]] = {}
        if content[:8] != b"\x89HDF\r\n\x1a\n":
            raise ValueError("no HDF5 file")
        version, sizes, base, end, root = self.unpack("<8xB4xH9xQ8xQ16xQ24x", 0)
        if version or sizes != 0x0808 or base or end > len(content):
            raise ValueError(
                "an HDF5 file that is truncated, or of a kind that Keras does not write"
            )
        found = [("", root)]
        for path, address in found:  # It grows on the way.
            self.objects[path] = list(self.messages(address))
            group = self.message(path, _GROUP)
            children = list(self.children(*struct.unpack_from("<QQ", group)) if group else ())
            found += [(f"{path}/{name}".lstrip("/"), child) for name, child in children]
            self.inside[path] = {name for name, _ in children}
            if len(path) > 4 * _LONGEST_KEY:
                raise ValueError("an HDF5 file with groups in groups in groups")
        if len(self.objects) < len(found):
            raise ValueError("an HDF5 file with two objects of the same name")

    def take(self, start: int, size: int) -> memoryview:
        """A part of the file, which no other part may share."""
        self.left -= size
        if start + size > len(self.content) or self.left < 0:
            raise ValueError("an HDF5 file that is truncated or damaged")
        self.taken.append((start, start + size))
        return self.content[start : start + size]

    def unpack(self, layout: str, start: int) -> tuple[Any, ...]:
        return struct.unpack(layout, self.take(start, struct.calcsize(layout)))

    def check_overlaps(self) -> None:
        if any(start < end for (_, end), (start, _) in itertools.pairwise(sorted(self.taken))):
            raise ValueError("an HDF5 file whose parts overlap")

    def messages(self, address: int) -> Iterator[tuple[int, memoryview]]:
        version, count, size = self.unpack("<BxH4xI4x", address)
        if version != 1 or len(self.taken) + count > _MOST_PARTS:
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

    def children(self, tree: int, heap: int) -> Iterator[tuple[str, int]]:
        """Names and addresses of what is in a group."""
        signature, size, start = self.unpack("<4s4xQ8xQ", heap)
        names = bytes(self.take(start, size))
        nodes: list[tuple[int, int | None]] = [(tree, None)]
        for address, level in nodes:
            kind, own, used = self.unpack("<5sBH16x", address)
            if signature != b"HEAP" or kind != b"TREE\0" or level not in (None, own):
                raise ValueError("an HDF5 file with a damaged group")
            below = self.unpack(f"<{2 * used}Q", address + 24)[1::2]
            nodes += [(child, own - 1) for child in below if own]
            for child in below if not own else ():
                kind, count = self.unpack("<4s2xH", child)
                entries = self.take(child + 8, 40 * count)
                for offset, target, link in struct.iter_unpack("<QQI20x", entries):
                    stop = names.find(b"\0", offset, offset + _LONGEST_KEY)
                    if kind != b"SNOD" or link > 1 or stop <= offset:
                        raise ValueError("an HDF5 file with a damaged group, or with links")
                    yield names[offset:stop].decode(), target

    def message(self, path: str, kind: int) -> memoryview | None:
        return next((body for own, body in self.objects.get(path, ()) if own == kind), None)

    def shape(self, path: str) -> tuple[int, ...]:
        space = self.message(path, _SPACE)
        if space is None:
            raise ValueError(f"an HDF5 file without the array {path}")
        return _dimensions(space)

    def array(self, path: str) -> np.ndarray:
        shape, kind, place = self.shape(path), self.message(path, _TYPE), self.message(path, _PLACE)
        elsewhere = self.message(path, _ELSEWHERE) or self.message(path, _FILTERS)
        if elsewhere or kind is None or place is None or bytes(place[:2]) != b"\3\1":
            raise ValueError(
                f"{path} is compressed, in chunks or elsewhere; Keras writes it plainly"
            )
        types = [t for known, t in _HDF5_TYPES.items() if kind[: len(known)] == known]
        address, size = struct.unpack_from("<QQ", place, 2)
        if not types or size != math.prod(shape) * np.dtype(types[0]).itemsize:
            raise ValueError(f"{path} is not made of numbers, or of too few for its shape {shape}")
        return np.frombuffer(self.take(address, size), types[0]).reshape(shape)

    def strings(self, path: str, name: str) -> list[str] | None:
        """Value of an attribute; `None` if there is none of that name."""
        for _, body in (item for item in self.objects.get(path, ()) if item[0] == _ATTRIBUTE):
            parts, start = [], 9 if body[0] == 3 else 8
            for size in struct.unpack_from("<HHH", body, 2):
                parts.append(body[start : start + size])
                start += -(-size // 8) * 8 if body[0] == 1 else size
            own, form, space = parts
            if bytes(own).rstrip(b"\0") == name.encode():
                return [text.decode() for text in self.texts(form, space, body[start:])]
        return None

    def texts(self, form: memoryview, space: memoryview, data: memoryview) -> Iterator[bytes]:
        count, (kind, size) = math.prod(_dimensions(space)), struct.unpack_from("<H2xI", form)
        # Strings of one length; references to strings of any length.
        fixed, heaped = kind & 15 == 3, kind & 0xF0F == 0x109 and size == 16
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
        self.left_to_say -= length
        if len(text) < length or self.left_to_say < 0:
            raise ValueError("an HDF5 file with damaged strings")
        return bytes(text[:length])


def _dimensions(space: memoryview) -> tuple[int, ...]:
    version, rank, _, kind = struct.unpack_from("<4B", space)
    if version not in (1, 2) or (version == 2 and kind == 2):
        return (0,)
    return struct.unpack_from(f"<{rank}Q", space, 8 if version == 1 else 4)
