"""Waiting for enforcement by probes alone: an agent whose cluster takes its time, and the model that knows what to wait for."""

from __future__ import annotations

import asyncio
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import pytest

from harness.cases.case import Case, Placement
from harness.cases.load import load_cases
from harness.cases.state import cluster_state
from harness.clusters.kubernetes.stability import ROUNDS, Path, paths, stable
from harness.model.probe import Ending, Probe, ProbeResult
from harness.policy.evaluate import Evaluator
from harness.policy.options import Options
from harness.policy.repository import Repository
from harness.probes.agent import AgentEvent

CASE = """
    case: x
    endpoints:
      web: {labels: {app: web}}
      other: {}
      api: {labels: {app: api}, ports: [8080, {port: 53, protocol: UDP}, {port: 9, protocol: UDP, serve: sink}]}
    phases:
      before: [{allow: 'web, other -> api:8080'}]
      after:
        policies:
          - apiVersion: cilium.io/v2
            kind: CiliumNetworkPolicy
            metadata: {name: api}
            spec: {endpointSelector: {matchLabels: {app: api}}, ingress: [{fromEndpoints: [{matchLabels: {app: web}}]}]}
        expect: [{allow: 'web -> api:8080'}, {deny: 'other -> api:8080'}]
"""


@dataclass
class Slow:
    """Answers as `allowed` says of a site and the round."""

    allowed: Callable[[str, int], bool]
    rounds: int = 0

    async def run(self, probes: Sequence[Probe]) -> AsyncIterator[AgentEvent]:
        self.rounds += 1
        for probe in probes:
            ending = Ending.ANSWERED if self.allowed(probe.site.name, self.rounds) else Ending.TIMEOUT
            yield ProbeResult(probe.id, ending, 0, 0)

    async def stop(self, probe_id: int) -> None:
        raise AssertionError(f"nobody stops {probe_id}")


@pytest.fixture
def case(tmp_path) -> Case:
    path = tmp_path / "test_case.yaml"
    path.write_text(textwrap.dedent(CASE))
    return load_cases(path)[0]


def evaluators(case: Case) -> tuple[Evaluator, Evaluator]:
    empty = Repository.empty(Options.of("1.20"))
    changed = empty.change([], [policy.document for policy in case.phases[1].apply])
    return Evaluator(cluster_state(case), empty), Evaluator(cluster_state(case), changed)


def looked_at(case: Case) -> tuple[Path, ...]:
    placement = Placement(cluster_state(case), {f"pod:default/{name}": (f"10.0.0.{at}",) for at, name in enumerate(case.endpoints)})
    return paths(case, placement, *evaluators(case))


def test_what_the_change_breaks_is_looked_at_first_and_only_what_answers(case):
    found = looked_at(case)
    assert [(path.source.name, path.target.name, path.port) for path in found] == [("other", "api", 8080), ("web", "api", 8080)]


def test_it_waits_until_the_change_is_seen_and_stays(case):
    agent = Slow(lambda site, turn: "web" in site or turn < 5)
    found = asyncio.run(stable(agent, looked_at(case), evaluators(case)[1]))
    assert (found.otherwise, found.rounds) == (0, 4 + ROUNDS)
    assert "as the policy model says" in str(found)


def test_one_that_comes_and_goes_is_not_yet_stable(case):
    agent = Slow(lambda site, turn: "web" in site or turn in (1, 3, 6))
    assert asyncio.run(stable(agent, looked_at(case), evaluators(case)[1])).rounds == 6 + ROUNDS


def test_what_never_does_what_the_model_says_is_told_after_the_patience(case):
    began = time.monotonic()
    found = asyncio.run(stable(Slow(lambda *_: True), looked_at(case), evaluators(case)[1], patience=0.3))
    assert 0.3 < time.monotonic() - began < 2.0
    assert found.otherwise == 1
    assert "1 of them not as the policy model says" in str(found)


def test_what_never_settles_ends_all_the_same(case):
    found = asyncio.run(stable(Slow(lambda _, turn: turn % 2 == 0), looked_at(case), evaluators(case)[1], patience=0.1))
    assert found.otherwise


def test_where_nothing_can_be_looked_at_it_says_so(case):
    assert "no connection" in str(asyncio.run(stable(Slow(lambda *_: True), (), evaluators(case)[1])))
