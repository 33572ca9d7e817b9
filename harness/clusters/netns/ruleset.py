"""Policy maps as nftables commands, for one node. Pure text; `filter` sends it.

Every packet of a connection's original direction passes two lookups: egress of the pod it comes from, ingress of the pod it goes to.
Each first names the peer's identity (the packet's mark), then looks the identity, protocol and port up in the maps of the pod's policy,
exact ports before ranges before whole protocols before everything, and ends in `return`, or in a chain that reports and drops.
The node's host is asked as a pod is: egress where it sends, before anything is redirected to a proxy, and ingress where a packet is for itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from msgspec import Struct

from harness.model.flow import DropReason
from harness.model.traffic import Direction, Protocol
from harness.model.verdict import Decision
from harness.policy.map import DirectionPolicy

TABLE = "inet lab"
LOG_GROUP = 1
DELIVER = 1 << 31
"""In a packet's mark: it goes to a socket of this node, whatever its destination. Routing looks at this bit alone; identities, which
share the mark, never come near it."""
TO_HOST = "meta nfproto vmap @to_host"
"""The rule that asks the host's ingress policy."""
_ALL_PORTS = 65535
_ALL_TYPES = 255
_SNAPLEN = 96
"""Enough for an IPv6 and a TCP header."""

REASONS: Mapping[Decision, DropReason] = {
    Decision.DEFAULT_DENY: DropReason.POLICY_DENIED,
    Decision.DENY_RULE: DropReason.POLICY_DENY,
    Decision.AUTH: DropReason.AUTH_REQUIRED,
}
_DIRECTIONS = (Direction.EGRESS, Direction.INGRESS)
_HOOKS = ("forward", "input", "output")

Range: TypeAlias = tuple[str, str, int]
"""First and last address, and the identity."""


class Label(Struct, frozen=True):
    """What the kernel writes on the events it reports, and so what is known of an event besides the packet.

    `at` is the direction that dropped the packet, or the hook it passed. `new`: it opened a connection.
    """

    at: str
    reason: int
    new: bool
    revision: int

    def __str__(self) -> str:
        return f"{self.at} {self.reason} {int(self.new)} {self.revision}"

    @classmethod
    def parse(cls, text: str) -> Label:
        at, reason, new, revision = text.split()
        return cls(at, int(reason), new == "1", int(revision))


def log(label: Label) -> str:
    """The statement that reports a packet."""
    return f'log prefix "{label}" group {LOG_GROUP} snaplen {_SNAPLEN} queue-threshold 1'


def drop_chain(direction: Direction, decision: Decision) -> str:
    return f"drop_{direction}_{int(REASONS[decision])}"


def base(*, ipv6: bool) -> str:
    """The frame of a node's filter: nothing is enforced yet."""
    lines = [f"add table {TABLE}"]

    def add(kind: str, name: str, body: str) -> None:
        lines.append(f"add {kind} {TABLE} {name} {{ {body} }}" if body else f"add {kind} {TABLE} {name}")

    def rule(chain: str, *texts: str) -> None:
        lines.extend(f"add rule {TABLE} {chain} {text}" for text in texts)

    families = (("4", "ipv4_addr", "ip"), ("6", "ipv6_addr", "ip6"))
    for version, kind, family in families:
        add("map", f"peer{version}", f"type {kind} : mark;")
        add("map", f"range{version}", f"type {kind} : mark; flags interval;")
        add("map", f"service{version}", f"typeof {family} daddr . meta l4proto . th dport : verdict;")
    add("map", "from_pod", "type ifname : verdict;")
    add("map", "to_pod", "type ifname : verdict;")
    for name in ("from_host", "to_host"):
        add("map", name, "type nf_proto : verdict;")
    add("set", "hairpin", "type ifname . ifname;")
    for direction in _DIRECTIONS:
        for decision in REASONS:
            add("chain", drop_chain(direction, decision), "")
    for hook in _HOOKS:
        add("chain", f"new_{hook}", "")
    add("chain", "delivered", "")
    for chain, side in (("peer_of_egress", "daddr"), ("peer_of_ingress", "saddr")):
        add("chain", chain, "")
        for version, _, family in families:
            # A lookup that finds nothing ends its rule, so the exact address wins where there is one.
            rule(chain, *(f"meta mark set {family} {side} map @{name}{version}" for name in ("range", "peer")))

    add("chain", "services", "")
    for version, _, family in families:
        rule("services", f"{family} daddr . meta l4proto . th dport vmap @service{version}")
    add("chain", "prerouting", "type nat hook prerouting priority dstnat;")
    rule("prerouting", "jump services")
    add("chain", "nat_output", "type nat hook output priority -100;")
    rule("nat_output", "jump services")
    add("chain", "postrouting", "type nat hook postrouting priority srcnat;")
    rule("postrouting", "ct status dnat iifname . oifname @hairpin masquerade")

    replies = ("ct direction reply accept", "ct state related accept", "ct state invalid drop")
    for hook in _HOOKS:
        add("chain", hook, f"type filter hook {hook} priority filter;")
    # A pod that reaches itself through its own service skips policy, as in Cilium.
    itself = "ct status dnat iifname . oifname @hairpin"
    rule(
        "forward", *replies, f"{itself} ct state new jump new_forward", f"{itself} accept", "iifname vmap @from_pod", "oifname vmap @to_pod"
    )
    discovery = ("icmpv6 type { 130-137, 143 } accept",) if ipv6 else ()
    # What is on its way to or from a proxy of this node (`redirect`) is asked for its policy where it is delivered.
    rule("input", f"meta mark & {DELIVER} != 0 goto delivered")
    rule("output", f"meta mark & {DELIVER} != 0 accept")
    rule("input", 'iifname "lo" accept', *discovery, *replies, "iifname vmap @from_pod", TO_HOST)
    rule("output", 'oifname "lo" accept', *discovery, *replies, "oifname vmap @to_pod")
    add("chain", "host_output", "type filter hook output priority -60;")
    rule("host_output", 'oifname "lo" accept', *discovery, *replies, "meta nfproto vmap @from_host")
    for hook in _HOOKS:
        rule(hook, f"ct state new jump new_{hook}")
    return "\n".join(lines)


