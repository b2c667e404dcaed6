"""`keras-resnet evaluate` as users run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest

from ..conftest import Command

Evaluate = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evaluate(command_in_process: Command) -> Evaluate:
    def run(*arguments: object) -> tuple[int, str, str]:
        done = command_in_process("evaluate", *map(str, arguments))
        return done.returncode, done.stdout, done.stderr

    return run


def test_table_files_and_comparison(evaluate: Evaluate, digits_file: Path, tmp_path: Path) -> None:
    code, output, errors = evaluate(
        *(digits_file, "--data", "digits", "--output", tmp_path / "one"),
        *("--predictions", tmp_path / "rows.parquet"),
    )
    assert code == 0, errors
    assert "top-1 accuracy" in output
    assert (tmp_path / "one" / "evaluation.html").stat().st_size > 10_000
    first = json.loads((tmp_path / "one" / "evaluation.json").read_text())
    assert first["images"] == 360
    assert first["accuracy"] > 0.9

    rows = pyarrow.parquet.read_table(tmp_path / "rows.parquet")
    assert rows.num_rows == 360
    assert sum(rows["right"].to_pylist()) / 360 == first["accuracy"]

    code, output, _ = evaluate(
        digits_file, digits_file, "--data", "digits", "--protocol", "flip", "--json"
    )
    assert code == 0
    second = json.loads(output)
    assert second["protocol"]["name"] == "flip"
    assert len(second["models"]) == 2
    (tmp_path / "two.json").write_text(output)
    code, output, _ = evaluate(
        "--compare", tmp_path / "one" / "evaluation.json", tmp_path / "two.json", "--json"
    )
    assert code == 0
    found = json.loads(output)
    assert found["images"] == 360
    assert found["accuracies"] == [first["accuracy"], second["accuracy"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.keras"], "Expected --data, and either models or --tags"),
        (["resnet50", "--data", "digits"], "Expected weights with the name of a network"),
        (["x.tflite", "--data", "digits"], "Expected"),
        (["--tags", "none/*", "--data", "digits"], "Expected --tags to match"),
        (["x.keras", "--data", "digits", "--protocol", "five"], "Expected `protocol` to be one of"),
        (["x.keras", "--data", "digits", "--predictions", "x.txt"], "Expected a file .csv or"),
        (["x.keras", "y.keras", "--data", "digits", "--ensemble-weights", "a"], "Expected numbers"),
    ],
)
def test_bad_arguments(evaluate: Evaluate, arguments: list[str], message: str) -> None:
    code, _, errors = evaluate(*arguments)
    assert code == 2, errors
    assert message in errors
    assert errors.count("\n") == 1
