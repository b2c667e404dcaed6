"""Small files that ask for gigabytes, or for endless work, are refused before they get it."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from keras_resnet import ResNetConfig, build, load_model
from keras_resnet.support.json_text import parse_json
from keras_resnet.weights.readers import read_arrays

from ..conftest import Command, Run

Parts = dict[str, bytes]

#: Reads files in turn and prints of each the reason, and by how many bytes the peak of memory rose.
READING = """
import resource, sys
import keras_resnet
from keras_resnet.weights.readers import read_arrays

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

keras_resnet.load_model(sys.argv[1])  # Whatever is imported or made only once.
for path in sys.argv[2:]:
    before = peak()
    try:
        (keras_resnet.load_model if path.endswith(".keras") else read_arrays)(path)
    except ValueError as error:
        print(peak() - before, str(error).partition(f"{path}: ")[2])
"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    path = tmp_path_factory.mktemp("whole") / "model.keras"
    build(ResNetConfig("basic", (1,), (8,), stem="cifar"), input_shape=(8, 8, 3)).save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def saved(path: Path, parts: Parts, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def lying(path: Path, parts: Parts, name: str, unfolded: int) -> Path:
    """An archive in which a member has the size and the checksum of what comes first in it."""
    saved(path, {**parts, name: parts[name] + bytes(unfolded)})
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 14), (b"PK\x01\x02", 16)):
        at = data.find(signature)
        while not data[at:].startswith(signature) or name.encode() not in data[at : at + 99]:
            at = data.index(signature, at + 1)
        struct.pack_into("<I", data, at + place, zlib.crc32(parts[name]))
        struct.pack_into("<I", data, at + place + 8, len(parts[name]))
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:  # Python's reader sees nothing.
        assert archive.read(name) == parts[name]
    return path


def containers(path: Path, opcode: bytes, count: int) -> Path:
    pickled = b"\x80\x02](" + opcode * count + b"e."
    return saved(path, {"a/data.pkl": pickled}, zipfile.ZIP_STORED)


def with_info(parts: Parts, text: str) -> Parts:
    return {**parts, "assets/keras_resnet.json": text.encode()}


@pytest.mark.full
def test_memory_is_bounded_by_the_size_of_the_file(
    parts: Parts, tmp_path: Path, run_python: Run
) -> None:
    good = saved(tmp_path / "good.keras", parts)
    values = parts["config.json"][:-1] + b', "x": [' + b"{}," * 3_000_000 + b"0]}"
    folder, stored = tmp_path, zipfile.ZIP_STORED
    many = {str(number): b"" for number in range(1000)}
    long = {f"{number:060000}": b"" for number in range(150)}
    hostile = {
        "config.json": lying(folder / "lies.keras", parts, "config.json", 2**27),
        "model.weights.h5": lying(folder / "weights.keras", parts, "model.weights.h5", 2**27),
        "metadata.json": lying(folder / "metadata.keras", parts, "metadata.json", 2**27),
        "claims to hold": saved(folder / "big.keras", {**parts, "config.json": bytes(2**27)}),
        "JSON of": saved(folder / "values.keras", {**parts, "config.json": values}, stored),
        "files": saved(folder / "members.keras", {**parts, **many}, stored),
        "list of members": saved(folder / "list.keras", {**parts, **long}, stored),
        "instructions": containers(folder / "dicts.pth", b"}", 4 * 2**20),
    }
    done = run_python(READING, str(good), *map(str, hostile.values()))
    lines = [line.partition(" ") for line in done.stdout.splitlines()]
    assert len(lines) == len(hostile), done.stderr
    for (grown, _, reason), (expected, path) in zip(lines, hostile.items(), strict=True):
        assert expected in reason
        assert int(grown) < (200 if path.suffix == ".pth" else 80) * 2**20, path


