"""Read the pages: their blocks of code, their commands, and the outputs shown under commands.

A block of `text` shows the output of the last command of the block of `sh` above it, unless there
is a heading or another block between them. It may show a part of the output, from one line to
another.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
#: Without those that `build.py` generates.
PAGES = [
    ROOT / "README.md",
    *(path for path in sorted(DOCS.rglob("*.md")) if path.parent.name != "reference"),
]

_PARTS = re.compile(r"^#+ [^\n]*$|^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Output:
    """An output on a page.

    Attributes:
        page: file of the page.
        commands: the lines of the block above it. The last one prints it, or `make demo`.
        text: what is shown.
        start: where it begins in the page.
    """

    page: Path
    commands: tuple[str, ...]
    text: str
    start: int


def blocks(path: Path, language: str) -> list[str]:
    """Return the blocks of code of one language on a page."""
    found = _PARTS.finditer(path.read_text(encoding="utf-8"))
    return [part[2] for part in found if part[1] == language]


def words_of(line: str) -> list[str]:
    """Return the words of a command without its comment."""
    return shlex.split(line, comments=True)


def outputs(path: Path) -> Iterator[Output]:
    """Find the outputs on a page."""
    commands: tuple[str, ...] = ()
    for part in _PARTS.finditer(path.read_text(encoding="utf-8")):
        if part[1] == "text" and commands:
            yield Output(path, commands, part[2], part.start(2))
        commands = tuple(part[2].splitlines()) if part[1] == "sh" else ()


def skeleton(text: str) -> list[str]:
    """Return the lines of an output without their figures, which differ between machines."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    # A rule is as long as the figures below it are wide.
    return [re.sub(r"[\d.,]+(e[+-]\d+)?", "#", re.sub("─+", "─", line)) for line in lines]


def renewed(output: Output, printed: str) -> str:
    """Return the part of a new output that a page shows: from its first line to its last one.

    Raises:
        ValueError: one of these lines is not printed any more.
    """
    lines = printed.splitlines(keepends=True)
    bare = ["".join(skeleton(line)) for line in lines]
    first, *_, last = [*skeleton(output.text), *skeleton(output.text)[-1:]]
    if first not in bare or last not in bare:
        raise ValueError(
            f"Expected `{output.commands[-1]}` to print the first and the last line of its "
            f"output in {output.page.name}: {first!r}, {last!r}. Received: {printed}"
        )
    end = len(bare) - bare[::-1].index(last)
    return "".join(lines[bare.index(first) : end])


def write_given_files(folder: Path) -> None:
    """Write the files that commands on pages are given, except for a trained network."""
    from keras_resnet.data import load_digits

    (folder / "checkpoint.pth").symlink_to(ROOT / "tests" / "fixtures" / "torch_zip.pth")
    digits = load_digits()[1]
    for name, index in (("photos/seven.png", 0), ("photos/six.png", 1), ("more/three.jpg", 2)):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(digits.images[index]).resize((96, 96)).save(folder / name)
    random = np.random.default_rng(0)
    for kind in ("daisy", "rose"):
        (folder / "flowers" / kind).mkdir(parents=True)
        for number in range(12):
            # Patches of random colors, red ones in roses.
            patches = random.integers(0, 256, (6, 8, 3), np.uint8)
            patches[..., 0] //= 1 if kind == "rose" else 4
            image = Image.fromarray(patches).resize((400, 300))
            image.save(folder / f"flowers/{kind}/{number}.jpg")
