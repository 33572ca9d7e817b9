"""Ordinary manifests as a cluster's state: what each kind contributes, and the place that every mistake names."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import Location, PolicyFileError
from harness.model.cluster import ContainerPort
from harness.model.traffic import PodRef, Protocol, Traffic
from harness.model.verdict import Verdict
from harness.policy.evaluate import Evaluator
from harness.policy.repository import Repository
from harness.policy.workloads import Manifest, read_workloads

TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"app": "web"}},
    "spec": {
        "serviceAccountName": "robot",
        "containers": [{"ports": [{"containerPort": 8080, "name": "http"}]}],
        "initContainers": [
            {"restartPolicy": "Always", "ports": [{"containerPort": 53, "protocol": "UDP"}]},
            {"ports": [{"containerPort": 9}]},
        ],
    },
}


def manifest(kind: str, line: int = 1, name: str = "web", namespace: str | None = "shop", **rest: Any) -> Manifest:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {}) | rest.pop("metadata", {})
    return Manifest({"kind": kind, "metadata": metadata, **rest}, Location("w.yaml", line, 1))


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob", "Pod"])
def test_every_kind_of_workload_is_one_pod_of_its_template(kind: str) -> None:
    if kind == "Pod":
        given = manifest(kind, 7, metadata=TEMPLATE["metadata"], spec=TEMPLATE["spec"])
    elif kind == "CronJob":
        given = manifest(kind, 7, spec={"jobTemplate": {"spec": {"template": TEMPLATE}}})
    else:
        given = manifest(kind, 7, spec={"template": TEMPLATE})
    read = read_workloads([given])
    (pod,) = read.state.pods
    assert pod.ref == PodRef("shop", "web")
    assert pod.labels["app"] == "web"
    assert pod.labels.get("job-name") == ("web" if kind == "Job" else None)
    assert pod.service_account == "robot"
    assert pod.ports == (ContainerPort(8080, Protocol.TCP, "http"), ContainerPort(53, Protocol.UDP))
    assert read.locations == {pod.ref: Location("w.yaml", 7, 1)}
    assert read.state.namespaces == {"shop": {}}


def test_a_pod_or_a_job_needs_no_labels_and_is_selected_by_what_selects_all() -> None:
    job = manifest("CronJob", name="backup", spec={"jobTemplate": {"spec": {"template": {"spec": {"serviceAccount": "robot"}}}}})
    state = read_workloads([manifest("Pod", name="bare"), job]).state
    assert {pod.ref.name: (dict(pod.labels), pod.service_account) for pod in state.pods} == {
        "bare": ({}, "default"),
        "backup": ({}, "robot"),
    }
    closed = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "closed", "namespace": "shop"},
        "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}]}]},
    }
    evaluator = Evaluator(state, Repository.empty().change(apply=[closed]))
    backup, bare = PodRef("shop", "backup"), PodRef("shop", "bare")
    assert evaluator.verdict(Traffic(backup, bare, Protocol.TCP, 80)).verdict is Verdict.DENY


def test_a_policy_that_names_a_port_and_a_namespace_label_decides_over_manifests() -> None:
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {
            "podSelector": {},
            "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "x"}}}], "ports": [{"port": "http"}]}],
        },
    }
    state = read_workloads([
        manifest("Namespace", name="ops", namespace=None, metadata={"labels": {"team": "x"}}),
        manifest("Deployment", spec={"template": TEMPLATE}),
        manifest("Deployment", name="in", namespace="ops", spec={"template": TEMPLATE}),
        manifest("Deployment", name="out", namespace=None, spec={"template": TEMPLATE}),
    ]).state
    evaluator = Evaluator(state, Repository.empty().change(apply=[policy]))

    def asked(source: PodRef, port: int) -> Verdict:
        return evaluator.verdict(Traffic(source, PodRef("shop", "web"), Protocol.TCP, port)).verdict

    assert asked(PodRef("ops", "in"), 8080) is Verdict.ALLOW
    assert asked(PodRef("ops", "in"), 8081) is Verdict.DENY
    assert asked(PodRef("default", "out"), 8080) is Verdict.DENY


def test_services_and_cidr_groups_are_read() -> None:
    service = manifest(
        "Service", spec={"selector": {"app": "web"}, "clusterIP": "None", "ports": [{"port": 80, "targetPort": "http"}, {"port": 81}]}
    )
    group = manifest("CiliumCIDRGroup", name="office", namespace=None, spec={"externalCIDRs": ["192.0.2.0/24"]})
    state = read_workloads([service, group]).state
    assert [(each.port, each.target_port) for each in state.services[0].ports] == [(80, "http"), (81, 81)]
    assert state.services[0].headless
    assert state.cidr_groups[0].cidrs == ("192.0.2.0/24",)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (manifest("ConfigMap", 4), "unknown kind 'ConfigMap'"),
        (manifest("Deployment", 4, spec={"template": {"spec": {}}}), "the pods of Deployment shop/web have no labels"),
        (manifest("Pod", 4, metadata={"labels": {"app": 1}}), "label `app` must be a text"),
        (manifest("Pod", 4, metadata={"labels": {"a": "b"}}, spec={"containers": {}}), "`containers` must be a list"),
        (manifest("Deployment", 4, spec=[1]), "`spec` must be a mapping"),
        (manifest("Service", 4, spec={"ports": [{"port": 70000}]}), "`port` must be a port number"),
        (manifest("Service", 4, spec={"ports": [{"port": 7, "protocol": "tcp"}]}), "`protocol` must be one of"),
        (manifest("CiliumCIDRGroup", 4, spec={"externalCIDRs": ["x"]}), "`x` is no CIDR"),
        (Manifest({"kind": "Pod", "metadata": {}}, Location("w.yaml", 4, 1)), "needs `metadata.name`"),
    ],
)
def test_a_mistake_is_told_with_its_place(wrong: Manifest, says: str) -> None:
    with pytest.raises(PolicyFileError) as caught:
        read_workloads([wrong])
    assert says in caught.value.message
    assert str(caught.value).startswith("w.yaml:4:1: ")


def test_two_workloads_of_one_name_are_refused_with_both_places() -> None:
    two = [manifest(kind, line, spec={"template": TEMPLATE}) for kind, line in (("Deployment", 3), ("Job", 9))]
    with pytest.raises(PolicyFileError, match=r"w\.yaml:9:1: there are two workloads shop/web: the other is at w\.yaml:3:1"):
        read_workloads(two)


@pytest.mark.parametrize("name", [True, 1])
def test_a_name_that_yaml_takes_for_something_else_is_to_be_quoted(name: object) -> None:
    with pytest.raises(PolicyFileError, match="quote what is written"):
        read_workloads([Manifest({"kind": "Pod", "metadata": {"name": name, "namespace": "shop"}}, Location("w.yaml", 1, 1))])
