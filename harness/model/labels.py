"""Cilium labels: a source, a key and a value. Not selectors (those are `harness.policy`)."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

K8S = "k8s"
RESERVED = "reserved"
CIDR = "cidr"
FQDN = "fqdn"
CIDR_GROUP = "cidrgroup"
ANY = "any"
UNSPEC = "unspec"

NAMESPACE_LABEL = "io.kubernetes.pod.namespace"
NAMESPACE_LABELS_PREFIX = "io.cilium.k8s.namespace.labels."
CLUSTER_LABEL = "io.cilium.k8s.policy.cluster"
SERVICE_ACCOUNT_LABEL = "io.cilium.k8s.policy.serviceaccount"
"""Keys that Cilium derives for pods (pkg/k8s/apis/cilium.io/const.go)."""


class Label(Struct, frozen=True, order=True):
    """One security label, printed as Cilium prints it: `source:key=value`."""

    source: str
    key: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.source}:{self.key}={self.value}" if self.value else f"{self.source}:{self.key}"

    @classmethod
    def parse(cls, text: str) -> Label:
        """The inverse of `str`: `k8s:app=web` or `reserved:host`; without a source it is `unspec`."""
        key, _, value = text.partition("=")
        source, colon, rest = key.partition(":")
        return cls(source, rest, value) if colon else cls(UNSPEC, key, value)


Labels: TypeAlias = frozenset[Label]


def reserved(name: str) -> Label:
    """The label of a reserved identity, such as `reserved:host`."""
    return Label(RESERVED, name)


def printed(labels: Labels) -> tuple[str, ...]:
    """The labels as Hubble lists them: sorted, `source:key=value`."""
    return tuple(sorted(map(str, labels)))
