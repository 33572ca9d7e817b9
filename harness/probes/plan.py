"""The plan: which probes a list of wanted exchanges needs, and in which order they may be sent. Knows nothing of cases or clusters.

Besides the exchange itself, a plan holds the lookup that a named target needs first, and the proof of life of every server that
could answer, asked from inside the server's own site over loopback, where no policy is in the way.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from harness.model.probe import Probe, Site
from harness.model.traffic import Direction, Family, Protocol, Request, RequestKind

ICMP_ECHO = 8
ICMPV6_ECHO = 128


class Server(Struct, frozen=True):
    """One served port: where it runs, how to reach it there, and the name it gives in its answers."""

    name: str
    site: Site
    address: str
    protocol: Protocol
    port: int
    serve: str = "auto"


class Exchange(Struct, frozen=True, gc=False):
    """One exchange that is wanted: who dials what, and who may answer. `timeout` is in seconds.

    `servers` are those whose answer is the intended one (a service's backends); empty where nobody is meant to answer.
    `lookup` is the DNS question that the client must ask first, as an exchange of its own.
    """

    site: Site
    address: str
    port: int
    protocol: Protocol
    family: Family
    timeout: float
    servers: tuple[Server, ...] = ()
    request: Request | None = None
    serve: str = "auto"
    source_address: str = ""
    lookup: Exchange | None = None
    awaited: frozenset[Direction] = frozenset()


LifeKey: TypeAlias = tuple[Site, str, Protocol, int]


class Planned(Struct, frozen=True, gc=False):
    """The probes of one exchange. `life` are the proofs of life it rests on; none where they were not asked for."""

    probe: Probe
    lookup: Probe | None = None
    life: tuple[Probe, ...] = ()


class Plan(Struct, frozen=True):
    """`exchanges` are in the order they were wanted. Probes of one round may be sent together; rounds follow each other."""

    exchanges: tuple[Planned, ...]
    rounds: tuple[tuple[Probe, ...], ...]


class Stamp(Struct, frozen=True):
    """Numbers probes and gives each a nonce that no other probe of the run has. `run` is a random text of hexadecimal digits."""

    run: str
    ids: Iterator[int]

    @classmethod
    def of(cls, run: str, first: int = 1) -> Stamp:
        return cls(run, itertools.count(first))

    def probe(self, exchange: Exchange, *, liveness: bool = False) -> Probe:
        number = next(self.ids)
        return Probe(
            id=number,
            site=exchange.site,
            protocol=exchange.protocol,
            family=exchange.family,
            address=exchange.address,
            port=exchange.port,
            nonce=f"{self.run}{number:08x}",
            timeout=exchange.timeout,
            expected_servers=tuple(server.name for server in exchange.servers),
            request=exchange.request,
            serve=exchange.serve,
            source_address=exchange.source_address,
            liveness=liveness,
            alternatives=_alternatives(exchange),
            awaited=exchange.awaited,
        )


def plan(wanted: Iterable[Exchange], stamp: Stamp, *, liveness: bool) -> Plan:
    """The probes for every exchange wanted. With `liveness`, each server that could answer one of them is asked once."""
    proofs: dict[LifeKey, Probe] = {}
    exchanges: list[Planned] = []
    for each in wanted:
        life = tuple(_proof(server, each, proofs, stamp) for server in each.servers) if liveness else ()
        lookup = stamp.probe(each.lookup) if each.lookup else None
        exchanges.append(Planned(stamp.probe(each), lookup, life))
    return Plan(tuple(exchanges), _rounds(tuple(proofs.values()), exchanges))


def again(planned: Planned, stamp: Stamp) -> Planned:
    """The same exchange once more, with fresh numbers and nonces; its proofs of life stand."""
    return replace(
        planned,
        probe=_renumbered(planned.probe, stamp),
        lookup=_renumbered(planned.lookup, stamp) if planned.lookup else None,
    )


def rounds(exchanges: Sequence[Planned]) -> tuple[tuple[Probe, ...], ...]:
    """The order in which exchanges (without their proofs of life) may be sent."""
    return _rounds((), exchanges)


def _renumbered(probe: Probe, stamp: Stamp) -> Probe:
    number = next(stamp.ids)
    return replace(probe, id=number, nonce=f"{stamp.run}{number:08x}")


def _proof(server: Server, exchange: Exchange, proofs: dict[LifeKey, Probe], stamp: Stamp) -> Probe:
    key = (server.site, server.address, server.protocol, server.port)
    if key not in proofs:
        proofs[key] = stamp.probe(
            Exchange(
                site=server.site,
                address=server.address,
                port=server.port,
                protocol=server.protocol,
                family=Family.of(server.address),
                timeout=exchange.timeout,
                servers=(server,),
                request=exchange.request if exchange.request and exchange.request.kind in _SPOKEN_ALIKE else None,
                serve=server.serve,
            ),
            liveness=True,
        )
    return proofs[key]


def _alternatives(exchange: Exchange) -> tuple[tuple[str, int], ...]:
    """Where a service may send the packet: its own address or any backend's, with the service's port or the target's."""
    dialled = (exchange.address, exchange.port)
    behind = [(server.address, server.port) for server in exchange.servers]
    if all(each == dialled for each in behind):
        return ()
    translated = [(address, exchange.port) for address, _ in behind] + [(exchange.address, port) for _, port in behind]
    return tuple(dict.fromkeys(each for each in (*behind, *translated) if each != dialled))


_SPOKEN_ALIKE = frozenset({RequestKind.ICMP, RequestKind.ICMP6, RequestKind.LOOKUP})
"""Requests that say nothing of a resource: asking them of oneself proves the server's life as well as any other would."""


def _rounds(first: Sequence[Probe], exchanges: Sequence[Planned]) -> tuple[tuple[Probe, ...], ...]:
    """Lookups go before what they resolve. Of ICMP, whose flows carry no port, only one per pair is in flight."""
    result: list[list[Probe]] = [[]]
    pings: list[set[tuple[Site, str]]] = [set()]

    def send(probe: Probe, earliest: int) -> int:
        index = earliest
        pair = (probe.site, probe.address)
        icmp = probe.protocol in (Protocol.ICMP, Protocol.ICMPV6)
        while True:
            if index == len(result):
                result.append([])
                pings.append(set())
            if not icmp or pair not in pings[index]:
                break
            index += 1
        if icmp:
            pings[index].add(pair)
        result[index].append(probe)
        return index

    for probe in first:
        send(probe, 0)
    for each in exchanges:
        send(each.probe, send(each.lookup, 0) + 1 if each.lookup else 0)
    return tuple(tuple(round_) for round_ in result if round_)
