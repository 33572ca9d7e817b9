"""What is not a pod: world, nodes, the API server's host, externals, services."""

from __future__ import annotations

import pytest

from harness.model.flow import EventType
from harness.model.identity import ReservedIdentity
from harness.model.probe import Ending
from harness.model.traffic import Direction, Family
from tests.clusters.netns.conftest import Bench, drops

PEERS = """
endpoints:
  client: {labels: {app: client}, node: a}
  agent: {hostNetwork: true, node: a, ports: [9100]}
  server: {labels: {app: server}, node: a, ports: [{port: 8080, name: web}]}
externals:
  stripe: {addresses: [198.51.100.7], ports: [443]}
  other: {addresses: [198.51.100.200], ports: [443]}
services:
  web: {selector: {app: server}, ports: [{port: 80, targetPort: web}]}
"""
SEEN = {
    "world:": ReservedIdentity.WORLD_IPV4,
    "node:a": ReservedIdentity.HOST,
    "node:b": ReservedIdentity.REMOTE_NODE,
    "kube-apiserver": ReservedIdentity.KUBE_APISERVER,
}


def only_from(entity: str) -> str:
    return f"only: {{endpointSelector: {{matchLabels: {{app: server}}}}, ingress: [{{fromEntities: [{entity}]}}]}}"


@pytest.mark.parametrize("site", SEEN)
def test_a_peer_that_is_no_pod_has_its_reserved_identity(bench: Bench, site: str) -> None:
    bench.deploy(PEERS)
    seen = bench.try_(site, "server")
    assert seen.result.ending is Ending.ANSWERED
    assert {flow.source.identity for flow in seen.flows if flow.direction is Direction.INGRESS} == {SEEN[site]}


@pytest.mark.parametrize("entity", ["world", "remote-node", "kube-apiserver"])
def test_an_entity_lets_in_its_own_peers_and_the_pods_host_always_comes_in(bench: Bench, entity: str) -> None:
    bench.deploy(PEERS)
    bench.apply(only_from(entity))
    came_in = {site for site in SEEN if bench.try_(site, "server").result.ending is Ending.ANSWERED}
    wanted = {"world": {"world:"}, "remote-node": {"node:b", "kube-apiserver"}, "kube-apiserver": {"kube-apiserver"}}[entity]
    assert came_in == wanted | {"node:a"}


def test_egress_to_what_is_no_pod_is_enforced_at_the_source(bench: Bench) -> None:
    bench.deploy(PEERS)
    targets = ("world", "node:a", "node:b", "kube-apiserver")
    assert [bench.try_("client", target, 8443).result.ending for target in targets] == [Ending.ANSWERED] * 4
    bench.apply("out: {endpointSelector: {matchLabels: {app: client}}, egress: [{toEntities: [host]}]}")
    seen = bench.send(*(bench.probe("client", target, 8443) for target in targets))
    assert [each.result.ending for each in seen] == [Ending.STOPPED, Ending.ANSWERED, Ending.STOPPED, Ending.STOPPED]
    assert {(drop.direction, drop.node) for each in seen for drop in drops(each)} == {(Direction.EGRESS, "node-a")}


def test_a_cidr_rule_reaches_the_external_it_names_and_its_except_does_not(bench: Bench) -> None:
    bench.deploy(PEERS)
    bench.apply(
        "out: {endpointSelector: {matchLabels: {app: client}}, egress: [{toCIDRSet: "
        "[{cidr: 198.51.100.0/24, except: [198.51.100.128/25]}]}]}"
    )
    stripe, other = bench.send(*(bench.probe("client", f"external:{name}", 443) for name in ("stripe", "other")))
    assert (stripe.result.ending, stripe.result.server) == (Ending.ANSWERED, "stripe")
    (drop,) = drops(other)
    assert drop.destination.identity >= 1 << 24, "a CIDR has an identity of its own"
    assert any(label.startswith("cidr:198.51.100.128/25") for label in drop.destination.labels)


def test_the_world_sends_from_any_address_that_a_case_names(bench: Bench) -> None:
    bench.deploy(PEERS)
    bench.apply("in: {endpointSelector: {matchLabels: {app: server}}, ingress: [{fromCIDR: [192.0.2.0/24]}]}")
    inside, outside = bench.send(bench.probe("world:192.0.2.9", "server"), bench.probe("world:198.51.100.9", "server"))
    assert inside.result.ending is Ending.ANSWERED
    assert inside.result.five_tuple is not None
    assert inside.result.five_tuple.source == "192.0.2.9"
    assert outside.result.ending is Ending.STOPPED


def test_a_host_network_pod_serves_at_its_nodes_address_as_itself(bench: Bench) -> None:
    bench.deploy(PEERS)
    seen = bench.try_("client", "agent", 9100)
    assert (seen.result.server, seen.probe.address) == ("default/agent", bench.address("node:a"))


@pytest.mark.parametrize("family", list(Family))
def test_a_service_leads_every_client_to_its_backend_and_policy_sees_the_backends_port(bench: Bench, family: Family) -> None:
    if family is Family.IPV6 and "ipv6" not in bench.cluster.capabilities.features:
        pytest.skip(bench.cluster.capabilities.lacking["ipv6"])
    bench.deploy(PEERS)
    behind = ((bench.address("server", family), 8080),)

    def through(site: str):
        return bench.try_(site, "service:default/web", 80, family=family, servers=("default/server",), backends=behind)

    assert [through(site).result.server for site in ("client", "node:a", "node:b")] == ["default/server"] * 3
    bench.apply('gate: {endpointSelector: {matchLabels: {app: client}}, egress: [{toPorts: [{ports: [{port: "8080", protocol: TCP}]}]}]}')
    assert through("client").result.ending is Ending.ANSWERED
    bench.apply('gate: {endpointSelector: {matchLabels: {app: client}}, egress: [{toPorts: [{ports: [{port: "80", protocol: TCP}]}]}]}')
    (drop,) = drops(through("client"))
    assert (drop.five_tuple.destination, drop.five_tuple.destination_port) == behind[0]


def test_a_pod_reaches_itself_through_its_service_whatever_the_policy(bench: Bench) -> None:
    bench.deploy(PEERS)
    bench.apply("shut: {endpointSelector: {}, ingress: [{}], egress: [{}]}")
    seen = bench.try_("server", "service:default/web", 80, servers=("default/server",), backends=[(bench.address("server"), 8080)])
    assert (seen.result.ending, seen.result.server) == (Ending.ANSWERED, "default/server")
    # No policy was asked, so none says anything; but that it was forwarded is told.
    assert [(flow.event_type, flow.direction, flow.forwarded) for flow in seen.flows] == [(EventType.TRACE, Direction.INGRESS, True)]


def test_a_service_takes_turns_over_its_backends(bench: Bench) -> None:
    bench.deploy("""
        endpoints:
          client: {labels: {app: client}}
          web: {labels: {app: web}, replicas: 3, ports: [8080]}
        services:
          web: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
    """)
    names = tuple(f"default/web-{index}" for index in range(3))
    seen = bench.send(*(bench.probe("client", "service:default/web", 80, servers=names) for _ in range(6)))
    assert {each.result.server for each in seen} == set(names)
    assert all(any(flow.event_type == EventType.TRACE for flow in each.flows) for each in seen if each.probe.alternatives)
