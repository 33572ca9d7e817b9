"""Phases run as tests: order, single phases, outcomes, skips, workers, and what is closed at the end. On the `memory` cluster."""

from __future__ import annotations

import textwrap

import pytest

from tests.plugin.conftest import BROKEN_BASELINE, TYPO, WALK

CASE = "test_walk.yaml::only the client reaches the backend"
PHASES = ["baseline", "deny", "allow"]


def phases(events: list[dict], *, replayed: bool = False) -> list[str]:
    return [event["phase"] for event in events if event["kind"] == "phase-started" and event["replayed"] is replayed]


def kinds(events: list[dict]) -> list[str]:
    return [event["kind"] for event in events]


def test_the_phases_of_a_case_run_in_order_on_endpoints_that_are_deployed_once(suite):
    suite.write()
    result = suite.run("--harness-jsonl=events.jsonl")
    result.assert_outcomes(passed=3)
    events = suite.events()
    assert phases(events) == PHASES
    assert phases(events, replayed=True) == []
    assert kinds(events).count("case-prepared") == 1
    assert (kinds(events)[0], kinds(events)[-1]) == ("run-started", "run-finished")


def test_a_phase_picked_by_its_node_id_replays_the_earlier_ones(suite):
    suite.write()
    result = suite.run(f"{CASE}::allow", "--harness-jsonl=events.jsonl")
    result.assert_outcomes(passed=1)
    assert phases(suite.events()) == ["allow"]
    assert phases(suite.events(), replayed=True) == ["baseline"]
    applied = [event["applied"] for event in suite.events() if event["kind"] == "policies-applied"]
    assert applied == [[], ["CiliumNetworkPolicy/default/default-deny"], ["CiliumNetworkPolicy/default/backend"]]


def test_a_phase_picked_by_k_replays_the_earlier_ones(suite):
    suite.write()
    result = suite.run("-k", "deny", "--harness-jsonl=events.jsonl")
    result.assert_outcomes(passed=1, deselected=2)
    assert phases(suite.events(), replayed=True) == ["baseline"]


def test_a_case_is_picked_by_its_node_id(suite):
    suite.write()
    suite.run(CASE).assert_outcomes(passed=3)


def test_a_failed_expectation_fails_its_phase_and_exits_1(suite):
    suite.write(TYPO)
    result = suite.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=1)


def test_a_failure_tells_line_evidence_model_fix_and_the_one_command(suite):
    suite.write(TYPO)
    result = suite.run()
    result.stdout.fnmatch_lines([
        "test_walk.yaml:32:*",
        "          - allow: client -> backend:8080",
        "                   ^*",
        "failed allow: client -> backend:8080/TCP: dropped at ingress, default-deny",
        "    sent      TCP * -> *:8080, from pod:default/client",
        "    came back nothing*",
        "*DROPPED (default deny) at ingress default/client:* -> default/backend:8080*",
        "    model     deny; egress: nothing enforced; ingress: default deny, from *CiliumNetworkPolicy/default/backend (test_walk.yaml:25)*",
        "    likely    *it asks for app=cleint, and client has app=client",
        f"again: pytest '{CASE}::allow' --cluster=memory",
    ])
    assert "Traceback" not in result.stdout.str()


def test_the_command_that_repeats_a_failure_repeats_it(suite):
    suite.write(TYPO)
    line = next(line for line in suite.run().outlines if line.startswith("again: pytest "))
    import shlex

    result = suite.run(*shlex.split(line.removeprefix("again: pytest ")), cluster=None)
    result.assert_outcomes(failed=1)


def test_unknown_is_a_category_of_its_own_that_is_counted_and_never_green(suite):
    suite.write(BROKEN_BASELINE)
    result = suite.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([
        "test_walk.yaml FU*",
        "*UNKNOWN: the evidence does not suffice*",
        "*the baseline is wrong :: later*",
        "unknown allow: client -> backend:8080/TCP: the baseline did not hold:*",
        "UNKNOWN test_walk.yaml::the baseline is wrong::later - allow: client -> backend:8080/TCP: the baseline did not hold:*",
        "*1 failed, 1 unknown in *",
    ])


