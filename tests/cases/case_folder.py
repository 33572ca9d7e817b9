"""Case files written for one test, and what their mistakes look like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent

import pytest

from harness.cases.case import Case
from harness.cases.load import load_cases
from harness.errors import HarnessError

PREAMBLE = """\
case: web
endpoints:
  client: {labels: {app: client}}
  server: {labels: {app: server}, ports: [8080, {port: 53, protocol: UDP, name: dns}]}
"""
"""A case without phases: four lines, so that what a test adds begins in line 5."""


@dataclass(frozen=True)
class Mistake:
    """An error as a person sees it."""

    message: str
    line: int
    caret: str
    """The words above the carets."""
    hint: str
    error: HarnessError


@dataclass(frozen=True)
class Folder:
    """A folder for case files and manifests."""

    path: Path

    def write(self, name: str, text: str) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text), encoding="utf-8")
        return file

    def cases(self, text: str) -> list[Case]:
        return load_cases(self.write("test_case.yaml", text))

    def case(self, text: str) -> Case:
        (case,) = self.cases(text)
        return case

    def phases(self, text: str) -> Case:
        """The case of the preamble with these phases (the text below `phases:`)."""
        return self.case(PREAMBLE + "phases:\n" + indent(dedent(text), "  "))

    def mistake(self, text: str) -> Mistake:
        with pytest.raises(HarnessError) as caught:
            self.cases(text)
        error = caught.value
        assert error.location is not None
        line = error.source_line or ""
        column = error.location.column
        caret = line[column - 1 : column - 1 + error.location.length] if column else ""
        return Mistake(error.message, error.location.line, caret, error.hint or "", error)

    def mistake_in_phases(self, text: str) -> Mistake:
        """The mistake in phases given as for `phases`; the first line of the text is line 6."""
        return self.mistake(PREAMBLE + "phases:\n" + indent(dedent(text), "  "))
