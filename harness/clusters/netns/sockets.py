"""A client's socket: opened in its site's network, and bound to a port that it has not sent from towards this target. It has not dialled yet."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from harness.clusters.netns.kernel import Namespace
from harness.clusters.netns.ports import SourcePorts, Target
from harness.model.flow import FiveTuple
from harness.model.probe import Probe, Site
from harness.model.traffic import Family, Protocol

ECHO = {Protocol.ICMP: 8, Protocol.ICMPV6: 128}
"""The types of echo requests: what those protocols have for a port."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class ClientSockets:
    """Of all clients of a lab. `place` finds a site's namespace and address (ClusterError where there is none)."""

    def __init__(self, place: Callable[[Site, Family], tuple[Namespace, str]]) -> None:
        self._place = place
        self._ports = SourcePorts()
        self._pings: set[Namespace] = set()

    def open(self, probe: Probe) -> tuple[socket.SocketType, FiveTuple]:
        """A socket for a probe, and what its packets will have. Raises OSError where the kernel gives none."""
        protocol = probe.protocol
        namespace, source = self._place(probe.site, probe.family)
        source = probe.source_address or source
        namespace.enter()
        family = socket.AF_INET6 if probe.family is Family.IPV6 else socket.AF_INET
        icmp = protocol in ECHO
        if icmp and namespace not in self._pings:
            Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")
            self._pings.add(namespace)
        kind = socket.SOCK_DGRAM if icmp or protocol is Protocol.UDP else socket.SOCK_STREAM
        number = protocol.number if icmp or protocol is Protocol.SCTP else 0
        sock = socket.SocketType(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, number)
        try:
            if icmp:
                sock.bind((source, 0))
                return sock, FiveTuple(protocol, source, 0, probe.address, ECHO[protocol])
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            if protocol is Protocol.TCP:
                # The handshake's last acknowledgement goes with the request.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
            port = self._bind(sock, namespace, protocol, source, (probe.address, probe.port))
        except OSError:
            sock.close()
            raise
        return sock, FiveTuple(protocol, source, port, probe.address, probe.port)

    def _bind(self, sock: socket.SocketType, namespace: Namespace, protocol: Protocol, source: str, target: Target) -> int:
        for port in self._ports.offer((namespace, protocol), target):
            try:
                sock.bind((source, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
        raise OSError(errno.EADDRNOTAVAIL, f"every port of this client has been used towards {target[0]} port {target[1]}")
