"""The cluster contract against a real API server, where one is given."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Iterator
from itertools import count

import kubernetes
import pytest

from harness.cases.case import Case
from harness.cases.load import load_cases
from harness.clusters.base import Change
from harness.clusters.kubernetes import permissions
from harness.clusters.kubernetes.client import Api
from harness.clusters.kubernetes.cluster import KubernetesCluster, KubernetesOptions
from harness.clusters.kubernetes.exec import run
from harness.clusters.kubernetes.run import CASE_ANNOTATION, RUN_LABEL
from harness.clusters.kubernetes.wishes import PodOptions
from harness.engine.events import Event, PhaseFinished
from harness.engine.outcome import Outcome
from harness.engine.session import Session
from harness.engine.settings import Settings
from harness.errors import ClusterError, ImageUnavailableError
from harness.model.probe import Ending, Probe, Site
from harness.model.traffic import Family, PodRef, Protocol
from harness.model.verdict import PolicyStage

CONTEXT = os.environ.get("HARNESS_TEST_KUBE_CONTEXT", "")
pytestmark = [
    pytest.mark.skipif(not CONTEXT, reason="no cluster: `make test-kubernetes CONTEXT=...` runs these against a kubeconfig context"),
    pytest.mark.xdist_group("kubernetes"),
]
CASE = """
    case: three phases
    namespace: shop
    endpoints:
      client: {node: a, labels: {app: client}}
      server: {labels: {app: server}, ports: [80, {port: 5353, protocol: UDP, serve: sink}]}
    services:
      server: {selector: {app: server}, ports: [{port: 8080, targetPort: 80}]}
    phases:
      baseline:
        - allow: client -> server:80, server:5353/UDP, service/server:8080
        - allow: client -> server icmp
      deny:
        policies:
          - {apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: server}, spec: {endpointSelector: {matchLabels: {app: server}}, ingress: [{}]}}
        expect:
          - {deny: "client -> server:80, server:5353/UDP", reason: default-deny, at: ingress}
      allow:
        policies:
          - apiVersion: cilium.io/v2
            kind: CiliumNetworkPolicy
            metadata: {name: server}
            spec:
              endpointSelector: {matchLabels: {app: server}}
              ingress:
                - fromEndpoints: [{matchLabels: {app: client, io.kubernetes.pod.namespace: shop}}]
                  toPorts: [{ports: [{port: "80"}]}]
        expect:
          - {allow: "client -> server:80", by: server}
          - {deny: "client -> server:5353/UDP"}
      refused:
        policies:
          - {apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: empty}, spec: {endpointSelector: {}, ingress: [], egress: []}}
          - {apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: nonsense}, spec: {endpointSelector: {}, ingress: [{fromCIDR: [everywhere]}]}}
        rejected: [empty, nonsense]
        expect:
          - allow: client -> server:80
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[KubernetesCluster]:
    cluster = KubernetesCluster(KubernetesOptions(context=CONTEXT))
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    path = tmp_path_factory.mktemp("case") / "test_case.yaml"
    path.write_text(textwrap.dedent(CASE))
    return load_cases(path)[0]


def namespaces(cluster: KubernetesCluster) -> list:
    """Those of the run's cases; the one with the run's lease is not among them."""
    core = kubernetes.client.CoreV1Api(Api.connect(CONTEXT).client)
    found = core.list_namespace(label_selector=f"{RUN_LABEL}={cluster.run.id}").items
    return [each for each in found if CASE_ANNOTATION in (each.metadata.annotations or {})]


def test_a_case_runs_phase_by_phase(cluster, case):
    events: list[Event] = []
    session = Session(cluster, Settings(), events.append)
    finished = [session.run_phase(case, phase.name) for phase in case.phases]
    session.close()
    failed = [event for event in events if getattr(event, "result", None) and event.result.judgement.outcome is not Outcome.PASSED]
    assert not failed
    assert [each.outcome for each in finished if isinstance(each, PhaseFinished)] == [Outcome.PASSED] * len(case.phases)
    assert all(each.metadata.deletion_timestamp for each in namespaces(cluster))


