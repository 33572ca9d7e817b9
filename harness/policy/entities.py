"""Entities of fromEntities and toEntities as label selectors (pkg/policy/api/entity.go)."""

from __future__ import annotations

from functools import lru_cache

from harness.model.labels import ANY, CLUSTER_LABEL, K8S, RESERVED
from harness.policy.options import Options
from harness.policy.rules import LabelSelector, Operator, Requirement

_ONE_LABEL = ("host", "init", "ingress", "remote-node", "health", "unmanaged", "none", "kube-apiserver", "world-ipv4", "world-ipv6")
_CLUSTER = ("host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver")
ENTITIES = frozenset({*_ONE_LABEL, "all", "world", "cluster", "cluster-mesh"})

ALL = LabelSelector()


def reserved_selector(name: str) -> LabelSelector:
    return LabelSelector((Requirement(RESERVED, name, Operator.EQUALS, ("",)),))


HOST = reserved_selector("host")


@lru_cache(maxsize=64)
def entity_selectors(name: str, options: Options) -> tuple[LabelSelector, ...]:
    """The selectors whose union the entity is."""
    if name in _ONE_LABEL:
        return (reserved_selector(name),)
    match name:
        case "all":
            return (ALL,)
        case "world":
            return tuple(reserved_selector(each) for each in ("world", "world-ipv4", "world-ipv6"))
        case "cluster":
            local = Requirement(K8S, CLUSTER_LABEL, Operator.EQUALS, (options.cluster_name,))
        case _:  # cluster-mesh
            local = Requirement(ANY, CLUSTER_LABEL, Operator.EXISTS)
    return (*(reserved_selector(each) for each in _CLUSTER), LabelSelector((local,)))
