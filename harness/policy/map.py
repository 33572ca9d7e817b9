"""The compiled form of policy, as values: an ipcache and, per endpoint and direction, a flat policy map."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from harness.model.identity import Identity
from harness.model.traffic import PodRef
from harness.model.verdict import Decision, PolicyRef, RuleRef
from harness.policy.rules import DNSRule, HTTPRule


class ProxyRules(Struct, frozen=True):
    """What a proxy lets pass on connections that are redirected to it: whatever any part of this allows.

    `everything`: an allow without L7 rules matches too. `http` are the requests allowed over plain text, `server_names` the names of TLS
    connections that pass unread (`*` stays within a label, `**` crosses them, `*` alone is any name), `dns` the names that may be asked for.
    An empty HTTPRule allows every request. `beyond` says what else the rules ask for, such as a listener of the user's; '' for nothing.
    """

    everything: bool = False
    http: tuple[HTTPRule, ...] = ()
    server_names: tuple[str, ...] = ()
    dns: tuple[DNSRule, ...] = ()
    beyond: str = ""


class Interval(Struct, frozen=True):
    """What happens to one protocol's ports `first..last` (both included; ICMP: types) from or to an identity.

    `protocol` is the IANA number, 0 for every protocol not named by another interval of the same identity. Intervals of one
    identity and protocol never overlap, and protocol 0 is never needed where the protocol's own intervals cover the port.
    """

    protocol: int
    first: int
    last: int
    decision: Decision
    rules: tuple[RuleRef, ...]
    redirect: str = ""
    """`http`, `tls` or `dns` where a proxy has the last word, else ''."""
    auth: bool = False
    proxy: ProxyRules | None = None
    """What that proxy lets pass; None without a redirect."""


class DirectionPolicy(Struct, frozen=True):
    """One direction of one endpoint. `default` is what happens where no interval matches: ALLOW or DEFAULT_DENY.

    `by_identity` maps a peer's identity number to its intervals; an identity that is missing there has none. `enforced` is false
    where no policy selects the endpoint in this direction (then `default` is ALLOW and Cilium sends no policy-verdict event).
    """

    enforced: bool
    default: Decision
    by_identity: Mapping[int, tuple[Interval, ...]]
    selecting: tuple[PolicyRef, ...] = ()
    audit: bool = False


class EndpointPolicy(Struct, frozen=True):
    ingress: DirectionPolicy
    egress: DirectionPolicy


class PolicyMaps(Struct, frozen=True):
    """Everything a datapath needs. Equal endpoints share one EndpointPolicy object, so `is` tells what must be rewritten once.

    `ipcache` maps an address prefix (text, as `203.0.113.0/24` or `0.0.0.0/0`) of what is outside the cluster to its identity;
    the longest prefix wins. Pods and nodes are not in it: their identities are in `pods` and are reserved numbers.
    `hosts` is the host firewall's policy per node; empty while it is off.
    """

    identities: Mapping[int, Identity]
    pods: Mapping[PodRef, int]
    ipcache: Mapping[str, int]
    endpoints: Mapping[PodRef, EndpointPolicy]
    hosts: Mapping[str, EndpointPolicy]
