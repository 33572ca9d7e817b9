"""The servers of a lab: sockets opened inside pods and hosts, all answered by one loop. Not what they say: that is `speech`."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from harness.clusters.netns import speech, tls
from harness.clusters.netns.dns import message
from harness.clusters.netns.dns.message import Answer, Zone
from harness.clusters.netns.grpc_ends import PREFACE, GrpcEnds
from harness.clusters.netns.kernel import Namespace
from harness.clusters.netns.reactor import READ, Reactor
from harness.clusters.netns.tls import Tls
from harness.errors import ClusterError
from harness.model.traffic import Protocol

_BACKLOG = 1024
_ACCEPT_AT_ONCE = 64
_LONGEST = 65536
_GRPC = ("auto", "grpc")
"""What is served where HTTP/2 is understood."""
_HTTP = ("auto", "http", "tls")
"""What is served where HTTP is understood."""


class Served(Struct, frozen=True):
    """One served port. `serve` is one of speech.SERVED."""

    name: str
    address: str
    protocol: Protocol
    port: int
    serve: str = "auto"


class Servers:
    """All servers. `seen` maps the nonces that reached one to that server's name, until somebody takes them out."""

    def __init__(self, reactor: Reactor, saw: Callable[[str, str], None], folder: Path) -> None:
        """`folder` is for sockets. `saw` is called with each nonce that reaches a server that gives no answer, and with the server's name."""
        self._reactor = reactor
        self._saw = saw
        self._sockets: dict[Served, socket.SocketType] = {}
        self._open: set[_Connection] = set()
        self.seen: dict[str, str] = {}
        self.names: Zone = _nobody
        """What those that serve DNS know."""
        self.grpc = GrpcEnds(folder, self.seen)
        self._talks: dict[asyncio.Task[None], Served] = {}

    def __contains__(self, served: Served) -> bool:
        return served in self._sockets

    def open(self, served: Served, namespace: Namespace) -> None:
        """Serve. Raises ClusterError where the port cannot be had."""
        if served.serve not in speech.SERVED:
            raise ClusterError(f"{served.name}: the lab cannot serve {served.serve!r} yet", hint=f"It serves {', '.join(speech.SERVED)}.")
        namespace.enter()
        family = socket.AF_INET6 if ":" in served.address else socket.AF_INET
        try:
            sock = _socket(family, served.protocol)
            try:
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if served.protocol is not Protocol.UDP:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((served.address, served.port))
                if served.protocol is not Protocol.UDP:
                    sock.listen(_BACKLOG)
                if served.protocol is Protocol.TCP:
                    # Accepted connections inherit it from one that listens: a request is acknowledged by its answer, not by a packet of its own.
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
            except OSError:
                sock.close()
                raise
        except OSError as error:
            raise ClusterError(
                f"{served.name} cannot serve {served.protocol} port {served.port} on {served.address}: {error.strerror or error}"
            ) from error
        self._sockets[served] = sock
        if served.protocol is Protocol.UDP:
            self._reactor.watch(sock.fileno(), READ, lambda: self._datagrams(sock, served))
        else:
            self._reactor.watch(sock.fileno(), READ, lambda: self._accept(sock, served))

    def close(self, which: Iterable[Served] | None = None) -> None:
        """Stop serving these, or everything; connections to them are reset."""
        for served in list(self._sockets if which is None else which):
            sock = self._sockets.pop(served, None)
            if sock is not None:
                self._reactor.forget(sock.fileno())
                sock.close()
                for connection in [each for each in self._open if each.served == served]:
                    connection.end()
                for task in [each for each, of in self._talks.items() if of == served]:
                    task.cancel()
        if which is None:
            self.seen.clear()

    def find(self, name: str, protocol: Protocol | None = None, port: int | None = None) -> list[Served]:
        """The served ports of one server, all or those asked for."""
        return [
            served
            for served in self._sockets
            if served.name == name and protocol in (None, served.protocol) and port in (None, served.port)
        ]

    def _accept(self, listener: socket.SocketType, served: Served) -> None:
        family, number = listener.family, listener.proto
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                fd, _ = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001 -- `accept` wraps it, for a tenth of a probe's time
            except BlockingIOError:
                return
            except OSError:
                continue  # reset before we came to it
            sock = socket.SocketType(family, socket.SOCK_STREAM, number, fd)
            connection = _Connection(sock, served, self)
            if not connection.read():
                self._open.add(connection)
                self._reactor.watch(sock.fileno(), READ, connection.ready)

    def _datagrams(self, sock: socket.SocketType, served: Served) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                data, client = sock.recvfrom(_LONGEST)
            except OSError:
                return
            if served.serve == "dns":
                resolved = message.resolved(data, self.names, served.name)
                if resolved is not None:
                    self.seen[resolved[0]] = served.name
                    with suppress(OSError):
                        sock.sendto(resolved[1], client)
                continue
            got = speech.heard(data, served.name, http=False, raw=True)
            if got is None:
                continue
            self.seen[got.nonce] = served.name
            if served.serve == "sink":
                self._saw(got.nonce, served.name)
            else:
                with suppress(OSError):
                    sock.sendto(got.answer, client)

    def _hand_over(self, connection: _Connection, said: bytes) -> None:
        """Let grpcio answer from here on."""
        self._reactor.release(connection.sock.fileno())
        self._open.discard(connection)
        task = self.grpc.begin(self.grpc.serve(connection.sock, said, connection.served.name))
        self._talks[task] = connection.served
        task.add_done_callback(self._talks.pop)

    def _ended(self, connection: _Connection) -> None:
        self._open.discard(connection)
        self._reactor.forget(connection.sock.fileno())


