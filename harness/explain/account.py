"""The account of one unit of traffic: each side's verdict, who selects the endpoint there, which rules decided and which almost did."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from msgspec import Struct

from harness.explain.miss import Miss, Misses, MissKind, Seen, of_selector
from harness.explain.remedy import Remedy, remedy
from harness.model.traffic import Direction, Traffic
from harness.model.verdict import Decision, DirectionVerdict, L7Decision, PolicyRef, PolicyVerdict, RuleRef
from harness.policy.evaluate import Evaluator
from harness.policy.rules import RESERVED_POLICY, Rule
from harness.policy.subjects import Subject

_FEW = 2
"""More requirements than this missed is not almost."""


class NearRule(Struct, frozen=True):
    """A rule that selects the endpoint and does not match, with all that keeps it from it."""

    ref: RuleRef
    deny: bool
    misses: tuple[Miss, ...]


class NearPolicy(Struct, frozen=True):
    """A policy with rules for this direction that does not select the endpoint, by one requirement only."""

    ref: PolicyRef
    miss: Miss


class Side(Struct, frozen=True):
    """One direction. `endpoint` is whose policy it is; `verdict` is the evaluator's own.

    `denying` are the policies that put the endpoint into default deny. `silent` are the rules among `verdict.rules` that let the connection
    pass and not the request. `almost` are the rules of the contrary effect that come closest: none by more than two requirements.
    """

    direction: Direction
    endpoint: str
    verdict: DirectionVerdict
    denying: tuple[PolicyRef, ...] = ()
    near: tuple[NearPolicy, ...] = ()
    unselecting: int = 0
    """How many policies with rules for this direction do not select the endpoint, `near` ones included."""
    silent: tuple[NearRule, ...] = ()
    almost: tuple[NearRule, ...] = ()

    @property
    def denies(self) -> bool:
        return self.verdict.decision.denies or self.verdict.l7 is L7Decision.DENY

    @property
    def allows(self) -> bool:
        return self.verdict.decision in (Decision.ALLOW, Decision.NOT_APPLICABLE) and self.verdict.l7 is not L7Decision.DENY


class Account(Struct, frozen=True):
    """Everything there is to say. `remedy` is None where the traffic is allowed."""

    traffic: Traffic
    verdict: PolicyVerdict
    egress: Side
    ingress: Side
    remedy: Remedy | None

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.egress, self.ingress


_Groups: TypeAlias = dict[PolicyRef, list[Rule]]


def explain(evaluator: Evaluator, traffic: Traffic) -> Account:
    """The account of traffic under an evaluator's policies. ScenarioError if a pod is not in its state."""
    verdict = evaluator.verdict(traffic)
    egress, ingress = (_side(evaluator, traffic, each, getattr(verdict, each.value)) for each in (Direction.EGRESS, Direction.INGRESS))
    return Account(traffic, verdict, egress, ingress, remedy(evaluator, traffic, verdict))


def _side(evaluator: Evaluator, traffic: Traffic, direction: Direction, verdict: DirectionVerdict) -> Side:
    outward = direction is Direction.EGRESS
    mine, other = (traffic.source, traffic.destination) if outward else (traffic.destination, traffic.source)
    subject = evaluator.subject(mine, other)
    if subject is None:
        return Side(direction, str(mine), verdict)
    subjects = evaluator.subjects
    places = subjects.rules_for(subject, direction)
    rules = [subjects.rules[place] for place in places]
    unselecting = _grouped(rule for rule in subjects.rules if rule.direction is direction)
    for rule in rules:
        unselecting.pop(rule.ref.policy, None)
    near = tuple(_near_policies(evaluator, subject, unselecting, str(mine)))
    denying = tuple(dict.fromkeys(rule.ref.policy for rule in rules if rule.default_deny))
    choice = subjects.choice(subject, direction)
    silent: tuple[NearRule, ...] = ()
    almost: tuple[NearRule, ...] = ()
    if choice is not None and verdict.decision is not Decision.ERROR:
        misses = Misses(evaluator, choice, Seen(str(other), evaluator.position(other, subject.node)), traffic)
        found = [NearRule(rule.ref, rule.deny, misses.of(rule)) for rule in subjects.rules_of(choice) if rule.peers != () or rule.ports]
        silent = tuple(each for each in found if each.misses and each.ref in verdict.rules)
        contrary = verdict.decision is Decision.ALLOW and verdict.l7 is not L7Decision.DENY
        others = [each for each in found if each.deny is contrary and each.misses and each.ref not in verdict.rules]
        almost = tuple(_closest(others))
    return Side(direction, str(mine), verdict, denying, near, len(unselecting), silent, almost)


def _grouped(rules: Iterable[Rule]) -> _Groups:
    found: _Groups = {}
    for rule in rules:
        if rule.ref.policy != RESERVED_POLICY:
            found.setdefault(rule.ref.policy, []).append(rule)
    return found


def _near_policies(evaluator: Evaluator, subject: Subject, groups: _Groups, name: str) -> Iterator[NearPolicy]:
    for ref, rules in groups.items():
        if rules[0].node or subject.host:
            continue
        missed = of_selector(evaluator, rules[0].subject, Seen(name, subject.position))
        if len(missed) == 1 and missed[0].kind is not MissKind.PEER:
            yield NearPolicy(ref, missed[0])


def _closest(rules: list[NearRule]) -> list[NearRule]:
    """Those that fail by one requirement, or, where there is none, by two."""
    fewest = min((len(each.misses) for each in rules), default=0)
    return [each for each in rules if len(each.misses) == fewest] if 0 < fewest <= _FEW else []
