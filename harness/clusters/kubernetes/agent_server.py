"""The program that serves in a case's pods: answers on their ports, and says over a local socket which nonces it saw. Standard library only,
Python 3.9. Not imported by the harness: shipped as text, with `agent_dns.py` beside it for ports that serve `dns`. What it says over the
network is what `harness.clusters.netns.speech` says; who asks it is `agent_client.py`.
"""

from __future__ import annotations

import importlib
import json
import os
import selectors
import socket
import sys
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
_SCTP = 132
_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"OPTIONS ")


def heard(data: bytes, server: str, http: bool, raw: bool) -> tuple[str, bytes, bool] | None:
    """What a server makes of what it got so far: (nonce, answer, whether the connection ends with it); None while it is not complete."""
    if http and data.startswith(_METHODS):
        head, end, _ = data.partition(b"\r\n\r\n")
        if not end:
            return None
        lines = head.split(b"\r\n")
        nonce = _fields(lines[1:]).get(b"x-harness-nonce", "")
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


def _fields(lines: list[bytes]) -> dict[bytes, str]:
    out = {}
    for line in lines:
        name, _, value = line.partition(b":")
        out[name.strip().lower()] = value.strip().decode(errors="replace")
    return out


def dns() -> Any:
    """The file beside this one, read only where names are asked for; `python -I` does not look there by itself."""
    beside = __file__.rpartition("/")[0]
    if beside not in sys.path:
        sys.path.insert(0, beside)
    return importlib.import_module("agent_dns")


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
        number = _SCTP if port["protocol"] == "SCTP" else 0
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


if __name__ == "__main__":
    Server(os.environ["HARNESS_NAME"], json.loads(os.environ["HARNESS_PORTS"])).run()
