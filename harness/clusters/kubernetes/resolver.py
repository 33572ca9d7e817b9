"""The cluster's own DNS, which cases call `kube-dns`: its service and pods as a case's placement and the policy model have them, and what it
answers when it is asked over a port-forward. Not the lookups of probes: those the pods send."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from dnslib import QTYPE, RCODE, DNSError, DNSRecord
from kubernetes.client.exceptions import ApiException
from msgspec import Struct
from msgspec.structs import replace

from harness.cases.resolver import KUBE_DNS, LABELS, PORTS
from harness.clusters.kubernetes.client import API_ERRORS, Api, addresses, translated
from harness.clusters.kubernetes.relay import Forward
from harness.errors import ClusterError
from harness.model.cluster import ClusterState, Pod, Service, ServicePort
from harness.model.traffic import Family, PodRef

SELECTOR = ",".join(f"{key}={value}" for key, value in LABELS.items())
_METADATA_NAME = "kubernetes.io/metadata.name"
_NOT_FOUND = 404
_PORT = 53
_WITHIN = 5.0


class Resolver(Struct, frozen=True):
    """Whoever has the DNS service's address; `pods` are those that are ready, by the API."""

    service: Any
    pods: tuple[Any, ...]
    labels: Mapping[str, str]
    """Of their namespace."""

    @classmethod
    def find(cls, api: Api) -> Resolver | None:
        """The service kube-system/kube-dns, or the one there with its label; None where there is neither. ClusterError where nobody may look."""
        with translated("cannot look for the cluster's DNS service"):
            service = _service(api)
            if service is None:
                return None
            selector = ",".join(f"{key}={value}" for key, value in (service.spec.selector or LABELS).items())
            pods = api.core.list_namespaced_pod(KUBE_DNS.namespace, label_selector=selector, _request_timeout=10).items
            spaces = api.core.list_namespace(field_selector=f"metadata.name={KUBE_DNS.namespace}", _request_timeout=10).items
        labels = {
            _METADATA_NAME: KUBE_DNS.namespace,
            **{key: value for each in spaces for key, value in (each.metadata.labels or {}).items()},
        }
        return cls(service, tuple(each for each in pods if _is_ready(each)), labels)

    def addresses(self) -> Mapping[str, tuple[str, ...]]:
        """By the keys of `Placement`."""
        found = {f"service:{KUBE_DNS}": _ordered(addresses(self.service.spec, "cluster"))}
        return {**found, **{f"pod:{_ref(pod)}": _ordered(each.ip for each in addresses(pod.status, "pod")) for pod in self.pods}}

    def beside(self, state: ClusterState) -> ClusterState:
        """The state with the DNS service and its pods."""
        pods = (
            Pod(
                _ref(each),
                each.metadata.labels or {},
                each.spec.node_name,
                each.spec.service_account_name,
                PORTS,
                host_network=bool(each.spec.host_network),
            )
            for each in self.pods
        )
        ports = tuple(ServicePort(each.port, each.name or each.port, each.protocol, each.name) for each in PORTS)
        service = Service(
            KUBE_DNS.namespace, KUBE_DNS.name, self.service.spec.selector or LABELS, ports, self.service.metadata.labels or {}
        )
        return replace(
            state,
            namespaces={KUBE_DNS.namespace: self.labels, **state.namespaces},
            pods=(*state.pods, *pods),
            services=(*state.services, service),
        )

    def ask(self, api: Api, names: Sequence[str], family: Family) -> Mapping[str, tuple[frozenset[str], ...]]:
        """What each of its pods answers to each name now, pod by pod; nothing for a name that it does not know. ClusterError where one cannot
        be asked."""
        said = [_ask(api, _ref(pod), names, family) for pod in self.pods]
        return {name: tuple(each[name] for each in said) for name in names}


def _service(api: Api) -> Any:
    try:
        return api.core.read_namespaced_service(KUBE_DNS.name, KUBE_DNS.namespace, _request_timeout=10)
    except ApiException as error:
        if error.status != _NOT_FOUND:
            raise
    try:
        found = api.core.list_namespaced_service(KUBE_DNS.namespace, label_selector=SELECTOR, _request_timeout=10).items
    except API_ERRORS:
        return None  # docs/rbac/observe.yaml grants it; without, only the usual name is known
    return found[0] if found else None


def _is_ready(pod: Any) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions or [])


def _ref(pod: Any) -> PodRef:
    return PodRef(pod.metadata.namespace, pod.metadata.name)


def _ordered(found: Any) -> tuple[str, ...]:
    return tuple(sorted(found, key=lambda address: Family.of(address) is Family.IPV6))


def _ask(api: Api, pod: PodRef, names: Sequence[str], family: Family) -> Mapping[str, frozenset[str]]:
    """Over one connection, one question after the other: a port-forward carries TCP only."""
    kind = "A" if family is Family.IPV4 else "AAAA"
    forward = Forward(api, pod.namespace, pod.name, _PORT)
    try:
        host, port = forward.address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=_WITHIN) as sock, sock.makefile("rb") as stream:
            out = {}
            for name in names:
                asked = DNSRecord.question(name, kind).pack()
                sock.sendall(len(asked).to_bytes(2, "big") + asked)
                out[name] = _heard(stream.read(int.from_bytes(stream.read(2), "big")), kind)
            return out
    except (OSError, DNSError, ValueError) as error:
        raise ClusterError(f"the DNS pod {pod} does not answer over a port-forward: {error or type(error).__name__}") from None
    finally:
        forward.close()


def _heard(data: bytes, kind: str) -> frozenset[str]:
    if not data:
        raise ClusterError("the connection ended without an answer")
    record = DNSRecord.parse(data)
    if record.header.rcode != RCODE.NOERROR:
        return frozenset()
    return frozenset(str(each.rdata) for each in record.rr if each.rtype == getattr(QTYPE, kind))
