"""However a run ends, nothing of it stays; or, where it was killed, only what `harness sweep` finds and removes."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import main
from harness.clusters.kubernetes import leftovers
from harness.clusters.kubernetes.client import Api
from harness.clusters.kubernetes.leftovers import Leftover

CONTEXT = os.environ.get("HARNESS_TEST_KUBE_CONTEXT", "")
pytestmark = [
    pytest.mark.skipif(not CONTEXT, reason="no cluster: `make test-kubernetes CONTEXT=...` runs these against a kubeconfig context"),
    pytest.mark.xdist_group("kubernetes"),
]
CASE = """
case: {name}
endpoints:
  client: {{labels: {{app: client}}}}
  server: {{labels: {{app: server}}, ports: [8080]}}
phases:
  baseline:
    - allow: client -> server:8080
"""
WITHIN = 90.0


@pytest.fixture(scope="module")
def api() -> Api:
    return Api.connect(CONTEXT)


class Run:
    """A pytest process of its own, with cases whose names nobody else has."""

    def __init__(self, api: Api, folder: Path, words: tuple[str, ...], cases: int = 4) -> None:
        self._api = api
        self.word = f"lifetime {secrets.token_hex(4)}"
        (folder / "test_case.yaml").write_text("---".join(CASE.format(name=f"{self.word} {number}") for number in range(cases)))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--cluster=existing", f"--kube-context={CONTEXT}", *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, start_new_session=True,
        )  # fmt: skip
        self.id = ""

    def left(self) -> list[Leftover]:
        """What is there of this run and not going yet."""
        found = [each for each in leftovers.find(self._api, self.id).leftovers if not each.going]
        if not self.id:
            self.id = next((each.run for each in found if each.case.startswith(self.word)), "")
            found = [each for each in found if each.run == self.id] if self.id else []
        return found

    def await_deployment(self) -> None:
        """Until the run has created the namespace of a case."""
        until = time.monotonic() + WITHIN
        while not any(each.case for each in self.left()):
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        """To the run's whole process group, as a terminal does."""
        os.killpg(self.process.pid, number)

    def output(self) -> str:
        return self.process.communicate(timeout=WITHIN)[0]


@pytest.fixture
def start(api, tmp_path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def one(*words: str) -> Run:
        runs.append(Run(api, tmp_path, words))
        return runs[-1]

    yield one
    for run in runs:
        if run.process.poll() is None:
            run.signal(signal.SIGKILL)
            run.process.communicate()
        run.process.stdout.close()
        leftovers.remove(api, run.left() if run.id else ())


def sweep(*words: str) -> Result:
    return CliRunner().invoke(main, ["sweep", "--kube-context", CONTEXT, *words])


def workers(controller: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{controller}/task/{controller}/children").read_text().split()]


@pytest.mark.parametrize("words", [(), ("-n", "2")], ids=["alone", "two workers"])
@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_after_ctrl_c_nothing_is_left_and_nobody_sees_a_traceback(times, words, start):
    run = start(*words)
    run.await_deployment()
    for _ in range(times):
        run.signal(signal.SIGINT)
        time.sleep(0.05)  # as fast as fingers are
    output = run.output()
    assert run.process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "Traceback" not in output
    assert run.left() == []


@pytest.mark.parametrize("words", [(), ("-n", "2")], ids=["alone", "two workers"])
def test_when_a_job_is_cancelled_nothing_is_left(words, start):
    """CI sends SIGTERM, and to the process that it started alone."""
    run = start(*words)
    run.await_deployment()
    run.process.terminate()
    output = run.output()
    assert run.process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert run.left() == []


def test_when_a_worker_is_killed_the_last_one_out_cleans_up_for_it(start):
    run = start("-n", "2")
    run.await_deployment()
    os.kill(workers(run.process.pid)[0], signal.SIGKILL)
    output = run.output()
    assert "node down" in output or "crashed" in output
    assert run.left() == []


def test_when_the_run_is_killed_sweep_finds_and_removes_what_is_left_and_nothing_else(start, tmp_path_factory, api):
    living = Run(api, tmp_path_factory.mktemp("living"), ("-n", "1"), cases=8)
    try:
        killed = start("-n", "2")
        killed.await_deployment()
        living.await_deployment()
        killed.signal(signal.SIGKILL)
        killed.process.communicate()
        listed = sweep()
        assert listed.exit_code == 1
        assert all(str(each) in listed.output for each in killed.left())
        assert f"run {living.id}, lives on this machine" in listed.output
        assert not any(line.endswith(each.name) for line in listed.output.splitlines() for each in living.left())
        swept = sweep("--yes")
        assert swept.exit_code == 0, swept.output
        assert killed.left() == []
        assert "8 passed" in living.output()
    finally:
        if living.process.poll() is None:
            living.signal(signal.SIGKILL)
            living.process.communicate()


def test_where_there_is_nothing_sweep_says_so():
    result = sweep("--older-than", "3650d")
    assert result.exit_code == 0
    assert f"nothing to sweep on {CONTEXT}" in result.output
