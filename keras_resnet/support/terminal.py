"""Output of commands: one console, its tables, and progress as a bar or as plain lines.

Strings may be from untrusted files, so every printed string is one line, cleaned by `support.text`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import datetime
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import rich.box
import rich.console
import rich.table
from rich.cells import cell_len
from rich.progress import BarColumn, Progress as Bars, TextColumn, TimeElapsedColumn
from rich.text import Text

from keras_resnet.support.progress import Progress, unseen
from keras_resnet.support.text import printable, sentence

#: Longer words, such as paths, may be folded in columns that wrap.
_FOLDED = 16


class Console(rich.console.Console):
    """Console without markup, highlighting and line breaks in sentences.

    Attributes:
        log_every: seconds without output after which `Heartbeat` prints a line.
        is_bounded: whether tables must fit into its width.
    """

    log_every = 60.0
    is_bounded = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, soft_wrap=True, **settings)

    def print(self, *objects: Any, **settings: Any) -> None:
        super().print(*_cleaned(objects), **settings)


class _Table(rich.table.Table):
    """A table that does not cut off words.

    If it is wider than the terminal, the columns in `optional` are left out, one after the other.
    If that is not enough, every row is shown as a list of headings and values.
    """

    optional: Sequence[str] = ()

    def add_row(self, *cells: Any, **settings: Any) -> None:
        super().add_row(*_cleaned(cells), **settings)

    def __rich_console__(
        self, console: rich.console.Console, options: rich.console.ConsoleOptions
    ) -> rich.console.RenderResult:
        shown, gone = list(self.columns), list[str]()
        room = options.max_width
        if not getattr(console, "is_bounded", True):
            room = max(room, _width(shown))
        for name in self.optional:
            if _width(shown) > room:
                shown = [column for column in shown if column.header != name]
                gone.append(name)
        if _width(shown) > room:
            yield from self._stacked()
            return
        part = copy.copy(self)
        part.columns = _fitted(shown, room)
        yield from super(_Table, part).__rich_console__(console, options.update_width(room))
        if gone:
            yield Text(f"Not shown, as there is no room: {', '.join(gone)}.")

    def _stacked(self) -> Iterator[Text]:
        headings = [str(column.header) for column in self.columns]
        indent = max(map(len, headings[1:]), default=0)
        cells = [[str(cell) for cell in column._cells] for column in self.columns]
        for row, values in zip(self.rows, zip(*cells, strict=True), strict=True):
            yield Text(values[0], style=row.style or "")
            for heading, value in zip(headings[1:], values[1:], strict=True):
                if value:
                    yield Text(f"  {heading:{indent}}  {value}", style=row.style or "")
        if self.caption:
            yield Text(str(self.caption))


def _width(columns: Sequence[rich.table.Column], folded: int = _FOLDED) -> int:
    """Return the width that columns need without cutting off words, with `SIMPLE_HEAD`'s frame."""
    return 1 + sum(_least(column, folded) + 2 for column in columns)


def _least(column: rich.table.Column, folded: int) -> int:
    """Return the minimum width of a column; words are folded after `folded` characters."""
    words = [str(cell) for cell in (column.header, *column._cells)]
    if not column.no_wrap:
        words = [word[:folded] for cell in words for word in cell.split()]
    return max(map(cell_len, words), default=0)


def _fitted(columns: Sequence[rich.table.Column], room: int) -> list[rich.table.Column]:
    """Return the columns with widths that fit, without folding words unless necessary.

    Rich itself would make the widest column narrower than its longest word.
    """
    folded = room if _width(columns, room) <= room else _FOLDED
    widths = [_least(column, folded) for column in columns]
    wanted = [max(map(cell_len, map(str, (c.header, *c._cells)))) for c in columns]
    for _ in range(room - _width(columns, folded)):
        short = [index for index, width in enumerate(widths) if width < wanted[index]]
        if not short:
            break
        widths[min(short, key=widths.__getitem__)] += 1
    pairs = zip(columns, widths, strict=True)
    return [dataclasses.replace(column, width=width) for column, width in pairs]


def _cleaned(objects: Iterable[Any]) -> list[Any]:
    return [printable(item) if isinstance(item, str) else item for item in objects]


console = Console()
if not (sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()):
    # In files and pipes, cells wrap but no column is left out.
    console.width, console.is_bounded = 100, False


def print_lines(text: str) -> None:
    """Print a text of several lines."""
    console.print(*text.splitlines(), sep="\n")


def complain(text: str, has_lines: bool = False) -> None:
    """Print an error on standard error, in one line unless the text `has_lines` of its own."""
    shown = "\n".join(map(printable, text.splitlines())) if has_lines else sentence(text)
    sys.stderr.write(f"keras-resnet: {shown}\n")


def table(
    columns: Sequence[str],
    left: int = 1,
    wrap: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> rich.table.Table:
    """Create an empty table, which is shown as lists if the terminal is too narrow.

    Args:
        columns: headings.
        left: number of columns, from the first, that are aligned to the left, as words are.
        wrap: columns that may wrap.
        optional: columns that may be left out on a narrow terminal, in this order.
    """
    result = _Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    result.optional = optional
    for index, column in enumerate(columns):
        justify = "left" if index < left else "right"
        result.add_column(
            column,
            justify=justify,  # type: ignore[arg-type]
            no_wrap=column not in wrap,
            overflow="fold" if column in wrap else "ellipsis",
        )
    return result


class Heartbeat:
    """Printer of the progress of long work, in regular intervals without other output.

    It runs in a thread, as the work may be one long step, such as the tracing of a graph.
    """

    def __init__(self, describe: Callable[[], str]) -> None:
        """Initialize with a function that returns the progress as a sentence without full stop."""
        self._describe = describe
        self._begun = self._last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def restart(self) -> None:
        """Restart the interval, as something was printed."""
        self._last = time.monotonic()

    def _run(self) -> None:
        while not self._over.wait(max(0.01, self._last + console.log_every - time.monotonic())):
            now = time.monotonic()
            if now - self._last >= console.log_every:
                elapsed = datetime.timedelta(seconds=round(now - self._begun))
                console.print(f"{self._describe()}, {elapsed} so far")
                self._last = now


@contextlib.contextmanager
def progress_bar(title: str, hidden: bool = False, lines: int | None = None) -> Iterator[Progress]:
    """Show progress: a bar on a terminal, elsewhere lines.

    Args:
        title: title of the bar, and prefix of the lines.
        hidden: whether to show nothing, as for JSON output.
        lines: limit of the number of lines, besides those of `Heartbeat`; by default one per step.

    Yields:
        A function to call with the name of the next step, and the share that is done, 0 to 1.
    """
    if hidden:
        yield unseen
        return
    if not console.is_terminal:
        printed, latest = 0, f"{title}: starting"

        def print_line(step: str, done: float) -> None:
            nonlocal printed, latest
            latest = f"{title}: {step} ({done:.0%} done)"
            if lines is None or int(lines * done) > printed:
                printed = int((lines or 0) * done)
                console.print(latest)
                heartbeat.restart()

        with Heartbeat(lambda: latest) as heartbeat:
            yield print_line
        return
    columns = (
        TextColumn(title, markup=False),
        BarColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console) as bars:
        task = bars.add_task("", total=1.0)
        yield lambda step, done: bars.update(task, description=printable(step), completed=done)
        bars.update(task, description="done", completed=1.0)
