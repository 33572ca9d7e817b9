"""Each rule by its own examples: the bad one has this rule's finding and no other, the good one has none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.lint.docs import page
from harness.lint.examples import findings_in
from harness.lint.registry import all_rules

RULES = list(all_rules().values())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_bad_example_has_this_finding_and_no_other(rule):
    found = findings_in(rule.bad, RULES, rule.workloads)
    assert {each.rule for each in found} == {rule.id}, [f"{each.rule} {each.remark.message}" for each in found]
    assert all(each.remark.message and each.remark.fix for each in found)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_good_example_has_none(rule):
    found = findings_in(rule.good, RULES, rule.workloads)
    assert not found, [f"{each.rule} {each.remark.message}" for each in found]


def test_ids_and_names_are_unique_and_stable_in_form():
    assert all(re.fullmatch(r"HL[1-9][0-9]{2}|HL00[1-9]", each.id) for each in RULES)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", each.name) for each in RULES)
    assert len({each.name for each in RULES}) == len(RULES)


def test_every_rule_says_what_it_finds_and_why():
    assert all(len(each.paragraph.split()) >= 15 for each in RULES)


def test_the_page_of_the_documentation_is_what_the_rules_say():
    written = Path(__file__).parents[2].joinpath("docs/lint.md").read_text(encoding="utf-8")
    assert written == page() + "\n", "renew it: harness lint --docs > docs/lint.md"
