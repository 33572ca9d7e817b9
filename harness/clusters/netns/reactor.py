"""Readiness of many short-lived sockets: one epoll inside the event loop's own. A probe's socket lives for 100 us, and asyncio's
`add_reader` alone would cost a fifth of that."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import TypeAlias

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
_ROUNDS = 200

Ready: TypeAlias = Callable[[], None]


class Reactor:
    """Calls back when a descriptor is ready. A call may come without reason (a number was reused): callbacks never block."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Ready] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self.poll)

    def watch(self, fd: int, events: int, ready: Ready) -> None:
        self._callbacks[fd] = ready
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Call it right before closing the descriptor: closing is what takes it out of the epoll."""
        self._callbacks.pop(fd, None)

    def release(self, fd: int) -> None:
        """Stop watching a descriptor that lives on."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._callbacks.clear()

    def drain(self) -> None:
        """Call back until nothing is ready any more: what has come is dealt with, however late we are. Bounded, lest a descriptor that
        stays ready holds up everything."""
        for _ in range(_ROUNDS):
            if not self.poll():
                return

    def poll(self) -> bool:
        """Call back for whatever is ready, and say if there was something. The loop does so by itself; call it to have that now."""
        events = self._epoll.poll(0, 128)
        for fd, _ in events:
            ready = self._callbacks.get(fd)
            if ready is not None:
                ready()
        return bool(events)
