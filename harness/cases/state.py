"""Where a case's pods go, and the case as the policy model sees a cluster. Deterministic: equal cases give equal answers."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from harness.cases.case import Case, EndpointSpec
from harness.model.cluster import ClusterState, ContainerPort, ExternalHost, Pod, Service, ServicePort
from harness.model.traffic import Family, PodRef, Protocol

_NODES = ("a", "b")
_PICKED = {Family.IPV4: ipaddress.ip_network("198.51.100.0/24"), Family.IPV6: ipaddress.ip_network("2001:db8:51::/64")}
"""Documentation prefixes (RFC 5737, RFC 3849) from which externals without an address get one."""


def spread(case: Case) -> Mapping[PodRef, str]:
    """The abstract node of every pod: as pinned, else in turns over a and b. Host pods avoid a node where their port is taken."""
    nodes: dict[PodRef, str] = {}
    taken: set[tuple[str, int, Protocol]] = set()
    turn = 0
    for endpoint in sorted(case.endpoints.values(), key=lambda each: each.node is None):
        for pod in endpoint.pods():
            node = endpoint.node
            if node is None:
                node = _free(endpoint, turn, taken)
                turn += 1
            nodes[pod] = node
            if endpoint.host_network:
                taken.update((node, port.port, port.protocol) for port in endpoint.ports)
    return {pod: nodes[pod] for endpoint in case.endpoints.values() for pod in endpoint.pods()}


def _free(endpoint: EndpointSpec, turn: int, taken: set[tuple[str, int, Protocol]]) -> str:
    first = _NODES[turn % len(_NODES)]
    if endpoint.host_network:
        for node in (first, *_NODES):
            if not any((node, port.port, port.protocol) in taken for port in endpoint.ports):
                return node
    return first


def external_addresses(case: Case) -> Mapping[str, tuple[str, ...]]:
    """The addresses of every external, IPv4 first: as declared; one per family, picked by order, where none is."""
    declared = {address for external in case.externals.values() for address in external.addresses}
    picks = {family: (str(each) for each in network.hosts() if str(each) not in declared) for family, network in _PICKED.items()}
    return {name: external.addresses or (next(picks[Family.IPV4]), next(picks[Family.IPV6])) for name, external in case.externals.items()}


def cluster_state(case: Case, nodes: Mapping[str, str] | None = None) -> ClusterState:
    """The case as a cluster's state. `nodes` gives a cluster's own names for the abstract nodes a, b, ...; else they are the names."""
    placed = {pod: (nodes or {}).get(node, node) for pod, node in spread(case).items()}
    return ClusterState(
        namespaces=case.namespaces,
        pods=tuple(_pod(endpoint, pod, placed[pod]) for endpoint in case.endpoints.values() for pod in endpoint.pods()),
        externals=tuple(
            ExternalHost(name, address, case.externals[name].names, ttl=case.externals[name].ttl)
            for name, addresses in external_addresses(case).items()
            for address in addresses
        ),
        services=tuple(
            Service(
                namespace=service.namespace,
                name=service.name,
                selector=service.selector,
                ports=tuple(ServicePort(each.port, each.target_port, each.protocol, each.name) for each in service.ports),
                headless=service.headless,
                type=service.type,
            )
            for service in case.services.values()
        ),
        cidr_groups=case.cidr_groups,
        nodes={(nodes or {}).get(node, node): case.nodes.get(node, {}) for node in sorted({*_NODES, *case.nodes, *spread(case).values()})},
    )


def _pod(endpoint: EndpointSpec, ref: PodRef, node: str) -> Pod:
    return Pod(
        ref=ref,
        labels=endpoint.labels,
        node=node,
        service_account=endpoint.service_account,
        ports=tuple(ContainerPort(each.port, each.protocol, each.name) for each in endpoint.ports),
        host_network=endpoint.host_network,
    )
