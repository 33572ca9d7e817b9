"""The inert gate: policies that do nothing, or do not do what was declared of them."""

from __future__ import annotations

import pytest

from harness.cases.case import Phase, PolicyObject, Rejected
from harness.engine.findings import effective, standing
from harness.errors import Location
from harness.model.verdict import PolicyError, PolicyRef, PolicyStage, PolicyStatus

REF = PolicyRef("CiliumNetworkPolicy", "shop", "backend")
POLICY = PolicyObject(REF, {}, Location("policies.yaml", 7))
REFUSED = PolicyStatus(REF, PolicyError(PolicyStage.AGENT, "rule must have at least one of Ingress"))
INERT = PolicyStatus(REF, inert="it selects no endpoint")
WORKS = PolicyStatus(REF, selects=("shop/backend",))


def phase(**more) -> Phase:
    return Phase("deny", Location("test_x.yaml", 3), apply=(POLICY,), **more)


def kinds(given: Phase, status: PolicyStatus) -> list[str]:
    return [finding.kind for finding in standing(given, {REF: status})]


def test_a_policy_that_works_is_no_finding():
    assert kinds(phase(), WORKS) == []


@pytest.mark.parametrize(("status", "kind", "words"), [(REFUSED, "rejected", "at least one of"), (INERT, "inert", "selects no endpoint")])
def test_a_policy_that_does_nothing_fails_the_phase_naming_it_and_why(status, kind, words):
    (finding,) = standing(phase(), {REF: status})
    assert (finding.kind, finding.ref, finding.fails) == (kind, REF, True)
    assert words in finding.message
    assert finding.location == Location("policies.yaml", 7)


@pytest.mark.parametrize("status", [REFUSED, INERT])
def test_declared_inert_covers_whatever_makes_it_do_nothing(status):
    assert kinds(phase(inert=(REF,)), status) == []


def test_declared_rejected_and_refused():
    assert kinds(phase(rejected=(Rejected(REF),)), REFUSED) == []
    assert kinds(phase(rejected=(Rejected(REF, "at least one of"),)), REFUSED) == []


def test_declared_rejected_with_another_message():
    assert kinds(phase(rejected=(Rejected(REF, "invalid port"),)), REFUSED) == ["rejected"]


def test_declared_rejected_but_accepted():
    assert kinds(phase(rejected=(Rejected(REF),)), WORKS) == ["not-rejected"]
    assert kinds(phase(rejected=(Rejected(REF),)), INERT) == ["not-rejected", "inert"]


def test_declared_inert_but_it_works():
    (finding,) = standing(phase(inert=(REF,)), {REF: WORKS})
    assert finding.kind == "not-inert"
    assert "shop/backend" in finding.message


def test_a_policy_of_an_earlier_phase_can_be_declared_too():
    later = Phase("later", Location("test_x.yaml", 9), inert=(REF,), policies=(POLICY,))
    (finding,) = standing(later, {REF: WORKS})
    assert (finding.kind, finding.location) == ("not-inert", POLICY.location)


def test_only_policies_that_do_something_can_be_covered():
    assert effective(phase(), {REF: WORKS}) == (REF,)
    assert effective(phase(), {REF: REFUSED}) == effective(phase(), {REF: INERT}) == ()


def test_a_deny_rule_that_denies_nobody_is_told_and_fails_nothing():
    (finding,) = standing(phase(), {REF: PolicyStatus(REF, selects=("shop/backend",), idle=("ingressDeny[0] selects no peer",))})
    assert (finding.kind, finding.fails, finding.message) == (
        "idle",
        False,
        "has a deny rule that denies nobody: ingressDeny[0] selects no peer",
    )
