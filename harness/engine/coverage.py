"""Which policies matter to no expectation: without them the model gives every one the same verdict and decider. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from harness.model.cluster import ClusterState
from harness.model.traffic import Traffic
from harness.model.verdict import Decision, DirectionVerdict, L7Decision, PolicyRef, PolicyVerdict, RuleRef
from harness.policy.evaluate import Evaluator
from harness.policy.repository import Repository

_Side: TypeAlias = tuple[Decision, tuple[RuleRef, ...], L7Decision]


def uncovered(
    state: ClusterState,
    repository: Repository,
    candidates: Iterable[PolicyRef],
    traffic: Sequence[Traffic],
) -> tuple[PolicyRef, ...]:
    """Those candidates that could be removed without any of this traffic being decided otherwise, or by another rule."""
    refs = tuple(candidates)
    if not refs:
        return ()
    distinct = tuple(dict.fromkeys(traffic))
    full = Evaluator(state, repository)
    decided = [_deciders(full.verdict(each)) for each in distinct]
    return tuple(ref for ref in refs if _indifferent(Evaluator(state, repository.change([ref], [])), distinct, decided))


def _indifferent(without: Evaluator, traffic: Iterable[Traffic], decided: Iterable[tuple[_Side, _Side]]) -> bool:
    return all(_deciders(without.verdict(each)) == before for each, before in zip(traffic, decided, strict=True))


def _deciders(verdict: PolicyVerdict) -> tuple[_Side, _Side]:
    """Default deny has no decider: no rule matched."""
    return _decider(verdict.egress), _decider(verdict.ingress)


def _decider(side: DirectionVerdict) -> _Side:
    return side.decision, side.rules, side.l7
