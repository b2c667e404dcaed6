"""What the README shows is what there is: examples, commands and their output."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from .conftest import ROOT, Command

README = (ROOT / "README.md").read_text(encoding="utf-8")

#: Examples that the README links to and does not show.
LINKED = {
    *("detection.py", "keras_hub_detection.py", "keras_hub_segmentation.py"),
    "migrating_from_keras_applications.py",
    *("multi_label.py", "segmentation.py", "self_supervised.py"),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_examples_are_shown_as_they_are() -> None:
    shown = blocks("python")
    examples = sorted((ROOT / "examples").glob("*.py"))
    for path in examples:
        if path.name in LINKED:
            assert f"](examples/{path.name})" in README, path.name
            continue
        code = path.read_text().split('"""\n', maxsplit=1)[1].lstrip("\n")
        assert code in shown, path.name
    assert len(shown) == len(examples) - len(LINKED)


@pytest.fixture
def with_files(exported_digits: Path, tmp_path: Path) -> None:
    """What the commands of the README are given."""
    (tmp_path / "model.keras").symlink_to(exported_digits / "model.keras")
    (tmp_path / "demo-output").symlink_to(exported_digits)
    (tmp_path / "checkpoint.pth").symlink_to(ROOT / "tests" / "fixtures" / "torch_zip.pth")
    for name in ("photos/a.png", "more/b.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (40, 30), (200, 100, 50)).save(tmp_path / name)
    for kind in ("daisy", "rose"):
        (tmp_path / "flowers" / kind).mkdir(parents=True)
        for number in range(12):
            colour = (20 * number, 100 if kind == "rose" else 0, 50)
            Image.new("RGB", (400, 300), colour).save(tmp_path / f"flowers/{kind}/{number}.jpg")


@pytest.mark.full
@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()])
@pytest.mark.usefixtures("with_files")
def test_commands_run(
    line: str,
    keras_resnet_command: Command,
    command_in_process: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        # The test suite cannot run itself; that these targets exist is all it can check here.
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    if words[0] == "pip":
        assert words[1:] == ["install", "keras-resnets[export]"]
        return
    assert words[0] == "keras-resnet"
    if words[1] == "quickstart":
        words += ["--help"]
    monkeypatch.chdir(tmp_path)
    # Training makes TensorFlow deterministic for good, and starts processes.
    alone = words[1] in ("train", "launch", "finetune")
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
    (shown,) = [block for block in blocks("text") if "artifact" in block]
    for target in ("keras", "saved_model", "tflite-int8", "onnx"):
        assert re.search(rf"^ *{target} .* ok *$", shown, re.MULTILINE), target

    def skeleton(text: str) -> list[str]:
        """The lines without their figures, which differ from machine to machine."""
        lines = [
            " ".join(line.split())
            for line in text.splitlines()
            if line.strip() and not line.startswith(("Report:", "Next, try:"))
        ]
        # The rule is as long as the figures below it are wide.
        return [re.sub(r"[\d.,]+(e[+-]\d+)?", "#", re.sub("─+", "─", line)) for line in lines]

    printed = skeleton(demo[0].stdout)
    assert [line for line in skeleton(shown) if line not in printed] == []
