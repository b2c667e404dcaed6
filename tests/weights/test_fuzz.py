"""Damaged and hostile files of weights are refused, or read as what they are. Nothing else happens.

No crash, no hang, nothing run, no memory for what is only claimed, and no success that is none.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import struct
import time
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from keras_resnet import (
    ResNetConfig,
    build,
    from_checkpoint,
    load_model,
    load_weights,
    save_torch_state_dict,
)
from keras_resnet.networks.config import IMAGENET_MEAN, IMAGENET_STD
from keras_resnet.weights.checkpoint import Checkpoint, read_checkpoint
from keras_resnet.weights.infer import infer
from keras_resnet.weights.readers import read_arrays

from ..conftest import randomize

FIXTURES = Path(__file__).parents[1] / "fixtures"

pytestmark = pytest.mark.filterwarnings(
    "ignore:The last stage sees", "ignore:You are saving your model as an HDF5"
)


@contextmanager
def bounded(size: int = 0) -> Iterator[None]:
    """Fails if what is inside takes long, or much more memory than a file of `size` bytes.

    The time is that of the processor, which other processes do not add to.
    """
    tracemalloc.start()
    start = time.process_time()
    try:
        yield
    finally:
        seconds = time.process_time() - start
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seconds < 20
        assert peak < 2**23 + 16 * size


# Damaged files


@dataclass
class Whole:
    """A good file, and how to damage it.

    Attributes:
        name: of the file.
        part: what is damaged: the file or, where that has checksums, something inside.
        packed: makes a file of the damaged part.
        headers: where the part says what is where.
        count: how many damaged ones are made of it.
        model: the network that it is of.
        content: what is in it.
    """

    name: str
    part: bytes
    packed: Callable[[bytes], bytes]
    headers: list[tuple[int, int]]
    count: int
    model: keras.Model
    content: object


def repacking(data: bytes, member: str) -> Callable[[bytes], bytes]:
    """Puts another content of `member` into a zip archive, with the right checksum."""

    def pack(part: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
            for info in old.infolist():
                new.writestr(info, part if info.filename == member else old.read(info.filename))
        return buffer.getvalue()

    return pack


def headers_of(part: bytes) -> list[tuple[int, int]]:
    """Where things are described, and not the numbers themselves."""
    if part[8:9] == b"{":
        return [(0, 8), (8, 8 + int.from_bytes(part[:8], "little"))]
    for start, pattern, length in (
        (b"\x89HDF", rb"\x89HDF|TREE|SNOD|HEAP|GCOL|\x01\x00[\x01-\x10]\x00\x01\x00\x00\x00", 300),
        (b"\x93NUMPY", rb"^", 128),
        (b"PK", rb"PK..", 60),
        (b"", rb"^", len(part) // 2),
    ):
        if part.startswith(start):
            found = [match.start() for match in re.finditer(pattern, part, re.DOTALL)]
            return [(place, min(place + length, len(part))) for place in found]
    raise AssertionError


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> list[Whole]:
    folder = tmp_path_factory.mktemp("wholes")
    tiny = build(ResNetConfig("basic", (1,), (8,), stem="cifar"), input_shape=(16, 16, 3))
    padded = ResNetConfig("basic", (1, 1), (4, 8), stem="cifar", shortcut="A")
    other = build(padded, input_shape=(16, 16, 3))
    randomize(tiny)
    for name in ("tiny.keras", "tiny.h5"):
        tiny.save(folder / name)
    tiny.save_weights(folder / "tiny.weights.h5")
    arrays = {f"{layer.name}/{w.name}": np.array(w) for layer in tiny.layers for w in layer.weights}
    np.savez(folder / "tiny.npz", **arrays)  # type: ignore[arg-type]
    np.savez_compressed(folder / "small.npz", **arrays)  # type: ignore[arg-type]
    save_torch_state_dict(tiny, folder / "tiny.safetensors")
    save_torch_state_dict(other, folder / "padded.safetensors", "akamaster")
    result = []
    for path, member, count in (
        (folder / "tiny.weights.h5", None, 400),
        (folder / "tiny.h5", None, 400),
        (folder / "tiny.keras", None, 60),
        (folder / "tiny.keras", "model.weights.h5", 60),
        (folder / "tiny.npz", None, 100),
        (folder / "tiny.npz", "conv1_conv/kernel.npy", 150),
        (folder / "small.npz", None, 100),
        (folder / "tiny.safetensors", None, 350),
        (folder / "padded.safetensors", None, 150),
        (FIXTURES / "torch_zip.pth", None, 100),
        (FIXTURES / "torch_zip.pth", "torch_zip/data.pkl", 250),
        (FIXTURES / "torch_legacy.th", None, 400),
    ):
        data = part = path.read_bytes()
        packed: Callable[[bytes], bytes] = bytes
        if member is not None:
            with zipfile.ZipFile(path) as archive:
                part = archive.read(member)
            packed = repacking(data, member)
        model = tiny if path.suffix == ".keras" else from_checkpoint(path, input_shape=(16, 16, 3))
        content = described(read_checkpoint(path))
        result.append(Whole(path.name, part, packed, headers_of(part), count, model, content))
    return result


EXTREMES = [0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62]
EXTREMES += [2**63 - 1, 2**63, 2**64 - 1]


def damaged(part: bytes, headers: list[tuple[int, int]], generator: random.Random) -> bytes:
    """One of: bits flipped, bytes replaced, fields set to extremes, cut off, a span removed,
    doubled, copied over another, set to zero; mostly in headers."""
    data = bytearray(part)

    def place() -> int:
        low, high = (0, len(part)) if generator.random() < 0.3 else generator.choice(headers)
        return generator.randrange(low, high)

    start, length = place(), generator.choice([1, 8, 16, 40, 64])
    kind = generator.randrange(10)
    if kind <= 2:
        for _ in range(generator.randint(1, 4)):
            data[place()] ^= 1 << generator.randrange(8)
    elif kind == 3:
        for _ in range(generator.randint(1, 4)):
            data[place()] = generator.randrange(256)
    elif kind <= 5:
        size = generator.choice([1, 2, 4, 8])
        start -= start % generator.choice([1, size])
        data[start : start + size] = struct.pack("<Q", generator.choice(EXTREMES))[:size]
    elif kind == 6:
        del data[start:]
    elif kind == 7:
        del data[start : start + length]
    elif kind == 8:
        data[start:start] = data[start : start + length]
    else:
        target = place() if generator.random() < 0.8 else start
        span = data[start : start + length] if target != start else bytes(length)
        data[target : target + length] = span
    return bytes(data)


def described(checkpoint: Checkpoint) -> object:
    """Everything that has to be the original's, whatever the numbers are."""
    return sorted(checkpoint.unknown), {
        (name, role): (array.shape, array.dtype)
        for name, roles in checkpoint.layers.items()
        for role, array in roles.items()
    }


