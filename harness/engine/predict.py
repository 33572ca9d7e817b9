"""What the policy model says of each check, and where the cluster says otherwise. The model never decides an outcome."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec.structs import replace

from harness.cases.case import Reason
from harness.clusters.base import Capabilities, Change, Observation
from harness.engine.checks import Check
from harness.engine.judge import Drop, Evidence, answered, denied, forwarded, own_flows, policies
from harness.engine.names import Known, Names
from harness.engine.outcome import Judgement
from harness.model.cluster import ClusterState
from harness.model.flow import FlowVerdict
from harness.model.traffic import Direction, PodRef, Traffic
from harness.model.verdict import Decision, DirectionVerdict, L7Decision, PolicyRef, PolicyVerdict, RuleRef, Verdict
from harness.policy.evaluate import Evaluator
from harness.policy.options import Options
from harness.policy.repository import Repository

RESERVED_KIND = "reserved"
"""The policy kind of rules that Cilium adds itself."""

_REASONS = {Decision.DEFAULT_DENY: Reason.DEFAULT_DENY, Decision.DENY_RULE: Reason.DENY_RULE, Decision.AUTH: Reason.AUTH}


def model_options(capabilities: Capabilities) -> Options:
    """The model's switches for a cluster, from what it says it has."""
    return Options.of(
        capabilities.cilium,
        host_firewall="host-firewall" in capabilities.features,
        ipv6="ipv6" in capabilities.features,
        auth_enabled="spire" in capabilities.features,
        names_unknown=True,
    )


@dataclass(slots=True)
class Predictor:
    """The model of one case as it is placed, with the policies that were applied so far.

    `names` is what the lookups of the case tell about names; None where others may look names up too, so that nobody can tell.
    """

    state: ClusterState
    repository: Repository
    names: Names | None = None
    _evaluator: Evaluator | None = field(default=None, init=False)
    _taught: dict[frozenset[tuple[str, frozenset[str]]], Evaluator] = field(default_factory=dict, init=False)

    def change(self, change: Change) -> None:
        """The same change of policies that the cluster got."""
        self.repository = self.repository.change(change.remove, [policy.document for policy in change.apply])
        self._evaluator = None
        self._taught.clear()

    @property
    def evaluator(self) -> Evaluator:
        """The model for which a name may lead anywhere."""
        if self._evaluator is None:
            self._evaluator = Evaluator(self.state, self.repository)
        return self._evaluator

    def predict(self, check: Check, observation: Observation | None) -> PolicyVerdict | None:
        """The verdict for the server that was reached (or dropped before), else for the first that could have been. UNKNOWN where that rests
        on what names lead to.

        None where nothing is sent, or where a pod reaches itself through a service: that skips policy.
        """
        traffic = _taken(check, observation)
        if traffic is None or traffic.source == traffic.destination:
            return None
        return self.evaluator.verdict(traffic)

    def predict_by_names(self, check: Check, observation: Observation) -> PolicyVerdict | None:
        """As `predict`, for what rests on names, by what lookups have told so far; None where that is not known well enough to tell."""
        traffic = _taken(check, observation)
        if traffic is None or self.names is None:
            return None
        return self._by_names(self.names, traffic, observation)

    def _by_names(self, names: Names, traffic: Traffic, observation: Observation) -> PolicyVerdict | None:
        """The verdict by what the source's node had learned; None where that is not known well enough to tell.

        Names only ever allow. So where the least and the most that it can have known come to the same, so does whatever it knew.
        """
        sure, possible = names.at(observation.probe.site, observation.result.started, observation.result.ended)
        least, most = (self._knowing(each).verdict(traffic) for each in (sure, possible))
        return least if least == most else None

    def _knowing(self, names: Known) -> Evaluator:
        key = frozenset(names.items())
        found = self._taught.get(key)
        if found is None:
            repository = replace(self.repository, options=replace(self.repository.options, names_unknown=False))
            found = self._taught[key] = Evaluator(self.state, repository, names)
        return found


