"""DNS rules and toFQDNs in front of real lookups: what is refused, what is learned, where, and for how long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from harness.cases.case import Action, Expectation, Party, PartyKind, Target
from harness.clusters.base import Observation
from harness.engine.judge import Evidence, judge
from harness.engine.outcome import Outcome
from harness.errors import Location
from harness.model.flow import FlowVerdict
from harness.model.probe import Ending
from harness.model.traffic import Direction, Family, Protocol, Request, RequestKind
from tests.clusters.netns.conftest import Bench, drops, verdicts

CASE = """
endpoints:
  near: {labels: {app: client}, node: b}
  far: {labels: {app: client}, node: a}
  resolver:
    labels: {app: resolver}
    node: b
    ports: [{port: 53, protocol: UDP, name: dns, serve: dns}, {port: 53, protocol: TCP, name: dns-tcp, serve: dns}]
externals:
  www: {names: [www.example.com], addresses: [203.0.113.10, "2001:db8:99::10"], ports: [443]}
  deep: {names: [a.b.example.com], addresses: [203.0.113.11, "2001:db8:99::11"], ports: [443]}
  bare: {names: [example.com], addresses: [203.0.113.12, "2001:db8:99::12"], ports: [443]}
services:
  shop: {selector: {app: resolver}, ports: [{port: 53, targetPort: 53, protocol: UDP}]}
