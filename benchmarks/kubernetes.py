"""A Kubernetes cluster's numbers: deployment, the three-phase case, probes a second, and many workers against one. Asks for a cluster, so it
is no part of `make bench`: `make bench-kubernetes CONTEXT=...`, of the context HARNESS_TEST_KUBE_CONTEXT."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from typing import Any

import kubernetes
from msgspec.structs import replace

from benchmarks.__main__ import report
from benchmarks.cases import mesh, three_phases
from benchmarks.lab import ROOT
from benchmarks.row import Row, median
from harness.cases.case import Case
from harness.clusters.kubernetes.cluster import KubernetesCluster, KubernetesOptions
from harness.clusters.open import Hubble
from harness.engine.events import CheckFinished, Event
from harness.engine.outcome import Outcome
from harness.engine.session import Session
from harness.engine.settings import Settings

CONTEXT = os.environ.get("HARNESS_TEST_KUBE_CONTEXT", "")
CASES = 8
WORKERS = 4
_PATIENCE = 300.0
"""How long workers wait for one another (s)."""


@contextmanager
def _session(
    emit: Callable[[Event], None] = lambda _: None, settings: Settings | None = None, run: str = "", worker: str = ""
) -> Iterator[Session]:
    cluster = KubernetesCluster(KubernetesOptions(context=CONTEXT, require_flows=True, run=run, worker=worker))
    try:
        session = Session(cluster, settings or Settings(hubble=Hubble.REQUIRE), emit)
        yield session
        session.close()
    finally:
        cluster.close()


def _phases(session: Session, case: Case) -> None:
    for phase in case.phases:
        finished = session.run_phase(case, phase.name)
        if getattr(finished, "outcome", None) is not Outcome.PASSED:
            raise SystemExit(f"benchmarks: the case did not pass: {finished}")


def walk(times: int = 5) -> Iterator[Row]:
    """A three-phase L4 case of 3 pods on 2 nodes, on a cluster that is open: how long its pods take, and then its phases."""
    case = three_phases()
    deployed, run = [], []
    with _session() as session:
        for attempt in range(times + 1):
            began = time.perf_counter()
            session.open_case(case)
            ready = time.perf_counter()
            _phases(session, case)
            if attempt:  # the first meets images and caches that are cold
                deployed.append(ready - began)
                run.append(time.perf_counter() - ready)
    yield median("cluster: deployment of a case of 3 pods, until they answer", deployed, "s", 4)
    yield median("cluster: three-phase L4 case, after deployment", run, "s", 5)


def rate(pods: int = 10, times: int = 3) -> Iterator[Row]:
    """Every pod to every other in one phase, under a policy: policy, probes, flows and verdicts. Half of the probes are denied."""
    case = mesh(pods)
    outcomes: list[Outcome] = []

    def listen(event: Event) -> None:
        if isinstance(event, CheckFinished):
            outcomes.append(event.result.judgement.outcome)

    rates = []
    with _session(listen, Settings(hubble=Hubble.REQUIRE, coverage=False)) as session:
        for _ in range(times):
            session.open_case(case)
            outcomes.clear()
            began = time.perf_counter()
            session.run_phase(case, "policy")
            rates.append(len(outcomes) / (time.perf_counter() - began))
            if set(outcomes) != {Outcome.PASSED}:
                raise SystemExit(f"benchmarks: {outcomes.count(Outcome.PASSED)} of {len(outcomes)} probes passed")
    yield replace(
        median(f"cluster: {pods} pods all-to-all, one phase", rates, "probes/s", 50, note=f"{len(outcomes)} probes, all passed"),
        better="above",
    )


def workers() -> Iterator[Row]:
    """Cases of 3 pods and 3 phases on one worker and on several, which are one run. From opening the cluster to the last verdict."""
    alone = _side_by_side(1)
    many = _side_by_side(WORKERS)
    yield Row(f"cluster: {CASES} cases of 3 pods, {WORKERS} workers", many, "s", 30)
    yield Row(
        "cluster: the same, as many times as fast as one worker", alone / many, "times", 1.7, "above", note=f"one worker: {alone:.1f} s"
    )


def _side_by_side(processes: int) -> float:
    """Seconds from when all workers are ready to start until the last case has ended."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes + 1)
    cases: Any = context.Queue()
    for number in range(CASES):
        cases.put(number)
    for _ in range(processes):
        cases.put(None)
    run = f"bench{os.getpid()}x{processes}"
    working = [context.Process(target=_work, args=(barrier, cases, run, f"w{number}")) for number in range(processes)]
    for each in working:
        each.start()
    barrier.wait(_PATIENCE)
    began = time.perf_counter()
    barrier.wait(_PATIENCE)
    seconds = time.perf_counter() - began
    for each in working:
        each.join()
    if any(each.exitcode for each in working):
        raise SystemExit("benchmarks: a worker broke (above)")
    return seconds


def _work(barrier: Barrier, cases: Any, run: str, worker: str) -> None:
    try:
        kubernetes.client.CoreV1Api()  # the client imports its models when they are first used: a second that is not to be measured
        barrier.wait(_PATIENCE)
        with _session(run=run, worker=worker) as session:
            while (number := cases.get()) is not None:
                _phases(session, replace(three_phases(), name=f"walk {number}"))
            barrier.wait(_PATIENCE)
    except BaseException:
        barrier.abort()
        raise


BENCHMARKS: dict[str, Callable[[], Iterator[Row]]] = {"walk": walk, "rate": rate, "workers": workers}


def main(names: Sequence[str]) -> int:
    if not CONTEXT:
        print("benchmarks: no cluster: HARNESS_TEST_KUBE_CONTEXT names the context of one", file=sys.stderr)
        return 2
    return report(names, BENCHMARKS, ROOT / "build" / "bench-kubernetes.json")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
