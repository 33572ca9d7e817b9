"""Real packets meet real policy: who drops what, where, for which reason."""

from __future__ import annotations

import pytest

from harness.errors import ClusterError
from harness.model.flow import DropReason, EventType, FlowVerdict
from harness.model.probe import Ending
from harness.model.traffic import Direction, Family, Protocol, Request, RequestKind
from harness.model.verdict import PolicyRef
from tests.clusters.netns.conftest import Bench, drops, verdicts

TWO_NODES = """
endpoints:
  near: {labels: {app: near}, node: b}
  far: {labels: {app: far}, node: a}
  backend:
    labels: {app: backend}
    node: b
    ports: [8080, 9000, 9050, 9100, {port: 5353, protocol: UDP, serve: echo}, {port: 5354, protocol: UDP, serve: sink}, {port: 7000, serve: echo}]
"""
DENY_INGRESS = "deny: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{}]}"
DENY_EGRESS = "shut: {endpointSelector: {matchLabels: {app: far}}, egress: [{}]}"


def policy(name: str) -> PolicyRef:
    return PolicyRef("CiliumNetworkPolicy", "default", name)


@pytest.mark.parametrize(
    ("source", "port", "protocol"), [("near", 8080, Protocol.TCP), ("far", 7000, Protocol.TCP), ("far", 5353, Protocol.UDP)]
)
def test_without_a_policy_the_named_server_answers_and_a_trace_tells_it(bench: Bench, source: str, port: int, protocol: Protocol) -> None:
    bench.deploy(TWO_NODES)
    seen = bench.try_(source, "backend", port, protocol, serve="echo" if port != 8080 else "auto")
    assert seen.result.ending is Ending.ANSWERED
    assert (seen.result.server, seen.result.nonce) == ("default/backend", seen.probe.nonce)
    assert seen.result.server_saw
    assert not verdicts(seen), "no policy is enforced, so Cilium tells no verdict"
    assert [(flow.event_type, flow.direction, flow.node) for flow in seen.flows][-1] == (EventType.TRACE, Direction.INGRESS, "node-b")


@pytest.mark.parametrize("source", ["near", "far"])
def test_default_deny_of_ingress_drops_at_the_targets_node(bench: Bench, source: str) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(DENY_INGRESS)
    seen = bench.try_(source, "backend")
    assert seen.result.ending is Ending.STOPPED
    assert not seen.result.server_saw
    (drop,) = drops(seen)
    assert (drop.verdict, drop.drop_reason, drop.direction, drop.node) == (
        FlowVerdict.DROPPED,
        DropReason.POLICY_DENIED,
        Direction.INGRESS,
        "node-b",
    )
    assert not drop.ingress_denied_by, "default deny is that no policy decided"


