"""`within`: time that enforcement is allowed to take. Probes are sent again until it holds or the time is up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from harness.clusters.base import Observation
from harness.clusters.memory.cluster import MemoryCluster
from harness.engine.events import CheckFinished
from harness.engine.outcome import CheckResult, Outcome
from harness.engine.session import Session
from harness.engine.settings import Settings
from harness.model.probe import Ending, Probe

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
