"""Findings as SARIF 2.1.0, for code scanning (https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

import harness
from harness.cases.source import Place
from harness.lint.finding import Finding, Severity
from harness.lint.registry import LintRule

_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def sarif(findings: Sequence[Finding], rules: Sequence[LintRule]) -> str:
    """One run: the rules that were asked, and a result for each finding."""
    places = {each.id: index for index, each in enumerate(rules)}
    driver = {"name": "harness lint", "semanticVersion": harness.__version__, "rules": [_rule(each) for each in rules]}
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                # Columns are characters, not UTF-16 units.
                "columnKind": "unicodeCodePoints",
                "results": [_result(each, places[each.rule]) for each in findings],
            }
        ],
    }
    return json.dumps(log, indent=2)


def _rule(rule: LintRule) -> dict[str, Any]:
    title = rule.name.replace("-", " ")
    return {
        "id": rule.id,
        "name": "".join(word.title() for word in rule.name.split("-")),
        "shortDescription": {"text": title[:1].upper() + title[1:]},
        "fullDescription": {"text": rule.paragraph},
        "help": {
            "text": f"{rule.paragraph}\n\nBad:\n\n{rule.bad}\nGood:\n\n{rule.good}",
            "markdown": f"{rule.paragraph}\n\nBad:\n\n```yaml\n{rule.bad}```\n\nGood:\n\n```yaml\n{rule.good}```\n",
        },
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _result(finding: Finding, index: int) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.remark.message}. To do: {finding.remark.fix}."},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": _artifact(finding.file), "region": _region(finding.place)},
                "logicalLocations": [{"fullyQualifiedName": finding.policy, "kind": "object"}],
            }
        ],
    }
    if finding.remark.edits:
        replacements = [{"deletedRegion": _region(each.place), "insertedContent": {"text": each.text}} for each in finding.remark.edits]
        changes = [{"artifactLocation": _artifact(finding.file), "replacements": replacements}]
        result["fixes"] = [{"description": {"text": finding.remark.fix}, "artifactChanges": changes}]
    return result


def _artifact(file: str) -> dict[str, str]:
    path = PurePath(file)
    return {"uri": path.as_uri() if path.is_absolute() else quote(path.as_posix())}


def _region(place: Place) -> dict[str, int]:
    return {"startLine": place.line, "startColumn": place.column, "endLine": place.end_line, "endColumn": place.end_column}
