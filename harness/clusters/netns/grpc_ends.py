"""gRPC at both ends by grpcio itself. grpcio opens sockets wherever its threads happen to be, so it talks to unix sockets of the lab, and what
it says is carried to and from the sockets that the lab has opened inside pods."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from harness.clusters.netns.speech import Said, host
from harness.model.probe import BARE_GRPC, Probe

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What HTTP/2 begins with."""
_SERVER, _NONCE = "x-harness-server", "x-harness-nonce"
_CHUNK = 1 << 16


class GrpcEnds:
    """All gRPC servers and calls of a lab. `seen` gets the nonces that reached a server, and its name."""

    def __init__(self, folder: Path, seen: dict[str, str]) -> None:
        self._folder = folder
        self._seen = seen
        self._servers: dict[str, tuple[grpc.aio.Server, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def begin(self, talk: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a talk until it ends or is cancelled."""
        task = self._loop.create_task(talk)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def serve(self, sock: socket.SocketType, said: bytes, name: str) -> None:
        """Answer a connection, which has said this much, as the server of this name. Closes it in the end."""
        outer_reader, outer = await asyncio.open_connection(sock=_usable(sock))
        try:
            reader, writer = await asyncio.open_unix_connection(await self._server(name))
            writer.write(said)
            await asyncio.gather(_carry(outer_reader, writer), _carry(reader, outer))
        except OSError:
            pass  # whoever is at the other end has gone
        finally:
            outer.close()

    async def call(self, sock: socket.SocketType, probe: Probe) -> Said | None:
        """Make the call that a probe is to make, on its connected socket. None where the connection ended without an answer."""
        outer_reader, outer = await asyncio.open_connection(sock=_usable(sock))
        heard = False

        def note() -> None:
            nonlocal heard
            heard = True

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.gather(_carry(reader, outer), _carry(outer_reader, writer, note))

        path = self._folder / f"call-{probe.id}.sock"
        inner = await asyncio.start_unix_server(connected, str(path))
        authority = (probe.request.host if probe.request else "") or host(probe.address, probe.port).decode()
        channel = grpc.aio.insecure_channel(
            f"unix:{path}",
            options=(("grpc.default_authority", authority), ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)),
        )
        headers = probe.request.headers if probe.request else ()
        metadata = ((_NONCE, probe.nonce), *((name.lower(), value) for name, value in headers))
        try:
            call = channel.unary_unary(probe.request.path if probe.request else BARE_GRPC, None, None)(b"", metadata=metadata)
            await call
            answer = {str(key): str(value) for key, value in await call.initial_metadata()}
            return Said(answer.get(_SERVER, ""), answer.get(_NONCE, ""), 0)
        except grpc.aio.AioRpcError as error:
            status: int = error.code().value[0]
            return Said(status=status) if heard else None
        finally:
            await channel.close(None)
            inner.close()
            outer.close()
            path.unlink(missing_ok=True)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for server, _ in self._servers.values():
            await server.stop(None)

    async def _server(self, name: str) -> str:
        if name not in self._servers:
            path = str(self._folder / f"grpc-{len(self._servers)}.sock")
            server = grpc.aio.server()
            self._servers[name] = server, path
            server.add_generic_rpc_handlers((_Answers(name, self._seen),))
            server.add_insecure_port(f"unix:{path}")
            await server.start()
        return self._servers[name][1]


class _Answers(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # a generic in the stubs only
    """Answers any method with the server's name and the caller's nonce."""

    def __init__(self, name: str, seen: dict[str, str]) -> None:
        self._name = name
        self._seen = seen

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        nonce = next((str(value) for key, value in handler_call_details.invocation_metadata if key == _NONCE), "")

        async def answer(_: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            self._seen[nonce] = self._name
            await context.send_initial_metadata(((_SERVER, self._name), (_NONCE, nonce)))
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: Callable[[], None] | None = None) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            if note is not None:
                note()
            writer.write(data)
            await writer.drain()
    writer.close()


def _usable(sock: socket.SocketType) -> socket.socket:
    """The same socket, as asyncio wants it."""
    made = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
    made.setblocking(False)
    return made
