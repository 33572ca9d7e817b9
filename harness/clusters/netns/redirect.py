"""Redirection of connections to a node's proxies, as nftables commands. Pure text; says nothing of what a proxy does with them.

Before routing, and after service translation, a packet of a pod whose egress rules have a proxy (by its link), or to a pod whose ingress rules
have one (by its address), is looked up by the peer's identity, its protocol and port. Where that names a proxy port, the packet is
handed to the socket there, addresses untouched (TPROXY), and policy is asked where it is delivered. The proxy connects onwards
from the client's own address. So that it is known whose connection that continues, it dials the target's address with the client's port;
here that is seen, told (`proxied`), and turned into the port that was meant, which the packet's mark carries; as it leaves, it is told
once more (`sent`), since its own port may have changed. What leaves an egress
proxy for a pod of the same node is sent round by loopback, to be redirected once more if that pod's ingress rules say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from harness.clusters.netns.ruleset import DELIVER, TABLE, TO_HOST, Label, log
from harness.errors import ClusterError
from harness.model.traffic import Direction
from harness.policy.map import DirectionPolicy, Interval, ProxyRules

PROXIED = 1 << 30
"""In a socket's mark (and in the mark of its connection): a proxy opened it, to continue a client's connection."""
INGRESS_DONE = 1 << 29
"""In a socket's mark: what the proxy lets pass here has been through the target's ingress rules."""
ROUTING_TABLE = 100

FIRST_PORT, LAST_PORT = 61000, 65000
"""Above every port that a client sends from."""
_FIRST_OWN_PORT = 1024
_INGRESS = 1 << 16
_ID = 0x1FFFF
WIDEST = 64
"""The most ports of one rule that are redirected: each has a proxy port of its own."""
_LOGS = ("proxied", "sent", "redirected_egress", "redirected_ingress")
"""What is told of redirected connections: the chains, and the words of their labels."""
_LOOKUP = "meta mark . meta l4proto . th dport"


class ProxyPort(Struct, frozen=True):
    """One port of a node's proxy: for connections to `target` that the same rules apply to. `number` is where the proxy listens."""

    number: int
    direction: Direction
    redirect: str
    rules: ProxyRules
    target: int

    @property
    def id(self) -> int:
        """The number, and the direction: what marks carry."""
        return self.number | (_INGRESS if self.direction is Direction.INGRESS else 0)

    @property
    def mark(self) -> int:
        """The mark of the sockets by which a proxy continues connections of this port."""
        return PROXIED | (INGRESS_DONE if self.direction is Direction.INGRESS else 0) | self.target

    @staticmethod
    def of_mark(mark: int) -> tuple[int, bool]:
        """What a socket's mark tells: the target's port, and whether its ingress rules were asked."""
        return mark & 0xFFFF, bool(mark & INGRESS_DONE)


class ProxyPorts:
    """Gives every set of rules its port, the same on all nodes and for good: what does not change stays where it is."""

    def __init__(self) -> None:
        self._ports: dict[tuple[Direction, str, ProxyRules, int], ProxyPort] = {}

    def port(self, direction: Direction, interval: Interval, target: int) -> ProxyPort:
        """The port for connections of an interval that has a redirect. Raises ClusterError where there are no more."""
        assert interval.proxy is not None  # noqa: S101 -- an interval with a redirect has its rules
        key = (direction, interval.redirect, interval.proxy, target)
        found = self._ports.get(key)
        if found is None:
            number = FIRST_PORT + len(self._ports)
            if number > LAST_PORT:
                raise ClusterError(
                    f"the lab has {LAST_PORT - FIRST_PORT + 1} proxy ports, and this run needs more different rules than that"
                )
            found = self._ports[key] = ProxyPort(number, *key)
        return found

    def of(self, policy: DirectionPolicy, direction: Direction) -> Iterator[tuple[int, Interval, ProxyPort]]:
        """Every port that a policy redirects: the peer's identity, the interval that it is from, and where it goes."""
        for identity, intervals in sorted(policy.by_identity.items()):
            for each in intervals:
                if not each.redirect:
                    continue
                if each.last - each.first >= WIDEST:
                    by = ", ".join(sorted({str(rule) for rule in each.rules}))
                    raise ClusterError(
                        f"the lab redirects at most {WIDEST} ports of a rule, and ports {each.first} to {each.last} have {each.redirect} rules: {by}",
                        hint="Name the ports that are served, or run this case on another cluster.",
                    )
                for target in range(each.first, each.last + 1):
                    yield identity, each, self.port(direction, each, target)


def own_ports(node: int) -> tuple[int, int]:
    """What the proxies of a node send from: below every port that a client sends from, and none that another node's use, since to this node
    those are clients."""
    # Nearly every case has two nodes, so those have the most.
    first, share, number = (_FIRST_OWN_PORT, 8400, node) if node < 2 else (_FIRST_OWN_PORT + 2 * 8400, 300, node - 2)
    return first + number * share, first + (number + 1) * share - 1


