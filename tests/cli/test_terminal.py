"""What comes from elsewhere reaches the terminal as text: it moves no cursor and makes no lines."""

from __future__ import annotations

import io
import json
import re
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from keras_resnet import ResNetConfig, build
from keras_resnet.export import BenchmarkReport
from keras_resnet.export.report.timing import Measurement
from keras_resnet.models.info import set_class_names
from keras_resnet.support import terminal
from keras_resnet.support.pages import escaped
from keras_resnet.support.text import markdown, printable, sentence

from ..conftest import Command

#: Clears the screen; begins a line that looks like ours; turns the direction; C1 control; a name
#: that is no UTF-8.
HOSTILE = "\x1b[2Jcat\nkeras-resnet: All is well.\r\u202e\x9b31m\udcff"
SHOWN = r"\x1b[2Jcat\nkeras-resnet: All is well.\r\u202e\x9b31m\udcff"


def assert_clean(output: str, lines: int | None = None) -> None:
    assert all(line.isprintable() for line in output.split("\n")), repr(output)
    assert "\nkeras-resnet: All is well" not in output
    if lines is not None:
        assert output.count("\n") == lines


def test_what_is_not_printable_is_shown_as_python_writes_it() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("Grüße, 日本 [x] \\ C:\\new") == "Grüße, 日本 [x] \\ C:\\new"
    assert sentence("a\n  b\x1b c\n") == r"a b\x1b c"
    assert markdown("a|b\n#\x07") == r"a\|b \#\\x07"
    assert escaped("<b>\x07") == r"&lt;b&gt;\x07"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_everything_goes_through_one_function(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = io.StringIO()
    console = terminal.Console(file=file, force_terminal=is_terminal, no_color=True, width=200)
    monkeypatch.setattr(terminal, "console", console)
    console.print(HOSTILE, HOSTILE)
    rows = terminal.table(("name",))
    rows.add_row(HOSTILE)
    console.print(rows)
    with terminal.progress_bar("work") as step:
        step(HOSTILE, 0.5)
    terminal.print_lines("one\n\x1b[2Jtwo")
    # Less what rich itself writes for bars and colours.
    assert_clean(re.sub(r"\x1b\[(\?25[lh]|[0-9;]*[mAK])|\r", "", file.getvalue()))
    terminal.complain(HOSTILE)
    assert_clean(capsys.readouterr().err, 1)


def test_silence_is_ended_by_lines_that_say_how_far_the_work_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = io.StringIO()
    console = terminal.Console(file=file, width=200)
    console.log_every = 0.05
    monkeypatch.setattr(terminal, "console", console)

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + 10
        while text not in file.getvalue():
            assert time.monotonic() < deadline, file.getvalue()
            time.sleep(0.01)

    with terminal.progress_bar("work", lines=0) as step:
        wait_for("work: starting, 0:00:00 so far\n")
        step("tracing", 0.25)
        wait_for("work: tracing (25% done), 0:00:00 so far\n")
    after = file.getvalue()
    time.sleep(0.15)
    assert file.getvalue() == after
    # Where lines come often enough, there are no others.
    file.truncate(0)
    console.log_every = 5
    with terminal.progress_bar("work") as step:
        step("one", 0.0)
        step("two", 0.5)
    assert file.getvalue().strip("\0") == "work: one (0% done)\nwork: two (50% done)\n"
    file.truncate(0)
    console.log_every = 0.01
    with terminal.progress_bar("work", hidden=True) as step:
        step("one", 0.0)
        time.sleep(0.05)
    assert file.getvalue() == ""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = build(
        ResNetConfig("basic", (1,), (8,), stem="cifar"), input_shape=(8, 8, 3), classes=2
    )
    set_class_names(network, [HOSTILE.replace("\udcff", ""), "dog"])
    network.save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def test_names_of_files_and_classes(
    model: Path, tmp_path: Path, command_in_process: Command
) -> None:
    (tmp_path / f"bad{HOSTILE}.png").touch()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{HOSTILE}.png", "PNG")
    done = command_in_process("predict", str(model), *map(str, tmp_path.glob("*.png")))
    assert done.returncode == 1
    assert_clean(done.stdout, 3)
    assert_clean(done.stderr, 2)
    assert f"{SHOWN}.png\n" in done.stdout
    assert r"%  \x1b[2Jcat\n" in done.stdout
    for arguments in (
        ["predict", f"{HOSTILE}.keras", str(tmp_path / f"{HOSTILE}.png")],
        ["info", HOSTILE],
        [HOSTILE],
        ["list", f"--{HOSTILE}"],
        ["convert", f"{HOSTILE}.pth", "--output", "x.keras"],
        ["train", "--model", "resnet20", "--data", f"folder:{HOSTILE}", "--output", str(tmp_path)],
    ):
        done = command_in_process(*arguments)
        assert done.returncode in (1, 2)
        assert_clean(done.stdout + done.stderr)
        assert done.stderr.startswith("keras-resnet: ")


def test_json_is_for_machines_and_clean(
    model: Path, tmp_path: Path, command_in_process: Command
) -> None:
    path = tmp_path / "\x1b[2J.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, "PNG")
    done = command_in_process("predict", str(model), str(path), "--json")
    assert_clean(done.stdout)
    assert json.loads(done.stdout)["predictions"][0]["file"] == str(path)


def test_warnings_are_clean(command_in_process: Command) -> None:
    command_in_process("list", "resnet20")
    assert_clean(warnings.formatwarning(HOSTILE, UserWarning, "", 1), 1)


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (100, ["network", "versions", "block", "MACs"]),
        (80, ["network", "versions", "block", "MACs"]),
        (60, ["network", "versions", "MACs"]),
        (45, ["network", "MACs"]),
        (36, []),
    ],
)
def test_narrow_tables_lose_columns_but_no_words(width: int, headings: list[str]) -> None:
    file = io.StringIO()
    console = terminal.Console(file=file, width=width, no_color=True)
    rows = terminal.table(
        ("network", "versions", "block", "MACs"), left=3, optional=("block", "versions")
    )
    rows.add_row("resnet50_with_a_long_name", "v1, v1.5", "bottleneck", "4,089.2 M")
    rows.add_row("resnet20", "v1", "basic", "40.8 M")
    rows.caption = "Of two networks."
    console.print(rows)
    lines = [line.strip() for line in file.getvalue().splitlines() if line.strip()]
    # Sentences go on in the next line of a terminal.
    assert max(len(line) for line in lines if not line.endswith(".")) <= width
    assert any("resnet50_with_a_long_name" in line for line in lines)
    assert any("4,089.2 M" in line for line in lines)
    assert "Of two networks." in lines
    assert "…" not in file.getvalue()
    if headings:
        assert lines[0].split() == headings
        gone = [name for name in ("block", "versions") if name not in headings]
        said = f"Not shown, as there is no room: {', '.join(gone)}."
        assert (said in lines) == bool(gone)
    else:
        # Nothing is left out of a list.
        assert lines[:4] == [
            "resnet50_with_a_long_name",
            "versions  v1, v1.5",
            "block     bottleneck",
            "MACs      4,089.2 M",
        ]


