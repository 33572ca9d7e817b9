"""The lab's network: nodes, pods, the world and the API server's host. Links, addresses and routes; no servers and no policy.

Every pod has a link to its node, every node one to each other node, and node, world and API server one to the lab's own namespace, which
only forwards.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness.clusters.netns import addresses, rtnetlink
from harness.clusters.netns.kernel import Namespace
from harness.errors import ClusterError

_UPLINK = 2
_FIRST_POD = 100
_WORLD_PORT = 2
_APISERVER_PORT = 3
_FIRST_NODE_PORT = 10
_FIRST_NEIGHBOUR = 20


@dataclass(slots=True, eq=False)
class Host:
    """A machine with one uplink: a node, the world, the API server's host. `addresses` are its own, IPv4 first."""

    name: str
    namespace: Namespace
    addresses: tuple[str, ...]
    extra: set[str] = field(default_factory=set)
    """More addresses that it has taken on (the world: those of externals)."""


@dataclass(slots=True, eq=False)
class PodSlot:
    """A ready pod: a namespace with its link and addresses. Which pod it is, if any, is the case's business."""

    node: str
    number: int
    namespace: Namespace
    addresses: tuple[str, ...]

    @property
    def link(self) -> str:
        """The name of the node's end of the link."""
        return f"pod{self.number}"


@dataclass(slots=True, eq=False)
class Node(Host):
    index: int = 0
    slots: list[PodSlot] = field(default_factory=list)
    free: list[PodSlot] = field(default_factory=list)


