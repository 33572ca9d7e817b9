"""`# harness: ignore[HL101]` comments: which findings they silence, and which of them silence nothing.

Behind a line's text, a comment is about that line. On a line of its own, it is about what begins on the next: a key with all below it, an
item of a list, or before the first line of a document, the whole document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from harness.cases.source import Place, Source

_COMMENT = re.compile(r"(?:^|\s)#\s*harness:\s*ignore\[(?P<ids>[^\]]*)\]")
_DOCUMENT = re.compile(r"^---(\s|$)")


@dataclass(slots=True)
class Ignore:
    """One id of one comment: the lines it is about (both inclusive), and whether it silenced anything."""

    rule: str
    place: Place
    first: int
    last: int
    whole: Place
    """The comment, with the blanks before it."""
    alone: bool
    """Whether it is the only id of its comment."""
    used: bool = field(default=False, compare=False)


def ignores_in(source: Source) -> list[Ignore]:
    """The comments of a source, one for each id."""
    return [each for number, line in enumerate(source.lines, 1) for each in _on_line(source, number, line)]


def _on_line(source: Source, number: int, line: str) -> Iterator[Ignore]:
    match = _COMMENT.search(line)
    if match is None:
        return
    alone = not line[: match.start()].strip()
    first, last = _next_extent(source.lines, number) if alone else (number, number)
    begin = len(line[: match.start()].rstrip())
    whole = Place(source, number, begin + 1, number, match.end() + 1)
    words = list(re.finditer(r"[^\s,]+", match["ids"]))
    for word in words:
        column = match.start("ids") + word.start() + 1
        place = Place(source, number, column, number, column + len(word[0]))
        yield Ignore(word[0].upper(), place, first, last, whole, len(words) == 1)


def _next_extent(lines: list[str], comment: int) -> tuple[int, int]:
    """The lines of what begins after a comment."""
    first = next((at for at in range(comment, len(lines)) if not _blank(lines[at])), None)
    if first is None:
        return comment, comment
    if _DOCUMENT.match(lines[first]):
        return first + 1, _document_end(lines, first + 1)
    before = [line for line in lines[:first] if not _blank(line)]
    if not before or _DOCUMENT.match(before[-1]):
        return first + 1, _document_end(lines, first)
    indent = _indent(lines[first])
    key = not lines[first].lstrip().startswith("- ")
    last = first
    for at in range(first + 1, len(lines)):
        line = lines[at]
        if _blank(line):
            continue
        # A list may stand as far left as its key.
        if _indent(line) < indent or (_indent(line) == indent and not (key and line.lstrip().startswith("- "))):
            break
        last = at
    return first + 1, last + 1


def _document_end(lines: list[str], first: int) -> int:
    return next((at for at in range(first + 1, len(lines)) if _DOCUMENT.match(lines[at])), len(lines))


def _blank(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
