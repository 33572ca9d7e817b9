"""The lab's clients and servers by themselves, on this machine's loopback: what they make of a loop that comes late."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from pathlib import Path

import pytest

from harness.clusters.netns.clients import Clients
from harness.clusters.netns.kernel import Namespace
from harness.clusters.netns.reactor import Reactor
from harness.clusters.netns.servers import Served, Servers
from harness.model.probe import Ending, Probe, ProbeResult, Site
from harness.model.traffic import Family, Protocol
from harness.probes.agent import AgentEvent

LOOPBACK = "127.0.0.1"


class Here(Namespace):
    """Where the test is anyway."""

    def __init__(self) -> None:
        super().__init__(-1)

    def enter(self) -> None:
        pass


class Late(Reactor):
    """Finds nothing as long as it is told to: the kernel had no time yet to deliver what was sent."""

    late = False

    def poll(self) -> bool:
        return not self.late and super().poll()


async def exchange(*, late: bool, stop: bool = False, serve: str = "echo", protocol: Protocol = Protocol.TCP) -> ProbeResult:
    """One probe whose time is over at once, or that is stopped at once, before anybody has read what it sent."""
    loop = asyncio.get_running_loop()
    results: asyncio.Queue[ProbeResult] = asyncio.Queue()

    def emit(event: AgentEvent) -> None:
        if isinstance(event, ProbeResult):
            results.put_nowait(event)

    def saw(nonce: str, server: str) -> None:
        clients.saw(nonce, server)

    def place(_site: Site, _family: Family) -> tuple[Namespace, str]:
        return here, LOOPBACK

    reactor, here = Late(), Here()
    servers = Servers(reactor, saw, Path(tempfile.gettempdir()))
    clients = Clients(reactor, place, servers.seen, servers.grpc, emit, limit=10)
    served = Served("server", LOOPBACK, protocol, free_port(protocol), serve)
    try:
        servers.open(served, here)
        reactor.late = late
        site = Site("pod", "d/client")
        clients.run([Probe(1, site, protocol, Family.IPV4, LOOPBACK, served.port, "n1", 60.0 if stop else 0.0, ("server",), serve=serve)])
        # The first turn sends; what is due comes in the next.
        loop.call_soon(loop.call_soon, setattr, reactor, "late", False)
        if stop:
            loop.call_soon(loop.call_soon, clients.stop, 1)
        async with asyncio.timeout(10):
            return await results.get()
    finally:
        clients.clear()
        servers.close()
        reactor.close()


def free_port(protocol: Protocol) -> int:
    with socket.socket(type=socket.SOCK_DGRAM if protocol is Protocol.UDP else socket.SOCK_STREAM) as sock:
        sock.bind((LOOPBACK, 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_an_answer_that_has_come_is_no_time_out_however_late_it_is_read(protocol: Protocol) -> None:
    result = asyncio.run(exchange(late=True, protocol=protocol))
    assert (result.ending, result.server, result.nonce) == (Ending.ANSWERED, "server", "n1")


def test_what_reached_a_server_before_a_probe_is_stopped_counts() -> None:
    result = asyncio.run(exchange(late=True, stop=True, serve="sink", protocol=Protocol.UDP))
    assert result.server_saw
