"""The DNS proxies of a lab's nodes: answer REFUSED to what no rule allows, pass on the rest, and tell what was answered before the client
hears of it. Decides by the rules of the proxy port that a question came to; what is learned of answers is others' affair.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

from msgspec import Struct

from harness.clusters.netns.dns import message, sockets
from harness.clusters.netns.dns.message import Message
from harness.clusters.netns.dns.sockets import End
from harness.clusters.netns.kernel import Namespace
from harness.clusters.netns.redirect import ProxyPort
from harness.errors import ClusterError
from harness.policy.l7 import name_allowed

_PATIENCE = 5.0
"""Seconds for a server's answer, and for a client's next question over TCP."""
_ANY = ("0.0.0.0", "::")  # noqa: S104 -- in a namespace of the lab's own
_LONGEST = 65535


class Heard(Struct, frozen=True):
    """A question or an answer that a node's proxy heard, between the client and the server that it meant. `ns` is how long the answer took."""

    node: str
    port: ProxyPort
    tcp: bool
    client: End
    server: End
    said: Message
    denied: bool = False
    ns: int = 0


class DnsProxies:
    """One proxy for each node that has a port. Runs on the lab's own loop, so an answer waits for no other process."""

    def __init__(self, heard: Callable[[Heard], Awaitable[None]], *, ipv6: bool) -> None:
        """`heard` is awaited for each question, and for each answer before its client has it; ClusterError there, and it never does."""
        self._heard = heard
        self._addresses = _ANY if ipv6 else _ANY[:1]
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[tuple[str, int], list[socket.socket]] = {}
        self._talks: dict[asyncio.Task[None], str] = {}
        """By the node whose proxy it is."""
        self._killed: set[str] = set()

    @property
    def nodes(self) -> frozenset[str]:
        """Where there is a proxy."""
        return frozenset(node for node, _ in self._sockets)

    def serve(self, node: str, namespace: Namespace, ports: Iterable[ProxyPort]) -> None:
        """Have these ports on a node, beside those that it has. Raises ClusterError where one cannot be had."""
        self._killed.discard(node)
        for port in ports:
            if (node, port.id) in self._sockets:
                continue
            opened = self._sockets[node, port.id] = []
            try:
                for address in self._addresses:
                    datagrams = sockets.listening(namespace, address, port.number, socket.SOCK_DGRAM)
                    opened.append(datagrams)
                    self._loop.add_reader(datagrams.fileno(), self._datagrams, node, namespace, port, datagrams)
                    listener = sockets.listening(namespace, address, port.number, socket.SOCK_STREAM)
                    opened.append(listener)
                    self._loop.add_reader(listener.fileno(), self._connections, node, namespace, port, listener)
            except OSError as error:
                self._close(node, port.id)
                raise ClusterError(f"node {node} cannot have a DNS proxy on port {port.number}: {error.strerror or error}") from error

    def check(self) -> None:
        """Raises ClusterError where a proxy is dead that is needed."""
        if self._killed:
            raise ClusterError(f"the DNS proxy of node {', '.join(sorted(self._killed))} is dead")

    def kill(self, node: str) -> None:
        """A node's proxy dies, on purpose, with what it was about to answer."""
        for key in [key for key in self._sockets if key[0] == node]:
            self._close(*key)
        for task in [task for task, of in self._talks.items() if of == node]:
            task.cancel()
        self._killed.add(node)

    def close(self) -> None:
        """End them all."""
        for key in list(self._sockets):
            self._close(*key)
        for task in self._talks:
            task.cancel()
        self._killed.clear()

    def _close(self, node: str, port: int) -> None:
        for sock in self._sockets.pop((node, port)):
            self._loop.remove_reader(sock.fileno())
            sock.close()

    def _begin(self, node: str, talk: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(talk)
        self._talks[task] = node
        task.add_done_callback(self._talks.pop)

    # One question

    async def _allowed(self, heard: Heard) -> bool:
        """Whether a question may pass; tells of it."""
        allowed = name_allowed(heard.port.rules, heard.said.name)
        await self._heard(Heard(heard.node, heard.port, heard.tcp, heard.client, heard.server, heard.said, denied=not allowed))
        return allowed

    async def _answered(self, heard: Heard, data: bytes, began: int) -> bool:
        """Tells of an answer. Whether it is one to this question, and so the client's."""
        said = message.read(data)
        if said is None or not said.response or said.name.lower() != heard.said.name.lower():
            return False
        await self._heard(Heard(heard.node, heard.port, heard.tcp, heard.client, heard.server, said, ns=time.monotonic_ns() - began))
        return True

    def _onwards(self, namespace: Namespace, heard: Heard) -> socket.socket:
        """A socket that continues a client's talk: from its address, to the server's with the client's port, which `redirect` turns back."""
        kind = socket.SOCK_STREAM if heard.tcp else socket.SOCK_DGRAM
        sock = sockets.made(namespace, heard.client[0], kind, heard.port.mark)
        try:
            sock.bind((heard.client[0], 0))
            with suppress(BlockingIOError):
                sock.connect((heard.server[0], heard.client[1]))
        except OSError:
            sock.close()
            raise
        return sock

    # Over UDP

    def _datagrams(self, node: str, namespace: Namespace, port: ProxyPort, sock: socket.socket) -> None:
        with suppress(OSError):
            while True:
                got = sockets.received(sock)
                if got is not None:
                    data, client, server = got
                    asked = message.read(data)
                    if asked is not None and not asked.response:
                        self._begin(node, self._datagram(namespace, data, Heard(node, port, False, client, server, asked)))

    async def _datagram(self, namespace: Namespace, data: bytes, heard: Heard) -> None:
        if not await self._allowed(heard):
            sockets.send_from(namespace, heard.server, heard.client, message.refused(data))
            return
        began = time.monotonic_ns()
        with suppress(OSError, TimeoutError, ClusterError):
            with self._onwards(namespace, heard) as sock:
                await self._loop.sock_sendall(sock, data)
                async with asyncio.timeout(_PATIENCE):
                    answer = await self._loop.sock_recv(sock, _LONGEST)
                    while not await self._answered(heard, answer, began):
                        answer = await self._loop.sock_recv(sock, _LONGEST)
            sockets.send_from(namespace, heard.server, heard.client, answer)

    # Over TCP

    def _connections(self, node: str, namespace: Namespace, port: ProxyPort, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                sock, client = listener.accept()
                sock.setblocking(False)
                self._begin(node, self._connection(node, namespace, port, sock, client[:2]))

    async def _connection(self, node: str, namespace: Namespace, port: ProxyPort, client: socket.socket, end: End) -> None:
        """Questions one after the other, until the client ends or says what is none."""
        onwards: socket.socket | None = None
        try:
            with suppress(OSError, TimeoutError, ClusterError):
                server: End = client.getsockname()[:2]
                rest = b""
                while True:
                    data, rest = await self._message(client, rest)
                    asked = message.read(data)
                    if asked is None or asked.response:
                        return
                    heard = Heard(node, port, True, end, server, asked)
                    if not await self._allowed(heard):
                        await self._loop.sock_sendall(client, message.framed(message.refused(data)))
                        continue
                    began = time.monotonic_ns()
                    if onwards is None:
                        onwards = self._onwards(namespace, heard)
                    await self._loop.sock_sendall(onwards, message.framed(data))
                    answer, _ = await self._message(onwards, b"")
                    if not await self._answered(heard, answer, began):
                        return
                    await self._loop.sock_sendall(client, message.framed(answer))
        finally:
            client.close()
            if onwards is not None:
                onwards.close()

    async def _message(self, sock: socket.socket, buffer: bytes) -> tuple[bytes, bytes]:
        """The next whole message, and what follows it. ConnectionError at the end, TimeoutError where none comes."""
        async with asyncio.timeout(_PATIENCE):
            while True:
                whole, rest = message.unframed(buffer)
                if whole is not None:
                    return whole, rest
                more = await self._loop.sock_recv(sock, _LONGEST)
                if not more:
                    raise ConnectionResetError
                buffer += more
