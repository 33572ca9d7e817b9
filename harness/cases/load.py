"""Case files on disk: which there are, and the checked cases in one. The only way in from outside this package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.cases.case import Case
from harness.cases.document import parse_documents
from harness.cases.manifests import Manifests
from harness.cases.model import read_case
from harness.cases.resolve import resolve_case
from harness.cases.source import read_source
from harness.errors import CaseError, Location

CASE_FILES = ("test_*.yaml", "test_*.yml")


def load_cases(path: Path, *, manifests: Manifests | None = None, may_expect_nothing: bool = False) -> list[Case]:
    """The cases of a file, in order. Raises CaseError or PolicyFileError at the first mistake; nothing has been provisioned then.

    `manifests` may be shared between files, so that each manifest is read once. `may_expect_nothing` is for Python tests, which
    take the endpoints from a case and check by themselves; anywhere else a case without an expectation would always be green.
    """
    source = read_source(path)
    manifests = manifests or Manifests()
    cases: dict[str, Case] = {}
    for document in parse_documents(source):
        model = read_case(document)
        if str(model.case) in cases:
            first = cases[str(model.case)].location.line
            raise model.case.error(
                f"case `{model.case}` stands in this file twice, first in line {first}", hint="rename one: it is part of the pytest node id"
            )
        case = resolve_case(model, path.parent, manifests)
        if not may_expect_nothing and not any(phase.expectations or phase.inert or phase.rejected for phase in case.phases):
            raise model.case.error(
                f"case `{model.case}` expects nothing, so it would pass whatever happens",
                hint="give a phase expectations: `expect: [{allow: client -> server:8080}]`",
            )
        cases[str(model.case)] = case
    if not cases:
        raise CaseError("there is no case in this file", location=Location(source.file, 1), hint="a case begins with `case: its name`")
    return list(cases.values())


def find_case_files(root: Path) -> Iterator[Path]:
    """The case files under a folder, sorted; a file that is named is one, whatever its name."""
    if root.is_file():
        yield root
        return
    yield from sorted(each for pattern in CASE_FILES for each in root.rglob(pattern) if each.is_file())
