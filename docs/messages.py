"""The page that lists every error of the package, so that the site's search finds it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from docs.blocks import ROOT

#: Shorter ones are the ends of other messages.
SHORTEST = 20

INTRODUCTION = """\
# Messages

Every error of this package says what it expected, what it received, and what to do. This page
lists them by package, so that the search finds them; `…` stands for what differs.
[Troubleshooting](../troubleshooting.md) explains the most frequent ones.
"""


def messages_page() -> str:
    """Return the messages of all errors that the code raises, by package."""
    lines = [INTRODUCTION]
    for package, folder in packages().items():
        files = folder.rglob("*.py")
        found = sorted({message for file in files for message in messages(file)})
        if found:
            lines += [f"## {package}", "", *(f"- `` {message} ``" for message in found), ""]
    return "\n".join(lines)


def packages() -> dict[str, Path]:
    """Return the folders of the packages by name."""
    folders = sorted(path for path in (ROOT / "keras_resnet").iterdir() if path.is_dir())
    names = {f"keras_resnet.{path.name}": path for path in folders if path.name != "export"}
    return {**names, "keras_resnet.export": ROOT / "export"}


def messages(file: Path) -> Iterator[str]:
    """Find the messages of the errors that a file raises, except for those of broken code."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            if ast.unparse(node.exc.func) == "AssertionError":
                continue
            message = words(node.exc.args[0])
            if len(message) >= SHORTEST and message.strip("….: ") != "Received":
                yield message


def words(node: ast.AST) -> str:
    """Return the text of an expression, with `…` for what is not known before it runs."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(words, parts))
        case ast.BinOp(left=left, right=right, op=ast.Add()):
            return words(left) + words(right)
    return "…"
