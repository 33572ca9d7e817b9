"""The host firewall: what a policy of nodes does to packets of a node's own network.

The tables are written by hand from Cilium's documentation of the host firewall and of its datapath, not from the model; that the model says the
same is a promise of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace

from harness.cases.case import Requirements
from harness.clusters.netns.cluster import LabOptions, NetnsCluster
from harness.errors import ClusterError
from harness.model.flow import DropReason, FlowVerdict
from harness.model.identity import ReservedIdentity
from harness.model.probe import Ending, Probe
from harness.model.traffic import Direction, External, Family, Peer, PodRef, Protocol, Request, RequestKind, Traffic
from harness.model.verdict import PolicyRef, Verdict
from harness.policy.evaluate import Evaluator
from harness.policy.options import Options
from harness.policy.repository import Repository
from tests.clusters.netns.conftest import Bench, drops, require_lab, verdicts

DEPLOYED = """
endpoints:
  here: {labels: {app: here}, node: a, ports: [8080]}
  there: {labels: {app: there}, node: b, ports: [8080]}
  agent-a: {hostNetwork: true, node: a, ports: [9100, 9101]}
  agent-b: {hostNetwork: true, node: b, ports: [9200, 9201]}
externals:
  outside: {addresses: [198.51.100.7], ports: [9000]}
"""
PORTS = {"here": 8080, "there": 8080, "agent-a": 9100, "agent-b": 9200, "external:outside": 9000}
SITES = {"external:outside": "world:198.51.100.7"}
OTHERS = ("here", "there", "agent-b", "external:outside")
INTO = tuple((peer, "agent-a") for peer in OTHERS)
OUT_OF = tuple(("agent-a", peer) for peer in OTHERS)
BESIDE = (("here", "there"), ("there", "here"), ("here", "external:outside"), ("external:outside", "here"))
"""Packets that pass a node, and are not its host's."""


def policy(spec: str) -> str:
    """A policy of both nodes."""
    return yaml.safe_dump({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": "hosts"},
        "spec": {"nodeSelector": {}, **yaml.safe_load(spec)},
    })


HOSTS = PolicyRef("CiliumClusterwideNetworkPolicy", "", "hosts")
NOBODY_IN = "ingress: [{fromEntities: []}]"
NOBODY_OUT = "egress: [{toEntities: []}]"

# Each row: the policy; what still comes into agent-a's host; what still leaves it. A policy selects both nodes, so that `agent-b` is under it too.
TABLE: dict[str, tuple[str, set[str], set[str]]] = {
    "no ingress": (NOBODY_IN, set(), {"here", "there", "external:outside"}),
    "no egress": (NOBODY_OUT, {"here", "there", "external:outside"}, set()),
    "pods come in": ("ingress: [{fromEndpoints: [{}]}]", {"here", "there"}, {"here", "there", "external:outside"}),
    "one pod comes in": (
        "ingress: [{fromEndpoints: [{matchLabels: {app: there, k8s:io.kubernetes.pod.namespace: default}}]}]",
        {"there"},
        {"here", "there", "external:outside"},
    ),
    "other nodes come in": ("ingress: [{fromEntities: [remote-node]}]", {"agent-b"}, set(OTHERS)),
    "the cluster comes in": ("ingress: [{fromEntities: [cluster]}]", {"here", "there", "agent-b"}, set(OTHERS)),
    "the world comes in": ("ingress: [{fromEntities: [world]}]", {"external:outside"}, {"here", "there", "external:outside"}),
    "a prefix comes in": ("ingress: [{fromCIDR: [198.51.100.0/24]}]", {"external:outside"}, {"here", "there", "external:outside"}),
    "a port is open": ('ingress: [{toPorts: [{ports: [{port: "9100"}]}]}]', set(OTHERS), {"here", "there", "external:outside"}),
    "another port is open": ('ingress: [{toPorts: [{ports: [{port: "9101"}]}]}]', set(), {"here", "there", "external:outside"}),
    "pods are denied": ("{ingress: [{}, {fromEntities: [all]}], ingressDeny: [{fromEndpoints: [{}]}]}", {"agent-b", "external:outside"}, set(OTHERS)),
    "to pods": ("egress: [{toEndpoints: [{}]}]", {"here", "there", "external:outside"}, {"here", "there"}),
    "to one pod": (
        "egress: [{toEndpoints: [{matchLabels: {app: here, k8s:io.kubernetes.pod.namespace: default}}]}]",
        {"here", "there", "external:outside"},
        {"here"},
    ),
    "to other nodes": ("egress: [{toEntities: [remote-node]}]", set(OTHERS), {"agent-b"}),
    "to the world": ("egress: [{toEntities: [world]}]", {"here", "there", "external:outside"}, {"external:outside"}),
    "to a prefix": ("egress: [{toCIDR: [198.51.100.0/24]}]", {"here", "there", "external:outside"}, {"external:outside"}),
    "to a port": ('egress: [{toPorts: [{ports: [{port: "9200"}]}]}]', {"here", "there", "external:outside"}, {"agent-b"}),
    "the world is denied": ("{egress: [{toEntities: [all]}], egressDeny: [{toEntities: [world]}]}", set(OTHERS), {"here", "there", "agent-b"}),
    "own host is no peer": ("{ingress: [{fromEntities: [host]}], egress: [{toEntities: [host]}]}", set(), set()),
}  # fmt: skip


