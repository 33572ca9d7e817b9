"""What the cluster's resolver knows: services by their cluster names, and what is outside by its own. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from harness.clusters.netns.dns.message import Answer
from harness.model.cluster import ClusterState

DOMAIN = "cluster.local"
_TTL = 30
"""Seconds, as CoreDNS answers by default."""


def zone(state: ClusterState, addresses: Mapping[str, tuple[str, ...]]) -> Mapping[str, Answer]:
    """The names of a case. `addresses` has the keys of `Placement.addresses`. A headless service is its pods."""
    names: dict[str, dict[str, None]] = {}
    for host in state.externals:
        for name in host.names:
            names.setdefault(name.rstrip(".").lower(), {})[host.address] = None
    for service in state.services:
        own = names.setdefault(f"{service.name}.{service.namespace}.svc.{DOMAIN}", {})
        if not service.headless:
            own.update(dict.fromkeys(addresses.get(f"service:{service.namespace}/{service.name}", ())))
            continue
        for pod in state.pods:
            if service.selector and pod.ref.namespace == service.namespace and service.selector.items() <= pod.labels.items():
                own.update(dict.fromkeys(addresses.get(f"pod:{pod.ref}", ())))
    return {name: Answer(tuple(own), _TTL) for name, own in names.items()}
