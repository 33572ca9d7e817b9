"""Where a case's things are on a cluster: the nodes that its pods may go to, every address, and who is behind each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.cases.case import Case
from harness.clusters.kubernetes.client import Api, addresses, translated
from harness.clusters.kubernetes.nodes import server
from harness.clusters.kubernetes.rename import Renaming
from harness.clusters.kubernetes.wishes import PodOptions
from harness.errors import ClusterError
from harness.model.traffic import Family, PodRef


def nodes_for(api: Api, wishes: PodOptions) -> list[Any]:
    """The nodes that pods may go to, by name. ClusterError where there are none."""
    with translated("cannot list the nodes"):
        nodes = api.core.list_node(_request_timeout=10).items
    ready = [node for node in nodes if _is_ready(node) and _is_wished(node, wishes)]
    if not ready:
        raise ClusterError(
            f"none of the {len(nodes)} nodes is ready for pods", hint="see `kubectl describe nodes`, --toleration and --node-selector"
        )
    return sorted(ready, key=lambda node: str(node.metadata.name))


def _is_ready(node: Any) -> bool:
    return not node.spec.unschedulable and any(each.type == "Ready" and each.status == "True" for each in node.status.conditions or [])


def _is_wished(node: Any, wishes: PodOptions) -> bool:
    taints = (taint for taint in node.spec.taints or [] if taint.effect != "PreferNoSchedule")
    return all((node.metadata.labels or {}).get(key) == value for key, value in wishes.node_selector) and all(
        any(each.covers(taint) for each in wishes.tolerations) for taint in taints
    )


def addresses_of(
    api: Api, case: Case, renaming: Renaming, pods: Mapping[PodRef, Any], nodes: Sequence[Any]
) -> Mapping[str, tuple[str, ...]]:
    """The addresses of the case's pods, of these nodes and of its services, by the keys of `Placement`."""
    out = {f"pod:{ref}": _ordered(each.ip for each in addresses(pod.status, "pod")) for ref, pod in pods.items() if ref.namespace}
    for node in nodes:
        out[f"node:{node.metadata.name}"] = _ordered(each.address for each in node.status.addresses if each.type == "InternalIP")
    for key, spec in case.services.items():
        if not spec.headless:
            with translated(f"cannot read the service {key}"):
                service = api.core.read_namespaced_service(spec.name, renaming.namespace(spec.namespace), _request_timeout=10)
            out[f"service:{key}"] = _ordered(addresses(service.spec, "cluster"))
    return out


def owners(found: Mapping[str, tuple[str, ...]]) -> Mapping[str, frozenset[str]]:
    """The servers that have each address."""
    names: dict[str, set[str]] = {}
    for key, all_ in found.items():
        kind, _, name = key.partition(":")
        if kind in ("pod", "node"):
            for address in all_:
                names.setdefault(address, set()).add(name if kind == "pod" else server(name))
    return {address: frozenset(each) for address, each in names.items()}


def _ordered(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(found, key=lambda address: Family.of(address) is Family.IPV6))
