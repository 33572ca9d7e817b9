"""From expectations to checks: who stands behind every name, what is dialled, and what the model is asked."""

from __future__ import annotations

import pytest

from harness.clusters.memory.landscape import landscape
from harness.engine.checks import Check, checks
from harness.model.probe import Site
from harness.model.traffic import Entity, EntityName, External, Family, PodRef, Protocol

ENDPOINTS = """
    case: who is who
    namespace: shop
    endpoints:
      frontend: {node: a, labels: {app: frontend}}
      backend: {node: a, labels: {app: backend}, replicas: 2, ports: [8080, {port: 5353, protocol: UDP, serve: sink}]}
      far: {node: b, labels: {app: far}, ports: [{port: 9000, name: grpc}]}
      resolver: {labels: {app: resolver}, ports: [{port: 5300, protocol: UDP, serve: sink}, 5300]}
      agent: {hostNetwork: true, node: b, ports: [9100]}
    services:
      backend: {selector: {app: backend}, ports: [{port: 80, targetPort: 8080}]}
      far: {selector: {app: far}, ports: [{port: 80, targetPort: grpc}]}
      mixed: {selector: {app: resolver}, ports: [{port: 53, targetPort: 5300}]}
    externals:
      stripe: {names: [api.stripe.com], addresses: [203.0.113.10], ports: [443]}
    phases:
      only:
"""


@pytest.fixture
def found(load):
    """The checks of one phase's expectations, and the placement."""

    def find(*expectations: str, families=frozenset(Family)) -> list[Check]:
        case = load(ENDPOINTS + "".join(f"        - {each}\n" for each in expectations))
        placement = landscape(case).placement
        return list(checks(case, case.phases[0].expectations, placement, families=families, timeout=1.0))

    return find


def test_every_source_replica_meets_every_target_replica(found):
    result = found("allow: frontend, far -> backend:8080")
    assert [(check.source, check.target) for check in result] == [
        ("frontend", "backend[0]:8080/TCP"),
        ("frontend", "backend[1]:8080/TCP"),
        ("far", "backend[0]:8080/TCP"),
        ("far", "backend[1]:8080/TCP"),
    ]
    assert [str(check.exchange.site) for check in result[:2]] == ["pod:shop/frontend", "pod:shop/frontend"]
    assert [server.name for check in result[:2] for server in check.exchange.servers] == ["shop/backend-0", "shop/backend-1"]
    assert result[0].traffic[0].destination == PodRef("shop", "backend-0")


def test_replicas_of_one_group_meet_each_other_but_not_themselves(found):
    result = found("allow: backend -> backend:8080")
    assert [(check.source, check.target) for check in result] == [
        ("backend[0]", "backend[1]:8080/TCP"),
        ("backend[1]", "backend[0]:8080/TCP"),
    ]


def test_both_families_make_two_checks_and_the_second_says_so(found):
    result = found("{allow: frontend -> far:9000, family: both}")
    assert [check.target for check in result] == ["far:9000/TCP", "far:9000/TCP ipv6"]
    assert [Family.of(check.exchange.address) for check in result] == [Family.IPV4, Family.IPV6]


def test_a_family_that_the_cluster_lacks_is_left_out(found):
    result = found("{allow: frontend -> far:9000, family: both}", families=frozenset({Family.IPV4}))
    assert [check.family for check in result] == [Family.IPV4]


def test_a_target_without_an_address_of_the_family_is_a_fault_not_a_gap(found):
    (check,) = found("{allow: frontend -> stripe:443, family: ipv6}")
    assert check.exchange is None
    assert check.fault == "stripe has no ipv6 address here"


def test_a_service_is_dialled_at_its_own_address_and_answered_by_its_backends(found):
    (check,) = found("allow: frontend -> service/backend:80")
    assert check.target == "service/backend:80/TCP"
    assert check.exchange.port == 80
    assert [(server.name, server.port) for server in check.exchange.servers] == [("shop/backend-0", 8080), ("shop/backend-1", 8080)]
    assert [(traffic.destination.name, traffic.port) for traffic in check.traffic] == [("backend-0", 8080), ("backend-1", 8080)]
    assert [str(triple) for triple in check.triples] == [
        "frontend -> service/shop/backend:80/TCP",
        "frontend -> backend[0]:8080/TCP",
        "frontend -> backend[1]:8080/TCP",
    ]


def test_a_services_target_port_may_be_a_name(found):
    (check,) = found("allow: frontend -> service/far:80")
    assert [server.port for server in check.exchange.servers] == [9000]


def test_host_is_the_node_of_the_pod_in_question(found):
    near, far = found("allow: host -> backend:8080", "allow: host -> far:9000")[1:]
    assert near.exchange.site == Site("node", "a")
    assert far.exchange.site == Site("node", "b")
    assert near.traffic[0].source == far.traffic[0].source == Entity(EntityName.HOST)
    assert far.exchange.source_address != ""