def labels(revision: int) -> Iterator[str]:
    """Commands that put the revision's number on all events from now on."""
    for direction in _DIRECTIONS:
        for decision, reason in REASONS.items():
            chain = drop_chain(direction, decision)
            yield f"flush chain {TABLE} {chain}"
            yield f"add rule {TABLE} {chain} ct state new {log(Label(direction, reason, new=True, revision=revision))} drop"
            yield f"add rule {TABLE} {chain} {log(Label(direction, reason, new=False, revision=revision))} drop"
    for hook in _HOOKS:
        yield f"flush chain {TABLE} new_{hook}"
        yield f"add rule {TABLE} new_{hook} {log(Label(hook, 0, new=True, revision=revision))}"


# One direction of one endpoint's policy


class Compiled(Struct, frozen=True):
    """What of a DirectionPolicy matters to packets, and nothing else: equal ones share a chain. Each map is a tuple of (key, decision)."""

    direction: Direction
    default: Decision
    maps: tuple[tuple[str, tuple[tuple[str, Decision], ...]], ...]
    redirects: tuple[tuple[str, int], ...] = ()
    """What goes to a proxy: keys as those of `port`, and what the packet's mark says of the proxy port."""


_LOOKUPS = {
    "port": ("meta mark . meta l4proto . th dport", ""),
    "icmp": ("meta mark . icmp type", ""),
    "icmp6": ("meta mark . icmpv6 type", ""),
    "range": ("meta mark . meta l4proto . th dport", " flags interval;"),
    "range_icmp": ("meta mark . icmp type", " flags interval;"),
    "range_icmp6": ("meta mark . icmpv6 type", " flags interval;"),
    "protocol": ("meta mark . meta l4proto", ""),
    "any": ("meta mark", ""),
}
"""The maps of a policy in the order in which they are asked: the key, and the map's flags. Exact ones are plain maps, since an
interval map of some thousand elements takes twenty times as long to fill."""
_TYPED = {Protocol.ICMP.number: "icmp", Protocol.ICMPV6.number: "icmp6"}


def compiled(policy: DirectionPolicy, direction: Direction) -> Compiled:
    """The policy's intervals, sorted into the maps that packets are looked up in."""
    if policy.audit:
        return Compiled(direction, Decision.ALLOW, ())  # everything passes; what would not is for the flows to tell
    found: dict[str, list[tuple[str, Decision]]] = {name: [] for name in _LOOKUPS}
    for identity, intervals in sorted(policy.by_identity.items()):
        for each in intervals:
            if each.decision is policy.default or (each.protocol in _TYPED and each.first > _ALL_TYPES):
                continue  # an ICMP type of more than a byte is a number that policy knows, and no packet has
            name, key = _place(identity, each.protocol, each.first, each.last)
            found[name].append((key, each.decision))
    return Compiled(direction, policy.default, tuple((name, tuple(elements)) for name, elements in found.items() if elements))


def _place(identity: int, protocol: int, first: int, last: int) -> tuple[str, str]:
    if protocol == 0:
        return "any", str(identity)
    typed = _TYPED.get(protocol)
    if first == 0 and last >= (_ALL_TYPES if typed else _ALL_PORTS):
        return "protocol", f"{identity} . {protocol}"
    last = min(last, _ALL_TYPES) if typed else last
    ports = str(first) if first == last else f"{first}-{last}"
    kind = (typed or "port") if first == last else ("range_" + typed if typed else "range")
    return kind, f"{identity} . {ports}" if typed else f"{identity} . {protocol} . {ports}"


