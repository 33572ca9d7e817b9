"""Asks the API server, before anything is created, whether this user may do what a run does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import kubernetes
from msgspec import Struct

from harness.clusters.kubernetes.client import API_ERRORS, Api, failure
from harness.errors import ClusterError


class Permission(Struct, frozen=True):
    """A verb on a resource, such as `create pods/exec`. `namespace` '' is every namespace."""

    verb: str
    resource: str
    group: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        group = f".{self.group}" if self.group else ""
        return f"{self.verb} {self.resource}{group}" + (f" in {self.namespace}" if self.namespace else "")


def _each(verbs: str, resource: str, group: str = "", namespace: str = "") -> tuple[Permission, ...]:
    return tuple(Permission(verb, resource, group, namespace) for verb in verbs.split())


NEEDED = (
    *_each("create list delete", "namespaces"),
    *_each("list", "nodes"),
    *_each("create get list watch", "pods"),
    *_each("get create", "pods/exec"),
    *_each("create", "configmaps"),
    *_each("create", "serviceaccounts"),
    *_each("create get", "services"),
    *_each("create get delete", "networkpolicies", "networking.k8s.io"),
    *_each("create get update delete", "ciliumnetworkpolicies", "cilium.io"),
    *_each("create patch", "leases", "coordination.k8s.io"),
)
"""What every run does. exec needs both of its verbs."""
CLUSTERWIDE = (
    *_each("create get list update delete", "ciliumclusterwidenetworkpolicies", "cilium.io"),
    *_each("create list delete", "ciliumcidrgroups", "cilium.io"),
)
"""With --allow-clusterwide."""


def for_secrets(namespaces: Iterable[str]) -> tuple[Permission, ...]:
    """To copy secrets from these namespaces to the run's."""
    spaces = sorted(set(namespaces))
    return (
        *(each for space in spaces for each in _each("get", "secrets", namespace=space)),
        *(_each("create", "secrets") if spaces else ()),
    )


def missing(api: Api, wanted: Sequence[Permission]) -> tuple[Permission, ...]:
    """Those that this user does not have, in order."""

    def allowed(permission: Permission) -> bool:
        resource, _, sub = permission.resource.partition("/")
        attributes = {
            "verb": permission.verb,
            "group": permission.group,
            "resource": resource,
            **({"subresource": sub} if sub else {}),
            **({"namespace": permission.namespace} if permission.namespace else {}),
        }
        reviews: Any = kubernetes.client.AuthorizationV1Api(api.client)
        review = reviews.create_self_subject_access_review({"spec": {"resourceAttributes": attributes}}, _request_timeout=10)
        return bool(review.status.allowed)

    with ThreadPoolExecutor(4, thread_name_prefix="permissions") as pool:
        try:
            answers = list(pool.map(allowed, wanted))
        except API_ERRORS as error:
            raise failure("cannot ask what this user may do", error) from None
    return tuple(permission for permission, granted in zip(wanted, answers, strict=True) if not granted)


def check(api: Api, wanted: Sequence[Permission]) -> None:
    """ClusterError naming every permission that is missing."""
    lacking = missing(api, wanted)
    if lacking:
        raise ClusterError(
            f"the user of context {api.context!r} may not: {', '.join(map(str, lacking))}",
            hint="docs/rbac/ has the roles that a run needs; an administrator applies and binds them",
        )
