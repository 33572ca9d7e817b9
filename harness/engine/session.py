"""A run: one cluster, cases one after the other, phase by phase. Emits events; what they become is the reports' business.

A phase that is asked for by itself gets the earlier ones first: their changes, and the baseline's probes, since the baseline gate
and the word `unproven` rest on them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from harness.cases.case import Case, Expectation, Phase, Placement
from harness.clusters.base import Change, Cluster, Enforcement, Noted, Particular, Secluded
from harness.clusters.open import Hubble, default_timeout
from harness.engine.checks import Check, checks
from harness.engine.coverage import uncovered
from harness.engine.events import (
    CasePrepared,
    CheckFinished,
    Event,
    PhaseFinished,
    PhaseSkipped,
    PhaseStarted,
    PoliciesApplied,
    RunFinished,
    RunStarted,
)
from harness.engine.findings import asked, effective, later_phases, not_covered, standing
from harness.engine.names import Names
from harness.engine.outcome import CheckResult, Outcome, PolicyFinding
from harness.engine.predict import Predictor, model_options
from harness.engine.requirements import unmet
from harness.engine.run import Memory, Prober
from harness.engine.settings import Settings
from harness.errors import ClusterError, FlowsUnavailableError, UsageError
from harness.model.traffic import Family, Traffic
from harness.model.verdict import PolicyRef
from harness.policy.repository import Repository
from harness.probes.plan import Stamp

NO_CHANGE = Change()


@dataclass(slots=True)
class _Open:
    """The case that is deployed, and how far it has got."""

    case: Case
    placement: Placement
    prober: Prober
    done: int = -1
    """The place of the last phase whose change is in force."""
    skipped: Change = NO_CHANGE
    """The changes of phases that were skipped since: they come with the next one, for the state is cumulative."""
    enforced_at: float = 0.0
    changed: bool = False
    texts: dict[PolicyRef, str] = field(default_factory=dict)


class Session:
    """Runs phases on a cluster. It does not own the cluster: who opened it closes it, after `close`."""

    def __init__(self, cluster: Cluster, settings: Settings, emit: Callable[[Event], None], *, opening: float = 0.0) -> None:
        """`opening` is how many seconds it took to open the cluster. Raises `FlowsUnavailableError` where flows are required and
        there are none."""
        self._cluster = cluster
        self._settings = settings
        self._emit = emit
        self._open: _Open | None = None
        self._stamp = Stamp.of(secrets.token_hex(4))
        self._started = time.monotonic()
        self._timeout = settings.timeout if settings.timeout is not None else default_timeout(cluster.name)
        self._flows_on = _flows(cluster, settings.hubble)
        self._options = model_options(cluster.capabilities)
        auto = f"auto:{'on' if self._flows_on else 'off'}"
        self._emit(
            RunStarted(
                cluster=cluster.name,
                cilium=cluster.capabilities.cilium,
                simulated=cluster.simulated,
                hubble=auto if settings.hubble is Hubble.AUTO else settings.hubble.value,
                worker=settings.worker,
                seconds=opening,
                notes=_notes(cluster, flows_on=self._flows_on),
            )
        )

    @property
    def cluster(self) -> Cluster:
        return self._cluster

    @property
    def settings(self) -> Settings:
        return self._settings

    # A case file's phases

    def lacking(self, case: Case, phase: Phase) -> str:
        """Why the cluster cannot run this phase; '' where it can."""
        cluster = self._cluster
        offered = cluster.capabilities_for(case) if isinstance(cluster, Particular) else cluster.capabilities
        return unmet((case.requires, phase.requires), offered) or self._without_ipv4(phase)

    def _without_ipv4(self, phase: Phase) -> str:
        """Why nothing of the phase could be sent, where all of it is about IPv4, which nobody has to require."""
        capabilities = self._cluster.capabilities
        asked = {family for expectation in phase.expectations for family in expectation.family.families}
        if asked != {Family.IPV4} or Family.IPV4 in self._families():
            return ""
        return f"requires ipv4: {capabilities.lacking['ipv4']}"

    def run_phase(self, case: Case, phase_name: str) -> PhaseFinished | PhaseSkipped:
        """Run one phase, after the earlier ones' changes where they are not in force yet."""
        index = next((place for place, phase in enumerate(case.phases) if phase.name == phase_name), None)
        if index is None:
            raise UsageError(
                f"case {case.name!r} has no phase {phase_name!r}", hint=f"it has: {', '.join(each.name for each in case.phases)}"
            )
        phase = case.phases[index]
        if reason := self.lacking(case, phase):
            return self._skip(case, phase, reason)
        started = time.monotonic()
        try:
            current = self._reach(case, index)
            return self._run(current, index, started, replayed=False)
        except ClusterError as error:
            self._abandon()
            finished = PhaseFinished(
                case=case.name, phase=phase.name, outcome=Outcome.UNKNOWN, seconds=time.monotonic() - started, error=str(error)
            )
            self._emit(finished)
            return finished

    # Python tests

    def open_case(self, case: Case) -> Placement:
        """Deploy a case's endpoints, without policies and without running its phases."""
        return self._prepare(case).placement

    def apply(self, change: Change) -> Enforcement:
        """Change the policies of the open case and wait until that is enforced."""
        current = self._current()
        _, enforcement = self._change(current, change)
        return enforcement

    def check(self, expectation: Expectation) -> list[CheckResult]:
        """Probe and judge one expectation of the open case now. Before the first change it counts as the baseline."""
        current = self._current()
        return current.prober.run(self._checks(current, [expectation]), enforced_at=current.enforced_at, baseline=not current.changed)

    # The end

    def release(self) -> None:
        """End the open case, if there is one."""
        if self._open is not None:
            self._open = None
            self._cluster.release()

    def close(self) -> None:
        """End the run: the open case is released. The cluster stays open."""
        try:
            self.release()
        finally:
            seconds = time.monotonic() - self._started
            self._emit(RunFinished(cluster=self._cluster.name, seconds=seconds, worker=self._settings.worker))

    # Reaching a phase

    def _reach(self, case: Case, index: int) -> _Open:
        """The open case with every phase before `index` in force."""
        current = self._open
        if current is None or current.case is not case or current.done >= index:
            current = self._prepare(case)
        for place in range(current.done + 1, index):
            self._replay(current, place)
        return current

    def _replay(self, current: _Open, place: int) -> None:
        """Bring an earlier phase into force; of a baseline, learn what it says too. Its failures count only through the gate."""
        phase = current.case.phases[place]
        if self.lacking(current.case, phase):
            current.skipped = _then(current.skipped, Change(phase.remove, phase.apply))
            current.done = place
        elif phase.baseline:
            self._run(current, place, time.monotonic(), replayed=True)
        else:
            self._enforce(current, phase, replayed=True)
            current.done = place

    def _prepare(self, case: Case) -> _Open:
        self._open = None  # the cluster sees to it that the former case is gone
        started = time.monotonic()
        placement = self._cluster.prepare(case)
        names = Names(placement.state) if self._flows_on and isinstance(self._cluster, Secluded) and self._cluster.secluded else None
        predictor = Predictor(placement.state, Repository.empty(self._options), names)
        prober = Prober(self._cluster, self._stamp, Memory(), predictor, self._flows_on, placement.audited)
        self._open = _Open(case, placement, prober, enforced_at=time.monotonic())
        self._emit(CasePrepared(case=case.name, file=case.location.file, seconds=time.monotonic() - started))
        return self._open

    def _abandon(self) -> None:
        """After the cluster broke: the next phase starts from nothing."""
        try:
            self.release()
        except ClusterError:
            self._open = None

    def _current(self) -> _Open:
        if self._open is None:
            raise UsageError("no case is open", hint="open one first: open_case(case)")
        return self._open

    # Running a phase

    def _run(self, current: _Open, index: int, started: float, *, replayed: bool) -> PhaseFinished:
        case, phase = current.case, current.case.phases[index]
        self._emit(PhaseStarted(case=case.name, phase=phase.name, location=phase.location, replayed=replayed))
        self._enforce(current, phase, replayed=replayed)
        current.done = index
        found = self._checks(current, phase.expectations)
        findings = self._findings(current, phase, found)
        results = current.prober.run(found, enforced_at=current.enforced_at, baseline=phase.baseline)
        for result in results:
            self._emit(CheckFinished(case=case.name, phase=phase.name, result=result, replayed=replayed))
        # What the cluster lacks is left out check by check; where that leaves none, the phase has shown nothing.
        nothing = "nothing was sent: the cluster lacks what every expectation needs" if phase.expectations and not results else ""
        outcome = _outcome(results, findings)
        finished = PhaseFinished(
            case=case.name,
            phase=phase.name,
            outcome=Outcome.UNKNOWN if nothing and outcome is Outcome.PASSED else outcome,
            error=nothing,
            seconds=time.monotonic() - started,
            findings=findings,
            checks=len(results),
            replayed=replayed,
        )
        self._emit(finished)
        return finished

    def _enforce(self, current: _Open, phase: Phase, *, replayed: bool) -> None:
        change = _then(current.skipped, Change(phase.remove, phase.apply))
        current.skipped = NO_CHANGE
        revision, enforcement = self._change(current, change)
        self._emit(
            PoliciesApplied(
                case=current.case.name,
                phase=phase.name,
                removed=tuple(map(str, change.remove)),
                applied=tuple(str(policy.ref) for policy in change.apply),
                revision=revision,
                how=enforcement.how,
                seconds=enforcement.seconds,
                policies={str(policy.ref): current.texts[policy.ref] for policy in phase.policies if policy.ref in current.texts},
                replayed=replayed,
            )
        )

    def _change(self, current: _Open, change: Change) -> tuple[int, Enforcement]:
        """The revision and how it is known to be enforced. Where nothing changes the cluster is left alone."""
        if change == NO_CHANGE:
            current.enforced_at = time.monotonic()
            return 0, Enforcement("nothing changed", 0.0)
        revision = self._cluster.apply(change)
        enforcement = self._cluster.wait(revision)
        current.enforced_at = time.monotonic()
        current.changed = True
        current.prober.predictor.change(change)
        current.texts.update((policy.ref, _text(policy.document)) for policy in change.apply)
        return revision, enforcement

    def _findings(self, current: _Open, phase: Phase, found: Sequence[Check]) -> tuple[PolicyFinding, ...]:
        refs = asked(phase)
        if not refs:
            return ()
        statuses = self._cluster.status(refs)
        findings = standing(phase, statuses)
        if not self._settings.coverage:
            return findings
        return (*findings, *not_covered(phase, self._uncovered(current, phase, found, effective(phase, statuses))))

    def _uncovered(self, current: _Open, phase: Phase, found: Sequence[Check], refs: Sequence[PolicyRef]) -> tuple[PolicyRef, ...]:
        """Those that matter to no expectation of this phase, nor of a later one in which they are still in force as they are."""
        repository = current.prober.predictor.repository
        left = uncovered(current.placement.state, repository, refs, _traffic(found))
        for later in later_phases(current.case, phase):
            replaced = {policy.ref for policy in later.apply} | set(later.remove)
            left = tuple(ref for ref in left if ref not in replaced)
            if not left:
                break
            repository = repository.change(later.remove, [policy.document for policy in later.apply])
            left = uncovered(current.placement.state, repository, left, _traffic(self._checks(current, later.expectations)))
        return left

    def _checks(self, current: _Open, expectations: Sequence[Expectation]) -> tuple[Check, ...]:
        return checks(current.case, expectations, current.placement, families=self._families(), timeout=self._timeout)

    def _skip(self, case: Case, phase: Phase, reason: str) -> PhaseSkipped:
        skipped = PhaseSkipped(case=case.name, phase=phase.name, reason=reason)
        self._emit(skipped)
        return skipped

    def _families(self) -> frozenset[Family]:
        capabilities = self._cluster.capabilities
        there = {Family.IPV4: "ipv4" not in capabilities.lacking, Family.IPV6: "ipv6" in capabilities.features}
        return frozenset(family for family in Family if there[family])


