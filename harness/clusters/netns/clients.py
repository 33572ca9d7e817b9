"""The clients of a lab: probes as sockets opened inside pods and hosts, thousands at a time. Not what they say (`speech`) and not
what their results mean."""

from __future__ import annotations

import asyncio
import errno
import heapq
import os
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from harness.clusters.netns import speech
from harness.clusters.netns.grpc_ends import GrpcEnds
from harness.clusters.netns.kernel import Namespace
from harness.clusters.netns.reactor import READ, WRITE, Reactor
from harness.clusters.netns.sockets import ECHO, ClientSockets
from harness.clusters.netns.tls import Tls
from harness.errors import ClusterError
from harness.model.flow import FiveTuple
from harness.model.probe import Ending, Probe, ProbeResult, Site
from harness.model.traffic import Family, Protocol, RequestKind
from harness.probes.agent import AgentEvent, Bound

_START_AT_ONCE = 24
_ENDINGS: Mapping[int, Ending] = {
    errno.ECONNREFUSED: Ending.REFUSED,
    errno.ECONNRESET: Ending.RESET,
    errno.EPIPE: Ending.RESET,
    errno.ETIMEDOUT: Ending.TIMEOUT,
    errno.ENETUNREACH: Ending.UNREACHABLE,
    errno.EHOSTUNREACH: Ending.UNREACHABLE,
    errno.EACCES: Ending.UNREACHABLE,
    errno.EPERM: Ending.UNREACHABLE,
    errno.ENOPROTOOPT: Ending.UNREACHABLE,
    errno.EPROTO: Ending.UNREACHABLE,
}


class _Running:
    """A probe under way."""

    __slots__ = ("buffer", "five", "hello", "probe", "sent", "sock", "started", "talk", "tls")

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.sock: socket.SocketType | None = None
        self.five: FiveTuple | None = None
        self.started = time.time_ns()
        self.sent = False
        self.buffer = b""
        self.tls: Tls | None = None
        self.hello = b""
        self.talk: asyncio.Task[None] | None = None


