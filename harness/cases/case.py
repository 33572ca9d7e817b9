"""A case as checked values: endpoints, services, externals, phases, expectations. Everything is resolved; parsing is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct, field

from harness.cases.suggest import did_you_mean
from harness.errors import CaseError, Location
from harness.model.cluster import CIDRGroup, ClusterState
from harness.model.traffic import Direction, Family, PodRef, Protocol, Request
from harness.model.verdict import PolicyRef


class Serve(StrEnum):
    """What a declared port answers. `auto` tells a TLS hello, HTTP/1, HTTP/2 and raw bytes apart; `sink` never answers."""

    AUTO = "auto"
    HTTP = "http"
    GRPC = "grpc"
    TLS = "tls"
    ECHO = "echo"
    SINK = "sink"
    DNS = "dns"


class PortSpec(Struct, frozen=True):
    port: int
    protocol: Protocol = Protocol.TCP
    name: str | None = None
    serve: Serve = Serve.AUTO


class EndpointSpec(Struct, frozen=True):
    """A declared client or server. Its pods are named `name` (one replica) or `name-0`, `name-1`, ...; reported as `name[i]`."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    location: Location
    service_account: str | None = None
    replicas: int = 1
    node: str | None = None
    """An abstract node name (a, b, ...), or None: the harness spreads."""
    ports: tuple[PortSpec, ...] = ()
    host_network: bool = False

    def pods(self) -> tuple[PodRef, ...]:
        if self.replicas == 1:
            return (PodRef(self.namespace, self.name),)
        return tuple(PodRef(self.namespace, f"{self.name}-{index}") for index in range(self.replicas))


class ServicePortSpec(Struct, frozen=True):
    port: int
    target_port: int | str
    protocol: Protocol = Protocol.TCP
    name: str | None = None


class ServiceSpec(Struct, frozen=True):
    name: str
    namespace: str
    selector: Mapping[str, str]
    ports: tuple[ServicePortSpec, ...]
    location: Location
    type: str = "ClusterIP"
    headless: bool = False


class ExternalSpec(Struct, frozen=True):
    """Something outside the cluster, served by the harness. `addresses` empty: the harness picks one per family."""

    name: str
    location: Location
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    ports: tuple[PortSpec, ...] = ()
    ttl: int | None = None
    """Seconds for which the answers to lookups of its names are good; None: whatever the resolver says."""


class PartyKind(StrEnum):
    ENDPOINT = "endpoint"
    EXTERNAL = "external"
    SERVICE = "service"
    BUILTIN = "built-in"
    ADDRESS = "address"
    NAME = "name"
    """A DNS name, looked up by the client first."""


class Party(Struct, frozen=True):
    """One side of an expectation, resolved. `name` is the endpoint's or external's key, `namespace/name` of a service, the
    built-in (world, host, remote-node, kube-apiserver, kube-dns), the IP literal or the DNS name."""

    kind: PartyKind
    name: str

    def __str__(self) -> str:
        return f"service/{self.name}" if self.kind is PartyKind.SERVICE else self.name


class Target(Struct, frozen=True):
    """A target with its own port. `port` is None only for ICMP and lookups; `written` is the text as the user wrote it."""

    party: Party
    port: int | None
    protocol: Protocol
    written: str


class Action(StrEnum):
    ALLOW = "allow"
    DENY = "deny"
    AUDIT = "audit"


class Reason(StrEnum):
    """Why a denied expectation must be denied."""

    DEFAULT_DENY = "default-deny"
    DENY_RULE = "deny-rule"
    L7 = "l7"
    AUTH = "auth"


class FamilyChoice(StrEnum):
    IPV4 = "ipv4"
    IPV6 = "ipv6"
    BOTH = "both"

    @property
    def families(self) -> tuple[Family, ...]:
        return (Family.IPV4, Family.IPV6) if self is FamilyChoice.BOTH else (Family(self.value),)


