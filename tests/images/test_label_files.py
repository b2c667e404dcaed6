"""Names of classes, read from files as people and programs save them."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest

import keras_resnet
from keras_resnet.images.label_files import read_class_names, read_lines

from ..conftest import LFS_POINTER, Command

NAMES = ("cat", "dog", "red fox")
IDS = ("n02123045", "n02084071", "n02119022")


def written(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.txt", "cat\ndog\nred fox\n"),
        ("no_end.txt", "cat\ndog\nred fox"),
        ("bom.txt", codecs.BOM_UTF8 + b"cat\ndog\nred fox\n"),
        ("wide.txt", "cat\r\ndog\r\nred fox\r\n".encode("utf-16")),
        ("windows.txt", "cat\r\ndog\r\nred fox\r\n\r\n"),
        ("mac.txt", "cat\rdog\rred fox\r"),
        ("blank_end.txt", "  cat \ndog\t\nred fox\n\n \n"),
        ("from_0.txt", "0 cat\n1 dog\n2 red fox\n"),
        ("from_1.txt", "1: cat\n2: dog\n3: red fox\n"),
        ("dots.txt", "1. cat\n2. dog\n3. red fox\n"),
        ("tabs.txt", "0\tcat\n1\tdog\n2\tred fox\n"),
        ("unordered.txt", "2,red fox\n0,cat\n1,dog\n"),
        ("one.csv", "cat\ndog\nred fox\n"),
        ("two.csv", '0,cat\r\n1,dog\r\n2,"red fox"\r\n'),
        ("head.csv", "name,count\ncat,3\ndog,4\nred fox,5\n"),
        ("bom.csv", "\ufeffIndex;Label\n1;dog\n0;cat\n2;red fox\n"),
        ("more.csv", "class_id,supercategory,class_name\n1,x,cat\n2,y,dog\n3,z,red fox\n"),
        ("tabs.tsv", "label\tname\n0\tcat\n1\tdog\n2\tred fox\n"),
        ("list.json", json.dumps(NAMES)),
        ("bom.json", "\ufeff" + json.dumps(NAMES)),
        ("object.json", json.dumps({"2": "red fox", "0": "cat", "1": "dog"})),
        ("from_1.json", json.dumps({"1": "cat", "2": "dog", "3": "red fox"})),
        ("indices.json", json.dumps({"red fox": 2, "cat": 0, "dog": 1})),
    ],
)
def test_names_are_read_as_people_save_them(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    assert read_class_names(written(tmp_path, name, content)) == (NAMES, None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("synsets.txt", "".join(f"{i} {name}\n" for i, name in zip(IDS, NAMES, strict=True))),
        ("ids.csv", "".join(f"{i},{name}\n" for i, name in zip(IDS, NAMES, strict=True))),
        (
            "index.json",
            json.dumps({str(n): pair for n, pair in enumerate(zip(IDS, NAMES, strict=True))}),
        ),
    ],
)
def test_ids_beside_the_names_are_kept(tmp_path: Path, name: str, content: str) -> None:
    assert read_class_names(written(tmp_path, name, content)) == (NAMES, IDS)


def test_ids_alone_get_imagenets_names(tmp_path: Path) -> None:
    path = written(tmp_path, "ids.txt", "n01443537\r\nn01440764\r\n")
    assert read_class_names(path) == (("goldfish", "tench"), ("n01443537", "n01440764"))


@pytest.mark.parametrize(
    "lines", ["0\n1\n2\n", "3 doors\n5 doors\n", "2010 Audi\n2011 Audi\n", "1 Euro\n2 Euro\n"]
)
def test_numbers_that_do_not_count_belong_to_the_names(tmp_path: Path, lines: str) -> None:
    assert read_class_names(written(tmp_path, "x.txt", lines))[0] == tuple(lines.splitlines())


def test_numbered_lines_may_have_equal_names(tmp_path: Path) -> None:
    """As ImageNet's two cranes."""
    with pytest.warns(UserWarning, match="several classes of the same name.*crane"):
        names, _ = read_class_names(written(tmp_path, "x.txt", "0 crane\n1 cat\n2 crane\n"))
    assert names == ("crane", "cat", "crane")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", "", "names of classes. Received: .*/x.txt, with none$"),
        ("x.json", "[]", "with none$"),
        ("x.csv", "", "with none$"),
        ("x.txt", "cat\n\ndog\n", "no empty line before the end. .*x.txt, where line 2 is empty$"),
        ("x.txt", f"{IDS[0]} cat\n{IDS[0]} cat\n", f"different ids. .*with {IDS[0]} twice$"),
        ("x.json", '["cat", ""]', "with an empty name$"),
        ("x.csv", "id,name\n3,cat\n7,dog\n", "numbered from 0 or 1. .* with the numbers 3, 7$"),
        ("x.json", '{"0": "cat", "2": "dog"}', "numbered from 0 or 1. .* with the numbers 0, 2$"),
        ("x.json", '{"a": "cat", "b": "dog"}', "with the numbers a, b$"),
        ("x.json", '{"0": ["a", "b", "c"]}', "with other JSON$"),
        ("x.json", '"cat"', "with other JSON$"),
        ("x.json", "[1, 2]", "with other JSON$"),
        ("x.json", "{", "Expected JSON. Received: .*/x.json "),
        ("x.json", "[" * 100_000, "Expected JSON. Received: .*/x.json "),
        ("x.csv", "a,b,c\nd,e,f\n", "a table of 3 columns$"),
        ("x.csv", "0,cat\n1\n", "a table of 2 columns$"),
        ("x.txt", "größe\n".encode("latin1"), "Expected a text in UTF-8. Received: .*/x.txt "),
    ],
)
def test_what_is_no_list_of_names_is_refused(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_class_names(written(tmp_path, name, content))


def test_equal_names_are_told_apart_by_ids_or_warned_of(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    names = ("crane", "maillot", "crane")
    pairs = dict(enumerate(zip(IDS, names, strict=True)))
    assert read_class_names(written(tmp_path, "x.json", json.dumps(pairs))) == (names, IDS)
    assert not recwarn
    with pytest.warns(UserWarning, match="x.txt has several classes of the same name, .*: crane$"):
        assert read_class_names(written(tmp_path, "x.txt", "\n".join(names))) == (names, None)


def test_lines_count_whatever_ends_them(tmp_path: Path) -> None:
    path = written(tmp_path, "x", "\ufeffa\r\nb \rc\u2028d\n\n")
    assert read_lines(path) == ["a", "b", "c\u2028d"]
    assert read_lines(written(tmp_path, "x", " \r\n")) == []


def test_export_takes_them(
    tmp_path: Path, digits_file: Path, command_in_process: Command, untimed: None
) -> None:
    names = "".join(f"{number}\tnumber {number}\r\n" for number in range(10))
    labels = written(tmp_path, "labels.txt", codecs.BOM_UTF8 + f"{names}\r\n".encode())
    words = ("export", str(digits_file), "--output", str(tmp_path), "--labels", str(labels))
    done = command_in_process(*words, "--targets", "tflite-float32")
    assert done.returncode == 0, done.stderr
    said = keras_resnet.Predictor(next(tmp_path.glob("*.tflite"))).class_names
    assert said == tuple(f"number {number}" for number in range(10))


@pytest.mark.parametrize("name", ["names.txt", "names.csv", "names.json"])
def test_pointers_and_web_pages_are_no_names(name: str, tmp_path: Path) -> None:
    for content, said in (
        (LFS_POINTER, "a Git LFS pointer instead of the file of 102,540,417 bytes. Run `git lfs"),
        (b"<!DOCTYPE html>\n<title>ImageNet</title>", r'a web page \("ImageNet"\) instead'),
    ):
        path = written(tmp_path, name, content)
        with pytest.raises(ValueError, match=f"Expected a text file. Received: {path}, {said}"):
            read_class_names(path)
