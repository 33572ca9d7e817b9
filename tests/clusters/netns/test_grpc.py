"""gRPC by grpcio at both ends, without a proxy on the way and with one."""

from __future__ import annotations

import json

import pytest

from harness.clusters.base import Observation
from harness.model.flow import FlowVerdict
from harness.model.probe import Ending
from harness.model.traffic import Direction, Family, Request, RequestKind
from tests.clusters.netns.conftest import Bench, drops

CASE = """
endpoints:
  near: {labels: {app: near}, node: b}
  far: {labels: {app: far}, node: a}
  backend: {labels: {app: backend}, node: b, ports: [{port: 9000, serve: grpc}, 8080, {port: 7000, serve: http}]}
"""
OK, PERMISSION_DENIED, UNAVAILABLE = 0, 7, 14
SERVED, DENIED = (Ending.ANSWERED, "default/backend", OK), (Ending.ANSWERED, "", PERMISSION_DENIED)


def method(path: str, **headers: str) -> Request:
    return Request(RequestKind.GRPC, path=path, headers=tuple((name.replace("_", "-"), value) for name, value in headers.items()))


CHARGE, REFUND = method("/shop.Payments/Charge"), method("/shop.Payments/Refund")


def rule(side: str, subject: str, **fields: object) -> str:
    element = [{"toPorts": [{"ports": [{"port": "9000", "protocol": "TCP"}], "rules": {"http": [{"method": "POST", **fields}]}}]}]
    return json.dumps({side: {"endpointSelector": {"matchLabels": {"app": subject}}, side: element}})


def answer(seen: Observation) -> tuple[Ending, str, int | None]:
    return seen.result.ending, seen.result.server, seen.result.status


@pytest.mark.parametrize("source", ["near", "far"])
@pytest.mark.parametrize(("port", "serve"), [(9000, "grpc"), (8080, "auto")])
def test_a_call_is_answered_by_the_named_server(bench: Bench, source: str, port: int, serve: str) -> None:
    bench.deploy(CASE)
    seen = bench.try_(source, "backend", port, serve=serve, request=CHARGE)
    assert answer(seen) == SERVED
    assert seen.result.nonce == seen.probe.nonce
    assert seen.result.server_saw


def test_a_probe_of_a_grpc_port_and_its_proof_of_life_call_a_method_too(bench: Bench) -> None:
    bench.deploy(CASE)
    bare, alive = bench.send(
        bench.probe("far", "backend", 9000, serve="grpc"), bench.probe("backend", "backend", 9000, serve="grpc", liveness=True)
    )
    assert (answer(bare), answer(alive)) == (SERVED, SERVED)


def test_a_port_that_speaks_something_else_is_no_answer(bench: Bench) -> None:
    bench.deploy(CASE)
    seen = bench.try_("far", "backend", 7000, serve="http", request=CHARGE)
    assert not seen.result.server
    assert answer(bench.try_("far", "backend", 7001, request=CHARGE))[0] is Ending.REFUSED


@pytest.mark.parametrize("source", ["near", "far"])
@pytest.mark.parametrize("side", ["ingress", "egress"])
def test_methods_are_allowed_by_their_path_and_denied_with_permission_denied(bench: Bench, source: str, side: str) -> None:
    bench.deploy(CASE)
    bench.apply(rule(side, "backend" if side == "ingress" else source, path="/shop[.]Payments/Charge"))
    charged, refunded = bench.send(*(bench.probe(source, "backend", 9000, serve="grpc", request=each) for each in (CHARGE, REFUND)))
    assert (answer(charged), answer(refunded)) == (SERVED, DENIED)
    assert [flow.direction for flow in refunded.flows if flow.verdict is FlowVerdict.DROPPED] == [Direction(side)]
    (request,) = (flow.l7 for flow in charged.flows if flow.l7 is not None and flow.l7.type == 1)
    assert (request.method, request.protocol) == ("POST", "HTTP/2")
    assert request.url.endswith("/shop.Payments/Charge")


def test_metadata_is_matched_like_headers(bench: Bench) -> None:
    bench.deploy(CASE)
    bench.apply(rule("ingress", "backend", headers=["x-tenant: red"]))
    probes = [bench.probe("far", "backend", 9000, serve="grpc", request=method("/a.B/C", x_tenant=value)) for value in ("red", "blue")]
    assert [answer(seen) for seen in bench.send(*probes)] == [SERVED, DENIED]


def test_both_families_carry_it(bench: Bench) -> None:
    if "ipv6" not in bench.cluster.capabilities.features:
        pytest.skip(bench.cluster.capabilities.lacking["ipv6"])
    bench.deploy(CASE)
    bench.apply(rule("ingress", "backend", path="/shop[.]Payments/Charge"))
    probes = [bench.probe("far", "backend", 9000, serve="grpc", request=each, family=Family.IPV6) for each in (CHARGE, REFUND)]
    assert [answer(seen) for seen in bench.send(*probes)] == [SERVED, DENIED]


def test_a_dropped_call_ends_with_its_drop(bench: Bench) -> None:
    bench.deploy(CASE)
    bench.apply("shut: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{}]}")
    seen = bench.try_("far", "backend", 9000, serve="grpc", request=CHARGE)
    assert seen.result.ending is Ending.STOPPED
    assert [drop.direction for drop in drops(seen)] == [Direction.INGRESS]


def test_many_calls_at_once_keep_their_names_and_nonces(bench: Bench) -> None:
    bench.deploy(CASE)
    bench.apply(rule("ingress", "backend", path="/shop[.]Payments/.*"))
    probes = [bench.probe(source, "backend", 9000, serve="grpc", request=CHARGE) for source in ("near", "far") for _ in range(20)]
    seen = bench.send(*probes)
    assert [answer(each) for each in seen] == [SERVED] * 40
    assert [each.result.nonce for each in seen] == [probe.nonce for probe in probes]
