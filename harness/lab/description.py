"""What is in a lab, as JSON values: for `harness lab status`, and for scripts. Pure; how it is printed is the command line's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.cases.case import PortSpec
from harness.lab.places import Places
from harness.model.cluster import Pod, Service
from harness.model.traffic import Protocol


def describe(places: Places) -> Mapping[str, Any]:
    """Pods, services and externals with their addresses."""
    case, placement = places.case, places.placement
    return {
        "case": case.name,
        "file": f"{case.location.file}:{case.location.line}",
        "namespace": case.namespace,
        "pods": [_pod(places, pod) for pod in placement.state.pods],
        "services": [_service(places, service) for service in placement.state.services],
        "externals": [
            {
                "name": external.name,
                "names": list(external.names),
                "addresses": list(placement.addresses.get(f"external:{external.name}", ())),
                "ports": _ports(external.ports),
            }
            for external in case.externals.values()
        ],
    }


def _pod(places: Places, pod: Pod) -> Mapping[str, Any]:
    return {
        "name": str(pod.ref),
        "node": pod.node,
        "addresses": list(places.placement.addresses.get(f"pod:{pod.ref}", ())),
        "labels": dict(pod.labels),
        "ports": [_port(port.port, port.protocol, port.name) for port in pod.ports],
        "hostNetwork": pod.host_network,
    }


def _service(places: Places, service: Service) -> Mapping[str, Any]:
    return {
        "name": f"{service.namespace}/{service.name}",
        "addresses": list(places.placement.addresses.get(f"service:{service.namespace}/{service.name}", ())),
        "ports": [f"{_port(port.port, port.protocol, None)} -> {port.target_port}" for port in service.ports],
        "backends": list(map(str, places.backends(service))),
    }


def _ports(ports: Iterable[PortSpec]) -> list[str]:
    return [_port(port.port, port.protocol, port.name) for port in ports]


def _port(number: int, protocol: Protocol, name: str | None) -> str:
    return (f"{number}" if protocol is Protocol.TCP else f"{number}/{protocol}") + (f" ({name})" if name else "")
