"""Allure results: a step an expectation, with policies and flows attached. Reads the files that allure-pytest wrote."""

from __future__ import annotations

import json

import pytest

from tests.plugin.conftest import BROKEN_BASELINE, TYPO


@pytest.fixture
def results(suite):
    """Runs the suite with `--alluredir`, in this process or in a worker, and reads the results by phase."""

    def run(*, worker: bool = False) -> dict[str, dict]:
        if worker:
            suite.spawn("-n", "1", "--alluredir=allure")
        else:
            suite.run("--alluredir=allure")
        found = [json.loads(path.read_text()) for path in (suite.path / "allure").glob("*-result.json")]
        return {each["name"]: each for each in found}

    return run


def attachment(suite, step: dict, name: str) -> str:
    source = next(each["source"] for each in step["attachments"] if each["name"] == name)
    return (suite.path / "allure" / source).read_text()


def test_every_expectation_is_a_step_with_its_checks_below(suite, results):
    suite.write(TYPO)
    steps = results()["deny"]["steps"]
    assert [step["name"] for step in steps] == ["deny: client, intruder -> backend:8080"]
    assert [step["status"] for step in steps] == ["passed"]
    assert [step["name"].split(":")[0] for step in steps[0]["steps"]] == ["client -> backend", "intruder -> backend"]


def test_a_step_has_the_policies_in_force_and_the_flows_attached(suite, results):
    suite.write(TYPO)
    (step,) = results()["deny"]["steps"]
    assert "name: default-deny" in attachment(suite, step, "policies in force")
    flows = json.loads(attachment(suite, step, "flows"))
    assert {flow["source"]["pod"] for flow in flows} == {"client", "intruder"}


@pytest.mark.parametrize("worker", [False, True])
def test_a_failed_expectation_is_a_failed_step_with_its_evidence_and_the_others_are_not(worker, suite, results):
    suite.write(TYPO)
    result = results(worker=worker)["allow"]
    statuses = {step["name"]: step["status"] for step in result["steps"]}
    assert statuses.pop("allow: client -> backend:8080") == "failed"
    assert set(statuses.values()) == {"passed"}
    assert result["status"] == "failed"
    (failed,) = [step for step in result["steps"] if step["status"] == "failed"]
    assert "dropped at ingress, default-deny" in failed["statusDetails"]["message"]
    assert "DROPPED (default deny)" in attachment(suite, failed["steps"][0], "evidence")


def test_unknown_is_broken_in_allures_words_for_the_step_and_for_the_test(suite, results):
    suite.write(BROKEN_BASELINE)
    result = results()["later"]
    assert result["status"] == "broken"
    assert [step["status"] for step in result["steps"]] == ["broken"]


def test_tags_and_description_are_allures_too_and_simulated_is_a_tag(suite, results):
    suite.write(TYPO)
    result = results()["baseline"]
    assert {label["value"] for label in result["labels"] if label["name"] == "tag"} == {"zero-trust", "l4", "simulated"}
    assert result["description"] == "The usual walk."


def test_without_alluredir_nothing_of_allure_is_imported_by_us(suite):
    suite.write()
    suite.path.joinpath("conftest.py").write_text(
        "import sys\ndef pytest_sessionfinish(): print('\\nallure report:', 'harness.reports.allure' in sys.modules)\n"
    )
    suite.spawn("-s").stdout.fnmatch_lines(["allure report: False"])
