"""What becomes of one kind of traffic, exactly enough to tell whether a change of policies changes it: `Reach`, authentication, and L7 rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from harness.model.traffic import Direction, Peer
from harness.model.verdict import Decision
from harness.policy.evaluate import Evaluator
from harness.policy.l7 import proxy_rules
from harness.policy.map import ProxyRules
from harness.policy.reach import Port, Reach, Reachability
from harness.policy.rules import AuthMode, DNSRule, HTTPRule, Parser
from harness.policy.table import DirectionTable

_REDIRECTS = {Parser.DNS: "dns", Parser.TLS: "tls"}


class Proxy(Struct, frozen=True):
    """A proxy in the way of a connection, and what it lets pass. `kind` is http, tls or dns. Rules are in an order of their own."""

    direction: Direction
    kind: str
    rules: ProxyRules


class Judgement(Struct, frozen=True):
    """`unauthenticated`: denied for nothing but the lack of mutual authentication. `proxies`: where CONDITIONAL, egress first."""

    reach: Reach
    unauthenticated: bool = False
    proxies: tuple[Proxy, ...] = ()


class Effect(StrEnum):
    """What a change does to traffic."""

    ALLOWED = "allowed"
    """All that passed still passes, and more."""
    DENIED = "denied"
    """Less passes, and nothing new."""
    CHANGED = "changed"
    """Neither, or it cannot be told which."""


def effect(old: Judgement, new: Judgement) -> Effect:
    """What it does that one judgement takes the other's place."""
    wider, narrower = _includes(new, old), _includes(old, new)
    if wider == narrower:
        return Effect.CHANGED
    return Effect.ALLOWED if wider else Effect.DENIED


def _includes(wide: Judgement, narrow: Judgement) -> bool:
    """Whether all that passes under one passes under the other for certain."""
    if {wide.reach, narrow.reach} & {Reach.UNKNOWN, Reach.ERROR}:
        return False
    if narrow.reach is Reach.DENY:
        return True if wide.reach is not Reach.DENY else wide.unauthenticated == narrow.unauthenticated
    if wide.reach in (Reach.ALLOW, Reach.DENY):
        return wide.reach is Reach.ALLOW
    before = {each.direction: each for each in narrow.proxies}
    return all(_open(each) or (each.direction in before and _passes(each, before[each.direction])) for each in wide.proxies)


def _open(proxy: Proxy) -> bool:
    """Whether a plain allow beside its rules lets everything pass. The DNS proxy passes nothing but DNS even so."""
    return proxy.rules.everything and proxy.kind != "dns"


def _passes(wide: Proxy, narrow: Proxy) -> bool:
    mine, other = wide.rules, narrow.rules
    if wide.kind != narrow.kind or mine.beyond != other.beyond:
        return False
    return mine.everything or (
        not other.everything
        and (HTTPRule() in mine.http or set(mine.http) >= set(other.http))
        and ("*" in mine.server_names or set(mine.server_names) >= set(other.server_names))
        and (DNSRule(match_pattern="*") in mine.dns or set(mine.dns) >= set(other.dns))
    )


class Judge:
    """The judgements of one evaluator between peers, on ports."""

    def __init__(self, evaluator: Evaluator, ports: Sequence[Port], peers: Sequence[Peer]) -> None:
        self.reachability = Reachability(evaluator, ports, peers)
        self._evaluator = evaluator
        self._sides: dict[tuple[int, int, int, int], tuple[Decision, Proxy | None]] = {}
        modes = {rule.auth for policy in evaluator.repository.enforced for rule in policy.rules}
        self._authenticates = bool(modes - {None, AuthMode.DISABLED})

    def numbers(self, classes: Sequence[int], number: Callable[[Judgement], int]) -> NDArray[np.int32]:
        """The judgements by port, source and target, between these classes (of `reachability`), as `number` numbers them."""
        codes = self.reachability.codes(classes, classes)
        found = np.array([number(Judgement(each)) for each in Reach], dtype=np.int32)[codes]
        more = codes == Reach.CONDITIONAL
        if self._authenticates:
            more |= codes == Reach.DENY
        first = [self.reachability.classes[each][0] for each in classes]
        for at, source, target in np.argwhere(more).tolist():
            found[at, source, target] = number(self.judgement(first[source], first[target], self.reachability.ports[at]))
        return found

    def judgement(self, source: Peer, target: Peer, port: Port) -> Judgement:
        """Of one flow."""
        sides = (self._side(Direction.EGRESS, source, target, port), self._side(Direction.INGRESS, target, source, port))
        decisions = [decision for decision, _ in sides]
        denying = [each for each in decisions if each.denies]
        if denying:
            return Judgement(Reach.DENY, unauthenticated=all(each is Decision.AUTH for each in decisions if each.denies))
        for decision, reach in ((Decision.ERROR, Reach.ERROR), (Decision.UNKNOWN, Reach.UNKNOWN)):
            if decision in decisions:
                return Judgement(reach)
        proxies = tuple(proxy for _, proxy in sides if proxy is not None)
        return Judgement(Reach.CONDITIONAL if proxies else Reach.ALLOW, proxies=proxies)

    def _side(self, direction: Direction, mine: Peer, other: Peer, port: Port) -> tuple[Decision, Proxy | None]:
        evaluator = self._evaluator
        subject = evaluator.subject(mine, other)
        if subject is None:
            return Decision.NOT_APPLICABLE, None
        table = evaluator.subjects.table(subject, direction)
        if not table.enforced:
            return Decision.ALLOW, None
        if table.error:
            return Decision.ERROR, None
        position = evaluator.position(other, subject.node)
        key = (id(table), position, port[0].number, port[1])
        found = self._sides.get(key)
        if found is None:
            found = self._sides[key] = self._decided(direction, table, position, port)
        return found

    def _decided(self, direction: Direction, table: DirectionTable, position: int, port: Port) -> tuple[Decision, Proxy | None]:
        outcome = table.outcome(position, port[0].number, port[1], self._evaluator.options)
        if outcome.decision is not Decision.ALLOW or outcome.parser is Parser.NONE:
            return outcome.decision, None
        rules = proxy_rules(outcome.allows)
        return outcome.decision, Proxy(
            direction,
            _REDIRECTS.get(outcome.parser, "http"),
            replace(rules, http=_ordered(rules.http), dns=_ordered(rules.dns)),
        )


def _ordered(rules: Sequence[Any]) -> tuple[Any, ...]:
    """Which of two allows comes first changes nothing."""
    return tuple(sorted(rules, key=repr))
