"""Flows that were lost: what they leave unknown is asked once more, and no more than once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from msgspec.structs import replace

from harness.clusters.base import Observation
from harness.clusters.memory.cluster import MemoryCluster
from harness.engine.events import CheckFinished
from harness.engine.outcome import CheckResult, Outcome
from harness.engine.session import Session
from harness.engine.settings import Settings
from harness.model.flow import LostEvents
from harness.model.probe import Ending, Probe

CASE = """
    case: some of it is lost
    endpoints:
      client: {labels: {app: client}}
      stranger: {labels: {app: stranger}}
      server: {labels: {app: server}, ports: [8080]}
    phases:
      baseline:
        - allow: client -> server:8080
      closed:
        policies:
          - apiVersion: cilium.io/v2
            kind: CiliumNetworkPolicy
            metadata: {name: server}
            spec:
              endpointSelector: {matchLabels: {app: server}}
              ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]
        expect:
          - allow: client -> server:8080
          - EXPECTED: stranger -> server:8080
"""


class Forgetful(MemoryCluster):
    """Behaves as one that sends packets, and loses flows of the first probes of each client in the phase with the policy."""

    simulated = False

    def __init__(self, times: int, ending: Ending | None = None) -> None:
        super().__init__()
        self.times = times
        self.ending = ending
        self.sent: dict[str, int] = {}
        self.closed = False

    def flows(self) -> str | None:
        return "unix:nowhere"

    def wait(self, revision: int):
        self.closed = True
        self.sent.clear()
        return super().wait(revision)

    def probe(self, plan: Sequence[Probe]) -> Iterator[Observation]:
        for seen in super().probe(plan):
            client = str(seen.probe.site) if not seen.probe.liveness else "liveness"
            self.sent[client] = self.sent.get(client, 0) + 1
            if not self.closed or seen.probe.liveness or self.sent[client] > self.times:
                yield seen
            else:
                result = replace(seen.result, ending=self.ending) if self.ending else seen.result
                yield replace(seen, flows=(), lost=(LostEvents(3),), result=result)


@pytest.fixture
def closed(load) -> Callable[..., tuple[list[CheckResult], Forgetful]]:
    def run(times: int, expected: str = "deny", ending: Ending | None = None) -> tuple[list[CheckResult], Forgetful]:
        results: list[CheckResult] = []
        cluster = Forgetful(times, ending)
        session = Session(cluster, Settings(), lambda event: results.append(event.result) if isinstance(event, CheckFinished) else None)
        session.run_phase(load(CASE.replace("EXPECTED", expected)), "closed")
        return results[-2:], cluster

    return run


def test_what_is_whole_the_second_time_decides_and_says_so(closed):
    results, cluster = closed(1)
    assert [each.judgement.outcome for each in results] == [Outcome.PASSED, Outcome.PASSED]
    assert all("asked again: at first 3 flow events were lost" in each.judgement.why for each in results)
    assert set(cluster.sent.values()) - {1} == {2}


def test_what_does_not_hold_fails_the_second_time(closed):
    results, _ = closed(1, expected="allow")
    assert [each.judgement.outcome for each in results] == [Outcome.PASSED, Outcome.FAILED]


def test_it_is_asked_once_more_and_then_stays_unknown(closed):
    results, cluster = closed(99)
    assert [each.judgement.outcome for each in results] == [Outcome.UNKNOWN, Outcome.UNKNOWN]
    assert {name: count for name, count in cluster.sent.items() if name != "liveness"} == {
        "pod:default/client": 2,
        "pod:default/stranger": 2,
    }


def test_a_probe_that_broke_is_not_asked_again(closed):
    results, cluster = closed(99, ending=Ending.ERROR)
    assert [each.judgement.outcome for each in results] == [Outcome.UNKNOWN, Outcome.UNKNOWN]
    assert {name: count for name, count in cluster.sent.items() if name != "liveness"} == {
        "pod:default/client": 1,
        "pod:default/stranger": 1,
    }
