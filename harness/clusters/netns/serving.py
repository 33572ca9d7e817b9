"""The lab's event loop: calls come in over the control socket, answers and events go out, flows are served beside. Not what calls do."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import shutil
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.clusters.netns.lab import Lab
from harness.clusters.netns.wire import Answer, Call, Decoder, Events, encode
from harness.errors import HarnessError
from harness.hubble.server import FlowStore, serve
from harness.policy.options import Options
from harness.probes.agent import AgentEvent

_CALLS: Mapping[str, Callable[..., Any]] = {
    method.__name__: method
    for method in (
        Lab.about, Lab.apply, Lab.counters, Lab.fault_close, Lab.fault_discard_flows, Lab.fault_expire_names, Lab.fault_kill_dns_proxy, Lab.fault_kill_proxy, Lab.fault_lose_events, Lab.namespaces, Lab.prepare, Lab.proxies,
        Lab.published, Lab.release, Lab.ruleset, Lab.run, Lab.status, Lab.stop,
    )
}  # fmt: skip
"""What may be called from the other side."""


def run(settings: Mapping[str, Any]) -> None:
    """Until the other end of the control socket closes."""
    # Started by one process for one purpose: what was imported stays, and collecting in the middle of a thousand probes helps nobody.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    asyncio.run(_serve(settings))
    # One that broke leaves its last words there; who started it reads and removes them.
    shutil.rmtree(settings["folder"], ignore_errors=True)


async def _serve(settings: Mapping[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    broken: list[str] = []

    def broke(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A lab that is wrong inside must not go on as if it were right: it ends, and says why.
        if not broken:
            error = context.get("exception")
            broken.append("".join(traceback.format_exception(error)) if error else str({**context}))
            control.connection_lost(None)

    loop.set_exception_handler(broke)
    store = FlowStore() if settings["flows"] else None
    control = _Control()
    control.lab = lab = Lab(
        options=Options.of(settings["cilium"], host_firewall=settings["host_firewall"]),
        pods=settings["pods"],
        emit=control.emit,
        store=store,
        folder=Path(settings["folder"]),
    )
    server = None
    if store is not None:
        server = await serve(store, [f"unix://{settings['folder']}/hubble.sock"], nodes=["node-a", "node-b"])
    sock = socket.socket(fileno=settings["control"])
    sock.setblocking(False)
    await loop.create_connection(lambda: control, sock=sock)
    control.send(Answer(0, lab.about()))
    await control.closed
    if broken:
        # What is wrong inside cannot be trusted to end in order, and its noise would hide the reason.
        sys.stderr.write(broken[0])
        sys.stderr.flush()
        os._exit(1)
    await lab.hang_up()
    lab.close()
    if server is not None:
        await server.close()


class _Control(asyncio.Protocol):
    """This end of the control socket. Events of one turn of the loop go out together."""

    lab: Lab

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._decoder = Decoder()
        self._events: list[AgentEvent] = []
        self._transport: asyncio.WriteTransport | None = None
        self._waiting: set[asyncio.Future[Any]] = set()

    def emit(self, event: AgentEvent) -> None:
        if not self._events:
            self._loop.call_soon(self._flush)
        self._events.append(event)

    def _flush(self) -> None:
        events, self._events = self._events, []
        self.send(Events.of(events))

    def send(self, value: object) -> None:
        if self._transport is not None:
            self._transport.write(encode(value))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 -- a stream socket's transport writes
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for call in self._decoder.feed(data):
            self._call(call)

    def _call(self, call: Call) -> None:
        """Most calls are over when they return; one that waits for somebody else is answered when it is done."""
        try:
            value = _CALLS[call.method](self.lab, *call.arguments)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the one who called must hear of it
            self._answer(call, error=error)
            return
        if not inspect.isawaitable(value):
            self._answer(call, value)
            return
        task = asyncio.ensure_future(value)
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        task.add_done_callback(lambda task: self._done(call, task))

    def _done(self, call: Call, task: asyncio.Future[Any]) -> None:
        if not task.cancelled():
            error = task.exception()
            self._answer(call, None if error else task.result(), error)

    def _answer(self, call: Call, value: Any = None, error: BaseException | None = None) -> None:
        if isinstance(error, HarnessError):
            answer = Answer(call.number, error=(error.message, error.hint))
        elif error is not None:
            traceback.print_exception(error)
            answer = Answer(call.number, error=(f"the lab broke in {call.method!r}: {type(error).__name__}: {error}", None))
        else:
            answer = Answer(call.number, value)
        if call.number:
            self.send(answer)

    def connection_lost(self, _: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
