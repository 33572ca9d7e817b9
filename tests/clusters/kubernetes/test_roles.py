"""The roles of docs/rbac suffice: a service account that has them, and nothing else, runs cases on a real cluster."""

from __future__ import annotations

import base64
import os
import secrets
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import kubernetes
import pytest
import yaml

from harness.cases.load import load_cases
from harness.clusters.kubernetes.client import Api
from harness.clusters.kubernetes.cluster import KubernetesCluster, KubernetesOptions
from harness.engine.events import Event
from harness.engine.outcome import Outcome
from harness.engine.session import Session
from harness.engine.settings import Settings
from harness.errors import ClusterError, FlowsUnavailableError

CONTEXT = os.environ.get("HARNESS_TEST_KUBE_CONTEXT", "")
pytestmark = [
    pytest.mark.skipif(not CONTEXT, reason="no cluster: `make test-kubernetes CONTEXT=...` runs these against a kubeconfig context"),
    pytest.mark.xdist_group("kubernetes"),
]
ROLES = Path(__file__).parents[3] / "docs" / "rbac"
CASE = """
    case: what a role must allow
    namespace: shop
    endpoints:
      client: {labels: {app: client}}
      server: {labels: {app: server}, ports: [8080]}
    services:
      server: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
    phases:
      baseline: [{allow: 'client -> server:8080, service/server:80'}]
      deny:
        policies:
          - {apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: server}, spec: {endpointSelector: {matchLabels: {app: server}}, ingress: [{}]}}
        expect: [{deny: 'client -> server:8080', reason: default-deny, at: ingress}]
      allow:
        policies:
          - {apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: server}, spec: {endpointSelector: {matchLabels: {app: server}}, ingress: [{fromEndpoints: [{}]}]}}
          - {apiVersion: cilium.io/v2, kind: CiliumCIDRGroup, metadata: {name: offices}, spec: {externalCIDRs: [203.0.113.0/24]}}
        expect: [{allow: 'client -> server:8080', by: server}]
      wide:
        remove: [server]
        policies:
          - {apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {name: wide}, spec: {endpointSelector: {matchLabels: {app: server}}, ingress: [{}]}}
        expect: [{deny: 'client -> server:8080', at: ingress}]
"""


@pytest.fixture
def limited(tmp_path, monkeypatch) -> Iterator[Callable[..., str]]:
    """Makes the context of a service account that has these roles of docs/rbac, in a kubeconfig of its own; returns the context's name."""
    api = Api.connect(CONTEXT)
    core, rbac = kubernetes.client.CoreV1Api(api.client), kubernetes.client.RbacAuthorizationV1Api(api.client)
    name = f"harness-test-{secrets.token_hex(4)}"
    made: list[str] = []

    def limited_to(*files: str) -> str:
        for file in files:
            role = yaml.safe_load((ROLES / file).read_text())
            made.append(f"{name}-{len(made)}")
            rbac.create_cluster_role({**role, "metadata": {"name": made[-1]}})
            subject = {"kind": "ServiceAccount", "name": name, "namespace": name}
            reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": made[-1]}
            rbac.create_cluster_role_binding({"metadata": {"name": made[-1]}, "subjects": [subject], "roleRef": reference})
        token = core.create_namespaced_service_account_token(name, name, {"spec": {"expirationSeconds": 3600}}).status.token
        configuration = api.client.configuration
        authority = base64.b64encode(Path(configuration.ssl_ca_cert).read_bytes()).decode()
        written = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "limited",
            "clusters": [{"name": "c", "cluster": {"server": configuration.host, "certificate-authority-data": authority}}],
            "users": [{"name": "limited", "user": {"token": token}}],
            "contexts": [{"name": "limited", "context": {"cluster": "c", "user": "limited"}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(written))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        return "limited"

    core.create_namespace({"metadata": {"name": name}})
    core.create_namespaced_service_account(name, {"metadata": {"name": name}})
    yield limited_to
    for each in made:
        rbac.delete_cluster_role_binding(each)
        rbac.delete_cluster_role(each)
    core.delete_namespace(name)


def test_with_all_of_them_a_case_runs_with_flows_and_clusterwide_policies(limited, tmp_path):
    context = limited("run.yaml", "observe.yaml", "clusterwide.yaml")
    path = tmp_path / "test_case.yaml"
    path.write_text(textwrap.dedent(CASE))
    (case,) = load_cases(path)
    cluster = KubernetesCluster(KubernetesOptions(context=context, require_flows=True, allow_clusterwide=True))
    events: list[Event] = []
    try:
        session = Session(cluster, Settings(), events.append)
        outcomes = [session.run_phase(case, phase.name).outcome for phase in case.phases]
        session.close()
    finally:
        cluster.close()
    assert outcomes == [Outcome.PASSED] * 4
    assert not cluster.notes
    how = {event.how for event in events if hasattr(event, "how")}
    assert any("realized policy revision" in each for each in how)


def test_without_the_role_to_observe_there_are_no_flows_and_that_is_said(limited):
    context = limited("run.yaml")
    with pytest.raises(FlowsUnavailableError, match="cannot look for Hubble Relay") as raised:
        KubernetesCluster(KubernetesOptions(context=context, require_flows=True))
    assert "docs/rbac/" in str(raised.value)


def test_without_the_role_for_clusterwide_policies_what_is_missing_is_named(limited):
    context = limited("run.yaml", "observe.yaml")
    with pytest.raises(ClusterError, match=r"may not: create ciliumclusterwidenetworkpolicies\.cilium\.io"):
        KubernetesCluster(KubernetesOptions(context=context, allow_clusterwide=True))
