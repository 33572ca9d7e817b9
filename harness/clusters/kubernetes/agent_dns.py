"""DNS for the programs inside the pods (`agent_server.py`, `agent_client.py`): a question for a name's addresses, what an answer says, and the
answer of a port that serves `dns`. Standard library only, Python 3.9. Not imported by the harness: shipped as text beside them. No resolver:
it has no cache, follows nothing, and asks nobody by itself.

To a server of ours a question carries the probe's nonce in an EDNS option for local use, and so does the server's name come back, as
`harness.clusters.netns.dns.message` says it. Other servers are sent none: they hand options on to strangers.
"""

from __future__ import annotations

import socket
import struct
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TYPES = {"ipv4": 1, "ipv6": 28}
_FAMILIES = {1: (socket.AF_INET, 4), 28: (socket.AF_INET6, 16)}
_OPT, _INTERNET = 41, 1
_NONCE, _SERVER = 65001, 65002
_SIZE = 1232
"""Bytes that an answer over UDP may have without being fragmented anywhere."""
_RESPONSE, _TRUNCATED, _WANTS_RECURSION, _OPCODE, _RCODE = 0x8000, 0x0200, 0x0100, 0x7800, 0x000F
_NXDOMAIN = 3
_POINTER = 0xC0
_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")


def question(name: str, family: str, nonce: str, marked: bool) -> bytes:
    """Asks for a name's addresses of a family (ipv4, ipv6). `marked`: with the nonce, for servers of ours."""
    labels = name.rstrip(".").encode("ascii", "replace").split(b".")
    asked = b"".join(bytes([len(label)]) + label for label in labels) + b"\0" + struct.pack("!HH", _TYPES[family], _INTERNET)
    header = _HEADER.pack(zlib.crc32(nonce.encode()) & 0xFFFF, _WANTS_RECURSION, 1, 0, 0, 1)
    return header + asked + _edns([(_NONCE, nonce)] if marked else [])


def said(data: bytes, asked: bytes) -> dict[str, Any] | None:
    """What the answer to a question says: its rcode, the addresses, whether it was cut, and, of a server of ours, name and nonce. None for
    anything that is no answer to that question."""
    try:
        number, flags, questions, answers, authorities, more = _HEADER.unpack_from(data)
        if number != asked[0] << 8 | asked[1] or not flags & _RESPONSE or flags & _OPCODE:
            return None
        end = _after_name(asked, _HEADER.size) + 4
        wanted = asked[_HEADER.size : end]
        # Who could not read the question may not repeat it.
        if questions == 0 and flags & _RCODE:
            end = _HEADER.size
        elif questions != 1 or data[_HEADER.size : end].lower() != wanted.lower():
            return None
        out: dict[str, Any] = {"rcode": flags & _RCODE, "addresses": [], "cut": bool(flags & _TRUNCATED), "server": "", "nonce": ""}
        try:
            _read_records(data, end, answers + authorities + more, answers, int.from_bytes(wanted[-4:-2], "big"), out)
        except (IndexError, struct.error):
            if not flags & _TRUNCATED:
                return None
    except (IndexError, struct.error):
        return None
    return out


def reply(data: bytes, server: str) -> tuple[str, bytes] | None:
    """The answer of a port that serves `dns` (there is no such name, whatever is asked), and the question's nonce; None for what is no
    question."""
    try:
        number, flags, questions, answers, authorities, more = _HEADER.unpack_from(data)
        if flags & (_RESPONSE | _OPCODE) or questions != 1:
            return None
        end = _after_name(data, _HEADER.size) + 4
        out: dict[str, Any] = {"addresses": [], "server": "", "nonce": ""}
        _read_records(data, end, answers + authorities + more, 0, 0, out)
    except (IndexError, struct.error):
        return None
    nonce = str(out["nonce"])
    header = _HEADER.pack(number, _RESPONSE | flags & _WANTS_RECURSION | _NXDOMAIN, 1, 0, 0, 1)
    return nonce, header + data[_HEADER.size : end] + _edns([(_NONCE, nonce), (_SERVER, server)] if nonce else [])


def framed(data: bytes) -> bytes:
    """A message as it goes over TCP."""
    return struct.pack("!H", len(data)) + data


def unframed(buffer: bytes) -> tuple[bytes | None, bytes]:
    """The first whole message that came over TCP, None while there is none, and what follows."""
    end = 2 + int.from_bytes(buffer[:2], "big")
    if len(buffer) < 2 or len(buffer) < end:
        return None, buffer
    return buffer[2:end], buffer[end:]


def _edns(options: list[tuple[int, str]]) -> bytes:
    data = b"".join(struct.pack("!HH", code, len(text.encode())) + text.encode() for code, text in options)
    return b"\0" + _RECORD.pack(_OPT, _SIZE, 0, len(data)) + data


def _read_records(data: bytes, at: int, count: int, answers: int, kind: int, out: dict[str, Any]) -> None:
    """The addresses of `kind` among the first `answers` records, and our options in any. Raises where a record is not whole."""
    for index in range(count):
        at = _after_name(data, at)
        found, _, _, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        value = data[at : at + length]
        if len(value) < length:
            raise IndexError(at)
        at += length
        if found == _OPT:
            _read_options(value, out)
        elif index < answers and found == kind:
            family, size = _FAMILIES[kind]
            if length != size:
                raise IndexError(at)
            out["addresses"].append(socket.inet_ntop(family, value))


def _read_options(value: bytes, out: dict[str, Any]) -> None:
    at = 0
    while at < len(value):
        code, length = struct.unpack_from("!HH", value, at)
        if code in (_NONCE, _SERVER):
            out["nonce" if code == _NONCE else "server"] = value[at + 4 : at + 4 + length].decode(errors="replace")
        at += 4 + length


def _after_name(data: bytes, at: int) -> int:
    """Where a name ends that begins there; what a pointer leads to is not read."""
    while data[at]:
        if data[at] & _POINTER == _POINTER:
            return at + 2
        if data[at] & _POINTER:
            raise IndexError(at)
        at += 1 + data[at]
    return at + 1
