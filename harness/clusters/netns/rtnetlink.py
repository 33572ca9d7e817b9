"""The few rtnetlink messages that make a lab's links, addresses and routes. Not a library: pyroute2 is one, and importing it alone takes
half the time in which a whole lab has to be up."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterable

from harness.clusters.netns.kernel import Namespace

_NLM_F_REQUEST = 1
_NLM_F_ACK = 4
_NLM_F_EXCL = 0x200
_NLM_F_REPLACE = 0x100
_NLM_F_CREATE = 0x400
_NLMSG_ERROR = 2

_RTM_NEWLINK = 16
_RTM_GETLINK = 18
_RTM_NEWADDR = 20
_RTM_NEWROUTE = 24
_RTM_NEWRULE = 32

_IFLA_ADDRESS = 1
_IFLA_IFNAME = 3
_IFLA_OPERSTATE = 16
_IFLA_LINKINFO = 18
_IFLA_AF_SPEC = 26
_IFLA_NET_NS_FD = 28
_IFLA_INFO_KIND = 1
_IFLA_INFO_DATA = 2
_VETH_INFO_PEER = 1
_IFLA_INET6_ADDR_GEN_MODE = 8
_ADDR_GEN_NONE = b"\x01"

_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_IFA_F_NODAD = 0x02

_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTN_LOCAL = 2
_LOCAL_TABLE = 255
_FRA_PRIORITY = 6
_FRA_FWMARK = 10
_FRA_FWMASK = 16
_FR_ACT_TO_TBL = 1
_RTNH_F_ONLINK = 4

_OPERSTATE_UP = 6
_IFF_UP = 0x1
_IFF_NOARP = 0x80

LOOPBACK = 1
"""The interface index of `lo`, which every namespace has from birth."""

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_BATCH = 32_000
_PATIENCE = 10.0


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + b"\0" * (-length % 4)


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(16 + len(body), kind, _NLM_F_REQUEST | flags, 0, 0) + body


def _packed(address: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


def veth(name: str, index: int, mac: bytes, peer: Namespace, peer_name: str, peer_index: int) -> bytes:
    """A pair of links, both down. Both ends have the same MAC address and will have no ARP, so that a frame sent to "oneself" is
    accepted at the other end: no neighbour is ever looked up, and IPv6 addresses need no duplicate detection."""
    other = (
        _LINK.pack(socket.AF_UNSPEC, 0, peer_index, 0, 0)
        + _attribute(_IFLA_IFNAME, peer_name.encode() + b"\0")
        + _attribute(_IFLA_ADDRESS, mac)
        + _attribute(_IFLA_NET_NS_FD, struct.pack("=I", peer.fd))
    )
    info = _attribute(_IFLA_INFO_KIND, b"veth") + _attribute(_IFLA_INFO_DATA, _attribute(_VETH_INFO_PEER, other))
    return _message(
        _RTM_NEWLINK,
        _NLM_F_CREATE | _NLM_F_EXCL,
        _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)
        + _attribute(_IFLA_IFNAME, name.encode() + b"\0")
        + _attribute(_IFLA_ADDRESS, mac)
        + _attribute(_IFLA_LINKINFO, info),
    )


def up(index: int, *, ipv6: bool) -> bytes:
    """A link comes up, without ARP and without a link-local address of its own: nothing here speaks unless it is asked to."""
    flags = _IFF_UP if index == LOOPBACK else _IFF_UP | _IFF_NOARP
    body = _LINK.pack(socket.AF_UNSPEC, 0, index, flags, flags)
    if ipv6 and index != LOOPBACK:
        quiet = _attribute(socket.AF_INET6, _attribute(_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE))
        body += _attribute(_IFLA_AF_SPEC, quiet)
    return _message(_RTM_NEWLINK, 0, body)


def address(index: int, text: str) -> bytes:
    """One address, alone on its link (/32 or /128), usable at once."""
    family, packed = _packed(text)
    body = struct.pack("=BBBBI", family, len(packed) * 8, _IFA_F_NODAD, 0, index)
    return _message(_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_REPLACE, body + _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed))


def route(prefix: str, index: int, gateway: str | None = None) -> bytes:
    """A route out of a link. A gateway is only a name for its other end: with one, the kernel keeps one neighbour for the whole link
    instead of one for each destination."""
    text, _, length = prefix.partition("/")
    family, packed = _packed(text)
    bits = int(length) if length else len(packed) * 8
    scope = 253 if gateway is None and family == socket.AF_INET else 0
    body = struct.pack("=BBBBBBBBI", family, bits, 0, 0, 254, 4, scope, 1, _RTNH_F_ONLINK if gateway else 0)
    if bits:
        body += _attribute(_RTA_DST, packed)
    if gateway:
        body += _attribute(_RTA_GATEWAY, _packed(gateway)[1])
    return _message(_RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_REPLACE, body + _attribute(_RTA_OIF, struct.pack("=I", index)))


def delivered(text: str) -> bytes:
    """What comes for this address is this namespace's own. The kernel adds that to an IPv6 address itself, but leaves it to a thread of
    its own, that a busy machine lets wait: whoever spoke from the address at once lost the answer."""
    family, packed = _packed(text)
    body = struct.pack("=BBBBBBBBI", family, len(packed) * 8, 0, 0, _LOCAL_TABLE, 4, 0, _RTN_LOCAL, 0)
    body += _attribute(_RTA_DST, packed) + _attribute(_RTA_OIF, struct.pack("=I", LOOPBACK))
    return _message(_RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_REPLACE, body)


def deliver_marked(family: int, mark: int, table: int) -> list[bytes]:
    """Packets with this bit in their mark go to sockets here, whatever their destination: a rule, and a routing table of its own."""
    rule = struct.pack("=BBBBBBBBI", family, 0, 0, 0, table, 0, 0, _FR_ACT_TO_TBL, 0)
    rule += _attribute(_FRA_PRIORITY, struct.pack("=I", table))
    rule += _attribute(_FRA_FWMARK, struct.pack("=I", mark)) + _attribute(_FRA_FWMASK, struct.pack("=I", mark))
    host = 254  # scope
    everything = struct.pack("=BBBBBBBBI", family, 0, 0, 0, table, 4, host if family == socket.AF_INET else 0, _RTN_LOCAL, 0)
    everything += _attribute(_RTA_OIF, struct.pack("=I", LOOPBACK))
    return [_message(_RTM_NEWRULE, _NLM_F_CREATE, rule), _message(_RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_REPLACE, everything)]


class Links:
    """Sends messages to one namespace, many at a time. Raises OSError, with the number of the message that was refused."""

    def __init__(self, namespace: Namespace) -> None:
        namespace.enter()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))

    def close(self) -> None:
        self._socket.close()

    def send(self, messages: Iterable[bytes]) -> None:
        batch: list[bytes] = []
        size = 0
        for message in messages:
            if size + len(message) > _BATCH:
                self._send(batch)
                batch, size = [], 0
            batch.append(message)
            size += len(message)
        if batch:
            self._send(batch)

    def wait_up(self, indices: Iterable[int]) -> None:
        """Until these links carry packets. The end that was up first only learns from a kernel thread that the other is up too, and
        drops what it is given until then; asking for a link makes recent kernels (6.8) see to that at once, older ones take a while."""
        until = time.monotonic() + _PATIENCE
        for index in indices:
            while self._state(index) != _OPERSTATE_UP:
                if time.monotonic() > until:
                    raise OSError(errno.ETIMEDOUT, f"link {index} did not come up within {_PATIENCE:.0f} s")
                time.sleep(0.001)

    def _state(self, index: int) -> int:
        self._socket.send(_message(_RTM_GETLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)))
        data = self._socket.recv(65536)
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        if kind == _NLMSG_ERROR:
            (error,) = struct.unpack_from("=i", data, 16)
            raise OSError(-error, f"link {index}: {os.strerror(-error)}")
        offset = 16 + _LINK.size
        while offset < length:
            size, attribute = struct.unpack_from("=HH", data, offset)
            if attribute == _IFLA_OPERSTATE:
                return data[offset + 4]
            offset += (size + 3) & ~3
        return _OPERSTATE_UP

    def _send(self, batch: list[bytes]) -> None:
        # Only the last is acknowledged; an error of any other is told all the same, before.
        numbered = [
            _HEADER.pack(len(message), kind, flags | (_NLM_F_ACK if number == len(batch) - 1 else 0), number, 0) + message[16:]
            for number, message in enumerate(batch)
            for _, kind, flags, _, _ in (_HEADER.unpack_from(message),)
        ]
        self._socket.send(b"".join(numbered))
        while True:
            data = self._socket.recv(65536)
            offset = 0
            while offset < len(data):
                length, kind, _, number, _ = _HEADER.unpack_from(data, offset)
                if kind == _NLMSG_ERROR:
                    (error,) = struct.unpack_from("=i", data, offset + 16)
                    if error:
                        raise OSError(-error, f"rtnetlink message {number} of {len(batch)}: {os.strerror(-error)}")
                    if number == len(batch) - 1:
                        return
                offset += length + (-length % 4)


def send(namespace: Namespace, messages: Iterable[bytes]) -> None:
    """As `Links.send`, with a socket for this once."""
    links = Links(namespace)
    try:
        links.send(messages)
    finally:
        links.close()
