"""Do the shipped cases notice a mistake? Every policy, rule, peer and port dropped, every selector value changed, in turn.

Where the model says that an expectation changes, the mutated case must not pass. The score and the survivors are printed at the end
(with `-v` also the mistakes that change no expectation of their case: there should be few).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import Struct

from harness.cases.load import find_case_files, load_cases
from harness.clusters.netns import probe_capabilities
from harness.clusters.open import ClusterOptions, open_cluster
from harness.engine.events import PhaseFinished
from harness.engine.outcome import Outcome
from harness.engine.session import Session
from harness.engine.settings import Settings
from harness.errors import LabUnavailableError
from harness.policy.options import Options
from tests.suites.mutants import Mutant, mutants
from tests.suites.oracle import Oracle
from tests.suites.score import PROPERTY, Detection

SUITES = Path(__file__).parents[2] / "suites"
FOLDERS = sorted({path.parent.name for path in find_case_files(SUITES)})
WANTED = 0.95
MOST_EQUIVALENT = 0.10
SAMPLE, SEED = 60, 20260


class Judged(Struct, frozen=True):
    """A mutant, and whether the model says that it must fail: some expectation gets another verdict, or is no longer as stated."""

    mutant: Mutant
    must_fail: bool


def judged(folder: str) -> Iterator[Judged]:
    """Every mutant of the folder's cases, but for those in which something happens by the passing of time: the model knows none."""
    for path in sorted(find_case_files(SUITES / folder)):
        for case in load_cases(path):
            if any(external.ttl is not None for external in case.externals.values()):
                continue
            oracle = Oracle(case, Options(host_firewall=True))
            before = oracle.readings(case)
            for mutant in mutants(case):
                after = oracle.readings(mutant.case, first=mutant.first)
                pairs = [pair for phase, readings in after.items() for pair in zip(before[phase], readings, strict=True)]
                yield Judged(mutant, any(old.verdicts != new.verdicts or (old.holds and not new.holds) for old, new in pairs))


def outcome(session: Session, mutant: Mutant) -> Outcome:
    """How the first phase ends that the mistake can affect and that does not pass; passed if there is none."""
    for phase in mutant.case.phases[mutant.first :]:
        finished = session.run_phase(mutant.case, phase.name)
        assert isinstance(finished, PhaseFinished), f"{mutant}: {finished.reason}"
        assert not finished.error, f"{mutant}: {finished.error}"
        if finished.outcome is not Outcome.PASSED:
            return finished.outcome
    return Outcome.PASSED


@contextmanager
def opened(cluster_name: str) -> Iterator[Session]:
    cluster = open_cluster(cluster_name, ClusterOptions())
    session = Session(cluster, Settings(coverage=False), lambda _: None)
    try:
        yield session
    finally:
        session.close()
        cluster.close()


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_cases_of_a_folder_notice_mistakes(folder, record_property) -> None:
    detection = Detection(folder)
    with opened("memory") as session:
        for each in judged(folder):
            noticed = outcome(session, each.mutant) is not Outcome.PASSED
            detection.add(str(each.mutant), must_fail=each.must_fail, noticed=noticed, idle=each.mutant.idle)
    record_property(PROPERTY, detection.dump())
    assert detection.must_fail
    assert detection.counts["noticed"] >= WANTED * detection.must_fail
    assert detection.counts["equivalent"] <= MOST_EQUIVALENT * detection.counts.total(), "sharpen the cases"


def test_a_sample_of_mistakes_is_noticed_by_packets_in_the_lab(record_property) -> None:
    try:
        probe_capabilities()
    except LabUnavailableError as unavailable:
        pytest.skip(str(unavailable))
    must = [each.mutant for folder in FOLDERS for each in judged(folder) if each.must_fail]
    sample = random.Random(SEED).sample(must, SAMPLE)  # noqa: S311 -- the same choice each time, nothing secret
    detection = Detection("lab")
    with opened("memory") as memory, opened("netns") as lab:
        for mutant in sample:
            # The very outcome of the model: a lab that is broken would find everything unknown, and so "notice" it.
            detection.add(str(mutant), must_fail=True, noticed=outcome(lab, mutant) is outcome(memory, mutant))
    record_property(PROPERTY, detection.dump())
    assert detection.counts["noticed"] >= WANTED * SAMPLE
