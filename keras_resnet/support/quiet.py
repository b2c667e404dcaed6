"""Keeps the native libraries' chatter off the terminal without losing it when something fails."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator

#: The descriptor and Python's warning filters are the whole process's: one thread at a time.
_LOCK = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what native code prints to standard error; shows it if the block fails.

    They log from C++, past `sys.stderr` and Python's logging, so the file descriptor itself is
    redirected.
    """
    with _LOCK:
        try:
            descriptor = sys.__stderr__.fileno() if sys.__stderr__ else -1
            saved = os.dup(descriptor)
        except (OSError, ValueError):
            # Nothing is connected to standard error, so nothing can be hidden.
            yield
            return
        with tempfile.TemporaryFile() as hidden, warnings.catch_warnings():
            # TensorFlow's own converter uses the interpreter that TensorFlow deprecates.
            warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated.*")
            os.dup2(hidden.fileno(), descriptor)
            try:
                yield
            except Exception:
                os.dup2(saved, descriptor)
                hidden.seek(0)
                os.write(descriptor, hidden.read())
                raise
            finally:
                os.dup2(saved, descriptor)
                os.close(saved)
