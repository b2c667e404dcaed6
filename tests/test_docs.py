"""What README and the documentation show is what there is: examples, commands and their output."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import ROOT, Command

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
#: Pages that are generated, and those that consist of another file.
PAGES = [path for path in PAGES if path.parent.name != "reference"]
EXAMPLES = {
    path.name: path.read_text().split('"""\n', maxsplit=1)[1].lstrip("\n")
    for path in (ROOT / "examples").glob("*.py")
}


def blocks(path: Path, language: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def command_blocks() -> dict[str, list[str]]:
    """The blocks of commands, by page and number; without those that another one contains."""
    found = {
        f"{path.stem}-{number}": block.splitlines()
        for path in PAGES
        for number, block in enumerate(blocks(path, "sh"))
        # Contributors' commands are about the tests themselves.
        if path.name != "CONTRIBUTING.md"
    }

    def words(lines: list[str]) -> list[list[str]]:
        return [shlex.split(line, comments=True) for line in lines]

    return {
        name: lines
        for name, lines in found.items()
        if not any(
            all(line in words(others) for line in words(lines))
            and (len(others), other) > (len(lines), name)
            for other, others in found.items()
            if other != name
        )
    }


COMMANDS = command_blocks()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_code_on_pages_is_an_example(page: Path) -> None:
    for block in blocks(page, "python"):
        snippet = re.fullmatch(r'--8<-- "examples/(.*)"\n', block)
        assert snippet[1] in EXAMPLES if snippet else block in EXAMPLES.values(), block


def test_every_example_is_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in EXAMPLES if f"examples/{name}" not in text] == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[1:]:
        assert f": {page.relative_to(DOCS)}\n" in navigation, page


def test_readme_is_short() -> None:
    assert len(PAGES[0].read_text().splitlines()) <= 180


def test_links_of_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[0].read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


@pytest.fixture
def with_files(exported_digits: Path, tmp_path: Path) -> None:
    """What the commands are given."""
    (tmp_path / "model.keras").symlink_to(exported_digits / "model.keras")
    (tmp_path / "demo-output").symlink_to(exported_digits)
    (tmp_path / "checkpoint.pth").symlink_to(ROOT / "tests" / "fixtures" / "torch_zip.pth")
    for name in ("photos/a.png", "more/b.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (40, 30), (200, 100, 50)).save(tmp_path / name)
    random = np.random.default_rng(0)
    for kind in ("daisy", "rose"):
        (tmp_path / "flowers" / kind).mkdir(parents=True)
        for number in range(12):
            # Patches of random colours, red ones in roses.
            patches = random.integers(0, 256, (6, 8, 3), np.uint8)
            patches[..., 0] //= 1 if kind == "rose" else 4
            image = Image.fromarray(patches).resize((400, 300))
            image.save(tmp_path / f"flowers/{kind}/{number}.jpg")


@pytest.mark.full
@pytest.mark.parametrize("lines", COMMANDS.values(), ids=COMMANDS.keys())
@pytest.mark.usefixtures("with_files")
def test_commands_run(
    lines: list[str],
    keras_resnet_command: Command,
    command_in_process: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            # The test suite cannot run itself; that these targets exist is all it can check here.
            makefile = (ROOT / "Makefile").read_text()
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), line
            continue
        if words[0] == "pip":
            assert words[1:] == ["install", "-c", "constraints.txt", ".[export]"]
            continue
        if words[0] == "python3":
            assert words[1:4] == ["-m", "venv", ".venv"]
            continue
        assert words[0] == "keras-resnet", line
        if words[1] == "quickstart":
            words += ["--help"]
        # Training makes TensorFlow deterministic for good, and starts processes.
        alone = words[1] in ("train", "launch", "finetune", "compress")
        done = (keras_resnet_command if alone else command_in_process)(*words[1:])
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
        for option, name in itertools.pairwise(words):
            if option in ("--output", "--plot"):
                assert Path(name).exists(), done.stdout


@pytest.mark.full
def test_output_has_the_rows_that_are_printed(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    def skeleton(text: str) -> list[str]:
        """The lines without their figures, which differ from machine to machine."""
        lines = [
            " ".join(line.split())
            for line in text.splitlines()
            # These have paths.
            if line.strip() and not line.startswith(("Report:", "Next, try:"))
        ]
        # The rule is as long as the figures below it are wide.
        return [re.sub(r"[\d.,]+(e[+-]\d+)?", "#", re.sub("─+", "─", line)) for line in lines]

    printed = skeleton(demo[0].stdout)
    for page in (PAGES[0], DOCS / "get-started.md"):
        (shown,) = [block for block in blocks(page, "text") if "artifact" in block]
        for target in ("keras", "saved_model", "tflite-int8", "onnx"):
            assert re.search(rf"^ *{target} .* ok *$", shown, re.MULTILINE), target
        assert [line for line in skeleton(shown) if line not in printed] == []
