"""Suppression of native libraries' log messages, which are shown if something fails."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator

#: The file descriptor and Python's warning filters are process-wide: one thread at a time.
_LOCK = threading.RLock()


#: Messages that TensorFlow prints on import, even with TF_CPP_MIN_LOG_LEVEL: about oneDNN,
#: instruction sets, missing GPUs and libraries that are registered twice.
_START_UP = re.compile(
    rb"All log messages before absl::InitializeLog|^To enable the following instructions: |"
    rb"\b(port|cudart_stub|cpu_feature_guard|cuda_(fft|dnn|blas)|computation_placer)\.cc:\d+\]"
)


#: Paths of the code of libraries, including Python's own.
_LIBRARY = re.compile(r"[/\\](site-packages|dist-packages|lib[/\\]python3)[/\\.]|^<frozen")


@contextlib.contextmanager
def without_start_up_notes() -> Iterator[None]:
    """Drop TensorFlow's start-up messages from standard error; show all others at the end.

    For the first import of TensorFlow. No environment variable is set, as that would affect the
    whole process and its children.
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
    """Hide the output of native code to standard error; show it if the block fails.

    TensorFlow's start-up messages are never shown, and nothing is shown for errors that explain
    themselves (`ValueError`, `ImportError`). Python's warnings are shown at the end, except for
    warnings about the code of libraries.

    Native code bypasses `sys.stderr` and Python's logging, so the file descriptor is redirected.
    """
    held: list[warnings.WarningMessage] = []
    try:
        with _redirected() as show, warnings.catch_warnings(record=True) as held:
            # TensorFlow's converter uses an interpreter that TensorFlow deprecates.
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
            # Warnings about the code of libraries do not help users.
            if not _LIBRARY.search(warning.filename):
                found = (warning.message, warning.category, warning.filename, warning.lineno)
                warnings.showwarning(*found)


@contextlib.contextmanager
def _redirected() -> Iterator[Callable[[], None]]:
    """Redirect standard error to a file; without a standard error, do nothing.

    Yields:
        A function that ends the redirection and shows the file without TensorFlow's start-up
        messages.
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
