"""The background follower: one GetFlows stream, each flow handed to whoever registered for its source. Not the connection
(`observer`) and not the judgement of what a flow means (`match`, the judge)."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

import grpc.aio

from harness.errors import FlowsUnavailableError
from harness.hubble.batch import ask, unpack
from harness.hubble.convert import five_tuple_of, flow_of, lost_of, time_of
from harness.hubble.match import FlowKey, canonical, touches
from harness.hubble.observer import ConnectionClosedError, Observer, flows_request, unavailable
from harness.hubble.proto import flow_pb2, observer_pb2, relay_pb2
from harness.hubble.store import RING_BUFFER
from harness.model.flow import Flow, LostEvents
from harness.model.traffic import Protocol

STREAM_LOST = "stream lost"
NODE_UNAVAILABLE = "node unavailable"

_TOO_FEW = 2
"""A ring with fewer events is no place to begin at: Cilium begins two before the next that will be written, and below zero that is a place
which is written when the ring is full (`LastWriteParallel` in pkg/hubble/container/ring.go). Who asked before then hears nothing until then."""
_LOOK = 0.5
"""How often to look whether who says nothing has something to say (s)."""

_PORTS = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}
_TYPES = {"ICMPv4": Protocol.ICMP, "ICMPv6": Protocol.ICMPV6}


@dataclass(slots=True, eq=False)
class Registration:
    """Somebody's interest in the flows of one source. `receive` is called on the event loop with each flow of the key, and says whether
    the flow is theirs: what nobody claims is kept for whoever registers later."""

    key: FlowKey
    receive: Callable[[Flow], bool]


@dataclass(slots=True)
class _Gap:
    """A time without a stream: nothing seen in it proves anything. `end` is 0 while it lasts."""

    reason: str
    begin: int
    end: int = 0
    noticed: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class _Backlog:
    """Flows that nobody has claimed yet: the news of a bound socket and its first flow travel different ways."""

    size: int
    _order: deque[tuple[FlowKey, flow_pb2.Flow]] = field(default_factory=deque)
    _by_key: dict[FlowKey, list[flow_pb2.Flow]] = field(default_factory=dict)

    def add(self, key: FlowKey, message: flow_pb2.Flow) -> None:
        self._order.append((key, message))
        self._by_key.setdefault(key, []).append(message)
        if len(self._order) > self.size:
            old_key, old = self._order.popleft()
            kept = self._by_key.get(old_key)
            # A key that was taken meanwhile, or came again, no longer begins with this one.
            if kept and kept[0] is old:
                del kept[0]
                if not kept:
                    del self._by_key[old_key]

    def get(self, key: FlowKey) -> tuple[flow_pb2.Flow, ...]:
        return tuple(self._by_key.get(key, ()))


class FlowFeed:
    """Follows an Observer from `start` to `close`.

    `start` returns when the server is known to have begun: a flow from then on is delivered, unless `broken` or `lost` says otherwise.
    A stream that ends is a gap: `broken` says why, `lost` gives `LostEvents(source="stream lost: ...")` for every window that touches it,
    and the feed tries to come back on its own. Everything happens on one event loop.
    """

    def __init__(
        self,
        observer: Observer,
        *,
        margin: float = 10.0,
        retry: float = 1.0,
        backlog: int = 16_384,
        whitelist: Sequence[flow_pb2.FlowFilter] = (),
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`margin` (s): how far before now the stream begins, which covers clocks apart and servers that subscribe late. `whitelist`
        spares a busy cluster the flows that are certainly nobody's. `backlog`: how many unclaimed flows are kept."""
        self._observer = observer
        self._margin = int(margin * 1e9)
        self._retry = retry
        self._whitelist = tuple(whitelist)
        self._clock = clock
        self._registrations: dict[FlowKey, list[Registration]] = {}
        self._backlog = _Backlog(backlog)
        self._lost: deque[LostEvents] = deque(maxlen=4096)
        self._gaps: list[_Gap] = []
        self._down: dict[str, _Gap] = {}
        self._asked_early: set[str] = set()
        """Nodes whose rings may have held too few flows when they were asked, and that said nothing since (see `_short`)."""
        self._task: asyncio.Task[None] | None = None
        self._begun: asyncio.Future[None] | None = None
        self._last_time = 0
        self.broken: str | None = None
        """Why there is no stream just now, or None."""
        self.received = 0
        """Flows received so far."""
        self._overwritten = 0
        self._expected: list[tuple[int, int, asyncio.Future[None]]] = []
        """A heap: how many flows somebody waits for, in which order they came, and what tells them."""
        self._order = count()
        self._back = asyncio.Event()

    async def start(self, *, within: float = 5.0) -> None:
        """Begin to follow. Raises FlowsUnavailableError where the Observer cannot be reached or refuses."""
        await self._observer.status(within=within)
        self._begun = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._follow(), name=f"flows of {self._observer.target}")
        # Our server sends its metadata when it has subscribed us, and Relay the status of its nodes. An agent's Observer says nothing
        # before the first flow: there the margin of `since` makes up for a late start.
        try:
            await asyncio.wait_for(asyncio.shield(self._begun), min(within, 1.0))
        except TimeoutError:
            pass
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop following. The Observer stays open. Idempotent. Raises what the follower failed by, if it was a fault of its own."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.result()
        if self._begun is not None and self._begun.done() and not self._begun.cancelled():
            self._begun.exception()  # told to whoever started us, or to nobody

    def register(self, key: FlowKey, receive: Callable[[Flow], bool]) -> Registration:
        """From now on `receive` gets each flow of this key, beginning with those that came too early."""
        registration = Registration(key, receive)
        self._registrations.setdefault(key, []).append(registration)
        for message in self._backlog.get(key):
            flow = flow_of(message)
            if flow is not None:
                receive(flow)
        return registration

    def unregister(self, registration: Registration) -> None:
        those = self._registrations.get(registration.key, [])
        if registration in those:
            those.remove(registration)
            if not those:
                del self._registrations[registration.key]

    def lost(self, started: int, ended: int) -> tuple[LostEvents, ...]:
        """What was lost that may have been of this window (ns since the epoch): lost events, gaps in the stream, nodes away."""
        out = [lost for lost in self._lost if touches(lost, started, ended)]
        for node, gap in self._down.items():
            if gap.begin <= ended:
                out.append(LostEvents(0, f"{NODE_UNAVAILABLE}: {gap.reason}", gap.begin, 0, node))
        out.extend(
            LostEvents(0, f"{STREAM_LOST}: {gap.reason}", gap.begin, gap.end)
            for gap in self._gaps
            if gap.begin <= ended and (not gap.end or gap.end >= started)
        )
        return tuple(out)

    async def back(self, *, within: float, skew: float = 0.0) -> None:
        """Until there is a stream, or it has been away for `within` (s). What is sent while there is none can only end in unknown; so does what
        follows in less than `skew` (s), by which the clocks of others may be apart from this one."""
        if self.broken is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._back.wait(), within - (time.monotonic() - self._gaps[-1].noticed))
        if self._gaps and self._gaps[-1].end:
            await asyncio.sleep(max(0.0, skew - (self._clock() - self._gaps[-1].end) / 1e9))

    async def reach(self, flows: int, *, within: float) -> None:
        """Until so many flows have come since `start`; or until that can no longer be known, since the stream broke, or `within` is
        over. Only for a server that counts its flows from then on, as the lab's does."""
        if self._gaps or self.received + self._overwritten >= flows:
            return
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._expected, (flows, next(self._order), reached))
        with suppress(TimeoutError):
            await asyncio.wait_for(reached, within)

    def _counted(self) -> None:
        """Let those go on who waited for as much as there is now."""
        there = self.received + self._overwritten
        while self._expected and (self._gaps or there >= self._expected[0][0]):
            _, _, reached = heappop(self._expected)
            if not reached.done():
                reached.set_result(None)

    # The stream

    async def _follow(self) -> None:
        try:
            await self._follow_on()
        except Exception as error:
            # A fault of our own, or of a receiver: told by `close`, and until then no window may be believed.
            self._break(f"the follower failed: {error!r}")
            raise

    async def _follow_on(self) -> None:
        since = self._clock() - self._margin
        while True:
            try:
                held = await self._observer.held()
                self._asked_early = {_short(node) for node, flows in held.items() if flows < _TOO_FEW}
                reason = await self._read(since)
            except FlowsUnavailableError as failure:
                reason = failure.message
                if self._begun is not None and not self._begun.done():
                    self._begun.set_exception(failure)
                    return
                if isinstance(failure, ConnectionClosedError):
                    self._break(reason)
                    return
            if reason:
                self._break(reason)
                await asyncio.sleep(self._retry)
            if self._last_time:
                since = self._last_time - self._margin

    async def _read(self, since: int) -> str:
        """One stream to its end; why it ended, or '' where it is to be asked for again. FlowsUnavailableError when it breaks."""
        request = flows_request(follow=True, since=since)
        request.whitelist.extend(self._whitelist)
        ask(request)
        call = self._observer.stream(request)
        metadata = asyncio.create_task(self._await_metadata(call))
        unheard = asyncio.create_task(self._until_unheard(call))
        try:
            async for response in call:
                self._begin()
                for one in unpack(response):
                    self._dispatch(one)
        except grpc.aio.AioRpcError as error:
            raise unavailable(self._observer.target, error) from error
        except asyncio.CancelledError:
            if self._cancelled():
                raise
            if unheard.done() and not unheard.cancelled():
                return ""
            # gRPC's way to say that the channel was closed under us; nothing comes any more.
            raise ConnectionClosedError("the connection was closed") from None
        else:
            return f"the Observer at {self._observer.target} ended the stream"
        finally:
            metadata.cancel()
            unheard.cancel()
            call.cancel()

    async def _until_unheard(self, call: Any) -> None:
        """Until a node that was asked too early has flows and still is not heard, which another request will be answered with."""
        before: set[str] = set()
        while True:
            await asyncio.sleep(_LOOK)
            if self._asked_early:
                with suppress(FlowsUnavailableError):
                    held = await self._observer.held()
                    silent = self._asked_early & {_short(node) for node, flows in held.items() if flows >= _TOO_FEW}
                    if silent & before:  # since half a second: not on their way
                        break
                    before = silent
        call.cancel()

    @staticmethod
    def _cancelled() -> bool:
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    async def _await_metadata(self, call: Any) -> None:
        with suppress(grpc.aio.AioRpcError):
            await call.initial_metadata()
            if not call.done():
                self._begin()

    def _begin(self) -> None:
        if self._begun is not None and not self._begun.done():
            self._begun.set_result(None)
        if self.broken is not None:
            self.broken = None
            self._gaps[-1].end = self._clock()
            self._back.set()

    def _break(self, reason: str) -> None:
        if self.broken is None:
            # What was on its way when the stream broke may be lost as well: the gap begins with the last thing we know of.
            self._gaps.append(_Gap(reason, min(self._last_time or self._clock(), self._clock())))
            self._counted()
            self._back.clear()
        self.broken = reason

    def _dispatch(self, response: observer_pb2.GetFlowsResponse) -> None:
        if response.HasField("flow"):
            self._flow(response.flow)
        elif response.HasField("lost_events"):
            self._losses(response)
        elif response.HasField("node_status"):
            self._nodes(response.node_status)

    def _flow(self, message: flow_pb2.Flow) -> None:
        self.received += 1
        self._last_time = time_of(message.time)
        if self._asked_early:
            self._asked_early -= {_short(message.node_name), ""}
        for key in raw_keys(message):
            those = self._registrations.get(key)
            flow = flow_of(message) if those else None
            # Everybody gets it: two probes may share a source, and only they know their destinations.
            claims = [registration.receive(flow) for registration in tuple(those)] if those and flow is not None else []
            if not any(claims):
                self._backlog.add(key, message)
        if self._expected:
            self._counted()

    def _losses(self, response: observer_pb2.GetFlowsResponse) -> None:
        lost = lost_of(response.lost_events, response.node_name)
        if lost.source == RING_BUFFER:
            self._overwritten += lost.count
            self._counted()
        if not lost.first or not lost.last:
            # Older agents do not say when. Lost since the last thing that we know of, noticed just now; a wider guess is the honest one.
            now = self._clock()
            at = max(now, time_of(response.time))
            lost = LostEvents(lost.count, lost.source, lost.first or (self._last_time or now) - self._margin, lost.last or at, lost.node)
        self._lost.append(lost)

    def _nodes(self, status: relay_pb2.NodeStatusEvent) -> None:
        now = self._clock()
        for node in status.node_names:
            if status.state_change == relay_pb2.NODE_CONNECTED:
                gap = self._down.pop(node, None)
                if gap is not None:
                    self._asked_early.add(_short(node))
                    self._lost.append(LostEvents(0, f"{NODE_UNAVAILABLE}: {gap.reason}", gap.begin, now, node))
            elif status.state_change in {relay_pb2.NODE_UNAVAILABLE, relay_pb2.NODE_ERROR}:
                self._down.setdefault(node, _Gap(status.message or "no reason given", now))
            elif status.state_change == relay_pb2.NODE_GONE:
                self._down.pop(node, None)


def _short(node: str) -> str:
    """A node's name without its cluster, which not everybody says. '' stands for an Observer that knows no nodes."""
    return node.rpartition("/")[2]


def raw_keys(message: flow_pb2.Flow) -> tuple[FlowKey, ...]:
    """As `match.forward` and `match.flow_key`, on the message itself: most flows are nobody's, and converting costs ten times as much."""
    l4 = message.l4
    kind = l4.WhichOneof("protocol")
    reply = message.is_reply.value
    if reply and not message.HasField("l7"):
        return ()
    if kind in _PORTS:
        part: Any = getattr(l4, kind)
        request: FlowKey = (_PORTS[kind], canonical(message.IP.source), part.source_port, "", 0)
        if not reply:
            return (request,)
        return (request, (_PORTS[kind], canonical(message.IP.destination), part.destination_port, "", 0))
    if kind in _TYPES:
        five = five_tuple_of(message)
        return () if five is None else ((_TYPES[kind], canonical(five.source), 0, canonical(five.destination), five.destination_port),)
    return ()
