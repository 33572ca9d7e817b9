"""CI's jobs: made from one file, each runnable here too, and the workflows are what GitHub understands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.clusters.kind.wanted import Wanted, check_name
from harness.policy.options import SUPPORTED

ROOT = Path(__file__).parents[2]
VERSIONS = yaml.safe_load((ROOT / "ci" / "versions.yaml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def matrix(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / "ci" / "matrix"), *words], capture_output=True, text=True, check=False)


@pytest.fixture(params=[(), ("--upgrade",)], ids=["kind", "upgrade"])
def words(request):
    return request.param


@pytest.fixture
def jobs(words):
    return json.loads(matrix(*words).stdout)["include"]


def test_every_job_can_be_asked_of_harness_cluster_up(jobs):
    for job in jobs:
        assert job["cilium"] in SUPPORTED
        assert job.get("from", job["cilium"]) in SUPPORTED
        assert re.fullmatch(r"kindest/node:v\d+\.\d+\.\d+@sha256:[0-9a-f]{64}", job["image"])
        Wanted(cilium=job["cilium"], profile=job["profile"]).check()


def test_every_release_meets_every_profile_and_every_upgrade_is_one_step():
    kind = json.loads(matrix().stdout)["include"]
    assert {(job["cilium"], job["profile"]) for job in kind} == {
        (cilium, each) for cilium in VERSIONS["cilium"] for each in VERSIONS["profiles"]
    }
    assert {path.stem for path in (ROOT / "ci" / "profiles").glob("*.yaml")} == set(VERSIONS["profiles"])
    upgrades = json.loads(matrix("--upgrade").stdout)["include"]
    assert [(job["from"], job["cilium"]) for job in upgrades] == [("1.18", "1.19"), ("1.19", "1.20")]


def test_names_tell_jobs_apart(jobs):
    assert len({job["name"] for job in jobs}) == len(jobs)


def test_the_local_lines_are_shell_and_name_a_cluster_each(jobs, words):
    lines = matrix(*words, "--local").stdout.splitlines()
    assert len(lines) == len(jobs)
    names = [re.search(r"cluster down --name (\S+);", line)[1] for line in lines]
    assert len(set(names)) == len(names)
    for line, name in zip(lines, names, strict=True):
        check_name(name)
        subprocess.run(["sh", "-nc", line], check=True)


def test_a_line_ends_as_its_suites_did_and_its_cluster_is_removed(tmp_path):
    for program, code in (("harness", 0), ("pytest", 1)):
        path = tmp_path / program
        path.write_text(f'#!/bin/sh\necho {program} "$@" >> {tmp_path}/calls\nexit {code}\n')
        path.chmod(0o755)
    line = matrix("--local", "--only", "1.18", "--only", "ipsec").stdout
    done = subprocess.run(["sh", "-c", line], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert done.returncode == 1
    assert [call.split(" --")[0] for call in (tmp_path / "calls").read_text().splitlines()] == [
        "harness cluster up",
        "pytest suites",
        "harness cluster down",
    ]


def test_a_word_that_no_job_has_is_said():
    said = matrix("--only", "windows")
    assert said.returncode == 2
    assert "no job has all of ['windows'] in its name" in said.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_full_version(workflow):
    used = re.findall(r"uses: (\S+)", workflow.read_text())
    assert used
    assert [each for each in used if not re.fullmatch(r"[\w./-]+@v\d+\.\d+\.\d+", each)] == []


def test_actionlint_has_nothing_to_say_of_the_workflows():
    actionlint = shutil.which("actionlint") or shutil.which("actionlint", path=str(ROOT / "build" / "tools"))
    if actionlint is None:
        pytest.skip("needs actionlint: `make tools` builds it (with Go)")
    done = subprocess.run([actionlint, "-no-color", *map(str, WORKFLOWS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
