"""--fix: what it changes, and that it changes nothing else."""

from __future__ import annotations

import pytest

from harness.lint.examples import findings_in, manifest
from harness.lint.fix import fixed
from harness.lint.registry import all_rules

RULES = list(all_rules().values())
FIXABLE = [each for each in RULES if any(found.remark.edits for found in findings_in(each.bad, RULES, each.workloads))]


def corrected(text: str) -> str:
    return fixed(manifest(text), [edit for each in findings_in(text, RULES) for edit in each.remark.edits])


def test_which_rules_have_a_correction():
    assert [each.id for each in FIXABLE] == ["HL003", "HL005", "HL303", "HL304"]


@pytest.mark.parametrize("rule", FIXABLE, ids=lambda rule: rule.id)
def test_a_correction_corrects_and_a_second_changes_nothing(rule):
    once = corrected(rule.bad)
    assert once != manifest(rule.bad)
    again = once.removeprefix("apiVersion: cilium.io/v2\n")
    assert findings_in(again, RULES) == []
    assert corrected(again) == once


def test_comments_formatting_and_neighbours_stay():
    text = """\
kind: CiliumNetworkPolicy  # the kind
metadata:
    name:   web
    namespace: shop
    annotations:
        # who wrote it
        author: "me"
        cilium.io/encrypt: "true"   # please
spec:
    endpointSelector: {matchLabels: {app: web}}
    ingress:
    -   toPorts:
        -   ports:
            -   {port: '010', protocol: TCP}   # eight
            -   port: "9000"
                # up to here
                endPort: 9000
                protocol: TCP
"""
    wanted = text.replace('        cilium.io/encrypt: "true"   # please\n', "          # please\n")
    wanted = wanted.replace("'010'", '"8"').replace("                endPort: 9000\n", "")
    got = corrected(text).removeprefix("apiVersion: cilium.io/v2\n")
    assert [each.strip() for each in got.splitlines()] == [each.strip() for each in wanted.splitlines()]


def test_line_ends_of_another_system_stay():
    text = manifest("ingress:\n  - fromEntities: [cluster]  # harness: ignore[HL201]\n")
    edits = [
        edit
        for each in findings_in("ingress:\n  - fromEntities: [cluster]  # harness: ignore[HL201]\n", RULES)
        for edit in each.remark.edits
    ]
    windows = text.replace("\n", "\r\n")
    assert fixed(windows, edits) == windows.replace("  # harness: ignore[HL201]", "")
