"""What a report is: something that listens. It hears each test once its events are complete, and is closed at the end of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from harness.engine.events import Event
from harness.reports.account import Account


class Told(Struct, frozen=True):
    """What one test (or the opening and closing of a run) had to tell. `account` is there where it did not pass."""

    nodeid: str
    """Empty for what belongs to no test."""
    events: Sequence[Event]
    account: Account | None = None
    command: str = ""
    """Runs the test again."""


class Listener(Protocol):
    def hear(self, told: Told) -> None: ...

    def close(self) -> None:
        """The run is over."""
