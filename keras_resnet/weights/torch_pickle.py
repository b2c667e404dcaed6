"""Reading of tensors from torch checkpoints (`.pth`, `.pt`, `.bin`, `.th`, `.tar`), without torch.

A pickle is a program. Here it can only build dicts, lists and tensors: names in it are looked up in
a short list of harmless functions, and nothing is imported. Supported are the zip archives of torch
1.6 and later, the older sequences of pickles, and the tensors of TorchScript archives.

Claimed sizes are compared with the size of the file before memory is allocated.
"""

from __future__ import annotations

import io
import math
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import ml_dtypes
import numpy as np

from keras_resnet.models.archive import opened_archive

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

#: Limits of a pickle: bytes, and reads of instructions and arguments; several times those of
#: ResNet-1202 with an optimizer's state. Objects take up to 70 times the memory of their pickle.
_LARGEST_PICKLE, _MOST_READS = 16 * 2**20, 2**21

#: Limits: axes of an array or arguments of a function, and depth of nested dicts.
_MOST, _DEEPEST = 16, 50

#: Instructions in checkpoints. None allocates memory for bytes that are not in the file.
_OPCODES = (
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT "
    "SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINSTRING BINSTRING SHORT_BINBYTES BINBYTES "
    "BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT "
    "BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL BINPERSID"
)

#: torch's storage classes -> dtypes of their elements.
_STORAGES: Mapping[str, Any] = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}

#: Other classes in checkpoints: arguments of a training run, its best accuracy, its device.
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


class Module(dict[str, Any]):
    """A module of a TorchScript archive: its tensors and modules by attribute name."""


def read_torch(path: Path) -> Any:
    """Return the content of a file: dicts and lists of arrays, numbers and strings.

    TorchScript modules are returned as `Module`, other objects as `object()`.

    Raises:
        ValueError: the file is damaged, or asks for anything that no checkpoint needs.
    """
    with path.open("rb") as file:
        start = file.read(4)
        if start == b"PK\x03\x04":
            return _read_archive(path)
        if start[:1] == b"\x80":
            return _read_legacy(file)
    raise ValueError("neither a zip archive nor a pickle, as torch writes them")


