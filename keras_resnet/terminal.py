"""What commands print: one console, and progress as a bar on a terminal or as plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

#: Never highlighted: colours say something here (red: disagrees) or are not used. Sentences are not cut into lines;
#: tables need a width, and files and pipes have none.
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 100)


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[str, float], None]]:
    """Yields a function of (name of the step that starts, share done) that shows how far the work is."""
    if not console.is_terminal:
        yield lambda step, done: console.print(f"{title}: {step} ({done:.0%} done)")
        return
    columns = (TextColumn(title), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("", total=1.0)
        yield lambda step, done: bars.update(task, description=step, completed=done)
        bars.update(task, description="done", completed=1.0)