def _taken(check: Check, observation: Observation | None) -> Traffic | None:
    if len(check.traffic) <= 1 or observation is None:
        return next(iter(check.traffic), None)
    pods = {f"{flow.destination.namespace}/{flow.destination.pod}" for flow in own_flows(observation) if flow.destination.pod}
    for each in check.traffic:
        if isinstance(each.destination, PodRef) and (str(each.destination) == observation.result.server or str(each.destination) in pods):
            return each
    return check.traffic[0]


def disagreement(prediction: PolicyVerdict | None, evidence: Evidence, judgement: Judgement) -> str:
    """How the model and the cluster differ, as one sentence; '' where they agree or the evidence does not say."""
    observation = evidence.observation
    if prediction is None or observation is None or judgement.row == 1:
        return ""
    verdict = prediction.verdict
    if verdict in (Verdict.UNKNOWN, Verdict.ERROR):
        return ""
    if answered(observation):
        return _on_answer(prediction, verdict, observation) if forwarded(observation, evidence.flows_on) else ""
    drop = denied(observation, evidence)
    return _on_drop(prediction, drop) if drop is not None else ""


def _on_drop(prediction: PolicyVerdict, drop: Drop) -> str:
    side = prediction.dropped_at
    if side is None:
        return f"the model allows it ({describe(prediction)}), the cluster {drop}"
    verdict = prediction.egress if side is Direction.EGRESS else prediction.ingress
    reason = _REASONS.get(verdict.decision, Reason.L7)
    deciding = deciders(verdict.rules)
    differs = (
        (drop.side is not None and drop.side is not side)
        or (drop.reason is not None and drop.reason is not reason)
        or bool(drop.by and deciding and not drop.by & deciding)
    )
    return f"the model says {describe(prediction)}, the cluster {drop}" if differs else ""


def _on_answer(prediction: PolicyVerdict, predicted: Verdict, observation: Observation) -> str:
    audited = any(flow.verdict is FlowVerdict.AUDIT for flow in own_flows(observation))
    if predicted is Verdict.DENY:
        return "" if audited else f"the model denies it ({describe(prediction)}), the cluster forwarded it"
    if audited:
        return f"the model allows it ({describe(prediction)}), the cluster would have dropped it but for audit mode"
    for side, verdict in ((Direction.EGRESS, prediction.egress), (Direction.INGRESS, prediction.ingress)):
        stray = policies(own_flows(observation), side, allowed=True) - deciders(verdict.rules)
        if stray and any(ref.kind != RESERVED_KIND for ref in stray):
            return f"the model says {describe(prediction)}, the cluster allowed it at {side} by {', '.join(map(str, sorted(stray)))}"
    return ""


def deciders(rules: Iterable[RuleRef]) -> frozenset[PolicyRef]:
    """The policies whose rules decided; rules that Cilium adds itself have none."""
    return frozenset(rule.policy for rule in rules if rule.policy.kind != RESERVED_KIND)


def describe(prediction: PolicyVerdict) -> str:
    """The model's answer in a few words: the first side that denies, or both sides that allow."""
    side = prediction.dropped_at
    if side is not None:
        return _side(side, prediction.egress if side is Direction.EGRESS else prediction.ingress)
    both = [_side(*each) for each in ((Direction.EGRESS, prediction.egress), (Direction.INGRESS, prediction.ingress))]
    return "; ".join(text for text in both if text) or "no policy is asked"


def _side(side: Direction, verdict: DirectionVerdict) -> str:
    if verdict.decision is Decision.NOT_APPLICABLE:
        return ""
    by = ", ".join(map(str, verdict.rules))
    word = "l7" if verdict.l7 is L7Decision.DENY else verdict.decision.value
    if not verdict.enforced and not by:
        return f"{word} at {side} (no policy selects it)"
    return f"{word} at {side}" + (f" by {by}" if by else "")
