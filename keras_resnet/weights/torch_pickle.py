"""Reads the tensors of a torch checkpoint (`.pth`, `.pt`, `.bin`, `.th`, `.tar`), without torch.

A pickle is a program. This one may put together dicts, lists and tensors, and nothing else: what it
asks for by name comes from a short list of harmless stand-ins, never from an import. Both formats
are read: the zip archives of torch 1.6 and later, and the sequence of pickles before.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

#: Far above that of the largest ResNet, with an optimizer's state.
_LARGEST_PICKLE = 64 * 2**20

#: torch's storage classes and how their elements are stored. Bfloat16 is the upper half of float32.
_STORAGES: Mapping[str, str] = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}

#: What checkpoints hold besides tensors: arguments of the run, its best accuracy, its device.
_IGNORED = {
    ("argparse", "Namespace"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch", "dtype"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}


def is_torch_file(path: Path) -> bool:
    """Whether the file starts as torch's checkpoints do: as a zip archive or a pickle."""
    with path.open("rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or start[:1] == b"\x80"


def read_torch(path: Path) -> Any:
    """What the file holds: dicts and lists of arrays, numbers and strings.

    Objects other than tensors come as opaque stand-ins.

    Raises:
        ValueError: the file is damaged, or wants something that no checkpoint needs.
    """
    if zipfile.is_zipfile(path):
        return _read_archive(path)
    with path.open("rb") as file:
        return _read_legacy(file)


def _read_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError("an archive without the one `data.pkl` of torch's checkpoints")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            # torch never compresses; and a few bytes cannot unfold to gigabytes.
            raise ValueError("a compressed archive, which torch does not write")
        if entries[pickles[0]].file_size > _LARGEST_PICKLE:
            raise ValueError("a checkpoint whose list of tensors alone takes more than 64 MiB")
        root = pickles[0].removesuffix("data.pkl")
        order = entries.get(f"{root}byteorder")
        if order is not None and archive.read(order).strip() != b"little":
            raise ValueError("a checkpoint in big-endian byte order")

        def read(key: str) -> bytes:
            return archive.read(f"{root}data/{key}")

        loaded = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
        return _filled(loaded, read)


def _read_legacy(file: BinaryIO) -> Any:
    unpickler = _Unpickler(file)
    if unpickler.load() != _LEGACY_MAGIC:
        raise ValueError("a pickle that torch has not written")
    for _ in ("protocol", "system"):
        _Unpickler(file).load()
    unpickler = _Unpickler(file)
    loaded = unpickler.load()
    keys = _Unpickler(file).load()
    contents: dict[str, bytes] = {}
    for key in keys:
        # Behind the pickles, each storage with the number of its elements before it.
        storage = unpickler.storages[str(key)]
        count = int.from_bytes(file.read(8), "little")
        if count != storage.count:
            raise ValueError(f"a truncated checkpoint: storage {key} is not there")
        contents[str(key)] = file.read(count * storage.item_size)
    return _filled(loaded, contents.__getitem__)


class _Storage:
    """A run of numbers that tensors are views of."""

    __slots__ = ("count", "dtype", "key")

    def __init__(self, key: str, dtype: str, count: int) -> None:
        self.key, self.dtype, self.count = key, dtype, count

    @property
    def item_size(self) -> int:
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize

    def array(self, content: bytes) -> np.ndarray:
        if len(content) != self.count * self.item_size:
            raise ValueError(
                f"a truncated checkpoint: storage {self.key} has {len(content)} of "
                f"{self.count * self.item_size} bytes"
            )
        if self.dtype == "bfloat16":
            upper = np.frombuffer(content, "<u2").astype("<u4") << 16
            return upper.view("<f4")
        return np.frombuffer(content, self.dtype)


class _Tensor:
    """A view of a storage."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any) -> None:
        whole = all(type(n) is int and n >= 0 for n in (offset, *shape, *strides))
        if not isinstance(storage, _Storage) or not whole or len(shape) != len(strides):
            raise ValueError("a tensor that torch could not have written")
        last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        count = math.prod(shape)
        if count and (last >= storage.count or count > storage.count):
            raise ValueError(f"a tensor of shape {tuple(shape)} that is larger than its storage")
        self.storage, self.offset = storage, offset
        self.shape, self.strides = tuple(shape), tuple(strides)

    def array(self, numbers: np.ndarray) -> np.ndarray:
        if not math.prod(self.shape):
            return np.zeros(self.shape, numbers.dtype)
        steps = tuple(step * numbers.itemsize for step in self.strides)
        view = np.lib.stride_tricks.as_strided(
            numbers[self.offset :], self.shape, steps, writeable=False
        )
        return np.ascontiguousarray(view)


class _Function:
    """What stands in for a class or function; nothing that a pickle says can change it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)


