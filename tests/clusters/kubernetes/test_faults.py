"""A cluster that misbehaves: slow or lying agents, lost and late flows, Relay away, execs that fail. What holds may then end in unknown, and
what does not hold must never pass. Needs a cluster that can be told to misbehave, by the command HARNESS_TEST_FAULT_COMMAND."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace

from harness.cases.case import Action, Case, Expectation, Phase
from harness.cases.load import find_case_files, load_cases
from harness.clusters.kubernetes.cluster import KubernetesCluster, KubernetesOptions
from harness.clusters.open import Hubble
from harness.engine.events import CheckFinished, Event, PhaseFinished
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


def in_rounds(case: Case, rounds: Mapping[str, Sequence[Phase]]) -> Case:
    """The case with its phases once for each round, `round: phase`, one after the other on the same pods."""
    phases: list[Phase] = []
    for name, wanted in rounds.items():
        left = tuple(policy.ref for policy in phases[-1].policies) if phases else ()
        for phase in wanted:
            phases.append(replace(phase, name=f"{name}: {phase.name}", remove=(*left, *phase.remove), baseline=not phases))
            left = ()
    return replace(case, phases=tuple(phases))


class Told(Struct, frozen=True):
    """What became of a phase, and of which checks it is not a pass."""

    outcome: Outcome
    why: str


class Runs:
    """Each case in a session of its own, side by side, step by step."""

    def __init__(self, sessions: Sequence[tuple[Case, Session, list[Event]]], pool: ThreadPoolExecutor) -> None:
        self._sessions = sessions
        self._pool = pool

    def run(self, phases: Callable[[Case], Sequence[Phase]]) -> Mapping[str, Told]:
        """What became of these phases, by `case :: phase`."""
        out: dict[str, Told] = {}
        for found in self._pool.map(lambda each: self._one(*each, phases(each[0])), self._sessions):
            out.update(found)
        return out

    @staticmethod
    def _one(case: Case, session: Session, events: list[Event], phases: Sequence[Phase]) -> dict[str, Told]:
        out = {}
        for phase in phases:
            events.clear()
            end = session.run_phase(case, phase.name)
            assert isinstance(end, PhaseFinished), end
            checks = [event.result for event in events if isinstance(event, CheckFinished) and not event.replayed]
            bad = [
                f"{each.source} -> {each.target}: {each.judgement.why}" for each in checks if each.judgement.outcome is not Outcome.PASSED
            ]
            out[f"{case.name} :: {end.phase}"] = Told(end.outcome, "; ".join(filter(None, (end.error, *map(str, end.findings), *bad))))
        return out


@pytest.fixture(scope="module")
def sessions() -> Iterator[Sequence[tuple[Session, list[Event]]]]:
    """One for each case, with a connection of its own, opened while the cluster is still sound; and what it tells."""
    with ExitStack() as stack:

        def one(_: Case) -> tuple[Session, list[Event]]:
            cluster = KubernetesCluster(KubernetesOptions(context=CONTEXT, require_flows=True))
            stack.callback(cluster.close)
            events: list[Event] = []
            session = Session(cluster, Settings(hubble=Hubble.REQUIRE), events.append)
            stack.callback(session.close)
            return session, events

        pool = stack.enter_context(ThreadPoolExecutor(len(CASES)))
        yield list(pool.map(one, CASES))


@pytest.fixture(scope="module")
def opened(sessions) -> Iterator[Callable[[Sequence[Case]], Runs]]:
    """Each case in a session, deployed anew."""
    with ThreadPoolExecutor(len(sessions)) as pool:
        yield lambda cases: Runs([(case, *each) for case, each in zip(cases, sessions, strict=True)], pool)


SLOW = ("flow-delay=2s", "enforce-delay=3s")
LYING = ("flow-loss=0.3", "agent=restart", "enforce-leak=3s")
AWAY = "relay=down"
FAILING = "exec-fail=0.5"
"""The last round: health checks are execs too, so what runs on the cluster may be restarted for it a while later."""


@pytest.fixture(scope="module")
def rounds(opened) -> Callable[..., Mapping[str, Told]]:
    """The phases of each round, on pods that are deployed once. A round of a fault that lies has the lies too."""

    def phases(case: Case, switch: str) -> Sequence[Phase]:
        return with_lies(case).phases if switch in (*LYING, FAILING) else case.phases

    runs = opened([in_rounds(case, {switch: phases(case, switch) for switch in (*SLOW, *LYING, AWAY, FAILING)}) for case in CASES])

    def run(switch: str, chosen: slice = slice(None)) -> Mapping[str, Told]:
        return runs.run(lambda case: [phase for phase in case.phases if phase.name.startswith(f"{switch}: ")][chosen])

    return run


def those(finished: Mapping[str, Told], *outcomes: Outcome) -> list[str]:
    """What ended so, with what it tells of itself."""
    return [f"{name}: {end.outcome}: {end.why}" for name, end in finished.items() if end.outcome in outcomes]


def test_there_are_about_six_cases_to_misbehave_with():
    assert 5 <= len(CASES) <= 8


@pytest.mark.parametrize("switch", SLOW)
def test_what_is_only_slow_passes(switch, rounds):
    with fault(switch):
        finished = rounds(switch)
    assert not those(finished, Outcome.FAILED, Outcome.UNKNOWN)


@pytest.mark.parametrize("switch", LYING)
def test_what_holds_does_not_fail_and_what_does_not_hold_does_not_pass(switch, rounds):
    truth_and_lies(switch, rounds)


def truth_and_lies(switch: str, rounds) -> None:
    with fault(switch):
        finished = rounds(switch)
    truths = {name: end for name, end in finished.items() if not name.endswith(LIE)}
    lies = {name: end for name, end in finished.items() if name.endswith(LIE)}
    assert not those(truths, Outcome.FAILED)
    assert not those(lies, Outcome.PASSED)


def test_without_relay_everything_is_unknown(rounds):
    before = rounds(AWAY, slice(1))
    with fault(AWAY):
        after = rounds(AWAY, slice(1, None))
    assert not those(before, Outcome.FAILED, Outcome.UNKNOWN)
    assert not those(after, Outcome.PASSED, Outcome.FAILED)


def test_when_half_of_the_execs_fail_the_same_holds(rounds):
    truth_and_lies(FAILING, rounds)


def test_a_later_phase_by_itself_passes_only_when_its_policies_are_enforced(opened):
    """Its earlier phases are replayed at once: an agent that only claims to enforce lets everything through, as this phase expects."""
    runs = opened([only_the_last(case) for case in CASES])
    with fault("enforce-leak=3s"):
        finished = runs.run(lambda case: case.phases[-1:])
    assert not those(finished, Outcome.PASSED)
