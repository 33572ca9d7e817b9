"""The last one out knows it, whoever was killed before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import given
from hypothesis import strategies as st

from harness.clusters.kubernetes import roster
from harness.clusters.kubernetes.roster import Roster
from harness.clusters.kubernetes.run import RunId

MEMBER = """
import sys
from pathlib import Path
from harness.clusters.kubernetes.roster import Roster
member = Roster("run", Path(sys.argv[1]))
member.enter()
print("in", flush=True)
sys.stdin.read()
"""


@contextmanager
def another(folder) -> Iterator[subprocess.Popen]:
    """Another process of the run."""
    with subprocess.Popen([sys.executable, "-c", MEMBER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        yield process
        process.kill()


def test_only_the_last_one_out_is_told_so(tmp_path):
    first, second = Roster("run", tmp_path), Roster("run", tmp_path)
    first.enter()
    second.enter()
    with first.leaving() as last:
        assert not last
    with second.leaving() as last:
        assert last
    assert not list(tmp_path.iterdir())


def test_who_was_killed_is_no_longer_in(tmp_path):
    ours = Roster("run", tmp_path)
    ours.enter()
    with another(tmp_path) as process:
        process.kill()
        process.wait()
        with ours.leaving() as last:
            assert last


def test_while_another_process_lives_nobody_is_the_last(tmp_path):
    ours = Roster("run", tmp_path)
    ours.enter()
    with another(tmp_path), ours.leaving() as last:
        assert not last
    assert roster.is_in("run", tmp_path) is False


def test_a_run_is_in_as_long_as_one_of_its_processes_lives(tmp_path):
    assert roster.is_in("run", tmp_path) is None
    with another(tmp_path) as process:
        assert roster.is_in("run", tmp_path) is True
        process.kill()
        process.wait()
        assert roster.is_in("run", tmp_path) is False


def test_nothing_is_known_of_a_run_before_the_machine_was_booted(tmp_path):
    (tmp_path / "run.lock").write_text("another boot")
    assert roster.is_in("run", tmp_path) is None


def test_leaving_twice_is_leaving_once(tmp_path):
    ours = Roster("run", tmp_path)
    ours.enter()
    with ours.leaving() as last:
        assert last
    with ours.leaving() as last:
        assert not last


@given(st.text(min_size=1), st.text())
def test_workers_share_their_runs_id_and_no_name_of_a_case(shared, other):
    first, second = RunId.of(shared, "gw0"), RunId.of(shared, "gw1")
    assert first.id == second.id
    assert first.suffix(1) != second.suffix(1)
    assert (RunId.of(other, "gw0").id == first.id) == (other == shared)


def test_a_run_of_one_process_has_an_id_of_its_own():
    assert RunId.of("", "").id != RunId.of("", "").id
