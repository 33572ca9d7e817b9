"""Who reaches whom on which ports, for whole clusters: peers that policy cannot tell apart are one class, answered once.

Equal to the evaluator on every pair of peers and every port (a property test holds it to that). What it says of a cell is one `Reach`; which
rules decide, and requests above L4, are the evaluator's to tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.errors import ScenarioError
from harness.model.traffic import Direction, Entity, EntityName, Peer, PodRef, Protocol
from harness.policy.evaluate import Evaluator
from harness.policy.reachrows import Port, Reach, Rows

__all__ = ["Codes", "Port", "Reach", "Reachability"]

Codes: TypeAlias = NDArray[np.uint8]
"""Values of Reach, by port, source and target."""

_FLOATING = (Entity(EntityName.HOST), Entity(EntityName.REMOTE_NODE))
"""Which node these are depends on the other end."""


class Reachability:
    """The verdicts between peers (by default all pods of the state) on ports, by classes; codes are made when they are asked for.

    `classes` are the peers, those alike together, `class_of` the class of each peer of `peers`, in their order. ScenarioError for a pod that is not in
    the state.
    """

    def __init__(self, evaluator: Evaluator, ports: Sequence[Port], peers: Sequence[Peer] | None = None) -> None:
        self.evaluator = evaluator
        self.ports = tuple(ports)
        self.peers: tuple[Peer, ...] = tuple(pod.ref for pod in evaluator.state.pods) if peers is None else tuple(peers)
        self._rows = {each: Rows(evaluator, each, self.ports) for each in Direction}
        self._by_node = evaluator.nodes_matter
        found: dict[object, int] = {}
        members: list[list[Peer]] = []
        numbers = []
        for peer in self.peers:
            key = self._key(peer)
            number = found.setdefault(key, len(members))
            if number == len(members):
                members.append([])
            members[number].append(peer)
            numbers.append(number)
        self.classes: tuple[tuple[Peer, ...], ...] = tuple(map(tuple, members))
        self.class_of: NDArray[np.intp] = np.array(numbers, dtype=np.intp)
        self._index = {peer: number for number, each in enumerate(self.classes) for peer in each}
        self._at_node: dict[object, list[int]] = {}
        for number, each in enumerate(self.classes):
            self._at_node.setdefault(self._place(each[0]), []).append(number)

    def _key(self, peer: Peer) -> object:
        """Peers with equal keys are alike: as peers of others, and as endpoints that policies select."""
        evaluator = self.evaluator
        if self._by_node and (peer in _FLOATING or (isinstance(peer, PodRef) and evaluator.pod(peer).host_network)):
            return peer if peer in _FLOATING else ("node", self._place(peer))
        subject = evaluator.subject(peer, peer)
        position = evaluator.position(peer, "")
        return self._place(peer), position, *(rows.number(subject) for rows in self._rows.values())

    def _place(self, peer: Peer) -> object:
        """What stands for the node from which this peer sees others; one for all where nodes do not matter."""
        if not self._by_node:
            return ""
        return self.evaluator.pod(peer).node if isinstance(peer, PodRef) else peer if peer in _FLOATING else ""

    def codes(self, sources: Sequence[int] | None = None, targets: Sequence[int] | None = None) -> Codes:
        """Between classes (all, or those of the numbers given): an array by port, source class and target class."""
        every = range(len(self.classes))
        mine, others = list(every if sources is None else sources), list(every if targets is None else targets)
        found: Codes = np.empty((len(self.ports), len(mine), len(others)), dtype=np.uint8)
        for source_places, at_source in self._grouped(mine):
            for target_places, at_target in self._grouped(others):
                block = self._block(at_source, at_target)
                if block.shape == found.shape:
                    return block
                found[np.ix_(range(len(self.ports)), source_places, target_places)] = block
        return found

    def _grouped(self, numbers: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
        """The places in a list of class numbers, and these numbers, by the node of the classes."""
        groups: dict[object, tuple[list[int], list[int]]] = {}
        for place, number in enumerate(numbers):
            places, group = groups.setdefault(self._place(self.classes[number][0]), ([], []))
            places.append(place)
            group.append(number)
        yield from groups.values()

    def _block(self, sources: Sequence[int], targets: Sequence[int]) -> Codes:
        """Between classes of one node and classes of one node."""
        egress = self._side(Direction.EGRESS, sources, targets)
        ingress = self._side(Direction.INGRESS, targets, sources)
        for mine, other in zip(egress, ingress, strict=True):
            np.maximum(mine, other.T, out=mine)
        return egress

    def _side(self, direction: Direction, mine: Sequence[int], others: Sequence[int]) -> Codes:
        evaluator, rows = self.evaluator, self._rows[direction]
        other = self.classes[others[0]][0]
        subjects = [evaluator.subject(peer, other) for peer in (self.classes[number][0] for number in mine)]
        node = next((each.node for each in subjects if each is not None), "")
        positions = [evaluator.position(self.classes[number][0], node) for number in others]
        found = rows.codes([rows.number(each) for each in subjects], positions)
        for row, number in enumerate(mine):
            if subjects[row] is None and evaluator.depends_on_node(self.classes[number][0], other):
                found[:, row] = Reach.UNKNOWN
        return found

    def matrix(self, sources: slice = slice(None)) -> Codes:
        """Between peers, not classes: an array by port, source (all, or a slice of `peers`) and target. One byte each: mind the size."""
        wanted = self.class_of[sources]
        mine, places = np.unique(wanted, return_inverse=True)
        codes = self.codes(mine.tolist())
        found: Codes = np.empty((len(self.ports), len(wanted), len(self.peers)), dtype=np.uint8)
        for at, each in enumerate(codes):
            np.take(np.take(each, self.class_of, axis=1), places, axis=0, out=found[at])
        return found

    def number(self, peer: Peer) -> int:
        """The class of a peer."""
        try:
            return self._index[peer]
        except KeyError:
            raise ScenarioError(f"{peer} is none of the peers whose reachability was asked for") from None

    def reach(self, source: Peer, target: Peer, protocol: Protocol, port: int) -> Reach:
        """One cell."""
        return Reach(int(self.codes([self.number(source)], [self.number(target)])[self.ports.index((protocol, port)), 0, 0]))

    def counts(self) -> dict[Reach, int]:
        """How many cells (ports times ordered pairs of peers, a peer with itself included) there are of each kind. Classes are not expanded."""
        sizes = np.array([len(each) for each in self.classes], dtype=np.int64)
        totals = dict.fromkeys(Reach, 0)
        band = max(1, (1 << 24) // max(1, len(self.classes) * len(self.ports)))
        for first in range(0, len(self.classes), band):
            codes = self.codes(range(first, min(first + band, len(self.classes))))
            for kind in Reach:
                totals[kind] += int(((codes == kind).sum(axis=0, dtype=np.int64) @ sizes) @ sizes[first : first + band])
        return totals