def ipv6_here() -> bool:
    """Whether this kernel has IPv6."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return Path("/proc/sys/net/ipv6/conf/all/forwarding").exists()


class Topology:
    """Everything that has a network of its own. The process is in the lab's namespace when it makes one."""

    def __init__(self, *, ipv6: bool) -> None:
        self.home = Namespace.current()
        self.ipv6 = ipv6
        self._mac = 0
        self.nodes: dict[str, Node] = {}
        self._forward(self.home)
        self._home = rtnetlink.Links(self.home)
        self._home.send([rtnetlink.up(rtnetlink.LOOPBACK, ipv6=ipv6)])
        self.world = Host("world", *self._attached("world", _WORLD_PORT, addresses.WORLD))
        self._home.send([rtnetlink.route("0.0.0.0/0", _WORLD_PORT, addresses.GATEWAY4), *self._six("::/0", _WORLD_PORT)])
        self.kube_apiserver = Host("kube-apiserver", *self._attached("apiserver", _APISERVER_PORT, addresses.KUBE_APISERVER))

    def node(self, name: str) -> Node:
        """The node of that name, made when it is first asked for. Raises ClusterError for a name that no lab has."""
        if name not in self.nodes:
            try:
                index = addresses.node_index(name)
            except ValueError as error:
                raise ClusterError(str(error)) from None
            port = _FIRST_NODE_PORT + index
            namespace, own = self._attached(f"node-{name}", port, addresses.node(index))
            self._forward(namespace)
            pods4, pods6 = addresses.pods_of(index)
            self._home.send([rtnetlink.route(pods4, port, addresses.GATEWAY4), *self._six(pods6, port)])
            node = Node(f"node-{name}", namespace, own, index=index)
            for other in self.nodes.values():
                self._join(node, other)
            self.nodes[name] = node
        return self.nodes[name]

    def add_pods(self, name: str, count: int) -> None:
        """Make `count` more pods ready on a node."""
        node = self.node(name)
        first = len(node.slots)
        if first + count > addresses.MAX_PODS:
            raise ClusterError(f"node {name} of the lab has room for {addresses.MAX_PODS} pods, not {first + count}")
        made = [
            PodSlot(name, number, Namespace.create(), self._usable(addresses.pod(node.index, number)))
            for number in range(first, first + count)
        ]
        messages: list[bytes] = []
        for slot in made:
            index = _FIRST_POD + slot.number
            messages.append(rtnetlink.veth(slot.link, index, self._next_mac(), slot.namespace, "eth0", _UPLINK))
            messages.append(rtnetlink.up(index, ipv6=self.ipv6))
            messages.extend(
                rtnetlink.route(address, index, addresses.GATEWAY6 if ":" in address else addresses.GATEWAY4) for address in slot.addresses
            )
        links = rtnetlink.Links(node.namespace)
        try:
            links.send(messages)
            for slot in made:
                rtnetlink.send(slot.namespace, self._own(slot.addresses))
            links.wait_up(_FIRST_POD + slot.number for slot in made)
        finally:
            links.close()
        node.slots.extend(made)
        node.free.extend(made)

    def deliver_marked(self, name: str, mark: int, table: int, own_ports: tuple[int, int]) -> None:
        """Let packets with this mark reach sockets of a node, whatever their destination. What is sent from there uses `own_ports`."""
        namespace = self.node(name).namespace
        families = (socket.AF_INET, socket.AF_INET6) if self.ipv6 else (socket.AF_INET,)
        rtnetlink.send(namespace, [message for family in families for message in rtnetlink.deliver_marked(family, mark, table)])
        namespace.enter()
        net = Path("/proc/sys/net/ipv4")
        for each in (net / "conf").iterdir():
            (each / "rp_filter").write_text("0")
        for state in ("time_wait", "close"):
            # A port is free for the next connection when the last is over. Where a kernel keeps this to itself, thousands of them run out.
            with suppress(OSError):
                Path(f"/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{state}").write_text("1")
        (net / "ip_local_port_range").write_text(f"{own_ports[0]} {own_ports[1]}")

    def take(self, name: str) -> PodSlot:
        """A pod that is free, made if there is none."""
        node = self.node(name)
        if not node.free:
            self.add_pods(name, 1)
        return node.free.pop(0)

    def give_back(self, slots: Iterable[PodSlot]) -> None:
        for slot in slots:
            self.nodes[slot.node].free.append(slot)

    def take_on(self, wanted: Iterable[str]) -> None:
        """Let the world have these addresses too."""
        new = self._usable({address for address in wanted if address not in self.world.extra and address not in self.world.addresses})
        if new:
            rtnetlink.send(self.world.namespace, [*(rtnetlink.address(rtnetlink.LOOPBACK, each) for each in new), *self._delivered(new)])
            self.world.extra.update(new)

    @property
    def hosts(self) -> Mapping[str, Host]:
        """Every machine by name: nodes as `node-a`, `world`, `kube-apiserver`."""
        return {host.name: host for host in (*self.nodes.values(), self.world, self.kube_apiserver)}

    def close(self) -> None:
        self._home.close()
        for host in self.hosts.values():
            with suppress(OSError):
                host.namespace.close()
        for node in self.nodes.values():
            for slot in node.slots:
                with suppress(OSError):
                    slot.namespace.close()

    # Making

    def _attached(self, link: str, port: int, wanted: Iterable[str]) -> tuple[Namespace, tuple[str, ...]]:
        """A new namespace joined to the lab's by a link, with its addresses and its routes both ways."""
        own = self._usable(wanted)
        namespace = Namespace.create()
        self._home.send([
            rtnetlink.veth(link, port, self._next_mac(), namespace, "eth0", _UPLINK),
            rtnetlink.up(port, ipv6=self.ipv6),
            *(rtnetlink.route(each, port, addresses.GATEWAY6 if ":" in each else addresses.GATEWAY4) for each in own),
        ])
        rtnetlink.send(namespace, self._own(own))
        self._home.wait_up([port])
        return namespace, own

    def _join(self, one: Node, other: Node) -> None:
        """A link between two nodes, and the routes to each other's pods over it."""
        links = rtnetlink.Links(one.namespace)
        try:
            index, peer = _FIRST_NEIGHBOUR + other.index, _FIRST_NEIGHBOUR + one.index
            links.send([
                rtnetlink.veth(f"to-{other.name}", index, self._next_mac(), other.namespace, f"to-{one.name}", peer),
                *self._towards(other, index),
            ])
            rtnetlink.send(other.namespace, self._towards(one, peer))
            links.wait_up([index])
        finally:
            links.close()

    def _towards(self, node: Node, index: int) -> list[bytes]:
        prefixes = self._usable((*node.addresses, *addresses.pods_of(node.index)))
        return [
            rtnetlink.up(index, ipv6=self.ipv6),
            *(rtnetlink.route(each, index, addresses.GATEWAY6 if ":" in each else addresses.GATEWAY4) for each in prefixes),
        ]

    def _own(self, own: Iterable[str]) -> list[bytes]:
        return [
            rtnetlink.up(rtnetlink.LOOPBACK, ipv6=self.ipv6),
            rtnetlink.up(_UPLINK, ipv6=self.ipv6),
            *(rtnetlink.address(_UPLINK, each) for each in own),
            *self._delivered(own),
            rtnetlink.route("0.0.0.0/0", _UPLINK, addresses.GATEWAY4),
            *self._six("::/0", _UPLINK),
        ]

    def _delivered(self, own: Iterable[str]) -> Iterator[bytes]:
        return (rtnetlink.delivered(each) for each in own if ":" in each)

    def _six(self, prefix: str, index: int) -> list[bytes]:
        return [rtnetlink.route(prefix, index, addresses.GATEWAY6)] if self.ipv6 else []

    def _usable(self, wanted: Iterable[str]) -> tuple[str, ...]:
        return tuple(each for each in wanted if self.ipv6 or ":" not in each)

    def _next_mac(self) -> bytes:
        self._mac += 1
        return b"\x02\x00" + self._mac.to_bytes(4, "big")

    def _forward(self, namespace: Namespace) -> None:
        # /proc/sys/net shows the namespace of the thread that opens it.
        namespace.enter()
        settings = {"ipv4/ip_forward": "1", "ipv4/conf/all/send_redirects": "0", "ipv4/conf/default/send_redirects": "0"}
        if self.ipv6:
            settings["ipv6/conf/all/forwarding"] = "1"
        for name, value in settings.items():
            Path("/proc/sys/net", name).write_text(value)
