"""What messages advise can be done where they are read."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from keras_resnet.cli.options import app
from keras_resnet.cli.wording import in_options

from ..conftest import ROOT, Command
from ..test_structure import MODULES

#: A message that tells to run another program has that one's options.
OTHERS = re.compile(r"\b(srun|pip)\b")
#: Sources of recipes quote scripts of others; one makes options of arguments, one says both.
QUOTING = {"training.recipes.libraries", "cli.wording", "export.report.rows"}


@pytest.mark.parametrize(
    ("command", "text", "expected"),
    [
        ("train", "raise `max_bad_fraction`", "raise `--max-bad-fraction`"),
        ("train", "Choose `batch_size=16`", "Choose `--batch-size 16`"),
        ("train", "`strategy='cpu'` trains", "`--strategy cpu` trains"),
        ("train", "Pass `jit_compile=False`", "Pass `--no-xla`"),
        ("train", "or set `schedule.warmup`", "or set `--set schedule.warmup`"),
        ("train", "`optimizer.accumulation=1`", "`--set optimizer.accumulation=1`"),
        ("export", "pass `overwrite=True`", "pass `--overwrite`"),
        ("export", "Name them in `keep_float`", "Name them in `--keep-float`"),
        ("data prepare imagenet", "`check_counts=False`", "`--no-check-counts`"),
        ("data prepare folder", "pass `overwrite=True`", "pass `--overwrite`"),
        ("evaluate", "pass `match_names=True`", "pass `--match-names`"),
        # What the command has no option for is Python's, and what is quoted is no argument.
        ("doctor", "pass `overwrite=True`", "pass `overwrite=True`"),
        ("evaluate", "`optimizer.accumulation=1`", "`optimizer.accumulation=1`"),
        ("train", "Pass `strict=False`", "Pass `strict=False`"),
        ("train", "a `.keras` file, `model.keras`", "a `.keras` file, `model.keras`"),
        ("predict", "give `pixels`, or `pixels='raw'`", "give `--pixels`, or `--pixels raw`"),
        ("info", "a network of `list_models()`", "a network of `keras-resnet list`"),
        ("convert", "a tag of `list_weights()`", "a tag of `keras-resnet weights`"),
        ("no-such-command", "raise `max_bad_fraction`", "raise `max_bad_fraction`"),
    ],
)
def test_arguments_become_options(
    command: str, text: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["keras-resnet", *command.split(), "--seed", "1"])
    assert in_options(text) == expected


def commands(command: Any = None) -> Iterator[Any]:
    """All commands, with those of groups."""
    command = typer.main.get_command(app) if command is None else command
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from commands(inner)


def options_of(command: Any) -> set[str]:
    return {option for p in command.params for option in (*p.opts, *p.secondary_opts)}


OPTIONS = set().union(*map(options_of, commands())) | {"--help"}


def messages(path: Path) -> Iterator[str]:
    """The strings of a module that are no docstrings; expressions in them are `{}`."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    seen = {id(node.body[0].value) for node in ast.walk(tree)  # type: ignore[attr-defined]
            if isinstance(node, documented) and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    for node in ast.walk(tree):
        if id(node) in seen:
            continue
        if isinstance(node, ast.JoinedStr):
            seen |= {id(part) for part in ast.walk(node)}
            yield "".join(str(getattr(part, "value", "")) if isinstance(part, ast.Constant)
                          else "{}" for part in node.values)  # fmt: skip
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def named_options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


@pytest.mark.parametrize("module", sorted(MODULES.keys() - QUOTING))
def test_options_that_messages_name_exist(module: str) -> None:
    """Of a command, in its own module; elsewhere they are for readers of the command line only.

    Python's functions name their arguments: the command turns them into its options.
    """
    for text in messages(MODULES[module]):
        found = named_options(text)
        if not found or text in found or OTHERS.search(text):
            continue
        assert found <= OPTIONS, (module, text)
        said_there = module.split(".")[0] == "cli" or "keras-resnet " in text
        assert said_there, f"{module} names options to readers of Python: {text!r}"


@pytest.mark.parametrize("module", sorted(MODULES.keys() - QUOTING))
def test_no_message_says_a_name_twice(module: str) -> None:
    """The command makes an option of an argument: none stands in brackets beside it."""
    for text in messages(MODULES[module]):
        assert not re.search(r"`[a-z_]+=?` \(`?--|\(`?--[a-z-]+`?, `[a-z_]+=?`\)", text), text


def test_options_of_commands_in_the_readme_exist() -> None:
    by_name = {
        " ".join(path): options_of(command) for path, command in _paths(typer.main.get_command(app))
    }
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in re.findall(r"keras-resnet ((?:[a-z-]+ ?)+[^`\n#]*)", text):
        words = line.split(" -- ")[0].split()
        name = next((" ".join(words[:n]) for n in (3, 2, 1) if " ".join(words[:n]) in by_name), "")
        if name:
            assert named_options(" ".join(words)) <= by_name[name] | {"--help"}, line


def test_every_command_that_shows_its_progress_can_be_told_how_often() -> None:
    by_name = {" ".join(path): command for path, command in _paths(typer.main.get_command(app))}
    for name in ("verify", "benchmark", "predict", "evaluate", "compress", "data benchmark"):
        assert "--log-every" in options_of(by_name[name]), name


def _paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        yield (*path, name), inner
        yield from _paths(inner, (*path, name))


def test_every_command_that_stops_at_unreadable_images_can_be_told_to_go_on() -> None:
    by_name = {" ".join(path): command for path, command in _paths(typer.main.get_command(app))}
    #: These name what cannot be read, and have exit code 1; shards are for `--skip-unreadable`.
    naming = {"evaluate", "embed", "predict", "data scan", "analyze explain"}
    reading = {"train", "finetune", "find-rate", "compress", "export", "verify", "data benchmark"}
    reading |= {"analyze lesion", "analyze responses"}
    for name in reading:
        assert "--max-bad-fraction" in options_of(by_name[name]), name
    for name in naming:
        assert "--max-bad-fraction" not in options_of(by_name[name]), name


def test_too_many_unreadable_images_are_told_in_the_words_of_the_command(
    command_in_process: Command, tmp_path: Path, digits_file: Path
) -> None:
    done = command_in_process(
        "evaluate", str(digits_file), "--data", "digits", "--output", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    again = command_in_process(
        "evaluate", str(digits_file), "--data", "digits", "--output", str(tmp_path)
    )
    assert again.returncode == 2
    assert again.stderr.rstrip().endswith("Pass `--overwrite`.")
