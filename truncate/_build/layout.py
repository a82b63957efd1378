"""Nested expressions of Python, laid out in lines that are not too long."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

WIDTH = 100


@dataclasses.dataclass(frozen=True)
class Listed:
    """Items between brackets, separated by commas."""

    opening: str
    items: tuple[Text, ...]
    closing: str


@dataclasses.dataclass(frozen=True)
class Around:
    """An expression with something before and after it."""

    before: str
    text: Text
    after: str = ""


Text: TypeAlias = str | Listed | Around


def laid_out(text: Text, indent: int, taken: int = 0) -> str:
    """The text in one line if it fits, or with each item on a line of its own; `taken`: how much stands before it."""
    line = _in_one_line(text)
    if isinstance(text, str) or indent + taken + len(line) <= WIDTH:
        return line
    if isinstance(text, Around):
        return text.before + laid_out(text.text, indent, taken + len(text.before) + len(text.after)) + text.after
    lines = [" " * (indent + 4) + laid_out(item, indent + 4) + ",\n" for item in text.items]
    return f"{text.opening}\n{''.join(lines)}{' ' * indent}{text.closing}"


def _in_one_line(text: Text) -> str:
    if isinstance(text, str):
        return text
    if isinstance(text, Around):
        return text.before + _in_one_line(text.text) + text.after
    return text.opening + ", ".join(map(_in_one_line, text.items)) + text.closing