def frame(own: tuple[int, int], *, ipv6: bool) -> Iterator[str]:
    """Commands that add the frame to a node's table, once: nothing is redirected yet. `own` are the ports that its proxies send from."""
    families = (("4", "ip", "ipv4_addr"), ("6", "ip6", "ipv6_addr")) if ipv6 else (("4", "ip", "ipv4_addr"),)
    yield f"add map {TABLE} redirect_from {{ type ifname : verdict; }}"
    yield f"add map {TABLE} proxies {{ type mark : verdict; }}"
    for version, _, kind in families:
        yield f"add map {TABLE} redirect_to{version} {{ type {kind} : verdict; }}"
        yield f"add set {TABLE} itself{version} {{ type ifname . {kind}; }}"
    for name in ("to_proxy", "origin", *_LOGS):
        yield f"add chain {TABLE} {name}"
    by_target = tuple(f"{family} daddr vmap @redirect_to{version}" for version, family, _ in families)
    yield from _chain(
        "before_routing",
        "type filter hook prerouting priority dstnat + 10;",
        f"ct direction reply ct mark & {PROXIED} != 0 meta mark set {DELIVER} accept",
        "ct direction reply accept",
        # A pod that reaches itself through its own service skips policy, as in Cilium.
        *(f"ct status dnat iifname . {family} daddr @itself{version} accept" for version, family, _ in families),
        "iifname vmap @redirect_from",
        f"meta mark & {DELIVER} != 0 goto to_proxy",
        *by_target,
        f"meta mark & {DELIVER} != 0 goto to_proxy",
    )
    yield from _chain("to_proxy", "", f"meta mark & {_ID} vmap @proxies", "drop")
    yield from _chain(
        "delivered",
        "",
        "ct direction reply accept",
        "ct state related accept",
        "iifname vmap @from_pod",
        "meta mark set ct mark",
        f"ct state new ct mark & {_INGRESS} == 0 jump redirected_egress",
        f"ct state new ct mark & {_INGRESS} != 0 jump redirected_ingress",
        "accept",
    )
    # What a proxy continues is not the host's own; and where it ends at this host, it comes by loopback, yet from a client.
    yield f"insert rule {TABLE} host_output meta mark & {PROXIED} != 0 accept"
    yield f"add chain {TABLE} continued_to_host"
    yield f'insert rule {TABLE} input iifname "lo" meta mark & {DELIVER} == 0 ct mark & {PROXIED} != 0 goto continued_to_host'
    yield from _chain("continued_to_host", "", "ct direction reply accept", TO_HOST, "ct state new jump new_input", "accept")
    yield from _chain(
        "continued",
        "type filter hook output priority mangle;",
        f"meta mark & {PROXIED} == 0 accept",
        "ct state new jump proxied",
        f"ct state new ct mark set {PROXIED}",
    )
    # Where two clients' connections would leave by the same port, the kernel gives one of them another: never one that clients use.
    yield f"add rule {TABLE} postrouting ct mark & {PROXIED} != 0 meta l4proto {{ tcp, udp }} snat to :{own[0]}-{own[1]}"
    yield from _chain("continuing", "type filter hook postrouting priority srcnat + 1;", f"ct state new ct mark & {PROXIED} != 0 jump sent")
    yield from _chain("meant", "type nat hook output priority -101;", f"meta mark & {PROXIED} != 0 goto origin")
    yield from _chain(
        "redirect_output",
        "type route hook output priority -50;",
        f"ct direction reply ct mark & {PROXIED} != 0 meta mark set {DELIVER} accept",
        "ct direction reply accept",
        f"meta mark & {INGRESS_DONE} != 0 accept",
        *by_target,
    )


def labels(revision: int) -> Iterator[str]:
    """Commands that put the revision's number on what is told of redirected connections from now on."""
    for name in _LOGS:
        yield f"flush chain {TABLE} {name}"
        yield f"add rule {TABLE} {name} {log(Label(name, 0, new=True, revision=revision))}"


def add_port(port: ProxyPort) -> Iterator[str]:
    """Commands that lead to a proxy's port. A connection that came under other rules ends: none goes on by rules that are gone."""
    chain = f"proxy_{port.id}"
    yield f"add chain {TABLE} {chain}"
    yield from _chain(
        chain,
        "",
        f"ct state != new ct mark & {_ID} != {port.id} drop",
        f"ct state new ct mark set ct mark and {PROXIED} or {port.id}",
        *(f"meta l4proto {protocol} tproxy to :{port.number} accept" for protocol in ("tcp", "udp")),
        # Nobody listens there: what has to pass a proxy never passes without.
        "drop",
    )
    yield f"add element {TABLE} proxies {{ {port.id} : goto {chain} }}"


def add_target(target: int) -> Iterator[str]:
    """The command that turns the client's port back into this one, in what a proxy sends onwards."""
    yield f"add rule {TABLE} origin meta l4proto {{ tcp, udp }} meta mark & 0xffff == {target} dnat to :{target}"


def add_policy(name: str, direction: Direction, redirects: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Commands that make a chain that marks the packets which a policy redirects. `redirects` are keys and ids of proxy ports."""
    listed = ", ".join(f"{key} : {DELIVER | number}" for key, number in redirects)
    yield f"add map {TABLE} {name}_redirects {{ typeof {_LOOKUP} : meta mark; }}"
    yield f"add element {TABLE} {name}_redirects {{ {listed} }}"
    yield f"add chain {TABLE} {name}_redirect"
    yield f"add rule {TABLE} {name}_redirect jump peer_of_{direction}"
    yield f"add rule {TABLE} {name}_redirect meta mark set {_LOOKUP} map @{name}_redirects"


def delete_policy(name: str) -> Iterator[str]:
    yield f"flush chain {TABLE} {name}_redirect"
    yield f"delete chain {TABLE} {name}_redirect"
    yield f"delete map {TABLE} {name}_redirects"


def _chain(name: str, hook: str, *rules: str) -> Iterator[str]:
    if hook:
        yield f"add chain {TABLE} {name} {{ {hook} }}"
    yield from (f"add rule {TABLE} {name} {rule}" for rule in rules)
