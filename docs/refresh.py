"""Renew what the documentation shows: outputs of commands, pictures, and outputs of notebooks.

    make demo                                # leaves the network that the parts below use
    python -m docs.refresh                   # outputs, pictures and notebooks
    python -m docs.refresh outputs --only training
    python -m docs.refresh demo              # runs the demo again, and shows its output
    python -m docs.refresh studies           # degradation and shortcuts: a quarter of an hour

Review the changes as a diff. Sentences that repeat a figure are not changed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import nbformat

from docs.blocks import DOCS, PAGES, ROOT, Output, outputs, renewed, words_of, write_given_files
from docs.notebooks import NOTEBOOKS, execute
from docs.pictures import PICTURES, shrink

DEMO = ROOT / "demo-output"


def run(words: list[str], folder: Path) -> str:
    """Run a `keras-resnet` command and return what it prints.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "keras_resnet", *words[1:]]
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, text=True, stdout=subprocess.PIPE
    )
    return done.stdout


def working_folder(folder: Path) -> Path:
    """Fill a folder with what the commands of pages are given.

    Raises:
        FileNotFoundError: there is no network of the demo.
    """
    if not (DEMO / "model.keras").exists():
        raise FileNotFoundError(f"Expected {DEMO}, which `make demo` writes. Run it first.")
    (folder / "demo-output").symlink_to(DEMO)
    write_given_files(folder)
    return folder


def replace(output: Output, printed: str) -> None:
    """Show a new output in the place of an earlier one."""
    page = output.page.read_text("utf-8")
    before, after = page[: output.start], page[output.start + len(output.text) :]
    output.page.write_text(before + renewed(output, printed) + after, "utf-8")


def refresh_demo(only: str) -> None:
    """Run the demo and show its output."""
    words = ["keras-resnet", "quickstart", "--output", DEMO.name, "--overwrite"]
    printed = run(words, ROOT)
    for page in PAGES:
        for output in outputs(page):
            if ["make", "demo"] in map(words_of, output.commands):
                replace(output, printed)


def refresh_outputs(only: str) -> None:
    """Run the commands with an output, and show it; not the demo."""
    for page in PAGES:
        # From the last one on, so that those before it stay where they are.
        for output in [*outputs(page)][::-1] if only in page.stem else ():
            if words_of(output.commands[0])[0] != "keras-resnet":
                continue
            with tempfile.TemporaryDirectory() as name:
                folder = working_folder(Path(name))
                printed = [run(words_of(line), folder) for line in output.commands]
            replace(output, printed[-1])


def refresh_pictures(only: str) -> None:
    """Draw the pictures."""
    (DOCS / "pictures").mkdir(exist_ok=True)
    for draw in PICTURES:
        if only in draw.__name__:
            with tempfile.TemporaryDirectory() as name:
                draw(working_folder(Path(name)), run)


def refresh_notebooks(only: str) -> None:
    """Run the notebooks, and keep their outputs."""
    for path in NOTEBOOKS:
        if only in path.stem:
            with tempfile.TemporaryDirectory() as name:
                nbformat.write(execute(path, Path(name)), path)


def refresh_studies(only: str) -> None:
    """Run the studies that train many networks."""
    for study in ("degradation", "shortcuts"):
        if only in study:
            with tempfile.TemporaryDirectory() as name:
                words = ["keras-resnet", "analyze", study, "--output", "docs"]
                sys.stdout.write(run(words, Path(name)))
                (Path(name) / f"docs/{study}.json").replace(DOCS / f"{study}.json")
                shrink(Path(name) / f"docs/{study}.png", DOCS / f"{study}.png")


PARTS: dict[str, Callable[[str], None]] = {
    "outputs": refresh_outputs,
    "pictures": refresh_pictures,
    "notebooks": refresh_notebooks,
    "demo": refresh_demo,
    "studies": refresh_studies,
}


def main() -> None:
    """Refresh the parts that are named, or the first three."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", default=[*PARTS][:3], metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument(
        "--only", default="", help="a part of the name of a page, picture or notebook"
    )
    arguments = parser.parse_args()
    if unknown := {*arguments.parts} - {*PARTS}:
        parser.error(f"Expected parts among {', '.join(PARTS)}. Received: {', '.join(unknown)}")
    for part in arguments.parts:
        PARTS[part](arguments.only)


if __name__ == "__main__":
    main()
