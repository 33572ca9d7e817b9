"""What this machine can do for a lab, and what to enable where it cannot. Starts nothing that lasts."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

from msgspec import Struct

from harness.errors import LabUnavailableError

_USER_NAMESPACES = {
    "/proc/sys/kernel/unprivileged_userns_clone": ("0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": ("1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    "/proc/sys/user/max_user_namespaces": ("0", "sysctl -w user.max_user_namespaces=10000"),
}
"""What forbids user namespaces to those who are not root: the file, the value that forbids, the command that allows."""

_SCTP = 132


class Machine(Struct, frozen=True):
    """Whether a lab can run here; `why` and `hint` say what is missing and what to do, '' where nothing is."""

    usable: bool
    rootless: bool
    why: str = ""
    hint: str = ""


@cache
def probe_capabilities() -> Machine:
    """Whether this machine, and this user, can run a lab. Asked of the machine once per process, in a child that ends at once."""
    rootless = os.geteuid() != 0
    if not sys.platform.startswith("linux"):
        error = LabUnavailableError("the lab is made of Linux network namespaces", hint="Pass `--cluster=memory`.")
        return Machine(usable=False, rootless=rootless, why=error.message, hint=error.hint or "")
    from harness.clusters.netns import nftables

    try:
        nftables.library()
    except LabUnavailableError as error:
        return Machine(usable=False, rootless=rootless, why=error.message, hint=error.hint or "")
    tried = subprocess.run(
        [sys.executable, "-c", "from harness.clusters.netns import kernel; kernel.isolate(); kernel.Namespace.create()"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if tried.returncode == 0:
        return Machine(usable=True, rootless=rootless)
    refused = forbidden(tried.stderr.strip().splitlines()[-1] if tried.stderr.strip() else "no reason given")
    return Machine(usable=False, rootless=rootless, why=refused.message, hint=refused.hint or "")


def forbidden(said: str) -> LabUnavailableError:
    """The one message for a machine that does not let this user make namespaces. `said` is what the kernel answered."""
    commands = []
    for name, (value, command) in _USER_NAMESPACES.items():
        path = Path(name)
        if path.exists() and path.read_text().strip() == value:
            commands.append(command)
    allow = " and ".join(f"`{command}`" for command in commands)
    if not allow:
        allow = "`sysctl -w kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0` where the machine has these"
    return LabUnavailableError(
        f"this user may not make network namespaces here ({said})",
        hint=f"Run as root, or allow user namespaces: {allow} (in a container: `--privileged`); or pass `--cluster=memory`.",
    )


def sockets() -> int:
    """How many this process may have open from now on: as many as the machine lets it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def sctp_here() -> bool:
    """Whether this kernel has SCTP."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, _SCTP).close()
    except OSError:
        return False
    return True
