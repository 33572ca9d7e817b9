"""Reachability as rows that a person can read: targets of a namespace that answer the same on a port to the same sources are one row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from harness.model.traffic import Entity, EntityName, External, Peer, PodRef, Protocol
from harness.policy.evaluate import Evaluator
from harness.policy.reach import Reachability
from harness.policy.reachrows import Port, Reach

OTHERS: tuple[Peer, ...] = (Entity(EntityName.HOST), Entity(EntityName.REMOTE_NODE))


class Row(Struct, frozen=True):
    """Targets alike on one port. `codes` has a Reach for each of the matrix' sources, in their order."""

    targets: tuple[Peer, ...]
    protocol: Protocol
    port: int
    codes: bytes

    @property
    def called(self) -> str:
        return str(self.port) + ("" if self.protocol is Protocol.TCP else f"/{self.protocol}")


class Group(Struct, frozen=True):
    """Peers of a namespace that are alike: as sources in every row, and as targets of the same rows."""

    peers: tuple[Peer, ...]
    codes: bytes
    """As sources, by row."""
    rows: frozenset[int]
    """In which they are targets."""


class Matrix(Struct, frozen=True):
    """All rows. `world` is the address that stands for all that no policy names."""

    rows: tuple[Row, ...]
    sources: tuple[Peer, ...]
    world: External

    def among(self, row: Row, reach: Reach) -> tuple[Peer, ...]:
        """The sources of which a row says this. A pod alone in its row is no source of it."""
        alone = row.targets[0] if len(row.targets) == 1 else None
        return tuple(peer for peer, code in zip(self.sources, row.codes, strict=True) if code == reach and peer != alone)

    def name(self, peer: Peer) -> str:
        return "world" if peer == self.world else str(peer)

    def describe(self, peers: Sequence[Peer], most: int | None = None) -> str:
        """A few words for many peers: whole namespaces as `shop/*`. At most `most` words (None: all)."""
        if not peers:
            return ""
        if set(peers) == set(self.sources):
            return "everyone"
        whole = Counter(map(namespace_of, self.sources))
        mine = Counter(map(namespace_of, peers))
        words: dict[str, int] = {}
        for peer in peers:
            space = namespace_of(peer)
            complete = space and mine[space] == whole[space] > 1
            words[f"{space}/* ({whole[space]})" if complete else self.name(peer)] = whole[space] if complete else 1
        shown = list(words)[:most]
        hidden = sum(list(words.values())[len(shown) :])
        return ", ".join(shown) + (f" and {hidden} more" if hidden else "")

    def groups(self) -> tuple[Group, ...]:
        """The sources, those alike together."""
        targets: dict[Peer, list[int]] = {}
        for number, row in enumerate(self.rows):
            for peer in row.targets:
                targets.setdefault(peer, []).append(number)
        found: dict[tuple[str, bytes, frozenset[int]], list[Peer]] = {}
        for place, peer in enumerate(self.sources):
            codes = bytes(row.codes[place] for row in self.rows)
            # Peers that are no pods keep names of their own.
            key = (namespace_of(peer) or self.name(peer), codes, frozenset(targets.get(peer, ())))
            found.setdefault(key, []).append(peer)
        return tuple(Group(tuple(peers), codes, rows) for (_, codes, rows), peers in found.items())


def matrix(evaluator: Evaluator, world: External, ports: Sequence[Port] = ()) -> Matrix:
    """Every pod's declared ports, and `ports` of everyone (of `world` too), as seen by every pod, the world, and the nodes."""
    pods = evaluator.state.pods
    declared: dict[Peer, tuple[Port, ...]] = {
        pod.ref: tuple(dict.fromkeys([*((each.protocol, each.port) for each in pod.ports), *ports])) for pod in pods
    }
    declared[world] = tuple(ports)
    asked = sorted({each for found in declared.values() for each in found}, key=lambda each: (each[1], each[0]))
    sources: tuple[Peer, ...] = (*(pod.ref for pod in sorted(pods, key=lambda pod: pod.ref)), world, *OTHERS)
    reachability = Reachability(evaluator, asked, sources)
    codes = reachability.codes()
    places = {port: place for place, port in enumerate(asked)}
    columns: dict[tuple[Port, int], bytes] = {}
    rows: dict[tuple[str, Port, bytes], list[Peer]] = {}
    for peer in sources:
        for port in declared.get(peer, ()):
            number = reachability.number(peer)
            column = columns.get((port, number))
            if column is None:
                column = columns[port, number] = codes[places[port], :, number][reachability.class_of].tobytes()
            rows.setdefault((namespace_of(peer), port, column), []).append(peer)
    return Matrix(
        tuple(Row(tuple(targets), *port, column) for (_, port, column), targets in _sorted(rows)),
        sources,
        world,
    )


def namespace_of(peer: Peer) -> str:
    """'' for what is no pod."""
    return peer.namespace if isinstance(peer, PodRef) else ""


def _sorted(rows: Mapping[tuple[str, Port, bytes], list[Peer]]) -> Iterable[tuple[tuple[str, Port, bytes], list[Peer]]]:
    """By the first target, pods first, then by port."""
    return sorted(rows.items(), key=lambda item: (not item[0][0], str(item[1][0]), item[0][1][1], item[0][1][0]))
