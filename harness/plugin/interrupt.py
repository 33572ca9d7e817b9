"""Ctrl-C, pressed more than once, and SIGTERM, with which CI cancels a job: the first ends the run, the next do not tear up the cleaning
that it began.

Python's own handler of Ctrl-C raises KeyboardInterrupt wherever the process happens to be, also inside pytest's and our own handling of the
first; its own handling of SIGTERM ends the process with nothing cleaned up."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

import pytest

_DOUBLE = 1.0
"""What comes within this time of the Ctrl-C before is the same impatience (s)."""
_SAID = b"\nharness: cleaning up; press Ctrl-C again to leave at once (`harness sweep` finds what is then left on a cluster)\n"


def guard(config: pytest.Config) -> None:
    """From now on until `unguard`, this process may be in the middle of something that must be cleaned up. Idempotent."""
    if config.stash.get(_KEY, None) is None:
        interrupts = config.stash[_KEY] = Interrupts(speaks=not hasattr(config, "workerinput"))
        interrupts.install()


def unguard(config: pytest.Config) -> None:
    """The cleaning is over."""
    if interrupts := config.stash.get(_KEY, None):
        interrupts.remove()


class Interrupts:
    """A handler of SIGINT and SIGTERM. `speaks`: whether this process tells the user what the next one does."""

    def __init__(self, *, speaks: bool) -> None:
        self._speaks = speaks
        self._last: float | None = None
        self._told = False

    def install(self) -> bool:
        """Take over from Python's own handler; False where somebody else has, or where this thread may not."""
        if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return False
        signal.signal(signal.SIGINT, self._interrupted)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._interrupted)
        return True

    def remove(self) -> None:
        """Give back to Python's own handler, unless the run was interrupted: then the process is about to end."""
        if self._last is None and signal.getsignal(signal.SIGINT) == self._interrupted:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if signal.getsignal(signal.SIGTERM) == self._interrupted:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_lineno is None:
            # Between two lines, by an instruction that belongs to none: pytest cannot print such a traceback and ends in an internal error.
            signal.raise_signal(number)
            return
        last, self._last = self._last, time.monotonic()
        if last is None:
            raise KeyboardInterrupt
        if self._told and self._last - last > _DOUBLE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not self._told:
            self._told = True
            if self._speaks:
                os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, _SAID)


_KEY: pytest.StashKey[Interrupts] = pytest.StashKey()
