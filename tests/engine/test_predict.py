"""The model beside the cluster: where they differ it is said, where the evidence does not tell it is not."""

from __future__ import annotations

import pytest

from harness.cases.case import Action, Expectation, Party, PartyKind, Target
from harness.clusters.base import Capabilities, Observation
from harness.engine.judge import Evidence, judge
from harness.engine.predict import describe, disagreement, model_options
from harness.errors import Location, UsageError
from harness.model.flow import EventType, FiveTuple, Flow, FlowVerdict, LostEvents
from harness.model.probe import Ending, Probe, ProbeResult, Site
from harness.model.traffic import Direction, Family, Protocol
from harness.model.verdict import Decision, DirectionVerdict, PolicyRef, PolicyVerdict, RuleRef

BACKEND = PolicyRef("CiliumNetworkPolicy", "shop", "backend")
OTHER = PolicyRef("CiliumNetworkPolicy", "shop", "other")
RULE = RuleRef(BACKEND, "ingress[0]")
FIVE = FiveTuple(Protocol.TCP, "10.0.0.1", 40000, "10.0.0.2", 8080)
OPEN = DirectionVerdict(Decision.ALLOW)
ALLOWED = PolicyVerdict(OPEN, DirectionVerdict(Decision.ALLOW, (RULE,), enforced=True))
DEFAULT_DENY = PolicyVerdict(OPEN, DirectionVerdict(Decision.DEFAULT_DENY, enforced=True))
DENY_RULE = PolicyVerdict(OPEN, DirectionVerdict(Decision.DENY_RULE, (RULE,), enforced=True))
AT_EGRESS = PolicyVerdict(DirectionVerdict(Decision.DEFAULT_DENY, enforced=True), OPEN)
UNSURE = PolicyVerdict(OPEN, DirectionVerdict(Decision.UNKNOWN))


def flow(verdict: FlowVerdict, **more) -> Flow:
    return Flow(1, verdict, FIVE, more.pop("direction", Direction.INGRESS), event_type=EventType.POLICY_VERDICT, **more)


def compared(prediction: PolicyVerdict | None, *flows: Flow, lost=()) -> str:
    dropped = any(each.dropped for each in flows)
    party = Party(PartyKind.ENDPOINT, "x")
    expectation = Expectation(Action.ALLOW, "x -> x:8080", (party,), (Target(party, 8080, Protocol.TCP, "x:8080"),), Location("t", 1))
    probe = Probe(1, Site("pod", "a/b"), Protocol.TCP, Family.IPV4, "10.0.0.2", 8080, "aa", 1.0, ("shop/backend",))
    ending = Ending.STOPPED if dropped else Ending.ANSWERED
    result = ProbeResult(1, ending, 0, 2, FIVE, "" if dropped else "shop/backend", "" if dropped else "aa")
    evidence = Evidence(expectation, Observation(probe, result, flows, tuple(lost)))
    return disagreement(prediction, evidence, judge(evidence))


FORWARDED = flow(FlowVerdict.FORWARDED, ingress_allowed_by=(BACKEND,))


@pytest.mark.parametrize(
    ("prediction", "seen"),
    [
        (ALLOWED, FORWARDED),
        (ALLOWED, flow(FlowVerdict.FORWARDED)),
        (DEFAULT_DENY, flow(FlowVerdict.DROPPED, drop_reason=133)),
        (DENY_RULE, flow(FlowVerdict.DROPPED, drop_reason=181, ingress_denied_by=(BACKEND,))),
        (DENY_RULE, flow(FlowVerdict.DROPPED, drop_reason=181)),
        (DEFAULT_DENY, flow(FlowVerdict.DROPPED, direction=None)),
        (UNSURE, FORWARDED),
        (None, FORWARDED),
    ],
)
def test_they_agree_as_far_as_the_evidence_tells(prediction, seen):
    assert not compared(prediction, seen)


@pytest.mark.parametrize(
    ("prediction", "seen", "words"),
    [
        (DENY_RULE, FORWARDED, "the model denies it (deny-rule at ingress by CiliumNetworkPolicy/shop/backend ingress[0])"),
        (ALLOWED, flow(FlowVerdict.DROPPED, drop_reason=133), "the model allows it"),
        (DEFAULT_DENY, flow(FlowVerdict.DROPPED, drop_reason=181), "the model says default-deny at ingress"),
        (AT_EGRESS, flow(FlowVerdict.DROPPED, drop_reason=133), "the model says default-deny at egress"),
        (DENY_RULE, flow(FlowVerdict.DROPPED, drop_reason=181, ingress_denied_by=(OTHER,)), str(OTHER)),
        (ALLOWED, flow(FlowVerdict.FORWARDED, ingress_allowed_by=(OTHER,)), f"allowed it at ingress by {OTHER}"),
    ],
    ids=["forwarded", "dropped", "reason", "side", "denied by", "allowed by"],
)
def test_they_differ_and_both_are_named(prediction, seen, words):
    assert words in compared(prediction, seen)


def test_evidence_that_is_unusable_disagrees_with_nothing():
    assert not compared(DENY_RULE, FORWARDED, lost=[LostEvents(1)])


def test_a_prediction_in_a_few_words():
    assert describe(ALLOWED) == "allow at egress (no policy selects it); allow at ingress by CiliumNetworkPolicy/shop/backend ingress[0]"
    nothing = DirectionVerdict(Decision.NOT_APPLICABLE)
    assert describe(PolicyVerdict(nothing, nothing)) == "no policy is asked"


def test_the_models_switches_are_the_clusters():
    options = model_options(Capabilities("1.19.7", frozenset({"host-firewall"})))
    assert (options.cilium, options.host_firewall, options.ipv6) == ("1.19", True, False)
    with pytest.raises(UsageError):
        model_options(Capabilities("1.2", frozenset()))
