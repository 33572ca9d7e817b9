"""Sockets of a transparent proxy: they take what was sent to others, and send from addresses that are others'. Needs CAP_NET_ADMIN."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

from harness.clusters.netns.kernel import Namespace

_SOL_IP, _SOL_IPV6 = 0, 41
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75
_IP_ORIGINAL, _IPV6_ORIGINAL = 20, 74
"""IP_RECVORIGDSTADDR and its like; what is received carries the same number."""
_LONGEST = 65535
_BACKLOG = 256

End = tuple[str, int]
"""An address and a port."""


def made(namespace: Namespace, address: str, kind: socket.SocketKind, mark: int = 0) -> socket.socket:
    """A transparent socket of the address's family, in a namespace."""
    namespace.enter()
    six = ":" in address
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind | socket.SOCK_NONBLOCK)
    try:
        level, transparent = (_SOL_IPV6, _IPV6_TRANSPARENT) if six else (_SOL_IP, _IP_TRANSPARENT)
        sock.setsockopt(level, transparent, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    except OSError:
        sock.close()
        raise
    return sock


def listening(namespace: Namespace, address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """Takes what is redirected to a port: datagrams with the address that they were sent to, or connections."""
    sock = made(namespace, address, kind)
    try:
        if kind is socket.SOCK_DGRAM:
            level, original = (_SOL_IPV6, _IPV6_ORIGINAL) if ":" in address else (_SOL_IP, _IP_ORIGINAL)
            sock.setsockopt(level, original, 1)
        sock.bind((address, port))
        if kind is socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def received(sock: socket.socket) -> tuple[bytes, End, End] | None:
    """A datagram, who sent it and to whom; None for one that does not say. Raises OSError, BlockingIOError where there is none."""
    data, ancillary, _, source = sock.recvmsg(_LONGEST, 128)
    for level, kind, value in ancillary:
        if (level, kind) == (_SOL_IP, _IP_ORIGINAL):
            (port,) = struct.unpack_from("!H", value, 2)
            return data, source[:2], (socket.inet_ntop(socket.AF_INET, value[4:8]), port)
        if (level, kind) == (_SOL_IPV6, _IPV6_ORIGINAL):
            (port,) = struct.unpack_from("!H", value, 2)
            return data, source[:2], (socket.inet_ntop(socket.AF_INET6, value[8:24]), port)
    return None


def send_from(namespace: Namespace, source: End, target: End, data: bytes) -> None:
    """A datagram from an address that is another's. What cannot be sent is lost, as datagrams may be."""
    with suppress(OSError), made(namespace, source[0], socket.SOCK_DGRAM) as sock:
        sock.bind(source)
        sock.sendto(data, target)
