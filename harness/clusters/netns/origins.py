"""Whose connection a proxy continues: the client's own port behind each port that a proxy sends from. Cilium's proxy keeps the client's port;
Envoy cannot, so what is seen of its connections is told as if it did."""

from __future__ import annotations

from dataclasses import dataclass

from harness.clusters.netns.redirect import ProxyPort

_KEPT = 1 << 16


@dataclass(frozen=True, slots=True)
class Origin:
    """`port` is what the client sent from; `ingress_done`: the target's ingress rules were asked already."""

    port: int
    ingress_done: bool


class Origins:
    """Learned from the first packet of each continued connection, by (source, its port, destination, its port), addresses as in packets."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int, bytes, int], Origin] = {}

    def learn(self, source: bytes, source_port: int, destination: bytes, dialled: int, mark: int) -> None:
        """A proxy dials, with the port of its client as the target's; the mark says which was meant."""
        target, ingress_done = ProxyPort.of_mark(mark)
        former = self._known.get((source, dialled, destination, target))
        key = (source, source_port, destination, target)
        self._known.pop(key, None)
        self._known[key] = Origin(former.port if former is not None else dialled, ingress_done)
        if len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]

    def find(self, source: bytes, source_port: int, destination: bytes, port: int) -> Origin | None:
        """The origin of a connection with these ends; None for one that no proxy opened."""
        return self._known.get((source, source_port, destination, port))
