"""The memory cluster keeps the contract, and reports what a cluster would."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from harness.cases.case import Case
from harness.cases.load import load_cases
from harness.clusters.base import Change, Observation
from harness.clusters.memory.cluster import MemoryCluster
from harness.clusters.memory.landscape import landscape
from harness.errors import ClusterError
from harness.model.flow import DropReason, EventType, FlowVerdict
from harness.model.probe import Ending, Probe, Site
from harness.model.traffic import Direction, Family, PodRef, Protocol
from harness.model.verdict import PolicyRef

CASE = """
    case: everything
    namespace: shop
    endpoints:
      client: {node: a, labels: {app: client}}
      server: {node: b, labels: {app: server}, ports: [8080, {port: 5353, protocol: UDP, serve: sink}]}
      agent: {hostNetwork: true, node: b, ports: [9100]}
    services:
      server: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
    externals:
      declared: {addresses: [203.0.113.10], ports: [443]}
      picked: {ports: [443]}
    phases:
      baseline:
        - allow: client -> server:8080
      deny:
        policies:
          - apiVersion: cilium.io/v2
            kind: CiliumNetworkPolicy
            metadata: {name: server}
            spec:
              endpointSelector: {matchLabels: {app: server}}
              ingress: [{fromEndpoints: [{matchLabels: {app: nobody}}]}]
              ingressDeny: [{fromEndpoints: [{matchLabels: {app: client}}]}]
        expect:
          - deny: client -> server:8080
"""


@pytest.fixture
def case(tmp_path: Path) -> Case:
    path = tmp_path / "test_case.yaml"
    path.write_text(textwrap.dedent(CASE))
    return load_cases(path)[0]


@pytest.fixture
def cluster(case: Case) -> MemoryCluster:
    cluster = MemoryCluster()
    cluster.prepare(case)
    return cluster


def probe(address: str, port: int, *, site: Site = Site("pod", "shop/client"), protocol: Protocol = Protocol.TCP, **more) -> Probe:  # noqa: B008 -- a value
    return Probe(1, site, protocol, Family.of(address), address, port, "aa", 1.0, **more)


def send(cluster: MemoryCluster, sent: Probe) -> Observation:
    (seen,) = cluster.probe([sent])
    return seen


def address(case: Case, key: str) -> str:
    return landscape(case).placement.addresses[key][0]


def test_every_part_of_the_case_has_an_address_per_family(case):
    addresses = landscape(case).placement.addresses
    keys = {"pod:shop/client", "pod:shop/agent", "service:shop/server", "node:a", "node:b", "external:picked", "world", "kube-apiserver"}
    assert keys <= set(addresses)
    assert all([Family.of(each) for each in addresses[key]] == list(Family) for key in keys)
    assert addresses["external:declared"] == ("203.0.113.10",)
    assert addresses["pod:shop/agent"] == addresses["node:b"]


def test_no_two_things_share_an_address_but_a_node_and_its_host_network_pods(case):
    addresses = dict(landscape(case).placement.addresses)
    del addresses["pod:shop/agent"]
    every = [address for pair in addresses.values() for address in pair]
    assert len(every) == len(set(every))


def test_without_policy_the_server_answers_and_the_flows_show_it(case, cluster):
    seen = send(cluster, probe(address(case, "pod:shop/server"), 8080))
    assert (seen.result.ending, seen.result.server, seen.result.nonce) == (Ending.ANSWERED, "shop/server", "aa")
    assert [(flow.direction, flow.verdict, flow.event_type) for flow in seen.flows] == [
        (Direction.EGRESS, FlowVerdict.FORWARDED, EventType.TRACE),
        (Direction.INGRESS, FlowVerdict.FORWARDED, EventType.TRACE),
    ]


def test_a_denied_probe_is_dropped_as_cilium_reports_it(case, cluster):
    cluster.wait(cluster.apply(Change(apply=case.phases[1].apply)))
    seen = send(cluster, probe(address(case, "pod:shop/server"), 8080))
    assert seen.result.ending is Ending.STOPPED
    verdict, drop = seen.flows[-2:]
    assert (verdict.event_type, drop.event_type) == (EventType.POLICY_VERDICT, EventType.DROP)
    assert {(flow.direction, flow.drop_reason) for flow in (verdict, drop)} == {(Direction.INGRESS, DropReason.POLICY_DENY)}
    assert verdict.ingress_denied_by == (PolicyRef("CiliumNetworkPolicy", "shop", "server"),)
    assert drop.is_reply is None


def test_nobody_listens_on_an_undeclared_port(case, cluster):
    assert send(cluster, probe(address(case, "pod:shop/server"), 22)).result.ending is Ending.REFUSED


def test_a_service_leads_to_its_backend(case, cluster):
    seen = send(cluster, probe(address(case, "service:shop/server"), 80))
    assert seen.result.server == "shop/server"
    assert seen.flows[0].five_tuple.destination_port == 8080
    assert seen.flows[0].destination_service == "shop/server"


def test_a_sink_sees_the_token_and_says_nothing(case, cluster):
    seen = send(cluster, probe(address(case, "pod:shop/server"), 5353, protocol=Protocol.UDP, serve="sink"))
    assert (seen.result.ending, seen.result.server_saw) == (Ending.TIMEOUT, True)


def test_loopback_meets_no_policy_and_shows_no_flow(case, cluster):
    cluster.apply(Change(apply=case.phases[1].apply))
    own = probe(address(case, "pod:shop/server"), 8080, site=Site("pod", "shop/server"), liveness=True)
    seen = send(cluster, own)
    assert (seen.result.ending, seen.flows) == (Ending.ANSWERED, ())


def test_a_host_network_pod_answers_at_its_nodes_address(case, cluster):
    assert send(cluster, probe(address(case, "node:b"), 9100)).result.server == "shop/agent"
    assert send(cluster, probe(address(case, "node:b"), 9999)).result.server == "node-b"


def test_flows_can_be_switched_off(case):
    cluster = MemoryCluster(flows=False)
    cluster.prepare(case)
    seen = send(cluster, probe(address(case, "pod:shop/server"), 8080))
    assert (seen.flows, seen.flows_on) == ((), False)


def test_the_status_tells_what_a_policy_selects(case, cluster):
    cluster.apply(Change(apply=case.phases[1].apply))
    ref = case.phases[1].apply[0].ref
    status = cluster.status([ref])[ref]
    assert (status.error, status.inert) == (None, "")
    assert status.selects == (str(PodRef("shop", "server")),)


def test_a_released_cluster_has_forgotten_the_case_and_its_policies(case, cluster):
    cluster.apply(Change(apply=case.phases[1].apply))
    cluster.release()
    with pytest.raises(ClusterError, match="no case is prepared"):
        send(cluster, probe("10.0.0.1", 8080))
    cluster.prepare(case)
    assert send(cluster, probe(address(case, "pod:shop/server"), 8080)).result.ending is Ending.ANSWERED
    cluster.close()
    cluster.close()