def test_remote_node_is_another_node(found):
    (check,) = found("allow: remote-node -> far:9000")
    assert check.exchange.site == Site("node", "a")
    assert check.traffic[0].source == Entity(EntityName.REMOTE_NODE)


def test_host_as_a_target_is_answered_by_what_shares_its_network(found):
    own, other = found("deny: far -> host:9100", "deny: frontend -> remote-node:9100")
    assert own.exchange.servers[0].name == other.exchange.servers[0].name == "shop/agent"
    assert own.traffic[0].destination == Entity(EntityName.HOST)
    assert other.traffic[0].destination == Entity(EntityName.REMOTE_NODE)


def test_a_bare_node_answers_by_its_own_name(found):
    (check,) = found("deny: frontend -> host:9999")
    assert [server.name for server in check.exchange.servers] == ["node-a"]


def test_a_host_network_pod_sends_from_itself_and_the_model_knows_its_node(found):
    there, here = found("allow: agent -> backend:8080", "allow: agent -> far:9000")[1:]
    assert there.traffic[0].source == here.traffic[0].source == PodRef("shop", "agent")
    assert there.exchange.site == Site("pod", "shop/agent")


def test_world_and_externals_send_from_their_own_addresses(found):
    world, stripe = found("allow: world, stripe -> far:9000")
    assert world.exchange.site == Site("world", world.exchange.source_address)
    assert stripe.exchange.site == Site("world", "203.0.113.10")
    assert stripe.traffic[0].source == External("203.0.113.10")


def test_the_api_server_is_an_entity_at_a_site_of_its_own(found):
    (check,) = found("allow: frontend -> kube-apiserver:6443")
    assert [server.name for server in check.exchange.servers] == ["kube-apiserver"]
    assert check.traffic[0].destination == Entity(EntityName.KUBE_APISERVER)


def test_an_address_belongs_to_the_external_that_declares_it(found):
    (check,) = found("allow: frontend -> 203.0.113.10:443")
    assert [server.name for server in check.exchange.servers] == ["stripe"]


def test_a_name_is_looked_up_first_and_dialled_at_the_externals_address(found):
    (check,) = found("allow: frontend -> api.stripe.com:443")
    assert check.exchange.address == "203.0.113.10"
    assert check.exchange.lookup.port == 53
    assert check.exchange.lookup.request.name == "api.stripe.com"
    assert [server.name for server in check.exchange.lookup.servers] == ["kube-system/coredns"]


def test_a_ping_is_dialled_by_its_type(found):
    four, six = found("allow: frontend -> far icmp", "allow: frontend -> far icmp6")
    assert (four.exchange.protocol, four.exchange.port, four.family) == (Protocol.ICMP, 8, Family.IPV4)
    assert (six.exchange.protocol, six.exchange.port, six.family) == (Protocol.ICMPV6, 128, Family.IPV6)
    assert four.target == "far"
    assert four.traffic[0].port == 8


def test_what_a_port_serves_goes_into_the_exchange(found):
    check = found("allow: frontend -> backend:5353/UDP")[0]
    assert (check.exchange.serve, check.exchange.protocol) == ("sink", Protocol.UDP)


def test_nobody_is_meant_to_answer_on_an_undeclared_port(found):
    (check,) = found("{deny: frontend -> far:22, undeclared: true}")
    assert check.exchange.servers == ()
    assert check.traffic[0].port == 22


def test_a_stated_time_out_beats_the_clusters(found):
    (check,) = found("{allow: frontend -> far:9000, timeout: 7}")
    assert check.exchange.timeout == pytest.approx(7.0)


def test_addresses_of_two_families_meet_only_what_is_of_theirs(found):
    result = found("{deny: 'frontend -> 203.0.113.99:443, [2001:db8::99]:443', undeclared: true}")
    assert [(check.target, check.family, check.fault) for check in result] == [
        ("203.0.113.99:443/TCP", Family.IPV4, ""),
        ("2001:db8::99:443/TCP ipv6", Family.IPV6, ""),
    ]


def test_an_expectation_that_leads_to_nothing_is_a_check_that_cannot_pass(found):
    (check,) = found("{allow: 203.0.113.10 -> far:9000}")
    (nothing,) = found("{allow: 203.0.113.10 -> far:9000, family: both}", families=frozenset({Family.IPV6}))
    assert (check.fault, check.exchange is None) == ("", False)
    assert (nothing.fault, nothing.exchange) == ("there is nothing to send: no source meets any target", None)


def test_a_services_target_port_is_of_its_protocol(found):
    (check,) = found("allow: frontend -> service/mixed:53")
    assert [(server.port, server.serve) for server in check.exchange.servers] == [(5300, "auto")]