class Clients:
    """Sends probes, as many at once as `limit`. Events go to `emit`, every Bound before its packets leave."""

    def __init__(
        self,
        reactor: Reactor,
        place: Callable[[Site, Family], tuple[Namespace, str]],
        seen: dict[str, str],
        grpc: GrpcEnds,
        emit: Callable[[AgentEvent], None],
        *,
        limit: int,
    ) -> None:
        """`place` finds a site's namespace and address (ClusterError where there is none), `seen` are the nonces that reached a server,
        and its name."""
        self._reactor = reactor
        self._seen = seen
        self._grpc = grpc
        self._emit = emit
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Probe] = deque()
        self._running: dict[int, _Running] = {}
        self._by_nonce: dict[str, int] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._pumping = False
        self._sockets = ClientSockets(place)

    def run(self, probes: Iterable[Probe]) -> None:
        self._waiting.extend(probes)
        self._pump_soon()

    def stop(self, probe_id: int) -> None:
        """End a probe now; one that is not under way any more is none of our business."""
        # Whatever reached a server in the grace counts, read or not.
        self._reactor.drain()
        running = self._running.get(probe_id)
        if running is not None:
            self._finish(running, Ending.STOPPED)

    def saw(self, nonce: str, server: str) -> None:
        """A server that gives no answer has seen the nonce: for its probe, that is the answer."""
        running = self._running.get(self._by_nonce.get(nonce, -1))
        if running is not None and running.probe.serve == "sink":
            self._finish(running, Ending.ANSWERED, speech.Said(server, nonce))

    def clear(self) -> None:
        """Forget everything that is under way, without results."""
        self._waiting.clear()
        for running in self._running.values():
            self._close(running)
        self._running.clear()
        self._by_nonce.clear()
        self._deadlines.clear()

    # Starting. A few at a time, so that answers and the kernel's log are read in between.

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        started: list[_Running] = []
        for _ in range(_START_AT_ONCE):
            if not self._waiting or len(self._running) >= self._limit:
                break
            running = self._start(self._waiting.popleft())
            if running is not None:
                started.append(running)
        # The packets are there already: let the servers answer, and most probes are over before anybody had to wait for them.
        self._reactor.poll()
        for running in started:
            if running.sent:
                self._ready(running)
            if running.probe.id in self._running:
                self._watch(running)
        if self._waiting and len(self._running) < self._limit:
            self._pump_soon()

    def _start(self, probe: Probe) -> _Running | None:
        """A probe whose first packet is out; None where it is over already."""
        running = _Running(probe)
        self._running[probe.id] = running
        self._by_nonce[probe.nonce] = probe.id
        now = self._loop.time()
        heapq.heappush(self._deadlines, (now + probe.timeout, probe.id))
        if self._timer is None or self._timer.when() > now + probe.timeout:
            self._set_timer()
        if speech.speaks(probe) is RequestKind.TLS:
            running.tls = Tls(server=False, name=probe.request.name if probe.request else "")
            running.tls.say(speech.request(probe))
            running.hello = running.tls.take()
        try:
            running.sock = sock = self._bound(running)
            with suppress(BlockingIOError):
                sock.connect((probe.address, probe.port if probe.protocol.has_ports else 0))
            # Between two namespaces of one machine the handshake is mostly over by now.
            running.sent = self._send(running)
        except OSError as failure:
            self._failed(running, failure)
        except ClusterError as failure:
            self._finish(running, Ending.ERROR, detail=failure.message)
        else:
            return running
        return None

    def _watch(self, running: _Running) -> None:
        sock = running.sock
        if running.talk is not None:
            return
        assert sock is not None  # noqa: S101 -- it is under way
        self._reactor.watch(sock.fileno(), READ if running.sent else WRITE, lambda: self._ready(running))

    def _bound(self, running: _Running) -> socket.SocketType:
        """The client's socket; tells what it is bound to."""
        sock, running.five = self._sockets.open(running.probe)
        running.started = time.time_ns()
        self._emit(Bound(running.probe.id, running.five, running.started))
        return sock

    # Going on

    def _send(self, running: _Running) -> bool:
        """Whether the socket took the message; it does not before it is connected."""
        sock = running.sock
        assert sock is not None  # noqa: S101 -- it was bound
        if speech.speaks(running.probe) is RequestKind.GRPC:
            return self._call(running, sock)
        message = speech.request(running.probe)
        if running.tls is not None:
            message = running.hello
        if running.probe.protocol in ECHO:
            message = struct.pack("!BBHHH", ECHO[running.probe.protocol], 0, 0, 0, 1) + message
        try:
            sock.send(message)
        except BlockingIOError:
            return False
        return True

    def _call(self, running: _Running, sock: socket.SocketType) -> bool:
        """As `_send`, by grpcio."""
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        try:
            sock.getpeername()
        except OSError:
            return False
        self._reactor.release(sock.fileno())

        async def call() -> None:
            said = await self._grpc.call(sock, running.probe)
            if said is None:
                self._finish(running, Ending.RESET, detail="the server closed the connection without an answer")
            else:
                self._finish(running, Ending.ANSWERED, said)

        running.talk = self._grpc.begin(call())
        return True

    def _ready(self, running: _Running) -> None:
        sock = running.sock
        if sock is None or running.talk is not None or running.probe.id not in self._running:
            return
        try:
            if not running.sent:
                running.sent = self._send(running)
                if running.sent and running.talk is None:
                    self._reactor.change(sock.fileno(), READ)
                return
            data = sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as failure:
            self._failed(running, failure)
            return
        self._received(running, data)

    def _received(self, running: _Running, data: bytes) -> None:
        probe = running.probe
        if probe.protocol in ECHO:
            # A kernel answers pings, and it has no name.
            said = speech.Said(nonce=data[8:].decode(errors="replace"))
            if said.nonce == probe.nonce:
                self._finish(running, Ending.ANSWERED, said, saw=True)
            return
        if not data and probe.protocol is not Protocol.UDP:
            self._finish(running, Ending.RESET, detail="the server closed the connection without an answer")
            return
        try:
            running.buffer += self._opened(running, data)
        except ssl.SSLError as failure:
            self._finish(running, Ending.RESET, detail=f"no TLS: {failure.reason or failure}")
            return
        except OSError as failure:
            self._failed(running, failure)
            return
        named = speech.lookup(probe) is not None
        got = speech.looked_up(running.buffer, probe.protocol) if named else speech.answered(running.buffer)
        if got is not None:
            self._finish(running, Ending.ANSWERED, got)

    @staticmethod
    def _opened(running: _Running, data: bytes) -> bytes:
        """What was said, where it was said in TLS too."""
        if running.tls is None or running.sock is None:
            return data
        text = running.tls.feed(data)
        if more := running.tls.take():
            running.sock.send(more)
        return text

    # Ending

    def _failed(self, running: _Running, failure: OSError) -> None:
        ending = _ENDINGS.get(failure.errno or 0, Ending.ERROR)
        detail = "" if ending in (Ending.REFUSED, Ending.RESET) else (failure.strerror or str(failure))
        self._finish(running, ending, detail=detail)

    def _finish(self, running: _Running, ending: Ending, said: speech.Said | None = None, detail: str = "", *, saw: bool = False) -> None:
        probe = running.probe
        if self._running.pop(probe.id, None) is None:
            return
        self._by_nonce.pop(probe.nonce, None)
        self._close(running)
        server = self._seen.pop(probe.nonce, None)
        self._emit(
            ProbeResult(
                id=probe.id,
                ending=ending,
                started=running.started,
                ended=time.time_ns(),
                five_tuple=running.five,
                server=said.server if said else "",
                nonce=said.nonce if said else "",
                status=said.status if said else None,
                server_saw=saw or (server is not None and (not probe.expected_servers or server in probe.expected_servers)),
                detail=detail,
            )
        )
        if self._waiting:
            self._pump_soon()

    def _close(self, running: _Running) -> None:
        if running.talk is not None:
            # The socket is its own by now.
            running.talk.cancel()
        elif running.sock is not None:
            self._reactor.forget(running.sock.fileno())
            running.sock.close()

    # One timer for all

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._deadlines and self._deadlines[0][1] not in self._running:
            heapq.heappop(self._deadlines)
        if self._deadlines:
            self._timer = self._loop.call_at(self._deadlines[0][0], self._expire)

    def _expire(self) -> None:
        self._timer = None
        # An answer that has come is no time-out, though a busy machine did not let us read it (or the server write it) before.
        self._reactor.drain()
        now = self._loop.time()
        while self._deadlines and self._deadlines[0][0] <= now:
            running = self._running.get(heapq.heappop(self._deadlines)[1])
            if running is not None:
                self._finish(running, Ending.TIMEOUT)
        self._set_timer()