def test_policies_are_refused_by_whom_they_are_refused(cluster, case):
    cluster.prepare(case)
    cluster.wait(cluster.apply(Change(apply=case.phases[3].apply)))
    refs = [policy.ref for policy in case.phases[3].apply]
    statuses = cluster.status(refs)
    assert [statuses[ref].error.stage for ref in refs] == [PolicyStage.AGENT, PolicyStage.SCHEMA]
    assert "spec.ingress[0].fromCIDR[0]" in statuses[refs[1]].error.message
    cluster.release()


def test_pods_keep_to_the_restricted_profile_and_carry_no_token(cluster, case):
    placement = cluster.prepare(case)
    (space,) = [each for each in namespaces(cluster) if not each.metadata.deletion_timestamp]
    assert space.metadata.labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = PodRef(space.metadata.name, "client")
    listed = run(Api.connect(CONTEXT), pod, ["ls", "/var/run/secrets"])
    assert listed.exit.code not in {0, None}
    assert placement.addresses["pod:shop/client"]
    cluster.release()


def test_a_probe_from_a_pod_that_is_gone_is_an_error_that_says_so(cluster, case):
    placement = cluster.prepare(case)
    (space,) = [each for each in namespaces(cluster) if not each.metadata.deletion_timestamp]
    kubernetes.client.CoreV1Api(Api.connect(CONTEXT).client).delete_namespaced_pod("client", space.metadata.name, grace_period_seconds=0)
    address = placement.addresses["pod:shop/server"][0]
    began = time.monotonic()
    for number in count(1):  # its object is gone before it is: until then it answers, and rightly
        probe = Probe(number, Site("pod", "shop/client"), Protocol.TCP, Family.of(address), address, 80, "aa", 2.0, ("shop/server",))
        (seen,) = cluster.probe([probe])
        if seen.result.ending is not Ending.ANSWERED or time.monotonic() - began > 30:
            break
    assert seen.result.ending is Ending.ERROR
    assert "shop" in seen.result.detail
    cluster.release()


def test_a_command_that_fails_is_told_by_its_exit_code(cluster, case):
    cluster.prepare(case)
    (space,) = [each for each in namespaces(cluster) if not each.metadata.deletion_timestamp]
    api, pod = Api.connect(CONTEXT), PodRef(space.metadata.name, "client")
    output = run(api, pod, ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (output.exit.code, output.stdout.strip(), output.stderr.strip()) == (3, "out", "err")
    missing = run(api, PodRef(space.metadata.name, "nobody"), ["true"])
    assert (missing.exit.code, missing.exit.opened) == (None, False)
    cluster.release()


def test_clusterwide_policies_are_refused_unless_allowed(cluster, case, tmp_path):
    wide = CASE.replace("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy")
    path = tmp_path / "test_wide.yaml"
    path.write_text(textwrap.dedent(wide))
    cluster.prepare(case)
    with pytest.raises(ClusterError, match="--allow-clusterwide"):
        cluster.apply(Change(apply=load_cases(path)[0].phases[1].apply))
    cluster.release()


def test_an_image_that_cannot_be_pulled_is_told_once_and_nothing_is_left(case):
    cluster = KubernetesCluster(KubernetesOptions(context=CONTEXT, flows=False, pods=PodOptions(image="UPPER/case")))
    for _ in range(2):
        with pytest.raises(ImageUnavailableError, match="cannot get its image UPPER/case: "):
            cluster.prepare(case)
    assert [each.metadata.name for each in namespaces(cluster)] == [f"shop-{cluster.run.suffix(1)}"]
    assert all(each.metadata.deletion_timestamp for each in namespaces(cluster))
    cluster.close()


def test_closing_twice_is_closing_once():
    cluster = KubernetesCluster(KubernetesOptions(context=CONTEXT, flows=False))
    cluster.close()
    cluster.close()
    assert cluster.flows() is None


def test_a_wrong_context_is_told_with_the_right_one():
    with pytest.raises(ClusterError, match="has no context") as raised:
        KubernetesCluster(KubernetesOptions(context=CONTEXT + "x"))
    assert CONTEXT in str(raised.value)


def test_this_user_may_do_what_a_run_does():
    assert permissions.missing(Api.connect(CONTEXT), [*permissions.NEEDED, *permissions.CLUSTERWIDE]) == ()
