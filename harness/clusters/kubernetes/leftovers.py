"""What runs have made and what of it is still there, found by the run's label alone; and its removal. Used by the last process of a run for
that run, and by `harness sweep` for those that were killed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from kubernetes.client.exceptions import ApiException
from msgspec import Struct

from harness.clusters.kubernetes import dns_entries
from harness.clusters.kubernetes.client import API_ERRORS, Api, failure, said
from harness.clusters.kubernetes.run import CASE_ANNOTATION, RUN_LABEL
from harness.errors import ClusterError

_NOT_FOUND = 404
_GONE = frozenset({_NOT_FOUND, 409})
"""409: a namespace that is going already."""


class Kind(Struct, frozen=True):
    """A kind of objects that are in no namespace, as the API serves it."""

    name: str
    group: str
    version: str
    plural: str


NAMESPACE = Kind("Namespace", "", "v1", "namespaces")
DNS_NAMES = Kind("names in ConfigMap", "", "v1", "configmaps")
"""Not objects: lines of the configuration of a cluster of the harness's own."""
CLUSTERWIDE = (
    Kind("CiliumClusterwideNetworkPolicy", "cilium.io", "v2", "ciliumclusterwidenetworkpolicies"),
    Kind("CiliumCIDRGroup", "cilium.io", "v2", "ciliumcidrgroups"),
    Kind("CiliumCIDRGroup", "cilium.io", "v2alpha1", "ciliumcidrgroups"),
)
"""What no namespace takes along when it goes. Of a kind with several versions the first that the cluster serves counts."""


class Leftover(Struct, frozen=True):
    """One object of a run; what is inside a namespace goes with it. `going`: its deletion has been asked for already."""

    kind: Kind
    name: str
    run: str
    created: datetime
    case: str = ""
    going: bool = False

    def __str__(self) -> str:
        return f"{self.kind.name} {self.name}"


class Found(Struct, frozen=True):
    """`unseen` says of which kinds nothing can be known, and why."""

    leftovers: tuple[Leftover, ...]
    unseen: tuple[str, ...] = ()


def find(api: Api, run: str = "") -> Found:
    """Everything of one run, or of all. ClusterError where not even the namespaces may be listed."""
    selector = f"{RUN_LABEL}={run}" if run else RUN_LABEL
    try:
        namespaces = api.client.sanitize_for_serialization(api.core.list_namespace(label_selector=selector, _request_timeout=30))
    except API_ERRORS as error:
        raise failure("cannot list the namespaces of runs", error) from None
    leftovers = [_leftover(NAMESPACE, each["metadata"]) for each in namespaces["items"]]
    unseen: list[str] = []
    done: set[str] = set()
    for kind in CLUSTERWIDE:
        if kind.name in done:
            continue
        try:
            listed = api.objects.list_cluster_custom_object(
                kind.group, kind.version, kind.plural, label_selector=selector, _request_timeout=30
            )
        except API_ERRORS as error:
            if isinstance(error, ApiException) and error.status == _NOT_FOUND:
                continue  # this cluster does not serve it
            unseen.append(f"{kind.name}: {said(error)}")
        else:
            leftovers += [_leftover(kind, each["metadata"]) for each in listed["items"]]
        done.add(kind.name)
    return Found((*leftovers, *_names(api, run)), tuple(unseen))


def _names(api: Api, run: str) -> list[Leftover]:
    """Names that the cluster's DNS was told, as if each run had an object of its own there."""
    try:
        found = dns_entries.find(api, dns_entries.COREDNS)
    except API_ERRORS as error:
        raise failure("cannot read the configuration of the cluster's DNS", error) from None
    since: dict[str, int] = {}
    for entry in found:
        for each in entry.runs:
            since[each] = min(entry.since, since.get(each, entry.since))
    name, namespace = dns_entries.COREDNS
    return [
        Leftover(DNS_NAMES, f"{namespace}/{name} for run {each}", each, datetime.fromtimestamp(since[each], UTC))
        for each in sorted(since)
        if run in ("", each)
    ]


def _leftover(kind: Kind, metadata: Mapping[str, Any]) -> Leftover:
    return Leftover(
        kind=kind,
        name=metadata["name"],
        run=metadata["labels"][RUN_LABEL],
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        case=(metadata.get("annotations") or {}).get(CASE_ANNOTATION, ""),
        going="deletionTimestamp" in metadata,
    )


def remove(api: Api, leftovers: Iterable[Leftover]) -> None:
    """Ask for their deletion; clusterwide objects first, since those reach beyond the namespaces. ClusterError names those that were
    refused, after the others."""
    refused = []
    asked = tuple(leftovers)
    if runs := [each.run for each in asked if each.kind == DNS_NAMES]:
        try:
            dns_entries.forget(api, runs, dns_entries.COREDNS)
        except ClusterError as error:
            refused.append(error.message)
    for each in sorted(asked, key=lambda each: (each.kind == NAMESPACE, each.name)):
        if each.going or each.kind == DNS_NAMES:
            continue
        try:
            _delete(api, each)
        except API_ERRORS as error:
            if not (isinstance(error, ApiException) and error.status in _GONE):
                refused.append(f"{each}: {said(error)}")
    if refused:
        raise ClusterError("cannot delete " + "; ".join(refused), hint="docs/rbac/ has the roles that this needs")


def _delete(api: Api, leftover: Leftover) -> None:
    if leftover.kind == NAMESPACE:
        api.core.delete_namespace(leftover.name, propagation_policy="Background", _request_timeout=30)
    else:
        kind = leftover.kind
        api.objects.delete_cluster_custom_object(kind.group, kind.version, kind.plural, leftover.name, _request_timeout=30)
