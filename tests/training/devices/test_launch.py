"""Processes that are started together end together."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest

from keras_resnet.training.devices.launch import free_ports, launch_processes

from ...conftest import Command, Start
from ...fork_server import Process

#: Waits, and says when it has begun and what it was asked to end by.
WAITS = """
import signal, sys, time
def end(number, frame):
    print("asked to end", flush=True)
    sys.exit(128 + number)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, end)
print("begun", flush=True)
time.sleep(60)
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("begun", flush=True)
time.sleep(60)
print("slept to the end", flush=True)
"""


def run(*programs: str, stop_seconds: float = 10) -> tuple[int, list[str]]:
    messages: list[str] = []
    commands = [[sys.executable, "-S", "-c", program] for program in programs]
    code = launch_processes(
        commands, [dict(os.environ)] * len(programs), messages.append, stop_seconds
    )
    return code, messages


def test_lines_carry_the_number_of_their_worker(capsys: pytest.CaptureFixture[str]) -> None:
    code, messages = run(
        "print('one'); print('é\\rtwo', end='')", "import sys; print('three', file=sys.stderr)"
    )
    assert (code, messages) == (0, [])
    out, err = capsys.readouterr()
    assert out.splitlines() == ["[0] one", "[0] two"]
    assert err.splitlines() == ["[1] three"]


def test_one_that_fails_ends_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    code, messages = run(WAITS, "import time; time.sleep(1); raise SystemExit(3)")
    assert code == 3
    assert messages == ["Worker 1 ended with code 3; the other workers are stopped."]
    assert "[0] asked to end" in capsys.readouterr().out


def test_one_that_does_not_listen_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    kill = "import os, time; time.sleep(1); os.kill(os.getpid(), 9)"
    code, messages = run(kill, DEAF, stop_seconds=1)
    assert code == 128 + 9
    assert messages == ["Worker 0 was ended by SIGKILL; the other workers are stopped."]
    assert "slept to the end" not in capsys.readouterr().out


def test_the_last_one_may_fail_alone() -> None:
    code, messages = run("pass", "import time; time.sleep(0.5); raise SystemExit(4)")
    assert (code, messages) == (4, ["Worker 1 ended with code 4."])


def launcher(start_program: Start, *programs: str) -> Process:
    """A process that launches, so that it can be sent signals; prints the pids of its children."""
    code = f"""
    import os, sys
    from keras_resnet.training.devices import launch
    start = launch._start
    def noted(*arguments):
        process = start(*arguments)
        print("pid", process.pid, flush=True)
        return process
    launch._start = noted
    commands = [[sys.executable, "-S", "-c", program] for program in {programs!r}]
    sys.exit(launch.launch_processes(commands, [dict(os.environ)] * {len(programs)}, print, 20))
    """
    return start_program("-c", textwrap.dedent(code))


def pids_once_begun(process: Process, count: int) -> list[int]:
    deadline = time.monotonic() + 60
    while (text := process.output()).count("begun") < count:
        assert time.monotonic() < deadline, text
        time.sleep(0.05)
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith("pid")]


def lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    return False


def test_signals_are_passed_on_and_no_orphans_are_left(start_program: Start) -> None:
    asked, killed = (
        launcher(start_program, WAITS, WAITS),
        launcher(start_program, DEAF, DEAF),
    )
    try:
        pids = pids_once_begun(asked, 2)
        asked.send_signal(signal.SIGTERM)
        assert asked.wait(20) == 143
        assert asked.output().count("asked to end") == 2
        assert not any(lives(pid) for pid in pids)
        orphans = pids_once_begun(killed, 2)
        assert all(lives(pid) for pid in orphans)
        killed.kill()
        killed.wait()
        deadline = time.monotonic() + 10
        while any(lives(pid) for pid in orphans) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(lives(pid) for pid in orphans)
    finally:
        for process in (asked, killed):
            process.kill()
            process.wait()


def test_ports_are_free_and_different() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    assert all(1024 < port < 65_536 for port in ports)


def test_launch_runs_a_command_in_every_worker(
    command_in_process: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import os, sys; print(sys.argv[1:], os.environ['TF_CONFIG'])"
    program += "; sys.exit(5 * ('fail' in sys.argv))"
    monkeypatch.setattr("keras_resnet.training.devices.launch._PROGRAM", program)
    done = command_in_process("launch", "--local-workers", "3", "--", "list", "--json", "x y")
    assert done.returncode == 0
    lines = sorted(done.stdout.splitlines())
    assert [line[:4] for line in lines] == ["[0] ", "[1] ", "[2] "]
    for index, line in enumerate(lines):
        arguments, _, config = line[4:].partition(" {")
        assert arguments == "['list', '--json', 'x y']"
        task = json.loads("{" + config)
        assert task["task"] == {"type": "worker", "index": index}
        assert len(set(task["cluster"]["worker"])) == 3
    failed = command_in_process("launch", "train", "fail")
    assert failed.returncode == 5
    assert "ended with code 5" in failed.stderr


def test_launch_needs_a_command(command_in_process: Command) -> None:
    done = command_in_process("launch", "--local-workers", "2")
    assert done.returncode == 2
    assert "Expected a command after `--`" in done.stderr
