"""HTTP rules in front of real requests: a real Envoy answers for what they deny."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.clusters.base import Observation
from harness.model.flow import DropReason, Flow, FlowVerdict
from harness.model.probe import Ending
from harness.model.traffic import Direction, Family
from harness.model.verdict import PolicyRef
from tests.clusters.netns.conftest import Bench, drops, verdicts
from tests.clusters.netns.http_tables import TABLES, Table, http

TWO_NODES = """
endpoints:
  near: {labels: {app: near}, node: b}
  far: {labels: {app: far}, node: a}
  backend: {labels: {app: backend}, node: b, ports: [8080, 9000, {port: 7000, serve: echo}]}
services:
  shop: {selector: {app: backend}, ports: [{port: 80, targetPort: 8080}]}
"""


def ingress(name: str, *rules: dict[str, Any], peer: str = "", port: int = 8080) -> str:
    element: dict[str, Any] = {"toPorts": [{"ports": [{"port": str(port), "protocol": "TCP"}]}]}
    if rules:
        element["toPorts"][0]["rules"] = {"http": list(rules)}
    if peer:
        element["fromEndpoints"] = [{"matchLabels": {"app": peer}}]
    return json.dumps({name: {"endpointSelector": {"matchLabels": {"app": "backend"}}, "ingress": [element]}})


def egress(name: str, subject: str, *rules: dict[str, Any], port: int = 8080) -> str:
    element: dict[str, Any] = {"toPorts": [{"ports": [{"port": str(port), "protocol": "TCP"}]}]}
    if rules:
        element["toPorts"][0]["rules"] = {"http": list(rules)}
    return json.dumps({name: {"endpointSelector": {"matchLabels": {"app": subject}}, "egress": [element]}})


def answer(seen: Observation) -> tuple[str, int | None]:
    """Who answered ('' is the proxy), and with which status."""
    assert seen.result.ending is Ending.ANSWERED, (seen.result, seen.flows)
    return seen.result.server, seen.result.status


SERVED, DENIED = ("default/backend", 200), ("", 403)


def records(seen: Observation) -> list[tuple[FlowVerdict, Direction | None, int, str, int]]:
    return [(flow.verdict, flow.direction, flow.l7.type, flow.node, flow.l7.code) for flow in seen.flows if flow.l7 is not None]


def named(flows: list[Flow]) -> set[str]:
    return {policy.name for flow in flows for policy in (*flow.ingress_allowed_by, *flow.egress_allowed_by)}


@pytest.mark.parametrize("source", ["near", "far"])
def test_a_denied_request_is_answered_by_the_proxy_and_told_as_dropped(bench: Bench, source: str) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(ingress("web", {"method": "GET", "path": "/public"}))
    allowed, denied = (bench.try_(source, "backend", request=http("GET", path)) for path in ("/public", "/private"))
    assert (answer(allowed), answer(denied)) == (SERVED, DENIED)
    assert [(flow.verdict, flow.direction, flow.proxy_port > 0) for flow in verdicts(allowed)] == [
        (FlowVerdict.REDIRECTED, Direction.INGRESS, True)
    ]
    assert records(allowed) == [
        (FlowVerdict.FORWARDED, Direction.INGRESS, 1, "node-b", 0),
        (FlowVerdict.FORWARDED, Direction.INGRESS, 2, "node-b", 200),
    ]
    assert records(denied)[:1] == [(FlowVerdict.DROPPED, Direction.INGRESS, 1, "node-b", 0)]
    assert not denied.result.server_saw
    assert named(verdicts(denied)) == {"web"}
    request = next(flow for flow in allowed.flows if flow.l7 is not None)
    assert request.l7 is not None
    assert (request.l7.method, request.l7.url, request.l7.protocol) == ("GET", f"http://{bench.address('backend')}:8080/public", "HTTP/1.1")
    assert (request.source.pod, request.destination.pod) == (source, "backend")


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_requests_fare_as_the_table_says(bench: Bench, table: Table) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(ingress("web", *table.rules))
    probes = [bench.probe("far", "backend", request=request) for request in (*table.passes, *table.denied)]
    found = [answer(seen) for seen in bench.send(*probes)]
    assert found == [SERVED] * len(table.passes) + [DENIED] * len(table.denied)


@pytest.mark.parametrize("source", ["near", "far"])
def test_egress_rules_are_asked_at_the_source_and_ingress_rules_at_the_target_on_one_request(bench: Bench, source: str) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(
        egress("out", source, {"path": "/both"}, {"path": "/out"}),
        ingress("in", {"path": "/both"}, {"path": "/in"}),
    )
    here = "node-b" if source == "near" else "node-a"
    probes = [bench.probe(source, "backend", request=http("GET", path)) for path in ("/both", "/out", "/in")]
    both, out, in_ = bench.send(*probes)
    assert [answer(each) for each in (both, out, in_)] == [SERVED, ("", 403), ("", 403)]
    assert {(flow.direction, flow.verdict) for flow in verdicts(both)} == {
        (Direction.EGRESS, FlowVerdict.REDIRECTED),
        (Direction.INGRESS, FlowVerdict.REDIRECTED),
    }
    assert len(verdicts(both)) == 2, "each side tells its verdict once, though the proxies opened connections of their own"
    denials = [(flow.direction, flow.node) for seen in (out, in_) for flow in seen.flows if flow.verdict is FlowVerdict.DROPPED]
    assert denials == [(Direction.INGRESS, "node-b"), (Direction.EGRESS, here)]
    assert not (out.result.server_saw)
    assert not (in_.result.server_saw)


@pytest.mark.parametrize("source", ["near", "far"])
def test_what_an_egress_proxy_sends_on_meets_the_targets_ingress_policy_as_the_client(bench: Bench, source: str) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(egress("out", source, {"path": "/ok"}), ingress("in", peer="nobody"))
    seen = bench.try_(source, "backend", request=http("GET", "/ok"))
    assert not seen.result.server_saw
    assert [(drop.direction, drop.drop_reason, drop.node, drop.source.pod) for drop in drops(seen)] == [
        (Direction.INGRESS, DropReason.POLICY_DENIED, "node-b", source)
    ]
    assert drops(seen)[0].five_tuple.source_port == seen.result.five_tuple.source_port, "as if the proxy had kept the client's port"


def test_a_plain_allow_of_the_same_connection_lifts_the_rules_and_one_for_others_does_not(bench: Bench) -> None:
    """Section 5.4: whatever else allows the connection allows the request, be it for the port, for the peer or for both."""
    bench.deploy(TWO_NODES)
    rule = ingress("web", {"path": "/public"}, peer="far")
    private = http("GET", "/private")
    bench.apply(rule)
    assert answer(bench.try_("far", "backend", request=private)) == DENIED
    bench.apply(ingress("other", peer="near"))
    assert answer(bench.try_("far", "backend", request=private)) == DENIED
    assert answer(bench.try_("near", "backend", request=private)) == SERVED
    for lifting in (
        ingress("lift"),
        json.dumps({"lift": {"endpointSelector": {}, "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "far"}}]}]}}),
        ingress("lift", peer="far"),
    ):
        bench.apply(lifting)
        seen = bench.try_("far", "backend", request=private)
        assert answer(seen) == SERVED, lifting
        assert records(seen), "it is still the proxy that lets it pass"
        bench.apply(remove=[PolicyRef("CiliumNetworkPolicy", "default", "lift")])
    assert answer(bench.try_("far", "backend", request=private)) == DENIED


def test_a_deny_rule_wins_before_any_proxy(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(
        ingress("web", {}),
        "not: {endpointSelector: {matchLabels: {app: backend}}, ingressDeny: [{fromEndpoints: [{matchLabels: {app: far}}]}]}",
    )
    seen = bench.try_("far", "backend", request=http("GET", "/"))
    assert [drop.drop_reason for drop in drops(seen)] == [DropReason.POLICY_DENY]
    assert answer(bench.try_("near", "backend", request=http("GET", "/"))) == SERVED


@pytest.mark.parametrize("source", ["near", "far"])
def test_behind_a_service_the_rules_of_the_backends_port_apply(bench: Bench, source: str) -> None:
    bench.deploy(TWO_NODES)
    backend = [(bench.address("backend"), 8080)]
    for policy in (egress("web", source, {"path": "/public"}), ingress("web", {"path": "/public"})):
        bench.apply(policy)
        seen = [
            bench.try_(
                source,
                "service:default/shop",
                80,
                servers=["default/backend"],
                request=http("GET", path),
                backends=backend,
            )
            for path in ("/public", "/private")
        ]
        assert [answer(each) for each in seen] == [SERVED, DENIED]
        bench.apply(remove=[PolicyRef("CiliumNetworkPolicy", "default", "web")])


def test_both_families_are_proxied_alike(bench: Bench) -> None:
    if "ipv6" not in bench.cluster.capabilities.features:
        pytest.skip(bench.cluster.capabilities.lacking["ipv6"])
    bench.deploy(TWO_NODES)
    bench.apply(egress("out", "far", {"path": "/public"}), ingress("in", {"path": "/public"}))
    probes = [bench.probe("far", "backend", request=http("GET", path), family=Family.IPV6) for path in ("/public", "/private")]
    assert [answer(seen) for seen in bench.send(*probes)] == [SERVED, DENIED]


def test_rules_for_what_is_outside_are_asked_at_the_source(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(egress("out", "far", {"path": "/public"}, port=80))
    probes = [bench.probe("far", "world", 80, request=http("GET", path), servers=["world"]) for path in ("/public", "/private")]
    assert [answer(seen) for seen in bench.send(*probes)] == [("world", 200), DENIED]


def test_a_request_from_outside_keeps_its_address(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(ingress("in", {"path": "/public"}))
    for site in ("world:", "node:a", "node:b"):
        seen = bench.send(*(bench.probe(site, "backend", request=http("GET", path)) for path in ("/public", "/private")))
        # The pod's own node is let in by Cilium itself, without a condition: that lifts the rule.
        assert [answer(each) for each in seen] == [SERVED, SERVED if site == "node:b" else DENIED], site


def test_a_port_with_rules_speaks_http_only(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(ingress("in", {}, port=7000))
    seen = bench.try_("far", "backend", 7000, serve="echo")
    assert not seen.result.server_saw
    assert not seen.result.server


def test_a_proxy_that_dies_in_the_middle_leaves_nothing_to_conclude_and_comes_back_with_the_next_change(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(ingress("in", {"path": "/public"}))
    assert answer(bench.try_("far", "backend", request=http("GET", "/private"))) == DENIED
    bench.cluster.fault("kill_proxy", "b")
    seen = bench.try_("far", "backend", request=http("GET", "/private"), timeout=0.3)
    assert not seen.result.server_saw, "without its proxy nothing passes"
    assert seen.result.status is None
    assert not [flow for flow in seen.flows if flow.verdict is FlowVerdict.DROPPED]
    bench.apply(ingress("in", {"path": "/other"}))
    assert answer(bench.try_("far", "backend", request=http("GET", "/other"))) == SERVED


def test_thousands_of_connections_one_after_the_other_all_get_their_own_answer(bench: Bench) -> None:
    """The proxy's ports are used again and again, and the kernel still remembers the connections that had them."""
    bench.deploy(TWO_NODES)
    bench.apply(egress("out", "far", {"path": "/public"}), ingress("in", {"path": "/public"}))
    paths = ["/public", "/private"] * 400
    seen = bench.send(*(bench.probe("far", "backend", request=http("GET", path), timeout=10.0) for path in paths))
    assert [answer(each) for each in seen] == [SERVED, DENIED] * 400
    told = {each.probe.id: {flow.direction for flow in each.flows if flow.verdict is FlowVerdict.REDIRECTED} for each in seen[::2]}
    assert set(map(frozenset, told.values())) == {frozenset(Direction)}, (
        "each connection is told under its client's own port, on both nodes"
    )
