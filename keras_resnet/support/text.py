"""Texts from elsewhere, made fit to be shown: names of files and classes, answers of servers."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line that a terminal shows as it is.

    What would move its cursor, color it, end the line or turn the direction of writing comes as
    Python writes it: `\\n`, `\\x1b`, `\\u202e`.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def sentence(text: str) -> str:
    """The same with its lines joined: libraries word their errors in paragraphs."""
    return printable(" ".join(text.split()))


def markdown(text: str) -> str:
    """The same as Markdown, which shows its characters and ends no cell of a table."""
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#" else char for char in sentence(text))
