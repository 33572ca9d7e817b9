"""On a real cluster the recorded verdict of Cilium's engine, the model, the packets and the flows agree on every probe of a seeded sample."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from harness.cases.load import load_cases
from harness.clusters.kubernetes.cluster import KubernetesCluster, KubernetesOptions
from harness.engine.events import CheckFinished, Event, PhaseFinished
from harness.engine.outcome import Outcome
from harness.engine.session import Session
from harness.engine.settings import Settings
from harness.model.verdict import Verdict
from harness.policy.options import Options
from tests.conformance.vector_cases import Asked, asked, case_text, runnable
from tests.conformance.vectors import VERSIONS, Vector, scenarios, spec_cases

CONTEXT = os.environ.get("HARNESS_TEST_KUBE_CONTEXT", "")
pytestmark = [
    pytest.mark.skipif(not CONTEXT, reason="no cluster: `make test-kubernetes CONTEXT=...` runs these against a kubeconfig context"),
    pytest.mark.xdist_group("kubernetes"),
]
SEED = 20_261_123
DIRECTED, RANDOM = 100, 6
"""How many scenarios: directed ones share their pods, each random one has pods of its own."""
PROTOCOLS = ("TCP", "UDP", "ICMP")

Sample = Sequence[tuple[Vector, Sequence[Asked]]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[KubernetesCluster]:
    cluster = KubernetesCluster(KubernetesOptions(context=CONTEXT, require_flows=True, allow_clusterwide=True))
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def version(cluster: KubernetesCluster) -> str:
    minor = ".".join(cluster.capabilities.cilium.split(".")[:2])
    if minor not in VERSIONS:
        pytest.skip(f"there are no recorded verdicts of Cilium {minor}, only of {' and '.join(VERSIONS)}")
    return minor


def usable(vectors: Iterator[Vector], version: str) -> list[tuple[Vector, list[Asked]]]:
    options = Options.of(version)
    found = [(vector, asked(vector, PROTOCOLS)) for vector in vectors]
    return [(vector, flows) for vector, flows in found if flows and runnable(vector, options)]


def disagreements(cluster: KubernetesCluster, name: str, sample: Sample, folder) -> tuple[list[str], int]:
    """What does not agree, and how many probes of scenarios were judged."""
    path = folder / "test_vectors.yaml"
    path.write_text(case_text(name, sample))
    (case,) = load_cases(path)
    events: list[Event] = []
    session = Session(cluster, Settings(coverage=False), events.append)
    wrong: list[str] = []
    for phase in case.phases:
        finished = session.run_phase(case, phase.name)
        vector = sample[int(phase.name[1:])][0].id if phase.name != "baseline" else "baseline"
        if not isinstance(finished, PhaseFinished) or finished.error:
            wrong.append(f"{vector}: {finished}")
    session.close()
    judged = 0
    for event in events:
        if not isinstance(event, CheckFinished):
            continue
        judged += event.phase != "baseline"
        result = event.result
        vector = "baseline" if event.phase == "baseline" else sample[int(event.phase[1:])][0].id
        said = f"{vector}: {result.source} -> {result.target}: {result.action}"
        if result.judgement.outcome is not Outcome.PASSED:
            wrong.append(f"{said}: {result.judgement.outcome}, {result.judgement.why}")
        if result.disagreement:
            wrong.append(f"{said}: {result.disagreement}")
        if result.prediction is None or result.prediction.verdict is not Verdict(str(result.action)):
            wrong.append(f"{said}: predicted {result.prediction}")
    return wrong, judged


def test_engine_model_packets_and_flows_agree_on_directed_scenarios(cluster, version, tmp_path):
    found = usable(spec_cases(version), version)
    pods = Counter(json.dumps(vector.document["pods"], sort_keys=True) for vector, _ in found)
    shared = [each for each in found if json.dumps(each[0].document["pods"], sort_keys=True) == pods.most_common(1)[0][0]]
    sample = random.Random(SEED).sample(shared, min(DIRECTED, len(shared)))  # noqa: S311 - the same sample each time
    wrong, judged = disagreements(cluster, "directed", sample, tmp_path)
    assert not wrong
    assert judged == sum(len(flows) for _, flows in sample)


@pytest.mark.parametrize("index", range(RANDOM))
def test_engine_model_packets_and_flows_agree_on_random_scenarios(cluster, version, tmp_path, index):
    found = usable(scenarios(version), version)
    sample = random.Random(SEED).sample(found, RANDOM)[index : index + 1]  # noqa: S311 - the same sample each time
    wrong, judged = disagreements(cluster, "random", sample, tmp_path)
    assert not wrong
    assert judged == sum(len(flows) for _, flows in sample) > 0
