"""Starts Python programs in real processes that have TensorFlow imported already.

Importing TensorFlow takes longer than most programs of the tests. A server imports it once and
forks for every program. It must not compute anything itself: TensorFlow's threads do not survive a
fork, and none exists before the first operation.

    with ForkServer() as server:
        process = server.start(["-m", "keras_resnet", "list"], output, errors)
        process.wait(60)

A program is a process of its own with a pid, signals and an exit code, and it ends as every Python
process does. What a new interpreter reads when it starts has no effect on it: `sitecustomize`,
PYTHON* variables and KERAS_BACKEND. Tests of these start a new interpreter.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

ROOT = Path(__file__).resolve().parents[1]

#: What the server imports. Forked processes find it in `sys.modules`.
MODULES = (
    "keras",
    "keras_resnet.cli",
    "keras_resnet.jobs.quickstart",
    "keras_resnet.training.run.trainer",
)


class Process:
    """A started program, with what tests use of `subprocess.Popen`."""

    def __init__(self, channel: int, output: Path, errors: Path) -> None:
        self._channel = os.fdopen(channel, "rb", buffering=0)
        self._output, self._errors = output, errors
        self.returncode: int | None = None
        self.pid = self._read()

    def _read(self) -> int:
        """The next number of the watcher: first the pid, then the exit code."""
        line = b""
        while not line.endswith(b"\n"):
            piece = self._channel.read(1)
            if not piece:
                raise RuntimeError(f"The fork server has died: {self._errors.read_text()}")
            line += piece
        return int(line)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._channel], [], [], 0)[0]:
            self.returncode = self._read()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._channel], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked program", timeout or 0)
            self.returncode = self._read()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end. What was written to both streams; errors may be in the output."""
        self.wait(timeout)
        return self.output(), self._errors.read_text()

    def output(self) -> str:
        """What it has written to standard output so far."""
        return self._output.read_text()

    def wait_for_output(self, text: str, timeout: float = 120) -> None:
        """Until the program has written `text` to its standard output, or has ended."""
        deadline = time.monotonic() + timeout
        while text not in self.output() and self.poll() is None:
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.02)


class ForkServer:
    """The server's other end; the server starts with the first program."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._server is not None and self._channel is not None:
            self._channel.close()
            self._server.wait(30)

    def start(
        self,
        arguments: Sequence[str],
        output: Path,
        errors: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> Process:
        """Starts a program.

        Args:
            arguments: as for `python`: `-c CODE …`, `-m MODULE …` or `FILE …`.
            output: file that receives standard output.
            errors: the same for standard error; may be `output`.
            environment: variables of the process; by default those of this one.
            folder: working directory; by default that of this process.
        """
        if self._channel is None:
            self._channel, theirs = socket.socketpair()
            with theirs:
                self._server = subprocess.Popen(
                    [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                )
        request = {
            "arguments": list(arguments),
            "environment": dict(os.environ if environment is None else environment),
            "folder": str(folder or Path.cwd()),
        }
        ours, watcher = os.pipe()
        with contextlib.ExitStack() as files:
            out = files.enter_context(output.open("w"))
            err = out if errors == output else files.enter_context(errors.open("w"))
            message = json.dumps(request).encode() + b"\n"
            descriptors = [out.fileno(), err.fileno(), watcher]
            sent = socket.send_fds(self._channel, [message], descriptors)
            self._channel.sendall(message[sent:])
        os.close(watcher)
        return Process(ours, output, errors)


def _serve(channel: socket.socket) -> dict[str, Any]:
    """Forks for every request; returns in the forked process, with its request."""
    for module in MODULES:
        __import__(module)
    # Objects of the modules are not looked at again in every process.
    gc.freeze()
    # Watchers end by themselves.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 2**16, 3)
        while message and not message.endswith(b"\n"):
            message += channel.recv(2**16)
        if not message:
            sys.exit()
        if os.fork() == 0:
            channel.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            program = os.fork()
            if program == 0:
                request = json.loads(message)
                for number, descriptor in enumerate(descriptors[:2], start=1):
                    os.dup2(descriptor, number)
                for descriptor in descriptors:
                    os.close(descriptor)
                return dict(request)
            _watch(program, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _watch(program: int, descriptors: list[int]) -> NoReturn:
    """Tells the pid of a program, and how it ended."""
    watcher = descriptors[2]
    os.write(watcher, b"%d\n" % program)
    for number in (*descriptors[:2], 1, 2):
        os.close(number)
    _, status = os.waitpid(program, 0)
    os.write(watcher, b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _run(request: dict[str, Any]) -> None:
    """Does in this process what `python ARGUMENTS` does."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    # As on a terminal, so that what is written can be waited for.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    kind, *rest = request["arguments"]
    if kind == "-c":
        code, *sys.argv[1:] = rest
        sys.argv[0] = "-c"
        sys.path[0] = ""
        names = vars(sys.modules["__main__"])
        exec(compile(code, "<string>", "exec"), names)
    elif kind == "-m":
        module, *sys.argv[1:] = rest
        sys.path[0] = request["folder"]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = [kind, *rest]
        sys.path[0] = str(Path(kind).parent)
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as _channel:
        _request = _serve(_channel)
    _run(_request)
