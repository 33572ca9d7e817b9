"""Who talks to whom: protocols, peers and one unit of traffic. Not packets: those are probes and flows."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import force_setattr


class Protocol(StrEnum):
    """IP protocols that policies know. The port of an ICMP flow is its type."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"
    ICMP = "ICMP"
    ICMPV6 = "ICMPv6"
    VRRP = "VRRP"
    IGMP = "IGMP"
    GRE = "GRE"
    IPIP = "IPIP"
    IPV6 = "IPV6"
    ESP = "ESP"
    AH = "AH"

    @property
    def number(self) -> int:
        """The IANA protocol number."""
        return _NUMBERS[self]

    @property
    def has_ports(self) -> bool:
        return self in (Protocol.TCP, Protocol.UDP, Protocol.SCTP)


_NUMBERS: Mapping[Protocol, int] = {
    Protocol.TCP: 6,
    Protocol.UDP: 17,
    Protocol.SCTP: 132,
    Protocol.ICMP: 1,
    Protocol.ICMPV6: 58,
    Protocol.VRRP: 112,
    Protocol.IGMP: 2,
    Protocol.GRE: 47,
    Protocol.IPIP: 4,
    Protocol.IPV6: 41,
    Protocol.ESP: 50,
    Protocol.AH: 51,
}


class Family(StrEnum):
    IPV4 = "ipv4"
    IPV6 = "ipv6"

    @classmethod
    def of(cls, address: str) -> Family:
        return cls.IPV6 if ":" in address else cls.IPV4


class Direction(StrEnum):
    """Seen from the subject: ingress is enforced at the target, egress at the source."""

    INGRESS = "ingress"
    EGRESS = "egress"


class PodRef(Struct, frozen=True, order=True):
    """A pod by namespace and name, printed `namespace/name`."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class EntityName(StrEnum):
    """Peers that are not pods and have a reserved identity of their own."""

    HOST = "host"
    REMOTE_NODE = "remote-node"
    KUBE_APISERVER = "kube-apiserver"
    HEALTH = "health"
    INIT = "init"
    INGRESS = "ingress"
    UNMANAGED = "unmanaged"


class Entity(Struct, frozen=True, order=True):
    """A reserved peer. `host` is always the node of the pod in question."""

    name: EntityName

    def __str__(self) -> str:
        return str(self.name)


class External(Struct, frozen=True, order=True):
    """An address outside the cluster, printed `world:IP`."""

    address: str

    def __post_init__(self) -> None:
        force_setattr(self, "address", str(ipaddress.ip_address(self.address)))

    @property
    def family(self) -> Family:
        return Family.of(self.address)

    def __str__(self) -> str:
        return f"world:{self.address}"


Peer: TypeAlias = PodRef | Entity | External
"""One end of a flow as policy sees it."""


class RequestKind(Enum):
    HTTP = "http"
    GRPC = "grpc"
    TLS = "tls"
    LOOKUP = "lookup"
    ICMP = "icmp"
    ICMP6 = "icmp6"


class Request(Struct, frozen=True):
    """What is said above L4. HTTP: method, path, host, headers; grpc: path is `/pkg.Service/Method`; tls and lookup: name."""

    kind: RequestKind
    method: str = ""
    path: str = ""
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    name: str = ""

    def __str__(self) -> str:
        match self.kind:
            case RequestKind.HTTP:
                return f"{self.method} {self.path}"
            case RequestKind.GRPC:
                return f"grpc {self.path}"
            case RequestKind.TLS | RequestKind.LOOKUP:
                return f"{self.kind.value} {self.name}"
            case _:
                return str(self.kind.value)


class Traffic(Struct, frozen=True):
    """One unit of traffic for the evaluator: after service translation, so `port` is the backend's."""

    source: Peer
    destination: Peer
    protocol: Protocol
    port: int
    """Destination port, 0 to 65535; for ICMP the message type."""
    request: Request | None = None
    family: Family | None = None
    """The addresses' family; matters to no L3/L4 rule between pods, given for ICMP and externals by themselves."""