def test_unknown_alone_exits_1_too(suite):
    suite.write(WALK.replace("by: backend", "by: default-deny"))
    result = suite.run("-v")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*::allow UNKNOWN*", "*2 passed, 1 unknown in *"])
    assert "FAILED" not in result.stdout.str()


def test_unknown_is_yellow(suite):
    suite.write(BROKEN_BASELINE)
    assert "\x1b[33m\x1b[1mUNKNOWN" in suite.run("-v", "--color=yes").stdout.str()


def test_exitfirst_counts_an_unknown_outcome(suite):
    suite.write(WALK.replace("by: backend", "by: default-deny"))
    suite.write(name="test_zebra.yaml")
    result = suite.run("-x")
    result.stdout.fnmatch_lines(["*stopping after 1 failures*", "*2 passed, 1 unknown in *"])


def test_what_the_cluster_lacks_is_skipped_with_that_reason(suite):
    suite.write(WALK.replace("phases:", 'requires: {cilium: ">=9.9"}\nphases:'))
    result = suite.run("-rs")
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(["SKIPPED [[]1] test_walk.yaml:*: requires Cilium >=9.9; this is 1.20*"])


def test_the_last_lines_say_why_phases_were_skipped_without_being_asked(suite):
    suite.write(WALK.replace("phases:", 'requires: {cilium: ">=9.9"}\nphases:'))
    result = suite.run()
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(["harness: cluster *, 3 phases skipped", "  skipped: 3 phases: requires Cilium >=9.9; this is 1.20*"])


def test_a_policy_that_does_nothing_fails_its_phase_and_names_what_was_meant(suite):
    suite.write(WALK.replace("endpointSelector: {matchLabels: {app: backend}}", "endpointSelector: {matchLabels: {app: bakend}}"))
    result = suite.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([
        "failed CiliumNetworkPolicy/default/backend does nothing: *",
        "    likely    selects app=bakend; did you mean app=backend (backend)?",
    ])


def test_every_terminal_report_of_the_memory_cluster_says_simulated(suite):
    suite.write(TYPO)
    for verbosity in ("-q", "-v"):
        result = suite.run(verbosity)
        result.stdout.fnmatch_lines(["simulated: no packet was sent*", "harness: cluster memory (simulated)*"])
    suite.run().stdout.fnmatch_lines(["harness: cluster memory (simulated: no packet will be sent), Cilium 1.20, hubble require"])


def test_the_last_lines_count_phases_and_checks_and_v_lists_what_is_not_covered(suite):
    suite.write(TYPO)
    result = suite.run("-v")
    result.stdout.fnmatch_lines([
        "harness: cluster memory (simulated), Cilium 1.20, hubble require, opened in *: 3 phases, 6 checks (5 passed, 1 failed)",
        "  not covered: 1 policy, without which no expectation would change",
        "    test_walk.yaml:25:*: CiliumNetworkPolicy/default/backend",
    ])


def test_a_cluster_that_cannot_be_opened_is_told_once_and_ends_the_run(suite, unopenable):
    suite.write()
    suite.write(name="test_other.yaml")
    result = suite.run("-rN", cluster="existing")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(errors=1)
    text = result.stdout.str()
    assert text.count(unopenable) == 1
    assert "Traceback" not in text
    result.stdout.fnmatch_lines(["*the cluster 'existing' could not be opened*"])


def test_workers_that_cannot_open_their_clusters_tell_it_once(suite, unopenable):
    suite.write()
    suite.write(name="test_other.yaml")
    result = suite.spawn("-n", "2", "-rN", cluster="existing")
    assert result.ret != 0
    assert result.stdout.str().count(unopenable) == 1


def test_workers_get_whole_cases_and_share_them(suite):
    for name in "abcd":
        suite.write(name=f"test_{name}.yaml")
    result = suite.spawn("-n", "2", "-v", "--harness-jsonl=events.jsonl")
    result.assert_outcomes(passed=12)
    workers: dict[str, set[str]] = {}
    for line in result.outlines:
        if "PASSED" in line:
            workers.setdefault(line.split("::")[0].split()[-1], set()).add(line[: line.index("]")])
    assert sorted(workers) == ["test_a.yaml", "test_b.yaml", "test_c.yaml", "test_d.yaml"]
    assert all(len(each) == 1 for each in workers.values())
    assert len(set.union(*workers.values())) == 2
    events = suite.events()
    assert kinds(events).count("run-started") == kinds(events).count("run-finished") == 2
    assert phases(events, replayed=True) == []


