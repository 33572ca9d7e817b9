"""Runs rules over policies, and leaves out what comments silence. Reads and writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from harness.lint.finding import Edit, Finding, Remark
from harness.lint.given import Given
from harness.lint.ignore import Ignore, ignores_in
from harness.lint.policy import LintedPolicy
from harness.lint.registry import LintRule, all_rules

UNUSED_IGNORE = "HL005"
"""The rule about the comments themselves: it can run only after all others."""


def lint(given: Given, rules: Sequence[LintRule]) -> list[Finding]:
    """The findings that no comment silences, by file and place."""
    running = [each for each in rules if each.id != UNUSED_IGNORE and (given.state is not None or not each.needs_workloads)]
    sources = {policy.source.file: policy.source for policy in given.policies}
    comments = {file: ignores_in(source) for file, source in sources.items()}
    findings = []
    for policy in given.policies:
        for rule in running:
            found = _findings(policy, rule, rule.check(policy, given))
            findings += [each for each in found if not _silenced(each, comments[each.file])]
    unused = next((each for each in rules if each.id == UNUSED_IGNORE), None)
    if unused is not None:
        ran = {each.id for each in running}
        for policies in _by_file(given.policies):
            for comment in comments[policies[0].source.file]:
                findings += _findings(policies[0], unused, _unused(comment, ran))
    return sorted(set(findings))


def _findings(policy: LintedPolicy, rule: LintRule, remarks: Iterable[Remark]) -> Iterator[Finding]:
    for remark in remarks:
        location = remark.place.location
        yield Finding(location.file, location.line, location.column, rule.id, rule.name, rule.severity, remark, str(policy.ref))


def _silenced(finding: Finding, comments: Iterable[Ignore]) -> bool:
    silenced = False
    for comment in comments:
        if comment.rule == finding.rule and comment.first <= finding.line <= comment.last:
            comment.used = silenced = True
    return silenced


def _unused(comment: Ignore, ran: set[str]) -> Iterator[Remark]:
    if comment.rule not in all_rules():
        yield Remark(
            comment.place, f"there is no rule {comment.rule}: this comment silences nothing", "name a rule by its id, such as HL101"
        )
    elif comment.rule in ran and not comment.used:
        edits = (Edit(comment.whole),) if comment.alone else ()
        yield Remark(comment.place, f"{comment.rule} finds nothing here: this comment silences nothing", "remove it", edits)


def _by_file(policies: Iterable[LintedPolicy]) -> Iterator[list[LintedPolicy]]:
    found: dict[str, list[LintedPolicy]] = {}
    for each in policies:
        found.setdefault(each.source.file, []).append(each)
    yield from found.values()
