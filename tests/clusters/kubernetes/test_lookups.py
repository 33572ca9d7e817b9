"""Lookups by pods of a cluster, answered by its own DNS: what the engine makes of them."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cases.load import load_cases
from harness.clusters.kubernetes import dns_entries, lookups
from harness.clusters.kubernetes.client import Api, addresses
from harness.clusters.kubernetes.cluster import KubernetesCluster, KubernetesOptions
from harness.clusters.kubernetes.externals import Externals, Mapped
from harness.engine.events import CheckFinished, Event
from harness.engine.session import Session
from harness.engine.settings import Settings
from harness.model.probe import Ending, Probe, Site
from harness.model.traffic import Family, Protocol, Request, RequestKind

CONTEXT = os.environ.get("HARNESS_TEST_KUBE_CONTEXT", "")
on_cluster = pytest.mark.skipif(
    not CONTEXT, reason="no cluster: `make test-kubernetes CONTEXT=...` runs these against a kubeconfig context"
)
pytestmark = pytest.mark.xdist_group("kubernetes")
CASE = """
    case: lookups
    namespace: shop
    endpoints:
      client: {node: a, labels: {app: client}}
      far: {node: b, labels: {app: far}}
      server: {labels: {app: server}, ports: [8080, {port: 53, protocol: UDP, serve: dns}]}
    services:
      server: {selector: {app: server}, ports: [8080]}
      headless: {headless: true, selector: {app: server}, ports: [8080]}
    phases:
      baseline:
        - allow: client, far -> kube-dns lookup server.shop.svc.cluster.local
        - allow: client -> kube-dns:53/TCP lookup headless.shop.svc.cluster.local
        - allow: client -> server.shop.svc.cluster.local:8080, headless.shop.svc.cluster.local:8080
        - allow: client -> kube-dns:53/UDP, server:53/UDP
      no DNS:
        policies:
          - apiVersion: cilium.io/v2
            kind: CiliumNetworkPolicy
            metadata: {name: server-only}
            spec: {endpointSelector: {matchLabels: {app: client}}, egress: [{toEndpoints: [{matchLabels: {app: server}}]}]}
        expect:
          - {deny: client -> kube-dns lookup server.shop.svc.cluster.local, reason: default-deny, at: egress}
          - {deny: "client -> kube-dns:53/TCP lookup server.shop.svc.cluster.local", reason: default-deny, at: egress}
          - {deny: "client -> server.shop.svc.cluster.local:8080", reason: default-deny, at: egress}
          - {allow: far -> kube-dns lookup server.shop.svc.cluster.local}
          - {allow: "client -> server:8080", by: server-only}
      and DNS:
        policies:
          - apiVersion: cilium.io/v2
            kind: CiliumNetworkPolicy
            metadata: {name: dns}
            spec:
              endpointSelector: {matchLabels: {app: client}}
              egress:
                - toEndpoints: [{matchLabels: {k8s-app: kube-dns, io.kubernetes.pod.namespace: kube-system}}]
                  toPorts: [{ports: [{port: "53", protocol: ANY}]}]
        expect:
          - {allow: client -> kube-dns lookup server.shop.svc.cluster.local, by: dns}
          - {allow: "client -> server.shop.svc.cluster.local:8080", by: server-only}
"""
NOWHERE = """
    case: no such name
    endpoints: {client: {}}
    phases:
      baseline:
        - allow: client -> kube-dns lookup nothing.harness.invalid
"""
OUTSIDE = """
    case: outside
    endpoints: {client: {}}
    externals:
      stripe: {names: [API.stripe.example, www.stripe.example], ports: [443]}
    phases:
      baseline:
        - allow: client -> api.stripe.example:443
        - allow: client -> stripe:443
