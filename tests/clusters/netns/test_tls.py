"""Rules for TLS server names in front of real handshakes."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from harness.clusters.base import Observation
from harness.model.flow import EventType, FlowVerdict
from harness.model.probe import Ending
from harness.model.traffic import Direction, PodRef, Protocol, Request, RequestKind, Traffic
from harness.model.verdict import L7Decision
from harness.policy.evaluate import Evaluator
from harness.policy.repository import Repository
from tests.clusters.netns.conftest import Bench, verdicts
from tests.clusters.netns.http_tables import http

CASE = """
endpoints:
  client: {labels: {app: client}, node: a}
  backend: {labels: {app: backend}, node: b, ports: [{port: 443, serve: tls}, 8443]}
"""
PLAIN = http("GET", "/")


def hello(name: str) -> Request:
    """A TLS handshake that asks for this server; '' asks for none."""
    return Request(RequestKind.TLS, name=name)


def egress(*items: dict[str, Any], subject: str = "client") -> str:
    element = [{"toPorts": [{"ports": [{"port": "8443", "protocol": "TCP"}], **item}]} for item in items]
    return json.dumps({"names": {"endpointSelector": {"matchLabels": {"app": subject}}, "egress": element}})


class Table(NamedTuple):
    """Server names of a rule, from Cilium's documentation and never from the model: what passes, and what is reset."""

    names: list[str]
    passes: list[Request]
    reset: list[Request]


TABLES = [
    Table(
        ["api.shop.io"],
        [hello("api.shop.io"), hello("API.Shop.io")],
        [hello("www.shop.io"), hello("api.shop.io.evil.io"), hello("x.api.shop.io"), hello(""), PLAIN],
    ),
    Table(["*.x.io"], [hello("a.x.io"), hello("a-b_1.x.io")], [hello("x.io"), hello("a.b.x.io"), hello("axx.io"), hello("")]),
    Table(["**.x.io"], [hello("a.x.io"), hello("a.b.x.io")], [hello("x.io"), hello("y.io"), hello("")]),
    Table(["a*.x.io"], [hello("ab.x.io"), hello("a.x.io")], [hello("ba.x.io"), hello("a.b.x.io")]),
    Table(["*"], [hello("a.x.io"), hello("localhost")], [hello(""), PLAIN]),
    Table(["a.io", "b.io"], [hello("a.io"), hello("b.io")], [hello("c.io")]),
]


def passed(seen: Observation) -> bool:
    """Whether the server answered; if not, that the connection was reset, and told as dropped by the proxy at the source."""
    if seen.result.ending is Ending.ANSWERED:
        assert seen.result.server == "default/backend"
        return True
    assert seen.result.ending is Ending.RESET, seen.result
    assert not seen.result.server_saw
    drops = [flow for flow in seen.flows if flow.verdict is FlowVerdict.DROPPED]
    assert [(flow.event_type, flow.direction, flow.node) for flow in drops] == [(EventType.L7, Direction.EGRESS, "node-a")]
    return False


@pytest.mark.parametrize("table", TABLES, ids=lambda table: ",".join(table.names))
def test_a_connection_is_reset_unless_it_asks_for_a_server_of_the_rule(bench: Bench, table: Table) -> None:
    bench.deploy(CASE)
    bench.apply(egress({"serverNames": table.names}))
    probes = [bench.probe("client", "backend", 8443, request=request) for request in (*table.passes, *table.reset)]
    seen = bench.send(*probes)
    assert [passed(each) for each in seen] == [True] * len(table.passes) + [False] * len(table.reset)
    assert {flow.verdict for each in seen for flow in verdicts(each)} == {FlowVerdict.REDIRECTED}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: ",".join(table.names))
def test_the_model_agrees_with_the_table(bench: Bench, table: Table) -> None:
    placement = bench.deploy(CASE)
    policy = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "names", "namespace": "default"},
        "spec": json.loads(egress({"serverNames": table.names}))["names"],
    }
    evaluator = Evaluator(placement.state, Repository.empty().change(apply=[policy]))

    def verdict(request: Request) -> L7Decision:
        return evaluator.verdict(Traffic(PodRef("default", "client"), PodRef("default", "backend"), Protocol.TCP, 8443, request)).l7

    assert [verdict(request) for request in table.passes] == [L7Decision.ALLOW] * len(table.passes)
    assert [verdict(request) for request in table.reset] == [L7Decision.DENY] * len(table.reset)


def test_a_plain_allow_lifts_the_demand_for_a_name_only_from_another_selector(bench: Bench) -> None:
    """Section 5.3: rules of one selector and port merge, and then every one of them demands a name."""
    bench.deploy(CASE)
    other = {"endpointSelector": {"matchLabels": {"app": "client"}}, "egress": [{"toEndpoints": [{"matchLabels": {"app": "backend"}}]}]}
    bench.apply(egress({"serverNames": ["api.shop.io"]}, {}))
    assert not passed(bench.try_("client", "backend", 8443, request=hello("x.io")))
    bench.apply(json.dumps({"more": other}))
    assert passed(bench.try_("client", "backend", 8443, request=hello("x.io")))
    assert passed(bench.try_("client", "backend", 8443, request=PLAIN))


def test_names_are_enforced_at_the_target_too(bench: Bench) -> None:
    bench.deploy(CASE)
    rule = [{"toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}], "serverNames": ["api.shop.io"]}]}]
    bench.apply(json.dumps({"names": {"endpointSelector": {"matchLabels": {"app": "backend"}}, "ingress": rule}}))
    good, bad = (bench.try_("client", "backend", 443, request=hello(name), serve="tls") for name in ("api.shop.io", "x.io"))
    assert (good.result.ending, good.result.server) == (Ending.ANSWERED, "default/backend")
    assert bad.result.ending is Ending.RESET
    assert [flow.direction for flow in bad.flows if flow.verdict is FlowVerdict.DROPPED] == [Direction.INGRESS]
