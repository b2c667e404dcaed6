"""What stands in the place of a file is named, and files themselves never are."""

from __future__ import annotations

from pathlib import Path

import pytest

from keras_resnet.support.json_text import load_json
from keras_resnet.support.placeholders import START, check_binary, not_binary, placeholder

from ..conftest import LFS_POINTER

PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in\n\x1b[2J</title></head></html>"

#: Content -> what is said of it; the first three are no texts that anybody wants, either.
TEXTS = {
    LFS_POINTER: "a Git LFS pointer instead of the file of 102,540,417 bytes. Run `git lfs install",
    PAGE: 'a web page ("Sign in \\x1b[2J") instead of the file. Download the file again',
    b"/annex/objects/SHA256E-s9--1.h5\n": "a git-annex pointer instead of the file. Run `git annex",
    b"": "an empty file. Copy or download it again",
    b'{"error": "Repository not found"}': "JSON, such as the error message of a server",
    b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>': "XML, such as the error",
    b"404: Not Found": 'text, instead of a binary file ("404: Not Found"). Download',
    # Cut in the middle of a character.
    ("x" + "é" * START).encode()[:START]: "text, instead of a binary file",
}


@pytest.mark.parametrize("content", TEXTS)
def test_texts_in_the_place_of_files_are_named(content: bytes, tmp_path: Path) -> None:
    said = not_binary(content)
    assert said is not None
    assert said.startswith(TEXTS[content])
    assert said.isprintable()
    assert placeholder(content) == (said if list(TEXTS).index(content) < 3 else None)
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="instead of|an empty file"):
        check_binary(tmp_path / "file")


def test_json_that_is_a_pointer_or_a_page_is_named(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    for content, said in ((LFS_POINTER, "a Git LFS pointer"), (PAGE, "a web page")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            load_json(path)


@pytest.mark.parametrize(
    "start",
    [
        b"PK\x03\x04",
        b"\x80\x02}q\x00",
        b"\x89HDF\r\n\x1a\n",
        b"\x40\x00\x00\x00\x00\x00\x00\x00{",  # safetensors
        b"\x1c\x00\x00\x00TFL3",
        b"\x08\x07\x12\x07pytorch",  # ONNX
        b"caf\xe9",  # Latin-1 is no UTF-8.
    ],
)
def test_binary_files_pass(start: bytes, tmp_path: Path) -> None:
    assert not_binary(start) is None
    (tmp_path / "file").write_bytes(start)
    check_binary(tmp_path / "file")
