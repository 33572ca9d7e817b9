"""Allure steps: one an expectation, a sub-step a check, with the policies in force and the flows attached.

allure-pytest listens in the process that runs the test, so this report works there and not on xdist's controller. Imported only with
`--alluredir`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import allure_commons
from allure_commons.types import AttachmentType

from harness.cases.case import Case, Expectation
from harness.engine.events import CheckFinished, Event, PhaseFinished, PoliciesApplied, dump
from harness.engine.outcome import CheckResult, Outcome
from harness.reports import failure, wording
from harness.reports.account import Account


class Unknown(Exception):  # noqa: N818 -- only its being no AssertionError counts: Allure shows such a step as broken
    """An outcome that is neither passed nor failed."""


def record_steps(case: Case, phase: str, events: Sequence[Event], *, simulated: bool) -> None:
    """Add the phase's steps to the test that Allure is recording."""
    hooks = allure_commons.plugin_manager.hook
    if case.description:
        hooks.add_description(test_description=case.description)
    if simulated:
        hooks.add_label(label_type="tag", labels=("simulated",))
    applied = next((each for each in events if isinstance(each, PoliciesApplied) and each.phase == phase), None)
    policies = "---\n".join(applied.policies.values()) if applied else ""
    findings = [finding for each in events if isinstance(each, PhaseFinished) and each.phase == phase for finding in each.findings]
    for finding in findings:
        with _step(f"{finding.kind}: {finding.ref}", AssertionError(finding.message) if finding.fails else None):
            _attach("what", finding.message)
    finished = [each for each in events if isinstance(each, CheckFinished) and each.phase == phase]
    locate = failure.locator(case.phase(phase).policies)
    for expectation, group in _by_expectation(finished):
        bad = [each.result for each in group if each.result.judgement.outcome is not Outcome.PASSED]
        with _step(f"{expectation.action}: {expectation.text}", _error(bad)):
            if policies:
                _attach("policies in force", policies, AttachmentType.YAML)
            flows = [flow for each in group for observation in dump(each)["result"]["observations"] for flow in observation["flows"]]
            _attach("flows", json.dumps(flows, indent=1), AttachmentType.JSON)
            for each in group:
                result = each.result
                title = f"{wording.title(result)}: {result.judgement.outcome}, {result.judgement.why}"
                with _step(title, _error([result])):
                    if result in bad:
                        lines = tuple(failure.check(result, case, case.phase(phase).policies, locate))
                        _attach("evidence", str(Account("", lines)))


def _by_expectation(events: Sequence[CheckFinished]) -> Iterator[tuple[Expectation, list[CheckFinished]]]:
    groups: dict[tuple[Any, str], list[CheckFinished]] = {}
    for each in events:
        expectation = each.result.expectation
        groups.setdefault((expectation.location, expectation.text), []).append(each)
    for group in groups.values():
        yield group[0].result.expectation, group


def _error(bad: Sequence[CheckResult]) -> Exception | None:
    """What the step ended with: the first failure, else the first unknown."""
    worst = next((each for each in bad if each.judgement.outcome is Outcome.FAILED), next(iter(bad), None))
    if worst is None:
        return None
    kind = AssertionError if worst.judgement.outcome is Outcome.FAILED else Unknown
    return kind(f"{wording.title(worst)}: {worst.judgement.why}")


@contextmanager
def _step(title: str, error: Exception | None) -> Iterator[None]:
    hooks = allure_commons.plugin_manager.hook
    identifier = str(uuid.uuid4())
    hooks.start_step(uuid=identifier, title=title, params={})
    try:
        yield
    finally:
        hooks.stop_step(uuid=identifier, title=title, exc_type=type(error) if error else None, exc_val=error, exc_tb=None)


def _attach(name: str, body: str, kind: AttachmentType = AttachmentType.TEXT) -> None:
    allure_commons.plugin_manager.hook.attach_data(body=body, name=name, attachment_type=kind, extension=None)
