"""What the policy model says of a case's expectations, worked out apart from the engine: which of them a mistake would change.

Its own way from an expectation to traffic (not the engine's), so that a check which the engine forgets is missed by nobody; and its own
account of the names that each node has learned, phase by phase.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TypeAlias

from msgspec import Struct

from harness.cases.case import Action, Case, Expectation, Party, PartyKind, Reason, Serve, Target
from harness.cases.resolver import RESOLVER, with_resolver
from harness.cases.state import cluster_state
from harness.model.cluster import ClusterState, Pod
from harness.model.traffic import Direction, Entity, EntityName, External, Family, Peer, PodRef, Protocol, Request, RequestKind, Traffic
from harness.model.verdict import Decision, L7Decision, PolicyVerdict, Verdict
from harness.policy.evaluate import Evaluator
from harness.policy.options import Options
from harness.policy.repository import Repository

WORLD = {Family.IPV4: "192.0.2.200", Family.IPV6: "2001:db8:ffff::200"}
"""Some address outside the cluster, in no network that a shipped policy names."""
GET = Request(RequestKind.HTTP, method="GET", path="/")
Learned: TypeAlias = dict[str, dict[str, set[str]]]
"""By node: the names of each address."""

_REASONS = {Decision.DEFAULT_DENY: Reason.DEFAULT_DENY, Decision.DENY_RULE: Reason.DENY_RULE, Decision.AUTH: Reason.AUTH}


class Unit(Struct, frozen=True):
    """Traffic that an expectation speaks of. `lookup` is what the client asks before, where the target is a name."""

    traffic: Traffic
    lookup: Traffic | None = None

    @property
    def question(self) -> Traffic | None:
        """What of it asks for a name."""
        request = self.traffic.request
        return self.traffic if request is not None and request.kind is RequestKind.LOOKUP else self.lookup


class Reading(Struct, frozen=True):
    """What the model says of one expectation: a verdict for each unit of traffic, and whether it is as stated in every point."""

    verdicts: tuple[Verdict, ...]
    holds: bool


class Oracle:
    """The model of one case. Mutants of a case differ from it in policies only, so its traffic is worked out once."""

    def __init__(self, case: Case, options: Options) -> None:
        self._options = options
        self._state = with_resolver(case, cluster_state(case))
        self._nodes = {pod.ref: pod.node for pod in self._state.pods}
        self._units = {phase.name: [(each, tuple(units(case, self._state, each))) for each in phase.expectations] for phase in case.phases}

    def readings(self, case: Case, *, first: int = 0) -> dict[str, tuple[Reading, ...]]:
        """For each phase of the case (or of a mutant of it) from `first` on, one reading for each expectation."""
        repository = Repository.empty(self._options)
        learned: Learned = {}
        found = {}
        for index, phase in enumerate(case.phases):
            repository = repository.change(phase.remove, [policy.document for policy in phase.apply])
            evaluator = Evaluator(self._state, repository)
            self._learn(phase.name, evaluator, learned)
            if index >= first:
                at = {node: Evaluator(self._state, repository, names) for node, names in learned.items()}
                found[phase.name] = tuple(
                    _read(each, tuple(_verdict(at.get(self._node(unit), evaluator), unit) for unit in all_))
                    for each, all_ in self._units[phase.name]
                )
        return found

    def _node(self, unit: Unit) -> str:
        """Where the egress side of it is decided, '' outside of the cluster."""
        source = unit.traffic.source
        return self._nodes[source] if isinstance(source, PodRef) else ""

    def _learn(self, phase: str, evaluator: Evaluator, learned: Learned) -> None:
        """A question that goes through the proxy and is let through teaches its node what the answer says: addresses outside only."""
        for _, all_ in self._units[phase]:
            for unit in all_:
                question = unit.question
                if question is None or question.request is None:
                    continue
                verdict = evaluator.verdict(question)
                if verdict.egress.redirected and verdict.verdict is Verdict.ALLOW:
                    for host in self._state.externals:
                        if question.request.name in host.names and Family.of(host.address) is question.family:
                            learned.setdefault(self._node(unit), {}).setdefault(host.address, set()).add(question.request.name)


def _verdict(evaluator: Evaluator, unit: Unit) -> PolicyVerdict:
    """A lookup that is denied denies what it was for."""
    asked = evaluator.verdict(unit.lookup) if unit.lookup is not None else None
    return asked if asked is not None and asked.verdict is Verdict.DENY else evaluator.verdict(unit.traffic)


def _read(expectation: Expectation, verdicts: tuple[PolicyVerdict, ...]) -> Reading:
    return Reading(tuple(each.verdict for each in verdicts), all(_as_stated(expectation, each) for each in verdicts))


def _as_stated(expectation: Expectation, verdict: PolicyVerdict) -> bool:
    side = verdict.dropped_at
    if expectation.action is Action.AUDIT:
        return verdict.verdict is Verdict.DENY  # in audit mode it would be let through
    if expectation.action is not Action.DENY:
        return verdict.verdict is Verdict.ALLOW and _by(expectation, verdict, expectation.at)
    if side is None or (expectation.at is not None and expectation.at is not side):
        return False
    found = verdict.egress if side is Direction.EGRESS else verdict.ingress
    reason = Reason.L7 if found.l7 is L7Decision.DENY and not found.decision.denies else _REASONS[found.decision]
    if expectation.reasons and reason not in expectation.reasons:
        return False
    return _by(expectation, verdict, side)


def _by(expectation: Expectation, verdict: PolicyVerdict, side: Direction | None) -> bool:
    sides = [verdict.egress, verdict.ingress] if side is None else [verdict.egress if side is Direction.EGRESS else verdict.ingress]
    return expectation.by is None or any(rule.policy == expectation.by for each in sides for rule in each.rules)


def units(case: Case, state: ClusterState, expectation: Expectation) -> Iterator[Unit]:
    """Every unit of traffic that the expectation speaks of, after service translation."""
    for family, source, target in itertools.product(_families(expectation), expectation.sources, expectation.targets):
        lookup = expectation.request is not None and expectation.request.kind is RequestKind.LOOKUP
        protocol, port = (target.protocol, target.port or 53) if lookup else _protocol(target, family)
        for sender, receiver, reached in _pairs(case, state, source, target, family, port):
            found = Traffic(sender, receiver, protocol, reached, expectation.request or _bare(case, target), family)
            yield Unit(found, _lookup(sender, target.party.name, family) if target.party.kind is PartyKind.NAME else None)


def _lookup(sender: Peer, name: str, family: Family) -> Traffic:
    return Traffic(sender, RESOLVER, Protocol.UDP, 53, Request(RequestKind.LOOKUP, name=name), family)


def _bare(case: Case, target: Target) -> Request | None:
    """What is said to a port where the expectation says nothing: proxies hear it."""
    named = next((each for each in case.externals.values() if target.party.name in each.names), None)
    spec = case.endpoints.get(target.party.name) or case.externals.get(target.party.name) or named
    serve = next((port.serve for port in spec.ports if port.port == target.port), Serve.AUTO) if spec else Serve.AUTO
    if target.protocol is not Protocol.TCP or target.port is None:
        return None
    return {Serve.TLS: Request(RequestKind.TLS), Serve.AUTO: GET, Serve.HTTP: GET}.get(serve)


def _families(expectation: Expectation) -> tuple[Family, ...]:
    pings = {RequestKind.ICMP: Family.IPV4, RequestKind.ICMP6: Family.IPV6}
    kind = expectation.request.kind if expectation.request else None
    return (pings[kind],) if kind in pings else expectation.family.families


def _protocol(target: Target, family: Family) -> tuple[Protocol, int]:
    if target.port is not None:
        return target.protocol, target.port
    return (Protocol.ICMP, 8) if family is Family.IPV4 else (Protocol.ICMPV6, 128)


def _pairs(case: Case, state: ClusterState, source: Party, target: Target, family: Family, port: int) -> Iterator[tuple[Peer, Peer, int]]:
    for receiver, reached in _ends(case, state, target.party, family, port):
        for sender, _ in _ends(case, state, source, family, 0):
            if sender != receiver:
                yield _seen(sender, receiver), _seen(receiver, sender), reached


def _ends(case: Case, state: ClusterState, party: Party, family: Family, port: int) -> Iterator[tuple[Pod | Peer, int]]:
    """Pods as such (a host-network pod is somebody else to each of its peers), and what is no pod as a peer."""
    pods = {pod.ref: pod for pod in state.pods}
    match party.kind:
        case PartyKind.ENDPOINT:
            yield from ((pods[ref], port) for ref in case.endpoints[party.name].pods())
        case PartyKind.SERVICE:
            service = case.services[party.name]
            number = next(each.target_port for each in service.ports if each.port == port)
            for spec in case.endpoints.values():
                if spec.namespace == service.namespace and service.selector.items() <= dict(spec.labels).items():
                    named = next((each.port for each in spec.ports if each.name == number), None)
                    yield from ((pods[ref], named or int(number)) for ref in spec.pods())
        case PartyKind.EXTERNAL:
            host = next(each for each in state.externals if each.name == party.name and Family.of(each.address) is family)
            yield External(host.address), port
        case PartyKind.NAME if (service := _named(case, party.name)) is not None:
            yield from _ends(case, state, Party(PartyKind.SERVICE, service), family, port)
        case PartyKind.NAME:
            host = next(each for each in state.externals if party.name in each.names and Family.of(each.address) is family)
            yield External(host.address), port
        case PartyKind.ADDRESS:
            yield External(party.name), port
        case PartyKind.BUILTIN if party.name == "kube-dns":
            yield pods[RESOLVER], port
        case PartyKind.BUILTIN:
            yield (External(WORLD[family]) if party.name == "world" else Entity(EntityName(party.name))), port
        case _:
            raise AssertionError(f"no shipped case names {party} yet: teach the oracle what it is")


def _named(case: Case, name: str) -> str | None:
    """The service that a name of the cluster is."""
    own, namespace, *domain = name.split(".", 2)
    return next((key for key in case.services if domain == ["svc.cluster.local"] and key == f"{namespace}/{own}"), None)


def _seen(end: Pod | Peer, other: Pod | Peer) -> Peer:
    if not isinstance(end, Pod):
        return end
    if not end.host_network or not isinstance(other, Pod) or other.host_network:
        return end.ref  # where no pod is at the other end, which node's host it is can be said by its own name only
    return Entity(EntityName.HOST if other.node == end.node else EntityName.REMOTE_NODE)