def add_policy(name: str, policy: Compiled) -> Iterator[str]:
    """Commands that make a chain of this name, and its maps."""
    for kind, elements in policy.maps:
        key, flags = _LOOKUPS[kind]
        yield f"add map {TABLE} {name}_{kind} {{ typeof {key} : verdict;{flags} }}"
        listed = ", ".join(f"{element} : {_verdict(policy.direction, decision)}" for element, decision in elements)
        yield f"add element {TABLE} {name}_{kind} {{ {listed} }}"
    yield f"add chain {TABLE} {name}"
    yield f"add rule {TABLE} {name} jump peer_of_{policy.direction}"
    for kind, _ in policy.maps:
        yield f"add rule {TABLE} {name} {_LOOKUPS[kind][0]} vmap @{name}_{kind}"
    if policy.default is not Decision.ALLOW:
        yield f"add rule {TABLE} {name} {_verdict(policy.direction, policy.default)}"


def delete_policy(name: str, policy: Compiled) -> Iterator[str]:
    yield f"flush chain {TABLE} {name}"
    yield f"delete chain {TABLE} {name}"
    for kind, _ in policy.maps:
        yield f"delete map {TABLE} {name}_{kind}"


def _verdict(direction: Direction, decision: Decision) -> str:
    return "return" if decision is Decision.ALLOW else f"goto {drop_chain(direction, decision)}"


# Differences of maps


def change_elements(name: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """Commands that turn one content of a plain map into another."""
    gone = [f"{key} : {value}" for key, value in before.items() if after.get(key) != value]
    come = [f"{key} : {value}" for key, value in after.items() if before.get(key) != value]
    if gone:
        yield f"delete element {TABLE} {name} {{ {', '.join(gone)} }}"
    if come:
        yield f"add element {TABLE} {name} {{ {', '.join(come)} }}"


def replace_ranges(name: str, ranges: Sequence[Range]) -> Iterator[str]:
    """Commands that give an interval map a new content."""
    yield f"flush map {TABLE} {name}"
    if ranges:
        listed = ", ".join(f"{first}-{last} : {identity}" if first != last else f"{first} : {identity}" for first, last, identity in ranges)
        yield f"add element {TABLE} {name} {{ {listed} }}"


def disjoint(prefixes: Mapping[str, int], version: int) -> tuple[Range, ...]:
    """Prefixes where the longest wins, as ranges that do not overlap: interval maps know no longest match."""
    networks = sorted(
        (
            (network, identity)
            for network, identity in ((ipaddress.ip_network(text), identity) for text, identity in prefixes.items())
            if network.version == version
        ),
        key=lambda each: (int(each[0].network_address), each[0].prefixlen),
    )
    make = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    out: list[tuple[int, int, int]] = []
    open_: list[tuple[int, int]] = []  # (last address, identity), outermost first
    at = 0

    def upto(end: int) -> None:
        """Everything from `at` to `end` (excluded) belongs to the innermost open prefix."""
        nonlocal at
        if open_ and at < end:
            if out and out[-1][2] == open_[-1][1] and out[-1][1] + 1 == at:
                out[-1] = (out[-1][0], end - 1, open_[-1][1])
            else:
                out.append((at, end - 1, open_[-1][1]))
        at = max(at, end)

    for network, identity in networks:
        first = int(network.network_address)
        while open_ and open_[-1][0] < first:
            upto(open_[-1][0] + 1)
            open_.pop()
        upto(first)
        open_.append((int(network.broadcast_address), identity))
    while open_:
        upto(open_[-1][0] + 1)
        open_.pop()
    return tuple((str(make(first)), str(make(last)), identity) for first, last, identity in out)


# Services


class Forwarding(Struct, frozen=True):
    """One port of a service in one family: where it listens, and the backends that take turns."""

    address: str
    protocol: int
    port: int
    backends: tuple[tuple[str, int], ...]


def add_services(forwardings: Iterable[Forwarding]) -> Iterator[str]:
    for number, each in enumerate(forwardings):
        chain = f"service_{number}"
        family, version = ("ip6", "6") if ":" in each.address else ("ip", "4")
        turns = ", ".join(f"{turn} : {address} . {port}" for turn, (address, port) in enumerate(each.backends))
        yield f"add chain {TABLE} {chain}"
        yield f"add rule {TABLE} {chain} meta l4proto {each.protocol} dnat {family} to numgen inc mod {len(each.backends)} map {{ {turns} }}"
        yield f"add element {TABLE} service{version} {{ {each.address} . {each.protocol} . {each.port} : goto {chain} }}"


def delete_services(count: int) -> Iterator[str]:
    yield f"flush map {TABLE} service4"
    yield f"flush map {TABLE} service6"
    for number in range(count):
        yield f"flush chain {TABLE} service_{number}"
        yield f"delete chain {TABLE} service_{number}"
