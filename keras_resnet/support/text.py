"""Safe display of untrusted texts: names of files and classes, messages of servers."""

from __future__ import annotations


def printable(text: str) -> str:
    """Escape characters that are not printable.

    Line ends, control sequences of terminals and marks of the writing direction become Python's
    escapes: `\\n`, `\\x1b`, `\\u202e`.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def sentence(text: str) -> str:
    """Join the lines of a text, such as an error message of a library, and escape it."""
    return printable(" ".join(text.split()))


def markdown(text: str) -> str:
    """Escape a text for Markdown, in one line that is safe in a cell of a table."""
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#" else char for char in sentence(text))
