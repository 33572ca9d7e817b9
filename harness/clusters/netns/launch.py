"""Starts the lab's process and sweeps what killed ones left: a folder each, nothing else, since namespaces die with their process.

A folder belongs to a living lab as long as that holds the lock on its file `lock`; the kernel lets go of it whichever way the lab dies.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import harness
from harness.errors import ClusterError, LabUnavailableError

MODULE = "harness.clusters.netns"
"""What runs as the lab's process."""
_PREFIX = "harness-lab-"
_NEW = ".harness-lab-new-"
_LONGEST_SOCKET = 90
"""A unix socket's path is at most 107 bytes, and the file's own name comes on top."""
_YOUNG = 60.0
_TAIL = 12


@dataclass(slots=True)
class Process:
    """A lab's process, this end of its control socket, and its folder."""

    popen: subprocess.Popen[bytes]
    control: socket.socket
    folder: Path

    @property
    def observer(self) -> str:
        return f"unix://{self.folder}/hubble.sock"

    def tail(self) -> str:
        """The last lines that the lab printed."""
        try:
            lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_TAIL:])

    def ended(self) -> ClusterError:
        """The error for a lab that is no longer there."""
        from harness.clusters.netns.kernel import FORBIDDEN
        from harness.clusters.netns.machine import forbidden

        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(2.0)
        said = self.tail()
        if self.popen.returncode == FORBIDDEN:
            return forbidden(said)
        status = self.popen.returncode
        how = f"killed by signal {-status}" if status is not None and status < 0 else f"ended with status {status}"
        return ClusterError(f"the lab's process was {how}" + (f"; it said:\n{said}" if said else ", without a word"))

    def close(self) -> None:
        """Remove everything of it; a process that has not ended by itself is killed. Idempotent."""
        self.control.close()
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def launch(*, cilium: str, flows: bool, pods: int, host_firewall: bool = True) -> Process:
    """Start a lab. It dies with the calling thread, at the latest. Raises LabUnavailableError where this machine cannot run one."""
    if not sys.platform.startswith("linux"):
        raise LabUnavailableError("the lab is made of Linux network namespaces", hint="Pass `--cluster=memory`.")
    from harness.clusters.netns import nftables

    nftables.library()
    parent = parent_folder()
    sweep(parent)
    folder, lock = _folder(parent)
    ours, theirs = socket.socketpair()
    settings = {
        "parent": os.getpid(),
        "control": theirs.fileno(),
        "folder": str(folder),
        "cilium": cilium,
        "flows": flows,
        "pods": pods,
        "host_firewall": host_firewall,
    }
    source = str(Path(harness.__file__).parents[1])
    try:
        with (folder / "log").open("wb") as log:
            popen = subprocess.Popen(
                [sys.executable, "-m", MODULE, json.dumps(settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(), lock),
                # Ctrl-C is for the tests; they end the lab when they are ready.
                start_new_session=True,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH")))),
                    # The loop forks nothing and has no threads of its own; gRPC's warnings about both only hide real messages.
                    "GRPC_VERBOSITY": os.environ.get("GRPC_VERBOSITY", "ERROR"),
                },
            )
    except OSError as error:
        ours.close()
        shutil.rmtree(folder, ignore_errors=True)
        raise ClusterError(f"the lab's process cannot be started: {error}") from error
    finally:
        theirs.close()
        os.close(lock)
    return Process(popen, ours, folder)


def sweep(parent: Path) -> None:
    """Remove the folders of this user's labs that are dead."""
    for folder in (*parent.glob(f"{_PREFIX}*"), *parent.glob(f"{_NEW}*")):
        with suppress(OSError):
            about = folder.lstat()
            if about.st_uid != os.geteuid() or not folder.is_dir() or folder.is_symlink():
                continue
            # One that is just being made has no lock yet.
            if folder.name.startswith(_NEW) and time.time() - about.st_mtime < _YOUNG:
                continue
            if not alive(folder):
                shutil.rmtree(folder, ignore_errors=True)


def alive(folder: Path) -> bool:
    """Whether somebody holds the lock of this folder."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def parent_folder() -> Path:
    """Where labs keep their folders: the user's place for temporary files, unless a socket's path would be too long there."""
    parent = Path(tempfile.gettempdir())
    return parent if len(str(parent)) <= _LONGEST_SOCKET - len(_PREFIX) - 10 else Path("/tmp")  # noqa: S108 -- mkdtemp makes it safe


def _folder(parent: Path) -> tuple[Path, int]:
    """A new folder that only this user may enter, and its lock, held."""
    new = Path(tempfile.mkdtemp(prefix=_NEW, dir=parent))
    lock = os.open(new / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Under its final name it has a holder from the first moment on.
    return new.rename(parent / (_PREFIX + new.name.removeprefix(_NEW))), lock
