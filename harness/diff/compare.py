"""Two evaluators compared, flow by flow: what is decided otherwise, as changes that together are all of it, each flow in one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from msgspec import Struct

from harness.diff.cover import boxes
from harness.diff.judgement import Effect, Judge, Judgement, effect
from harness.diff.peers import Peers, peers_of
from harness.model.traffic import Peer, PodRef, Protocol
from harness.policy.evaluate import Evaluator
from harness.policy.ports import PortClass, port_classes
from harness.policy.table import ALL_PORTS

PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP, Protocol.ICMP, Protocol.ICMPV6)


class Change(Struct, frozen=True):
    """From each of the sources to each of the targets, on each of the ports: judged as `old` before, as `new` now."""

    sources: tuple[Peer, ...]
    targets: tuple[Peer, ...]
    ports: tuple[PortClass, ...]
    old: Judgement
    new: Judgement

    @property
    def effect(self) -> Effect:
        return effect(self.old, self.new)


class Difference(Struct, frozen=True):
    """All that changes between `peers` on `ports`. `removed` and `added` are pods of one side only, which are not compared."""

    changes: tuple[Change, ...]
    peers: Peers
    ports: tuple[PortClass, ...]
    removed: tuple[PodRef, ...] = ()
    added: tuple[PodRef, ...] = ()

    def of(self, wanted: Effect) -> tuple[Change, ...]:
        return tuple(each for each in self.changes if each.effect is wanted)


def compare(old: Evaluator, new: Evaluator, names: Mapping[str, str] | None = None) -> Difference:
    """What changes from `old` to `new`. `names`: what the addresses that both have learned stand for (`peers.names_of`)."""
    peers, ports = peers_of(old, new, names or {}), _joined(old, new)
    asked = [(each.protocol, each.first) for each in ports]
    before, after = Judge(old, asked, peers.all), Judge(new, asked, peers.all)
    alike: dict[tuple[int, int], list[Peer]] = {}
    for peer, *both in zip(peers.all, before.reachability.class_of.tolist(), after.reachability.class_of.tolist(), strict=True):
        alike.setdefault((both[0], both[1]), []).append(peer)
    members = list(alike.values())
    judgements: dict[Judgement, int] = {}

    def number(judgement: Judgement) -> int:
        return judgements.setdefault(judgement, len(judgements))

    was = before.numbers([each for each, _ in alike], number)
    now = after.numbers([each for _, each in alike], number)
    known = list(judgements)
    changes = []
    changed = was != now
    for one, other in np.unique(np.stack((was[changed], now[changed]), axis=1), axis=0).tolist():
        for box in boxes((was == one) & (now == other)):
            sources, targets = (tuple(sorted(_of(members, side), key=peers.all.index)) for side in (box.second, box.third))
            changes.append(Change(sources, targets, tuple(ports[at] for at in box.first), known[one], known[other]))
    refs = [{pod.ref for pod in each.state.pods} for each in (old, new)]
    return Difference(tuple(changes), peers, ports, tuple(sorted(refs[0] - refs[1])), tuple(sorted(refs[1] - refs[0])))


def _of(members: list[list[Peer]], places: tuple[int, ...]) -> list[Peer]:
    return [peer for place in places for peer in members[place]]


def _joined(old: Evaluator, new: Evaluator) -> tuple[PortClass, ...]:
    """The ports that either side tells apart."""
    edges: dict[Protocol, set[int]] = {each: {ALL_PORTS + 1} for each in PROTOCOLS}
    for evaluator in (old, new):
        for each in port_classes(evaluator, PROTOCOLS):
            edges[each.protocol].add(each.first)
    return tuple(PortClass(each, first, after - 1) for each in PROTOCOLS for first, after in itertools.pairwise(sorted(edges[each])))
