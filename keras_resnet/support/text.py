"""Texts from elsewhere: names of files and classes, answers of servers."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line that a terminal shows as it is: whatever would move its cursor, colour it, or turn
    the direction of writing, is shown as Python writes it, such as `\\n` and `\\x1b`."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