class Expectation(Struct, frozen=True):
    """Who may or may not reach whom. Every source meets every target. Times are seconds."""

    action: Action
    text: str
    sources: tuple[Party, ...]
    targets: tuple[Target, ...]
    location: Location
    request: Request | None = None
    reasons: frozenset[Reason] = frozenset()
    """Empty: any."""
    at: Direction | None = None
    by: PolicyRef | None = None
    status: int | str | None = None
    """HTTP code, or gRPC status by number or name."""
    family: FamilyChoice = FamilyChoice.IPV4
    timeout: float | None = None
    within: float | None = None
    undeclared: bool = False
    closed_world: bool = False
    """Made from `otherwise:`, not written by the user."""


class PolicyObject(Struct, frozen=True):
    """A Kubernetes policy object with its namespace filled in, and where it was written."""

    ref: PolicyRef
    document: Mapping[str, Any]
    location: Location


class Rejected(Struct, frozen=True):
    """A policy that must be refused; `message` must be part of the reason."""

    ref: PolicyRef
    message: str = ""


class Requirements(Struct, frozen=True):
    """What the cluster must have. `cilium` is a version specifier such as `>=1.16`; features may begin with `!`."""

    cilium: str = ""
    features: frozenset[str] = frozenset()


class Phase(Struct, frozen=True):
    """A step: one change (remove, then apply in order), then expectations. State is cumulative.

    `state` holds the policies in force after the change, in order of first application.
    """

    name: str
    location: Location
    remove: tuple[PolicyRef, ...] = ()
    apply: tuple[PolicyObject, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    """The written ones, then those of `otherwise`."""
    inert: tuple[PolicyRef, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    requires: Requirements = field(default_factory=Requirements)
    """Written and derived, of this phase alone."""
    baseline: bool = False
    policies: tuple[PolicyObject, ...] = ()
    """All policies in force after this phase's change (rejected ones included)."""


class Case(Struct, frozen=True):
    """One YAML document. `requires` is what every phase needs; `phase.requires` comes on top."""

    name: str
    location: Location
    namespace: str
    namespaces: Mapping[str, Mapping[str, str]]
    """Every namespace the case uses, with its labels (`kubernetes.io/metadata.name` included)."""
    endpoints: Mapping[str, EndpointSpec]
    services: Mapping[str, ServiceSpec]
    """By `namespace/name`."""
    externals: Mapping[str, ExternalSpec]
    phases: tuple[Phase, ...]
    description: str = ""
    tags: tuple[str, ...] = ()
    requires: Requirements = field(default_factory=Requirements)
    cidr_groups: tuple[CIDRGroup, ...] = ()
    """The CiliumCIDRGroups of its manifests; they are there for the whole case."""
    nodes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The labels of nodes, by abstract name; those that have none need not be there."""

    def asks_for(self, feature: str) -> bool:
        """Whether the case, or any phase of it, requires the feature."""
        return any(feature in each.features for each in (self.requires, *(phase.requires for phase in self.phases)))

    def phase(self, name: str) -> Phase:
        """The phase of that name. Raises CaseError, with what was probably meant, where there is none."""
        for phase in self.phases:
            if phase.name == name:
                return phase
        hint = did_you_mean(name, (phase.name for phase in self.phases), noun="its phases")
        raise CaseError(f"case `{self.name}` has no phase `{name}`", location=self.location, hint=hint)


class Placement(Struct, frozen=True):
    """Where a case's pods ended up: the cluster's state as the policy model reads it, and every address.

    The keys of `addresses` are `pod:ns/name`, `service:ns/name`, `node:NAME`, `external:KEY`, `world` and `kube-apiserver`; the
    values one address per family at most, IPv4 first. Names are those of the case (a cluster that renames keeps that to itself).
    `audited`: in this case policies let through what they would drop, and say so.
    """

    state: ClusterState
    addresses: Mapping[str, tuple[str, ...]]
    audited: bool = False

    def address(self, key: str, family: Family) -> str | None:
        return next((each for each in self.addresses.get(key, ()) if Family.of(each) is family), None)
