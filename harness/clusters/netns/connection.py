"""This end of a lab's control socket: starts the lab, calls it, and hears of its probes and flows. On one event loop; `cluster` is for callers that have none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from msgspec import Struct

from harness.clusters.base import Observation
from harness.clusters.netns import launch
from harness.clusters.netns.launch import Process
from harness.clusters.netns.wire import Answer, Call, Decoder, Events, encode
from harness.clusters.observe import observe
from harness.errors import ClusterError
from harness.hubble.client import Observer
from harness.hubble.feed import FlowFeed
from harness.model.probe import Probe, ProbeResult
from harness.policy.options import DEFAULT_CILIUM
from harness.probes.agent import AgentEvent

_GRACE = 0.005
_SETTLE = 0.1
_START = 120.0
"""Only for a lab that hangs: one that dies is noticed at once, and one on a busy machine may take its time."""
_CATCH_UP = 30.0
_END = 3.0


class LabOptions(Struct, frozen=True):
    """`cilium` is the version that the lab claims; `flows`: whether flows are made and served; `worker` names it among those of a run.

    `pods` are made ready on each of two nodes at the start; more are made when a case needs them. `hubble_listen` (`host:port`) serves
    the flows on the machine's own network too, for `hubble observe --server`. Without `host_firewall`, policies of nodes select nothing, as
    in a cluster that does not have it on.
    """

    cilium: str = DEFAULT_CILIUM
    flows: bool = True
    worker: str = ""
    pods: int = 4
    hubble_listen: str = ""
    host_firewall: bool = True


class Connection(asyncio.Protocol):
    """Made by `open`. Calls raise ClusterError once the lab is gone."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.about: Mapping[str, Any] = {}
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder()
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._number = 0
        self._transport: asyncio.WriteTransport | None = None
        self._agents: set[_Agent] = set()
        self._observer: Observer | None = None
        self._feed: FlowFeed | None = None
        self._relay: asyncio.Server | None = None
        self._closed = False
        self._gone: ClusterError | None = None

    @classmethod
    async def open(cls, options: LabOptions) -> Connection:
        process = launch.launch(cilium=options.cilium, flows=options.flows, pods=options.pods, host_firewall=options.host_firewall)
        self = cls(process)
        try:
            ready = self._waiting[0] = self._loop.create_future()
            process.control.setblocking(False)
            await self._loop.create_connection(lambda: self, sock=process.control)
            try:
                answer = await asyncio.wait_for(ready, _START)
            except TimeoutError:
                said = process.tail()
                raise ClusterError(f"the lab was not ready after {_START:.0f} s" + (f"; it said:\n{said}" if said else "")) from None
            self.about = answer.get()
            if options.flows:
                self._observer = await Observer.connect(process.observer, within=_START)
                self._feed = FlowFeed(self._observer)
                await self._feed.start(within=_START)
                if options.hubble_listen:
                    self._relay = await self._listen(options.hubble_listen)
        except BaseException:
            await self.close()
            raise
        return self

    async def call(self, method: str, *arguments: Any) -> Any:
        if self._gone is not None or self._transport is None:
            raise self._gone or ClusterError("the lab is closed")
        self._number += 1
        answer = self._waiting[self._number] = self._loop.create_future()
        self._transport.write(encode(Call(self._number, method, arguments)))
        return (await answer).get()

    def tell(self, method: str, *arguments: Any) -> None:
        """A call without an answer."""
        if self._transport is not None:
            self._transport.write(encode(Call(0, method, arguments)))

    async def observe(self, plan: Sequence[Probe]) -> AsyncIterator[Observation]:
        agent = _Agent(self)
        self._agents.add(agent)
        try:
            async for observation in observe(agent, plan, self._feed, grace=_GRACE, settle=_SETTLE, caught_up=self._caught_up):
                yield observation
        finally:
            self._agents.discard(agent)

    async def _caught_up(self) -> None:
        """Until every flow of the packets sent so far is here."""
        if self._feed is not None:
            await self._feed.reach(await self.call("published"), within=_CATCH_UP)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._gone = self._gone or ClusterError("the lab is closed")
        if self._relay is not None:
            self._relay.close()
        if self._feed is not None:
            await self._feed.close()
        if self._observer is not None:
            await self._observer.close()
        if self._transport is not None:
            self._transport.close()
        # It ends when it reads the end of file. Polled, since at the interpreter's exit no new thread could wait for it.
        until = self._loop.time() + _END
        while self.process.popen.poll() is None and self._loop.time() < until:  # noqa: ASYNC110 -- a process has no event
            await asyncio.sleep(0.002)
        self.process.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 -- a stream socket's transport writes
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for message in self._decoder.feed(data):
            if isinstance(message, Events):
                for event in message.unpacked():
                    for agent in self._agents:
                        agent.receive(event)
            elif (waiting := self._waiting.pop(message.number, None)) is not None and not waiting.done():
                waiting.set_result(message)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if self._gone is None:
            self._gone = self.process.ended()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(self._gone)
        self._waiting.clear()
        for agent in self._agents:
            agent.broke(self._gone)

    # The Observer on the machine's own network

    async def _listen(self, address: str) -> asyncio.Server:
        host, _, port = address.rpartition(":")
        try:
            return await asyncio.start_server(self._relayed, host.strip("[]") or None, int(port))
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"flows cannot be served on {address}: {error}", hint="Pass another --hubble-listen address, or end what uses this one."
            ) from error

    async def _relayed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The lab's own network is not the machine's, so its TCP ports would be out of reach: bytes are carried to its unix socket."""
        with suppress(OSError):
            inner, outer = await asyncio.open_unix_connection(self.process.observer.removeprefix("unix://"))
            await asyncio.gather(_carry(reader, outer), _carry(inner, writer))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class _Agent:
    """Sends probes through the lab. One plan each."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._events: asyncio.Queue[AgentEvent | ClusterError] = asyncio.Queue()
        self._mine: set[int] = set()

    def receive(self, event: AgentEvent) -> None:
        if event.id in self._mine:
            self._events.put_nowait(event)

    def broke(self, error: ClusterError) -> None:
        self._events.put_nowait(error)

    async def run(self, probes: Sequence[Probe]) -> AsyncIterator[AgentEvent]:
        self._mine = {probe.id for probe in probes}
        left = set(self._mine)
        await self._connection.call("run", tuple(probes))
        try:
            while left:
                event = await self._events.get()
                if isinstance(event, ClusterError):
                    raise event
                if isinstance(event, ProbeResult):
                    left.discard(event.id)
                yield event
        finally:
            for each in left:
                self._connection.tell("stop", each)

    async def stop(self, probe_id: int) -> None:
        self._connection.tell("stop", probe_id)