def test_agent_b_is_under_the_same_policy() -> None:
    """What the table says of agent-b rests on its own end: where nodes let nobody in, agent-a cannot reach agent-b either."""
    assert "agent-b" not in TABLE["no ingress"][2]


@pytest.mark.parametrize("row", TABLE)
def test_a_policy_of_nodes_decides_what_enters_and_leaves_a_host_and_nothing_else(bench: Bench, row: str) -> None:
    spec, comes_in, leaves = TABLE[row]
    bench.deploy(DEPLOYED)
    bench.apply(policy(spec))
    pairs = (*INTO, *OUT_OF, *BESIDE)
    seen = dict(zip(pairs, bench.send(*(probe(bench, *pair) for pair in pairs)), strict=True))
    got_through = {pair for pair, each in seen.items() if each.result.ending is Ending.ANSWERED}
    assert got_through == {
        *((peer, "agent-a") for peer in comes_in),
        *(("agent-a", peer) for peer in leaves),
        *BESIDE,
    }
    for pair, each in seen.items():
        assert (len(drops(each)) == 1) is (pair not in got_through), (pair, each.flows)


@pytest.mark.parametrize("row", TABLE)
def test_the_model_says_the_same(bench: Bench, row: str) -> None:
    spec, comes_in, leaves = TABLE[row]
    bench.deploy(DEPLOYED)
    documents = [yaml.safe_load(policy(spec))]
    evaluator = Evaluator(bench.placement.state, Repository.empty(Options(host_firewall=True)).change((), documents))
    allowed = {
        pair
        for pair in (*INTO, *OUT_OF, *BESIDE)
        if evaluator.verdict(Traffic(peer(pair[0]), peer(pair[1]), Protocol.TCP, PORTS[pair[1]])).verdict is Verdict.ALLOW
    }
    assert allowed == {*((each, "agent-a") for each in comes_in), *(("agent-a", each) for each in leaves), *BESIDE}


def probe(bench: Bench, source: str, target: str) -> Probe:
    return bench.probe(SITES.get(source, source), target, PORTS[target])


def watched(probe: Probe, *sides: Direction) -> Probe:
    """The probe, complete only when these sides have spoken."""
    return replace(probe, awaited=frozenset(sides))


def peer(name: str) -> Peer:
    return External("198.51.100.7") if name.startswith("external:") else PodRef("default", name)


def test_a_drop_tells_the_host_as_cilium_does(bench: Bench) -> None:
    bench.deploy(DEPLOYED)
    bench.apply(policy("{ingress: [{}, {fromEntities: [all]}], ingressDeny: [{fromEntities: [world]}]}"))
    (drop,) = drops(bench.send(probe(bench, "external:outside", "agent-a"))[0])
    assert (drop.direction, drop.drop_reason, drop.node) == (Direction.INGRESS, DropReason.POLICY_DENY, "node-a")
    assert (drop.destination.identity, drop.destination.labels) == (ReservedIdentity.HOST, ("reserved:host",))
    assert drop.ingress_denied_by == (HOSTS,)


def test_a_verdict_of_a_host_names_the_policy_and_comes_after_that_of_the_pod(bench: Bench) -> None:
    bench.deploy(DEPLOYED)
    bench.apply(
        policy("ingress: [{fromEndpoints: [{}]}]"), "out: {endpointSelector: {matchLabels: {app: here}}, egress: [{toEntities: [host]}]}"
    )
    (seen,) = bench.send(watched(probe(bench, "here", "agent-a"), *Direction))
    told = [(flow.direction, flow.verdict, flow.egress_allowed_by or flow.ingress_allowed_by) for flow in verdicts(seen)]
    assert told == [
        (Direction.EGRESS, FlowVerdict.FORWARDED, (PolicyRef("CiliumNetworkPolicy", "default", "out"),)),
        (Direction.INGRESS, FlowVerdict.FORWARDED, (HOSTS,)),
    ]


