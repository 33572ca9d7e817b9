"""Going into a place of a lab: this process becomes a program there. Also ends the programs that are inside. Needs Linux.

A lab of somebody who is not root is in a user namespace, which is entered first; inside, its owner is root.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from harness.clusters.netns import kernel
from harness.errors import ClusterError, UsageError

_GRACE = 1.0
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")


def run_inside(lab: int, namespace: int, command: Sequence[str], *, hostname: str, files: Mapping[Path, Path]) -> NoReturn:
    """Become `command` in a network namespace of a lab's process, by its pid and the descriptor it has there.

    The program keeps this process's terminal, working directory and user (in a rootless lab: root of the lab). It sees `files` in place of
    the machine's own, `hostname` as the machine's name, and no proxy settings, since no proxy can be reached. Raises UsageError where there
    is no such command, ClusterError where the place cannot be entered.
    """
    try:
        kernel.join(Path(f"/proc/{lab}/fd/{namespace}"), Path(f"/proc/{lab}/ns/user"))
        kernel.own_files(files, hostname)
    except OSError as error:
        raise ClusterError(f"the lab cannot be entered: {error}", hint="Is it of another user, or in another container?") from error
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and an ignored signal stays so in the program
        signal.signal(number, signal.SIG_DFL)
    environment = {key: value for key, value in os.environ.items() if key.lower() not in _PROXIES}
    try:
        os.execvpe(command[0], list(command), environment)  # noqa: S606 -- becoming that program is what is asked for
    except FileNotFoundError:
        raise UsageError(
            f"command not found: {command[0]}", hint="Programs are this machine's own: install it here, or try `bash` or `python3`."
        ) from None
    except OSError as error:
        raise UsageError(f"{command[0]} cannot be run: {error.strerror}") from error


def end_those_inside(namespaces: Collection[int], *, but: int) -> None:
    """End every program in these network namespaces (by inode number), as a kubelet does with a pod's: asked first, killed after a second.

    `but` is the lab's own process, spared with its children: as long as it lives the numbers are nobody else's.
    """
    inside = list(_inside(namespaces, but))
    try:
        _signal(inside, signal.SIGHUP)  # interactive shells ignore SIGTERM
        _signal(inside, signal.SIGTERM)
        until = time.monotonic() + _GRACE
        for process in inside:
            select.select([process], [], [], max(0.0, until - time.monotonic()))
        _signal(inside, signal.SIGKILL)
    finally:
        for process in inside:
            os.close(process)


def _signal(processes: Collection[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, number)


def _parent(process: Path) -> int:
    """The number of the process that started it: what follows its name, which may hold anything, in brackets, and its state."""
    return int((process / "stat").read_text().rpartition(")")[2].split()[1])


def _inside(namespaces: Collection[int], but: int) -> Iterator[int]:
    """Descriptors of the processes in these namespaces."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in (but, os.getpid()):
            continue
        with suppress(OSError):
            process = os.pidfd_open(int(entry.name))
            # Looked at after it is held: from here on the number is nobody else's.
            with suppress(OSError):
                if (entry / "ns/net").stat().st_ino in namespaces and _parent(entry) != but:
                    yield process
                    continue
            os.close(process)
