"""Forked programs are processes like others."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from .conftest import Run, Start

FACTS = """
import json, os, sys
facts = dict(pid=os.getpid(), argv=sys.argv, folder=os.getcwd(), name=__name__,
             word=os.environ["WORD"], imported="tensorflow" in sys.modules)
print(json.dumps(facts))
print("é", file=sys.stderr)
sys.exit(3)
"""


def test_arguments_environment_and_streams(start_program: Start, tmp_path: Path) -> None:
    process = start_program("-c", FACTS, "a", "b c", folder=tmp_path, WORD="x=y")
    assert process.wait(60) == 3
    output, errors = process.communicate()
    assert errors == "é\n"
    assert json.loads(output) == {
        "pid": process.pid,
        "argv": ["-c", "a", "b c"],
        "folder": str(tmp_path),
        "name": "__main__",
        "word": "x=y",
        "imported": True,
    }
    assert "WORD" not in os.environ


def test_files_and_modules_are_run(start_program: Start, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("WORD = 'beside it'")
    script = tmp_path / "script.py"
    script.write_text("import sys, neighbour\nprint(__name__, neighbour.WORD, sys.argv[1:])")
    for arguments in ((str(script), "1"), ("-m", "script", "1")):
        output, errors = start_program(*arguments, folder=tmp_path).communicate(60)
        assert (output, errors) == ("__main__ beside it ['1']\n", "")


def test_failures_end_as_those_of_python_do(run_python: Run) -> None:
    done = run_python("import atexit\natexit.register(print, 'at exit')\n1 / 0")
    assert done.returncode == 1
    assert done.stdout == "at exit\n"
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
    done = run_python("raise SystemExit('one sentence')")
    assert (done.returncode, done.stderr) == (1, "one sentence\n")


def test_signals_reach_the_program(start_program: Start) -> None:
    code = "import time\nprint('begun', flush=True)\ntime.sleep(60)"
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = start_program("-c", code, merged=True)
        process.wait_for_output("begun")
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(60) == -number


def test_tensorflow_computes_in_several_at_once(start_program: Start) -> None:
    code = "import tensorflow as tf\nprint(float(tf.function(lambda x: x * 2)(tf.constant(%d.))))"
    processes = [start_program("-c", code % number) for number in (1, 2)]
    assert [process.communicate(60) for process in processes] == [("2.0\n", ""), ("4.0\n", "")]
