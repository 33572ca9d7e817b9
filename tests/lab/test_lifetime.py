"""A lab outlives the shell that started it, and nothing outlives the lab."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.cases.load import load_cases
from harness.clusters.netns.cluster import LabOptions
from harness.lab.calls import Caller
from harness.lab.keeper import Settings
from harness.lab.start import start
from tests.lab.conftest import Labs, gone


def about(labs: Labs) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(labs.ok("status", "-o", "json"))
    return found


def children(pid: int) -> list[int]:
    return [int(each) for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()]


def processes(labs: Labs) -> tuple[int, int]:
    """The keeper and the lab's own process."""
    keeper = about(labs)["keeper"]
    (lab,) = children(keeper)
    return keeper, lab


def own_folder(labs: Labs) -> Path:
    """Where labs are, of this user."""
    return labs.folder / "harness"


def leftovers(labs: Labs) -> list[str]:
    return sorted(
        each.name
        for folder in (own_folder(labs), labs.folder)
        for each in folder.iterdir()
        if each.name not in ("harness", "test_shop.yaml")
    )


def test_it_outlives_the_shell_that_started_it(labs: Labs) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" & wait', "sh", *labs.words("up", str(labs.case))],
        env=labs.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        start_new_session=True,
    )
    assert "phase `deny`" in done.stdout
    found = about(labs)
    assert os.getsid(found["keeper"]) == found["keeper"], "no terminal's end reaches it"
    assert not own_folder(labs).stat().st_mode & 0o077
    assert Path(f"/proc/{found['keeper']}/cwd").readlink() == Path("/")


def test_down_ends_everything_programs_inside_too(labs: Labs) -> None:
    labs.ok("up", str(labs.case))
    keeper, lab = processes(labs)
    with subprocess.Popen(
        labs.words("exec", "frontend", "--", "sh", "-c", "trap '' HUP TERM; echo ready; cat"),
        env=labs.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        assert labs.ok("down") == "lab `lab` is down\n"
        assert program.wait(20) == -signal.SIGKILL, "it would not end by itself"
    assert gone(lab)
    assert gone(keeper)
    assert leftovers(labs) == []
    assert labs.fails("status").startswith("error: no lab is up\n  `harness lab up CASE.yaml`")
    assert "no lab is up" in labs.ok("list")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_keeper_ends_everything(labs: Labs, number: signal.Signals) -> None:
    labs.ok("up", str(labs.case))
    keeper, lab = processes(labs)
    os.kill(keeper, number)
    assert gone(keeper)
    assert gone(lab)
    assert leftovers(labs) == []


def test_a_killed_keeper_takes_the_lab_along_and_its_folder_is_recognised(labs: Labs) -> None:
    labs.ok("up", str(labs.case))
    keeper, lab = processes(labs)
    os.kill(keeper, signal.SIGKILL)
    assert gone(lab)
    assert gone(keeper)
    assert (own_folder(labs) / "lab").is_dir()
    assert labs.fails("exec", "frontend", "--", "true").startswith("error: no lab is up")
    assert not (own_folder(labs) / "lab").exists()
    labs.ok("up", str(labs.case))


def test_a_lab_whose_own_process_dies_ends(labs: Labs) -> None:
    labs.ok("up", str(labs.case))
    keeper, lab = processes(labs)
    os.kill(lab, signal.SIGKILL)
    assert gone(keeper)
    assert "no lab is up" in labs.ok("list")


def test_it_ends_when_nobody_uses_it_and_not_before(labs: Labs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(labs.folder))
    folder = start("brief", Settings(load_cases(labs.case)[0], "", 0.2, LabOptions(pods=1)))
    with Caller(folder) as user:
        keeper = os.pidfd_open(user.call("about")["keeper"])
        ended, _, _ = select.select([keeper], [], [], 1.0)
        assert not ended, "somebody is connected"
    ended, _, _ = select.select([keeper], [], [], 20.0)
    os.close(keeper)
    assert ended
    assert leftovers(labs) == []


def test_it_ends_when_its_folder_is_gone(labs: Labs) -> None:
    labs.ok("up", str(labs.case), "--idle", "2s")
    keeper, lab = processes(labs)
    shutil.rmtree(own_folder(labs))
    assert gone(keeper)
    assert gone(lab)


def test_a_lab_that_cannot_start_says_why_and_leaves_nothing(labs: Labs) -> None:
    # An address that nobody has: the lab is up by then, and has to go again.
    assert "flows cannot be served on 256.0.0.1:1" in labs.fails("up", str(labs.case), "--hubble-listen", "256.0.0.1:1")
    assert leftovers(labs) == []


def test_one_that_is_starting_ends_when_its_command_is_interrupted(labs: Labs) -> None:
    with subprocess.Popen(
        labs.words("up", str(labs.case)), env=labs.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        log = own_folder(labs) / "lab" / "log"
        while not log.exists() and command.poll() is None:
            pass
        (keeper,) = children(command.pid) or [0]
        command.send_signal(signal.SIGINT)
        command.wait(20)
    if keeper:
        assert gone(keeper)
    assert "no lab is up" in labs.ok("list")


def test_a_keeper_that_hangs_is_killed_by_down(labs: Labs, monkeypatch: pytest.MonkeyPatch) -> None:
    labs.ok("up", str(labs.case))
    keeper, lab = processes(labs)
    os.kill(lab, signal.SIGSTOP)  # what the keeper asks of it at the end is never answered
    monkeypatch.setattr("harness.lab.calls._PATIENCE", 0.5)
    assert labs.ok("down") == "lab `lab` is down\n"
    assert gone(keeper)
    assert gone(lab)
    assert not (own_folder(labs) / "lab").exists()
