"""The plugin on the netns lab: the same cases with real packets, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.clusters.netns import probe_capabilities
from tests.plugin.conftest import QUIET, TYPO

MACHINE = probe_capabilities()
pytestmark = pytest.mark.skipif(not MACHINE.usable, reason=f"no lab here: {MACHINE.why}. {MACHINE.hint}")


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_lab_is_the_default_and_passes_the_walk_with_real_packets(suite):
    suite.write()
    result = suite.run("--harness-jsonl=events.jsonl", cluster=None)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines([
        "harness: cluster netns, Cilium 1.20, hubble require",
        "harness: cluster netns, * 3 phases, 6 checks (6 passed)",
    ])
    assert "simulated" not in result.stdout.str()
    started = suite.events()[0]
    assert (started["cluster"], started["simulated"]) == ("netns", False)


def test_a_failure_shows_real_addresses_and_the_kernels_drop(suite):
    suite.write(TYPO)
    result = suite.run(cluster="netns")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.re_match_lines([
        r"    sent      TCP 10\.\S+ -> 10\.\S+:8080, from pod:default/client",
        r"    came back nothing; stopped early, after its drop was seen, after .* ms",
        r"    flows     .*DROPPED \(default deny\) at ingress default/client:\d+ -> default/backend:8080.*",
    ])


def test_two_workers_have_a_lab_each(suite):
    suite.write(name="test_a.yaml")
    suite.write(name="test_b.yaml")
    result = suite.spawn("-n", "2", "--harness-jsonl=events.jsonl", cluster="netns")
    result.assert_outcomes(passed=6)
    assert {event["worker"] for event in suite.events() if event["kind"] == "run-started"} == {"gw0", "gw1"}


def test_packets_only_is_said_and_denies_are_judged_by_silence(suite):
    suite.write(TYPO)
    result = suite.run("--hubble=off", "--probe-timeout=0.2", "-k", "baseline", cluster="netns")
    result.assert_outcomes(passed=1, deselected=2)
    result.stdout.fnmatch_lines(["harness: cluster netns, *hubble off*", "  packets only: flows are off*"])


def test_keep_tells_a_command_that_enters_the_last_cases_pods(suite):
    suite.write()
    suite.pytester.makepyfile(
        test_zebra="""
            import subprocess
            def test_inside(request):
                from harness.plugin.run import run_of
                text = run_of(request.config).how_to_enter()
                command = next(line for line in text.splitlines() if "pod default/backend" in line).partition("#")[0].split()
                shown = subprocess.run([*command[:-1], "cat", "/proc/net/tcp"], capture_output=True, text=True, check=True).stdout
                assert ":1F90 " in shown  # 8080 is listened at
        """
    )
    result = suite.spawn("--keep", cluster="netns")
    result.assert_outcomes(passed=4)
    assert re.search(r"^  nsenter .*--net=/proc/\d+/fd/\d+ sh   # pod default/client$", result.stderr.str(), re.MULTILINE)


def test_ctrl_c_ends_the_lab(suite):
    suite.write(name="test_a.yaml")
    suite.pytester.makepyfile(
        test_b="""
            from harness.plugin.run import run_of
            def test_wait(request):
                print("lab", run_of(request.config).session().cluster.pid, flush=True)
                input()
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-s", *QUIET],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=suite.path, env=dict(os.environ),
    )  # fmt: skip
    lab = 0
    for line in process.stdout:
        if match := re.search(r"lab (\d+)", line):
            lab = int(match[1])
            break
    assert lab
    assert not gone(lab)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert gone(lab)
