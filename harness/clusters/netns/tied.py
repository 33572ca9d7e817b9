"""Runs a program that dies with the thread that started it: `python tied.py PARENT PROGRAM ARGUMENT...`. A file of its own, that imports
nothing of ours: between fork and exec nothing may run in a process that has threads, so this runs after exec."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """SIGKILL when the thread that started us ends. A parent that is gone already cannot tell us any more, so then we end here."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    try:
        os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 -- that is what it is for
    except OSError as error:
        sys.exit(f"{sys.argv[2]} does not run on this machine: {error.strerror}")