def test_compressed_files_are_still_loaded(parts: Parts, tmp_path: Path) -> None:
    saved(tmp_path / "deflated.keras", parts)
    assert load_model(tmp_path / "deflated.keras").count_params()
    saved(tmp_path / "unusual.keras", parts, zipfile.ZIP_LZMA)
    for read in (load_model, read_arrays):
        with pytest.raises(ValueError, match=r"unusual.keras: an archive that is compressed in an"):
            read(tmp_path / "unusual.keras")


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "{}", "{image}"],
        ["embed", "{}", "{image}", "--output", "{out}.npz"],
        ["verify", "{}", "--against", "{}", "--data", "digits"],
        ["export", "{}", "--output", "{out}", "--calibration", "digits"],
        ["compress", "{}", "--method", "prune", "--data", "digits", "--output", "{out}"],
        ["finetune", "--model=resnet20", "--weights={}", "--data=digits", "--output={out}"],
        ["convert", "{}", "--output", "{out}.keras"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_command_that_takes_a_model_refuses_them(
    parts: Parts,
    tmp_path: Path,
    digits_file: Path,
    command_in_process: Command,
    arguments: list[str],
) -> None:
    bomb = lying(tmp_path / "bomb.keras", parts, "config.json", 2**20)
    names = {"image": str(digits_file), "out": str(tmp_path / "out")}
    done = command_in_process(*(text.format(bomb, **names) for text in arguments))
    assert done.returncode == 2
    assert "bomb.keras: " in done.stderr
    assert "config.json" in done.stderr
    assert list(tmp_path.iterdir()) == [bomb]


def test_json_that_is_deep_or_large_is_refused_in_words(parts: Parts, tmp_path: Path) -> None:
    deep = "[" * 100_000
    assert parse_json(json.dumps({"a": ["[[[", '"[', "\\", 1.5]})) == {
        "a": ["[[[", '"[', "\\", 1.5]
    }
    assert parse_json("[" * 100 + "]" * 100)
    for text, reason in (
        (deep, "nested 100,000 deep"),
        ("[" * 101 + "]" * 101, "nested 101 deep"),
        ('{"\\\\": ' + '{"a\\"": ' * 1000, "nested 1,001 deep"),
        ("[" + "0," * 2**21 + "0]", "JSON of 2,097,153 values"),
        (" " * (2**25 + 1), "JSON of 33,554,433 bytes"),
    ):
        with pytest.raises(ValueError, match=reason):
            parse_json(text)
    for changes in ({"config.json": deep.encode()}, {"assets/keras_resnet.json": deep.encode()}):
        path = saved(tmp_path / "deep.keras", {**parts, **changes})
        with pytest.raises(ValueError, match=r"deep.keras: .*nested 100,000 deep"):
            load_model(path)


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"class_names": 3}', '{"class_names": "ab"}', '{"ranges": 1}']
)
def test_damaged_descriptions_are_named(parts: Parts, tmp_path: Path, text: str) -> None:
    path = saved(tmp_path / "model.keras", with_info(parts, text))
    with pytest.raises(ValueError, match=r"model.keras: .*`keras_resnet.json`. Received: '[\[{]"):
        load_model(path)


def test_as_many_names_as_classes(parts: Parts, tmp_path: Path) -> None:
    for names, count in ((["a"], 1), (["a"] * 11, 11)):
        for field in ("class_names", "class_ids"):
            path = saved(tmp_path / "m.keras", with_info(parts, json.dumps({field: names})))
            with pytest.raises(ValueError, match=rf"m.keras: .*10 `{field}`.* Received: {count} "):
                load_model(path)
    load_model(saved(path, with_info(parts, json.dumps({"class_names": list("abcdefghij")}))))


def test_artifacts_have_as_many_names_as_classes(tmp_path: Path) -> None:
    from keras_resnet.export import export, load_runner
    from keras_resnet.jobs.predictor import Predictor

    model = build(ResNetConfig("basic", (1,), (8,), stem="cifar"), input_shape=(8, 8, 3))
    for names in (["a"] * 9, ["a"] * 11):
        with pytest.raises(ValueError, match=rf"10 `class_names`, .* Received: {len(names)} of"):
            Predictor(model, class_names=names)
    images = np.zeros((4, 8, 8, 3), np.uint8)
    targets = ("saved_model", "tflite-float32", "onnx")
    export(model, tmp_path, targets, images=images, timing=None)
    text = json.dumps({"class_names": ["only one"]})
    for write in (_into_saved_model, _into_tflite, _into_onnx):
        path = write(tmp_path, text)
        for load in (load_runner, Predictor):
            with pytest.raises(ValueError, match=r"10 `class_names`, .* Received: 1 of them"):
                load(path)


def _into_saved_model(folder: Path, text: str) -> Path:
    (description,) = (folder / "saved_model").rglob("keras_resnet.json")
    description.write_text(text)
    return folder / "saved_model"


def _into_tflite(folder: Path, text: str) -> Path:
    from keras_resnet.export import metadata
    from keras_resnet.export.tflite.flatbuffer import read, serialize
    from keras_resnet.models.info import ModelInfo

    path = folder / "model-float32.tflite"
    model = read(path)
    model.metadata = []
    metadata.into_tflite(model, ModelInfo.from_json(text))
    path.write_bytes(serialize(model))
    return path


def _into_onnx(folder: Path, text: str) -> Path:
    import onnx

    path = folder / "model.onnx"
    proto = onnx.load(path)
    (entry,) = (entry for entry in proto.metadata_props if entry.key == "keras_resnet")
    entry.value = text
    onnx.save(proto, path)
    return path
