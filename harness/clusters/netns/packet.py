"""The beginning of a packet, as the kernel logs it, read. Not what it means."""

from __future__ import annotations

import struct
from functools import cache

from harness.model.traffic import Protocol

_PROTOCOLS = {protocol.number: protocol for protocol in Protocol}
_PORTS = struct.Struct("!HH")
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")


@cache
def _tcp_flags(bits: int) -> tuple[str, ...]:
    return tuple(name for number, name in enumerate(_FLAGS) if bits >> number & 1)


class Packet:
    """The part of a packet's beginning that flows tell."""

    __slots__ = ("destination", "flags", "icmp_code", "port", "protocol", "sequence", "source", "source_port")

    def __init__(self, data: bytes) -> None:
        if data[0] >> 4 == 4:
            number, self.source, self.destination = data[9], data[12:16], data[16:20]
            offset = (data[0] & 15) * 4
        else:
            number, self.source, self.destination = data[6], data[8:24], data[24:40]
            offset = 40
        self.protocol = _PROTOCOLS.get(number)
        self.source_port = self.port = self.icmp_code = self.sequence = 0
        self.flags: tuple[str, ...] = ()
        if number in {6, 17, 132} and len(data) >= offset + 4:
            self.source_port, self.port = _PORTS.unpack_from(data, offset)
            if number == 6 and len(data) > offset + 13:
                self.flags = _tcp_flags(data[offset + 13])
                self.sequence = int.from_bytes(data[offset + 4 : offset + 8])
        elif number in {1, 58} and len(data) >= offset + 2:
            self.port, self.icmp_code = data[offset], data[offset + 1]
