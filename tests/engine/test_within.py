"""`within`: time that enforcement is allowed to take. Probes are sent again until it holds or the time is up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from msgspec.structs import replace

from harness.cases.case import Phase
from harness.clusters.base import Change, Observation
from harness.clusters.memory.cluster import MemoryCluster
from harness.engine.checks import checks
from harness.engine.events import CheckFinished
from harness.engine.outcome import CheckResult, Outcome
from harness.engine.predict import Predictor, model_options
from harness.engine.run import Memory, Prober
from harness.engine.session import Session
from harness.engine.settings import Settings
from harness.model.probe import Ending, Probe
from harness.model.traffic import Family
from harness.policy.repository import Repository
from harness.probes.plan import Stamp

CASE = """
    case: it takes a while
    endpoints:
      client: {{labels: {{app: client}}}}
      server: {{labels: {{app: server}}, ports: [8080]}}
    phases:
      baseline:
        - allow: client -> server:8080
      allow:
        policies:
          - apiVersion: cilium.io/v2
            kind: CiliumNetworkPolicy
            metadata: {{name: server}}
            spec:
              endpointSelector: {{matchLabels: {{app: server}}}}
              ingress: [{{fromEndpoints: [{{matchLabels: {{app: client}}}}]}}]
        expect:
          - {{allow: "client -> server:8080"{within}}}
"""


class Slow(MemoryCluster):
    """A cluster that sends no packet but behaves as one that does, and shows no flow of the first probes after a policy."""

    simulated = False

    def __init__(self, blind: int) -> None:
        super().__init__()
        self.blind = blind
        self.sent: list[Probe] = []

    def flows(self) -> str | None:
        return "unix:nowhere"

    def probe(self, plan: Sequence[Probe]) -> Iterator[Observation]:
        for seen in super().probe(plan):
            self.sent.append(seen.probe)
            late = 1 < len(self.sent) <= 1 + self.blind
            yield replace(seen, flows=(), result=replace(seen.result, ending=Ending.TIMEOUT, server_saw=False)) if late else seen


@pytest.fixture
def allowed(load):
    def run(blind: int, within: str) -> tuple[CheckResult, Slow]:
        results: list[CheckResult] = []
        cluster = Slow(blind)
        session = Session(cluster, Settings(), lambda event: results.append(event.result) if isinstance(event, CheckFinished) else None)
        session.run_phase(load(CASE.format(within=within)), "allow")
        return results[-1], cluster

    return run


def test_it_is_sent_again_until_it_holds_and_the_time_is_reported(allowed):
    result, cluster = allowed(3, ", within: 20")
    assert result.judgement.outcome is Outcome.PASSED
    assert result.enforced_after is not None
    assert result.enforced_after < 20
    assert len(cluster.sent) == 1 + 3 + 1
    assert len({probe.nonce for probe in cluster.sent}) == len(cluster.sent)


def test_it_stays_as_it_was_when_the_time_is_up(allowed):
    result, cluster = allowed(1000, ", within: 0.05")
    assert result.judgement.outcome is Outcome.UNKNOWN
    assert result.enforced_after is None
    assert len(cluster.sent) > 2


class Clock:
    """Time that passes only where somebody pauses; each pause takes `factor` times as long as it should, as on a busy machine."""

    def __init__(self, factor: float) -> None:
        self.now = 0.0
        self._factor = factor

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds * self._factor


@pytest.mark.parametrize("factor", [1, 3, 1000])
def test_nothing_is_sent_after_the_time_so_nothing_passes_by_it(load, factor: float):
    case = load(CASE.format(within=", within: 2"))
    cluster, clock = Slow(10_000), Clock(factor)
    phase = next(each for each in case.phases if each.name == "allow")
    placement = cluster.prepare(case)
    predictor = Predictor(placement.state, Repository.empty(model_options(cluster.capabilities)))
    times: list[float] = []

    class Timed(Prober):
        def _send(self, *arguments):
            times.append(clock())
            return super()._send(*arguments)

    prober = Timed(cluster, Stamp.of("ab"), Memory(), predictor, True, clock=clock, pause=clock.pause)

    def run(phase: Phase) -> CheckResult:
        times.clear()
        return prober.run(checks(case, phase.expectations, placement, families=frozenset(Family), timeout=1.0), enforced_at=0.0)[0]

    assert run(case.phases[0]).judgement.outcome is Outcome.PASSED
    cluster.apply(Change(apply=phase.apply))
    result = run(phase)
    assert result.judgement.outcome is Outcome.UNKNOWN
    assert times[0] == 0.0
    assert max(times) < 2
    assert factor > 1 or max(times) > 1.9


def test_what_holds_at_once_is_sent_once(allowed):
    result, cluster = allowed(0, ", within: 20")
    assert result.judgement.outcome is Outcome.PASSED
    assert result.enforced_after is not None
    assert len(cluster.sent) == 2


def test_without_it_there_is_one_try(allowed):
    result, cluster = allowed(1, "")
    assert result.judgement.outcome is Outcome.UNKNOWN
    assert result.enforced_after is None
    assert len(cluster.sent) == 2