def _nobody(_name: str) -> Answer | None:
    """Knows no name."""
    return None


class _Connection:
    """One accepted connection. Most are answered and closed at once, and never come to the reactor."""

    __slots__ = ("_buffer", "_servers", "_tls", "served", "sock")

    def __init__(self, sock: socket.SocketType, served: Served, servers: Servers) -> None:
        self.sock = sock
        self.served = served
        self._servers = servers
        self._buffer = b""
        self._tls: Tls | None = None

    def ready(self) -> None:
        self.read()

    def read(self) -> bool:
        """Answer what is there. Whether that was the end of the connection."""
        try:
            data = self.sock.recv(_LONGEST, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data or len(self._buffer) > _LONGEST:
            return self.end()
        serve = self.served.serve
        if serve == "dns":
            self._buffer += data
            return self._resolve()
        try:
            self._buffer += self._opened(data, serve)
        except (ssl.SSLError, OSError):
            return self.end()
        if serve in _GRPC and self._tls is None and PREFACE.startswith(self._buffer[: len(PREFACE)]):
            if len(self._buffer) < len(PREFACE):
                return False
            self._servers._hand_over(self, self._buffer)  # noqa: SLF001 -- one class in two parts
            return True
        got = speech.heard(self._buffer, self.served.name, http=serve in _HTTP, raw=serve not in ("http", "grpc"))
        if got is None:
            return False
        self._buffer = b""
        self._servers.seen[got.nonce] = self.served.name
        if serve == "sink":
            self._servers._saw(got.nonce, self.served.name)  # noqa: SLF001 -- one class in two parts
            return False
        answer = got.answer
        if self._tls is not None:
            self._tls.say(answer)
            answer = self._tls.take()
        try:
            # The last answer leaves together with the end of the connection, in one packet.
            self.sock.send(answer, socket.MSG_DONTWAIT | (socket.MSG_MORE if got.last else 0))
        except OSError:
            return self.end()
        return self.end() if got.last else False

    def _resolve(self) -> bool:
        """Answer the questions that are there. Whether that was the end: no answer to what is no question, as of a resolver."""
        while True:
            asked, self._buffer = message.unframed(self._buffer)
            if asked is None:
                return False
            resolved = message.resolved(asked, self._servers.names, self.served.name)
            if resolved is None:
                return self.end()
            self._servers.seen[resolved[0]] = self.served.name
            try:
                self.sock.send(message.framed(resolved[1]), socket.MSG_DONTWAIT)
            except OSError:
                return self.end()

    def _opened(self, data: bytes, serve: str) -> bytes:
        """What was said, where it was said in TLS too."""
        if self._tls is None:
            if not (serve == "tls" or (serve == "auto" and not self._buffer and tls.is_hello(data))):
                return data
            self._tls = Tls(server=True)
        text = self._tls.feed(data)
        if more := self._tls.take():
            self.sock.send(more, socket.MSG_DONTWAIT)
        return text

    def end(self) -> bool:
        self._servers._ended(self)  # noqa: SLF001 -- one class in two parts
        self.sock.close()
        return True


def _socket(family: int, protocol: Protocol) -> socket.SocketType:
    """The bare socket: the class on top of it costs a tenth of a probe."""
    kind = socket.SOCK_DGRAM if protocol is Protocol.UDP else socket.SOCK_STREAM
    number = protocol.number if protocol is Protocol.SCTP else 0
    return socket.SocketType(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, number)
