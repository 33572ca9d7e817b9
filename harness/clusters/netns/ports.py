"""Which port a client sends from: never twice the same towards one target in a run, so that neither the kernel's connection table nor a
flow can take one probe for another. Pure; knows nothing of sockets."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TypeAlias

FIRST_PORT, LAST_PORT = 20000, 60999

Target: TypeAlias = tuple[str, int]


class SourcePorts:
    """The ports of all clients. A client is whatever has ports of its own: a namespace and a protocol."""

    def __init__(self, first: int = FIRST_PORT, last: int = LAST_PORT) -> None:
        self._first = first
        self._last = last
        self._next: dict[Hashable, int] = {}
        self._used: dict[tuple[Hashable, Target], set[int]] = {}

    def offer(self, client: Hashable, target: Target) -> Iterator[int]:
        """Ports to try, one after the other until one is free; what was offered counts as used. Ends when the target has seen them all.

        The client's ports take turns whatever their target: the longer one rests, the surer is everybody that it is free.
        """
        used = self._used.setdefault((client, target), set())
        for _ in range(self._first, self._last + 1):
            port = self._next.get(client, self._first)
            self._next[client] = port + 1 if port < self._last else self._first
            # From a port to itself, TCP would connect a socket to itself.
            if port not in used and port != target[1]:
                used.add(port)
                yield port
