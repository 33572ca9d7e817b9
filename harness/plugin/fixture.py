"""The `connectivity` fixture: a case in Python. Declares or loads endpoints, changes policies, and checks expectations at once.

Thin: cases are read by `harness.cases`, everything runs in the engine's session. (Not called `connectivity`: as an attribute of the
package the module would hide the fixture.)
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from msgspec.structs import replace

from harness.cases.case import Case, Phase, Rejected
from harness.cases.document import Text, parse_documents
from harness.cases.expectations import names_of, parse_expectation
from harness.cases.load import load_cases
from harness.cases.manifests import CIDR_GROUP, ManifestObject, Manifests, objects_of
from harness.cases.model import read_case
from harness.cases.policies import InForce, find_policy
from harness.cases.requirements import phase_requirements
from harness.cases.resolve import resolve_case
from harness.cases.source import Place, Source, shown_path
from harness.cases.suggest import did_you_mean
from harness.clusters.base import Change
from harness.engine.events import CheckFinished, PhaseFinished, PhaseStarted, PoliciesApplied
from harness.engine.findings import standing
from harness.engine.outcome import CheckResult, Outcome
from harness.errors import Location, UsageError
from harness.model.verdict import PolicyRef, PolicyStatus
from harness.plugin.failure import CheckFailure, UnknownOutcome
from harness.reports.failure import describe

if TYPE_CHECKING:
    from harness.plugin.run import Run


class Connectivity:
    """One case, from its declaration to the end of the test. State is cumulative, as in a case file.

    What is expected before the first policy is the baseline. Every method raises `HarnessError` for what is wrong in the call; `apply`
    and `expect` fail the test where policy is not as stated, and end it `unknown` where the evidence does not suffice.
    """

    def __init__(self, run: Run, folder: Path, name: str, command: str) -> None:
        self._run = run
        self._folder = folder
        self._name = name
        self._command = command
        self._manifests = Manifests()
        self._case: Case | None = None
        self._in_force = InForce.nothing()
        self._opened = False
        self._steps = 0

    # The case

    def declare(self, **keys: Any) -> Case:
        """Declare the case with the keys of a case file: `endpoints`, `services`, `externals`, `namespace`, `namespaces`."""
        self._only_once()
        here = _caller()
        document = {"case": self._name.replace("::", ":"), **keys, "phases": {"python": {"remove": []}}}
        source = Source(f"<declared in {here}>", yaml.safe_dump(document, sort_keys=False))
        self._case = replace(resolve_case(read_case(parse_documents(source)[0]), self._folder, self._manifests), phases=())
        return self._case

    def load(self, path: str | Path, case: str | None = None) -> Case:
        """Take the endpoints, services and externals of a case file (`path` is relative to the test's file). Its phases can be had
        by `run`; none runs by itself."""
        self._only_once()
        found = load_cases(self._folder / path, manifests=self._manifests, may_expect_nothing=True)
        chosen = [each for each in found if case in (None, each.name)]
        if len(chosen) != 1:
            names = [each.name for each in found]
            what = f"no case {case!r} in {path}" if case is not None else f"{len(found)} cases in {path}: say which"
            raise UsageError(what, location=_caller(), hint=did_you_mean(case or "", names, noun="cases"))
        self._case = chosen[0]
        return self._case

    @property
    def case(self) -> Case:
        """The case as declared or loaded. Raises `UsageError` where it is neither yet."""
        if self._case is None:
            raise UsageError(
                "no endpoints yet", location=_caller(), hint="begin with `connectivity.declare(endpoints=...)` or `.load(path)`"
            )
        return self._case

    def _only_once(self) -> None:
        if self._case is not None:
            raise UsageError("the case is declared already", location=_caller(), hint="one test, one case")

    # What happens to it

    def run(self, phase: str) -> None:
        """Run a phase of the loaded case as pytest would, after the earlier ones."""
        __tracebackhide__ = True
        from harness.engine.events import PhaseSkipped

        finished = self._run.run_phase(self.case, phase)
        self._opened = True
        if isinstance(finished, PhaseSkipped):
            pytest.skip(finished.reason)
        self._in_force = InForce.nothing().change((), self.case.phase(phase).policies)
        self._conclude(self.case, phase, finished.outcome)

    def apply(
        self,
        *policies: str | Path | Mapping[str, Any],
        remove: str | Sequence[str] = (),
        inert: str | Sequence[str] = (),
        rejected: str | Sequence[str] = (),
    ) -> None:
        """Apply manifests (paths relative to the test's file) or Kubernetes objects, after removing the policies named, as one change.

        A policy that does nothing or is refused fails the test, unless it is named by `inert` or `rejected`.
        """
        __tracebackhide__ = True
        here = _caller()
        objects = [each for policy in policies for each in self._objects(policy, here)]
        self._check_groups(objects, here)
        apply = tuple(each.policy(self.case.namespace) for each in objects if each.kind != CIDR_GROUP)
        gone = tuple(self._find(name, here) for name in _names(remove))
        self._in_force = self._in_force.change(gone, apply)
        phase = self._step(
            "apply",
            here,
            remove=gone,
            apply=apply,
            inert=tuple(self._find(name, here) for name in _names(inert)),
            rejected=tuple(Rejected(self._find(name, here)) for name in _names(rejected)),
        )
        session = self._ready(phase)
        enforcement = session.apply(Change(gone, apply))
        asked = [*(each.ref for each in apply), *phase.inert, *(each.ref for each in phase.rejected)]
        statuses: Mapping[PolicyRef, PolicyStatus] = session.cluster.status(asked) if asked else {}
        findings = standing(phase, statuses)
        outcome = Outcome.FAILED if any(finding.fails for finding in findings) else Outcome.PASSED
        name, texts = self.case.name, {str(each.ref): yaml.safe_dump(dict(each.document), sort_keys=False) for each in phase.policies}
        self._run.tell(
            PhaseStarted(case=name, phase=phase.name, location=here),
            PoliciesApplied(
                case=name,
                phase=phase.name,
                removed=tuple(map(str, gone)),
                applied=tuple(str(each.ref) for each in apply),
                revision=0,
                how=enforcement.how,
                seconds=enforcement.seconds,
                policies=texts,
            ),
            PhaseFinished(case=name, phase=phase.name, outcome=outcome, seconds=enforcement.seconds, findings=findings),
        )
        self._conclude(replace(self.case, phases=(phase,)), phase.name, outcome)

    def remove(self, *names: str) -> None:
        """Remove policies by name: `[Kind/][namespace/]name`."""
        __tracebackhide__ = True
        self.apply(remove=names)

    def expect(self, *expectations: str | Mapping[str, Any], **keys: Any) -> list[CheckResult]:
        """Probe and judge, now. An expectation is a text such as `"deny: client -> backend:8080"` or the mapping that a case file would
        hold; `keys` (`reason`, `at`, `by`, `status`, ...) hold for each of them. All are checked before the test fails."""
        __tracebackhide__ = True
        here = _caller()
        in_force = tuple(self._in_force.policies.values())
        parsed = [parse_expectation(_with(each, keys), self.case, in_force, here) for each in expectations]
        phase = self._step("expect", here, expectations=tuple(parsed))
        session = self._ready(phase)
        name, results = self.case.name, [result for each in parsed for result in session.check(each)]
        outcome = _worst(results)
        self._run.tell(
            PhaseStarted(case=name, phase=phase.name, location=here),
            *(CheckFinished(case=name, phase=phase.name, result=result) for result in results),
            PhaseFinished(case=name, phase=phase.name, outcome=outcome, seconds=0.0, checks=len(results)),
        )
        self._conclude(replace(self.case, phases=(phase,)), phase.name, outcome)
        return results

    def release(self) -> None:
        """End the case. The fixture does so after the test."""
        if self._opened and not self._run.options.keep:
            self._run.session().release()
        self._opened = False

    # Behind them

    def _ready(self, phase: Phase) -> Any:
        """The session with the case deployed; skips the test where the cluster lacks what is needed."""
        session = self._run.session()
        if reason := session.lacking(self.case, phase):
            pytest.skip(reason)
        if not self._opened:
            session.open_case(self.case)
            self._opened = True
        return session

    def _step(self, what: str, here: Location, **fields: Any) -> Phase:
        self._steps += 1
        policies = tuple(self._in_force.policies.values())
        phase = Phase(name=f"{what} {self._steps}", location=here, policies=policies, **fields)
        refused = {each.ref for each in phase.rejected}
        enforced = [each for each in policies if each.ref not in refused]
        return replace(phase, requires=phase_requirements(None, phase, names_of(self.case), enforced))

    def _conclude(self, case: Case, phase: str, outcome: Outcome) -> None:
        __tracebackhide__ = True
        if outcome is Outcome.PASSED:
            return
        simulated = self._run.session().cluster.simulated
        account = describe(self._run.last, case, phase, command=self._run.options.command(self._command), simulated=simulated)
        raise (UnknownOutcome if outcome is Outcome.UNKNOWN else CheckFailure)(account)

    def _objects(self, policy: str | Path | Mapping[str, Any], here: Location) -> Sequence[ManifestObject]:
        if isinstance(policy, Mapping):
            source = Source(f"<object in {here}>", yaml.safe_dump(dict(policy), sort_keys=False))
            return [each for document in parse_documents(source) for each in objects_of(document)]
        written = Text(str(policy), _place(here, str(policy)))
        return self._manifests.objects(written, self._folder)

    def _check_groups(self, objects: Sequence[ManifestObject], here: Location) -> None:
        known = {group.name for group in self.case.cidr_groups}
        for each in objects:
            if each.kind == CIDR_GROUP and each.name not in known:
                raise UsageError(
                    f"{CIDR_GROUP} {each.name} comes too late: groups belong to the case",
                    location=here,
                    hint="load a case file that applies it",
                )

    def _find(self, name: str, here: Location) -> PolicyRef:
        return find_policy(Text(name, _place(here, name)), self._in_force.policies, where="in force here")


def _worst(results: Sequence[CheckResult]) -> Outcome:
    """Failed outweighs unknown, which outweighs passed."""
    outcomes = {result.judgement.outcome for result in results}
    return next((each for each in (Outcome.FAILED, Outcome.UNKNOWN) if each in outcomes), Outcome.PASSED)


def _with(expectation: str | Mapping[str, Any], keys: Mapping[str, Any]) -> str | Mapping[str, Any]:
    if not keys:
        return expectation
    if isinstance(expectation, Mapping):
        return {**expectation, **keys}
    action, _, text = expectation.partition(":")
    return {action.strip(): text.strip(), **keys}


def _names(names: str | Sequence[str]) -> Sequence[str]:
    return (names,) if isinstance(names, str) else names


def _caller() -> Location:
    """The first line outside this module: the test's."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    if frame is None:
        return Location("python", 1)
    return Location(shown_path(Path(frame.f_code.co_filename)), frame.f_lineno)


def _place(here: Location, text: str) -> Place:
    line = linecache.getline(here.file, here.line).rstrip("\n")
    column = line.find(text) + 1
    source = Source(here.file, line, first_line=here.line)
    return Place(source, here.line, max(1, column), here.line, max(1, column) + (len(text) if column else 0))