def _read_archive(path: Path) -> Any:
    with opened_archive(path) as archive:
        entries = archive.members
        pickles = [name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError("an archive without the single `data.pkl` of torch's checkpoints")
        if entries[pickles[0]].file_size > _LARGEST_PICKLE:
            raise ValueError("a checkpoint whose list of tensors takes more than 16 MiB")
        root = pickles[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in entries and archive.read(order).strip() != b"little":
            raise ValueError("a checkpoint in big-endian byte order")

        def read(storage: _Storage) -> bytes:
            name = f"{root}data/{storage.key}"
            return archive.read(name) if name in entries else b""

        unpickler = _Unpickler(_Pickles(archive.read(pickles[0])))
        loaded = unpickler.load()
        if isinstance(loaded, Module) and not unpickler.tensors:
            raise ValueError(
                "a frozen TorchScript module, whose weights are nameless constants of its code. "
                "Save the module before `torch.jit.freeze`, or its `state_dict()`"
            )
        return _filled(loaded, unpickler.tensors, read)


def _read_legacy(file: BinaryIO) -> Any:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    # Reading from a file allocates the claimed size, reading from bytes only what is there.
    pickles = _Pickles(file.read(min(size, _LARGEST_PICKLE)))
    if _Unpickler(pickles).load() != _LEGACY_MAGIC:
        raise ValueError("a pickle that torch did not write")
    for _ in ("protocol", "system"):
        _Unpickler(pickles).load()
    unpickler = _Unpickler(pickles)
    loaded = unpickler.load()
    keys = _Unpickler(pickles).load()
    known = unpickler.storages
    if type(keys) is not list or any(type(key) is not str or key not in known for key in keys):
        raise ValueError("a checkpoint that does not list its storages")
    file.seek(pickles.tell())
    contents: dict[str, bytes] = {}
    for key in keys:
        # After the pickles, each storage follows the number of its elements.
        storage = known[key]
        count = int.from_bytes(file.read(8), "little")
        if count != storage.count or storage.size > size - file.tell() or key in contents:
            raise ValueError(f"a truncated checkpoint: storage {key} is not there")
        contents[key] = file.read(storage.size)
    return _filled(loaded, unpickler.tensors, lambda storage: contents.get(storage.key, b""))


class _Pickles(io.BytesIO):
    """The bytes of pickles, with a limit of the instructions that can be read."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > _MOST_READS:
            raise ValueError("a pickle of more instructions than any checkpoint has")
        return super().read(size)


class _Storage:
    """A sequence of numbers; tensors are views of it."""

    __slots__ = ("count", "dtype", "key")

    def __init__(self, key: str, dtype: Any, count: int) -> None:
        self.key, self.dtype, self.count = key, np.dtype(dtype), count

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.count * self.dtype.itemsize

    def array(self, content: bytes) -> np.ndarray:
        if len(content) != self.size:
            raise ValueError(
                f"a truncated checkpoint: storage {self.key} has {len(content)} of "
                f"{self.size} bytes"
            )
        return np.frombuffer(content, self.dtype)


class _Tensor:
    """A view of a storage."""

    __slots__ = ("last", "offset", "shape", "storage", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any) -> None:
        axes = (shape, strides)
        valid = isinstance(storage, _Storage) and all(type(numbers) is tuple for numbers in axes)
        if not valid or len(shape) != len(strides) or len(shape) > _MOST:
            raise ValueError("a tensor that torch could not have written")
        if any(type(n) is not int or not 0 <= n < 2**63 for n in (offset, *shape, *strides)):
            raise ValueError("a tensor with an impossible shape or strides")
        self.storage, self.offset = storage, offset
        self.shape, self.strides = shape, strides
        self.last = offset
        for step, size in sorted(zip(strides, shape, strict=True)):
            if size > 1 and step <= self.last - offset:
                # Repeating one number would make large tensors from tiny files.
                raise ValueError(f"a tensor of shape {shape} that overlaps itself")
            self.last += (size - 1) * step
        if math.prod(shape) and self.last >= storage.count:
            raise ValueError(f"a tensor of shape {shape} that is larger than its storage")

    def array(self, numbers: np.ndarray) -> np.ndarray:
        if not math.prod(self.shape):
            return np.zeros(self.shape, numbers.dtype)
        steps = tuple(step * numbers.itemsize for step in self.strides)
        return np.lib.stride_tricks.as_strided(
            numbers[self.offset :], self.shape, steps, writeable=False
        )


@dataclass(frozen=True)
class _Function:
    """Replacement of a class or function that a pickle asks for."""

    call: Callable[..., Any]


#: Python's implementation, as the one in C allocates the memory that a pickle claims.
_PythonUnpickler: Any = vars(pickle)["_Unpickler"]


class _Unpickler(_PythonUnpickler):
    """Python's unpickler, restricted to the instructions and names that checkpoints need."""

    dispatch: ClassVar[dict[int, Callable[..., Any]]] = {}

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="latin1")  # For checkpoints written by Python 2.
        self.storages: dict[str, _Storage] = {}
        self.tensors: list[_Tensor] = []

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2":
                return _Function(self._rebuild)
            case "torch._utils", "_rebuild_parameter":
                return _Function(lambda data, *_: data)
            case "collections", "OrderedDict":
                return _Function(lambda: {})
            case "torch", _ if name in _STORAGES:
                return name
            # TorchScript's lists of numbers, and types that it attaches to values.
            case "torch.jit._pickle", _:
                return _Function(lambda data, *_: data)
            case _ if module.partition(".")[0] == "__torch__":
                return _Function(lambda *_: Module())
            case _ if (module, name) in _IGNORED:
                return _Function(lambda *_: object())
        raise ValueError(
            f"a pickle that asks for `{module}.{name}`, which tensors do not need; it was not run. "
            "If it is a whole model, load it with torch and save its `state_dict()`"
        )

    def _rebuild(self, *arguments: Any) -> _Tensor:
        if len(arguments) < 4:
            raise ValueError("a tensor that torch could not have written")
        self.tensors.append(_Tensor(*arguments[:4]))
        return self.tensors[-1]

    def persistent_load(self, pid: Any) -> _Storage:
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[5:] not in ((), (None,)):
            raise ValueError("a reference to data in a format that torch no longer writes")
        kind, storage_type, key, _, count = pid[:5]
        # Looking up a tuple of tuples of tuples … overflows the stack of the interpreter.
        known = type(storage_type) is str and storage_type in _STORAGES
        whole = type(count) is int and 0 <= count < 2**63
        if kind != "storage" or not known or type(key) is not str or not whole:
            raise ValueError("a reference to data that is not in a storage of torch")
        dtype = np.dtype(_STORAGES[storage_type])
        storage = self.storages.setdefault(key, _Storage(key, dtype, count))
        if (storage.dtype, storage.count) != (dtype, count):
            raise ValueError(f"a checkpoint that describes storage {key} twice, differently")
        return storage

    def _call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple or len(arguments) > _MOST:
            raise ValueError("a pickle that calls a function with more arguments than tensors need")
        if not isinstance(function, _Function):
            raise ValueError("a pickle that calls an object that is not a function; it was not run")
        self.append(function.call(*arguments))

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._assign([(key, value)])

    def _set_items(self) -> None:
        items = self.pop_mark()
        self._assign(list(zip(items[::2], items[1::2], strict=True)))

    def _assign(self, items: list[tuple[Any, Any]]) -> None:
        if type(self.stack[-1]) is not dict:
            raise ValueError("a pickle that assigns to something other than a dict")
        for key, value in items:
            if type(key) is int:
                continue  # State of an optimizer. Integers could be chosen with equal hashes.
            if type(key) is not str:
                raise ValueError("a checkpoint with keys that are neither strings nor integers")
            self.stack[-1][key] = value

    def _build(self) -> None:
        # State of other objects, such as versions of modules, is not needed.
        state = self.stack.pop()
        if type(self.stack[-1]) is Module and type(state) is dict:
            self.stack[-1].update(state)

    def _put(self) -> None:
        self.memo[self._size(4)] = self.stack[-1]

    def _size(self, length: int = 8) -> int:
        size = int.from_bytes(self.read(length), "little")
        if size > _LARGEST_PICKLE:
            raise ValueError("a pickle that claims to be larger than it can be")
        return size

    def _refuse(self) -> None:
        raise ValueError("a pickle with an instruction that no checkpoint needs; it was not run")

    dispatch.update(dict.fromkeys(range(256), _refuse))
    for _opcode in _OPCODES.split():
        _code = getattr(pickle, _opcode)[0]
        dispatch[_code] = _PythonUnpickler.dispatch[_code]
    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = _call
    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.SETITEMS[0]] = _set_items
    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.LONG_BINPUT[0]] = _put
    dispatch[pickle.FRAME[0]] = _size  # A frame only affects buffering.