def test_what_leaves_a_host_for_a_pod_of_its_own_is_asked_for_twice(bench: Bench) -> None:
    bench.deploy(DEPLOYED)
    bench.apply(
        policy("egress: [{toEndpoints: [{}]}]"), "in: {endpointSelector: {matchLabels: {app: here}}, ingressDeny: [{fromEntities: [host]}]}"
    )
    (seen,) = bench.send(probe(bench, "agent-a", "here"))
    assert [(flow.direction, flow.verdict) for flow in verdicts(seen)] == [
        (Direction.EGRESS, FlowVerdict.FORWARDED),
        (Direction.INGRESS, FlowVerdict.DROPPED),
    ]


@pytest.mark.parametrize("source", ["node:b", "kube-apiserver", "world:"])
def test_built_ins_meet_the_host_firewall_too(bench: Bench, source: str) -> None:
    bench.deploy(DEPLOYED)
    bench.apply(policy(NOBODY_IN))
    (drop,) = drops(bench.try_(source, "agent-a", 9100))
    assert (drop.direction, drop.drop_reason) == (Direction.INGRESS, DropReason.POLICY_DENIED)
    bench.apply(policy("ingress: [{fromEntities: [world, remote-node, kube-apiserver]}]"))
    assert bench.try_(source, "agent-a", 9100).result.ending is Ending.ANSWERED


@pytest.mark.parametrize(
    ("protocol", "port", "rule"),
    [
        (Protocol.UDP, 5353, 'toPorts: [{ports: [{port: "5353", protocol: UDP}]}]'),
        (Protocol.ICMP, 8, "icmps: [{fields: [{family: IPv4, type: 8}]}]"),
    ],
)
def test_without_connections_too(bench: Bench, protocol: Protocol, port: int, rule: str) -> None:
    """A host that sends is told by its own kernel that it may not: that is a drop, and no broken probe."""
    bench.deploy(DEPLOYED)
    bench.apply(policy(f"{{{NOBODY_IN}, {NOBODY_OUT}}}"))
    into = bench.try_("here", "node:a", port, protocol)
    out = bench.try_("agent-a", "world", port, protocol)
    assert [drop.direction for each in (into, out) for drop in drops(each)] == [Direction.INGRESS, Direction.EGRESS]
    assert {each.result.ending for each in (into, out)} <= {Ending.STOPPED, Ending.UNREACHABLE}
    bench.apply(policy(f"{{ingress: [{{{rule}}}], egress: [{{{rule}}}]}}"))
    again = (bench.try_("here", "node:a", port, protocol), bench.try_("agent-a", "world", port, protocol))
    assert [each.result.ending for each in again] == [Ending.ANSWERED] * 2


def test_ipv6_has_its_neighbours_whatever_the_policy(bench: Bench) -> None:
    if "ipv6" not in bench.cluster.capabilities.features:
        pytest.skip(bench.cluster.capabilities.lacking["ipv6"])
    bench.deploy(DEPLOYED)
    bench.apply(policy(f'{{{NOBODY_OUT}, ingress: [{{toPorts: [{{ports: [{{port: "9100"}}]}}]}}]}}'))
    into = bench.send(*(bench.probe(site, "agent-a", 9100, family=Family.IPV6) for site in ("here", "there", "node:b", "world:")))
    # Node b may send nothing: its own host stops it.
    assert [each.result.ending for each in into] == [Ending.ANSWERED, Ending.ANSWERED, Ending.STOPPED, Ending.ANSWERED]


def test_a_tightened_policy_cuts_what_is_open_and_loopback_goes_on(bench: Bench) -> None:
    bench.deploy(DEPLOYED)
    bench.apply(policy(f"{{{NOBODY_IN}, {NOBODY_OUT}}}"))
    assert bench.try_("agent-a", "agent-a", 9100, liveness=True).result.ending is Ending.ANSWERED
    assert bench.try_("here", "agent-a", 9100).result.ending is Ending.STOPPED
    bench.apply(remove=[HOSTS])
    assert bench.try_("here", "agent-a", 9100).result.ending is Ending.ANSWERED