_FUNCTIONS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): lambda: {},
    ("torch._utils", "_rebuild_tensor"): _Tensor,
    ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: _Tensor(*arguments[:4]),
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
}


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """Python's own unpickler, in Python: the one in C reserves what memory a pickle claims."""

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="latin1")  # Python 2 wrote some of them.
        self.storages: dict[str, _Storage] = {}

        class Ignored:
            """New for every file, so that no file can leave anything behind."""

            def __new__(cls, *arguments: Any, **keywords: Any) -> Any:
                return super().__new__(cls)

            def __init__(self, *arguments: Any, **keywords: Any) -> None: ...

        self._ignored = Ignored

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _FUNCTIONS:
            return _Function(_FUNCTIONS[module, name])
        if module == "torch" and name in _STORAGES:
            return name
        if (module, name) in _IGNORED:
            return self._ignored
        raise ValueError(
            f"a pickle that asks for `{module}.{name}`, which tensors do not need; it was not run"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, count = pid[:5]
        valid = kind == "storage" and type(key) is str and type(count) is int and count >= 0
        if not valid or (len(pid) > 5 and pid[5] is not None):
            raise ValueError("a reference to data that torch does not write any more")
        storage = self.storages.setdefault(key, _Storage(key, _STORAGES[storage_type], count))
        if (storage.dtype, storage.count) != (_STORAGES[storage_type], count):
            raise ValueError(f"a checkpoint that describes storage {key} twice, differently")
        return storage

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._assign([(key, value)])

    def _set_items(self) -> None:
        items = self.pop_mark()
        self._assign(list(zip(items[::2], items[1::2], strict=True)))

    def _assign(self, items: list[tuple[Any, Any]]) -> None:
        if not isinstance(self.stack[-1], dict):
            return
        for key, value in items:
            # Hashing a tuple of tuples of tuples … overflows the stack of the interpreter.
            if not isinstance(key, (str, int)):
                raise ValueError("a checkpoint with keys that are neither strings nor integers")
            self.stack[-1][key] = value

    def _ignore_state(self) -> None:
        # Attributes of objects, such as the versions of modules on a state dict: nothing we need.
        self.stack.pop()

    dispatch[pickle.BUILD[0]] = _ignore_state
    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.SETITEMS[0]] = _set_items
    for _opcode in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.DICT):
        dispatch.pop(_opcode[0], None)


def _filled(loaded: Any, read: Callable[[str], bytes]) -> Any:
    """Replaces the tensors in dicts and lists by arrays."""
    numbers: dict[str, np.ndarray] = {}
    seen: set[int] = set()

    def fill(value: Any, depth: int) -> Any:
        if isinstance(value, _Tensor):
            key = value.storage.key
            if key not in numbers:
                numbers[key] = value.storage.array(read(key))
            return value.array(numbers[key])
        if depth == 0 or not isinstance(value, (dict, list)) or id(value) in seen:
            return value
        seen.add(id(value))
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in list(items):
            value[key] = fill(item, depth - 1)
        return value

    return fill(loaded, 8)