def refusal(error: ValueError, path: Path) -> str:
    assert re.match(r"(?s)Expected .*\. Received: .+", str(error))
    assert str(path) in str(error)
    return "refused"


def outcome(path: Path, whole: Whole, *, load: bool) -> str:
    """`refused`, `read`, or `other`: read as what only loading can refuse, and does."""
    try:
        with bounded(path.stat().st_size):
            checkpoint = read_checkpoint(path)
            infer(checkpoint)
    except ValueError as error:
        return refusal(error, path)
    same = described(checkpoint) == whole.content
    if path.suffix == ".keras":
        # Keras itself would load it. A `.weights.h5` file is damaged in the same way.
        assert same or not whole.part.startswith(b"PK")
        return "read" if same else "other"
    if same and not load:
        return "read"
    try:
        report = load_weights(whole.model, path)
    except ValueError as error:
        return refusal(error, path) if same else "other"
    assert same or report.skipped or report.adapted or report.missing
    return "read"


@pytest.mark.parametrize(
    "share", [pytest.param(1.0, marks=pytest.mark.full), 0.2], ids=["all", "some"]
)
def test_damaged_files_are_read_or_refused(
    share: float, wholes: list[Whole], tmp_path: Path
) -> None:
    total: Counter[str] = Counter()
    for whole in wholes:
        count = int(whole.count * share)
        path = tmp_path / whole.name
        generator = random.Random(whole.name)
        found: Counter[str] = Counter()
        for number in range(count):
            path.write_bytes(whole.packed(damaged(whole.part, whole.headers, generator)))
            found[outcome(path, whole, load=number % 8 == 0)] += 1
        assert found["refused"] > count / 4
        total += found
    assert total.total() > 2400 * share
    assert total["read"] > 200 * share


def test_damaged_models_are_loaded_or_refused(wholes: list[Whole], tmp_path: Path) -> None:
    """Keras' reader, which is one in C, must not crash on what it is given."""
    whole = next(
        whole for whole in wholes if whole.name == "tiny.keras" and whole.part[:2] != b"PK"
    )
    path, generator, found = tmp_path / whole.name, random.Random(0), Counter[str]()
    for _ in range(150):
        path.write_bytes(whole.packed(damaged(whole.part, whole.headers, generator)))
        try:
            model = load_model(path)
        except ValueError as error:
            found[refusal(error, path)] += 1
        else:
            shapes = [weight.shape for weight in model.weights]
            assert shapes == [weight.shape for weight in whole.model.weights]
            found["loaded"] += 1
    assert found["refused"] > 50
    assert found["loaded"] > 5


