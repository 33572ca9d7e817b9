"""Compiled maps say what the evaluator says, everywhere; and equal endpoints share one object."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.model.cluster import ClusterState
from harness.model.traffic import Direction, EntityName, PodRef, Protocol, Traffic
from harness.model.verdict import Decision
from harness.policy.compile import compile_maps
from harness.policy.evaluate import Evaluator
from harness.policy.map import DirectionPolicy, Interval, PolicyMaps, ProxyRules
from harness.policy.options import Options
from harness.policy.repository import Repository
from harness.policy.rules import DNSRule, HTTPRule
from tests.policy.policy_worlds import NAMESPACES, WORLD, app, cnp, evaluator, law, pod, ports, repositories, states

PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP, Protocol.ICMP, Protocol.ICMPV6, Protocol.VRRP)


def lookup(policy: DirectionPolicy, identity: int, protocol: int, port: int) -> Interval | None:
    """As a datapath does: the protocol's own intervals if it has any, else those of protocol 0."""
    intervals = policy.by_identity.get(identity, ())
    own = [each for each in intervals if each.protocol == protocol] or [each for each in intervals if not each.protocol]
    found = [each for each in own if each.first <= port <= each.last]
    assert len(found) <= 1, "intervals overlap"
    return found[0] if found else None


def edges(policy: DirectionPolicy) -> Iterable[int]:
    found = {0, 1, 53, 8080, 65535}
    for intervals in policy.by_identity.values():
        for each in intervals:
            found |= {each.first - 1, each.first, each.last, each.last + 1}
    return sorted(port for port in found if 0 <= port <= 65535)


def check(evaluator: Evaluator, maps: PolicyMaps) -> int:
    """Compare every pod, direction, identity, protocol and port at which something may change; how many there were."""
    count = 0
    table = evaluator.identities
    for ref, subject in evaluator.subjects.pods.items():
        for direction in Direction:
            policy = getattr(maps.endpoints[ref], direction.value)
            decisions = evaluator.subjects.table(subject, direction)
            assert policy.enforced == decisions.enforced
            for position, identity in enumerate(table.identities):
                for protocol in PROTOCOLS:
                    for port in edges(policy):
                        verdict = evaluator.decided(decisions, position, protocol, port)
                        interval = lookup(policy, identity.number, protocol.number, port)
                        assert (interval.decision if interval else policy.default) is verdict.decision
                        if interval is not None:
                            assert interval.rules == verdict.rules
                            assert bool(interval.redirect) == verdict.redirected
                        count += 1
    return count


@law(60)
@given(states(), repositories(), st.sampled_from(["1.18", "1.19", "1.20"]), st.booleans())
def test_maps_equal_the_evaluator(state: ClusterState, policies: list[dict], cilium: str, names_unknown: bool) -> None:
    options = Options.of(cilium, names_unknown=names_unknown)
    made = Evaluator(state, Repository.empty(options).change(apply=policies))
    assert check(made, compile_maps(made)) > 0


@law(30)
@given(states(), repositories())
def test_the_quick_decision_equals_the_full_one(state: ClusterState, policies: list[dict]) -> None:
    made = Evaluator(state, Repository.empty().change(apply=policies))
    for subject in made.subjects.all():
        for direction in Direction:
            table = made.subjects.table(subject, direction)
            for position in range(len(made.identities.identities)):
                for protocol in PROTOCOLS:
                    for port in (0, 52, 53, 80, 443, 8080, 65535):
                        quick = table.decision(position, protocol.number, port, made.options)
                        assert quick is made.decided(table, position, protocol, port).decision


def test_pods_under_the_same_rules_share_one_object() -> None:
    state = ClusterState({"a": {}}, tuple(pod("a", f"web-{index}", {"app": "web", "shard": str(index)}) for index in range(4)))
    maps = compile_maps(evaluator(cnp(ingress=[{"fromEndpoints": [app("web")], "toPorts": ports("80/TCP")}]), state=state))
    assert len({id(each) for each in maps.endpoints.values()}) == 1
    assert len(set(maps.pods.values())) == 4


def test_a_named_port_tells_pods_apart() -> None:
    maps = compile_maps(evaluator(cnp(subject={}, ingress=[{"toPorts": ports("http/TCP")}])))
    by_name = {ref.name: policy for ref, policy in maps.endpoints.items() if ref.namespace == "a"}
    assert by_name["a1"] is by_name["a2"]
    assert by_name["web"] is not by_name["a1"]


def test_unselected_pods_are_open() -> None:
    maps = compile_maps(evaluator(cnp(ingress=[{}])))
    a1 = next(policy for ref, policy in maps.endpoints.items() if ref.name == "a1")
    assert not a1.ingress.enforced
    assert a1.ingress.default is Decision.ALLOW
    assert not a1.ingress.by_identity


