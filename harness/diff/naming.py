"""Short names for sets of peers and of ports: exact, so that what a line names is what it means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from msgspec import Struct

from harness.diff.peers import Peers
from harness.model.cluster import ClusterState
from harness.model.traffic import Entity, External, Peer, PodRef, Protocol
from harness.policy.identities import security_relevant
from harness.policy.ports import PortClass
from harness.policy.prefix import Prefix

_FEW = 3
"""So many exceptions, at most, are told instead of a list."""


class Phrase(Struct, frozen=True):
    """Words, and the peers that they mean."""

    text: str
    means: frozenset[Peer]


class Naming:
    """Names sets of the peers that are compared; labels are those pods have in `state`."""

    def __init__(self, peers: Peers, state: ClusterState) -> None:
        self._peers = peers
        self._labels = {pod.ref: {f"{key}={value}" for key, value in pod.labels.items() if security_relevant(key)} for pod in state.pods}
        pods, world = frozenset(peers.pods), frozenset(peers.world)
        everybody = frozenset(peers.all)
        self._wholes: Mapping[str, frozenset[Peer]] = {
            "anyone": everybody,
            "anyone in the cluster": everybody - world,
            **({"every pod": pods} if len(pods) > 1 else {}),
        }
        self.phrases = lru_cache(maxsize=None)(self._phrases)

    def text(self, peers: Iterable[Peer]) -> str:
        """The phrases of a set, with commas."""
        return ", ".join(each.text for each in self.phrases(frozenset(peers)))

    def _phrases(self, wanted: frozenset[Peer]) -> tuple[Phrase, ...]:
        """The fewest phrases found that together mean exactly these peers, each once."""
        found = tuple(self._listed(wanted))
        cost = len(found)
        for words, whole in self._wholes.items():
            lacking = tuple(self._listed(whole - wanted))
            beyond = tuple(self._listed(wanted - whole))
            if len(lacking) <= _FEW and whole & wanted and (mine := 1 + len(lacking) + len(beyond)) < cost:
                found, cost = (Phrase(_except(words, lacking), whole & wanted), *beyond), mine
        return found

    def _listed(self, wanted: frozenset[Peer]) -> Iterator[Phrase]:
        by_namespace: dict[str, list[PodRef]] = {}
        for ref in self._peers.pods:
            by_namespace.setdefault(ref.namespace, []).append(ref)
        for namespace, refs in by_namespace.items():
            yield from self._of_namespace(namespace, refs, [ref for ref in refs if ref in wanted])
        yield from (Phrase(str(each), frozenset({each})) for each in self._peers.entities if each in wanted)
        yield from self._of_world(wanted)

    def _of_namespace(self, namespace: str, refs: Sequence[PodRef], wanted: Sequence[PodRef]) -> Iterator[Phrase]:
        mine = frozenset[Peer](wanted)
        if len(wanted) > 1 and len(wanted) == len(refs):
            yield Phrase(f"every pod of {namespace}", mine)
            return
        label = self._label_of(refs, wanted) if len(wanted) > 1 else ""
        lacking = [ref for ref in refs if ref not in mine]
        if label:
            yield Phrase(f"{namespace} pods with {label}", mine)
        elif 0 < len(lacking) <= _FEW and len(wanted) > 2 * len(lacking):
            yield Phrase(_except(f"every pod of {namespace}", (Phrase(ref.name, frozenset({ref})) for ref in lacking)), mine)
        else:
            yield from (Phrase(str(ref), frozenset({ref})) for ref in wanted)

    def _label_of(self, refs: Sequence[PodRef], wanted: Sequence[PodRef]) -> str:
        """A label that exactly these of the pods have, '' for none."""
        common = set.intersection(*(self._labels[ref] for ref in wanted))
        others = [self._labels[ref] for ref in refs if ref not in wanted]
        return min(
            (each for each in common if not any(each in labels for labels in others)), key=lambda each: (len(each), each), default=""
        )

    def _of_world(self, wanted: frozenset[Peer]) -> Iterator[Phrase]:
        unnamed = [name for address, name in self._peers.names.items() if address not in wanted]
        if wanted.issuperset(self._peers.prefixes) and len(unnamed) <= _FEW:
            lacking = (Phrase(_name_text(name), frozenset()) for name in unnamed)
            yield Phrase(_except("world", lacking), wanted.intersection(self._peers.world))
            return
        inside = {prefix: address for address, prefix in self._peers.prefixes.items() if address in wanted}
        outside = [prefix for address, prefix in self._peers.prefixes.items() if address not in wanted]
        told: set[Prefix] = set()
        for prefix in sorted(inside, key=lambda each: (each.length, each)):
            if prefix in told:
                continue
            holes = [each for each in outside if prefix.contains(each)]
            holes = [each for each in holes if not any(other != each and other.contains(each) for other in holes)]
            mine = [
                each for each in inside if prefix.contains(each) and each not in told and not any(hole.contains(each) for hole in holes)
            ]
            told.update(mine)
            yield Phrase(
                _except(_prefix_text(prefix), (Phrase(_prefix_text(each), frozenset()) for each in holes)),
                frozenset(inside[each] for each in mine),
            )
        for address, name in self._peers.names.items():
            if address in wanted:
                yield Phrase(_name_text(name), frozenset({address}))


def _except(words: str, lacking: Iterable[Phrase]) -> str:
    listed = ", ".join(each.text for each in lacking)
    return f"{words} (except {listed})" if listed else words


def _prefix_text(prefix: Prefix) -> str:
    return f"world:{prefix}" if prefix.length else f"world:IPv{prefix.version}"


def _name_text(name: str) -> str:
    return f"{name} (DNS)"


def members(peers: Iterable[Peer], of: Peers) -> list[str]:
    """Each peer by itself, for programs: `namespace/name`, entities, `world:CIDR`, `dns:NAME`."""
    return [_member(each, of) for each in peers]


def _member(peer: Peer, of: Peers) -> str:
    match peer:
        case External():
            return f"dns:{of.names[peer]}" if peer in of.names else f"world:{of.prefixes[peer]}"
        case PodRef() | Entity():
            return str(peer)


def ports_text(ports: Iterable[PortClass], every: Sequence[PortClass]) -> str:
    """Ports out of `every`, as in `TCP 80, 443`, `TCP except 8080`, `everything except UDP 53`."""
    wanted = frozenset(ports)
    if len(wanted) == len(every):
        return "everything"
    listed = _ports(wanted, every)
    lacking = _ports(frozenset(every) - wanted, every)
    if _length(lacking) < _length(listed):
        return f"everything except {_joined(lacking)}"
    return _joined(listed)


def _ports(wanted: frozenset[PortClass], every: Sequence[PortClass]) -> dict[str, list[Protocol]]:
    """Ranges in words ('' for all), and the protocols they are of."""
    found: dict[str, list[Protocol]] = {}
    for protocol in dict.fromkeys(each.protocol for each in every):
        mine = [each for each in every if each.protocol is protocol]
        inside = _ranges([each for each in mine if each in wanted])
        outside = _ranges([each for each in mine if each not in wanted])
        if inside:
            text = "" if not outside else f" except {', '.join(outside)}" if len(outside) < len(inside) else f" {', '.join(inside)}"
            found.setdefault(text.replace(" ", " type ", 1) if text and not protocol.has_ports else text, []).append(protocol)
    return found


def _ranges(ports: Sequence[PortClass]) -> list[str]:
    spans: list[tuple[int, int]] = []
    for each in ports:
        if spans and spans[-1][1] + 1 == each.first:
            spans[-1] = spans[-1][0], each.last
        else:
            spans.append((each.first, each.last))
    # Port 0 is in a range for the model's sake only: nothing is sent there.
    spans = [(first or 1, last) if last > 0 and ports[0].protocol.has_ports else (first, last) for first, last in spans]
    return [str(first) if first == last else f"{first}-{last}" for first, last in spans]


def _length(parts: Mapping[str, Sequence[Protocol]]) -> int:
    return sum(1 + text.count(",") + len(protocols) for text, protocols in parts.items())


def _joined(parts: Mapping[str, Sequence[Protocol]]) -> str:
    return "; ".join(f"{'/'.join(protocols)}{text}" for text, protocols in parts.items())
