"""The numbers of the lab's proxies. HTTP: their start, a three-phase case with a rule, and requests in a second. DNS: one lookup."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from benchmarks.cases import dns_rules, http_rules
from benchmarks.row import Row, median
from harness.clusters.base import Change, Cluster
from harness.clusters.open import open_cluster
from harness.engine.checks import checks
from harness.engine.outcome import Outcome
from harness.engine.session import Session
from harness.engine.settings import Settings
from harness.model.traffic import Family
from harness.probes.plan import Stamp, plan


def envoy_start(times: int = 5) -> Iterator[Row]:
    """The first change of a lab that needs a proxy, less the same change once the proxy is there."""
    case = http_rules()
    change = Change(apply=case.phases[2].apply)
    samples = []
    for _ in range(times):
        cluster = open_cluster("netns")
        try:
            first, again = (_applied(cluster, change) for _ in range(2) if cluster.prepare(case))
            samples.append((first - again) * 1000)
        finally:
            cluster.close()
    yield median("start of an Envoy, once for each node of a lab", samples, "ms", 400)


def _applied(cluster: Cluster, change: Change) -> float:
    began = time.perf_counter()
    cluster.wait(cluster.apply(change))
    return time.perf_counter() - began


def three_phase_http_case(times: int = 20) -> Iterator[Row]:
    """A three-phase case with an HTTP rule, deployed, run and judged, in a lab whose proxy is up."""
    case = http_rules()
    samples = []
    cluster = open_cluster("netns")
    session = Session(cluster, Settings(), lambda _: None)
    for attempt in range(times + 1):
        began = time.perf_counter()
        for phase in case.phases:
            finished = session.run_phase(case, phase.name)
            if getattr(finished, "outcome", None) is not Outcome.PASSED:
                raise SystemExit(f"benchmarks: the HTTP case did not pass: {finished}")
        session.release()
        if attempt:
            samples.append((time.perf_counter() - began) * 1000)
    session.close()
    cluster.close()
    yield median("three-phase HTTP case", samples, "ms", 400)


def requests(number: int = 3000) -> Iterator[Row]:
    """Requests of a new connection each, half of them denied, with flows and records matched."""
    case = http_rules()
    phase = case.phases[2]
    cluster = open_cluster("netns")
    try:
        placement = cluster.prepare(case)
        cluster.wait(cluster.apply(Change(apply=phase.apply)))
        wanted = checks(case, phase.expectations[:2], placement, families=frozenset({Family.IPV4}), timeout=10.0)
        exchanges = [each.exchange for each in wanted if each.exchange is not None] * (number // 2)
        probes = [planned.probe for planned in plan(exchanges, Stamp.of("bench"), liveness=False).exchanges]
        began = time.perf_counter()
        seen = list(cluster.probe(probes))
        rate = len(seen) / (time.perf_counter() - began)
    finally:
        cluster.close()
    served, refused = (sum(each.result.status == status for each in seen) for status in (200, 403))
    yield Row(
        "HTTP requests through the proxy, flows matched", rate, "requests/s", 1000, "above", note=f"{served} served, {refused} denied"
    )


def lookup(times: int = 200) -> Iterator[Row]:
    """One lookup at a time of a name that a rule allows: question, proxy, resolver, proxy, answer, as its client sees it."""
    case = dns_rules()
    phase = case.phases[1]
    cluster = open_cluster("netns")
    try:
        placement = cluster.prepare(case)
        cluster.wait(cluster.apply(Change(apply=phase.apply)))
        (check,) = checks(case, phase.expectations, placement, families=frozenset({Family.IPV4}), timeout=1.0)
        if check.exchange is None:
            raise SystemExit(f"benchmarks: the lookup cannot be sent: {check.fault}")
        stamp = Stamp.of("bench")
        seen = [observation for _ in range(times + 1) for observation in cluster.probe([stamp.probe(check.exchange)])]
    finally:
        cluster.close()
    if any(each.result.status != 0 for each in seen):
        raise SystemExit("benchmarks: a lookup was not answered")
    yield median("DNS lookup through the proxy", [each.result.seconds * 1000 for each in seen[1:]], "ms", 3)


BENCHMARKS: dict[str, Callable[[], Iterator[Row]]] = {
    "envoy": envoy_start,
    "http": three_phase_http_case,
    "requests": requests,
    "lookup": lookup,
}