def test_truncated_files_are_refused(wholes: list[Whole], tmp_path: Path) -> None:
    for whole in wholes:
        data = whole.packed(whole.part)
        ends = {0, 1, 4, 8, 9, len(data) // 2, len(data) - 1, *range(0, len(data), len(data) // 40)}
        path = tmp_path / whole.name
        for end in ends:
            path.write_bytes(data[:end])
            assert outcome(path, whole, load=False) == "refused", (whole.name, end)


def test_files_with_other_suffixes_and_halves_of_files_are_refused(
    wholes: list[Whole], tmp_path: Path
) -> None:
    for whole in wholes:
        for other in wholes:
            first, second = (one.packed(one.part) for one in (whole, other))
            if first == second:
                continue
            path = tmp_path / whole.name
            path.write_bytes(first[: len(first) // 2] + second[len(second) // 2 :])
            assert outcome(path, whole, load=True) == "refused", (whole.name, other.name)
            if Path(whole.name).suffix != Path(other.name).suffix:
                path.write_bytes(second)
                torch = {Path(one.name).suffix for one in (whole, other)} == {".pth", ".th"}
                expected = ("read", "other", "refused") if torch else ("refused",)
                assert outcome(path, whole, load=True) in expected, (whole.name, other.name)


# Hostile pickles


def value(item: Any) -> bytes:
    """The instructions that make `item`."""
    return pickle.dumps(item, 2)[2:-1]


def reference(
    kind: bytes = b"FloatStorage", key: Any = "0", count: Any = 6, rest: bytes = b""
) -> bytes:
    """The instructions that mean a storage of that many numbers."""
    parts = [b"(", value("storage"), b"ctorch\n" + kind + b"\n", value(key), value("cpu")]
    return b"".join([*parts, value(count), rest, b"tQ"])


def tensor(shape: Any = (6,), strides: Any = (1,), offset: Any = 0, storage: bytes = b"") -> bytes:
    """The instructions that make a tensor of a storage of six numbers."""
    view = value(offset) + value(shape) + value(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + (storage or reference()) + view + b"\x89}tR"


def state(instructions: bytes = b"", key: bytes = b"") -> bytes:
    """A pickled state dict of a tensor and whatever `instructions` make."""
    good = b"}" + value("conv1.weight") + tensor() + b"s"
    more = (key or value("extra")) + instructions + b"s" if instructions else b""
    return b"\x80\x02" + good + more + b"."


NUMBERS = np.arange(6, dtype="<f4").tobytes()


def archived(pickled: bytes, **changes: Any) -> bytes:
    """A checkpoint as torch writes it since version 1.6."""
    members = {"a/data.pkl": pickled, "a/data/0": NUMBERS, **changes.pop("members", {})}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **changes) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def legacy(pickled: bytes, keys: bytes = value(["0"])) -> bytes:
    """A checkpoint as torch wrote it before."""
    head = b"".join(pickle.dumps(item, 2) for item in (0x1950A86A20F9469CFC6C, 1001, {}))
    return head + pickled + b"\x80\x02" + keys + b"." + struct.pack("<q", 6) + NUMBERS


def test_hand_written_pickles_are_read(tmp_path: Path) -> None:
    """What follows is refused for nothing else."""
    good = state(tensor((2, 2), (2, 1), storage=reference(key="1", count=4)))
    for name, data in (
        ("model.pth", archived(good, members={"a/data/1": NUMBERS[:16]})),
        ("model.th", legacy(state(value([1, {"a": (2.5, None)}])))),
    ):
        (tmp_path / name).write_bytes(data)
        np.testing.assert_array_equal(read_arrays(tmp_path / name).values["conv1.weight"], range(6))


class Reduced:
    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return self.parts


def deep(levels: int = 100_000) -> bytes:
    """A tuple in a tuple in a tuple …, which overflows the stack of whatever looks into it."""
    return b")" + b"\x85" * levels


def laughs(levels: int = 60) -> bytes:
    """Twice the same in a tuple, twice in a tuple, …: small in memory, endless in print."""
    return b"]" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(levels))


TOUCH = "touch ran"
RUNNING = {
    "os.system": b"cos\nsystem\n(" + value(TOUCH) + b"tR",
    "posix.system": value(Reduced(os.system, (TOUCH,))),
    "subprocess": b"csubprocess\ngetoutput\n" + value((TOUCH,)) + b"R",
    "eval": value(Reduced(eval, ("open('ran', 'w')",))),
    "exec": value(Reduced(exec, ("open('ran', 'w')",))),
    "open": b"cio\nopen\n" + value(("ran", "w")) + b"R",
    "Python 2": b"c__builtin__\neval\n" + value(("open('ran', 'w')",)) + b"R",
    "getattr": b"c__builtin__\ngetattr\n(cos\n__dict__\n" + value("system") + b"tR",
    "dotted name": value("os") + value("path.os.system") + b"\x93" + value((TOUCH,)) + b"R",
    "dotted stand-in": value("collections") + value("OrderedDict.fromkeys") + b"\x93",
    "torch.load": b"ctorch.storage\n_load_from_bytes\n" + value((state(),)) + b"R",
    "pickle in a pickle": b"c_pickle\nloads\n" + value((state(),)) + b"R",
    "numpy": b"cnumpy.core.multiarray\n_reconstruct\n" + value(()) + b"R",
    "copyreg.add_extension": b"ccopyreg\nadd_extension\n" + value(("os", "system", 1)) + b"R",
    "copyreg._reconstructor": b"ccopyreg\n_reconstructor\n" + value((1, 2, 3)) + b"R",
    "import": b"cantigravity\nx\n",
    "INST": b"(" + value(TOUCH) + b"ios\nsystem\n",
    "OBJ": b"(cos\nsystem\n" + value(TOUCH) + b"o",
    "NEWOBJ": b"cos\nsystem\n" + value((TOUCH,)) + b"\x81",
    "NEWOBJ_EX": b"cos\nsystem\n" + value((TOUCH,)) + b"}\x92",
    "NEWOBJ_EX of a stand-in": b"cargparse\nNamespace\n)}\x92",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "persistent name": b"Pos.system\n",
    "call of a string": value(TOUCH) + b")R",
    "call of a storage": b"ctorch\nFloatStorage\n)R",
    "new string": value(TOUCH) + b")\x81",
    "call without a tuple": b"cargparse\nNamespace\n" + value([1]) + b"R",
    "attribute of a list": b"]" + value({"append": 1}) + b"b" + value("x") + b"s",
}
SIZES = {
    "memo": value(1) + b"r" + struct.pack("<I", 2**31) + b"0",
    "memo, textual": value(1) + b"p99999999999\n",
    "bytes": b"\x8e" + struct.pack("<Q", 2**62),
    "text": b"\x8d" + struct.pack("<Q", 2**62),
    "bytearray": b"\x96" + struct.pack("<Q", 2**34),
    "frame": b"\x95" + struct.pack("<Q", 2**62),
    "negative bytes": b"T" + struct.pack("<i", -1),
    "integer": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "integer in words": b"L" + b"9" * 100_000 + b"L\n",
    "buffer": b"\x97",
    "arguments": b"cargparse\nNamespace\n(" + b"N" * 1000 + b"tR",
    "nothing on the stack": b"0" * 9,
    "no mark": b"t",
}
BOUNDLESS = {
    "tuples as a key": state(value(1), key=deep()),
    "tuple as a key": state(value(1), key=value((1, 2))),
    "None as a key": state(value(1), key=b"N"),
    "list as a key": state(value(1), key=value([1])),
    "tuples as arguments": state(b"cargparse\nNamespace\n(" + b"N" * 17 + deep() + b"tR"),
    "tuples as a function": state(deep() + b")R"),
    "tuples as a shape": state(
        b"ctorch._utils\n_rebuild_tensor\n(" + reference() + value(0) + deep() + value((1,)) + b"tR"
    ),
    "tuples as a reference": state(deep() + b"Q"),
    "tuples as a storage's type": state(b"(" + value("storage") + deep() + b"NNNtQ"),
    "tuples as a storage's key": state(
        b"(" + value("storage") + b"ctorch\nFloatStorage\n" + deep() + b"N" + value(6) + b"tQ"
    ),
    "laughs as a reference": state(laughs() + b"Q"),
    "laughs as a key": state(value(1), key=laughs()),
    "laughs as the state dict": b"\x80\x02" + laughs() + b".",
    "tuples as a value": state(deep()),
    "a list in itself as a value": state(b"]q\x09h\x09a"),
    "a dict in itself as a value": state(b"}q\x09" + value("x") + b"h\x09s"),
    "tuples as the state dict": b"\x80\x02" + deep() + b".",
    "a list in itself as the state dict": b"\x80\x02]q\x00h\x00a.",
    "a list in itself as a reference": state(b"]q\x09h\x09aQ"),
}
TENSORS = {
    "negative shape": tensor((-6,)),
    "negative strides": tensor((6,), (-1,), 5),
    "negative offset": tensor(offset=-1),
    "larger than its storage": tensor((7,)),
    "behind its storage": tensor(offset=1),
    "of one number": tensor((2**40,), (0,)),
    "partly of one number": tensor((3, 2**40), (2, 0)),
    "overlapping itself": tensor((2, 3), (1, 1)),
    "overlapping another": tensor((3,), (1,), 2),
    "huge": tensor((2**62, 2**62), (2**62, 1)),
    "too large for 64 bits": tensor((2**64,)),
    "immense": tensor((2**2000,) * 16, (1,) * 16),
    "empty and immense": tensor((0, 2**62, 2**62), (1, 1, 1)),
    "of too many axes": tensor((1,) * 100, (1,) * 100),
    "of other strides than axes": tensor((6,), (1, 1)),
    "of a fraction": tensor((1.5,)),
    "of truth": tensor((True,)),
    "of a list": tensor([6], [1]),
    "of words": tensor("six", "one"),
    "of nothing": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    "of no storage": tensor(storage=value("0")),
    "of a huge storage": tensor(storage=reference(key="9", count=2**50)),
    "of an immense storage": tensor(storage=reference(key="9", count=2**2000)),
    "of a negative storage": tensor(storage=reference(key="9", count=-1)),
    "of a storage that is not there": tensor(storage=reference(key="9")),
    "of a storage elsewhere": tensor(storage=reference(key="../../x")),
    "of a storage that has a number": tensor(storage=reference(key=0)),
    "of a storage of another type": tensor(storage=reference(b"DoubleStorage")),
    "of a storage of another size": tensor(storage=reference(count=5)),
    "of a view of a storage": tensor(storage=reference(rest=value(("0", 0, 1)))),
    "of a storage with more": tensor(storage=reference(rest=b"NN")),
    "of a module": value(("module", "os", "x", "y")) + b"Q",
    "of a short reference": value(("storage",)) + b"Q",
    "of a word": value("storage") + b"Q",
    "of a number": value(5) + b"Q",
    "of a dict": b"}Q",
}
PICKLES = {
    f"{group} {name}": (state(code) if group != "boundless" else code, reason)
    for group, codes, reason in (
        ("running", RUNNING, "it was not run|calls a function with|other than a dict"),
        ("claiming", SIZES, "was not run|calls a function with|larger than|damaged or too large"),
        (
            "boundless",
            BOUNDLESS,
            "keys that are|calls|impossible|reference|nested|list its storages",
        ),
        ("tensor", TENSORS, "a tensor that|a tensor with|a tensor of|storage|reference"),
    )
    for name, code in codes.items()
}


@pytest.fixture
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands and files that a pickle starts would leave a trace here."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    yield
    assert not list(Path().iterdir())


def assert_refused(path: Path, data: bytes, reason: str = "") -> None:
    path.write_bytes(data)
    expected = rf"(?s)Expected .*\. Received: {re.escape(str(path))}: .*({reason})"
    with bounded(len(data)), pytest.raises(ValueError, match=expected) as caught:
        read_arrays(path)
    words = str(caught.value)
    assert words.isprintable()
    assert len(words) < 1000


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("name", PICKLES)
def test_hostile_pickles_are_refused(name: str, tmp_path: Path) -> None:
    pickled, reason = PICKLES[name]
    assert_refused(tmp_path / "model.pth", archived(pickled), reason)
    assert_refused(tmp_path / "model.th", legacy(pickled), reason)


def test_hostile_pickles_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above would prove nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("os.system", "exec", "subprocess", "INST", "OBJ"):
        pickle.loads(state(RUNNING[name]).replace(tensor(), b"N"))
        Path("ran").unlink()


# Hostile archives


def listed(data: bytes, number: int, offset: int, field: str, content: int) -> bytes:
    """Changes a field of an entry in the directory of a zip archive."""
    starts = [match.start() for match in re.finditer(rb"PK\x01\x02", data)]
    changed = bytearray(data)
    struct.pack_into(field, changed, starts[number] + offset, content)
    return bytes(changed)


def test_archives_that_torch_does_not_write_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    good = archived(state())
    path.write_bytes(good)
    assert read_arrays(path).values.keys() == {"conv1.weight"}
    for name, reason in (
        ("b/data.pkl", "the single `data.pkl`"),
        ("/etc/x", "lead out of it"),
        ("a/../../x", "lead out of it"),
        ("..\\x", "lead out of it"),
    ):
        assert_refused(path, archived(state(), members={name: state()}), reason)
    path.write_bytes(archived(state(), compression=zipfile.ZIP_DEFLATED))
    assert read_arrays(path).values.keys() == {"conv1.weight"}
    assert_refused(path, archived(state(), compression=zipfile.ZIP_BZIP2), "in an unusual way")
    assert_refused(path, archived(state(), members={"a/byteorder": "big"}), "big-endian")
    assert_refused(path, archived(state(), members={"a/data/0": NUMBERS[:-1]}), "has 23 of 24")
    assert_refused(path, good.replace(b"a/data/0", b"a/data/1"), "storage 0 has 0 of 24")
    assert_refused(path, archived(state() + bytes(2**24)), "more than 16 MiB")
    assert_refused(path, legacy(bytes([0x80, 2]) + b"N0" * 2**23))
    assert_refused(path, good[:50], "not a zip file")
    twice = archived(state(), members={"b/data.pkl": state()}).replace(b"b/data", b"a/data")
    assert_refused(path, twice, "two files of the same name")
    # Flags: encrypted. Sizes, packed and unpacked. Where the file begins.
    assert_refused(path, listed(good, 0, 8, "<H", 1), "encrypted")
    assert_refused(path, listed(good, 1, 20, "<I", 2**32 - 2), "bytes that claims to hold")
    assert_refused(path, listed(good, 1, 24, "<I", 2**32 - 2), "bytes that claims to hold")
    assert_refused(path, listed(good, 1, 42, "<I", 0))
    shared = archived(state(), members={f"a/{n}": b"" for n in range(99)} | {"a/x": bytes(999)})
    for number in range(99):
        shared = listed(listed(shared, number + 2, 20, "<I", 999), number + 2, 24, "<I", 999)
    assert_refused(path, shared, "bytes that claims to hold")


def test_legacy_files_that_torch_does_not_write_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.th"
    good = legacy(state())
    path.write_bytes(good)
    assert read_arrays(path).values.keys() == {"conv1.weight"}
    listing = "does not list its storages"
    for keys, reason in (
        (value("0"), listing),
        (value({"0": 1}), listing),
        (value(5), listing),
        (value(["1"]), listing),
        (value([0]), listing),
        (value(["0", "0"]), "truncated"),
        (value([]), "truncated"),
        (b"]" + deep() + b"a", listing),
        (b"]" + laughs() + b"a", listing),
        (b"]q\x00h\x00a", listing),
        (b"cos\nsystem\n", "asks for `os.system`"),
    ):
        assert_refused(path, legacy(state(), keys), reason)
    for count in (0, 5, 7, 2**40, 2**62, 2**64 - 1):
        claimed = good[:-32] + struct.pack("<Q", count) + NUMBERS
        assert_refused(path, claimed, "truncated checkpoint: storage 0")
    huge = tensor(storage=reference(key="1", count=2**40))
    data = legacy(state(huge), value(["1", "0"]))[:-32] + struct.pack("<Q", 2**40) + NUMBERS
    assert_refused(path, data, "truncated checkpoint: storage 1")
    assert_refused(path, pickle.dumps(5, 2), "torch did not write")
    assert_refused(path, pickle.dumps({"conv1.weight": 1.0}, 2), "torch did not write")


def test_many_names_for_one_tensor_are_refused(tmp_path: Path) -> None:
    """Checking each would take as long as checking a file that is as large as it looks."""
    shared = tensor((10000,), storage=reference(key="1", count=10000)) + b"q\x09"
    names = b"".join(value(f"n{n}") + b"h\x09" for n in range(2000))
    pickled = b"\x80\x02}(" + value("x") + shared + names + b"u."
    data = archived(pickled, members={"a/data/1": bytes(40000)})
    assert_refused(tmp_path / "model.pth", data, "the same tensors under many names")


def npz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy(header: str, content: bytes = NUMBERS, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode() + content


def header(descr: str = "'<f4'", shape: str = "(6,)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}\n"


def test_arrays_that_claim_too_much_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    path.write_bytes(npz(x=npy(header(shape="(2, 3)", order="True"))))
    np.testing.assert_array_equal(read_arrays(path).values[".x"], [[0, 2, 4], [1, 3, 5]])
    for content in (
        npy(header(shape=f"({2**40},)")),
        npy(header(shape=f"({2**62}, {2**62})")),
        npy(header(shape=f"({10**1000},)")),
        npy(header(shape="(-6,)")),
        npy(header(shape="(-2, -3)")),
        npy(header(shape="(6.0,)")),
        npy(header(shape="6")),
        npy(header(shape=f"({'1,' * 100})"), bytes(4)),
        npy(header(shape="(5,)")),
        npy(header(shape="(7,)")),
        npy(header("'|O'")),
        npy(header("'<U6'", "(1,)")),
        npy(header(f"'|S{2**31 - 1}'", "(6,)")),
        npy(header("[('x', '<f4'), ('y', '<f4')]", "(3,)")),
        npy(header("('<f4', (6,))", "(1,)")),
        npy(header("'<c8'", "(3,)")),
        npy(header("'<m8[s]'", "(3,)")),
        npy(header("__import__('os').system('touch ran')")),
        npy("(" * 5000 + ")" * 5000),
        npy("[" * 60 + "]" * 60),
        npy("{}"),
        npy(header(), version=b"\x02\x00"),
        npy(header(), version=b"\x09\x00"),
        npy(header(), NUMBERS[:-1]),
        npy(header("'|O'"), pickle.dumps(Reduced(os.system, (TOUCH,)))),
        pickle.dumps(Reduced(os.system, (TOUCH,))),
        b"\x93NUMPY",
        b"",
    ):
        assert_refused(path, npz(conv1=content))
    assert_refused(path, npz(x_1=npy(header()), x_2=npy(header())), "there twice")
    assert_refused(path, npy(header()), "not a zip file")


def test_archives_that_unfold_to_too_much_are_refused(tmp_path: Path) -> None:
    bomb = npz(x=npy(header(shape=f"({2**26},)"), bytes(2**28)))
    assert len(bomb) < 2**19
    assert_refused(tmp_path / "bomb.npz", bomb, "that claims to hold")
    modest = npz(x=npy(header()))
    for claim in (2**32 - 2, 2**31, 2**28 + 1):
        assert_refused(tmp_path / "a.npz", listed(modest, 0, 24, "<I", claim), "claims to hold")
    saved = archived(b"", members={"model.weights.h5": bytes(99)}, compression=zipfile.ZIP_DEFLATED)
    assert_refused(tmp_path / "a.keras", saved, "no HDF5 file")
    assert_refused(tmp_path / "a.keras", listed(saved, 2, 24, "<I", 2**31), "claims to hold")


# Hostile HDF5 and safetensors


def weights_h5(path: Path, fill: Callable[[h5py.Group], None], **settings: Any) -> bytes:
    """A file like `.weights.h5`, of one layer."""
    with h5py.File(path, "w", **settings) as archive:
        group = archive.create_group("layers/dense/vars")
        group.attrs["name"] = "predictions"
        fill(group)
    return path.read_bytes()


def plain(group: h5py.Group) -> None:
    group["0"] = np.arange(6, dtype="f4").reshape(2, 3)


def test_hdf5_beyond_what_keras_writes_is_refused(tmp_path: Path) -> None:
    path, secret = tmp_path / "model.weights.h5", tmp_path / "secret"
    secret.write_bytes(NUMBERS)
    other = tmp_path / "other.h5"
    weights_h5(other, plain)
    weights_h5(path, plain)
    np.testing.assert_array_equal(
        read_arrays(path).values["predictions.kernel"], [[0, 1, 2], [3, 4, 5]]
    )

    def virtual(group: h5py.Group) -> None:
        layout = h5py.VirtualLayout((2, 3), "f4")
        layout[:] = h5py.VirtualSource(str(other), "layers/dense/vars/0", (2, 3))
        group.create_virtual_dataset("0", layout)

    def link(target: Any) -> Callable[[h5py.Group], None]:
        return lambda group: group.__setitem__("0", target)

    def dataset(*arguments: Any, **keywords: Any) -> Callable[[h5py.Group], None]:
        return lambda group: group.create_dataset("0", *arguments, **keywords) and None

    ones = np.ones((2, 3), "f4")
    for fill, reason in (
        (link(h5py.ExternalLink(str(other), "layers/dense/vars/0")), "with links|kind"),
        (link(h5py.SoftLink("/layers")), "with links"),
        (lambda group: group.__setitem__("0", group), "damaged|overlap|groups in groups"),
        (dataset((6,), "f4", external=[(str(secret), 0, 24)]), "elsewhere"),
        (virtual, "kind|elsewhere"),
        (dataset(data=ones, chunks=(1, 3)), "in chunks"),
        (dataset(data=ones, compression="gzip"), "compressed"),
        (dataset((2**40, 2**10), "f4"), "damaged"),
        (dataset((2**40, 2**10), "f4", fillvalue=1), "damaged"),
        (dataset((2**40, 2**10), "f4", chunks=(2**10, 2**10)), "in chunks"),
        (dataset(data=[b"words"]), "not made of numbers"),
        (dataset(data=["words"], dtype=h5py.string_dtype()), "not made of numbers"),
        (dataset(data=np.ones(3, ">f4")), "not made of numbers"),
        (dataset(data=np.ones(3, "c8")), "not made of numbers"),
        (dataset(data=np.ones(3, [("x", "f4")])), "not made of numbers"),
        (dataset(data=h5py.Empty("f4")), ""),
        (lambda group: group.create_group("0") and None, "without the array"),
        (lambda group: group.__setitem__("1", ones), "damaged"),
    ):
        assert_refused(path, weights_h5(path, fill), reason)
    assert_refused(path, weights_h5(path, plain, libver="latest"), "that Keras does not write")
    assert_refused(path, weights_h5(path, plain, userblock_size=512), "no HDF5 file")


def test_hdf5_with_parts_that_overlap_is_refused(wholes: list[Whole], tmp_path: Path) -> None:
    """Else a group could be in itself, and one array under many names."""
    whole = wholes[0]
    path = tmp_path / "model.weights.h5"
    path.write_bytes(whole.part)
    with h5py.File(path) as archive:
        first, second = (archive[f"layers/batch_normalization{n}/vars/0"].id for n in ("", "_1"))
        places = [struct.pack("<Q", dataset.get_offset()) for dataset in (first, second)]
        groups = [
            struct.pack("<Q", h5py.h5o.get_info(archive[name].id).addr)
            for name in ("layers", "layers/dense/vars")
        ]
    for old, new in (places, groups, groups[::-1]):
        assert whole.part.count(old) >= 1
        assert_refused(path, whole.part.replace(old, new))


def test_hdf5_is_read_without_the_library_in_c(
    wholes: list[Whole], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It crashes on one in some thousand damaged files, and hangs on others."""
    monkeypatch.setattr(h5py, "File", None)
    monkeypatch.setattr(h5py.h5f, "open", None)
    for whole in wholes[:4]:
        path = tmp_path / whole.name
        path.write_bytes(whole.packed(whole.part))
        assert described(read_checkpoint(path)) == whole.content


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
def test_hdf5_is_read_as_the_library_in_c_reads_it(suffix: str, tmp_path: Path) -> None:
    """Of a model with an optimizer's state, and with random generators."""
    config = ResNetConfig("basic", (3, 2), (4, 8), stem="cifar", stochastic_depth=0.2)
    model = build(config, input_shape=(8, 8, 3))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / f"model{suffix}"
    save = model.save_weights if suffix == ".weights.h5" else model.save
    save(path)
    checkpoint = read_checkpoint(path)
    for layer in model.layers:
        if layer.weights and layer.name != "normalization":
            for weight in layer.weights:
                read = checkpoint.layers[layer.name][weight.name]
                np.testing.assert_array_equal(read, weight, err_msg=weight.path)


def test_long_lists_of_layers_are_read_as_keras_splits_them(tmp_path: Path) -> None:
    """The groups are so large that they are trees of several levels."""
    path = tmp_path / "old.h5"
    arrays = {f"conv2_block{n}_1_conv": np.full((1, 1, 1, 1), n, "f4") for n in range(1, 601)}
    with h5py.File(path, "w") as archive:
        for number, half in enumerate((list(arrays)[:400], list(arrays)[400:])):
            archive.attrs[f"layer_names{number}"] = [name.encode() for name in half]
        for name, array in arrays.items():
            archive.create_group(name).attrs["weight_names"] = [f"{name}/kernel:0".encode()]
            archive[f"{name}/{name}/kernel:0"] = array
    values = read_arrays(path).values
    assert {key: array.item() for key, array in values.items()} == {
        f"{name}.kernel": array.item() for name, array in arrays.items()
    }


def safetensors(header: str, data: bytes = NUMBERS, length: int | None = None) -> bytes:
    words = header.encode()
    return struct.pack("<Q", len(words) if length is None else length) + words + data


def entry(shape: str = "[6]", dtype: str = "F32", start: int = 0, end: int = 24) -> str:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}'


def test_safetensors_that_claim_too_much_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(f'{{"conv1.weight":{entry()},"__metadata__":null}}'))
    np.testing.assert_array_equal(read_arrays(path).values["conv1.weight"], range(6))
    for data in (
        safetensors("{}", length=2**62),
        safetensors("{}", length=2**64 - 1),
        safetensors("{}", length=2**24 + 1),
        safetensors("{}", length=0),
        safetensors("[" * 100_000),
        safetensors('{"a":' * 100_000),
        safetensors(f'{{"x":{entry(f"[{2**40}]")}}}'),
        safetensors(f'{{"x":{entry(f"[{2**40}]", end=2**42)}}}'),
        safetensors(f'{{"x":{entry(f"[{2**62},{2**62}]")}}}'),
        safetensors(f'{{"x":{entry(f"[0,{2**63}]", end=0)}}}', b""),
        safetensors(f'{{"x":{entry("[-6]")}}}'),
        safetensors(f'{{"x":{entry("[6.0]")}}}'),
        safetensors(f'{{"x":{entry(start=24, end=0)}}}'),
        safetensors(f'{{"x":{entry()},"y":{entry()}}}'),
        safetensors(f'{{"x":{entry("[3]", end=12)}}}'),
        safetensors(f'{{"x":{entry("[24]", "F8_E4M3")}}}'),
        safetensors(f'{{"x":{entry()},"__metadata__":{{"mean":[1]}}}}'),
        safetensors(f'{{"x":{entry()},"__metadata__":5}}'),
        safetensors(f'{{"{"x" * 300}":{entry()}}}'),
        safetensors(f'{{"\\u001b[2J":{entry()}}}'),
    ):
        assert_refused(path, data)


def told(field: str, item: Any = 10**400) -> str:
    """What a file of ours says about its network."""
    config = {"block": "basic", "blocks": [1], "filters": [8], "stem": "cifar", field: item}
    return json.dumps({"config": config})


def test_names_and_metadata_that_no_network_has_are_refused(
    wholes: list[Whole], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(next(whole.part for whole in wholes if whole.name == "tiny.safetensors"))
    state = load_file(path)
    kernel = state["layer1.0.conv1.weight"]
    constants = {"mean": json.dumps(IMAGENET_MEAN), "std": json.dumps(IMAGENET_STD)}
    model = wholes[0].model
    save_file(state, path, {**constants, "keras_resnet": told("blocks", [1])})
    load_weights(model, path)
    words = ["", "5", "null", '"abc"', "[1, 2]", "[1, 2, true]", "[1, 2, NaN]", "[1e999, 1, 1]"]
    words += ['["1", "2", "3"]', "[" * 100_000, f"[1, 2, {'9' * 10_000}]", "[[1], 2, 3]"]
    words += ['{"a": 1, "b": 2, "c": 3}', f"[1, 2, {10**400}]"]
    infos = ["5", "[" * 100_000, '{"config": 5}', '{"config": [1]}', '{"config": {}}']
    infos += ['{"class_names": 5}', '{"protocol": {"x": 1}}', '{"protocol": 5}']
    infos += map(told, ("width_pergroup", "width", "filters", "blocks", "se_ratio"))
    infos += (told("blocks", item) for item in ([10**9], 5, "1", [1, 1], None, [[1]]))
    infos += (told("filters", item) for item in ([10**400], [16], [1e308]))
    for changes, metadata in (
        *(({}, {**constants, key: text}) for key in constants for text in words),
        *(({}, {**constants, "keras_resnet": text}) for text in infos),
        ({}, {**constants, "std": "[1, 2, 0]"}),
        ({"layer1.99999999.conv1.weight": kernel}, constants),
        ({"layer9.0.conv1.weight": kernel}, constants),
        ({"layer1.0.conv1.weight": kernel[:, :, 0, 0]}, constants),
        ({"layer1.0.conv1.weight": kernel[:0]}, constants),
        ({"layer1.0.bn1.weight": np.ones((8, 8), "f4")}, constants),
        ({"layer1.0.bn1.weight": np.ones(7, "f4")}, constants),
        ({"layer1.0.bn1.weight": np.array(1, "f4")}, constants),
        ({"layer1.0.conv1.bias": np.ones(1, "f4")}, constants),
        ({"fc.weight": np.ones((10, 8, 3, 3), "f4")}, constants),
        ({"fc.weight": np.ones((10, 8, 1), "f4")}, constants),
        ({f"layer1.{'9' * 200}.conv1.weight": kernel}, constants),
    ):
        changed = {key: np.ascontiguousarray(v) for key, v in {**state, **changes}.items()}
        save_file(changed, path, metadata)
        with (
            bounded(path.stat().st_size),
            pytest.raises(ValueError, match=re.escape(str(path))) as caught,
        ):
            load_weights(model, path)
        assert len(str(caught.value)) < 1000


def test_numbers_of_blocks_are_no_sizes(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    for name in ("conv2_block999999999_1_conv", f"conv{'9' * 100}_block1_1_conv"):
        kernels = {"conv1_conv/kernel": np.ones((3, 3, 3, 8), "f4")}
        for layer in ("conv2_block1_1_conv", "conv2_block1_2_conv", name):
            kernels[f"{layer}/kernel"] = np.ones((3, 3, 8, 8), "f4")
        np.savez(path, **kernels)  # type: ignore[arg-type]
        with bounded():
            checkpoint = read_checkpoint(path)
            assert checkpoint.unknown == [f"{name}.kernel"]
            assert infer(checkpoint).config.blocks == (1,)


def test_kernels_that_conversion_needs_are_not_missing(wholes: list[Whole], tmp_path: Path) -> None:
    padded = next(whole for whole in wholes if whole.name == "padded.safetensors")
    path = tmp_path / padded.name
    path.write_bytes(padded.part)
    state = load_file(path)
    for key in ("linear.weight", "layer1.0.conv2.weight", "layer2.0.bn2.weight"):
        save_file({name: array for name, array in state.items() if name != key}, path)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            load_weights(padded.model, path)
    kernels = {"conv1_conv/bias": np.ones(8, "f4"), "conv1_1_conv/kernel": np.ones((3, 3, 3, 8))}
    for layer in ("conv2_block1_1_conv", "conv2_block1_2_conv"):
        kernels[f"{layer}/kernel"] = np.ones((3, 3, 8, 8), "f4")
    np.savez(tmp_path / "model.npz", **kernels)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a stem of one convolution, and one of three"):
        load_weights(padded.model, tmp_path / "model.npz")
