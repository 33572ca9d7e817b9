"""The HTML report: one self-contained page, written when the run is over. Files, cases, phases, who may reach whom, and the evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import jinja2
from msgspec import Struct

import harness
from harness.clusters.base import Observation
from harness.engine.events import CheckFinished, Event, PhaseFinished, PhaseSkipped, PoliciesApplied
from harness.engine.outcome import CheckResult, Outcome, PolicyFinding
from harness.model.verdict import PolicyRef
from harness.reports import wording
from harness.reports.listener import Told
from harness.reports.tally import Tally

SKIPPED = "skipped"
_RANKED = (str(Outcome.FAILED), str(Outcome.UNKNOWN), str(Outcome.PASSED), SKIPPED)
EVIDENCE_SHOWN = 200
"""Passed checks of one phase that are told with their evidence; more would make the page heavy. Others always are."""


class Evidence(Struct, frozen=True):
    """One check as a row that unfolds."""

    title: str
    outcome: str
    why: str
    rows: tuple[tuple[str, str], ...]
    disagreement: str
    unproven: bool


class Statement(Struct, frozen=True):
    """One expectation with its checks."""

    action: str
    text: str
    place: str
    outcome: str
    counts: str
    checks: tuple[Evidence, ...]
    left_out: int


class Matrix(Struct, frozen=True):
    """Who (rows) reaches what (columns): for each cell the actions stated and the outcome, or None where nothing was stated."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    cells: dict[tuple[str, str], tuple[str, str]]


class PhaseView(Struct, frozen=True):
    name: str
    nodeid: str
    outcome: str
    seconds: str
    reason: str
    command: str
    account: tuple[tuple[tuple[str, str], ...], ...]
    findings: tuple[PolicyFinding, ...]
    matrix: Matrix | None
    statements: tuple[Statement, ...]
    policies: dict[str, str]
    how: str
    checks: int


@dataclass(slots=True)
class CaseView:
    """A case, or one Python test: `test` is its name then, for parametrised ones share a case's name."""

    name: str
    test: str = ""
    phases: list[PhaseView] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        return _worst(phase.outcome for phase in self.phases)


