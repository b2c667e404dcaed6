"""Self-contained HTML pages, which load no other files."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from keras_resnet.support.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body {
  font: 16px/1.5 system-ui, sans-serif; color: #1d2430; background: #fff;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem
}
h1 { font-size: 1.6rem }
h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td {
  padding: .35rem .6rem; border-bottom: 1px solid #d8dde6; text-align: right; white-space: nowrap
}
th:first-child, td:first-child { text-align: left }
.words th, .words td { text-align: left; white-space: normal; vertical-align: top }
.scroll { overflow-x: auto }
.failed td { color: #b00020; font-weight: 600 }
.verdict { padding: .6rem .9rem; border-left: 4px solid #1a7f4b; background: #eef8f2 }
.verdict.failed { border-color: #b00020; background: #fdeef0 }
th[title] { text-decoration: underline dotted; cursor: help }
dl { color: #5b6472; font-size: .85rem }
dt { float: left; clear: left; margin-right: .5rem; font-weight: 600 }
dd { margin: 0 }
img { max-width: 100%; height: auto }
footer { margin-top: 3rem; color: #5b6472; font-size: .85rem }
/* On phones, each row of a wide table is a block of lines, so that nothing scrolls sideways. */
@media (max-width: 40rem) {
  body { margin: 1rem auto }
  h1, h2, p, li, dd { overflow-wrap: anywhere }
  .stacked tr:first-child { display: none }
  .stacked tr { display: block; padding: .5rem 0; border-bottom: 1px solid #d8dde6 }
  .stacked td {
    display: flex; justify-content: space-between; gap: 1rem; padding: .1rem 0; border: 0;
    text-align: right; white-space: normal; overflow-wrap: anywhere
  }
  .stacked td::before { content: attr(data-label); color: #5b6472; font-weight: 400 }
  .stacked td:first-child { font-weight: 600 }
  .stacked td:empty { display: none }
}
"""

#: Tables with more columns than this are stacked on narrow screens.
_NARROW = 3


class Html(str):
    """A string of HTML, such as a link in a cell, which is not escaped again."""

    __slots__ = ()


def escaped(text: str) -> str:
    """Escape a text for HTML, and make control characters visible."""
    return html.escape(printable(text))


def page(title: str, sections: Iterable[str]) -> str:
    """Return a complete page; `sections` are HTML."""
    heading = escaped(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{heading}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{heading}</h1>{''.join(sections)}</body></html>\n"
    )


def section(title: str, content: str) -> str:
    """Return a section with a heading; `content` is HTML. Wide content scrolls within it."""
    return f'<h2>{escaped(title)}</h2><div class="scroll">{content}</div>'


def link(address: str, words: str | None = None) -> Html:
    """Return a link to a file beside the page; its text is `words`, by default the name."""
    return Html(f'<a href="{html.escape(quote(address))}">{escaped(words or address)}</a>')


def links(names: Iterable[str]) -> str:
    """Return a line of links to files beside the page."""
    return f"<p>Files: {', '.join(map(link, names))}</p>"


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    meanings: Mapping[str, str] | None = None,
    *,
    styles: Sequence[str] = (),
    words: bool = False,
) -> str:
    """Return a table; on narrow screens, a wide one shows its rows as blocks of lines.

    Args:
        columns: headings.
        rows: cells, as text or `Html`.
        meanings: explanations of columns, shown as tooltips of the headings and below the table.
        styles: CSS class of every row, such as `"failed"` for red; plain rows by default.
        words: whether cells are sentences, which wrap, not numbers.
    """
    meanings = meanings or {}
    head = "".join(
        f'<th title="{escaped(meanings[name])}">{escaped(name)}</th>'
        if name in meanings
        else f"<th>{escaped(name)}</th>"
        for name in columns
    )
    lines = [f"<tr>{head}</tr>"]
    for index, row in enumerate(rows):
        # A row may have fewer cells.
        pairs = zip(columns, row, strict=False)
        cells = (
            f'<td data-label="{escaped(name)}">'
            f"{cell if isinstance(cell, Html) else escaped(cell)}</td>"
            for name, cell in pairs
        )
        style = f' class="{styles[index]}"' if styles else ""
        lines.append(f"<tr{style}>{''.join(cells)}</tr>")
    kinds = ["words"] * words + ["stacked"] * (len(columns) > _NARROW)
    shown = [f"<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>" for name, text in meanings.items()]
    below = f"<dl>{''.join(shown)}</dl>" if shown else ""
    return f'<table class="{" ".join(kinds)}">{"".join(lines)}</table>{below}'


def picture(figure: Figure, description: str) -> str:
    """Return a matplotlib figure as an inline image; `description` is for screen readers."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escaped(description)}">'