def _outcome(results: Sequence[CheckResult], findings: Sequence[PolicyFinding]) -> Outcome:
    """Failed outweighs unknown, which outweighs passed: a failure is certain, and it is what can be worked on."""
    outcomes = {result.judgement.outcome for result in results}
    if Outcome.FAILED in outcomes or any(finding.fails for finding in findings):
        return Outcome.FAILED
    return Outcome.UNKNOWN if Outcome.UNKNOWN in outcomes else Outcome.PASSED


def _traffic(found: Sequence[Check]) -> list[Traffic]:
    return [traffic for check in found for traffic in check.traffic]


def _then(first: Change, second: Change) -> Change:
    """Two changes as one: what the second removes or replaces, the first need not apply."""
    gone = {*second.remove, *(policy.ref for policy in second.apply)}
    kept = tuple(policy for policy in first.apply if policy.ref not in gone)
    return Change(tuple(dict.fromkeys((*first.remove, *second.remove))), (*kept, *second.apply))


def _flows(cluster: Cluster, hubble: Hubble) -> bool:
    """Whether this run reads flows: decided once, here."""
    if hubble is Hubble.OFF:
        return False
    there = cluster.simulated or cluster.flows() is not None
    if hubble is Hubble.REQUIRE and not there:
        raise FlowsUnavailableError(
            f"flows are required, and the cluster {cluster.name!r} offers no Hubble Observer",
            hint="enable Hubble Relay, or say --hubble=off to judge by packets only (every report then says so)",
        )
    return there


def _notes(cluster: Cluster, *, flows_on: bool) -> tuple[str, ...]:
    notes = []
    if cluster.simulated:
        notes.append("simulated: the policy model answers, no packet is sent")
    if not flows_on:
        notes.append("packets only: flows are off, so no side, reason or policy can be verified")
    return (*notes, *(cluster.notes if isinstance(cluster, Noted) else ()))


def _text(document: Mapping[str, Any]) -> str:
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120))
