"""From a plan to observations: runs an agent, gives each probe its flows, ends dropped probes early. Used by every cluster that sends
packets. Not the judge: it never says what an observation means."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from harness.clusters.base import Observation
from harness.errors import ClusterError
from harness.hubble.feed import FlowFeed, Registration
from harness.hubble.match import Track, explained, stops
from harness.model.flow import Flow, LostEvents
from harness.model.probe import Ending, Probe, ProbeResult
from harness.model.traffic import RequestKind
from harness.probes.agent import Agent, Bound

_FAREWELL = 1.0
"""How long an agent may take to end after its last result (s)."""


@dataclass(slots=True)
class _Watch:
    """One probe under way."""

    probe: Probe
    track: Track | None = None
    registration: Registration | None = None
    flows: list[Flow] = field(default_factory=list)
    result: ProbeResult | None = None
    dropped: bool = False
    stopping: bool = False
    given_time: bool = False


async def observe(
    agent: Agent,
    plan: Sequence[Probe],
    feed: FlowFeed | None,
    *,
    grace: float,
    settle: float,
    skew: float = 0.0,
    caught_up: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[Observation]:
    """Send the plan and yield each probe when it and its flows are complete, in any order.

    A probe whose packet was dropped by policy (`match.stops`) is stopped `grace` seconds after the drop was heard of. An answered probe
    waits for its forwarding flow at the last hop (and a proxy's record of the answer), at most `settle` seconds; one that was stopped waits for nothing but the name of the policy, where sides are awaited; any other
    (timed out, refused, reset, broken) waits `settle` for a late drop. `skew` is how far apart the clocks of client and nodes may be.
    Where `caught_up` is given, nobody is given up before it returned: it waits until every flow of what was sent before has been handed
    over, however slow the machine is. Losses that touch a probe's window are attached to it. Without a feed, `flows_on` is false and nothing waits.

    For a service, `Probe.alternatives` are the (address, port) of the backends it may be sent to; flows towards them are the probe's.
    An agent that breaks (ClusterError), or ends without a result for a probe, gives `Ending.ERROR` for it; other errors pass through.
    """
    run = _Run(agent, plan, feed, grace, settle, int(skew * 1e9), caught_up)
    try:
        async for observation in run.observations():
            yield observation
    finally:
        await run.close()


class _Run:
    def __init__(
        self,
        agent: Agent,
        plan: Sequence[Probe],
        feed: FlowFeed | None,
        grace: float,
        settle: float,
        skew: int,
        caught_up: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._agent = agent
        self._feed = feed
        self._grace = grace
        self._settle = settle
        self._skew = skew
        self._caught_up = caught_up
        self._catching_up: set[asyncio.Task[None]] = set()
        self._watches = {probe.id: _Watch(probe) for probe in plan}
        if len(self._watches) != len(plan):
            raise ValueError("two probes of one plan have the same id")
        self._plan = plan
        self._ready: deque[Observation] = deque()
        # One heap for all timers: thousands of probes, and asyncio's own timers cost ten times as much.
        self._timers: list[tuple[float, int, int, bool]] = []
        self._order = count()
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._pump: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None

    async def observations(self) -> AsyncIterator[Observation]:
        if not self._plan:
            return
        self._pump = asyncio.create_task(self._pump_events())
        while self._watches or self._ready:
            while self._ready:
                yield self._ready.popleft()
            if self._failure is not None:
                raise self._failure
            await self._fire()
            if not self._ready and self._watches:
                await self._sleep()

    async def close(self) -> None:
        for task in self._catching_up:
            task.cancel()
        if self._pump is not None:
            if not self._watches:
                # Every result is in: the agent is about to end by itself, and may be tidying up.
                await asyncio.wait((self._pump,), timeout=_FAREWELL)
            self._pump.cancel()
            await asyncio.wait((self._pump,))
            if not self._pump.cancelled():
                self._pump.result()
        for watch in self._watches.values():
            self._unregister(watch)

    async def _sleep(self) -> None:
        handle = self._loop.call_at(self._timers[0][0], self._wake.set) if self._timers else None
        try:
            await self._wake.wait()
        finally:
            if handle is not None:
                handle.cancel()
        self._wake.clear()

    async def _fire(self) -> None:
        now = self._loop.time()
        settled: list[_Watch] = []
        while self._timers and self._timers[0][0] <= now:
            due, _, identifier, stop = heapq.heappop(self._timers)
            watch = self._watches.get(identifier)
            if watch is None:
                continue
            if stop:
                if watch.result is None:
                    await self._agent.stop(identifier)
            elif self._caught_up is not None:
                settled.append(watch)
            elif now - due > self._settle / 2 and not watch.given_time:
                # It was we who were not running: what came meanwhile has not been read yet.
                watch.given_time = True
                self._after(self._settle, watch, stop=False)
            else:
                self._finish(watch)
        if settled:
            task = asyncio.create_task(self._give_up(settled))
            self._catching_up.add(task)
            task.add_done_callback(self._catching_up.discard)

    async def _give_up(self, watches: Sequence[_Watch]) -> None:
        assert self._caught_up is not None  # noqa: S101 -- that is why it was called
        try:
            await self._caught_up()
        except ClusterError:
            pass  # whoever could have told is gone: nothing more will come
        except Exception as error:  # noqa: BLE001  # handed to the consumer, which is another task
            self._failure = error
        for watch in watches:
            self._finish(watch)
        self._wake.set()

    def _after(self, seconds: float, watch: _Watch, *, stop: bool) -> None:
        heapq.heappush(self._timers, (self._loop.time() + seconds, next(self._order), watch.probe.id, stop))
        self._wake.set()

    # What the agent says

    async def _pump_events(self) -> None:
        broken = "the agent ended without a result for this probe"
        events = self._agent.run(self._plan)
        try:
            async for event in events:
                watch = self._watches.get(event.id)
                if watch is None:
                    continue
                if isinstance(event, Bound):
                    self._bound(watch, event)
                elif watch.result is None:
                    self._ended(watch, event)
        except ClusterError as error:
            broken = f"the agent broke: {error.message}"
        except Exception as error:  # noqa: BLE001  # handed to the consumer, which is another task
            self._failure = error
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()
        now = time.time_ns()
        for watch in list(self._watches.values()):
            if watch.result is None:
                self._ended(watch, ProbeResult(watch.probe.id, Ending.ERROR, started=now, ended=now, detail=broken))
        self._wake.set()

    def _bound(self, watch: _Watch, event: Bound) -> None:
        if self._feed is None or watch.probe.liveness:
            return
        self._unregister(watch)  # a second attempt has a socket of its own
        said = watch.probe.spoken
        legible = said is None or said.kind is not RequestKind.TLS
        watch.track = Track.of(event.five_tuple, event.time, watch.probe.alternatives, watch.probe.awaited, legible=legible)
        watch.registration = self._feed.register(watch.track.key, lambda flow: self._flow(watch, flow))

    def _ended(self, watch: _Watch, result: ProbeResult) -> None:
        watch.result = result
        if self._feed is None or watch.probe.liveness or watch.track is None or self._complete(watch, result):
            self._finish(watch)
        else:
            self._after(self._settle, watch, stop=False)

    @staticmethod
    def _complete(watch: _Watch, result: ProbeResult) -> bool:
        match result.ending:
            case Ending.STOPPED:
                return not watch.probe.awaited or explained(watch.flows)
            case Ending.ANSWERED:
                return watch.track is not None and watch.track.complete(watch.flows)
            case Ending.RESET:
                return any(flow.dropped and flow.is_l7 for flow in watch.flows)
            case _:
                return watch.dropped and result.ending is Ending.TIMEOUT and (not watch.probe.awaited or explained(watch.flows))

    # What Hubble says

    def _flow(self, watch: _Watch, flow: Flow) -> bool:
        # The window stays open while flows may still come: their time is when the node saw the packet, or read the news of it.
        # Who can say that all has come need not guess how long that may take.
        ended = None if watch.result is None or self._caught_up is not None else watch.result.ended + int(self._settle * 1e9)
        if watch.track is None or not watch.track.owns(flow, ended=ended, skew=self._skew):
            return False
        watch.flows.append(flow)
        if stops(flow):
            watch.dropped = True
            if watch.result is None and not watch.stopping:
                watch.stopping = True
                self._after(self._grace, watch, stop=True)
        if watch.result is not None and self._complete(watch, watch.result):
            self._finish(watch)
        return True

    def _finish(self, watch: _Watch) -> None:
        result = watch.result
        if result is None or watch.probe.id not in self._watches:
            return
        del self._watches[watch.probe.id]
        self._unregister(watch)
        lost: tuple[LostEvents, ...] = ()
        if self._feed is not None and not watch.probe.liveness:
            started = watch.track.started if watch.track is not None else result.started
            lost = self._feed.lost(started - self._skew, max(result.ended, time.time_ns()) + self._skew)
        self._ready.append(
            Observation(
                probe=watch.probe,
                result=result,
                flows=tuple(sorted(watch.flows, key=lambda flow: flow.time)),
                lost=lost,
                flows_on=self._feed is not None,
            )
        )
        self._wake.set()

    def _unregister(self, watch: _Watch) -> None:
        if self._feed is not None and watch.registration is not None:
            self._feed.unregister(watch.registration)
            watch.registration = None
