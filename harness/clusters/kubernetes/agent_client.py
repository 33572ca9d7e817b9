"""The program that sends probes from a case's pods. Standard library only, Python 3.9. Not imported by the harness: shipped as text, with
`agent_dns.py` beside it for lookups. What it says over the network is what `harness.clusters.netns.speech` says.

on standard input, one line each:  ready | plan JSON | stop ID | seen ID NONCE | end
on standard output, JSON lines:    {"ready", "why"} | {"bound", "five", "time"} | {"result", ...} | {"seen", "saw"}
"""

from __future__ import annotations

import errno
import heapq
import importlib
import json
import os
import selectors
import socket
import struct
import sys
import time

TYPE_CHECKING = False  # typing itself would take a tenth of the start
if TYPE_CHECKING:
    from typing import Any

_CONTROL = "\0policy-harness-" + os.environ.get("HARNESS_POD", "")
"""Where this pod's server (`agent_server.py`) says what it saw."""
_LONGEST = 65536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_ECHO = {"ICMP": 8, "ICMPv6": 128}
_NUMBERS = {"ICMP": 1, "ICMPv6": 58, "SCTP": 132}
_ENDINGS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "timeout",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.EACCES: "unreachable",
    errno.EPERM: "unreachable",
    errno.ENOPROTOOPT: "unreachable",
    errno.EPROTO: "unreachable",
}


