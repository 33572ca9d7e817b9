"""The account of a phase that did not pass: every failed check with its evidence, and the one command that runs it again.

Pure but for reading the lines that locations point at.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterable, Iterator, Sequence

from harness.cases.case import Case, Expectation, PolicyObject
from harness.engine.events import CheckFinished, Event, PhaseFinished, RunStarted
from harness.engine.outcome import CheckResult, Outcome, PolicyFinding
from harness.errors import Location
from harness.model.verdict import PolicyRef
from harness.reports import advice, wording
from harness.reports.account import Account, Line, block, plain

SHOWN = 3
"""Checks of one expectation that are told in full; the others are named."""
FLOWS_SHOWN = 6
_COLOUR = {Outcome.FAILED: "red bold", Outcome.UNKNOWN: "yellow bold", Outcome.PASSED: "green"}


def describe(events: Sequence[Event], case: Case, phase: str, *, command: str, simulated: bool = False) -> Account:
    """The account of the phase, from its events. `command` runs it again."""
    results = [each.result for each in events if isinstance(each, CheckFinished) and each.phase == phase]
    finished = next((each for each in reversed(events) if isinstance(each, PhaseFinished) and each.phase == phase), None)
    simulated = simulated or any(isinstance(each, RunStarted) and each.simulated for each in events)
    declared = case.phase(phase)
    bad = [result for result in results if result.judgement.outcome is not Outcome.PASSED]
    findings = [finding for finding in finished.findings if finding.fails] if finished else []
    locate = locator(declared.policies)
    lines: list[Line] = []
    if simulated:
        lines.append(plain("simulated: no packet was sent; flows and answers are the policy model's own", "purple"))
    if finished and finished.error:
        lines += [(("unknown ", "yellow bold"), ("the phase could not be run: ", ""), (finished.error, "bold"))]
    for finding in findings:
        lines += _finding(finding, case, declared.policies)
    for expectation, group in _grouped(bad):
        lines += _expectation(expectation, group, case, declared.policies, locate)
    lines += [plain(""), (("again: ", "bold"), (command, "cyan"))]
    return Account(_summary(finished, findings, bad), tuple(lines), _where(findings, bad, declared.location))


def locator(policies: Iterable[PolicyObject]) -> Callable[[PolicyRef], str]:
    """` (file:line)` of a policy by its name, or ''."""
    places = {policy.ref: f" ({policy.location.file}:{policy.location.line})" for policy in policies}
    return lambda ref: places.get(ref, "")


def _summary(finished: PhaseFinished | None, findings: Sequence[PolicyFinding], bad: Sequence[CheckResult]) -> str:
    if finished and finished.error:
        return finished.error.splitlines()[0]
    if findings:
        first = f"{findings[0].ref} {findings[0].message}"
    elif bad:
        worst = next((each for each in bad if each.judgement.outcome is Outcome.FAILED), bad[0])
        first = f"{worst.action}: {wording.title(worst)}: {worst.judgement.why}"
    else:
        first = "no check tells why"
    more = len(findings) + len(bad) - 1
    return f"{first} (and {more} more)" if more > 0 else first


def _where(findings: Sequence[PolicyFinding], bad: Sequence[CheckResult], phase: Location) -> tuple[str, int]:
    location = findings[0].location if findings else bad[0].expectation.location if bad else phase
    return location.file, location.line


def _grouped(results: Iterable[CheckResult]) -> Iterator[tuple[Expectation, list[CheckResult]]]:
    """By expectation, in the order they were written; failed checks before unknown ones."""
    groups: dict[tuple[Location, str], list[CheckResult]] = {}
    for result in results:
        groups.setdefault((result.expectation.location, result.expectation.text), []).append(result)
    for group in groups.values():
        group.sort(key=lambda result: result.judgement.outcome is not Outcome.FAILED)
        yield group[0].expectation, group


def source(location: Location) -> Iterator[Line]:
    """`file:line:column`, the line itself, and a caret under the place."""
    yield plain(str(location), "bold")
    linecache.checkcache(location.file)  # it may have changed since it was last shown, or the folder it is relative to
    text = linecache.getline(location.file, location.line).rstrip()
    if text:
        yield plain(f"    {text}")
        if location.column:
            yield plain(" " * (3 + location.column) + "^" * max(1, location.length), "red bold")


def _finding(finding: PolicyFinding, case: Case, policies: Sequence[PolicyObject]) -> Iterator[Line]:
    yield plain("")
    yield from source(finding.location)
    yield (("failed ", "red bold"), (str(finding.ref), "bold"), (f" {finding.message}", ""))
    if hint := advice.for_finding(finding, case, policies):
        yield _row("likely", hint, "green")


def _expectation(
    expectation: Expectation,
    results: Sequence[CheckResult],
    case: Case,
    policies: Sequence[PolicyObject],
    locate: Callable[[PolicyRef], str],
) -> Iterator[Line]:
    yield plain("")
    yield from source(expectation.location)
    if expectation.closed_world:
        yield plain(f"  from `otherwise: {expectation.action}`: {expectation.text}", "light")
    for result in results[:SHOWN]:
        yield from check(result, case, policies, locate)
    if rest := results[SHOWN:]:
        yield plain(f"and {len(rest)} more of this expectation: {wording.listed((wording.title(each) for each in rest), 8)}", "bold")


def check(result: CheckResult, case: Case, policies: Sequence[PolicyObject], locate: Callable[[PolicyRef], str]) -> Iterator[Line]:
    """One check with its evidence."""
    outcome = result.judgement.outcome
    yield (
        (f"{outcome} ", _COLOUR[outcome]),
        (f"{result.action}: {wording.title(result)}", "bold"),
        (f": {result.judgement.why}", ""),
    )
    for observation in result.observations:
        yield _row("sent", wording.sent(observation))
        yield _row("came back", wording.came_back(observation))
        lines = wording.flow_lines(observation.flows)
        flows = lines[:FLOWS_SHOWN] + [f"and {len(lines) - FLOWS_SHOWN} more"] * (len(lines) > FLOWS_SHOWN)
        if not observation.flows_on:
            flows = ["not read (flows are off)"]
        for index, text in enumerate(flows or ["none was seen"]):
            yield _row("flows" if index == 0 else "", text)
        for lost in observation.lost:
            yield _row("lost", f"{lost.count} flow events ({lost.source or 'source not told'})", "yellow")
    if result.prediction is not None:
        yield _row("model", wording.model_says(result.prediction, locate))
    if result.disagreement:
        yield from block(f"THE MODEL AND THE CLUSTER DISAGREE: {result.disagreement}", 4, "red bold")
    if result.unproven:
        yield _row(
            "unproven", "this connection was never seen to work in this case; a phase that allows it would prove that it can", "yellow"
        )
    if hint := advice.for_check(result, case, policies):
        yield _row("likely", hint, "green")


def _row(head: str, text: str, style: str = "") -> Line:
    return ((f"    {head:<10}", "light"), (text, style))
