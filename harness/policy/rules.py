"""Policies as typed values: selectors, ports, L7 rules, rules and the policy that holds them. No raw documents, no evaluation.

`None` and `()` are different things: `Rule.peers` None selects nobody, `()` is no restriction (see `Rule`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import TypeAlias

from msgspec import Struct, field

from harness.model.traffic import Direction, Protocol
from harness.model.verdict import PolicyError, PolicyRef, RuleRef
from harness.policy.prefix import Prefix

CILIUM_NETWORK_POLICY = "CiliumNetworkPolicy"
CILIUM_CLUSTERWIDE_NETWORK_POLICY = "CiliumClusterwideNetworkPolicy"
NETWORK_POLICY = "NetworkPolicy"

RESERVED_POLICY = PolicyRef("reserved", "", "")
"""The owner of rules that Cilium adds itself."""
ALLOW_LOCALHOST_INGRESS = RuleRef(RESERVED_POLICY, "allow-localhost-ingress")
ALLOW_ANY_INGRESS = RuleRef(RESERVED_POLICY, "allow-any-ingress")
ALLOW_ANY_EGRESS = RuleRef(RESERVED_POLICY, "allow-any-egress")


class Operator(StrEnum):
    """How a requirement relates a key to its values. EQUALS is what matchLabels says."""

    EQUALS = "="
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(Struct, frozen=True):
    """One condition on a label. `source` `any` matches the key in every source."""

    source: str
    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        key = self.key if self.source in ("any", "k8s") else f"{self.source}:{self.key}"
        match self.operator:
            case Operator.EQUALS:
                return f"{key}={self.values[0]}" if self.values[0] else key
            case Operator.EXISTS | Operator.DOES_NOT_EXIST:
                return f"{key} {self.operator.value}"
            case _:
                return f"{key} {self.operator.value} [{', '.join(self.values)}]"


class LabelSelector(Struct, frozen=True, cache_hash=True):
    """Requirements, all of which must hold: those of matchLabels by key, then matchExpressions in order. Empty: everything.

    Its hash is kept: selectors are keys everywhere.
    """

    requirements: tuple[Requirement, ...] = ()

    @property
    def is_wildcard(self) -> bool:
        return not self.requirements

    def __str__(self) -> str:
        return ", ".join(map(str, self.requirements)) or "{}"


class CIDRSelector(Struct, frozen=True):
    """What lies in `prefix` and in none of `excepts`. Only identities with a world label, unless the agent's match mode says more."""

    prefix: Prefix
    excepts: tuple[Prefix, ...] = ()

    def __str__(self) -> str:
        return f"{self.prefix} except {', '.join(map(str, self.excepts))}" if self.excepts else str(self.prefix)


class CIDRGroupSelector(Struct, frozen=True):
    """The prefixes of CiliumCIDRGroup objects: the one called `name`, or those that `labels` selects."""

    name: str = ""
    labels: LabelSelector | None = None
    excepts: tuple[Prefix, ...] = ()

    def __str__(self) -> str:
        return f"CIDR group {self.name}" if self.name else f"CIDR groups with {self.labels}"


class FQDNSelector(Struct, frozen=True):
    """Addresses that DNS taught for names that match. Exactly one of the two is set."""

    match_name: str = ""
    match_pattern: str = ""

    def __str__(self) -> str:
        return self.match_name or self.match_pattern


class GroupsSelector(Struct, frozen=True):
    """Cloud provider groups (fromGroups, toGroups): what they hold is known to the cloud only."""

    text: str

    def __str__(self) -> str:
        return f"groups {self.text}"


PeerSelector: TypeAlias = LabelSelector | CIDRSelector | CIDRGroupSelector | FQDNSelector | GroupsSelector


class ServiceSelector(Struct, frozen=True):
    """An item of toServices. `namespace` '' matches every namespace."""

    namespace: str
    name: str = ""
    labels: LabelSelector | None = None


class PortProtocol(Struct, frozen=True):
    """One port. `protocol` None is ANY: TCP, UDP and SCTP. `name` is a named port in lower case, with `port` 0.

    Port 0 means all ports (a name aside). `end_port` is as written; 0 where there is none.
    """

    port: int
    protocol: Protocol | None
    name: str = ""
    end_port: int = 0