def request(probe: dict[str, Any]) -> bytes:
    """What a client sends once it is connected."""
    nonce = str(probe["nonce"])
    if probe["protocol"] in _ECHO:
        return struct.pack("!BBHHH", _ECHO[probe["protocol"]], 0, 0, 0, 1) + nonce.encode()
    if probe.get("lookup"):
        return asked(probe) if probe["protocol"] == "UDP" else bytes(dns().framed(asked(probe)))
    http = probe.get("http")
    if not http:
        return b"harness " + nonce.encode() + b"\n"
    address, port = probe["address"], probe["port"]
    host = http["host"] or (f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
    lines = [
        f"{http['method'] or 'GET'} {http['path'] or '/'} HTTP/1.1",
        f"Host: {host}",
        f"X-Harness-Nonce: {nonce}",
        *(f"{name}: {value}" for name, value in http["headers"]),
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def asked(probe: dict[str, Any]) -> bytes:
    """A lookup's question; the same each time."""
    wanted = probe["lookup"]
    return bytes(dns().question(wanted["name"], wanted["family"], probe["nonce"], wanted["marked"]))


def dns() -> Any:
    """The file beside this one, read only where names are asked for; `python -I` does not look there by itself."""
    beside = __file__.rpartition("/")[0]
    if beside not in sys.path:
        sys.path.insert(0, beside)
    return importlib.import_module("agent_dns")


def answered(data: bytes) -> tuple[str, str, int | None] | None:
    """The answer so far, as (server, nonce, status); None while it is not complete."""
    if data.startswith(b"HTTP/"):
        head, end, _ = data.partition(b"\r\n\r\n")
        if not end:
            return None
        lines = head.split(b"\r\n")
        code = [*lines[0].split(b" ", 2), b""][1]
        said = _fields(lines[1:])
        status = int(code) if code.isdigit() else None
        return said.get(b"x-harness-server", ""), said.get(b"x-harness-nonce", ""), status
    if not data.endswith(b"\n"):
        return None
    words = data.decode(errors="replace").split()
    if len(words) == 3 and words[0] == "harness":
        return words[2], words[1], None
    return "", "", None


def _fields(lines: list[bytes]) -> dict[bytes, str]:
    out = {}
    for line in lines:
        name, _, value = line.partition(b":")
        out[name.strip().lower()] = value.strip().decode(errors="replace")
    return out


class Running:
    __slots__ = ("addresses", "buffer", "five", "probe", "sent", "sock", "started", "strange")

    def __init__(self, probe: dict[str, Any]) -> None:
        self.probe = probe
        self.sock: socket.socket | None = None
        self.five: list[Any] | None = None
        self.started = time.time_ns()
        self.sent = False
        self.buffer = b""
        self.addresses: list[str] = []
        self.strange = ""


class Client:
    """Sends probes concurrently, as standard input says, and tells each event on standard output."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.running: dict[int, Running] = {}
        self.deadlines: list[tuple[float, int]] = []
        self.input = b""
        self.over = False
        self.closed = False
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def tell(self, **event: Any) -> None:
        sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")
        sys.stdout.flush()

    def ask(self, text: str) -> str:
        """One line to this pod's server, and its answer."""
        self.server.sendall(text.encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            more = self.server.recv(_LONGEST)
            if not more:
                raise OSError(errno.EPIPE, "the pod's server ended")
            data += more
        return data.decode().strip()

    def connect(self, within: float) -> str:
        """Reach this pod's server, which may be starting; what is wrong with it, or ''."""
        until = time.monotonic() + within
        while True:
            self.server.close()
            self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.server.settimeout(within)
            try:
                self.server.connect(_CONTROL)
                said = self.ask("ready")
            except OSError as error:
                self.server.close()
                if time.monotonic() > until:
                    return f"the pod's server does not answer: {error.strerror or error}"
                time.sleep(0.01)
            else:
                return "" if said == "ready" else said

    def run(self) -> None:
        fault = self.connect(10.0)
        self.tell(ready=not fault, why=fault)
        os.set_blocking(0, False)
        self.selector.register(0, selectors.EVENT_READ, self.commands)
        while not (self.over and not self.running) and not self.closed:
            wait = max(0.0, self.deadlines[0][0] - time.monotonic()) if self.deadlines else None
            for key, _ in self.selector.select(wait):
                key.data()
            now = time.monotonic()
            while self.deadlines and self.deadlines[0][0] <= now:
                running = self.running.get(heapq.heappop(self.deadlines)[1])
                if running is not None:
                    self.finish(running, "timeout")

    def commands(self) -> None:
        try:
            data = os.read(0, _LONGEST)
        except BlockingIOError:
            return
        if not data:
            self.closed = True
            return
        self.input += data
        *lines, self.input = self.input.split(b"\n")
        for line in lines:
            word, _, rest = line.decode().partition(" ")
            if word == "plan":
                for probe in json.loads(rest):
                    self.start(probe)
            elif word == "stop":
                running = self.running.get(int(rest))
                if running is not None:
                    self.finish(running, "stopped")
            elif word == "seen":
                number, _, nonce = rest.partition(" ")
                try:
                    saw = self.ask(nonce) == "1"
                except OSError:
                    saw = None
                self.tell(seen=int(number), saw=saw)
            elif word == "ready":
                fault = self.connect(10.0)
                self.tell(ready=not fault, why=fault)
            elif word == "end":
                self.over = True

    def start(self, probe: dict[str, Any]) -> None:
        running = self.running[probe["id"]] = Running(probe)
        heapq.heappush(self.deadlines, (time.monotonic() + probe["timeout"], probe["id"]))
        try:
            sock = running.sock = self.bound(running)
            failure = sock.connect_ex((probe["address"], probe["port"] if probe["protocol"] not in _ECHO else 0))
            if failure not in (0, errno.EINPROGRESS):
                self.failed(running, failure)
                return
            self.selector.register(sock, selectors.EVENT_WRITE, lambda: self.ready(running, sock))
        except OSError as error:
            self.failed(running, error.errno or 0)

    def bound(self, running: Running) -> socket.socket:
        """The probe's socket, bound; tells it before anything is sent."""
        probe = running.probe
        protocol = probe["protocol"]
        family = socket.AF_INET6 if ":" in probe["address"] else socket.AF_INET
        icmp = protocol in _ECHO
        source = probe["source"] or route(family, probe["address"])
        kind = socket.SOCK_DGRAM if icmp or protocol == "UDP" else socket.SOCK_STREAM
        sock = socket.socket(family, kind, _NUMBERS.get(protocol, 0))
        sock.setblocking(False)
        try:
            if icmp:
                sock.bind((source, 0))
                running.five = [protocol, source, 0, probe["address"], _ECHO[protocol]]
            else:
                if kind == socket.SOCK_STREAM:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                try:
                    sock.bind((source, probe["from"]))
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise
                    sock.bind((source, 0))
                running.five = [protocol, source, sock.getsockname()[1], probe["address"], probe["port"]]
        except OSError:
            sock.close()
            raise
        running.started = time.time_ns()
        self.tell(bound=probe["id"], five=running.five, time=running.started)
        return sock

    def ready(self, running: Running, sock: socket.socket) -> None:
        try:
            if not running.sent:
                failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if failure:
                    self.failed(running, failure)
                    return
                sock.send(request(running.probe))
                running.sent = True
                self.selector.modify(sock, selectors.EVENT_READ, lambda: self.ready(running, sock))
                return
            data = sock.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError as error:
            self.failed(running, error.errno or 0)
            return
        self.received(running, data)

    def received(self, running: Running, data: bytes) -> None:
        probe = running.probe
        if probe["protocol"] in _ECHO:
            if data[8:].decode(errors="replace") == probe["nonce"]:
                self.finish(running, "answered", ("", probe["nonce"], None))
            return
        if probe.get("lookup"):
            self.resolved(running, data)
            return
        if probe.get("vouched") and (not data or not data.startswith(b"HTTP/")):
            self.finish(running, "answered")  # whatever it says, or that it hangs up: somebody is there
            return
        if not data and probe["protocol"] != "UDP":
            self.finish(running, "reset", detail="the server closed the connection without an answer")
            return
        running.buffer += data
        got = answered(running.buffer)
        if got is not None:
            self.finish(running, "answered", got)

    def resolved(self, running: Running, data: bytes) -> None:
        """What came to a lookup. What is no answer to it is waited beyond: anybody can send a datagram."""
        if running.probe["protocol"] == "UDP":
            messages = [data]
        elif not data:
            self.finish(running, "reset", detail="the server closed the connection without an answer")
            return
        else:
            messages = []
            running.buffer += data
            while True:
                message, running.buffer = dns().unframed(running.buffer)
                if message is None:
                    break
                messages.append(message)
        for message in messages:
            got = dns().said(message, asked(running.probe))
            if got is not None:
                running.addresses = got["addresses"]
                said = (got["server"], got["nonce"], got["rcode"])
                self.finish(running, "answered", said, "the answer was cut: the rest is to be had over TCP" if got["cut"] else "")
                return
            running.strange = "what came was no answer to the question"

    def failed(self, running: Running, number: int) -> None:
        ending = _ENDINGS.get(number, "error")
        self.finish(running, ending, detail="" if ending in ("refused", "reset") else os.strerror(number))

    def finish(self, running: Running, ending: str, said: tuple[str, str, int | None] = ("", "", None), detail: str = "") -> None:
        probe = running.probe
        del self.running[probe["id"]]
        if running.sock is not None:
            if running.sock in self.selector.get_map():
                self.selector.unregister(running.sock)
            running.sock.close()
        self.tell(
            result=probe["id"],
            ending=ending,
            started=running.started,
            ended=time.time_ns(),
            five=running.five,
            server=said[0],
            nonce=said[1],
            status=said[2],
            addresses=running.addresses,
            detail=detail or running.strange,
        )


def route(family: int, address: str) -> str:
    """The source address that the kernel would choose."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((address, 9))
        return str(sock.getsockname()[0])


if __name__ == "__main__":
    Client().run()
