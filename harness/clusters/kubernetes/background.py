"""The one event loop of this process's clusters, in a thread that never ends; and the way to it from synchronous code."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

_T = TypeVar("_T")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="harness kubernetes", daemon=True).start()
    return loop


def wait_for(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on the loop and return its result. It is cancelled where whoever waits for it is interrupted."""
    running = asyncio.run_coroutine_threadsafe(coroutine, _loop())
    try:
        return running.result()
    finally:
        running.cancel()


@contextmanager
def meanwhile(coroutine: Coroutine[Any, Any, object]) -> Iterator[None]:
    """Run a coroutine on the loop beside the block, which ends when both have. Where the block raises it is cancelled."""
    running = asyncio.run_coroutine_threadsafe(coroutine, _loop())
    try:
        yield
        running.result()
    finally:
        running.cancel()


def iterate(items: AsyncIterator[_T]) -> Iterator[_T]:
    """An asynchronous iterator, item by item, as each comes. Ends it when the reader loses interest."""
    ready: queue.SimpleQueue[tuple[_T | None, BaseException | None, bool]] = queue.SimpleQueue()

    async def read() -> None:
        try:
            async for item in items:
                ready.put((item, None, False))
        except BaseException as error:  # noqa: BLE001 -- raised again where the items are read
            ready.put((None, error, True))
        else:
            ready.put((None, None, True))
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    reading = asyncio.run_coroutine_threadsafe(read(), _loop())
    try:
        while True:
            item, error, over = ready.get()
            if error is not None:
                raise error
            if over:
                return
            yield item  # type: ignore[misc]  # an item, since neither error nor end
    finally:
        reading.cancel()
