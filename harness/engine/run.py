"""Sends a phase's probes, once or until what was promised `within` a time holds, and judges them. Knows one case and one phase."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

from harness.cases.case import Action
from harness.clusters.base import Cluster, Observation
from harness.engine.checks import Check, Triple
from harness.engine.judge import Evidence, answered, judge
from harness.engine.outcome import CheckResult, Judgement, Outcome
from harness.engine.predict import Predictor, disagreement
from harness.model.probe import Ending, Probe
from harness.model.traffic import Direction
from harness.model.verdict import PolicyVerdict, Verdict
from harness.probes.plan import Exchange, Planned, Stamp, again, plan, rounds

_SHORTEST_WAIT = 0.01


@dataclass(slots=True)
class Memory:
    """What a case remembers from phase to phase: what its baseline stated and found, and what was ever seen answered."""

    baseline_faults: dict[Triple, str] = field(default_factory=dict)
    """Each triple that did not pass in the baseline, to what was wrong with it."""
    seen_answered: set[Triple] = field(default_factory=set)

    def state_baseline(self, check: Check, judgement: Judgement) -> None:
        """Remember what the baseline found; one failure of a triple outweighs its passes."""
        if judgement.outcome is not Outcome.PASSED:
            triple = check.triples[0]
            self.baseline_faults[triple] = f"{triple} {judgement.outcome}: {judgement.why}"

    def baseline_fault(self, check: Check) -> str:
        if not self.baseline_faults:
            return ""
        return next((fault for triple in check.triples if (fault := self.baseline_faults.get(triple, ""))), "")

    def note_answer(self, check: Check, observation: Observation) -> None:
        """The check's triple was seen answered; of a service's backends the one that did."""
        self.seen_answered.add(check.triples[0])
        if check.exchange is not None and len(check.triples) > 1:
            for triple, server in zip(check.triples[1:], check.exchange.servers, strict=False):
                if server.name == observation.result.server:
                    self.seen_answered.add(triple)


@dataclass(slots=True)
class Round:
    """One sending of checks: their probes with what was observed of each."""

    planned: Mapping[int, Planned]
    """By the check's place."""
    observed: dict[int, Observation]
    """By probe id."""
    started: float

    def has_all(self, index: int) -> bool:
        """Whether everything came that the check rests on: its lookup, its proofs of life, and its probe."""
        planned, observed = self.planned[index], self.observed
        if planned.lookup is not None and planned.lookup.id not in observed:
            return False
        return planned.probe.id in observed and all(probe.id in observed for probe in planned.life)


@dataclass(slots=True)
class _Standing:
    """How a check stands after the round that it was sent in last."""

    evidence: Evidence
    judgement: Judgement
    round: Round
    prediction: PolicyVerdict | None
    disagreement: str


@dataclass(slots=True)
class _Asked:
    """A phase's checks, and how each stands, by its place."""

    checks: Sequence[Check]
    baseline: bool
    standings: dict[int, _Standing] = field(default_factory=dict)


