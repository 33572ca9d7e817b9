"""Ordinary manifests become a case. Pure."""

from __future__ import annotations

import pytest

from harness.cases.case import Case, PortSpec
from harness.cases.document import parse_documents
from harness.cases.source import Source
from harness.errors import HarnessError, PolicyFileError, UsageError
from harness.lab.manifests import PHASE, read_manifests
from harness.model.traffic import Protocol


def pod(name: str, namespace: str = "default", **spec: object) -> str:
    return f"{{kind: Pod, metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}, spec: {spec or '{}'}}}"


def read(*documents: str) -> tuple[Case, tuple[str, ...]]:
    text = "\n---\n".join(documents)
    return read_manifests(parse_documents(Source("m.yaml", text, error=PolicyFileError)), "default")


def test_workloads_of_one_name_keep_their_namespaces() -> None:
    case, _ = read(pod("web", "shop"), pod("web", "dev"), pod("client"))
    assert list(case.endpoints) == ["shop/web", "dev/web", "client"]
    assert case.endpoints["dev/web"].namespace == "dev"
    assert case.namespaces["dev"] == {"kubernetes.io/metadata.name": "dev"}


def test_ports_that_stand_twice_are_one() -> None:
    ports = [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "UDP", "name": "again"}, {"containerPort": 53}]
    case, _ = read(pod("dns", containers=[{"name": "a", "ports": ports}]))
    assert case.endpoints["dns"].ports == (PortSpec(53, Protocol.UDP), PortSpec(53))


def test_nodes_get_the_labs_names_and_pods_without_one_are_spread() -> None:
    case, _ = read(pod("p", nodeName="worker-2"), pod("q", nodeName="worker-1"), pod("r"))
    assert {name: each.node for name, each in case.endpoints.items()} == {"p": "b", "q": "a", "r": None}
    with pytest.raises(UsageError, match="10 nodes"):
        read(*(pod(f"p{number}", nodeName=f"worker-{number}") for number in range(10)))


def test_policies_are_the_one_phase_and_need_what_they_need() -> None:
    policy = """{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: p}, spec: {endpointSelector: {},
      egress: [{toFQDNs: [{matchName: a.example}]}]}}"""
    case, _ = read(f"{{kind: List, items: [{pod('web')}, {policy}]}}")
    (phase,) = case.phases
    assert phase.name == PHASE
    assert [str(each.ref) for each in phase.policies] == ["CiliumNetworkPolicy/default/p"]
    assert "fqdn" in phase.requires.features


def test_what_is_left_out_is_told() -> None:
    selectorless = "{kind: Service, metadata: {name: out}, spec: {ports: [{port: 80}]}}"
    _, notes = read(pod("web"), selectorless, "{kind: ConfigMap, metadata: {name: a}}", "{kind: ConfigMap, metadata: {name: b}}")
    assert notes == ("left out, for it selects no pods: Service default/out", "left out, for it has no part in policy: ConfigMap (2)")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{kind: ConfigMap, metadata: {name: a}}", "no workload to bring up"),
        ("{metadata: {name: a}}", "m.yaml:1:1: a Kubernetes object needs `kind`"),
        ("[1]", "m.yaml:1:1: expected a Kubernetes object"),
        ("{kind: Deployment, metadata: {name: a}}", "have no labels"),
    ],
)
def test_what_is_no_lab_is_an_error(document: str, said: str) -> None:
    with pytest.raises(HarnessError) as caught:
        read(document)
    assert said in str(caught.value)
