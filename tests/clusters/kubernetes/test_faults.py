"""A cluster that misbehaves: slow or lying agents, lost and late flows, Relay away, execs that fail. What holds may then end in unknown, and
what does not hold must never pass. Needs a cluster that can be told to misbehave, by the command HARNESS_TEST_FAULT_COMMAND."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cases.case import Action, Case, Expectation, Phase
from harness.cases.load import find_case_files, load_cases
from harness.clusters.kubernetes.cluster import KubernetesCluster, KubernetesOptions
from harness.clusters.open import Hubble
from harness.engine.events import PhaseFinished
from harness.engine.outcome import Outcome
from harness.engine.session import Session
from harness.engine.settings import Settings

CONTEXT = os.environ.get("HARNESS_TEST_KUBE_CONTEXT", "")
COMMAND = shlex.split(os.environ.get("HARNESS_TEST_FAULT_COMMAND", ""))
SUITES = Path(__file__).resolve().parents[3] / "suites"
pytestmark = [
    pytest.mark.skipif(
        not (CONTEXT and COMMAND),
        reason="no cluster that can misbehave: HARNESS_TEST_KUBE_CONTEXT and HARNESS_TEST_FAULT_COMMAND (called as `COMMAND relay=down`) name one",
    ),
    pytest.mark.xdist_group("kubernetes"),
]
PHASES = 3
CASES = [
    replace(case, phases=case.phases[:PHASES]) for file in find_case_files(SUITES) for case in load_cases(file) if "faults" in case.tags
]
LIE = " (turned round)"
"""The end of the name of a phase whose expectations are the opposite of the truth."""


@contextmanager
def fault(*switches: str) -> Iterator[None]:
    """Let the cluster misbehave in the block."""
    if not switches:
        yield
        return
    try:
        subprocess.run([*COMMAND, *switches], check=True, capture_output=True)
        yield
    finally:
        subprocess.run([*COMMAND, "clear"], check=True, capture_output=True)


def turned_round(expectation: Expectation) -> Expectation:
    """The opposite of what it says, with nothing more stated than that."""
    action = Action.ALLOW if expectation.action is Action.DENY else Action.DENY
    return replace(expectation, action=action, reasons=frozenset(), at=None, by=None)


def with_lies(case: Case) -> Case:
    """The case with, after each phase, one that says the opposite of the same state."""
    phases: list[Phase] = []
    for phase in case.phases:
        phases.append(phase)
        if not phase.baseline:
            lies = tuple(map(turned_round, phase.expectations))
            phases.append(replace(phase, name=phase.name + LIE, expectations=lies, remove=(), apply=(), inert=(), rejected=()))
    return replace(case, phases=tuple(phases))


def only_the_last(case: Case) -> Case:
    """The case with a last phase that expects everything to be let through, as before the first policy."""
    return replace(case, phases=(*case.phases, replace(case.phases[0], name="all open", baseline=False)))


class Runs:
    """Each case in a session of its own, side by side, step by step."""

    def __init__(self, sessions: Sequence[tuple[Case, Session]], pool: ThreadPoolExecutor) -> None:
        self._sessions = sessions
        self._pool = pool

    def run(self, phases: Callable[[Case], Sequence[Phase]]) -> Mapping[str, PhaseFinished]:
        """What became of these phases, by `case :: phase`."""
        finished = self._pool.map(
            lambda each: [(each[0], each[1].run_phase(each[0], phase.name)) for phase in phases(each[0])], self._sessions
        )
        out = {}
        for case, end in (each for ends in finished for each in ends):
            assert isinstance(end, PhaseFinished), end
            out[f"{case.name} :: {end.phase}"] = end
        return out


@pytest.fixture(scope="module")
def sessions() -> Iterator[Sequence[Session]]:
    """One for each case, with a connection of its own, opened while the cluster is still sound."""
    with ExitStack() as stack:

        def one(_: Case) -> Session:
            cluster = KubernetesCluster(KubernetesOptions(context=CONTEXT, require_flows=True))
            stack.callback(cluster.close)
            session = Session(cluster, Settings(hubble=Hubble.REQUIRE), lambda _: None)
            stack.callback(session.close)
            return session

        pool = stack.enter_context(ThreadPoolExecutor(len(CASES)))
        yield list(pool.map(one, CASES))


@pytest.fixture
def opened(sessions) -> Iterator[Callable[[Sequence[Case]], Runs]]:
    """Each case in a session, deployed anew."""
    with ThreadPoolExecutor(len(sessions)) as pool:
        yield lambda cases: Runs(list(zip(cases, sessions, strict=True)), pool)


def outcomes(finished: Mapping[str, PhaseFinished], outcome: Outcome) -> list[str]:
    return [name for name, end in finished.items() if end.outcome is outcome]


def test_there_are_about_six_cases_to_misbehave_with():
    assert 5 <= len(CASES) <= 8


@pytest.mark.parametrize("switch", ["flow-loss=0.3", "exec-fail=0.5", "agent=restart", "enforce-leak=3s"])
def test_what_holds_does_not_fail_and_what_does_not_hold_does_not_pass(switch, opened):
    runs = opened([with_lies(case) for case in CASES])
    with fault(switch):
        finished = runs.run(lambda case: case.phases)
    truths = {name: end for name, end in finished.items() if not name.endswith(LIE)}
    lies = {name: end for name, end in finished.items() if name.endswith(LIE)}
    assert not outcomes(truths, Outcome.FAILED)
    assert not outcomes(lies, Outcome.PASSED)


@pytest.mark.parametrize("switch", ["flow-delay=2s", "enforce-delay=3s"])
def test_what_is_only_slow_passes(switch, opened):
    runs = opened(CASES)
    with fault(switch):
        finished = runs.run(lambda case: case.phases)
    assert outcomes(finished, Outcome.PASSED) == list(finished)


def test_a_later_phase_by_itself_passes_only_when_its_policies_are_enforced(opened):
    """Its earlier phases are replayed at once: an agent that only claims to enforce lets everything through, as this phase expects."""
    runs = opened([only_the_last(case) for case in CASES])
    with fault("enforce-leak=3s"):
        finished = runs.run(lambda case: case.phases[-1:])
    assert not outcomes(finished, Outcome.PASSED)


def test_without_relay_everything_is_unknown(opened):
    runs = opened(CASES)
    before = runs.run(lambda case: case.phases[:1])
    with fault("relay=down"):
        after = runs.run(lambda case: case.phases[1:])
    assert outcomes(before, Outcome.PASSED) == list(before)
    assert outcomes(after, Outcome.UNKNOWN) == list(after)
