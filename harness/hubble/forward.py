"""A TCP address for an Observer on a unix socket: bytes through, both ways. For a lab, whose process has no network but its own, so
that whoever started it listens in its stead. Knows nothing of gRPC."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from harness.errors import ClusterError

_CHUNK = 1 << 16


@dataclass(slots=True)
class Forwarder:
    """A running forwarder. `address` is where it listens, the port chosen where 0 was asked for."""

    address: str
    _server: asyncio.Server
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    async def close(self) -> None:
        """Stop listening and end every connection. Idempotent."""
        self._server.close()
        for connection in tuple(self._connections):
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        await self._server.wait_closed()


async def forward(listen: str, path: str) -> Forwarder:
    """Listen on `listen` (`host:port`, `[::1]:0`) for the Observer at the unix socket `path`. Raises ClusterError where the address
    cannot be had."""
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            connections.add(task)
            task.add_done_callback(connections.discard)
        with suppress(OSError, asyncio.CancelledError):
            await _join(reader, writer, path)
        writer.close()

    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        server = await asyncio.start_server(accept, host, int(port))
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"flows cannot be served on {listen}: {error}", hint="Pass another --hubble-listen address, or end what uses this one."
        ) from error
    bound = server.sockets[0].getsockname()[1]
    return Forwarder(f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}", server, connections)


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    inner_reader, inner_writer = await asyncio.open_unix_connection(path)
    pumps = [asyncio.create_task(_pump(reader, inner_writer)), asyncio.create_task(_pump(inner_reader, writer))]
    try:
        # HTTP/2 has no half-closed connections: either end's end is the end of both.
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)
        inner_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
