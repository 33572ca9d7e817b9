"""Programs of this machine run in a pod's network, as if they were the pod's."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.conftest import Labs, labs_in_a_folder

PYTHON = sys.executable
FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"
WITHOUT_PRIVILEGES = """
import ctypes, os, sys
for capability in range(64):
    if capability != 31:  # CAP_SETFCAP: whoever is called root needs it to be root of a user namespace too
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def fetch(labs: Labs, place: str, url: str) -> str:
    return labs.ok("exec", place, "--", PYTHON, "-c", FETCH, url)


@pytest.mark.parametrize("host", ["web", "web.shop", "web.shop.svc.cluster.local"])
def test_a_service_is_reached_by_its_cluster_names(lab: Labs, host: str) -> None:
    assert "shop/backend-" in fetch(lab, "frontend", f"http://{host}/")


def test_a_pod_is_reached_by_its_name_and_from_elsewhere_with_its_namespace(lab: Labs) -> None:
    assert '"shop/backend-1"' in fetch(lab, "frontend", "http://backend-1:8080/")
    assert '"shop/backend-0"' in fetch(lab, "intruder", "http://backend-0.shop:8080/")
    assert lab.run("exec", "dev/intruder", "--", PYTHON, "-c", FETCH, "http://backend-0:8080/").returncode == 1


def test_what_is_outside_is_reached_by_its_name(lab: Labs) -> None:
    assert '"stripe"' in fetch(lab, "frontend", "http://api.stripe.com:8080/")


def test_the_exit_code_is_the_commands(lab: Labs) -> None:
    assert lab.run("exec", "frontend", "--", "sh", "-c", "exit 7").returncode == 7
    assert lab.run("exec", "frontend", "true").returncode == 0
    assert lab.run("exec", "frontend", "--", "sh", "-c", "kill -KILL $$").returncode == -9


def test_input_and_output_are_the_callers(lab: Labs) -> None:
    assert lab.ok("exec", "frontend", "--", "cat", input="through\n") == "through\n"


def test_options_after_the_place_are_the_commands(lab: Labs) -> None:
    assert lab.ok("exec", "frontend", "echo", "--help", "-f") == "--help -f\n"


def test_a_terminal_stays_one_and_without_a_command_there_is_a_shell(lab: Labs) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        lab.words("exec", "frontend"), env={**lab.environment, "PS1": "$ "}, stdin=theirs, stdout=theirs, stderr=theirs
    ) as shell:
        os.close(theirs)
        os.write(ours, b"test -t 0 && echo is''-a-terminal; exit 5\n")
        said = b""
        try:
            while chunk := os.read(ours, 4096):
                said += chunk
        except OSError:
            pass  # that is how a terminal says that nobody is left
        os.close(ours)
        assert shell.wait(20) == 5
    assert b"is-a-terminal" in said


def test_the_place_has_its_own_network_and_name(lab: Labs) -> None:
    code = "import socket; print(socket.gethostname(), socket.gethostbyname(socket.gethostname()), *(name for _, name in socket.if_nameindex()))"
    name, address, *links = lab.ok("exec", "frontend", "--", PYTHON, "-c", code).split()
    assert name == "frontend"
    assert address == "10.244.0.2"
    assert "lo" in links
    assert len(links) == 2


def test_proxy_settings_and_ignored_signals_stay_outside(lab: Labs) -> None:
    code = "import os, signal; print(os.environ.get('HTTP_PROXY'), os.environ.get('https_proxy'))"
    said = lab.ok(
        "exec", "frontend", "--", PYTHON, "-c", code, env={**lab.environment, "HTTP_PROXY": "http://x", "https_proxy": "http://x"}
    )
    assert said.split() == ["None", "None"]
    # A shell tells which signals were ignored when it began: Python's own SIGPIPE must not be among them.
    ignored = lab.ok("exec", "frontend", "--", "sh", "-c", "grep SigIgn /proc/$$/status").split()[1]
    assert not int(ignored, 16) & (1 << 12)


def test_the_machines_own_files_are_as_before(lab: Labs) -> None:
    before = Path("/etc/hosts").read_bytes()
    assert "web.shop.svc" in lab.ok("exec", "frontend", "--", "cat", "/etc/hosts")
    assert Path("/etc/hosts").read_bytes() == before


def test_nodes_and_what_is_outside_can_be_entered_too(lab: Labs) -> None:
    assert '"shop/backend-0"' in fetch(lab, "world", "http://backend-0.shop:8080/")
    code = "import socket; print(*(name for _, name in socket.if_nameindex()))"
    assert len(lab.ok("exec", "node/a", "--", PYTHON, "-c", code).split()) > 2


@pytest.mark.parametrize(
    ("place", "hint"),
    [("fronten", "did you mean `frontend`?"), ("shop/intruder", "did you mean `intruder`?"), ("backend[2]", "did you mean")],
)
def test_an_unknown_place_is_told_with_what_was_meant(lab: Labs, place: str, hint: str) -> None:
    said = lab.fails("exec", place, "--", "true")
    assert f"there is no `{place}` in this lab" in said
    assert hint in said


def test_a_missing_command_is_told(lab: Labs) -> None:
    said = lab.fails("exec", "frontend", "--", "no-such-program")
    assert "command not found: no-such-program" in said
    assert "install it here" in said


def test_the_commands_that_up_suggests_work(lab: Labs) -> None:
    said = lab.ok("up", str(lab.case), "--phase", "none", "--name", "other")
    try:
        suggested = {line.split()[2]: line.split()[3:] for line in said.splitlines() if line.startswith("    harness lab ")}
        assert {*suggested} == {"exec", "probe", "apply", "observe", "down"}
        option, name, *flow = suggested["probe"]
        assert (option, name) == ("--name", "other")
        assert lab.ok("probe", option, name, " ".join(flow).strip("'")).count("allow: ") == 2
        if shutil.which("curl"):
            assert "shop/backend-0" in lab.ok("exec", *suggested["exec"])
    finally:
        assert "is down" in lab.ok("down", "--name", "other")


def test_a_lab_and_what_runs_in_it_need_no_privileges() -> None:
    with labs_in_a_folder(before=[sys.executable, "-c", WITHOUT_PRIVILEGES]) as labs:
        done = labs.run("up", str(labs.case))
        if "may not make network namespaces" in done.stderr:
            pytest.skip(done.stderr)
        assert done.returncode == 0, done.stderr
        said = labs.ok("exec", "frontend", "--", "sh", "-c", "id -u; hostname; cat /proc/self/uid_map")
        uid, name, *mapped = said.split()
        assert (uid, name) == ("0", "frontend"), "root of the lab's own user namespace"
        assert mapped == ["0", str(os.geteuid()), "1"]
        assert labs.run("probe", "frontend -> backend:8080").returncode == 1
        assert '"stripe"' in fetch(labs, "frontend", "http://stripe:8080/")