"""


def load(tmp_path: Path, text: str):
    path = tmp_path / "test_case.yaml"
    path.write_text(textwrap.dedent(text))
    return load_cases(path)[0]


def run(cluster: KubernetesCluster, case) -> list[tuple[str, str, str]]:
    """Of every check its phase, outcome and reason."""
    events: list[Event] = []
    session = Session(cluster, Settings(), events.append)
    for phase in case.phases:
        session.run_phase(case, phase.name)
    session.close()
    results = [(event.phase, event.result) for event in events if isinstance(event, CheckFinished)]
    assert not any(result.disagreement for _, result in results)
    return [(phase, str(result.judgement.outcome), result.judgement.why) for phase, result in results]


@pytest.fixture(scope="module")
def cluster() -> Iterator[KubernetesCluster]:
    cluster = KubernetesCluster(KubernetesOptions(context=CONTEXT))
    yield cluster
    cluster.close()


@on_cluster
def test_lookups_and_what_they_lead_to_are_judged_as_in_the_lab(cluster, tmp_path):
    found = run(cluster, load(tmp_path, CASE))
    assert [each for each in found if each[1] != "passed"] == []
    assert len(found) == 14


@on_cluster
def test_a_name_that_is_not_there_is_told_as_that(cluster, tmp_path):
    ((_, outcome, why),) = run(cluster, load(tmp_path, NOWHERE))
    assert (outcome, "answered NXDOMAIN: there is no address of nothing.harness.invalid" in why) == ("unknown", True)


@on_cluster
def test_what_is_outside_is_had_only_where_its_names_lead_there(tmp_path):
    externals = Externals("FILE", {"stripe": Mapped(("192.0.2.1",), frozenset({443}))})
    cluster = KubernetesCluster(KubernetesOptions(context=CONTEXT, externals=externals, flows=False))
    try:
        said = cluster.capabilities_for(load(tmp_path, OUTSIDE))
    finally:
        cluster.close()
    assert said.lacking["externals"] == "the cluster's DNS leads from `api.stripe.example` to nothing, not to 192.0.2.1"


API_SERVER = "kubernetes.default.svc.cluster.local"
"""A name that every cluster knows, whatever it is for."""
KNOWN = f"""
    case: a name that the cluster knows
    namespace: shop
    endpoints: {{client: {{}}}}
    externals: {{known: {{names: [{API_SERVER}], ports: [443]}}}}
    phases:
      baseline:
        - allow: client -> kube-dns lookup {API_SERVER}
"""


@on_cluster
def test_a_name_that_leads_elsewhere_than_its_case_says_proves_nothing(tmp_path):
    externals = Externals("FILE", {"known": Mapped(("192.0.2.1",), frozenset({443}))})
    cluster = KubernetesCluster(KubernetesOptions(context=CONTEXT, externals=externals, flows=False))
    try:
        placement = cluster.prepare(load(tmp_path, KNOWN))
        address = next(each for each in placement.addresses["service:kube-system/kube-dns"])
        request = Request(RequestKind.LOOKUP, name=API_SERVER)
        family, site = Family.of(address), Site("pod", "shop/client")
        probe = Probe(1, site, Protocol.UDP, family, address, 53, "abc", 5.0, ("kube-system/coredns",), request, "dns")
        (seen,) = cluster.probe([probe])
    finally:
        cluster.close()
    assert seen.result.ending is Ending.ERROR
    assert seen.result.detail.endswith("by the cluster's DNS, and to 192.0.2.1 in the case")


@on_cluster
def test_what_every_dns_pod_knows_is_not_waited_for():
    api = Api.connect(CONTEXT)
    service = api.core.read_namespaced_service("kubernetes", "default")
    dns_entries.wait_known(api, {API_SERVER: frozenset(addresses(service.spec, "cluster"))}, within=5.0)


def test_only_names_that_are_asked_for_must_lead_somewhere(tmp_path):
    externals = Externals("FILE", {"stripe": Mapped(("192.0.2.1", "2001:db8::1"), frozenset({443}))})
    case = load(tmp_path, OUTSIDE)
    assert externals.lacking(case) == ""
    assert lookups.outside(case, externals) == {"api.stripe.example": frozenset({"192.0.2.1", "2001:db8::1"})}


def test_a_port_that_the_file_lacks_is_lacking_by_name_too(tmp_path):
    externals = Externals("FILE", {"stripe": Mapped(("192.0.2.1",), frozenset({80}))})
    assert "does not say that `stripe` has this port" in externals.lacking(load(tmp_path, OUTSIDE))
