"""What is sent, and what came back: one probe, the events of its life, and its result."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from harness.model.flow import FiveTuple
from harness.model.traffic import Direction, Family, Protocol, Request, RequestKind


class Site(Struct, frozen=True, order=True):
    """A place where client and server code can run: a pod (`pod:ns/name`), a node (`node:a`), the outside (`world:IP`) or the
    API server's host (`kube-apiserver`). Clusters map it to a network namespace or a pod to exec into."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


class Probe(Struct, frozen=True, gc=False):
    """One packet exchange to attempt. `address` and `port` are what the client dials (a service's ClusterIP and port, say).

    `expected_servers` are the server names whose answer is the intended one. `liveness` marks the proof, from inside the target
    over loopback, that the port is served. Times are seconds.
    """

    id: int
    site: Site
    protocol: Protocol
    family: Family
    address: str
    port: int
    nonce: str
    timeout: float
    expected_servers: tuple[str, ...] = ()
    request: Request | None = None
    serve: str = "auto"
    """What the target's port speaks: auto, http, grpc, tls, echo, sink, dns."""
    source_address: str = ""
    """Bind to this address first (host sites have several); '' lets the kernel choose."""
    liveness: bool = False
    alternatives: tuple[tuple[str, int], ...] = ()
    """Where a service may send the packet: (address, port) of each backend, target ports resolved. Flows towards them are the probe's
    too. Empty for a direct target."""
    awaited: frozenset[Direction] = frozenset()
    """The sides whose policy verdict is needed to judge an answer, so that it is waited for: flows of two nodes come in any order."""

    @property
    def spoken(self) -> Request | None:
        """What a proxy on the way would hear."""
        return spoken(self.request, self.protocol, self.serve)


BARE_GRPC = "/harness.Probe/Ask"
"""The method that is called where a probe of a gRPC port names none."""
_BARE = {
    "auto": Request(RequestKind.HTTP, method="GET", path="/"),
    "http": Request(RequestKind.HTTP, method="GET", path="/"),
    "grpc": Request(RequestKind.GRPC, path=BARE_GRPC),
    "tls": Request(RequestKind.TLS),
}


def spoken(request: Request | None, protocol: Protocol, serve: str) -> Request | None:
    """What is said above L4: the request, or where there is none what a TCP port that serves this is sent. None for bare bytes."""
    return request or (_BARE.get(serve) if protocol is Protocol.TCP else None)


class Ending(StrEnum):
    """How a probe ended, as its client saw it."""

    ANSWERED = "answered"
    """An answer came back; whose, is in `server` and `nonce`."""
    REFUSED = "refused"
    """Connection refused, or ICMP port unreachable: nobody listens."""
    RESET = "reset"
    TIMEOUT = "timeout"
    STOPPED = "stopped"
    """Ended early by `stop`, after the drop was seen and the grace had passed."""
    UNREACHABLE = "unreachable"
    """The network said so (no route, administratively prohibited)."""
    ERROR = "error"
    """The agent or exec itself broke; nothing may be concluded."""


class ProbeResult(Struct, frozen=True, gc=False):
    """What came back. `started` and `ended` are nanoseconds since the epoch on the client's clock, `five_tuple` what was really bound
    (None if the socket could not be made). `server_saw` is true if the target's server received this probe's nonce, whatever
    the client saw (for `sink` it is the answer). `status` is the HTTP code or the gRPC status."""

    id: int
    ending: Ending
    started: int
    ended: int
    five_tuple: FiveTuple | None = None
    server: str = ""
    nonce: str = ""
    status: int | None = None
    server_saw: bool = False
    detail: str = ""
    attempts: int = 1

    @property
    def seconds(self) -> float:
        return (self.ended - self.started) / 1e9
