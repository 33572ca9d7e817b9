"""What probes and servers say to each other. Pure. Every answer names the server and carries the probe's nonce back.

HTTP: the nonce is the header `X-Harness-Nonce`, and the answer's `X-Harness-Server` the server's name. Anything else, inside TLS too, is one
line, `harness NONCE`, answered by `harness NONCE SERVER`. A ping's payload is the bare nonce.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from harness.clusters.netns.dns import message
from harness.model.probe import Probe
from harness.model.traffic import Protocol, Request, RequestKind

SERVED = ("auto", "http", "grpc", "tls", "echo", "sink", "dns")
"""What a port can speak here."""
_WORD = b"harness "
_BARE_NAME = "harness.invalid"
"""What a DNS server is asked for where a probe names nothing: it has no such name, and says so."""
_HTTP_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"OPTIONS ")
_HTTP_END = b"\r\n\r\n"
_NONCE = b"\r\nX-Harness-Nonce:"
_SERVER = b"\r\nX-Harness-Server:"


class Said(NamedTuple):
    """What an answer says; '' where it does not."""

    server: str = ""
    nonce: str = ""
    status: int | None = None


def speaks(probe: Probe) -> RequestKind | None:
    """What a probe of a TCP port says; None for a line of its own."""
    said = probe.spoken if probe.protocol is Protocol.TCP else None
    return said.kind if said is not None else None


def request(probe: Probe) -> bytes:
    """What the client sends once it is connected."""
    if not probe.protocol.has_ports:
        return probe.nonce.encode()
    wanted = lookup(probe)
    if wanted is not None:
        asked = message.question(wanted.name, probe.family, probe.nonce)
        return message.framed(asked) if probe.protocol is Protocol.TCP else asked
    if speaks(probe) is not RequestKind.HTTP:
        return _WORD + probe.nonce.encode() + b"\n"
    wanted = probe.request
    if wanted is None:
        return _GET % (host(probe.address, probe.port), probe.nonce.encode())
    named = wanted.host or host(probe.address, probe.port).decode()
    more = "".join(f"{name}: {value}\r\n" for name, value in wanted.headers)
    first = f"{wanted.method or 'GET'} {wanted.path or '/'} HTTP/1.1"
    return f"{first}\r\nHost: {named}\r\nX-Harness-Nonce: {probe.nonce}\r\n{more}Connection: close\r\n\r\n".encode()


_GET = b"GET / HTTP/1.1\r\nHost: %b\r\nX-Harness-Nonce: %b\r\nConnection: close\r\n\r\n"


@lru_cache(maxsize=4096)
def host(address: str, port: int) -> bytes:
    """What a client calls a server that it knows by address."""
    return (f"[{address}]:{port}" if ":" in address else f"{address}:{port}").encode()


def lookup(probe: Probe) -> Request | None:
    """The name that a probe asks for; None for a probe of another kind."""
    if probe.request is not None:
        return probe.request if probe.request.kind is RequestKind.LOOKUP else None
    return Request(RequestKind.LOOKUP, name=_BARE_NAME) if probe.serve == "dns" else None


def looked_up(data: bytes, protocol: Protocol) -> Said | None:
    """As `answered`, of a DNS server."""
    if protocol is Protocol.TCP:
        whole, _ = message.unframed(data)
        if whole is None:
            return None
        data = whole
    found = message.said(data)
    return Said(*found) if found is not None else None


def answered(data: bytes) -> Said | None:
    """The answer so far; None while it is not complete."""
    if data.startswith(b"HTTP/"):
        if _HTTP_END not in data:
            return None
        code = data[9:12]
        return Said(_field(data, _SERVER), _field(data, _NONCE), int(code) if code.isdigit() else None)
    if not data.endswith(b"\n"):
        return None
    words = data.decode(errors="replace").split()
    if len(words) == 3 and words[0] == "harness":
        return Said(words[2], words[1])
    return Said()


class Heard(NamedTuple):
    """What a server understood: the nonce, and its answer. `last`: the connection ends with it."""

    nonce: str
    answer: bytes
    last: bool


def heard(data: bytes, server: str, *, http: bool, raw: bool) -> Heard | None:
    """What a server makes of what it got so far; None while that is not complete. `http` and `raw` are what the port speaks."""
    if http and data.startswith(_HTTP_METHODS):
        if _HTTP_END not in data:
            return None
        nonce = _field(data, _NONCE)
        body = b"" if data.startswith(b"HEAD ") else b'{"server": "%b", "nonce": "%b"}\n' % (server.encode(), nonce.encode())
        return Heard(
            nonce,
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Harness-Server: %b\r\nX-Harness-Nonce: %b\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (server.encode(), nonce.encode(), len(body), body),
            last=True,
        )
    if b"\n" not in data:
        return None
    words = data.split(b"\n", 1)[0].split()
    nonce = words[1].decode(errors="replace") if len(words) == 2 and words[0] == b"harness" else ""
    if not raw:
        return Heard(nonce, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", last=True)
    return Heard(nonce, b"harness %b %b\n" % (nonce.encode(), server.encode()), last=False)


def _field(data: bytes, name: bytes) -> str:
    """A header's value, '' without it. Written exactly as both sides here write it; a proxy between them may have changed its case."""
    start = data.find(name)
    if start < 0:
        lower = data.lower()
        start = lower.find(name.lower())
        if start < 0:
            return ""
    start += len(name)
    return data[start : data.index(b"\r\n", start)].strip().decode(errors="replace")
