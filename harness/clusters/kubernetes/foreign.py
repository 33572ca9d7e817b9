"""Policies that are on the cluster already and may select the test pods too: then a case does not test its own policies alone. Reading
selectors is pure; listing the policies is `foreign`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.clusters.kubernetes.client import API_ERRORS, Api, said
from harness.clusters.kubernetes.rename import METADATA_NAME
from harness.clusters.kubernetes.run import RUN_LABEL
from harness.model.labels import NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX

_CLUSTERWIDE = "ciliumclusterwidenetworkpolicies"
_NAMED = frozenset({NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX + METADATA_NAME})
"""Labels whose value is a namespace's name: a run's names are nobody else's, so a selector that demands one selects no test pod."""


def foreign(api: Api) -> tuple[str, ...]:
    """A note for each clusterwide policy that no run of the harness applied and that may select test pods; or why nobody knows."""
    try:
        listed = api.objects.list_cluster_custom_object("cilium.io", "v2", _CLUSTERWIDE, _request_timeout=10)
    except API_ERRORS as error:
        return (f"whether clusterwide policies of others select the test pods is unknown: {said(error)}",)
    return tuple(note for each in listed.get("items") or () if (note := interference(each)))


def interference(policy: Mapping[str, Any]) -> str:
    """What a clusterwide policy does to test pods, as a note; '' where it leaves them alone."""
    metadata = policy.get("metadata") or {}
    if RUN_LABEL in (metadata.get("labels") or {}):
        return ""
    whom = list(dict.fromkeys(chosen for spec in _specs(policy) if (chosen := _chosen(spec.get("endpointSelector"))) is not None))
    if not whom:
        return ""
    pods = "every test pod" if "" in whom else "test pods with " + " or ".join(whom)
    return f"CiliumClusterwideNetworkPolicy/{metadata.get('name')}, which was on the cluster before, selects {pods}: it decides along with the case's policies"


def _specs(policy: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for spec in (policy.get("spec"), *(policy.get("specs") or ())):
        if isinstance(spec, Mapping):
            yield spec


def _chosen(selector: Any) -> str | None:
    """The labels that a pod in a namespace of its own must have to be selected; '' for any pod, None where it cannot be."""
    if not isinstance(selector, Mapping):
        return None
    needs = []
    for key, value in (selector.get("matchLabels") or {}).items():
        if _bare(key) in _NAMED:
            return None
        needs.append(f"{_bare(key)}={value}")
    for each in selector.get("matchExpressions") or ():
        key, operator, values = _bare(each.get("key", "")), each.get("operator"), each.get("values") or ()
        if key in _NAMED:
            if operator in ("In", "DoesNotExist"):
                return None
            continue  # NotIn, Exists: true of every namespace of a run
        needs.append(f"{key} {operator}" + (f" ({', '.join(values)})" if values else ""))
    return " and ".join(needs)


def _bare(key: str) -> str:
    """A label's key without the source it may be written with."""
    return key.rpartition(":")[2]
