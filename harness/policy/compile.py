"""Policies compiled to flat policy maps: per endpoint and direction, disjoint port intervals per identity, ready for a datapath.

Equal to the evaluator on every peer, protocol and port (a property test holds it to that), but made by sweeping over port boundaries
once per set of peers that no selector tells apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from msgspec.structs import replace

from harness.model.identity import Identity
from harness.model.traffic import Direction, PodRef
from harness.model.verdict import Decision
from harness.policy.evaluate import Evaluator
from harness.policy.identities import bits
from harness.policy.l7 import proxy_rules
from harness.policy.map import DirectionPolicy, EndpointPolicy, Interval, PolicyMaps
from harness.policy.options import Options
from harness.policy.rules import ALLOW_ANY_EGRESS, ALLOW_ANY_INGRESS, Parser
from harness.policy.subjects import Subject
from harness.policy.table import ALL_PORTS, DirectionTable, PeerEntry, blocks, decide

_REDIRECTS = {Parser.NONE: "", Parser.DNS: "dns", Parser.TLS: "tls"}
_IMPLICIT = frozenset({ALLOW_ANY_INGRESS, ALLOW_ANY_EGRESS})


def compile_maps(evaluator: Evaluator) -> PolicyMaps:
    """The maps of every pod that is a Cilium endpoint, and of every node while the host firewall is on."""
    compiler = _Compiler(evaluator)
    identities = {identity.number: identity for identity in evaluator.identities.identities}
    endpoints: dict[PodRef, EndpointPolicy] = {ref: compiler.endpoint(subject) for ref, subject in evaluator.subjects.pods.items()}
    hosts = {node: compiler.endpoint(subject) for node, subject in evaluator.subjects.hosts.items()}
    table = evaluator.identities
    return PolicyMaps(
        identities=MappingProxyType(identities),
        pods=MappingProxyType({ref: table.identities[position].number for ref, position in table.pods.items()}),
        ipcache=MappingProxyType({str(prefix): table.identities[position].number for prefix, position in table.by_prefix.items()}),
        endpoints=MappingProxyType(endpoints),
        hosts=MappingProxyType(hosts),
    )


class _Compiler:
    def __init__(self, evaluator: Evaluator) -> None:
        self._subjects = evaluator.subjects
        self._identities: Sequence[Identity] = evaluator.identities.identities
        self._everything = evaluator.identities.everything
        self._options: Options = evaluator.options
        self._directions: dict[int, DirectionPolicy] = {}
        self._endpoints: dict[tuple[int, int], EndpointPolicy] = {}

    def endpoint(self, subject: Subject) -> EndpointPolicy:
        ingress = self._subjects.table(subject, Direction.INGRESS)
        egress = self._subjects.table(subject, Direction.EGRESS)
        found = self._endpoints.get((id(ingress), id(egress)))
        if found is None:
            found = EndpointPolicy(self._direction(ingress), self._direction(egress))
            self._endpoints[id(ingress), id(egress)] = found
        return found

    def _direction(self, table: DirectionTable) -> DirectionPolicy:
        found = self._directions.get(id(table))
        if found is None:
            found = self._directions[id(table)] = DirectionPolicy(
                enforced=table.enforced,
                default=Decision.DEFAULT_DENY if table.error else table.default,
                by_identity=MappingProxyType(self._by_identity(table)) if table.enforced else MappingProxyType({}),
                selecting=table.selecting,
                audit=self._options.audit and table.enforced,
            )
        return found

    def _by_identity(self, table: DirectionTable) -> Mapping[int, tuple[Interval, ...]]:
        if table.error:
            broken = (Interval(0, 0, ALL_PORTS, Decision.ERROR, ()),)
            return {identity.number: broken for identity in self._identities}
        found: dict[int, tuple[Interval, ...]] = {}
        for block in blocks(table.entries, self._everything):
            first = (block & -block).bit_length() - 1
            intervals = tuple(flatten(table.for_peer(first), table.default, self._options))
            if intervals:
                for position in bits(block):
                    found[self._identities[position].number] = intervals
        return found


def flatten(entries: Sequence[PeerEntry], default: Decision, options: Options) -> Iterator[Interval]:
    """The disjoint intervals that the entries of one peer come to; what equals the default is left out."""
    for protocol in sorted({each.entry.protocol for each in entries}):
        mine = [each for each in entries if each.entry.protocol in (0, protocol)]
        edges = sorted({0, ALL_PORTS + 1} | {edge for each in mine for edge in (each.entry.first, each.entry.last + 1)})
        pending: Interval | None = None
        for first, after in itertools.pairwise(edges):
            matching = [each for each in mine if each.entry.first <= first <= each.entry.last]
            interval = _interval(protocol, first, after - 1, matching, default, options)
            if pending is not None and interval is not None and _same(pending, interval):
                pending = replace(pending, last=interval.last)
                continue
            if pending is not None:
                yield pending
            pending = interval
        if pending is not None:
            yield pending


def _interval(protocol: int, first: int, last: int, matching: Sequence[PeerEntry], default: Decision, options: Options) -> Interval | None:
    outcome = decide(matching, default, options)
    if outcome.decision is Decision.DEFAULT_DENY or _IMPLICIT.issuperset(outcome.rules):
        return None
    redirect = _REDIRECTS.get(outcome.parser, "http")
    proxy = proxy_rules(outcome.allows) if redirect else None
    return Interval(protocol, first, last, outcome.decision, outcome.rules, redirect, outcome.auth, proxy)


def _same(one: Interval, other: Interval) -> bool:
    return one.last + 1 == other.first and replace(one, first=0, last=0) == replace(other, first=0, last=0)
