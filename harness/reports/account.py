"""An account of what went wrong: coloured lines for a terminal, plain ones for files. A value; who writes it is elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TypeAlias

from msgspec import Struct

Span: TypeAlias = tuple[str, str]
"""A piece of text and its style: words of pytest's terminal writer such as `red bold`, or ''."""
Line: TypeAlias = tuple[Span, ...]


class Account(Struct, frozen=True):
    """`summary` is one line, for summaries and attributes; `where` is `file:line`."""

    summary: str
    lines: tuple[Line, ...]
    where: tuple[str, int] = ("", 0)

    def __str__(self) -> str:
        return "\n".join("".join(text for text, _ in line) for line in self.lines)

    def dump(self) -> str:
        """As JSON text, to cross from a worker to the controller."""
        return json.dumps([self.summary, self.lines, self.where])

    @classmethod
    def load(cls, text: str) -> Account:
        """The inverse of `dump`."""
        summary, lines, where = json.loads(text)
        return cls(summary, tuple(tuple((span[0], span[1]) for span in line) for line in lines), (where[0], where[1]))


def plain(text: str, style: str = "") -> Line:
    """One line in one style."""
    return ((text, style),)


def block(text: str, indent: int = 0, style: str = "") -> Iterable[Line]:
    """A text of several lines."""
    return (plain(" " * indent + line, style) for line in text.splitlines())
