"""Keep the native libraries' chatter off the terminal without losing it when something fails."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator

#: The descriptor and Python's warning filters are the whole process's: one thread at a time.
_LOCK = threading.RLock()


#: What TensorFlow prints whenever it is imported, whatever TF_CPP_MIN_LOG_LEVEL says: notes about
#: oneDNN, instruction sets, missing GPUs and libraries that are registered twice.
_START_UP = re.compile(
    rb"All log messages before absl::InitializeLog|^To enable the following instructions: |"
    rb"\b(port|cudart_stub|cpu_feature_guard|cuda_(fft|dnn|blas)|computation_placer)\.cc:\d+\]"
)


#: Where the code of libraries lies, Python's own included.
_LIBRARY = re.compile(r"[/\\](site-packages|dist-packages|lib[/\\]python3)[/\\.]|^<frozen")


@contextlib.contextmanager
def without_start_up_notes() -> Iterator[None]:
    """Drop TensorFlow's notes of its start from standard error; all else comes out at the end.

    For the first import of TensorFlow. No variable of the environment is set for it, which would
    hold for everything else in the process and its children, too.
    """
    if "tensorflow" in sys.modules:
        yield
        return
    with _redirected() as show:
        try:
            yield
        finally:
            show()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what native code prints to standard error; show it if the block fails.

    Notes of TensorFlow's start are never shown, and nothing is for an error that says itself what
    is wrong with the input (`ValueError`, `ImportError`). Python's warnings come out at the end,
    but for those that libraries give about their own code.

    Native code logs from C++, past `sys.stderr` and Python's logging, so the file descriptor itself
    is redirected.
    """
    held: list[warnings.WarningMessage] = []
    try:
        with _redirected() as show, warnings.catch_warnings(record=True) as held:
            # TensorFlow's own converter uses the interpreter that TensorFlow deprecates.
            warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated.*")
            try:
                yield
            except (ValueError, ImportError):
                raise
            except Exception:
                show()
                raise
    finally:
        for warning in held:
            # Libraries talk about themselves; what speaks of the user's work is for the user.
            if not _LIBRARY.search(warning.filename):
                found = (warning.message, warning.category, warning.filename, warning.lineno)
                warnings.showwarning(*found)


@contextlib.contextmanager
def _redirected() -> Iterator[Callable[[], None]]:
    """Redirect standard error into a file; yield a function that ends that and shows the file.

    What it shows is all but TensorFlow's notes of its start. Without a standard error, nothing is
    redirected.
    """
    with _LOCK, tempfile.TemporaryFile() as hidden:
        try:
            descriptor = sys.__stderr__.fileno() if sys.__stderr__ else -1
            saved = os.dup(descriptor)
        except (OSError, ValueError):
            yield lambda: None
            return

        def show() -> None:
            os.dup2(saved, descriptor)
            hidden.seek(0)
            for line in hidden:
                if not _START_UP.search(line):
                    os.write(descriptor, line)

        os.dup2(hidden.fileno(), descriptor)
        try:
            yield show
        finally:
            os.dup2(saved, descriptor)
            os.close(saved)
