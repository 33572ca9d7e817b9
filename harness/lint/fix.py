"""Applies edits to the text they were found in: nothing else of it changes, comments and formatting stay."""

from __future__ import annotations

from collections.abc import Iterable

from harness.cases.source import line_starts
from harness.lint.finding import Edit


def fixed(text: str, edits: Iterable[Edit]) -> str:
    """The text after the edits. Of two that overlap the first counts; lines that an edit leaves blank go with it."""
    starts = line_starts(text)
    ends = [*starts[1:], len(text)]
    spans: list[tuple[int, int, str]] = []
    for edit in edits:
        place = edit.place
        begin, end = starts[place.line - 1] + place.column - 1, starts[place.end_line - 1] + place.end_column - 1
        first, last = starts[place.line - 1], ends[place.end_line - 1]
        if not edit.text and not text[first:begin].strip() and not text[end:last].strip():
            begin, end = first, last
        spans.append((begin, end, edit.text))
    done = 0
    parts = []
    for begin, end, new in sorted(spans):
        if begin < done:
            continue
        parts += [text[done:begin], new]
        done = end
    return "".join([*parts, text[done:]])
