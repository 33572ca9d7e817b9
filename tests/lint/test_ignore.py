"""`# harness: ignore[ID]`: what a comment is about, by where it stands."""

from __future__ import annotations

import pytest

from harness.cases.source import Source
from harness.lint.examples import findings_in
from harness.lint.ignore import ignores_in
from harness.lint.registry import all_rules

TEXT = """\
# harness: ignore[HL001]
apiVersion: cilium.io/v2
spec:
  ingress:  # harness: ignore[HL002]
  # harness: ignore[HL003, hl004]
  - fromEndpoints:
    - {}
    toPorts: []

  - fromEntities: [all]
  # harness: ignore[HL005]
  egress:
  - toPorts: []
  # a word
  other: 1
---
# harness: ignore[HL006]
kind: List
"""


def test_a_comment_is_about_its_line_or_what_begins_on_the_next():
    found = [(each.rule, each.first, each.last) for each in ignores_in(Source("a.yaml", TEXT))]
    assert found == [("HL001", 2, 15), ("HL002", 4, 4), ("HL003", 6, 8), ("HL004", 6, 8), ("HL005", 12, 13), ("HL006", 18, 19)]


@pytest.mark.parametrize(
    "spec",
    [
        "ingress:\n  - fromEndpoints: [{}]  # harness: ignore[HL103]\n",
        "ingress:\n  # harness: ignore[HL103]\n  - fromEndpoints:\n      - {}\n",
        "# harness: ignore[HL103, HL104]\ningress:\n  - fromEndpoints:\n      - {}\n    toPorts:\n      - {}\n",
    ],
)
def test_what_a_comment_names_is_not_told(spec):
    assert findings_in(spec, list(all_rules().values())) == []


def test_another_rule_is_told_all_the_same():
    found = findings_in("ingress:\n  - fromEndpoints: [{}]  # harness: ignore[HL104]\n", list(all_rules().values()))
    assert [each.rule for each in found] == ["HL005", "HL103"] or [each.rule for each in found] == ["HL103", "HL005"]


def test_a_comment_for_a_rule_that_did_not_run_is_left_alone():
    spec = "ingress:\n  - fromEntities: [cluster]  # harness: ignore[HL703]\n"
    assert findings_in(spec, list(all_rules().values())) == []


def test_a_comment_for_no_rule_is_told():
    (found,) = findings_in("ingress:\n  - fromEntities: [cluster]  # harness: ignore[HL999]\n", list(all_rules().values()))
    assert found.rule == "HL005"
    assert "there is no rule HL999" in found.remark.message
