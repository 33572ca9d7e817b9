"""Every shipped case is in order: it loads, points editors at its schema, says what it teaches, and its manifests are in use."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from harness.cases.case import Action
from harness.cases.load import find_case_files, load_cases
from harness.clusters.open import open_cluster
from harness.engine.requirements import unmet
from harness.policy.options import Options
from tests.suites.oracle import Oracle

ROOT = Path(__file__).parents[2]
SUITES = ROOT / "suites"
MANIFESTS = ROOT / "fixtures" / "manifests"
FILES = sorted(find_case_files(SUITES))
CASES = [pytest.param(case, id=f"{path.parent.name}/{path.stem}::{case.name}") for path in FILES for case in load_cases(path)]
TIMELESS = [each for each in CASES if all(external.ttl is None for external in each.values[0].externals.values())]
"""Those in which nothing happens by the passing of time alone, of which the model knows nothing."""


def test_every_yaml_file_below_suites_is_collected() -> None:
    assert {path.resolve() for path in FILES} == {path.resolve() for path in SUITES.rglob("*.yaml")}


def test_there_are_enough_cases_of_every_subject() -> None:
    assert len(CASES) >= 30
    subjects = {path.parent.name for path in FILES}
    readme = (SUITES / "README.md").read_text(encoding="utf-8")
    assert subjects == {folder.name for folder in SUITES.iterdir() if folder.is_dir() and not folder.name.startswith(("_", "."))}
    assert [subject for subject in sorted(subjects) if f"]({subject})" not in readme] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_file_begins_with_the_way_to_its_schema(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    prefix = "# yaml-language-server: $schema="
    assert first.startswith(prefix)
    assert (path.parent / first.removeprefix(prefix)).resolve() == ROOT / "harness" / "cases" / "schema.json"


@pytest.mark.parametrize("case", CASES)
def test_a_case_teaches(case) -> None:
    lines = case.description.strip().splitlines()
    assert 2 <= len(lines) <= 4, "a description has two or three lines that a newcomer learns from"
    assert case.tags, "a case has tags to be chosen by"


@pytest.mark.parametrize("case", CASES)
def test_a_case_begins_with_a_baseline_and_goes_on_to_deny(case) -> None:
    first, *later = case.phases
    assert first.baseline
    assert {each.action for each in first.expectations} == {Action.ALLOW}
    assert any(each.action is not Action.ALLOW for phase in later for each in phase.expectations)


@pytest.mark.parametrize("case", CASES)
def test_every_denied_expectation_says_why(case) -> None:
    unsaid = [each.text for phase in case.phases for each in phase.expectations if each.action is Action.DENY and not each.reasons]
    written = [text for text in unsaid if not any(each.closed_world and each.text == text for p in case.phases for each in p.expectations)]
    assert written == []


@pytest.mark.parametrize("case", TIMELESS)
def test_every_phase_changes_something(case) -> None:
    """Two phases with the same policies and the same expectations would prove the same thing twice."""
    for before, after in pairwise(case.phases):
        assert after.apply or after.remove, f"{after.name} changes no policy"
        assert before.name != after.name


@pytest.mark.parametrize("case", TIMELESS)
def test_the_model_agrees_with_every_expectation(case) -> None:
    found = Oracle(case, Options(host_firewall=True)).readings(case)
    wrong = [
        f"{phase.name}: {expectation.text}"
        for phase in case.phases
        for expectation, reading in zip(phase.expectations, found[phase.name], strict=True)
        if not reading.holds
    ]
    assert wrong == []


@pytest.mark.parametrize("case", CASES)
def test_every_expectation_speaks_of_some_traffic(case) -> None:
    found = Oracle(case, Options(host_firewall=True)).readings(case)
    assert all(reading.verdicts for readings in found.values() for reading in readings)


def test_every_manifest_is_applied_by_some_case_and_says_why_it_is_there() -> None:
    applied = set()
    for path in FILES:
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            for phase in document["phases"].values():
                paths = phase.get("apply", []) if isinstance(phase, dict) else []
                applied |= {Path(os.path.normpath(path.parent / each)) for each in ([paths] if isinstance(paths, str) else paths)}
    manifests = set(MANIFESTS.rglob("*.yaml"))
    assert sorted(manifests - applied) == []
    assert [path for path in sorted(manifests) if not path.read_text(encoding="utf-8").startswith("# ")] == []


def test_no_case_needs_what_the_memory_cluster_lacks() -> None:
    """The shipped L3/L4 cases run on every cluster; a case that always skips tests nothing."""
    cluster = open_cluster("memory")
    try:
        skipped = {
            f"{each.values[0].name}: {reason}"
            for each in CASES
            for phase in each.values[0].phases
            if (reason := unmet([each.values[0].requires, phase.requires], cluster.capabilities))
        }
    finally:
        cluster.close()
    assert skipped == set()
