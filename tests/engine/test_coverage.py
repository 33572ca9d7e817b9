"""Uncovered policies: those without which the model would decide everything the same, by the same rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.engine.coverage import uncovered
from harness.model.cluster import ClusterState, Pod
from harness.model.traffic import PodRef, Protocol, Traffic
from harness.model.verdict import PolicyRef
from harness.policy.evaluate import Evaluator
from harness.policy.options import Options
from harness.policy.repository import Repository

NAMES = ("web", "api", "db")
STATE = ClusterState({"shop": {}}, tuple(Pod(PodRef("shop", name), {"app": name}, "a") for name in NAMES))


def policy(name: str, subject: str, peers: tuple[str, ...]) -> dict:
    sources = [{"fromEndpoints": [{"matchLabels": {"app": peer}}]} for peer in peers] or [{}]
    spec = {"endpointSelector": {"matchLabels": {"app": subject}}, "ingress": sources}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": name, "namespace": "shop"}, "spec": spec}


def ref(name: str) -> PolicyRef:
    return PolicyRef("CiliumNetworkPolicy", "shop", name)


def traffic(source: str, destination: str) -> Traffic:
    return Traffic(PodRef("shop", source), PodRef("shop", destination), Protocol.TCP, 80)


def repository(*documents: dict) -> Repository:
    return Repository.empty(Options()).change([], documents)


def test_a_policy_whose_removal_changes_a_verdict_is_covered():
    assert uncovered(STATE, repository(policy("db", "db", ("api",))), [ref("db")], [traffic("web", "db")]) == ()


def test_a_policy_whose_removal_changes_the_decider_is_covered():
    both = repository(policy("one", "db", ("api",)), policy("two", "db", ("api",)))
    assert uncovered(STATE, both, [ref("one"), ref("two")], [traffic("api", "db")]) == ()


def test_a_second_default_deny_that_changes_nothing_is_not():
    both = repository(policy("one", "db", ()), policy("two", "db", ()))
    assert uncovered(STATE, both, [ref("one"), ref("two")], [traffic("web", "db")]) == (ref("one"), ref("two"))


def test_a_policy_of_pods_that_nothing_is_sent_to_is_not():
    assert uncovered(STATE, repository(policy("api", "api", ("web",))), [ref("api")], [traffic("web", "db")]) == (ref("api"),)


pairs = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)).filter(lambda pair: pair[0] != pair[1]), max_size=4)
documents = st.lists(st.tuples(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=2).map(tuple)), min_size=1, max_size=3)


@given(documents, pairs)
def test_removing_an_uncovered_policy_changes_no_verdict(written, sent):
    applied = repository(*(policy(f"p{index}", *each) for index, each in enumerate(written)))
    flows = [traffic(*pair) for pair in sent]
    for name in uncovered(STATE, applied, [ref(f"p{index}") for index in range(len(written))], flows):
        before, after = Evaluator(STATE, applied), Evaluator(STATE, applied.change([name], []))
        assert [before.verdict(each).verdict for each in flows] == [after.verdict(each).verdict for each in flows]
