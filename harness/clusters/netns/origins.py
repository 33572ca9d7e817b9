"""Whose connection a proxy continues: the client's own port behind each port that a proxy sends from. Cilium's proxy keeps the client's port;
Envoy cannot, so what is seen of its connections is told as if it did."""

from __future__ import annotations

from typing import TypeAlias, TypeVar

from msgspec import Struct

from harness.clusters.netns.packet import Packet
from harness.clusters.netns.redirect import ProxyPort

_KEPT = 1 << 16
_Key: TypeAlias = tuple[bytes, int, bytes, int]
_K = TypeVar("_K")
_V = TypeVar("_V")


class Origin(Struct, frozen=True):
    """`port` is what the client sent from; `ingress_done`: the target's ingress rules were asked already."""

    port: int
    ingress_done: bool


class Origins:
    """Learned from the first packet of each continued connection, by (source, its port, destination, its port), addresses as in packets."""

    def __init__(self) -> None:
        self._known: dict[_Key, Origin] = {}
        self._dialled: dict[tuple[bytes, bytes, int], tuple[_Key, Origin | None]] = {}

    def dialled(self, packet: Packet, mark: int) -> None:
        """A proxy dials, with the port of its client as the target's; the mark says which was meant."""
        target, ingress_done = ProxyPort.of_mark(mark)
        parent = self.find(packet.source, packet.port, packet.destination, target)
        key = (packet.source, packet.source_port, packet.destination, target)
        _keep(self._dialled, (packet.source, packet.destination, packet.sequence), (key, self._known.get(key)))
        _keep(self._known, key, Origin(parent.port if parent is not None else packet.port, ingress_done))

    def sent(self, packet: Packet) -> None:
        """The same packet, known by its sequence number, leaves: from another port where another connection still has that one."""
        key, former = self._dialled.pop((packet.source, packet.destination, packet.sequence), (None, None))
        if key is None or key[1] == packet.source_port:
            return
        _keep(self._known, (packet.source, packet.source_port, packet.destination, packet.port), self._known.pop(key))
        if former is not None:
            _keep(self._known, key, former)

    def find(self, source: bytes, source_port: int, destination: bytes, port: int) -> Origin | None:
        """The origin of a connection with these ends; None for one that no proxy opened."""
        return self._known.get((source, source_port, destination, port))


def _keep(into: dict[_K, _V], key: _K, value: _V) -> None:
    """The newest; what nobody asks for any more goes in the end."""
    into.pop(key, None)
    into[key] = value
    if len(into) > _KEPT:
        del into[next(iter(into))]