def _filled(loaded: Any, tensors: Sequence[_Tensor], read: Callable[[_Storage], bytes]) -> Any:
    """Replace the tensors in dicts and lists by arrays, in place; return `loaded`."""
    _check_overlaps(tensors)
    numbers: dict[str, np.ndarray] = {}
    done: dict[int, bool] = {}

    def fill(value: Any, depth: int) -> None:
        if not isinstance(value, (dict, list, tuple)) or done.get(id(value)):
            return
        if id(value) in done or depth == _DEEPEST:
            raise ValueError("a checkpoint that is nested in itself, or too deeply")
        done[id(value)] = False
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            if isinstance(item, _Tensor) and not isinstance(value, tuple):
                storage = item.storage
                if storage.key not in numbers:
                    numbers[storage.key] = storage.array(read(storage))
                value[key] = item.array(numbers[storage.key])
            fill(item, depth + 1)
        done[id(value)] = True

    fill(loaded, 0)
    return loaded


def _check_overlaps(tensors: Sequence[_Tensor]) -> None:
    """Raise ValueError if tensors overlap without being equal, as shared weights are."""
    views = {(t.storage.key, t.offset, t.last, t.shape, t.strides) for t in tensors}
    behind: dict[str, int] = {}
    for key, first, last, shape, _ in sorted(view for view in views if math.prod(view[3])):
        if first < behind.get(key, 0):
            raise ValueError(f"a tensor of shape {shape} that overlaps another one")
        behind[key] = last + 1
