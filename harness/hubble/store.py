"""The flows that an Observer can still tell: a ring buffer with readers that follow it. Not the gRPC service: that is `server`.

One event loop owns a store; nothing here is thread-safe, and `publish` costs under a microsecond, so that a lab can call it for
every packet.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

from harness.hubble.convert import Event, flow_to_proto, response_to_proto
from harness.hubble.proto import flow_pb2
from harness.model.flow import Flow, LostEvents

RING_BUFFER = "HUBBLE_RING_BUFFER"
"""LostEventSource: a reader was too slow, and what it had not read was overwritten."""
DEFAULT_CAPACITY = 32_767


class Entry:
    """One event with its message and bytes, each made when first asked for: most events are asked for once or never."""

    __slots__ = ("_encoded", "_message", "event", "time")

    def __init__(self, event: Event, at: int) -> None:
        self.event = event
        self.time = at
        self._message: flow_pb2.Flow | None = None
        self._encoded: bytes | None = None

    @property
    def lost(self) -> bool:
        return isinstance(self.event, LostEvents)

    @property
    def message(self) -> flow_pb2.Flow:
        """The flow's message, for filters and masks; only for flows."""
        if self._message is None:
            if not isinstance(self.event, Flow):
                raise TypeError("lost events are never filtered")
            self._message = flow_to_proto(self.event)
        return self._message

    @property
    def encoded(self) -> bytes:
        """The event as a serialized GetFlowsResponse."""
        if self._encoded is None:
            self._encoded = response_to_proto(self.event, self.time).SerializeToString()
        return self._encoded


class FlowStore:
    """The last `capacity` events. A reader that falls behind by more than that is told how many it lost."""

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"a flow store needs room for at least one flow, not {capacity}")
        self.capacity = capacity
        # Position = sequence number modulo capacity, once it is full.
        self._ring: list[Entry] = []
        self._published = 0
        self._seen: Counter[str] = Counter()
        """Flows so far, by node."""
        self._started = time.monotonic_ns()
        self._waiting: list[asyncio.Future[None]] = []

    def publish(self, event: Event) -> None:
        """Add a flow, or the news that flows were lost. Call it on the event loop that serves the store. Events come in order of time."""
        if isinstance(event, Flow):
            self._seen[event.node] += 1
            entry = Entry(event, event.time)
        else:
            entry = Entry(event, event.last or time.time_ns())
        if len(self._ring) < self.capacity:
            self._ring.append(entry)
        else:
            self._ring[self._published % self.capacity] = entry
        self._published += 1
        self.wake()

    def wake(self) -> None:
        """Wake every waiting reader, whether or not there is something new."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    @property
    def oldest(self) -> int:
        """The sequence number of the oldest event that is still here; numbers start at 0."""
        return self._published - len(self._ring)

    @property
    def end(self) -> int:
        """The sequence number that the next event will get."""
        return self._published

    @property
    def seen_flows(self) -> int:
        return self._seen.total()

    def flows_of(self, node: str) -> tuple[int, int]:
        """How many flows of a node are here, and how many there have been; with its cluster or without. Where the oldest are overwritten the
        first is an upper bound."""
        seen = sum(flows for name, flows in self._seen.items() if name in (node, node.rpartition("/")[2]))
        return min(seen, len(self._ring)), seen

    @property
    def num_flows(self) -> int:
        """How many events are here; lost events count too, as in Cilium."""
        return len(self._ring)

    @property
    def uptime_ns(self) -> int:
        return time.monotonic_ns() - self._started

    def at(self, sequence: int) -> Entry:
        """The event with this number, which must be between `oldest` and `end`."""
        return self._ring[sequence % self.capacity]

    def backwards(self) -> Iterator[Entry]:
        """Newest first."""
        return (self.at(sequence) for sequence in range(self._published - 1, self.oldest - 1, -1))

    def flows_rate(self) -> float:
        """Flows per second over the last minute, or over the time that the ring still covers."""
        now = time.time_ns()
        since = now - 60_000_000_000
        count, first = 0, since
        for entry in self.backwards():
            if entry.lost:
                continue
            if entry.time < since:
                break
            count, first = count + 1, entry.time
        else:
            since = first if len(self._ring) == self.capacity else since
        return count * 1e9 / max(1, now - since)

    def namespaces(self) -> set[str]:
        """The namespaces of the flows that are still here."""
        return {
            end.namespace
            for entry in self._ring
            if isinstance(entry.event, Flow)
            for end in (entry.event.source, entry.event.destination)
            if end.namespace
        }

    async def wait(self) -> None:
        """Until the next event, or until `wake`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future


class Reader:
    """A position in the store. It moves by `take`, which hands out whole batches and says what was overwritten meanwhile."""

    def __init__(self, store: FlowStore, position: int) -> None:
        self._store = store
        self._position = position
        self._last_time = 0

    @property
    def position(self) -> int:
        """The number of the next event to take."""
        return self._position

    def take(self, limit: int = 1024) -> list[Entry]:
        """The next events, at most `limit`, possibly none. The first may be LostEvents of this reader's own."""
        store = self._store
        out: list[Entry] = []
        oldest = store.oldest
        if self._position < oldest:
            lost = LostEvents(count=oldest - self._position, source=RING_BUFFER, first=self._last_time, last=store.at(oldest).time)
            out.append(Entry(lost, lost.last))
            self._position = oldest
        stop = min(store.end, self._position + limit)
        out.extend(store.at(sequence) for sequence in range(self._position, stop))
        if stop > self._position:
            self._last_time = out[-1].time
            self._position = stop
        return out

    async def wait(self) -> None:
        """Until `take` has something, or until the store's `wake`."""
        if self._position >= self._store.end:
            await self._store.wait()
