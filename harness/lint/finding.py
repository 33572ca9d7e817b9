"""What a rule finds: where, what is wrong, what to do, and the edits that do it. Not how it is told: that is `output`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from msgspec import Struct

from harness.cases.source import Place


class Severity(StrEnum):
    """ERROR: the policy does not do what it says. WARNING: it very likely does not. INFO: it may surprise, or could be shorter."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 is the most severe."""
        return list(Severity).index(self)


class Edit(Struct, frozen=True):
    """Replaces the text of a place. Lines that the edit leaves blank go with it."""

    place: Place
    text: str = ""


def whole_lines(place: Place) -> tuple[Edit, ...]:
    """The edit that removes a place, or none where something else stands before it on its line (a dash, a brace)."""
    before = place.source.line(place.line)[: place.column - 1]
    return () if before.strip() else (Edit(place),)


class Remark(Struct, frozen=True):
    """What a check yields. `fix` says what to do, in the imperative; `edits` do it where that changes no verdict."""

    place: Place
    message: str
    fix: str
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A remark with its rule. Findings sort by file and place."""

    file: str
    line: int
    column: int
    rule: str
    """The id, such as HL101."""
    name: str = field(compare=False)
    severity: Severity = field(compare=False)
    remark: Remark = field(compare=False)
    policy: str = field(compare=False)
    """Kind/namespace/name of the policy that it is about."""

    @property
    def place(self) -> Place:
        return self.remark.place