class Mismatch(StrEnum):
    """What a header match does when the header differs. All but FAIL let the request pass."""

    FAIL = ""
    LOG = "LOG"
    ADD = "ADD"
    DELETE = "DELETE"
    REPLACE = "REPLACE"


class HeaderMatch(Struct, frozen=True):
    """`value` '' asks for presence. `secret`: the value is in a Secret (`namespace/name`), which the model cannot read."""

    name: str
    value: str = ""
    mismatch: Mismatch = Mismatch.FAIL
    secret: str = ""


class HTTPRule(Struct, frozen=True):
    """Fields AND; '' is no restriction. path, method and host are RE2, matched in full. `headers` as written."""

    path: str = ""
    method: str = ""
    host: str = ""
    headers: tuple[str, ...] = ()
    header_matches: tuple[HeaderMatch, ...] = ()


class DNSRule(Struct, frozen=True):
    match_name: str = ""
    match_pattern: str = ""


class TLSContext(Struct, frozen=True):
    """A reference to certificates; only its identity matters here."""

    secret: str


class Parser(IntEnum):
    """Who has the last word on a redirected connection, by Cilium's default listener priority: the lower wins."""

    NONE = 0
    HTTP = 101
    KAFKA = 106
    PROXYLIB = 111
    TLS = 116
    DNS = 121
    CRD = 126


class Listener(Struct, frozen=True):
    """A custom Envoy listener. `priority` 0: not given."""

    name: str
    config_kind: str
    config_name: str
    priority: int = 0


class PortRule(Struct, frozen=True):
    """An item of toPorts, or (`icmps`) ICMP types in the place of ports. `other_l7` is kafka or an l7proto of 1.19 and earlier."""

    ports: tuple[PortProtocol, ...]
    http: tuple[HTTPRule, ...] = ()
    dns: tuple[DNSRule, ...] = ()
    other_l7: str = ""
    server_names: tuple[str, ...] = ()
    terminating_tls: TLSContext | None = None
    originating_tls: TLSContext | None = None
    listener: Listener | None = None

    @property
    def parser(self) -> Parser:
        if self.listener is not None:
            return Parser.CRD
        if self.dns:
            return Parser.DNS
        if self.http:
            return Parser.HTTP
        if self.other_l7:
            return Parser.KAFKA if self.other_l7 == "kafka" else Parser.PROXYLIB
        if self.server_names or self.terminating_tls or self.originating_tls:
            return Parser.TLS
        return Parser.NONE


class AuthMode(StrEnum):
    DISABLED = "disabled"
    REQUIRED = "required"
    ALWAYS_FAIL = "test-always-fail"

    @property
    def rank(self) -> int:
        """Cilium's number of the type; among entries without a mode of their own the higher is inherited."""
        return {AuthMode.DISABLED: 0, AuthMode.REQUIRED: 1, AuthMode.ALWAYS_FAIL: 2}[self]


class Rule(Struct, frozen=True):
    """One element of a direction's list (KNP: one peer of a rule), as Cilium flattens policies.

    `peers` None selects nobody; `()` restricts nothing if `ports` is not empty, else the rule carries default deny only.
    `services` are resolved into peers by the evaluator. `ports` () covers every protocol.
    """

    ref: RuleRef
    direction: Direction
    deny: bool
    default_deny: bool
    subject: LabelSelector
    node: bool
    peers: tuple[PeerSelector, ...] | None
    ports: tuple[PortRule, ...] = ()
    services: tuple[ServiceSelector, ...] = ()
    auth: AuthMode | None = None
    order: tuple[str, int] = ("", 0)
    """Cilium's processing order: resource id, index."""
    endpoints: bool = False
    """Whether the peers are fromEndpoints/toEndpoints, or a NetworkPolicy's pods: those that `requires` narrows."""
    requires: tuple[Requirement, ...] = ()
    """fromRequires/toRequires, up to Cilium 1.18: what endpoints must be as well that any rule of the same subject names as its peers."""


class Policy(Struct, frozen=True):
    """A policy object. With `error` it is refused and has no rules. `log` maps a rule's spec path to its log value."""

    ref: PolicyRef
    rules: tuple[Rule, ...] = ()
    error: PolicyError | None = None
    log: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    remarks: tuple[str, ...] = ()
    """What the object asks for without effect, such as `enableDefaultDeny.ingress is true without an ingress element`."""

    @property
    def accepted(self) -> bool:
        return self.error is None