def test_the_ipcache_has_every_prefix_of_every_policy_and_the_world() -> None:
    made = evaluator(
        cnp(egress=[{"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]}]),
        cnp("q", egress=[{"toCIDR": ["fd00::/8"]}]),
    )
    maps = compile_maps(made)
    assert set(maps.ipcache) == {"0.0.0.0/0", "::/0", "10.0.0.0/8", "10.1.0.0/16", "fd00::/8"}
    assert maps.ipcache["0.0.0.0/0"] == 9
    assert all(maps.identities[number].number == number for number in maps.ipcache.values())


def test_identity_numbers_of_prefixes_survive_changes() -> None:
    first = cnp("p", egress=[{"toCIDR": ["10.0.0.0/8", "192.0.2.0/24"]}])
    second = cnp("q", egress=[{"toCIDR": ["192.0.2.0/24", "198.51.100.0/24"]}])
    before = Repository.empty().change(apply=[first, second])
    after = before.change(remove=[before.enforced[0].ref])
    one, other = compile_maps(Evaluator(WORLD, before)).ipcache, compile_maps(Evaluator(WORLD, after)).ipcache
    assert "10.0.0.0/8" not in other
    assert all(one[prefix] == number for prefix, number in other.items())


def test_a_merge_conflict_is_an_error_in_both_directions() -> None:
    required = {"authentication": {"mode": "required"}, "toPorts": ports("80/TCP")}
    failing = {"authentication": {"mode": "test-always-fail"}, "toPorts": ports("80/TCP")}
    made = evaluator(cnp("p", ingress=[required]), cnp("q", ingress=[failing], egress=[{"toEntities": ["all"]}]))
    web = compile_maps(made).endpoints[WORLD.pods[3].ref]
    for side in (web.ingress, web.egress):
        assert {each.decision for intervals in side.by_identity.values() for each in intervals} == {Decision.ERROR}
    check(made, compile_maps(made))


@pytest.mark.parametrize("first", [True, False], ids=["the healthy one first", "the broken one first"])
def test_a_merge_conflict_is_nobody_elses_error_whoever_is_asked_first(first: bool) -> None:
    required = {"authentication": {"mode": "required"}, "toPorts": ports("80/TCP")}
    failing = {"authentication": {"mode": "test-always-fail"}, "toPorts": ports("80/TCP")}
    made = evaluator(
        cnp("p", subject=app("web"), ingress=[required]),
        cnp("q", subject=app("web"), ingress=[failing]),
        cnp("r", egress=[{"toEntities": ["all"]}]),
    )
    web, other = PodRef("a", "web"), PodRef("a", "a1")
    wanted = {other: Decision.ALLOW, web: Decision.ERROR}
    for source in (other, web) if first else (web, other):
        found = made.direction(Traffic(source, PodRef("b", "b1"), Protocol.TCP, 1), Direction.EGRESS)
        assert found.decision is wanted[source], source


def test_redirects_and_authentication_are_marked() -> None:
    made = evaluator(
        cnp("p", ingress=[{"toPorts": ports("80/TCP", rules={"http": [{"path": "/x"}]})}]),
        cnp("q", egress=[{"toPorts": ports("53/ANY", rules={"dns": [{"matchPattern": "*"}]})}]),
        cnp("r", egress=[{"toPorts": ports("443/TCP", serverNames=["x.io"])}]),
        cnp("s", ingress=[{"authentication": {"mode": "required"}, "toPorts": ports("9000/TCP")}]),
    )
    web = compile_maps(made).endpoints[WORLD.pods[3].ref]
    remote = made.identities.identities[made.identities.entities[EntityName.REMOTE_NODE]].number

    def at(policy: DirectionPolicy, protocol: int, port: int) -> Interval:
        found = lookup(policy, remote, protocol, port)
        assert found is not None
        return found

    assert at(web.ingress, 6, 80).redirect == "http"
    assert at(web.egress, 17, 53).redirect == "dns"
    assert at(web.egress, 6, 443).redirect == "tls"
    assert at(web.ingress, 6, 9000).decision is Decision.AUTH
    assert at(web.ingress, 6, 9000).auth
    assert at(web.ingress, 6, 80).proxy == ProxyRules(http=(HTTPRule(path="/x"),))
    assert at(web.egress, 17, 53).proxy == ProxyRules(dns=(DNSRule(match_pattern="*"),))
    assert at(web.egress, 6, 443).proxy == ProxyRules(server_names=("x.io",))
    assert at(web.ingress, 6, 9000).proxy is None


def test_a_proxy_gets_every_allow_that_matches_the_connection() -> None:
    """Envoy looks at all rules of the port, whichever of them redirected; the DNS proxy only at those of its own filter."""
    made = evaluator(
        cnp("p", ingress=[{"fromEntities": ["remote-node"], "toPorts": ports("80/TCP", rules={"http": [{"method": "GET"}]})}]),
        cnp("q", ingress=[{"toPorts": ports("80/TCP", rules={"http": [{"path": "/x"}]})}]),
        cnp("r", ingress=[{"fromEntities": ["host"]}]),
        cnp("s", egress=[{"toPorts": ports("53/UDP", rules={"dns": [{"matchName": "a.io"}]})}, {"toEntities": ["remote-node"]}]),
    )
    web = compile_maps(made).endpoints[WORLD.pods[3].ref]

    def rules(side: DirectionPolicy, peer: EntityName, protocol: int, port: int) -> ProxyRules | None:
        found = lookup(side, made.identities.identities[made.identities.entities[peer]].number, protocol, port)
        return found.proxy if found else None

    def parts(found: ProxyRules | None) -> tuple[bool, set[HTTPRule]]:
        assert found is not None
        return found.everything, set(found.http)

    assert parts(rules(web.ingress, EntityName.REMOTE_NODE, 6, 80)) == (False, {HTTPRule(method="GET"), HTTPRule(path="/x")})
    assert parts(rules(web.ingress, EntityName.HOST, 6, 80)) == (True, {HTTPRule(path="/x")})
    assert rules(web.egress, EntityName.REMOTE_NODE, 17, 53) == ProxyRules(dns=(DNSRule(match_name="a.io"),))


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_an_empty_repository_enforces_nothing(namespace: str) -> None:
    state = ClusterState({namespace: {}}, (pod(namespace, "p", {}),))
    maps = compile_maps(evaluator(state=state))
    assert not any(side.enforced for policy in maps.endpoints.values() for side in (policy.ingress, policy.egress))
    assert not maps.hosts