@pytest.mark.parametrize("allowed", [True, False])
def test_what_a_proxy_sends_on_to_its_own_host_meets_the_hosts_ingress(bench: Bench, allowed: bool) -> None:
    if "l7-http" not in bench.cluster.capabilities.features:
        pytest.skip(bench.cluster.capabilities.lacking["l7-http"])
    bench.deploy(DEPLOYED)
    bench.apply(
        policy(f"ingress: [{{fromEndpoints: [{{matchLabels: {{app: {'here' if allowed else 'there'}}}}}]}}]".replace("app:", "any:app:")),
        'web: {endpointSelector: {matchLabels: {app: here}}, egress: [{toEntities: [host], toPorts: [{ports: [{port: "9100", protocol: TCP}], rules: {http: [{method: GET}]}}]}]}',
    )
    get = bench.probe("here", "agent-a", 9100, request=Request(RequestKind.HTTP, method="GET", path="/"))
    (seen,) = bench.send(watched(get, *Direction) if allowed else get)
    ingress = [flow.verdict for flow in verdicts(seen) if flow.direction is Direction.INGRESS]
    assert ingress == [FlowVerdict.FORWARDED if allowed else FlowVerdict.DROPPED]
    assert (seen.result.server == "default/agent-a") is allowed


def test_a_host_that_sends_into_a_proxy_of_its_pod_meets_its_own_egress_first(bench: Bench) -> None:
    if "l7-http" not in bench.cluster.capabilities.features:
        pytest.skip(bench.cluster.capabilities.lacking["l7-http"])
    bench.deploy(DEPLOYED)
    web = 'web: {endpointSelector: {matchLabels: {app: here}}, ingress: [{toPorts: [{ports: [{port: "8080", protocol: TCP}], rules: {http: [{method: GET}]}}]}]}'
    bench.apply(web, policy("egress: [{toEndpoints: [{}]}]"))
    get = Request(RequestKind.HTTP, method="GET", path="/")
    (seen,) = bench.send(watched(bench.probe("agent-a", "here", request=get), *Direction))
    assert seen.result.server == "default/here"
    assert [flow.direction for flow in verdicts(seen)] == [Direction.EGRESS, Direction.INGRESS]
    bench.apply(policy(NOBODY_OUT))
    (seen,) = bench.send(bench.probe("agent-a", "here", request=get))
    assert [drop.direction for drop in drops(seen)] == [Direction.EGRESS]


def test_dns_rules_of_a_host_are_refused_since_nothing_would_enforce_them(bench: Bench) -> None:
    bench.deploy(DEPLOYED)
    rules = 'egress: [{toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "*"}]}}]}]'
    with pytest.raises(ClusterError, match="no DNS proxy for what a node's host sends"):
        bench.apply(policy(rules))


def test_in_audit_mode_a_host_drops_nothing_and_tells(bench: Bench) -> None:
    case = bench.case(DEPLOYED)
    bench.placement = bench.cluster.prepare(replace(case, requires=Requirements("", frozenset({"audit"}))))
    bench.apply(policy(NOBODY_IN))
    (seen,) = bench.send(watched(probe(bench, "here", "agent-a"), Direction.INGRESS))
    assert seen.result.ending is Ending.ANSWERED
    assert FlowVerdict.AUDIT in {flow.verdict for flow in verdicts(seen) if flow.direction is Direction.INGRESS}


def test_no_policy_of_a_former_case_is_left(bench: Bench) -> None:
    bench.deploy(DEPLOYED)
    bench.apply(policy(NOBODY_IN))
    bench.deploy(DEPLOYED)
    (seen,) = bench.send(probe(bench, "here", "agent-a"))
    assert seen.result.ending is Ending.ANSWERED
    assert verdicts(seen) == []


@pytest.fixture(scope="module")
def without() -> Iterator[NetnsCluster]:
    require_lab()
    cluster = NetnsCluster(LabOptions(pods=1, host_firewall=False))
    yield cluster
    cluster.close()


def test_with_the_host_firewall_off_a_policy_of_nodes_does_nothing_and_says_so(without: NetnsCluster, tmp_path: Path) -> None:
    bench = Bench(without, tmp_path)
    bench.deploy(DEPLOYED)
    bench.apply(policy(NOBODY_IN))
    assert bench.send(probe(bench, "here", "agent-a"))[0].result.ending is Ending.ANSWERED
    assert without.status([HOSTS])[HOSTS].inert == "selects nodes only, and the host firewall is off"
    assert "host-firewall" not in without.capabilities.features
    assert "host firewall is off" in without.capabilities.lacking["host-firewall"]
