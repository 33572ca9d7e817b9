"""The contract of whatever sends probes: the lab's sockets, or the script in a client pod."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from harness.model.flow import FiveTuple
from harness.model.probe import Probe, ProbeResult


class Bound(Struct, frozen=True):
    """The client's socket is bound: told before it connects, so that flows can be matched to the probe. Time in ns since the epoch."""

    id: int
    five_tuple: FiveTuple
    time: int


AgentEvent: TypeAlias = Bound | ProbeResult


class Agent(Protocol):
    """Runs probes concurrently. Every probe yields at most one Bound and exactly one ProbeResult, in any order among probes."""

    def run(self, probes: Sequence[Probe]) -> AsyncIterator[AgentEvent]: ...

    async def stop(self, probe_id: int) -> None:
        """End the probe now (its drop was seen and the grace is over); it then reports `stopped`. Unknown ids are ignored."""
