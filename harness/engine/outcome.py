"""What a test concludes: passed, failed or unknown, for one check and for a phase. The rules are in `judge`."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from harness.cases.case import Action, Expectation
from harness.clusters.base import Observation
from harness.errors import Location
from harness.model.verdict import PolicyRef, PolicyVerdict


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """Neither: the evidence does not suffice. Never counted as passed; the test fails in a category of its own."""


class Judgement(Struct, frozen=True, gc=False):
    """The conclusion for one check: one source replica, one target replica, one family."""

    outcome: Outcome
    row: int
    """The row of the verdict table (design 4) that decided, 1 to 7."""
    why: str
    """One sentence for a person."""


class CheckResult(Struct, frozen=True, gc=False):
    """One check of an expectation, with its evidence. `source` and `target` as reported: `backend[1]`, `backend[0]:8080/TCP`."""

    expectation: Expectation
    action: Action
    source: str
    target: str
    judgement: Judgement
    observations: tuple[Observation, ...]
    """The lookup, where there was one, then the probe itself (the deciding one is last)."""
    prediction: PolicyVerdict | None
    disagreement: str = ""
    """Where the model and the cluster disagree: how. Said loudly."""
    unproven: bool = False
    """A deny whose triple was never seen answered in this case."""
    enforced_after: float | None = None
    """Seconds until the expectation held, with `within`."""


class PolicyFinding(Struct, frozen=True):
    """Something wrong or noteworthy about a policy itself: inert, rejected, idle, not as declared, uncovered."""

    ref: PolicyRef
    kind: str
    """inert | rejected | not-inert | not-rejected | idle | uncovered"""
    message: str
    location: Location
    fails: bool
    """Whether the phase fails by it (idle and uncovered do not)."""
