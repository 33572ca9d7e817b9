"""Security identities: a number and the set of security-relevant labels it stands for."""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct

from harness.model.labels import Labels


class ReservedIdentity(IntEnum):
    """Numbers of Cilium's reserved identities (pkg/identity/numericidentity.go)."""

    UNKNOWN = 0
    HOST = 1
    WORLD = 2
    UNMANAGED = 3
    HEALTH = 4
    INIT = 5
    REMOTE_NODE = 6
    KUBE_APISERVER = 7
    INGRESS = 8
    WORLD_IPV4 = 9
    WORLD_IPV6 = 10


CLUSTER_IDENTITY_MIN = 256
"""Pod identities start here."""
LOCAL_IDENTITY_MIN = 1 << 24
"""CIDR and FQDN identities, local to a node, start here (the local scope bit)."""


class Identity(Struct, frozen=True):
    """A security identity. Endpoints with equal labels share one."""

    number: int
    labels: Labels
