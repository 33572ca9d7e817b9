"""Everybody whose flows two sets of policies are compared on: pods, entities, and an address for each part of the world they tell apart."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping

from msgspec import Struct

from harness.model.traffic import Entity, EntityName, External, Peer, PodRef
from harness.policy.evaluate import Evaluator
from harness.policy.fqdn import FQDNMatcher
from harness.policy.prefix import Prefix, parse_address
from harness.policy.repository import Repository, prefixes_of
from harness.policy.rules import FQDNSelector

_NAMED = ("240.0.0.0/16", "203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24")
"""Where names get their addresses, if no policy names these prefixes."""


class Peers(Struct, frozen=True):
    """Who is compared. `prefixes` and `names` say what each address of the world stands for.

    For a prefix: all its addresses that are in none of the narrower prefixes here. For a name (or a pattern of names): whatever address DNS taught
    for it, which no CIDR but the world names.
    """

    pods: tuple[PodRef, ...]
    entities: tuple[Entity, ...]
    prefixes: Mapping[External, Prefix]
    names: Mapping[External, str]

    @property
    def world(self) -> tuple[External, ...]:
        return (*self.prefixes, *self.names)

    @property
    def all(self) -> tuple[Peer, ...]:
        return (*self.pods, *self.entities, *self.world)


def peers_of(old: Evaluator, new: Evaluator, names: Mapping[str, str]) -> Peers:
    """Those that both sides have; not `init`, which pods are for a moment, before they have labels. `names`: address to the name or pattern it was learned for (of `names_of`)."""
    there = {pod.ref for pod in new.state.pods}
    pods = tuple(sorted(pod.ref for pod in old.state.pods if pod.ref in there))
    named = {External(address): name for address, name in names.items()}
    prefixes = sorted({*old.identities.by_prefix, *new.identities.by_prefix})
    standing = {External(text): prefix for prefix in prefixes for text in _standing(prefix, prefixes)}
    return Peers(
        pods,
        tuple(Entity(name) for name in EntityName if name is not EntityName.INIT),
        {address: prefix for address, prefix in standing.items() if address not in named},
        named,
    )


def _standing(prefix: Prefix, prefixes: Iterable[Prefix]) -> Iterator[str]:
    """The first address of a prefix that is in no narrower one; none if these leave no room."""
    free, end = prefix.network, prefix.network + (1 << prefix.bits - prefix.length)
    for each in sorted(each for each in prefixes if each != prefix and prefix.contains(each)):
        if free < each.network:
            break
        free = max(free, each.network + (1 << each.bits - each.length))
    if free < end:
        yield str(ipaddress.IPv4Address(free) if prefix.version == 4 else ipaddress.IPv6Address(free))


class Names(Struct, frozen=True):
    """The DNS names that policies speak of, as if DNS had taught each of them. `learned` is for evaluators; `shown` for people, by address."""

    learned: Mapping[str, tuple[str, ...]]
    shown: Mapping[str, str]


def names_of(repositories: Iterable[Repository]) -> Names:
    """One address for each name and each pattern of toFQDNs; a pattern is taught by a name that fits it."""
    repositories = tuple(repositories)
    selectors: dict[FQDNSelector, None] = {}
    for repository in repositories:
        for policy in repository.enforced:
            for rule in policy.rules:
                selectors |= dict.fromkeys(each for each in rule.peers or () if isinstance(each, FQDNSelector))
    taken = {each.match_name for each in selectors}
    samples: dict[str, str] = {}
    for selector in sorted(selectors, key=str):
        sample = _sample(selector, taken)
        samples.setdefault(sample, str(selector))
    prefixes = [prefix for each in repositories for policy in each.enforced for prefix in prefixes_of(policy) if prefix.length]
    addresses = _free(prefixes)
    given = {next(addresses): sample for sample in samples}
    return Names({address: (sample,) for address, sample in given.items()}, {address: samples[sample] for address, sample in given.items()})


def _sample(selector: FQDNSelector, taken: Collection[str]) -> str:
    """A name that the selector matches and, if it is a pattern, that nobody spells out."""
    if selector.match_name:
        return selector.match_name
    matcher = FQDNMatcher(selector.match_name, selector.match_pattern)
    stars = selector.match_pattern.replace("**", "*")
    names = (stars.replace("*", f"any{number or ''}") for number in range(len(taken) + 1))
    return next((each for each in names if each not in taken and matcher.matches(each)), stars)


def _free(prefixes: Iterable[Prefix]) -> Iterator[str]:
    """Addresses in none of the prefixes, as long as there are any; then others."""
    named = tuple(prefixes)

    def hosts() -> Iterator[str]:
        return (str(each) for text in _NAMED for each in ipaddress.ip_network(text).hosts())

    free = (each for each in hosts() if not any(prefix.contains(parse_address(each)) for prefix in named))
    given = set()
    for each in itertools.chain(free, hosts()):
        if each not in given:
            given.add(each)
            yield each
