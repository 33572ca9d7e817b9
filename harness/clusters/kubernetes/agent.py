"""The program inside a case's pods: `serve` answers on the pod's ports, `client` sends probes. Standard library only, Python 3.9.

Not imported by the harness: shipped as text, with `agent_dns.py` beside it. What it says over the network is what `harness.clusters.netns.speech`
says.

client, on standard input, one line each:  ready | plan JSON | stop ID | seen ID NONCE | end
client, on standard output, JSON lines:    {"ready", "why"} | {"bound", "five", "time"} | {"result", ...} | {"seen", "saw"}
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
from collections import OrderedDict

TYPE_CHECKING = False  # typing itself would take a tenth of the start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Abstract, so in a node's network it is seen by all pods there: named by the pod, which is unique in the cluster.
_CONTROL = "\0policy-harness-" + os.environ.get("HARNESS_POD", "")
_LONGEST = 65536
_REMEMBERED = 100000
_AT_ONCE = 64
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_ECHO = {"ICMP": 8, "ICMPv6": 128}
_NUMBERS = {"ICMP": 1, "ICMPv6": 58, "SCTP": 132}
_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"OPTIONS ")
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


# What is said


def fields(lines: list[bytes]) -> dict[bytes, str]:
    out = {}
    for line in lines:
        name, _, value = line.partition(b":")
        out[name.strip().lower()] = value.strip().decode(errors="replace")
    return out


def heard(data: bytes, server: str, http: bool, raw: bool) -> tuple[str, bytes, bool] | None:
    """What a server makes of what it got so far: (nonce, answer, whether the connection ends with it); None while it is not complete."""
    if http and data.startswith(_METHODS):
        head, end, _ = data.partition(b"\r\n\r\n")
        if not end:
            return None
        lines = head.split(b"\r\n")
        nonce = fields(lines[1:]).get(b"x-harness-nonce", "")
        method, path = [*lines[0].decode(errors="replace").split(" "), "", ""][:2]
        body = b""
        if method != "HEAD":
            body = json.dumps({"server": server, "nonce": nonce, "method": method, "path": path}).encode()
        answer = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Harness-Server: %b\r\nX-Harness-Nonce: %b\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (server.encode(), nonce.encode(), len(body), body)
        )
        return nonce, answer, True
    if b"\n" not in data:
        return None
    words = data.split(b"\n", 1)[0].split()
    nonce = words[1].decode(errors="replace") if len(words) == 2 and words[0] == b"harness" else ""
    if not raw:
        return nonce, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", True
    return nonce, b"harness %b %b\n" % (nonce.encode(), server.encode()), False


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
        said = fields(lines[1:])
        status = int(code) if code.isdigit() else None
        return said.get(b"x-harness-server", ""), said.get(b"x-harness-nonce", ""), status
    if not data.endswith(b"\n"):
        return None
    words = data.decode(errors="replace").split()
    if len(words) == 3 and words[0] == "harness":
        return words[2], words[1], None
    return "", "", None


# The server


class Server:
    """Answers on every port, and tells over a local socket which nonces it saw."""

    def __init__(self, name: str, ports: list[dict[str, Any]]) -> None:
        self.name = name
        self.faults: list[str] = []
        self.seen: OrderedDict[str, bool] = OrderedDict()
        self.selector = selectors.DefaultSelector()
        for port in ports:
            try:
                self.open(port)
            except OSError as error:
                self.faults.append(f"port {port['port']}/{port['protocol']}: {error.strerror or error}")
        control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        control.bind(_CONTROL)
        self.listen(control, self.controlled)

    def open(self, port: dict[str, Any]) -> None:
        kind = socket.SOCK_DGRAM if port["protocol"] == "UDP" else socket.SOCK_STREAM
        number = _NUMBERS["SCTP"] if port["protocol"] == "SCTP" else 0
        try:
            sock = socket.socket(socket.AF_INET6, kind, number)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            address = "::"
        except OSError:
            sock = socket.socket(socket.AF_INET, kind, number)
            address = ""
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port["port"]))
        serve = port["serve"]
        if kind == socket.SOCK_DGRAM:
            sock.setblocking(False)
            self.selector.register(sock, selectors.EVENT_READ, lambda: self.datagrams(sock, serve))
        else:
            self.listen(sock, lambda data: self.answer(data, serve))

    def listen(self, sock: socket.socket, answer: Callable[[bytearray], tuple[bytes | None, bool]]) -> None:
        sock.setblocking(False)
        sock.listen(1024)
        self.selector.register(sock, selectors.EVENT_READ, lambda: self.accept(sock, answer))

    def accept(self, listener: socket.socket, answer: Callable[[bytearray], tuple[bytes | None, bool]]) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setblocking(False)
            buffer = bytearray()
            self.selector.register(sock, selectors.EVENT_READ, lambda sock=sock, buffer=buffer: self.read(sock, buffer, answer))

    def read(self, sock: socket.socket, buffer: bytearray, answer: Callable[[bytearray], tuple[bytes | None, bool]]) -> None:
        """Give what came to `answer`, which says what to send (None: wait for more) and whether that is the end."""
        try:
            data = sock.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        buffer += data
        out, last = answer(buffer) if data and len(buffer) <= _LONGEST else (None, True)
        if out:
            try:
                sock.send(out)
            except OSError:
                last = True
        if last:
            self.selector.unregister(sock)
            sock.close()

    def answer(self, buffer: bytearray, serve: str) -> tuple[bytes | None, bool]:
        if serve == "dns":
            return self.resolve(buffer)
        got = heard(bytes(buffer), self.name, serve in ("auto", "http"), serve != "http")
        if got is None:
            return None, False
        del buffer[:]
        self.saw(got[0])
        return (None, False) if serve == "sink" else (got[1], got[2])

    def resolve(self, buffer: bytearray) -> tuple[bytes | None, bool]:
        message, buffer[:] = dns().unframed(bytes(buffer))
        if message is None:
            return None, False
        got = dns().reply(message, self.name)
        if got is None:
            return None, True
        self.saw(got[0])
        return dns().framed(got[1]), False

    def datagrams(self, sock: socket.socket, serve: str) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, client = sock.recvfrom(_LONGEST)
                got = dns().reply(data, self.name) if serve == "dns" else heard(data, self.name, False, True)
                if got is not None:
                    self.saw(got[0])
                    if serve != "sink":
                        sock.sendto(got[1], client)
            except OSError:
                return

    def saw(self, nonce: str) -> None:
        if nonce:
            self.seen[nonce] = True
            if len(self.seen) > _REMEMBERED:
                self.seen.popitem(last=False)

    def controlled(self, buffer: bytearray) -> tuple[bytes | None, bool]:
        """Each line is `ready` or a nonce."""
        lines, newline, rest = bytes(buffer).rpartition(b"\n")
        if not newline:
            return None, False
        buffer[:] = rest
        out = []
        for line in lines.decode().split("\n"):
            if line == "ready":
                out.append("; ".join(self.faults) or "ready")
            else:
                out.append("1" if line in self.seen else "0")
        return ("\n".join(out) + "\n").encode(), False

    def run(self) -> None:
        while True:
            for key, _ in self.selector.select():
                key.data()


# The client


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


def main() -> None:
    if sys.argv[1:] == ["client"]:
        Client().run()
    else:
        Server(os.environ["HARNESS_NAME"], json.loads(os.environ["HARNESS_PORTS"])).run()


if __name__ == "__main__":
    main()
