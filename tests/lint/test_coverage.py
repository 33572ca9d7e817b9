"""What the linter proves: containment of selectors and rules that decide nothing, against the evaluator in random worlds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from harness.lint.containment import Identities, Symbolic, disjoint, selects_all_of
from harness.lint.coverage import How, redundant
from harness.model.cluster import ClusterState
from harness.model.traffic import Direction, Entity, EntityName, External, Protocol, Request, RequestKind, Traffic
from harness.policy.evaluate import Evaluator
from harness.policy.options import Options
from harness.policy.parse import parse_policy
from harness.policy.repository import Repository
from harness.policy.rules import CIDRSelector, LabelSelector, Policy
from tests.policy import policy_worlds as worlds

PORTS = (1, 53, 80, 443, 500, 8080)
REQUEST = Request(RequestKind.HTTP, method="GET", path="/other")
LOOKUP = Request(RequestKind.LOOKUP, name="other.org")

PEERS = ({}, {"matchLabels": {"app": "x"}}, {"matchLabels": {"app": "x", "tier": "y"}})
HTTP_RULES = {"rules": {"http": [{"path": "/x"}]}}
DNS_RULES = {"rules": {"dns": [{"matchPattern": "*.io"}]}}


@st.composite
def overlapping(draw: st.DrawFn) -> list[worlds.Document]:
    """Policies for the same few endpoints, peers and ports: everything meets everything."""
    key, way = draw(st.sampled_from([("ingress", "from"), ("egress", "to")]))
    peers = st.one_of(
        st.just({}),
        st.sampled_from(PEERS).map(lambda each: {f"{way}Endpoints": [each]}),
        st.sampled_from(["all", "cluster", "world"]).map(lambda each: {f"{way}Entities": [each]}),
        st.sampled_from(["10.0.0.0/8", "10.0.0.0/24"]).map(lambda each: {f"{way}CIDR": [each]}),
    )
    ports = [[], worlds.ports("80/TCP"), worlds.ports("53/ANY"), worlds.ports("http/TCP"), [{"ports": [{"port": "50", "endPort": 8080}]}]]
    special = [worlds.ports("80/TCP", **HTTP_RULES), worlds.ports("80/TCP", serverNames=["x.io"])]
    special += [worlds.ports("53/ANY", **DNS_RULES)] if way == "to" else []
    documents = []
    for index in range(draw(st.integers(2, 3))):
        elements = [{**draw(peers), "toPorts": draw(st.sampled_from([*ports, *ports, *special]))} for _ in range(draw(st.integers(1, 2)))]
        for each in elements:
            if draw(st.integers(0, 7)) == 0:
                each["authentication"] = {"mode": "required"}
        spec = {key: elements}
        if draw(st.integers(0, 3)) == 0:
            spec[f"{key}Deny"] = [{**draw(peers), "toPorts": draw(st.sampled_from(ports))}]
        if draw(st.booleans()):
            spec["enableDefaultDeny"] = {key: draw(st.booleans())}
        documents.append(worlds.cnp(f"p{index}", "red", subject=draw(st.sampled_from(PEERS[:2])), **spec))
    return documents


WORLDS = st.one_of(overlapping(), worlds.repositories(plain=True), worlds.repositories())


def policies_of(documents: Sequence[worlds.Document]) -> list[Policy]:
    found = {each.ref: each for each in (parse_policy(document, Options()) for document in documents)}
    return [each for each in found.values() if each.accepted]


def without(policies: Sequence[Policy], state: ClusterState | None) -> tuple[list[Policy], int]:
    """The policies without the rules that decide nothing, and how many those were."""
    identities = evaluator_of(policies, state).identities if state else None
    containment = Identities(identities) if identities else Symbolic()
    rules = {each: [rule for policy in policies for rule in policy.rules if rule.direction is each] for each in Direction}
    gone = {found.rule.ref for each in Direction for found in redundant(rules[each], containment)}
    return [replace(each, rules=tuple(rule for rule in each.rules if rule.ref not in gone)) for each in policies], len(gone)


def evaluator_of(policies: Sequence[Policy], state: ClusterState) -> Evaluator:
    return Evaluator(state, Repository.empty().with_policies((), policies))


def all_traffic(state: ClusterState):
    ends = [each.ref for each in state.pods]
    ends += [Entity(name) for name in (EntityName.HOST, EntityName.REMOTE_NODE, EntityName.HEALTH, EntityName.KUBE_APISERVER)]
    ends += [External(address) for address in (*worlds.ADDRESSES, "203.0.113.9", "2001:db8::9")]
    for source, target in product(ends, ends):
        if source != target and not (isinstance(source, External) and isinstance(target, External)):
            for port in PORTS:
                yield Traffic(source, target, Protocol.TCP, port, REQUEST)
                yield Traffic(source, target, Protocol.UDP, port, LOOKUP)
            yield Traffic(source, target, Protocol.ICMP, 8)
            yield Traffic(source, target, Protocol.ICMPV6, 128)


def decided(evaluator: Evaluator, traffic: Traffic):
    verdict = evaluator.verdict(traffic)
    return verdict.egress.decision, verdict.ingress.decision, verdict.l7


@pytest.mark.parametrize("given_workloads", [False, True])
@worlds.law(40)
@given(documents=WORLDS, state=worlds.states())
def test_removing_all_that_decides_nothing_changes_no_verdict(documents, state, given_workloads):
    policies = policies_of(documents)
    fewer, gone = without(policies, state if given_workloads else None)
    if not gone:
        return
    before, after = evaluator_of(policies, state), evaluator_of(fewer, state)
    for traffic in all_traffic(state):
        assert decided(before, traffic) == decided(after, traffic), traffic


@worlds.law(80)
@given(one=worlds.peers, other=worlds.peers, state=worlds.states())
def test_a_selector_within_another_selects_no_more_in_any_cluster(one, other, state):
    inner, outer = (parsed_peer(each) for each in (one, other))
    identities = evaluator_of([], state).identities
    chosen, all_chosen = identities.select(inner).certain, identities.select(outer).certain
    if selects_all_of(outer, inner):
        assert not chosen & ~all_chosen
    if disjoint(inner, outer):
        assert not chosen & all_chosen


def parsed_peer(document: worlds.Document) -> LabelSelector:
    policy = parse_policy(worlds.cnp(ingress=[{"fromEndpoints": [document]}]), Options())
    assert policy.rules[0].peers
    return policy.rules[0].peers[0]


@worlds.law(80)
@given(one=worlds.cidr_rules, other=worlds.cidr_rules, state=worlds.states())
def test_a_cidr_within_another_selects_no_more(one, other, state):
    policy = parse_policy(worlds.cnp(ingress=[{"fromCIDRSet": [one]}, {"fromCIDRSet": [other]}]), Options())
    inner, outer = (rule.peers for rule in policy.rules)
    identities = evaluator_of([policy], state).identities
    if Symbolic().peers(inner, outer):
        assert not identities.select(inner[0]).certain & ~identities.select(outer[0]).certain


API, FRONT = worlds.app("api"), worlds.app("api", tier="front")
P80 = worlds.ports("80/TCP")


@pytest.mark.parametrize(
    ("spec", "rule", "by", "how"),
    [
        ({"ingress": [{"fromEndpoints": [API]}, {"fromEndpoints": [FRONT]}]}, "ingress[1]", "ingress[0]", How.COVERED),
        ({"ingress": [{"fromEndpoints": [FRONT]}, {"fromEndpoints": [API]}]}, "ingress[0]", "ingress[1]", How.COVERED),
        ({"ingress": [{"fromEndpoints": [API]}, {"fromEndpoints": [API]}]}, "ingress[1]", "ingress[0]", How.COVERED),
        ({"ingress": [{"fromEntities": ["world"]}, {"fromCIDR": ["192.0.2.0/24"]}]}, "ingress[1]", "ingress[0]", How.COVERED),
        ({"ingress": [{"fromCIDR": ["10.0.0.0/8"]}, {"fromCIDR": ["10.1.0.0/16"]}]}, "ingress[1]", "ingress[0]", How.COVERED),
        ({"ingress": [{"toPorts": P80}, {"fromEndpoints": [API], "toPorts": P80}]}, "ingress[1]", "ingress[0]", How.COVERED),
        (
            {"egress": [{"toEntities": ["all"], "toPorts": worlds.ports("80/ANY")}, {"toEntities": ["all"], "toPorts": P80}]},
            "egress[1]",
            "egress[0]",
            How.COVERED,
        ),
        ({"ingress": [{"fromEndpoints": [FRONT]}], "ingressDeny": [{"fromEndpoints": [API]}]}, "ingress[0]", "ingressDeny[0]", How.DENIED),
        (
            {"ingress": [{"fromEndpoints": [API], "toPorts": P80}], "ingressDeny": [{"toPorts": P80}]},
            "ingress[0]",
            "ingressDeny[0]",
            How.DENIED,
        ),
        (
            {"ingressDeny": [{"fromEndpoints": [API]}, {"fromEndpoints": [FRONT], "toPorts": P80}]},
            "ingressDeny[1]",
            "ingressDeny[0]",
            How.COVERED,
        ),
    ],
)
def test_what_decides_nothing_is_found(spec, rule, by, how):
    policy = parse_policy(worlds.cnp(**spec), Options())
    found = [(each.rule.ref.path, each.by.ref.path, each.how) for each in redundant(policy.rules, Symbolic())]
    assert found == [(rule, by, how)]


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"ingress": [{"fromEndpoints": [API], "toPorts": P80}, {"fromEndpoints": [FRONT]}]}, id="more ports"),
        pytest.param({"ingress": [{"toPorts": worlds.ports("80/ANY")}, {"icmps": [{"fields": [{"type": 8}]}]}]}, id="ANY has no ICMP"),
        pytest.param({"ingress": [{}, {"fromEndpoints": [API]}]}, id="an empty element allows nothing"),
        pytest.param({"ingress": [{"fromEndpoints": []}, {"fromEndpoints": [API]}]}, id="an empty list is nobody"),
        pytest.param({"ingress": [{"fromCIDR": ["0.0.0.0/0"]}, {"fromEndpoints": [API]}]}, id="CIDRs match no pods"),
        pytest.param(
            {"ingress": [{"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]}, {"fromCIDR": ["10.1.2.0/24"]}]},
            id="an exception is outside",
        ),
        pytest.param({"ingress": [{"fromEndpoints": [API]}], "ingressDeny": [{"fromEndpoints": [FRONT]}]}, id="a narrow deny"),
        pytest.param(
            {"ingress": [{"fromEndpoints": [API]}, {"fromEndpoints": [API], "toPorts": worlds.ports("80/TCP", rules={"http": [{}]})}]},
            id="a proxy has a say",
        ),
        pytest.param({"ingress": [{"fromEndpoints": [API]}], "egress": [{"toEndpoints": [API]}]}, id="another direction"),
    ],
)
def test_what_decides_something_is_left_alone(spec):
    policy = parse_policy(worlds.cnp(**spec), Options())
    assert not [each for way in Direction for each in redundant([r for r in policy.rules if r.direction is way], Symbolic())]


def test_of_two_subjects_the_wider_covers_and_default_deny_stays():
    wide = parse_policy(worlds.cnp("wide", subject={}, ingress=[{"fromEndpoints": [API]}]), Options())
    narrow = parse_policy(worlds.cnp("narrow", ingress=[{"fromEndpoints": [API]}]), Options())
    open_ = parse_policy(
        worlds.cnp("open", subject={}, enableDefaultDeny={"ingress": False}, ingress=[{"fromEndpoints": [API]}]), Options()
    )
    assert [each.rule.ref.policy.name for each in redundant([*narrow.rules, *wide.rules], Symbolic())] == ["narrow"]
    assert not list(redundant([*narrow.rules, *open_.rules], Symbolic()))


def test_with_workloads_labels_that_always_come_together_are_one():
    state = ClusterState(
        namespaces={}, pods=(worlds.pod("a", "web", {"app": "web"}), worlds.pod("a", "api", {"app": "api", "tier": "back"}))
    )
    policy = parse_policy(worlds.cnp(ingress=[{"fromEndpoints": [API]}, {"fromEndpoints": [{"matchLabels": {"tier": "back"}}]}]), Options())
    identities = Identities(evaluator_of([policy], state).identities)
    assert not list(redundant(policy.rules, Symbolic()))
    assert [each.rule.ref.path for each in redundant(policy.rules, identities)] == ["ingress[1]"]


def test_what_dns_will_teach_is_not_taken_for_nothing():
    spec = {"egress": [{"toFQDNs": [{"matchName": "a.example.com"}]}, {"toCIDR": ["192.0.2.0/24"]}]}
    policy = parse_policy(worlds.cnp(**spec), Options())
    identities = Identities(evaluator_of([policy], worlds.WORLD).identities)
    assert not list(redundant(policy.rules, identities))
    assert isinstance(policy.rules[1].peers[0], CIDRSelector)
