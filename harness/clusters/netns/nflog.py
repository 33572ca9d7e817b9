"""The kernel's packet log (NFLOG) of one node, as events, and its connection table. Not flows: what a packet means is `flows`' business."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable

from harness.clusters.netns.kernel import Namespace
from harness.clusters.netns.ruleset import LOG_GROUP

_NETLINK_NETFILTER = 12
_SUBSYSTEM_LOG = 4
_SUBSYSTEM_CONNTRACK = 1
_CONFIG = 1
_PACKET = _SUBSYSTEM_LOG << 8
_CONNTRACK_DELETE = 2
_BIND, _MODE, _TIMEOUT, _THRESHOLD = 1, 2, 4, 5
_COPY_PACKET = 2
_COPY_RANGE = 96
_MARK = 2
_PAYLOAD = 9
_PREFIX = 10
_BUFFER = 8 << 20
_SO_RCVBUFFORCE = 33

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


def _message(kind: int, group: int, attributes: bytes, flags: int = 5) -> bytes:
    return _HEADER.pack(20 + len(attributes), kind, flags, 0, 0) + struct.pack("!BBH", socket.AF_UNSPEC, 0, group) + attributes


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _ask(sock: socket.socket, message: bytes) -> None:
    sock.send(message)
    (error,) = struct.unpack_from("=i", sock.recv(4096), 16)
    if error:
        raise OSError(-error, "nfnetlink refused a request")


class PacketLog:
    """Reads one node's log. `lost` is called when the kernel had to throw events away: that many `losses`. `logged` counts packets."""

    def __init__(self, namespace: Namespace, lost: Callable[[], None]) -> None:
        namespace.enter()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:  # not in a user namespace: what the machine allows must do
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        for attribute in (
            _attribute(_BIND, b"\x01"),
            _attribute(_MODE, struct.pack("!IBx", _COPY_RANGE, _COPY_PACKET)),
            # Without this the kernel keeps an event for up to a second, in case more come.
            _attribute(_THRESHOLD, struct.pack("!I", 1)) + _attribute(_TIMEOUT, struct.pack("!I", 0)),
        ):
            _ask(self._socket, _message(_PACKET | _CONFIG, LOG_GROUP, attribute))
        self._socket.setblocking(False)
        self._lost = lost
        self.logged = 0
        self.losses = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[tuple[bytes, bytes, int]]:
        """Everything that is there: the rule's prefix, the beginning of the packet from its IP header on, and the packet's mark."""
        out: list[tuple[bytes, bytes, int]] = []
        while True:
            try:
                data = self._socket.recv(8192)
            except BlockingIOError:
                self.logged += len(out)
                return out
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.losses += 1
                self._lost()
                continue
            offset = 0
            while offset + 16 <= len(data):
                length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
                if kind == _PACKET:
                    out.append(_entry(data, offset + 20, offset + length))
                offset += (length + 3) & ~3

    def close(self) -> None:
        self._socket.close()


def _entry(data: bytes, offset: int, end: int) -> tuple[bytes, bytes, int]:
    prefix = payload = b""
    mark = 0
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if kind == _PREFIX:
            prefix = data[offset + 4 : offset + length - 1]
        elif kind == _PAYLOAD:
            payload = data[offset + 4 : offset + length]
        elif kind == _MARK:
            mark = int.from_bytes(data[offset + 4 : offset + 8])
        offset += (length + 3) & ~3
    return prefix, payload, mark


class Connections:
    """The connection table of one namespace. The socket stays open: closing one of its kind takes the kernel 12 ms."""

    def __init__(self, namespace: Namespace) -> None:
        namespace.enter()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._socket.bind((0, 0))

    def forget(self) -> None:
        """Empty the table."""
        _ask(self._socket, _message(_SUBSYSTEM_CONNTRACK << 8 | _CONNTRACK_DELETE, 0, b""))

    def close(self) -> None:
        self._socket.close()
