"""What README and the documentation show is what there is: examples, commands and their output."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
from pathlib import Path

import nbformat
import pytest

from docs.blocks import DOCS, PAGES, blocks, outputs, renewed, skeleton, write_given_files
from docs.messages import messages_page
from docs.notebooks import NOTEBOOKS, execute

from .conftest import ROOT, Command

EXAMPLES = {
    path.name: path.read_text().split('"""\n', maxsplit=1)[1].lstrip("\n")
    for path in (ROOT / "examples").glob("*.py")
}


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
#: What pages show of the output of a command; not of the demo, which has a test of its own.
OUTPUTS = {
    tuple(shlex.split(output.commands[-1], comments=True)): output
    for page in PAGES
    for output in outputs(page)
    if "make demo" not in output.commands[0]
}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_code_on_pages_is_an_example(page: Path) -> None:
    for block in blocks(page, "python"):
        snippet = re.fullmatch(r'--8<-- "examples/(.*)"\n', block)
        assert snippet[1] in EXAMPLES if snippet else block in EXAMPLES.values(), block


def test_every_example_is_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in EXAMPLES if f"examples/{name}" not in text] == []
    assert [path.name for path in NOTEBOOKS if path.name not in text] == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[1:]:
        assert f": {page.relative_to(DOCS)}\n" in navigation, page


def test_readme_is_short() -> None:
    assert len(PAGES[0].read_text().splitlines()) <= 180


def test_readme_has_no_links_that_a_package_index_breaks() -> None:
    assert re.findall(r"\]\((?!https?:)[^)]*\)", PAGES[0].read_text(encoding="utf-8")) == []


def test_files_that_readme_names_exist() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    names = re.findall(r"`([\w/-]+\.md|[\w-]+/[\w/-]+\.(?:py|png))`", text)
    assert len(names) > 20
    for name in names:
        assert (ROOT / name).exists() or (DOCS / name).exists(), name


def test_chart_of_readme_shows_the_committed_study() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    study = json.loads((DOCS / "degradation.json").read_text())
    for network in study["networks"]:
        kind, layers = network["name"].split("-")
        mean, deviation = (
            100 * network[f"train_error_{part}"][-1] for part in ("mean", "deviation")
        )
        row = rf"^{kind}, {layers} layers +([█▏▎▍▌▋▊▉]+) {mean:.2f} ± {deviation:.2f} %$"
        bar = re.search(row, text, re.MULTILINE)
        assert bar is not None, network["name"]
        # A character for each percent, the last one in eighths.
        length = bar[1].count("█") + (" ▏▎▍▌▋▊▉".find(bar[1][-1]) / 8 if bar[1][-1] != "█" else 0)
        assert length == pytest.approx(mean, abs=0.1)


def test_pictures_are_small_and_have_words() -> None:
    pictures = [*DOCS.rglob("*.png"), *DOCS.rglob("*.svg")]
    assert len(pictures) > 10
    for path in pictures:
        assert path.stat().st_size <= 60_000, path
    text = {page: page.read_text(encoding="utf-8") for page in PAGES}
    for page, words in text.items():
        for alternative, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", words):
            assert len(alternative) > 20, (page, target)
            assert (page.parent / target).exists(), (page, target)
    shown = "".join(text.values())
    assert [path for path in pictures if path.name not in shown] == []


def test_every_message_is_listed() -> None:
    page = messages_page()
    assert "Expected `images` together with `labels`. Received: `labels` alone" in page
    assert page.count("\n- ") > 500


def test_examples_of_the_reference_are_shown_as_code() -> None:
    # Google's section is `Examples:`; under any other heading, `>>>` becomes quotation marks.
    files = (path for name in ("keras_resnet", "export") for path in (ROOT / name).rglob("*.py"))
    wrong = [path for path in files if re.search(r"^ *Example:$", path.read_text(), re.MULTILINE)]
    assert wrong == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_small_and_have_their_outputs(path: Path) -> None:
    assert path.stat().st_size <= 150_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        prints = re.search(r"^ *print\(|plt\.show\(", cell.source, re.MULTILINE)
        assert cell.outputs or not prints, cell.source
    # Neither places on a machine nor its users.
    assert re.search(r"/(home|root|tmp|work|Users)/", path.read_text()) is None


@pytest.mark.full
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path) -> None:
    def kinds(notebook: nbformat.NotebookNode) -> list[list[str]]:
        """Text or picture, for the outputs of each cell."""
        return [
            [output.output_type for output in cell.get("outputs", ())] for cell in notebook.cells
        ]

    assert kinds(execute(path, tmp_path)) == kinds(nbformat.read(path, as_version=4))


@pytest.fixture
def with_files(exported_digits: Path, tmp_path: Path) -> None:
    """What the commands are given."""
    (tmp_path / "model.keras").symlink_to(exported_digits / "model.keras")
    (tmp_path / "demo-output").symlink_to(exported_digits)
    write_given_files(tmp_path)


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
        if (output := OUTPUTS.get(tuple(words))) is not None:
            # Figures and classes differ, as another network is taken here; the form does not.
            assert renewed(output, done.stdout)
        for option, name in itertools.pairwise(words):
            if option in ("--output", "--plot"):
                assert Path(name).exists(), done.stdout


@pytest.mark.full
def test_output_has_the_rows_that_are_printed(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    printed = skeleton(demo[0].stdout)
    for page in (PAGES[0], DOCS / "get-started.md"):
        (shown,) = [output.text for output in outputs(page) if "make demo" in output.commands[0]]
        for target in ("keras", "saved_model", "tflite-int8", "onnx"):
            assert re.search(rf"^ *{target} .* ok *$", shown, re.MULTILINE), target
        # These have paths. (Commas are taken for parts of figures.)
        paths = ("Report:", "Next# try:")
        lines = [line for line in skeleton(shown) if not line.startswith(paths)]
        assert [line for line in lines if line not in printed] == []
