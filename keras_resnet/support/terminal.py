"""What commands print: one console, its tables, and progress as a bar or as plain lines."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

import rich.box
from rich.console import Console
from rich.progress import BarColumn, Progress as Bars, TextColumn, TimeElapsedColumn
from rich.table import Table

from keras_resnet.support.progress import Progress, unseen

#: Colours say something here (red: disagrees) or are not used, and brackets in paths are brackets.
#: Sentences are not cut into lines; tables need a width, and files and pipes have none.
console = Console(
    highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else 100
)


def table(columns: Sequence[str], left: int = 1, wrap: Sequence[str] = ()) -> Table:
    """An empty table.

    Args:
        columns: the headings.
        left: the first so many columns are words, the others numbers.
        wrap: columns that a narrow terminal may break into lines.
    """
    result = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        justify = "left" if index < left else "right"
        result.add_column(
            column,
            justify=justify,  # type: ignore[arg-type]
            no_wrap=column not in wrap,
            overflow="fold" if column in wrap else "ellipsis",
        )
    return result


@contextlib.contextmanager
def progress_bar(title: str, hidden: bool = False, lines: int | None = None) -> Iterator[Progress]:
    """Shows how far the work is: as a bar on a terminal, elsewhere as lines.

    Args:
        title: what stands before the bar and in every line.
        hidden: whether nothing is shown, as where a program reads JSON.
        lines: how many lines at most; by default one for every step.

    Yields:
        A function of the name of the step that starts and the share that is done, 0 to 1.
    """
    if hidden or not console.is_terminal:
        printed = 0

        def print_line(step: str, done: float) -> None:
            nonlocal printed
            if lines is None or int(lines * done) > printed:
                printed = int((lines or 0) * done)
                console.print(f"{title}: {step} ({done:.0%} done)")

        yield unseen if hidden else print_line
        return
    columns = (
        TextColumn(title),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console) as bars:
        task = bars.add_task("", total=1.0)
        yield lambda step, done: bars.update(task, description=step, completed=done)
        bars.update(task, description="done", completed=1.0)