@pytest.mark.parametrize("dist", ["worksteal", "loadgroup"])
def test_modes_that_would_tear_cases_apart_keep_them_together_too(dist, suite):
    suite.write()
    suite.write(TYPO, "test_typo.yaml")
    suite.spawn("-n", "2", f"--dist={dist}", "--harness-jsonl=events.jsonl").assert_outcomes(passed=5, failed=1)
    assert phases(suite.events(), replayed=True) == []


def test_an_xdist_group_of_python_tests_is_kept(suite):
    suite.write()
    suite.pytester.makepyfile(
        test_plain="""
            import os, pytest
            @pytest.mark.xdist_group("one")
            @pytest.mark.parametrize("n", range(6))
            def test_it(n): print("ran in", os.environ["PYTEST_XDIST_WORKER"])
        """
    )
    result = suite.spawn("-n", "2", "--dist=loadgroup", "-rP")
    result.assert_outcomes(passed=9)
    assert len({line for line in result.outlines if line.startswith("ran in")}) == 1


def test_python_tests_beside_cases_are_spread_one_by_one(suite):
    suite.write()
    suite.pytester.makepyfile(test_plain="import pytest\n@pytest.mark.parametrize('n', range(8))\ndef test_it(n): pass")
    suite.spawn("-n", "2").assert_outcomes(passed=11)


def test_without_cases_xdist_schedules_as_ever(suite):
    suite.pytester.makepyfile(test_plain="import pytest\n@pytest.mark.parametrize('n', range(8))\ndef test_it(n): pass")
    suite.path.joinpath("conftest.py").write_text(
        textwrap.dedent("""
            def pytest_sessionfinish(session):
                dsession = session.config.pluginmanager.get_plugin("dsession")
                if dsession is not None:
                    print("\\nscheduler:", type(dsession.sched).__name__)
        """)
    )
    result = suite.spawn("-n", "2", "-s")
    result.assert_outcomes(passed=8)
    result.stdout.fnmatch_lines(["scheduler: LoadScheduling"])


def test_a_workers_unknown_arrives_as_unknown_with_its_account(suite):
    suite.write(BROKEN_BASELINE)
    result = suite.spawn("-n", "1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["unknown allow: client -> backend:8080/TCP: the baseline did not hold:*", "*1 failed, 1 unknown in *"])


def test_an_interrupt_closes_the_run(suite):
    suite.write(name="test_a.yaml")
    suite.pytester.makepyfile(test_b="def test_it(): raise KeyboardInterrupt")
    suite.write(name="test_c.yaml")
    result = suite.spawn("--harness-jsonl=events.jsonl")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert phases(suite.events()) == PHASES
    assert kinds(suite.events())[-1] == "run-finished"


def test_keep_says_how_to_enter_before_the_end(suite):
    suite.write()
    result = suite.spawn("--keep")
    result.assert_outcomes(passed=3)
    assert "--keep: " in result.stderr.str()


@pytest.mark.parametrize("crashes", [1, 2])
def test_a_crashed_worker_is_replaced_and_the_run_comes_to_its_end(crashes, suite):
    single = "case: {name}\nendpoints: {{a: {{labels: {{app: a}}, ports: [80]}}, b: {{labels: {{app: b}}}}}}\nphases: {{only: [{{allow: 'b -> a:80'}}]}}\n"
    suite.write("---\n".join(single.format(name=f"number {number}") for number in range(4)))
    suite.pytester.makeconftest(
        f"""
        import os, pathlib, signal
        def pytest_runtest_setup(item):
            for number in range({crashes}):
                try:
                    pathlib.Path(f"crash {{number}}").touch(exist_ok=False)
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    result = suite.spawn("-n", "2")
    result.stdout.fnmatch_lines(["*replacing crashed worker*", f"*{crashes} failed, 4 passed*"])
