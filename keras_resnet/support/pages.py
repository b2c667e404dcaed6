"""Self-contained HTML pages: nothing in them has to be fetched."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

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
img { max-width: 100%; height: auto }
footer { margin-top: 3rem; color: #5b6472; font-size: .85rem }
"""


def escaped(text: str) -> str:
    """A text as HTML that shows it, without the marks of direction and control of other texts."""
    return html.escape(printable(text))


def page(title: str, sections: Iterable[str]) -> str:
    """A complete page; `sections` are HTML already."""
    heading = escaped(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{heading}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{heading}</h1>{''.join(sections)}</body></html>\n"
    )


def section(title: str, content: str) -> str:
    """A titled part of a page; `content` is HTML already. Wide tables scroll inside it."""
    return f'<h2>{escaped(title)}</h2><div class="scroll">{content}</div>'


def picture(figure: Figure, description: str) -> str:
    """A matplotlib figure as an image inside the page; screen readers read `description`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escaped(description)}">'
