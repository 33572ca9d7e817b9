"""What the cluster's resolver knows: services and pods by their cluster names, and what is outside by its own. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from harness.clusters.netns.dns.message import Answer, Zone
from harness.model.cluster import ClusterState

DOMAIN = "cluster.local"
_TTL = 30
"""Seconds, as CoreDNS answers by default; an external may say otherwise."""


def zone(state: ClusterState, addresses: Mapping[str, tuple[str, ...]]) -> Zone:
    """The names of a case. `addresses` has the keys of `Placement.addresses`. A headless service is its pods."""
    names = _names(state, addresses)
    namespaces = {*state.namespaces, *(pod.ref.namespace for pod in state.pods)}

    def answer(name: str) -> Answer | None:
        return names.get(name) or _pod(name, namespaces)

    return answer


def _pod(name: str, namespaces: set[str]) -> Answer | None:
    """`10-0-0-1.NAMESPACE.pod.cluster.local` is that address, whoever has it: `pods insecure`, as kubeadm configures CoreDNS."""
    dashed, _, rest = name.partition(".")
    namespace, _, domain = rest.partition(".")
    if domain != f"pod.{DOMAIN}" or namespace not in namespaces:
        return None
    four = dashed.count("-") == 3 and "--" not in dashed
    try:
        address = ip_address(dashed.replace("-", "." if four else ":"))
    except ValueError:
        return None
    return Answer((str(address),), _TTL)


def _names(state: ClusterState, addresses: Mapping[str, tuple[str, ...]]) -> Mapping[str, Answer]:
    names: dict[str, dict[str, None]] = {}
    lasting: dict[str, int] = {}
    for host in state.externals:
        for name in host.names:
            names.setdefault(name.rstrip(".").lower(), {})[host.address] = None
            if host.ttl is not None:
                lasting[name.rstrip(".").lower()] = host.ttl
    for service in state.services:
        own = names.setdefault(f"{service.name}.{service.namespace}.svc.{DOMAIN}", {})
        if not service.headless:
            own.update(dict.fromkeys(addresses.get(f"service:{service.namespace}/{service.name}", ())))
            continue
        for pod in state.pods:
            if service.selector and pod.ref.namespace == service.namespace and service.selector.items() <= pod.labels.items():
                own.update(dict.fromkeys(addresses.get(f"pod:{pod.ref}", ())))
    return {name: Answer(tuple(own), lasting.get(name, _TTL)) for name, own in names.items()}
