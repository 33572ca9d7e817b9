"""In the lab the recorded verdict of Cilium's engine, the model, the packets and the flows agree on every probe of a seeded sample."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from harness.cases.load import load_cases
from harness.clusters.netns import probe_capabilities
from harness.clusters.netns.cluster import LabOptions, NetnsCluster
from harness.engine.events import CheckFinished, Event, PhaseFinished
from harness.engine.outcome import Outcome
from harness.engine.session import Session
from harness.engine.settings import Settings
from harness.model.verdict import Verdict
from harness.policy.options import Options
from tests.conformance.vector_cases import Asked, asked, case_text, runnable
from tests.conformance.vectors import Vector, scenarios, spec_cases

VERSION = "1.20"
SEED = 20_261_123
PARTS = 4
DIRECTED = 120
RANDOM = int(os.environ.get("HARNESS_TEST_VECTORS", "160"))
"""How many scenarios. The directed ones share their pods; each random one has pods of its own, and some fifty flows."""
PROTOCOLS = ("TCP", "UDP", "ICMP", "ICMPv6")

Sample = Sequence[tuple[Vector, Sequence[Asked]]]


@pytest.fixture(scope="module")
def lab() -> Iterator[NetnsCluster]:
    machine = probe_capabilities()
    if not machine.usable:
        pytest.skip(f"{machine.why}. {machine.hint}")
    cluster = NetnsCluster(LabOptions(cilium=VERSION))
    if "ipv6" not in cluster.capabilities.features:
        cluster.close()
        pytest.skip(cluster.capabilities.lacking["ipv6"])
    yield cluster
    cluster.close()


def sample(vectors: Iterator[Vector], number: int) -> list[tuple[Vector, list[Asked]]]:
    """The first so many, in an order drawn by the seed, that the lab decides as recorded."""
    options = Options.of(VERSION)
    drawn = list(vectors)
    random.Random(SEED).shuffle(drawn)  # noqa: S311 -- a sample, and the same one each time
    found: list[tuple[Vector, list[Asked]]] = []
    for vector in drawn:
        if len(found) == number:
            break
        if runnable(vector, options) and (flows := asked(vector, PROTOCOLS, outside=True)):
            found.append((vector, flows))
    return found


@cache
def directed() -> list[tuple[Vector, list[Asked]]]:
    pods = Counter(json.dumps(vector.document["pods"]) for vector in spec_cases(VERSION)).most_common(1)[0][0]
    return sample((each for each in spec_cases(VERSION) if json.dumps(each.document["pods"]) == pods), DIRECTED)


@cache
def drawn() -> list[tuple[Vector, list[Asked]]]:
    return sample(scenarios(VERSION), RANDOM)


def disagreements(lab: NetnsCluster, mine: Sample, folder: Path) -> tuple[list[str], int]:
    """What does not agree about scenarios that share their pods, and how many probes were judged."""
    path = folder / "test_vectors.yaml"
    path.write_text(case_text("vectors", mine))
    (case,) = load_cases(path)
    vectors = {"baseline": "baseline", **{f"s{index}": vector.id for index, (vector, _) in enumerate(mine)}}
    events: list[Event] = []
    session = Session(lab, Settings(coverage=False), events.append)
    wrong: list[str] = []
    for phase in case.phases:
        finished = session.run_phase(case, phase.name)
        if not isinstance(finished, PhaseFinished) or finished.error:
            wrong.append(f"{vectors[phase.name]}: {finished}")
    session.close()
    checks = [event for event in events if isinstance(event, CheckFinished)]
    for event in checks:
        result = event.result
        said = f"{vectors[event.phase]}: {result.source} -> {result.target}: {result.action}"
        if result.judgement.outcome is not Outcome.PASSED:
            wrong.append(f"{said}: {result.judgement.outcome}, {result.judgement.why}")
        if result.disagreement:
            wrong.append(f"{said}: {result.disagreement}")
        if result.prediction is None or result.prediction.verdict is not Verdict(str(result.action)):
            wrong.append(f"{said}: predicted {result.prediction}")
    return wrong, sum(event.phase != "baseline" for event in checks)


def test_engine_model_packets_and_flows_agree_on_directed_scenarios(lab: NetnsCluster, tmp_path: Path) -> None:
    assert len(directed()) == DIRECTED
    wrong, judged = disagreements(lab, directed(), tmp_path)
    assert not wrong
    assert judged == sum(len(flows) for _, flows in directed())


@pytest.mark.parametrize("part", range(PARTS))
def test_engine_model_packets_and_flows_agree_on_random_scenarios(lab: NetnsCluster, tmp_path: Path, part: int) -> None:
    mine = drawn()[part::PARTS]
    assert mine
    wrong: list[str] = []
    for each in mine:
        found, judged = disagreements(lab, [each], tmp_path)
        wrong += found
        assert judged == len(each[1])
    assert not wrong
