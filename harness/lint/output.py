"""Findings told: as text with the line and a caret, as JSON, and as workflow commands of GitHub. SARIF is in `sarif`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

import click

from harness.lint.finding import Finding, Severity

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}
_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def text(findings: Sequence[Finding], policies: int) -> str:
    """For people, with colours; a last line that counts."""
    return "\n".join([*(_told(each) for each in findings), _counted(findings, policies)])


def _told(finding: Finding) -> str:
    remark, location = finding.remark, finding.place.location
    severity = click.style(finding.severity.value, fg=_COLOURS[finding.severity], bold=True)
    rule = click.style(f"[{finding.rule} {finding.name}]", dim=True)
    line = finding.place.source.line(location.line).rstrip()
    caret = " " * (location.column - 1) + "^" * location.length
    return f"{location}: {severity}: {remark.message} {rule}\n    {line}\n    {click.style(caret, fg='green')}\n  {remark.fix}"


def _counted(findings: Sequence[Finding], policies: int) -> str:
    read = _number(policies, "policy", "policies")
    if not findings:
        return f"nothing found in {read}"
    counts = Counter(each.severity for each in findings)
    words = ", ".join(
        _number(counts[each], each.value, each.value if each is Severity.INFO else f"{each.value}s") for each in counts_in_order(counts)
    )
    fixable = sum(bool(each.remark.edits) for each in findings)
    return f"{words} in {read}" + (f"; --fix corrects {fixable}" if fixable else "")


def counts_in_order(counts: Counter[Severity]) -> Iterator[Severity]:
    """The severities that occur, the most severe first."""
    return (each for each in Severity if counts[each])


def _number(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def as_json(findings: Sequence[Finding]) -> str:
    """One array; lines and columns start at 1, the end is exclusive."""
    return json.dumps(
        [
            {
                "rule": each.rule,
                "name": each.name,
                "severity": each.severity,
                "file": each.file,
                "line": each.line,
                "column": each.column,
                "endLine": each.place.end_line,
                "endColumn": each.place.end_column,
                "message": each.remark.message,
                "fix": each.remark.fix,
                "fixable": bool(each.remark.edits),
                "policy": each.policy,
            }
            for each in findings
        ],
        indent=2,
    )


def github(findings: Sequence[Finding]) -> str:
    """Workflow commands, which GitHub shows beside the lines of a pull request."""
    return "\n".join(
        f"::{_COMMANDS[each.severity]} file={_property(each.file)},line={each.line},col={each.column},"
        f"title={_property(f'{each.rule} {each.name}')}::{_data(f'{each.remark.message} ({each.remark.fix})')}"
        for each in findings
    )


def _data(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")