"""
NOERROR, NXDOMAIN, REFUSED = 0, 3, 5
RESOLVER = "default/resolver"


def policy(dns: list[dict[str, str]] | None, fqdns: list[dict[str, str]] | None = None) -> str:
    """Lookups at the resolver (`dns` None: as a plain allow), and what the names lead to."""
    ports: dict[str, Any] = {"ports": [{"port": "53", "protocol": "ANY"}]}
    if dns is not None:
        ports["rules"] = {"dns": dns}
    rules: list[dict[str, Any]] = [{"toEndpoints": [{"matchLabels": {"app": "resolver"}}], "toPorts": [ports]}]
    if fqdns:
        rules.append({"toFQDNs": fqdns, "toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}]}]})
    return json.dumps({"names": {"endpointSelector": {"matchLabels": {"app": "client"}}, "egress": rules}})


def ask(bench: Bench, source: str, name: str, protocol: Protocol = Protocol.UDP, family: Family = Family.IPV4) -> Observation:
    request = Request(RequestKind.LOOKUP, name=name)
    return bench.try_(source, "resolver", 53, protocol, family=family, serve="dns", request=request)


def answer(seen: Observation) -> tuple[str, int | None]:
    assert seen.result.ending is Ending.ANSWERED, (seen.result, seen.flows)
    return seen.result.server, seen.result.status


def reaches(bench: Bench, source: str, external: str, family: Family = Family.IPV4) -> bool:
    """Whether the external answers; else policy has dropped it."""
    seen = bench.try_(source, f"external:{external}", 443, family=family)
    assert (seen.result.ending is Ending.ANSWERED) != bool(drops(seen)), (seen.result, seen.flows)
    return seen.result.ending is Ending.ANSWERED


def families(bench: Bench) -> list[Family]:
    return [Family.IPV4, *([Family.IPV6] if "ipv6" in bench.cluster.capabilities.features else [])]


WWW, DEEP, BARE = "www.example.com", "a.b.example.com", "example.com"
TABLES: list[tuple[dict[str, str], set[str]]] = [
    ({"matchName": WWW}, {WWW}),
    ({"matchName": "WWW.Example.com"}, {WWW}),
    ({"matchPattern": "*.example.com"}, {WWW}),
    ({"matchPattern": "**.example.com"}, {WWW, DEEP}),
    ({"matchPattern": "*example.com"}, {BARE}),
    ({"matchPattern": "*.*.example.com"}, {DEEP}),
    ({"matchPattern": "w*.example.com"}, {WWW}),
    ({"matchPattern": "*"}, {WWW, DEEP, BARE}),
    ({"matchPattern": "*.example.org"}, set()),
]
"""By hand, from the text on matchName and matchPattern: a rule, and which of the names it allows."""


@pytest.mark.parametrize(("rule", "allowed"), TABLES, ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value))
def test_names_fare_as_the_table_says_over_udp_and_tcp_and_both_families(bench: Bench, rule: dict[str, str], allowed: set[str]) -> None:
    bench.deploy(CASE)
    bench.apply(policy([rule], [rule]))
    for name, external in ((WWW, "www"), (DEEP, "deep"), (BARE, "bare")):
        for family in families(bench):
            for protocol in (Protocol.UDP, Protocol.TCP):
                wanted = (RESOLVER, NOERROR) if name in allowed else ("", REFUSED)
                assert answer(ask(bench, "far", name, protocol, family)) == wanted, (name, protocol, family)
            assert reaches(bench, "far", external, family) == (name in allowed), (name, family)


@pytest.mark.parametrize("source", ["near", "far"])
def test_a_question_and_its_answer_are_told(bench: Bench, source: str) -> None:
    bench.deploy(CASE)
    bench.apply(policy([{"matchName": WWW}], [{"matchName": WWW}]))
    allowed, denied = ask(bench, source, WWW), ask(bench, source, DEEP)
    told = [
        (flow.verdict, flow.direction, flow.is_reply, flow.l7.type, flow.l7.query, flow.l7.ips, flow.l7.qtypes)
        for flow in allowed.flows
        if flow.l7 is not None
    ]
    query = f"{WWW}."
    assert told == [
        (FlowVerdict.FORWARDED, Direction.EGRESS, False, 1, query, (), ("A",)),
        (FlowVerdict.FORWARDED, Direction.EGRESS, True, 2, query, ("203.0.113.10",), ("A",)),
    ]
    assert [flow.verdict for flow in verdicts(allowed)] == [FlowVerdict.REDIRECTED]
    assert [(flow.verdict, flow.l7.type) for flow in denied.flows if flow.l7 is not None] == [(FlowVerdict.DROPPED, 1)]
    assert not denied.result.server_saw
    later = bench.try_(source, "external:www", 443)
    assert {flow.destination_names for flow in verdicts(later)} == {(WWW,)}


def test_a_name_that_nobody_has_does_not_exist(bench: Bench) -> None:
    bench.deploy(CASE)
    bench.apply(policy([{"matchPattern": "*"}]))
    assert answer(ask(bench, "far", "nobody.example.com")) == (RESOLVER, NXDOMAIN)
    assert answer(ask(bench, "far", "shop.default.svc.cluster.local")) == (RESOLVER, NOERROR)


def test_without_a_dns_rule_names_open_nothing(bench: Bench) -> None:
    bench.deploy(CASE)
    bench.apply(policy(None, [{"matchName": WWW}]))
    assert answer(ask(bench, "far", WWW)) == (RESOLVER, NOERROR)
    assert not reaches(bench, "far", "www")


def test_only_the_node_that_learned_a_name_opens_it_and_only_until_it_expires(bench: Bench) -> None:
    bench.deploy(CASE)
    bench.apply(policy([{"matchPattern": "*"}], [{"matchName": WWW}]))
    assert not reaches(bench, "far", "www"), "nothing was learned yet"
    ask(bench, "far", WWW)
    ask(bench, "far", DEEP)
    assert reaches(bench, "far", "www")
    assert not reaches(bench, "far", "deep"), "it was learned, and no toFQDNs selects it"
    assert not reaches(bench, "near", "www")
    bench.cluster.fault("expire_names")
    assert not reaches(bench, "far", "www")
    ask(bench, "far", WWW)
    assert reaches(bench, "far", "www")


def test_what_was_learned_counts_for_policies_that_come_later(bench: Bench) -> None:
    bench.deploy(CASE)
    bench.apply(policy([{"matchPattern": "*"}]))
    ask(bench, "far", WWW)
    bench.apply(policy([{"matchPattern": "*"}], [{"matchPattern": "*.example.com"}]))
    assert reaches(bench, "far", "www")


def test_garbage_does_the_proxy_no_harm(bench: Bench) -> None:
    bench.deploy(CASE)
    bench.apply(policy([{"matchName": WWW}]))
    for protocol in (Protocol.UDP, Protocol.TCP):
        # A probe of an echo server says a line that is no DNS message.
        garbage = bench.try_("far", "resolver", 53, protocol, serve="echo", timeout=0.2)
        assert garbage.result.ending in (Ending.TIMEOUT, Ending.RESET), garbage.result
        assert not garbage.result.server_saw
        assert answer(ask(bench, "far", WWW, protocol)) == (RESOLVER, NOERROR)


@pytest.mark.parametrize("speaker", ["far", "elsewhere"], ids=["to the proxy", "to the resolver"])
def test_nonsense_in_every_form_does_no_harm(bench: Bench, speaker: str) -> None:
    """Messages that are none, over UDP and TCP, whole and in part, and connections that say half a length and wait."""
    bench.deploy(CASE.replace("  resolver:", "  elsewhere: {labels: {app: other}, node: a}\n  resolver:"))
    bench.apply(policy([{"matchName": WWW}]))
    inside = bench.cluster.namespaces()[f"pod default/{speaker}"]
    command = [sys.executable, "-m", "tests.clusters.netns.inside_garbage", str(bench.cluster.pid), str(inside), bench.address("resolver")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["rcode"] == NOERROR
    assert seen["tcp"] > 100
    assert seen["udp"] > 0, "some of it is a question after all, and answered"
    for protocol in (Protocol.UDP, Protocol.TCP):
        assert answer(ask(bench, "far", WWW, protocol)) == (RESOLVER, NOERROR)
        assert answer(ask(bench, "far", DEEP, protocol)) == ("", REFUSED)


@pytest.mark.parametrize("protocol", [Protocol.UDP, Protocol.TCP])
def test_a_lookup_during_which_the_proxy_dies_is_unknown_under_allow_as_under_deny(bench: Bench, protocol: Protocol) -> None:
    bench.deploy(CASE)
    bench.apply(policy([{"matchName": WWW}]))
    bench.cluster.fault("close", "default/resolver")  # so the proxy waits for its answer
    already = bench.cluster.counters()["logged"]
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(ask, bench, "far", WWW, protocol)
        while bench.cluster.counters()["logged"] < already + 2:  # the packet to the proxy, and that from it
            pass
        bench.cluster.fault("kill_dns_proxy", "a")
        seen = asking.result()
    assert any(flow.l7 is not None for flow in seen.flows), "it was under way"
    assert not seen.result.server_saw
    for action in (Action.ALLOW, Action.DENY):
        party = Party(PartyKind.ENDPOINT, "far")
        target = Target(Party(PartyKind.BUILTIN, "kube-dns"), 53, protocol, "kube-dns")
        expectation = Expectation(action, "far -> kube-dns lookup", (party,), (target,), Location("t", 1), request=seen.probe.request)
        judged = judge(Evidence(expectation, seen, alive=True))
        assert judged.outcome is Outcome.UNKNOWN, (action, judged, seen.result)


def test_a_dead_proxy_is_an_error_and_never_a_verdict(bench: Bench) -> None:
    bench.deploy(CASE)
    bench.apply(policy([{"matchName": WWW}]))
    assert answer(ask(bench, "far", WWW)) == (RESOLVER, NOERROR)
    bench.cluster.fault("kill_dns_proxy", "a")
    silent = ask(bench, "far", WWW)
    assert silent.result.ending is Ending.ERROR, "nobody decided, so it is unknown"
    assert "the DNS proxy of node a is dead" in silent.result.detail
    bench.apply(policy([{"matchName": DEEP}]))
    assert answer(ask(bench, "far", DEEP)) == (RESOLVER, NOERROR), "the next policies start it again"


def test_a_lookup_through_the_proxy_is_quick(bench: Bench) -> None:
    bench.deploy(CASE)
    bench.apply(policy([{"matchName": WWW}], [{"matchName": WWW}]))
    ask(bench, "far", WWW)
    took = sorted(ask(bench, "far", WWW).result.seconds for _ in range(30))
    assert took[len(took) // 2] < 0.003 * max(1, os.getloadavg()[0]), took