def test_default_deny_of_egress_drops_at_the_sources_node(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(DENY_EGRESS)
    (drop,) = drops(bench.try_("far", "backend"))
    assert (drop.direction, drop.node, drop.drop_reason) == (Direction.EGRESS, "node-a", DropReason.POLICY_DENIED)
    assert bench.try_("near", "backend").result.ending is Ending.ANSWERED


def test_egress_is_asked_before_ingress_on_the_same_node_too(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(DENY_INGRESS, DENY_EGRESS.replace("far", "near"))
    assert [drop.direction for drop in drops(bench.try_("near", "backend"))] == [Direction.EGRESS]


def test_a_deny_rule_is_named_and_an_allow_is_named_on_each_side(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(
        "in: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{fromEndpoints: [{matchLabels: {app: far}}]}], "
        "ingressDeny: [{fromEndpoints: [{matchLabels: {app: near}}]}]}",
        "out: {endpointSelector: {matchLabels: {app: far}}, egress: [{toEndpoints: [{matchLabels: {app: backend}}]}]}",
    )
    allowed = bench.try_("far", "backend")
    assert allowed.result.ending is Ending.ANSWERED
    assert [(flow.direction, flow.egress_allowed_by, flow.ingress_allowed_by) for flow in verdicts(allowed)] == [
        (Direction.EGRESS, (policy("out"),), ()),
        (Direction.INGRESS, (), (policy("in"),)),
    ]
    (drop,) = drops(bench.try_("near", "backend"))
    assert (drop.drop_reason, drop.ingress_denied_by) == (DropReason.POLICY_DENY, (policy("in"),))


def test_replies_pass_though_the_client_lets_nobody_in(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply("shut: {endpointSelector: {matchLabels: {app: far}}, ingress: [{}]}")
    assert bench.try_("far", "backend").result.ending is Ending.ANSWERED
    assert bench.try_("far", "backend", 5353, Protocol.UDP, serve="echo").result.ending is Ending.ANSWERED


def test_ports_and_ranges_and_protocols_are_told_apart(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(
        'some: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{toPorts: [{ports: [{port: "8080", protocol: TCP}, '
        '{port: "9050", endPort: 9100, protocol: TCP}]}]}]}'
    )
    probes = [bench.probe("far", "backend", port) for port in (8080, 9000, 9050, 9100)]
    endings = [seen.result.ending for seen in bench.send(*probes, bench.probe("far", "backend", 5353, Protocol.UDP, serve="echo"))]
    assert endings == [Ending.ANSWERED, Ending.STOPPED, Ending.ANSWERED, Ending.ANSWERED, Ending.STOPPED]


@pytest.mark.parametrize(("family", "protocol", "kind"), [(Family.IPV4, Protocol.ICMP, 8), (Family.IPV6, Protocol.ICMPV6, 128)])
def test_ping_is_allowed_by_its_type_and_dropped_otherwise(bench: Bench, family: Family, protocol: Protocol, kind: int) -> None:
    if family is Family.IPV6 and "ipv6" not in bench.cluster.capabilities.features:
        pytest.skip(bench.cluster.capabilities.lacking["ipv6"])
    bench.deploy(TWO_NODES)
    request = Request(RequestKind.ICMP if family is Family.IPV4 else RequestKind.ICMP6)

    def ping(source: str):
        return bench.try_(source, "backend", kind, protocol, family=family, request=request)

    assert ping("far").result.ending is Ending.ANSWERED
    bench.apply(
        "pings: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{fromEndpoints: [{matchLabels: {app: far}}], "
        f"icmps: [{{fields: [{{type: {kind}, family: {'IPv4' if family is Family.IPV4 else 'IPv6'}}}]}}]}}]}}"
    )
    allowed, denied = ping("far"), ping("near")
    assert allowed.result.ending is Ending.ANSWERED
    assert allowed.result.nonce == allowed.probe.nonce
    (drop,) = drops(denied)
    assert (drop.five_tuple.protocol, drop.five_tuple.source_port, drop.five_tuple.destination_port) == (protocol, 0, kind)
    assert bench.try_("far", "backend", family=family).result.ending is Ending.STOPPED, "an ICMP rule allows no TCP"


def test_an_icmp_type_that_no_packet_has_allows_nothing_and_is_no_error(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply("in: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{icmps: [{fields: [{type: 256, family: IPv4}]}]}]}")
    ping = bench.probe("far", "backend", 8, Protocol.ICMP, request=Request(RequestKind.ICMP))
    assert [seen.result.ending for seen in bench.send(ping, bench.probe("far", "backend"))] == [Ending.STOPPED, Ending.STOPPED]


def test_dual_stack_is_enforced_alike(bench: Bench) -> None:
    if "ipv6" not in bench.cluster.capabilities.features:
        pytest.skip(bench.cluster.capabilities.lacking["ipv6"])
    bench.deploy(TWO_NODES)
    bench.apply("in: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{fromEndpoints: [{matchLabels: {app: far}}]}]}")
    allowed, denied = bench.send(*(bench.probe(source, "backend", family=Family.IPV6) for source in ("far", "near")))
    assert allowed.result.ending is Ending.ANSWERED
    (drop,) = drops(denied)
    assert drop.five_tuple.source == bench.address("near", Family.IPV6)


def test_a_sink_answers_nothing_but_tells_that_it_saw(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    seen = bench.try_("far", "backend", 5354, Protocol.UDP, serve="sink")
    assert seen.result.server_saw
    bench.apply(DENY_INGRESS)
    assert not bench.try_("far", "backend", 5354, Protocol.UDP, serve="sink").result.server_saw


def test_removing_the_policy_opens_the_door_again(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(DENY_INGRESS)
    assert bench.try_("far", "backend").result.ending is Ending.STOPPED
    bench.apply(remove=[policy("deny")])
    assert bench.try_("far", "backend").result.ending is Ending.ANSWERED


def test_a_refused_update_leaves_the_earlier_version_enforced(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(DENY_INGRESS)
    bench.apply("deny: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{fromCIDR: [10.0.0.0/8], fromEntities: [all]}]}")
    status = bench.cluster.status([policy("deny")])[policy("deny")]
    assert status.error is not None
    assert bench.try_("far", "backend").result.ending is Ending.STOPPED


def test_required_authentication_drops_as_cilium_does_without_spire(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(
        "in: {endpointSelector: {matchLabels: {app: backend}}, ingress: "
        "[{fromEndpoints: [{matchLabels: {app: far}}], authentication: {mode: required}}]}"
    )
    seen = bench.try_("far", "backend", timeout=0.05)
    assert {drop.drop_reason for drop in drops(seen)} == {DropReason.AUTH_REQUIRED}
    assert not seen.result.server_saw


def test_a_rule_that_no_proxy_of_the_lab_can_serve_is_an_error_and_never_a_plain_port(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(DENY_INGRESS)
    with pytest.raises(ClusterError, match="do not do what a rule for port 8080 asks for"):
        bench.apply(
            'ask: {endpointSelector: {matchLabels: {app: far}}, egress: [{toPorts: [{ports: [{port: "8080", protocol: TCP}], '
            "listener: {envoyConfig: {kind: CiliumClusterwideEnvoyConfig, name: own}, name: mine}}]}]}"
        )
    assert bench.try_("far", "backend").result.ending is Ending.STOPPED, "what was in force still is"


def test_a_case_starts_without_the_policies_of_the_former(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(DENY_INGRESS)
    bench.deploy(TWO_NODES)
    assert bench.try_("far", "backend").result.ending is Ending.ANSWERED


def test_in_audit_mode_what_policy_would_drop_is_told_and_let_through(bench: Bench) -> None:
    bench.deploy(TWO_NODES + "requires: {features: [audit]}\n")
    bench.apply(
        DENY_EGRESS,
        "in: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{fromEndpoints: [{matchLabels: {app: near}}]}], "
        "ingressDeny: [{fromEndpoints: [{matchLabels: {app: far}}]}]}",
    )
    audited, allowed = bench.try_("far", "backend"), bench.try_("near", "backend")
    assert (audited.result.server, allowed.result.server) == ("default/backend", "default/backend")
    assert [(flow.direction, flow.verdict, flow.ingress_denied_by) for flow in verdicts(audited)] == [
        (Direction.EGRESS, FlowVerdict.AUDIT, ()),
        (Direction.INGRESS, FlowVerdict.AUDIT, (policy("in"),)),
    ]
    assert [flow.verdict for flow in verdicts(allowed)] == [FlowVerdict.FORWARDED]
    bench.deploy(TWO_NODES)
    bench.apply(DENY_INGRESS)
    assert bench.try_("far", "backend").result.ending is Ending.STOPPED, "the mode goes with the case"
