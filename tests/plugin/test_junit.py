"""JUnit XML: what a CI server reads."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tests.plugin.conftest import BROKEN_BASELINE, TYPO


@pytest.fixture
def junit(suite):
    """Runs the suite with `--junitxml`, in this process or in a worker, and reads the file."""

    def run(*, worker: bool = False) -> ET.Element:
        if worker:
            suite.spawn("-n", "1", "--junitxml=junit.xml")
        else:
            suite.run("--junitxml=junit.xml")
        root = ET.parse(suite.path / "junit.xml").getroot()  # noqa: S314 -- written a moment ago by ourselves
        return root if root.tag == "testsuite" else root[0]

    return run


@pytest.mark.parametrize("worker", [False, True])
def test_outcomes_are_told_apart_and_unknown_is_an_error_of_that_type(worker, suite, junit):
    suite.write(BROKEN_BASELINE)
    suite.write(TYPO, "test_typo.yaml")
    root = junit(worker=worker)
    counts = {key: root.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "2", "errors": "1", "skipped": "0"}
    (error,) = root.iter("error")
    assert error.get("type") == "unknown"
    assert error.get("message").startswith("allow: client -> backend:8080/TCP: the baseline did not hold")
    assert "sent      TCP" in error.text


def test_a_failure_has_a_one_line_message_and_the_whole_account(suite, junit):
    suite.write(TYPO)
    (failure,) = junit().iter("failure")
    assert failure.get("message") == "allow: client -> backend:8080/TCP: dropped at ingress, default-deny"
    assert "likely    " in failure.text
    assert "again: pytest " in failure.text


def test_a_test_is_named_by_file_case_and_phase_and_counts_its_checks(suite, junit):
    suite.write(TYPO)
    root = junit()
    last = list(root.iter("testcase"))[-1]
    assert (last.get("classname"), last.get("name")) == ("test_walk.yaml.only the client reaches the backend", "allow")
    assert {each.get("name"): each.get("value") for each in last.iter("property")} == {
        "harness.checks.failed": "1",
        "harness.checks.passed": "1",
    }


@pytest.mark.parametrize("worker", [False, True])
def test_the_run_is_told_once_with_its_place_and_that_it_was_simulated(worker, suite, junit):
    suite.write(TYPO)
    properties = {each.get("name"): each.get("value") for each in junit(worker=worker).find("properties")}
    assert properties == {"harness.cluster": "memory", "harness.cilium": "1.20", "harness.hubble": "require", "harness.simulated": "true"}


def test_a_skip_has_its_reason(suite, junit):
    suite.write(TYPO.replace("phases:", 'requires: {cilium: ">=9.9"}\nphases:'))
    skipped = list(junit().iter("skipped"))
    assert len(skipped) == 3
    assert skipped[0].get("message").startswith("requires Cilium >=9.9")
