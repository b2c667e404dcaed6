"""Detection of text files in place of other files: pointers, web pages, error messages.

A clone without Git LFS, or a download of the wrong link, leaves a small text under the name of a
model, an image or a list. Readers check for it first, so that their errors name the real cause.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from pathlib import Path

from keras_resnet.support.text import sentence

#: Number of bytes at the start of a file that are checked.
START = 1024

#: First line of a pointer: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_LFS = re.compile(rb"version https://(git-lfs\.github\.com|hawser\.github\.com)/spec/v1\s")

#: Pointer of git-annex: https://git-annex.branchable.com/internals/pointer_file/
_ANNEX = re.compile(rb"/annex/objects/\S")

_PAGE = re.compile(rb"(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.I | re.S)

#: Control characters that texts do not contain.
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")

_AGAIN = "Download the file again, from the link to the file itself"


def placeholder(start: bytes) -> str | None:
    """Describe a Git LFS pointer, a git-annex pointer or a web page, and what to do.

    Args:
        start: the first `START` bytes of a file, or the whole file.

    Returns:
        A clause such as `"a Git LFS pointer … Run `git lfs pull` …"`; `None` for other files.
    """
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _LFS.match(start):
        size = re.search(rb"^size (\d{1,18})\s*$", start, re.MULTILINE)
        of = f" of {int(size[1]):,} bytes" if size else ""
        return (
            f"a Git LFS pointer instead of the file{of}. Run `git lfs install` and `git lfs pull` "
            "in its repository, or download the file itself"
        )
    if _ANNEX.match(start):
        return "a git-annex pointer instead of the file. Run `git annex get` in its repository"
    if _PAGE.match(start):
        title = re.search(rb"<title[^>]*>(.*?)</title", start, re.IGNORECASE | re.DOTALL)
        name = sentence(title[1].decode(errors="replace"))[:80] if title else ""
        called = f' ("{name}")' if name else ""
        return (
            f"a web page{called} instead of the file. {_AGAIN} (GitHub:"
            " `Download raw file`; Hugging Face: `/resolve/` in place of `/blob/`)"
        )
    return None


def not_binary(start: bytes) -> str | None:
    """Describe an empty file or a text in place of a binary file, and what to do.

    Args:
        start: the first `START` bytes of a file, or the whole file.

    Returns:
        The result of `placeholder`, or a clause about an empty file, an error message in JSON or
        XML, or another text; `None` for a binary file.
    """
    if not start:
        return "an empty file. Copy or download it again"
    if known := placeholder(start):
        return known
    try:
        # In a longer file, the last character may be incomplete.
        text = codecs.getincrementaldecoder("utf-8")().decode(start, len(start) < START)
    except UnicodeDecodeError:
        return None
    if _BINARY.search(start):
        return None
    quoted = sentence(text)
    quoted = quoted if len(quoted) <= 80 else f"{quoted[:80]}…"
    kind = {"{": "JSON", "[": "JSON", "<": "XML"}.get(quoted[:1])
    what = f"{kind}, such as the error message of a server" if kind else "text"
    return f'{what}, instead of a binary file ("{quoted}"). {_AGAIN}'


def text_instead(path: Path) -> str | None:
    """Return the result of `not_binary` for a file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return not_binary(file.read(START))


def check_binary(path: Path) -> None:
    """Check that a file is binary.

    Raises:
        ValueError: the file is empty or a text; the message ends a sentence about the file.
        OSError: the file cannot be read.
    """
    if reason := text_instead(path):
        raise ValueError(reason)


def refuse_text(path: Path, expected: str) -> None:
    """Check that a file is binary, with a complete message, before its reader is imported.

    Args:
        path: an existing file. If it cannot be opened, the error is left to the reader.
        expected: description of the expected file, for the message.

    Raises:
        ValueError: the file is empty or a text.
    """
    with contextlib.suppress(OSError):
        if reason := text_instead(path):
            raise ValueError(f"Expected {expected}. Received: {path}: {reason}")
