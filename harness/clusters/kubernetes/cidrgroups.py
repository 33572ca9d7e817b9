"""A case's CIDR groups on a cluster: clusterwide objects under names and labels of the case's own, so that nobody else's policy meets them."""

from __future__ import annotations

from collections.abc import Iterable

from kubernetes.client.exceptions import ApiException

from harness.clusters.kubernetes.client import API_ERRORS, Api, failure
from harness.clusters.kubernetes.run import RunId
from harness.errors import ClusterError
from harness.model.cluster import CIDRGroup

_GROUP = "cilium.io"
_VERSIONS = ("v2", "v2alpha1")
"""The newest first: Cilium before 1.18 knows only the second."""
_PLURAL = "ciliumcidrgroups"


def create(api: Api, groups: Iterable[CIDRGroup], run: RunId, case: str) -> None:
    """Create each, in the cluster's names. ClusterError where one is refused."""
    for group in groups:
        metadata = {"name": group.name, "labels": {**group.labels, **run.labels}, "annotations": dict(run.annotations(case))}
        body = {"kind": "CiliumCIDRGroup", "metadata": metadata, "spec": {"externalCIDRs": list(group.cidrs)}}
        _at_some_version(api, "create", f"cannot create the CIDR group {group.name}", body)


def delete(api: Api, names: Iterable[str]) -> None:
    """Delete those that are there. ClusterError where one is refused."""
    for name in names:
        _at_some_version(api, "delete", f"cannot delete the CIDR group {name}", name)


def _at_some_version(api: Api, verb: str, failed: str, what: object) -> None:
    for version in _VERSIONS:
        body = {"apiVersion": f"{_GROUP}/{version}", **what} if isinstance(what, dict) else what
        try:
            getattr(api.objects, f"{verb}_cluster_custom_object")(_GROUP, version, _PLURAL, body, _request_timeout=15)
        except API_ERRORS as error:
            if not (isinstance(error, ApiException) and error.status == 404):
                raise failure(failed, error) from None
        else:
            return
    if verb == "create":
        raise ClusterError(f"{failed}: this cluster does not know CIDR groups")
