"""What only shows inside the lab: connections that are held open, changes under traffic, and a lab without root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from harness.clusters.netns.topology import ipv6_here
from tests.clusters.netns.conftest import require_lab
from tests.clusters.netns.inside import NOBODY


def run(*arguments: str, module: str = "inside") -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", f"tests.clusters.netns.{module}", *arguments], capture_output=True, text=True, check=False)
    if done.stderr.startswith("forbidden"):
        pytest.skip(
            f"an unprivileged user may not make namespaces here ({done.stderr.strip()}); `sysctl -w kernel.unprivileged_userns_clone=1`"
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(seen: dict[str, Any]) -> None:
    assert seen["before"] == "answered"
    assert seen["held"] == "harness one d/server"
    assert not seen["cut"], "every packet of the original direction is looked up, not only the first"
    assert set(seen["drops"]) == {"ingress"}
    assert seen["denied"] == "timeout"


def test_tightening_a_policy_cuts_a_connection_that_is_open() -> None:
    require_lab()
    check(run())


def test_a_lab_needs_no_root() -> None:
    require_lab()
    if os.geteuid() != 0:
        pytest.skip("this whole run is without root already")
    seen = run("nobody")
    assert seen["euid"] == 0, "root of its own user namespace"
    assert os.geteuid() != NOBODY
    check(seen)


def test_no_packet_slips_through_a_change_of_policies_or_gets_lost_in_it() -> None:
    """The old policies and the new agree on these packets, so there is no moment at which one of them may fare otherwise."""
    require_lab()
    seen = run(module="inside_changes")
    assert seen["sent"] > 100
    assert (seen["lost"], seen["leaked"]) == (0, 0)


@pytest.mark.skipif(not ipv6_here(), reason="this machine has no IPv6")
def test_an_ipv6_address_gets_its_answers_from_the_moment_it_is_there() -> None:
    """The kernel alone would leave that to a thread of its own, and on a busy machine the first answers to a new address were lost."""
    require_lab()
    assert run(module="inside_addresses") == {"late": 0}