class Prober(Struct, frozen=True):
    """Sends and judges the checks of a phase on a cluster. `clock` counts seconds."""

    cluster: Cluster
    stamp: Stamp
    memory: Memory
    predictor: Predictor
    flows_on: bool
    audited: bool = False
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep

    def run(self, checks: Sequence[Check], *, enforced_at: float, baseline: bool = False) -> list[CheckResult]:
        """The results, in the order of the checks. `enforced_at` is when the phase's policies were, by `clock`."""
        liveness = any(check.expectation.action is Action.DENY for check in checks)
        wanted = {index: self._awaiting(check, check.exchange) for index, check in enumerate(checks) if check.exchange is not None}
        made = plan(wanted.values(), self.stamp, liveness=liveness)
        asked = _Asked(checks, baseline)
        self._send(asked, range(len(checks)), dict(zip(wanted, made.exchanges, strict=True)), made.rounds, {})
        self._make_up_for_losses(asked)
        self._insist(asked, enforced_at)
        for index, check in enumerate(checks):
            standing = asked.standings[index]
            observation = standing.evidence.observation
            if observation is not None and answered(observation):
                self.memory.note_answer(check, observation)
            if baseline:
                self.memory.state_baseline(check, standing.judgement)
        return [self._result(check, asked.standings[index], enforced_at) for index, check in enumerate(checks)]

    def _awaiting(self, check: Check, exchange: Exchange) -> Exchange:
        """Where an answer alone does not decide, say which sides have more to tell: those that the model knows to enforce a policy.
        That is where the deciding policy is named, and where audit shows."""
        if check.expectation.by is None and not self.audited:
            return exchange
        verdicts = [self.predictor.evaluator.verdict(each) for each in check.traffic if each.source != each.destination]
        sides = {
            side
            for verdict in verdicts
            for side, one in ((Direction.EGRESS, verdict.egress), (Direction.INGRESS, verdict.ingress))
            if one.enforced
        }
        return replace(exchange, awaited=frozenset(sides))

    def _make_up_for_losses(self, asked: _Asked) -> None:
        """Send once more what ended in unknown for nothing but flows that were lost: the state is the same, and what is seen whole decides
        by itself. Said in the judgement."""
        lost = {
            index: standing.judgement.why
            for index, standing in asked.standings.items()
            if standing.judgement.row == 1 and _lost_alone(standing.evidence)
        }
        if not lost:
            return
        self._send_again(asked, sorted(lost))
        for index, why in lost.items():
            standing = asked.standings[index]
            standing.judgement = replace(standing.judgement, why=f"{standing.judgement.why} (asked again: at first {why})")

    def _insist(self, asked: _Asked, enforced_at: float) -> None:
        """Send again what was promised within a time and does not hold yet, until it does or the time is up. What would be sent after
        that proves nothing of the promise, so it is not sent."""

        def left(index: int) -> float:
            return (asked.checks[index].expectation.within or 0.0) - (self.clock() - enforced_at)

        waits = [0.01, 0.02, 0.05, 0.1, 0.2]
        while not self.cluster.simulated:  # the model does not change its mind with time
            unsettled = sorted(
                index
                for index, standing in asked.standings.items()
                if standing.judgement.outcome is not Outcome.PASSED
                and asked.checks[index].exchange is not None
                and not standing.evidence.baseline
                and left(index) > 0
            )
            if not unsettled:
                return
            # The closer the end of the time, the shorter: the last try is still in it.
            wait = waits.pop(0) if len(waits) > 1 else waits[0]
            self.pause(min(wait, max(_SHORTEST_WAIT, min(map(left, unsettled)) / 2)))
            pending = [index for index in unsettled if left(index) > 0]
            if pending:
                self._send_again(asked, pending)

    def _send_again(self, asked: _Asked, those: Iterable[int]) -> None:
        """Replace how those checks stand; proofs of life stand."""
        before = {index: asked.standings[index].round for index in those}
        fresh = {index: again(round_.planned[index], self.stamp) for index, round_ in before.items()}
        proofs = {id_: seen for round_ in before.values() for id_, seen in round_.observed.items() if seen.probe.liveness}
        self._send(asked, fresh, fresh, rounds(tuple(fresh.values())), proofs)

    def _send(
        self,
        asked: _Asked,
        those: Iterable[int],
        planned: Mapping[int, Planned],
        order: Iterable[Sequence[Probe]],
        known: Mapping[int, Observation],
    ) -> None:
        """Send round by round, and judge each of those checks as soon as all is seen that it rests on, while others are under way. A probe
        whose lookup did not resolve is not sent: its client would not know where to."""
        sent = Round(planned, dict(known), self.clock())
        lookups = {each.probe.id: each.lookup.id for each in planned.values() if each.lookup is not None}
        places = {each.probe.id: index for index, each in planned.items()}
        left = dict.fromkeys(those)
        for round_ in order:
            batch = [probe for probe in round_ if not (probe.id in lookups and not _resolved(sent.observed.get(lookups[probe.id])))]
            for observation in self.cluster.probe(batch) if batch else ():
                sent.observed[observation.probe.id] = observation
                if self.predictor.names is not None:
                    self.predictor.names.saw(observation)
                index = places.get(observation.probe.id)
                if index is not None and sent.has_all(index):
                    asked.standings[index] = self._stand(asked, sent, index)
                    left.pop(index, None)
        for index in left:
            asked.standings[index] = self._stand(asked, sent, index)

    def _stand(self, asked: _Asked, sent: Round, index: int) -> _Standing:
        check, planned = asked.checks[index], sent.planned.get(index)
        if planned is None:
            evidence = Evidence(check.expectation, None, flows_on=self.flows_on)
        else:
            alive, why = _alive(planned, sent.observed)
            evidence = Evidence(
                check.expectation,
                sent.observed.get(planned.probe.id),
                lookup=sent.observed.get(planned.lookup.id) if planned.lookup else None,
                alive=alive,
                alive_why=why,
                baseline="" if asked.baseline else self.memory.baseline_fault(check),
                flows_on=self.flows_on,
            )
        judgement = Judgement(Outcome.UNKNOWN, 1, check.fault) if check.fault else judge(evidence)
        prediction = self.predictor.predict(check, evidence.observation)
        return _Standing(evidence, judgement, sent, prediction, disagreement(prediction, evidence, judgement))

    def _result(self, check: Check, standing: _Standing, enforced_at: float) -> CheckResult:
        evidence, judgement = standing.evidence, standing.judgement
        prediction, differs = standing.prediction, standing.disagreement
        if prediction is not None and prediction.verdict is Verdict.UNKNOWN and evidence.observation is not None:
            # Only now all is known that lookups told.
            prediction = self.predictor.predict_by_names(check, evidence.observation) or prediction
            differs = disagreement(prediction, evidence, judgement)
        expectation = check.expectation
        held = expectation.within is not None and judgement.outcome is Outcome.PASSED
        return CheckResult(
            expectation=expectation,
            action=expectation.action,
            source=check.source,
            target=check.target,
            judgement=judgement,
            observations=tuple(each for each in (evidence.lookup, evidence.observation) if each is not None),
            prediction=prediction,
            disagreement=differs,
            unproven=expectation.action is Action.DENY and self.memory.seen_answered.isdisjoint(check.triples),
            enforced_after=max(0.0, standing.round.started - enforced_at) if held else None,
        )


def _lost_alone(evidence: Evidence) -> bool:
    """Whether flows of what was sent were lost, and nothing else was wrong: not the baseline, not a probe that broke."""
    seen = [each for each in (evidence.lookup, evidence.observation) if each is not None]
    return not evidence.baseline and any(each.lost for each in seen) and all(each.result.ending is not Ending.ERROR for each in seen)


def _resolved(lookup: Observation | None) -> bool:
    return lookup is not None and lookup.result.ending is Ending.ANSWERED and lookup.result.status in (None, 0)


def _alive(planned: Planned, observed: Mapping[int, Observation]) -> tuple[bool | None, str]:
    """Whether every server that could answer proved its life; None where none was asked."""
    if not planned.life:
        return None, ""
    for probe in planned.life:
        seen = observed.get(probe.id)
        name = ", ".join(probe.expected_servers) or probe.address
        if seen is None:
            return False, f"nothing came back of the probe from inside {name}"
        if not answered(seen):
            detail = f" ({seen.result.detail})" if seen.result.detail else ""
            return False, f"from inside {name}, its own port {probe.port}/{probe.protocol} ended {seen.result.ending}{detail}"
    return True, ""
