"""Which rules decide nothing: all they match is matched by another, or denied anyway. Sound for the policies that are in force together.

A rule is left alone where a proxy, authentication or a named range in its direction makes order or merging matter: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum, auto
from functools import cache

from msgspec import Struct

from harness.lint.containment import Containment, disjoint, selects_all_of
from harness.model.labels import CIDR, K8S, NAMESPACE_LABEL
from harness.model.verdict import RuleRef
from harness.policy.entities import ALL
from harness.policy.rules import LabelSelector, Operator, Parser, PeerSelector, PortProtocol, Rule


class How(Enum):
    """Why a rule decides nothing."""

    COVERED = auto()
    """Another rule of the same action matches all that it matches."""
    DENIED = auto()
    """It allows what a deny rule denies, and deny wins."""


class Redundant(Struct, frozen=True):
    """`rule` decides nothing because of `by`."""

    rule: Rule
    by: Rule
    how: How


def redundant(rules: Sequence[Rule], containment: Containment) -> Iterator[Redundant]:
    """The rules of one direction that decide nothing. Removing all that are told, at once, changes no verdict."""
    by_subject: dict[tuple[bool, LabelSelector], list[Rule]] = {}
    places: dict[RuleRef, int] = {}
    for place, rule in enumerate(rules):
        places[rule.ref] = place
        by_subject.setdefault((rule.node, rule.subject), []).append(rule)
    ordered = {at for at, found in by_subject.items() if not all(map(_simple, found))}
    subjects = _Subjects(by_subject, containment)
    for at, found in by_subject.items():
        if ordered and not ordered.isdisjoint(subjects.overlapping(at)):
            continue
        wider = [rule for other in subjects.containing(at) for rule in by_subject[other]]
        for rule in found:
            if _matches_something(rule):
                yield from _first(rule, wider, places, containment)


class _Subjects:
    """Which subjects contain or may overlap another. Those of different namespaces are not compared."""

    def __init__(self, subjects: Iterable[tuple[bool, LabelSelector]], containment: Containment) -> None:
        self._containment = containment
        self._by_namespace: dict[tuple[bool, str], list[LabelSelector]] = {}
        for node, subject in subjects:
            self._by_namespace.setdefault((node, _namespace(subject)), []).append(subject)

    def _candidates(self, at: tuple[bool, LabelSelector]) -> Iterator[LabelSelector]:
        node, subject = at
        namespace = _namespace(subject)
        for (other_node, other), found in self._by_namespace.items():
            if other_node == node and (not namespace or other in ("", namespace)):
                yield from found

    def containing(self, at: tuple[bool, LabelSelector]) -> Iterator[tuple[bool, LabelSelector]]:
        node, subject = at
        contains = selects_all_of if node else (lambda outer, inner: self._containment.subject(inner, outer))
        yield from ((node, outer) for outer in self._candidates(at) if contains(outer, subject))

    def overlapping(self, at: tuple[bool, LabelSelector]) -> Iterator[tuple[bool, LabelSelector]]:
        node, subject = at
        yield from ((node, other) for other in self._candidates(at) if not disjoint(subject, other))


@cache
def _namespace(subject: LabelSelector) -> str:
    """The namespace that a subject demands, or ''."""
    wanted = (each for each in subject.requirements if each.source == K8S and each.key == NAMESPACE_LABEL)
    return next((each.values[0] for each in wanted if each.operator is Operator.EQUALS), "")


def _first(rule: Rule, others: Sequence[Rule], places: Mapping[RuleRef, int], containment: Containment) -> Iterator[Redundant]:
    for other in others:
        if other is rule or (rule.deny and not other.deny) or not covers(other, rule, containment):
            continue
        if other.deny and not rule.deny:
            yield Redundant(rule, other, How.DENIED)
            return
        # Of two that match the same, the first stays.
        mutual = containment.subject(other.subject, rule.subject) and covers(rule, other, containment)
        if not mutual or places[other.ref] < places[rule.ref]:
            yield Redundant(rule, other, How.COVERED)
            return


def covers(outer: Rule, inner: Rule, containment: Containment) -> bool:
    """Whether `outer` matches all peers and ports that `inner` does, and keeps its default deny. The subjects are compared before."""
    if (inner.default_deny and not outer.default_deny) or not _matches_something(outer):
        return False
    return _ports_within(inner, outer) and containment.peers(peers_of(inner), peers_of(outer))


def peers_of(rule: Rule) -> tuple[PeerSelector, ...]:
    """The peers of a rule that matches something: no peer is any peer."""
    return rule.peers or (ALL,)


def _matches_something(rule: Rule) -> bool:
    """Whether a rule, by what it says, matches any traffic. Services are resolved elsewhere: what they mean is not known here, no more than
    what other rules require of it."""
    if rule.peers is None or rule.services or rule.requires or not (rule.peers or rule.ports):
        return False
    return not rule.ports or any(each.ports for each in rule.ports)


def _simple(rule: Rule) -> bool:
    """Whether nothing depends on order: no proxy, no authentication, no named port with a range, no selector by `cidr:` labels."""
    if rule.auth is not None or any(each.parser is not Parser.NONE for each in rule.ports):
        return False
    if any(port.end_port and (port.name or not port.port) for each in rule.ports for port in each.ports):
        return False
    selectors = [each for each in (rule.subject, *(rule.peers or ())) if isinstance(each, LabelSelector)]
    return not any(each.source == CIDR for selector in selectors for each in selector.requirements)


def _ports_within(inner: Rule, outer: Rule) -> bool:
    if not outer.ports:
        return True
    if not inner.ports:
        return False
    theirs = [port for each in outer.ports for port in each.ports]
    return all(any(port_within(port, each) for each in theirs) for item in inner.ports for port in item.ports)


def port_within(inner: PortProtocol, outer: PortProtocol) -> bool:
    """Whether one port, range, named port or ICMP type lies within another."""
    if outer.protocol not in (None, inner.protocol) or (
        outer.protocol is None and inner.protocol is not None and not inner.protocol.has_ports
    ):
        return False
    if not outer.name and not outer.port:
        return True
    if inner.name or outer.name:
        return inner.name == outer.name
    if not inner.port:
        return False
    return outer.port <= inner.port and max(inner.port, inner.end_port) <= max(outer.port, outer.end_port)
