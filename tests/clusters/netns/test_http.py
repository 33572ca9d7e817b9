"""HTTP rules in front of real requests: a real Envoy answers for what they deny."""

from __future__ import annotations

from harness.model.flow import EventType, Flow, FlowVerdict
from harness.model.probe import Ending
from harness.model.traffic import Direction, Request, RequestKind
from harness.model.verdict import PolicyRef
from tests.clusters.netns.conftest import Bench, verdicts

TWO_NODES = """
endpoints:
  near: {labels: {app: near}, node: b}
  far: {labels: {app: far}, node: a}
  backend: {labels: {app: backend}, node: b, ports: [8080, 9000]}
"""
GET_PUBLIC = (
    "web: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{toPorts: [{ports: [{port: '8080', protocol: TCP}], "
    "rules: {http: [{method: GET, path: /public}]}}]}]}"
)


def policies(flows: list[Flow]) -> set[PolicyRef]:
    return {policy for flow in flows for policy in flow.ingress_allowed_by}


def get(path: str, method: str = "GET") -> Request:
    return Request(RequestKind.HTTP, method=method, path=path)


def test_what_the_rule_allows_is_answered_by_the_server_and_the_rest_by_the_proxy(bench: Bench) -> None:
    bench.deploy(TWO_NODES)
    bench.apply(GET_PUBLIC)
    for source in ("near", "far"):
        allowed = bench.try_(source, "backend", request=get("/public"))
        assert (allowed.result.ending, allowed.result.server, allowed.result.status) == (Ending.ANSWERED, "default/backend", 200)
        assert [(flow.verdict, flow.direction) for flow in verdicts(allowed)] == [(FlowVerdict.REDIRECTED, Direction.INGRESS)]
        denied = bench.try_(source, "backend", request=get("/private"))
        assert (denied.result.ending, denied.result.server, denied.result.status) == (Ending.ANSWERED, "", 403)
        (drop,) = (flow for flow in denied.flows if flow.verdict is FlowVerdict.DROPPED)
        assert (drop.event_type, drop.direction, drop.node) == (EventType.L7, Direction.INGRESS, "node-b")
        assert policies(verdicts(denied)) == {PolicyRef("CiliumNetworkPolicy", "default", "web")}
