"""Launching of several workers of a training run on this machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import IO, Any

from keras_resnet.support.cores import usable_cores
from keras_resnet.support.progress import Say
from keras_resnet.training.devices.cluster import Cluster

#: Time for a worker to save its state after SIGTERM, before SIGKILL.
STOP_SECONDS = 40.0

#: The option of `prctl` on Linux for a signal when the parent process dies.
_PR_SET_PDEATHSIG = 1

_PROGRAM = "import sys; sys.argv[0] = 'keras-resnet'; from keras_resnet.cli import main; main()"


def launch(arguments: Sequence[str], workers: int, say: Say) -> int:
    """Run `keras-resnet ARGUMENTS` in several processes as the workers of a TF_CONFIG cluster.

    The processes divide CPU cores and GPUs evenly among them.

    Args:
        arguments: arguments of the command, such as `["train", …]`.
        workers: number of processes.
        say: called with sentences for the user.

    Returns:
        The exit code: 0, that of the first worker that failed, or 130 or 143 if interrupted.

    Raises:
        ValueError: If there is no command.
    """
    if not arguments:
        raise ValueError(
            "Expected a command after `--`, e.g. `keras-resnet launch --local-workers 2 -- train "
            "digits`. Received: none"
        )
    addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(workers))
    threads = str(max(1, usable_cores() // workers))
    environments = [
        {
            "TF_NUM_INTRAOP_THREADS": threads,
            "TF_NUM_INTEROP_THREADS": threads,
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "TF_CONFIG": Cluster(addresses, index, "launch").tf_config(),
        }
        for index in range(workers)
    ]
    command = [sys.executable, "-c", _PROGRAM, *arguments]
    return launch_processes([command] * workers, environments, say)


def free_ports(count: int) -> list[int]:
    """Return free ports of 127.0.0.1."""
    with contextlib.ExitStack() as sockets:
        listeners = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


def launch_processes(
    commands: Sequence[Sequence[str]],
    environments: Sequence[Mapping[str, str]],
    say: Say,
    stop_seconds: float = STOP_SECONDS,
) -> int:
    """Run commands in parallel until all have ended; if one fails, stop the others.

    Lines of their output get the prefix `[0] `, `[1] `, … SIGINT and SIGTERM are passed on; a
    second signal kills the processes. On Linux, they are also killed when this process dies.

    Args:
        commands: programs with their arguments, in the order of the workers.
        environments: environment variables of each process.
        say: called with sentences for the user.
        stop_seconds: time between SIGTERM, or the signal that is passed on, and SIGKILL.

    Returns:
        0 if all processes ended with 0; otherwise the code of the first that failed, 128 + n for
        signal n; or 128 + n if this process received signal n.
    """
    processes: list[subprocess.Popen[bytes]] = []
    readers: list[threading.Thread] = []
    try:
        with _passing_on_signals(processes) as received:
            for command, environment in zip(commands, environments, strict=True):
                processes.append(_start(command, environment))
            lock = threading.Lock()
            for index, process in enumerate(processes):
                for pipe, stream in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
                    arguments = (f"[{index}] ", pipe, stream, lock)
                    readers.append(threading.Thread(target=_copy, args=arguments, daemon=True))
                    readers[-1].start()
            code = _wait(processes, received, say, stop_seconds)
            return 128 + received[0] if received else code
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for reader in readers:
            # Child processes of a worker may keep its output open.
            reader.join(timeout=5)


def _wait(
    processes: Sequence[subprocess.Popen[bytes]],
    received: Sequence[int],
    say: Say,
    stop_seconds: float,
) -> int:
    """Wait for all processes and return the exit code."""
    failed: int | None = None
    deadline = float("inf")
    while True:
        running = any(process.poll() is None for process in processes)
        if failed is None:
            failed = next((i for i, process in enumerate(processes) if process.poll()), None)
            if failed is not None and not received:
                end = "; the other workers are stopped." if running else "."
                say(f"{_end_of(failed, processes[failed].returncode)}{end}")
                deadline = time.monotonic() + stop_seconds
                _send(processes, signal.SIGTERM)
        if not running:
            code = 0 if failed is None else processes[failed].returncode
            return code if code >= 0 else 128 - code
        if received and deadline == float("inf"):
            deadline = time.monotonic() + stop_seconds
        if time.monotonic() > deadline or len(received) > 1:
            _send(processes, signal.SIGKILL)
        time.sleep(0.05)


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Ctrl-C reaches this process only, which passes it on once.
        start_new_session=True,
        preexec_fn=_die_with_parent(),
    )


def _die_with_parent() -> Callable[[], None] | None:
    """Return a function for a new process that has Linux kill it when its parent dies."""
    if not sys.platform.startswith("linux"):
        return None
    # Loaded in the parent, as little is safe between fork and exec.
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def die_with_parent() -> None:
        # TensorFlow ignores SIGTERM while it waits for other workers.
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return die_with_parent


def _copy(prefix: str, pipe: IO[bytes], stream: Any, lock: threading.Lock) -> None:
    """Copy the lines of a pipe to a stream, with a prefix."""
    for line in pipe:
        # Progress bars overwrite their line, so only its last version is copied.
        text = line.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2]
        with lock, contextlib.suppress(OSError, ValueError):
            stream.write(f"{prefix}{text}\n")
            stream.flush()


@contextlib.contextmanager
def _passing_on_signals(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Pass SIGINT and SIGTERM on to the workers in the context, which gets the list of them."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        _send(processes, signal.Signals(number))

    handlers = {n: signal.signal(n, pass_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _send(processes: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _end_of(index: int, code: int) -> str:
    """Describe how a worker ended."""
    if code >= 0:
        return f"Worker {index} ended with code {code}"
    # Real-time signals have no names.
    names = {number.value: number.name for number in signal.Signals}
    return f"Worker {index} was ended by {names.get(-code, f'signal {-code}')}"
