"""Progress for a person: a line when a long step begins, now and then while it lasts, and when it is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[str], None]
"""Takes one line for the person; from any thread."""
REMINDER = 20.0
"""Seconds between two lines of a step that lasts."""


@contextmanager
def step(tell: Tell, what: str, reminder: float = REMINDER) -> Iterator[None]:
    """`what` says what is being done, as in `creating the cluster`."""
    began = time.monotonic()
    over = threading.Event()

    def remind() -> None:
        while not over.wait(reminder):
            tell(f"{what}: {time.monotonic() - began:.0f} s so far")

    tell(f"{what} ...")
    threading.Thread(target=remind, name=what, daemon=True).start()
    try:
        yield
    except BaseException:
        over.set()
        tell(f"{what}: given up after {time.monotonic() - began:.1f} s")
        raise
    over.set()
    tell(f"{what}: done in {time.monotonic() - began:.1f} s")
