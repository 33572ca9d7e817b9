"""Whether all that one selector selects is selected by another. Sound: True is proven, False may be ignorance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Protocol

from harness.model.labels import ANY, CIDR, K8S
from harness.policy.entities import entity_selectors, reserved_selector
from harness.policy.fqdn import FQDNMatcher
from harness.policy.identities import IdentityTable
from harness.policy.options import Options
from harness.policy.rules import CIDRSelector, FQDNSelector, LabelSelector, Operator, PeerSelector, Requirement

_VALUED = (Operator.EQUALS, Operator.IN)
_POSITIVE = (Operator.EQUALS, Operator.IN, Operator.EXISTS)


class Containment(Protocol):
    """A way to compare selectors."""

    def subject(self, inner: LabelSelector, outer: LabelSelector) -> bool:
        """Whether every endpoint that `inner` selects is selected by `outer`."""
        ...

    def peers(self, inner: Sequence[PeerSelector], outer: Sequence[PeerSelector]) -> bool:
        """Whether every identity that any of `inner` selects is selected by one of `outer`."""
        ...


class Symbolic:
    """By what selectors say: true in every cluster."""

    def subject(self, inner: LabelSelector, outer: LabelSelector) -> bool:
        return selects_all_of(outer, inner)

    def peers(self, inner: Sequence[PeerSelector], outer: Sequence[PeerSelector]) -> bool:
        return all(any(_peer_within(each, one) for one in outer) or _outside_within(each, outer) for each in inner)


class Identities:
    """By the identities of given workloads: true in a cluster that runs these and no others."""

    def __init__(self, identities: IdentityTable) -> None:
        self._identities = identities

    def subject(self, inner: LabelSelector, outer: LabelSelector) -> bool:
        return not self._identities.select(inner).certain & ~self._identities.select(outer).certain

    def peers(self, inner: Sequence[PeerSelector], outer: Sequence[PeerSelector]) -> bool:
        select = self._identities.select
        certain = _union(select(each).certain for each in outer)
        # What DNS will teach and what a cloud group holds is not known here: the same selector, or all of the world.
        return all(not (select(each).certain | select(each).maybe) & ~certain and not _unknown(each, outer) for each in inner)


def _unknown(inner: PeerSelector, outer: Sequence[PeerSelector]) -> bool:
    """Whether the identity table cannot tell what a selector will select."""
    if isinstance(inner, LabelSelector | CIDRSelector):
        return False
    return not any(_peer_within(inner, each) for each in outer) and not _outside_within(inner, outer)


def _union(masks: Iterable[int]) -> int:
    found = 0
    for mask in masks:
        found |= mask
    return found


@cache
def selects_all_of(outer: LabelSelector, inner: LabelSelector) -> bool:
    """Whether the requirements of `inner` imply those of `outer`."""
    return all(any(_implies(one, wanted) for one in inner.requirements) for wanted in outer.requirements)


@cache
def disjoint(one: LabelSelector, other: LabelSelector) -> bool:
    """Whether no pod or node is selected by both: they demand different values of one label. False may be ignorance."""
    wanted = {each.key: set(each.values) for each in one.requirements if each.operator in _VALUED and each.source in (ANY, K8S)}
    return any(
        each.operator in _VALUED and each.source in (ANY, K8S) and each.key in wanted and not wanted[each.key] & set(each.values)
        for each in other.requirements
    )


def _implies(one: Requirement, wanted: Requirement) -> bool:
    if one == wanted:
        return True
    if one.key != wanted.key or CIDR in (one.source, wanted.source):
        return False
    if wanted.operator in _POSITIVE:
        if one.operator not in _POSITIVE or wanted.source not in (ANY, one.source):
            return False
        if wanted.operator is Operator.EXISTS:
            return True
        return one.operator is not Operator.EXISTS and set(one.values) <= set(wanted.values)
    # Not to have a label in one source says nothing of another: here the sources must be the same, or all.
    if one.source not in (ANY, wanted.source):
        return False
    if one.operator is Operator.DOES_NOT_EXIST:
        return True
    return wanted.operator is Operator.NOT_IN and one.operator is Operator.NOT_IN and set(wanted.values) <= set(one.values)


def _peer_within(inner: PeerSelector, outer: PeerSelector) -> bool:
    if inner == outer or (isinstance(outer, LabelSelector) and outer.is_wildcard):
        return True
    match inner, outer:
        case LabelSelector(), LabelSelector():
            return selects_all_of(outer, inner)
        case CIDRSelector(), CIDRSelector():
            return _cidr_within(inner, outer)
        case FQDNSelector(match_name=name), FQDNSelector(match_pattern=pattern) if name and pattern:
            return bool(FQDNMatcher("", pattern).matches(name))
        case _:
            return False


def _cidr_within(inner: CIDRSelector, outer: CIDRSelector) -> bool:
    if not outer.prefix.contains(inner.prefix):
        return False
    return all(
        any(mine.contains(each) for mine in inner.excepts) or not (each.contains(inner.prefix) or inner.prefix.contains(each))
        for each in outer.excepts
    )


_WORLD = frozenset(entity_selectors("world", Options()))


def _outside_within(inner: PeerSelector, outer: Sequence[PeerSelector]) -> bool:
    """What only ever selects the outside, beside the entity `world`."""
    if set(outer) >= _WORLD:
        return not isinstance(inner, LabelSelector) or inner in _WORLD
    return isinstance(inner, CIDRSelector) and set(outer) >= {
        reserved_selector("world"),
        reserved_selector(f"world-ipv{inner.prefix.version}"),
    }
