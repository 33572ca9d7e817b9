"""A real server and client on a unix socket for the tests of harness.hubble."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from harness.hubble.client import Observer
from harness.hubble.server import FlowServer, FlowStore, serve
from harness.model.flow import FiveTuple, Flow, FlowEndpoint, FlowVerdict
from harness.model.traffic import Direction, Protocol

_TIMES = count(1)


def make_flow(port: int = 40000, **changes: Any) -> Flow:
    """A forwarded TCP flow at the target's ingress; times rise from call to call."""
    values: dict[str, Any] = {
        "time": next(_TIMES),
        "verdict": FlowVerdict.FORWARDED,
        "five_tuple": FiveTuple(Protocol.TCP, "10.0.0.1", port, "10.0.0.2", 8080),
        "direction": Direction.INGRESS,
        "source": FlowEndpoint(300, "shop", "web", ("k8s:app=web",)),
        "destination": FlowEndpoint(301, "shop", "db", ("k8s:app=db",)),
        "event_type": 5,
        "is_reply": False,
        "node": "default/a",
    }
    return Flow(**values | changes)


def now_flow(port: int = 40000, **changes: Any) -> Flow:
    return make_flow(port, **{"time": time.time_ns()} | changes)


@asynccontextmanager
async def serving(folder: Path, capacity: int = 1024, **options: Any) -> AsyncIterator[tuple[FlowStore, FlowServer]]:
    store = FlowStore(capacity)
    server = await serve(store, [f"unix://{folder}/hubble.sock"], **options)
    try:
        yield store, server
    finally:
        await server.close()


@asynccontextmanager
async def observing(folder: Path, capacity: int = 1024, **options: Any) -> AsyncIterator[tuple[FlowStore, Observer]]:
    async with serving(folder, capacity, **options) as (store, server), await Observer.connect(server.addresses[0]) as observer:
        yield store, observer


async def until(condition: Callable[[], object], within: float = 10.0) -> None:
    """Until the condition holds; fails when it takes too long."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110  # what is waited for is a server's and a client's state, which raise no event
            await asyncio.sleep(0.001)
