"""A case in a lab that stays up: its policies change, and who reaches whom is tried with real probes. One caller at a time.

Answers are JSON values: they go to whoever asked, in another process. Not the phases of a case and their outcome: that is the session's.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from harness.cases.case import Action, Case, Expectation, Phase
from harness.cases.document import Text
from harness.cases.expectations import names_of, parse_expectation
from harness.cases.grammar import GrammarError, SourceTerm, TargetTerm, parse_sentence
from harness.cases.policies import InForce, find_policy
from harness.cases.requirements import phase_requirements
from harness.cases.source import Place, Source
from harness.clusters.base import Change, Cluster
from harness.clusters.open import default_timeout
from harness.engine.checks import checks
from harness.engine.outcome import CheckResult
from harness.engine.predict import Predictor, model_options
from harness.engine.requirements import unmet
from harness.engine.run import Memory, Prober
from harness.errors import ClusterError, Location, UsageError
from harness.hubble.convert import to_json
from harness.model.traffic import Family
from harness.model.verdict import DirectionVerdict, PolicyRef, PolicyStatus, PolicyVerdict
from harness.policy.repository import Repository
from harness.probes.plan import Stamp
from harness.reports import failure, wording

_TYPED = Location("<typed>", 1)
_VERDICTS = {2: "allow", 3: "deny", 4: "deny", 5: "deny", 6: "allow"}
"""What packets and flows together show, whatever was expected: by the row of the table of verdicts (design 4). Else it is unknown."""


class Deployed:
    """A case, deployed in a cluster without policies. Every method may raise HarnessError; what could not be done has changed nothing."""

    def __init__(self, cluster: Cluster, case: Case) -> None:
        """Raises ClusterError where the cluster lacks what the case's endpoints need."""
        if reason := unmet([case.requires], cluster.capabilities):
            raise ClusterError(f"{case.name!r} cannot be deployed here: it {reason}")
        self.case = case
        self.cluster = cluster
        self.placement = cluster.prepare(case)
        self.in_force = InForce.nothing()
        self._predictor = Predictor(self.placement.state, Repository.empty(model_options(cluster.capabilities)))
        self._prober = Prober(
            cluster, Stamp.of(secrets.token_hex(4)), Memory(), self._predictor, cluster.flows() is not None, self.placement.audited
        )
        self._enforced_at = time.monotonic()
        families = Family if "ipv6" in cluster.capabilities.features else (Family.IPV4,)
        self._families = frozenset(families)

    # Policies

    def bring_to(self, phase: Phase) -> None:
        """Put the policies of a phase of the case in force, and no others."""
        self.change(Change(tuple(self.in_force.policies), phase.policies))

    def change(self, change: Change) -> Mapping[str, Any]:
        """Remove and apply policies as one change. Returns when it is enforced, with how each applied policy stands."""
        after = self.in_force.change(change.remove, change.apply)
        if reason := unmet(
            [self._requirements(Phase("", _TYPED, apply=change.apply, policies=tuple(change.apply)))], self.cluster.capabilities
        ):
            raise ClusterError(f"nothing was changed: what is to be applied {reason}")
        revision = self.cluster.apply(change)
        enforcement = self.cluster.wait(revision)
        self._enforced_at = time.monotonic()
        self._predictor.change(change)
        self.in_force = after
        return {
            "removed": list(map(str, change.remove)),
            "applied": self.standing([each.ref for each in change.apply]),
            "revision": revision,
            "seconds": enforcement.seconds,
        }

    def find(self, name: str) -> PolicyRef:
        """The policy in force that is called so: `[Kind/][namespace/]name`. Raises UsageError."""
        text = Text(name, Place(Source(_TYPED.file, name, error=UsageError), 1, 1, 1, len(name) + 1))
        try:
            return find_policy(text, self.in_force.policies, where="in force")
        except UsageError as error:  # a name needs no caret below it
            raise UsageError(error.message, hint=error.hint) from None

    def standing(self, refs: Sequence[PolicyRef]) -> list[Mapping[str, Any]]:
        """How policies stand: what each selects, or why it does nothing."""
        statuses = self.cluster.status(refs) if refs else {}
        return [self._standing(ref, statuses.get(ref) or PolicyStatus(ref)) for ref in refs]

    def _standing(self, ref: PolicyRef, status: PolicyStatus) -> Mapping[str, Any]:
        location = self.in_force.policies[ref].location
        return {
            "policy": str(ref),
            "file": f"{location.file}:{location.line}",
            "selects": list(status.selects),
            "refused": str(status.error or ""),
            "inert": "" if status.error else status.inert,
            "idle": list(status.idle),
        }

    # Probes

    def probe(self, text: str) -> list[Mapping[str, Any]]:
        """Send `a -> b:8080 [request]` now, from every replica to every replica, and say of each what packets, flows and model say."""
        return self._judged(self._expectation(Action.ALLOW, text))

    def check(self, text: str) -> list[Mapping[str, Any]]:
        """Hold an expectation (`deny: a -> b:8080`) against what happens now."""
        action, colon, rest = text.partition(":")
        if not colon or action.strip() not in set(Action):
            raise UsageError(f"not an expectation: {text!r}", hint="it begins with what is expected, as in 'deny: client -> server:8080'")
        return self._judged(self._expectation(Action(action.strip()), rest))

    def _expectation(self, action: Action, text: str) -> Expectation:
        written = f"{action}: {self._short_names(text.strip())}"
        return parse_expectation(written, self.case, tuple(self.in_force.policies.values()), _TYPED)

    def _short_names(self, text: str) -> str:
        """Pods may be named with their namespace here, as `kubectl` and `hubble` print them."""
        names = {f"{spec.namespace}/{spec.name}": key for key, spec in self.case.endpoints.items()}
        try:
            said = parse_sentence(text)
        except GrammarError:
            return text  # told with its place by who parses the expectation
        sources = tuple(SourceTerm(names.get(each.name, each.name)) for each in said.sources)
        targets = tuple(TargetTerm(names.get(each.name, each.name), each.port, each.protocol) for each in said.targets)
        return str(replace(said, sources=sources, targets=targets))

    def _requirements(self, phase: Phase) -> Any:
        return phase_requirements(None, phase, names_of(self.case), phase.policies)

    def _judged(self, expectation: Expectation) -> list[Mapping[str, Any]]:
        phase = Phase("", _TYPED, expectations=(expectation,))
        if reason := unmet([self._requirements(phase)], self.cluster.capabilities):
            raise ClusterError(f"nothing was sent: it {reason}")
        timeout = expectation.timeout or default_timeout(self.cluster.name)
        wanted = checks(self.case, [expectation], self.placement, families=self._families, timeout=timeout)
        if not wanted:
            raise ClusterError("nothing was sent: this machine has no IPv6")
        results = self._prober.run(wanted, enforced_at=self._enforced_at)
        return [self._told(each) for each in results]

    def _told(self, result: CheckResult) -> Mapping[str, Any]:
        policies = tuple(self.in_force.policies.values())
        head, *evidence = failure.check(result, self.case, policies, failure.locator(policies))
        return {
            "flow": wording.title(result) + (f" {result.expectation.request}" if result.expectation.request else ""),
            "outcome": result.judgement.outcome.value,
            "verdict": _VERDICTS.get(result.judgement.row, "unknown"),
            "why": result.judgement.why,
            "model": _model(result.prediction),
            "disagreement": result.disagreement,
            "flows": [to_json(flow) for seen in result.observations for flow in seen.flows],
            "text": "".join(span for span, _ in head),
            "evidence": [[list(span) for span in line] for line in evidence],
        }


def _model(prediction: PolicyVerdict | None) -> Mapping[str, Any] | None:
    """The model's answer, in the words of `harness predict -o json`."""
    if prediction is None:
        return None
    sides = {name: _side(side) for name, side in (("egress", prediction.egress), ("ingress", prediction.ingress))}
    return {"verdict": prediction.verdict.value, **sides, "l7": prediction.l7.value}


def _side(side: DirectionVerdict) -> Mapping[str, Any]:
    return {"decision": side.decision.value, "rules": list(map(str, side.rules)), "policies": list(map(str, side.selecting))}
