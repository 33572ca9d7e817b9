"""The lab's numbers: start, the three-phase case, a denied probe, all-to-all, and the shipped suites."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.cases import denied, mesh, three_phases
from benchmarks.row import Row, median, percentile
from harness.cases.case import Action, Case
from harness.clusters.base import Change, Cluster
from harness.clusters.open import ClusterOptions, Hubble, open_cluster
from harness.engine.checks import checks
from harness.engine.events import CheckFinished, Event
from harness.engine.outcome import Outcome
from harness.engine.session import Session
from harness.engine.settings import Settings
from harness.model.probe import Ending, Probe
from harness.model.traffic import Family
from harness.probes.plan import Stamp, plan

ROOT = Path(__file__).resolve().parent.parent
GRACE = 0.005
"""Seconds that a denied probe stays open after its drop, by design; it is in the figure of `judged`, not in that of `seen`."""


@contextmanager
def _lab(*, hubble: Hubble = Hubble.REQUIRE) -> Iterator[Cluster]:
    cluster = open_cluster("netns", ClusterOptions(hubble=hubble))
    try:
        yield cluster
    finally:
        cluster.close()


def start(times: int = 5) -> Iterator[Row]:
    """From nothing to 20 pods that answer, on two nodes, dual stack."""
    case = denied(19)
    samples = []
    for _ in range(times):
        began = time.perf_counter()
        with _lab() as cluster:
            cluster.prepare(case)
            samples.append(time.perf_counter() - began)
    yield median("start of a lab, 20 pods", samples, "s", 0.7)


def three_phase_case(times: int = 20) -> Iterator[Row]:
    """A three-phase L4 case, deployed, run and judged, in a lab that is up."""
    case = three_phases()
    samples = []
    with _lab() as cluster:
        session = Session(cluster, Settings(), lambda _: None)
        for attempt in range(times + 1):
            began = time.perf_counter()
            for phase in case.phases:
                finished = session.run_phase(case, phase.name)
                if getattr(finished, "outcome", None) is not Outcome.PASSED:
                    raise SystemExit(f"benchmarks: the three-phase case did not pass: {finished}")
            session.release()
            if attempt:  # the first warms imports and caches
                samples.append((time.perf_counter() - began) * 1000)
        session.close()
    yield median("three-phase L4 case", samples, "ms", 150)


def denied_probe(times: int = 300) -> Iterator[Row]:
    """One denied probe at a time: from the first packet until its drop is seen, and until it is over."""
    case = denied(1)
    seen, over = [], []
    with _lab() as cluster:
        for probe in _probes(cluster, case, times):
            began = time.perf_counter()
            (observation,) = cluster.probe([probe])
            over.append((time.perf_counter() - began) * 1000)
            drop = next(flow for flow in observation.flows if flow.dropped)
            seen.append((drop.time - observation.result.started) / 1e6)
            if observation.result.ending is not Ending.STOPPED:
                raise SystemExit(f"benchmarks: a denied probe ended {observation.result.ending}")
    beyond = [each - GRACE * 1000 for each in over]
    yield median(
        "denied probe, sent to judged, less the grace", beyond, "ms", 5, note=f"with the grace of 5 ms: {percentile(over, 0.5):.2f} ms"
    )
    yield Row("denied probe, the same, p99", percentile(beyond, 0.99), "ms", 20, samples=tuple(beyond))
    yield median("denied probe, sent to dropped by the kernel", seen, "ms", 5)


def all_to_all(pods: int = 200) -> Iterator[Row]:
    """Every pod to every other: on packets and NFLOG alone, then matched through the gRPC client and judged."""
    case = mesh(pods)
    with _lab(hubble=Hubble.OFF) as cluster:
        placement = cluster.prepare(case)
        phase = case.phases[0]
        cluster.wait(cluster.apply(Change(apply=phase.apply)))
        wanted = checks(case, phase.expectations, placement, families=frozenset(Family), timeout=1.0)
        exchanges = [each.exchange for each in wanted if each.exchange is not None and each.expectation.action is Action.ALLOW]
        probes = [planned.probe for planned in plan(exchanges, Stamp.of("bench"), liveness=False).exchanges]
        began = time.perf_counter()
        answered = sum(observation.result.ending is Ending.ANSWERED for observation in cluster.probe(probes))
        rate = answered / (time.perf_counter() - began)
    yield Row(f"{pods} pods all-to-all, packets and NFLOG", rate, "probes/s", 6000, "above", note=f"{answered} of {len(probes)} answered")

    outcomes: list[Outcome] = []

    def count(event: Event) -> None:
        if isinstance(event, CheckFinished):
            outcomes.append(event.result.judgement.outcome)

    with _lab() as cluster:
        session = Session(cluster, Settings(coverage=False), count)
        session.open_case(case)
        session.release()
        began = time.perf_counter()
        session.run_phase(case, "policy")
        rate = len(outcomes) / (time.perf_counter() - began)
        session.close()
    passed = outcomes.count(Outcome.PASSED)
    yield Row(f"{pods} pods all-to-all, matched and judged", rate, "probes/s", 2500, "above", note=f"{passed} of {len(outcomes)} passed")


def suites() -> Iterator[Row]:
    """The shipped suites on two workers, as `make run` runs them."""
    command = [sys.executable, "-m", "pytest", "suites", "-n", "2", "-q", "-p", "no:cacheprovider"]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    said = re.sub(r"\s+in [\d.]+s.*", "", done.stdout.strip().splitlines()[-1].strip("= "))
    yield Row("shipped suites, -n 2", seconds, "s", 15, note=said)


def _probes(cluster: Cluster, case: Case, times: int) -> Sequence[Probe]:
    phase = case.phases[1]
    placement = cluster.prepare(case)
    cluster.wait(cluster.apply(Change(apply=phase.apply)))
    (check,) = checks(case, phase.expectations, placement, families=frozenset({Family.IPV4}), timeout=1.0)
    if check.exchange is None:
        raise SystemExit(f"benchmarks: {check.fault}")
    stamp = Stamp.of("bench")
    return [stamp.probe(check.exchange) for _ in range(times)]


BENCHMARKS: dict[str, Callable[[], Iterator[Row]]] = {
    "start": start,
    "three-phases": three_phase_case,
    "denied": denied_probe,
    "all-to-all": all_to_all,
    "suites": suites,
}