class HtmlReport:
    """Gathers while it listens, writes when it is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, dict[str, CaseView]] = {}
        self._tally = Tally()
        self._began = datetime.now(UTC)

    def hear(self, told: Told) -> None:
        self._tally.hear(told)
        file, _, name = told.nodeid.partition("::")
        test = name if file.endswith(".py") else ""
        for case, phase, events in _phases(told.events):
            view = self._files.setdefault(file, {}).setdefault(f"{test}::{case}", CaseView(case, test))
            view.phases.append(_phase_view(told, phase, events))

    def close(self) -> None:
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("harness.reports"), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        phases = Counter(phase.outcome for cases in self._files.values() for case in cases.values() for phase in case.phases)
        page = environment.get_template("report.html.j2").render(
            files={file: _worst_first(cases.values()) for file, cases in sorted(self._files.items(), key=_by_outcome)},
            tally=self._tally,
            runs=self._tally.runs,
            phases=phases,
            order=_RANKED,
            began=self._began,
            version=harness.__version__,
        )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(page, encoding="utf-8")


def _phases(events: Iterable[Event]) -> Iterator[tuple[str, str, list[Event]]]:
    """The events by case and phase, in the order of their beginning; what was only replayed is left out."""
    groups: dict[tuple[str, str], list[Event]] = {}
    for event in events:
        if isinstance(event, CheckFinished | PhaseFinished | PhaseSkipped | PoliciesApplied) and not getattr(event, "replayed", False):
            groups.setdefault((event.case, event.phase), []).append(event)
    for (case, phase), group in groups.items():
        yield case, phase, group


def _phase_view(told: Told, phase: str, events: list[Event]) -> PhaseView:
    finished = next((each for each in events if isinstance(each, PhaseFinished)), None)
    skipped = next((each for each in events if isinstance(each, PhaseSkipped)), None)
    applied = next((each for each in events if isinstance(each, PoliciesApplied)), None)
    results = [each.result for each in events if isinstance(each, CheckFinished)]
    outcome = SKIPPED if skipped else str(finished.outcome) if finished else str(Outcome.UNKNOWN)
    return PhaseView(
        name=phase,
        nodeid=told.nodeid,
        outcome=outcome,
        seconds=wording.milliseconds(finished.seconds) if finished else "",
        reason=skipped.reason if skipped else finished.error if finished else "",
        command=told.command,
        account=told.account.lines if told.account and outcome in (Outcome.FAILED, Outcome.UNKNOWN) else (),
        findings=finished.findings if finished else (),
        matrix=_matrix(results),
        statements=tuple(_statements(results)),
        policies=applied.policies if applied else {},
        how=f"{applied.how}, after {wording.milliseconds(applied.seconds)}" if applied and applied.how else "",
        checks=len(results),
    )


def _matrix(results: list[CheckResult]) -> Matrix | None:
    sources = tuple(dict.fromkeys(result.source for result in results))
    targets = tuple(dict.fromkeys(result.target for result in results))
    if not results or len(sources) * len(targets) > 2500:
        return None
    cells: dict[tuple[str, str], tuple[str, str]] = {}
    for result in results:
        key = (result.source, result.target)
        action, outcome = cells.get(key, ("", str(Outcome.PASSED)))
        actions = " ".join(dict.fromkeys((*action.split(), str(result.action))))
        cells[key] = (actions, _worst((outcome, str(result.judgement.outcome))))
    return Matrix(sources, targets, cells)


def _statements(results: list[CheckResult]) -> Iterator[Statement]:
    groups: dict[tuple[str, str], list[CheckResult]] = {}
    for result in results:
        groups.setdefault((str(result.expectation.location), result.expectation.text), []).append(result)
    left = EVIDENCE_SHOWN
    for (place, text), group in groups.items():
        shown = []
        for result in sorted(group, key=lambda each: each.judgement.outcome is Outcome.PASSED):
            passed = result.judgement.outcome is Outcome.PASSED
            if not passed or left > 0:
                shown.append(_evidence(result))
                left -= passed
        counts = Counter(str(result.judgement.outcome) for result in group)
        yield Statement(
            action=str(group[0].action),
            text=text,
            place=place,
            outcome=_worst(counts),
            counts=", ".join(f"{number} {outcome}" for outcome, number in counts.items()),
            checks=tuple(shown),
            left_out=len(group) - len(shown),
        )


def _evidence(result: CheckResult) -> Evidence:
    rows: list[tuple[str, str]] = []
    for observation in result.observations:
        rows += _seen(observation)
    if result.prediction is not None:
        rows.append(("model", wording.model_says(result.prediction, _nowhere)))
    if result.enforced_after is not None:
        rows.append(("held after", wording.milliseconds(result.enforced_after)))
    judgement = result.judgement
    return Evidence(wording.title(result), str(judgement.outcome), judgement.why, tuple(rows), result.disagreement, result.unproven)


def _seen(observation: Observation) -> Iterator[tuple[str, str]]:
    yield "sent", wording.sent(observation)
    yield "came back", wording.came_back(observation)
    if not observation.flows_on:
        yield "flows", "not read (flows are off)"
    elif not observation.flows:
        yield "flows", "none was seen"
    for line in wording.flow_lines(observation.flows):
        yield "flow", line
    for lost in observation.lost:
        yield "lost", f"{lost.count} flow events"


def _nowhere(policy: PolicyRef) -> str:
    del policy
    return ""


def _by_outcome(file: tuple[str, dict[str, CaseView]]) -> tuple[bool, str]:
    """What failed or is unknown stands above the rest; else by name, for workers tell them in any order."""
    name, cases = file
    return _is_good(_worst(case.outcome for case in cases.values())), name


def _worst_first(cases: Iterable[CaseView]) -> list[CaseView]:
    return sorted(cases, key=lambda case: _is_good(case.outcome))


def _is_good(outcome: str) -> bool:
    return outcome in (str(Outcome.PASSED), SKIPPED)


def _worst(outcomes: Iterable[str]) -> str:
    found = set(outcomes)
    return next((each for each in _RANKED if each in found), SKIPPED)
