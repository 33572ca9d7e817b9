"""The cluster's DNS service, which a case has without declaring it where it asks for names. Deterministic; answers nothing itself."""

from __future__ import annotations

from msgspec.structs import replace

from harness.cases.case import Case, PartyKind
from harness.model.cluster import ClusterState, ContainerPort, Pod, Service, ServicePort
from harness.model.traffic import PodRef, Protocol, RequestKind

KUBE_DNS = PodRef("kube-system", "kube-dns")
"""The namespace and name of the service."""
RESOLVER = PodRef(KUBE_DNS.namespace, "coredns")
LABELS = {"k8s-app": KUBE_DNS.name}
PORTS = (ContainerPort(53, Protocol.UDP, "dns"), ContainerPort(53, Protocol.TCP, "dns-tcp"))


def asks_dns(case: Case) -> bool:
    """Whether an expectation of the case asks the cluster's DNS, by itself or for the address of a name."""
    return any(
        target.party.kind is PartyKind.NAME
        or target.party.name == KUBE_DNS.name
        or (expectation.request is not None and expectation.request.kind is RequestKind.LOOKUP)
        for phase in case.phases
        for expectation in phase.expectations
        for target in expectation.targets
    )


def with_resolver(case: Case, state: ClusterState) -> ClusterState:
    """The state with the DNS service and its pod, as kubeadm's clusters have them; as it was where the case needs none."""
    if not asks_dns(case) or any((each.namespace, each.name) == (KUBE_DNS.namespace, KUBE_DNS.name) for each in state.services):
        return state
    pod = Pod(RESOLVER, LABELS, "a", "coredns", PORTS)
    ports = tuple(ServicePort(each.port, each.name or each.port, each.protocol, each.name) for each in PORTS)
    service = Service(KUBE_DNS.namespace, KUBE_DNS.name, LABELS, ports, LABELS)
    namespaces = {KUBE_DNS.namespace: {"kubernetes.io/metadata.name": KUBE_DNS.namespace}, **state.namespaces}
    return replace(state, namespaces=namespaces, pods=(*state.pods, pod), services=(*state.services, service))