def printed(width: int, rows: Any, is_bounded: bool = True) -> str:
    file = io.StringIO()
    console = terminal.Console(file=file, width=width, no_color=True)
    console.is_bounded = is_bounded
    console.print(rows)
    return file.getvalue()


@pytest.mark.parametrize("width", [100, 80, 40])
def test_no_word_of_a_cell_is_split(width: int) -> None:
    rows = terminal.table(
        ("recipe", "schedule", "top-1 %", "rate"), 3, wrap=("schedule", "top-1 %")
    )
    accuracies = "resnet110v2 93.63, resnet164v2 94.54, resnet1001v2 95.08, resnet152v2 78.9"
    cells = ("he2016", "piecewise-linear", accuracies, "0.1")
    rows.add_row(*cells)
    words = printed(width, rows).split()
    for word in " ".join(cells).split():
        assert word in words
    lines = [line for line in printed(width, rows).splitlines() if "95.08" not in line]
    assert max(map(len, lines)) <= width


def test_words_that_are_longer_than_the_terminal_are_folded() -> None:
    rows = terminal.table(("file", "size"), wrap=("file",))
    rows.add_row("/folder/" * 9, "9 MB")
    lines = printed(40, rows).splitlines()
    assert max(map(len, lines)) == 40
    assert "/folder/" * 9 in "".join(line.replace("9 MB", "").strip() for line in lines)


def test_files_and_pipes_get_all_columns() -> None:
    rows = terminal.table(("network", "block", "MACs"), left=2, optional=("block",))
    rows.add_row("resnet50_with_a_long_name", "bottleneck", "4,089.2 M")
    assert "bottleneck" in printed(30, rows, is_bounded=False)
    assert "bottleneck" not in printed(40, rows)


def test_errors_of_a_benchmark_stand_below_its_table(
    command_in_process: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reason = "TypeError: " + "a message of several hundred characters " * 6
    report = BenchmarkReport(
        (
            Measurement("/a/long_folder/model-int8.tflite", 1, 0, 9, 2.0, 3.0),
            Measurement("/a/long_folder/model-int8.onnx", 1, 0, error=reason),
        )
    )
    monkeypatch.setattr("keras_resnet.export.benchmark", lambda *_, **__: report)
    files = [tmp_path / "a.tflite", tmp_path / "b.onnx"]
    for file in files:
        file.write_bytes(b"")
    done = command_in_process("benchmark", *map(str, files))
    assert done.returncode == 1
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "model-int8.tflite 1 all 2.00 ms 3.00 ms – 500 0 MB 1.000" in lines
    assert "model-int8.onnx 1 all not run – – – – –" in lines
    assert "Paths are relative to /a/long_folder" in lines
    assert lines[-1] == f"/a/long_folder/model-int8.onnx: not run: {reason.strip()}"


def test_accuracies_on_other_images_are_marked(command_in_process: Command) -> None:
    done = command_in_process("list", "resnet[23][02]")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert next(line for line in lines if line.startswith("resnet20 ")).endswith("* 80.66")
    assert "*" not in next(line for line in lines if line.startswith("resnet32 "))
    assert lines[-1].startswith("* resnet20: our own, on 5,000 CIFAR-10 ")
    data = json.loads(command_in_process("list", "resnet20", "--json").stdout)
    assert data["resnet20"]["top1_weights"] == "keras_resnet/resnet20.cifar10_jpeg"
