"""A text, where parts of it stand, and errors that point there. Not what the text says."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path

from msgspec import Struct

from harness.errors import CaseError, HarnessError, Location

_BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
"""Line breaks as YAML 1.1 counts them."""


class Source:
    """A text and the name people know it by."""

    def __init__(self, file: str, text: str, *, first_line: int = 1, error: type[HarnessError] = CaseError) -> None:
        self.file = file
        self.text = text
        self.first_line = first_line
        self.error = error
        """The type of the errors that point into this text."""

    @cached_property
    def lines(self) -> list[str]:
        return _BREAK.split(self.text)

    def line(self, number: int) -> str:
        """Line `number` as it stands there, tabs as single spaces so that a caret below it fits."""
        index = number - self.first_line
        return self.lines[index].rstrip("\r").replace("\t", " ") if 0 <= index < len(self.lines) else ""


def line_starts(text: str) -> list[int]:
    """The offset of each line of a text, counted as `Place` counts them."""
    return [0, *(match.end() for match in _BREAK.finditer(text))]


def read_source(path: Path, *, error: type[HarnessError] = CaseError) -> Source:
    """The file's text. Errors name the file as seen from the working directory."""
    name = shown_path(path)
    try:
        return Source(name, path.read_text(encoding="utf-8-sig"), error=error)
    except UnicodeDecodeError as exc:
        raise error(f"not UTF-8 text: byte {exc.start} is 0x{exc.object[exc.start]:02x}", location=Location(name, 1)) from exc
    except OSError as exc:
        raise error(f"cannot be read: {exc.strerror}", location=Location(name, 1)) from exc


def shown_path(path: Path) -> str:
    """The path as messages show it: relative to the working directory where it is below it."""
    absolute = os.path.normpath(path.absolute())
    relative = os.path.relpath(absolute)
    return absolute if relative.startswith("..") else relative


class Place(Struct, frozen=True):
    """A stretch of a source. Lines and columns start at 1; the end is exclusive."""

    source: Source
    line: int
    column: int
    end_line: int
    end_column: int

    @property
    def location(self) -> Location:
        end = self.end_column if self.end_line == self.line else len(self.source.line(self.line).rstrip()) + 1
        return Location(self.source.file, self.line, self.column, max(1, end - self.column))

    def error(self, message: str, *, hint: str | None = None) -> HarnessError:
        """An error that points here."""
        return self.source.error(message, location=self.location, source_line=self.source.line(self.line), hint=hint)

    def to(self, end: Place) -> Place:
        """From here to the end of another stretch of the same source."""
        return Place(self.source, self.line, self.column, end.end_line, end.end_column)

    def at(self, line: int, column: int, length: int) -> Place:
        """Another stretch of the same source, on one line."""
        return Place(self.source, line, column, line, column + max(1, length))
