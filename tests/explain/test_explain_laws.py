"""Laws of `harness explain` on random worlds: it says what the evaluator says, and what it proposes helps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.explain.account import explain
from harness.model.cluster import ClusterState
from harness.model.traffic import Direction, Entity, EntityName, External, Protocol, Request, RequestKind, Traffic
from harness.model.verdict import Decision, L7Decision, Verdict
from harness.policy.evaluate import Evaluator
from tests.policy.policy_worlds import ADDRESSES, PORTS, Document, evaluator, law, repositories, states

REQUESTS = (
    None,
    Request(RequestKind.HTTP, "GET", "/x"),
    Request(RequestKind.HTTP, "POST", "/y.z?q=(1)"),
    Request(RequestKind.TLS, name="x.io"),
)


@st.composite
def questions(draw: st.DrawFn) -> tuple[ClusterState, list[Document], Traffic]:
    state = draw(states())
    peers = st.sampled_from([
        *(pod.ref for pod in state.pods),
        *map(External, ADDRESSES),
        *(Entity(each) for each in (EntityName.HOST, EntityName.REMOTE_NODE, EntityName.HEALTH, EntityName.KUBE_APISERVER)),
    ])
    protocol = draw(st.sampled_from([Protocol.TCP, Protocol.TCP, Protocol.UDP, Protocol.ICMP]))
    port = 8 if protocol is Protocol.ICMP else draw(st.sampled_from(PORTS))
    request = draw(st.sampled_from(REQUESTS)) if protocol is Protocol.TCP else None
    return state, draw(repositories()), Traffic(draw(peers), draw(peers), protocol, port, request)


@law(40)
@given(questions())
def test_the_verdict_is_the_evaluators_and_rules_that_decide_do_not_miss(question: tuple[ClusterState, list[Document], Traffic]) -> None:
    state, policies, traffic = question
    model = evaluator(*policies, state=state)
    account = explain(model, traffic)
    verdict = model.verdict(traffic)
    assert account.verdict == verdict
    assert (account.egress.verdict, account.ingress.verdict) == (verdict.egress, verdict.ingress)
    for side in account.sides:
        for near in side.almost:
            assert near.misses
            assert near.ref not in side.verdict.rules
        if side.verdict.l7 is L7Decision.NOT_APPLICABLE:
            assert not side.silent, "a rule that decides a connection matches it"
        if side.verdict.l7 is L7Decision.DENY:
            assert side.silent or side.verdict.note


@law(40)
@given(questions())
def test_a_proposed_policy_allows_the_traffic_and_denies_nothing_else(question: tuple[ClusterState, list[Document], Traffic]) -> None:
    state, policies, traffic = question
    model = evaluator(*policies, state=state)
    remedy = explain(model, traffic).remedy
    verdict = model.verdict(traffic)
    assert (remedy is None) is (verdict.verdict is Verdict.ALLOW)
    if remedy is None:
        return
    if not remedy.policies:
        assert remedy.note
        return
    changed = Evaluator(state, model.repository.change(apply=remedy.policies))
    assert changed.verdict(traffic).verdict is Verdict.ALLOW
    for source in state.pods:
        for target in state.pods:
            for port in PORTS:
                other = Traffic(source.ref, target.ref, Protocol.TCP, port)
                if model.verdict(other).verdict is Verdict.ALLOW:
                    assert changed.verdict(other).verdict is Verdict.ALLOW, f"{other} was allowed before"


@law(40)
@given(questions())
def test_default_deny_on_a_side_without_deny_rules_can_always_be_opened(question: tuple[ClusterState, list[Document], Traffic]) -> None:
    state, policies, traffic = question
    model = evaluator(*policies, state=state)
    account = explain(model, traffic)
    decisions = {side.verdict.decision for side in account.sides}
    plain = traffic.request is None and decisions <= {Decision.ALLOW, Decision.DEFAULT_DENY, Decision.NOT_APPLICABLE}
    if plain and account.remedy is not None and model.subject(traffic.source, traffic.destination) is not None:
        assert account.remedy.policies, account.remedy.note
        sides = [side.direction for side in account.sides if side.denies]
        assert [each for each in (Direction.EGRESS, Direction.INGRESS) if each in sides] == [
            Direction.EGRESS if "egress" in each["spec"] else Direction.INGRESS for each in account.remedy.policies
        ]
