"""What may be swept: everything of runs that are dead, and nothing of one that lives or may live."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from harness.cli.main import main
from harness.clusters.kubernetes.lease import Sign
from harness.clusters.kubernetes.leftovers import NAMESPACE, Leftover
from harness.clusters.kubernetes.sweep import Run

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
AGES = st.timedeltas(timedelta(), timedelta(days=10))


def run(age: timedelta, *, renewed: timedelta | None = None, here: bool | None = None) -> Run:
    sign = None if renewed is None else Sign("x", "host/boot", NOW - renewed, 120)
    return Run("x", (Leftover(NAMESPACE, "shop-x-1", "x", NOW - age),), sign, here)


@given(AGES, st.none() | AGES, st.none() | AGES)
def test_a_run_with_a_process_on_this_machine_is_never_an_orphan(age, renewed, least):
    assert not run(age, renewed=renewed, here=True).is_orphaned(NOW, least)


@given(AGES, st.none() | AGES, st.sampled_from([None, True]))
def test_a_run_whose_lease_is_renewed_is_never_an_orphan(age, least, here):
    assert not run(age, renewed=timedelta(seconds=100), here=here).is_orphaned(NOW, least)


@given(AGES, st.none() | AGES)
def test_a_run_without_a_process_here_is_dead_whatever_its_lease_says(age, renewed):
    assert run(age, renewed=renewed, here=False).is_orphaned(NOW)


@given(AGES)
def test_a_run_whose_lease_ran_out_is_dead_at_any_age(age):
    assert run(age, renewed=timedelta(seconds=121)).is_orphaned(NOW)


@given(AGES)
def test_a_run_of_which_nothing_tells_must_be_an_hour_old(age):
    assert run(age).is_orphaned(NOW) == (age >= timedelta(hours=1))


@given(AGES, AGES)
def test_younger_than_asked_for_is_left_alone(age, least):
    assert run(age, here=False).is_orphaned(NOW, least) == (age >= least)


def test_a_clock_that_is_behind_counts_in_favour_of_the_run():
    assert run(timedelta(), renewed=timedelta(seconds=-300)).lives(NOW)


@pytest.mark.parametrize("age", ["soon", "-1h", "1", "1.5h", "1w"])
def test_what_is_no_age_is_told_before_anything_is_asked(age):
    result = CliRunner().invoke(main, ["sweep", "--older-than", age, "--kube-context", "nowhere"])
    assert result.exit_code == 2
    assert f"--older-than: '{age}' is no age" in result.output
