"""DNS messages, by dnslib: what clients ask, what resolvers and proxies answer. Pure; decides nothing.

A probe's nonce travels in an EDNS option for local use, and so does the server's name back: a name in a question could not carry it, since
policy decides by that name. What comes back without was answered on the way.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache

from dnslib import AAAA, EDNS0, QTYPE, RCODE, RR, A, DNSError, DNSHeader, DNSQuestion, DNSRecord, EDNSOption
from msgspec import Struct

from harness.model.traffic import Family

_NONCE, _SERVER = 65001, 65002
_SIZE = 4096
_TYPES = {Family.IPV4: QTYPE.A, Family.IPV6: QTYPE.AAAA}
_ADDRESSES = {QTYPE.A: ".", QTYPE.AAAA: ":"}
"""The types of addresses, and what an address of one has in its text."""
_LENGTH = 2
_LONGEST_NAME = 255
"""Bytes, with the length of each label and the root's."""

Zone = Callable[[str], "Answer | None"]
"""Answers a name in lower case without its last dot; None: there is no such name."""


class Answer(Struct, frozen=True):
    """The addresses of a name, and for how many seconds they hold."""

    addresses: tuple[str, ...]
    ttl: int


class Message(Struct, frozen=True):
    """What matters of a message. `addresses` and `ttl` (the least of its records', in seconds) are those of its answer."""

    name: str
    kind: str
    rcode: int
    addresses: tuple[str, ...]
    ttl: int
    response: bool


def question(name: str, family: Family, nonce: str) -> bytes:
    """The question for a name's addresses of a family."""
    header = DNSHeader(id=zlib.crc32(nonce.encode()) & 0xFFFF, rd=1)
    asked = DNSRecord(header, q=DNSQuestion(name, _TYPES[family]))
    asked.add_ar(_edns((_NONCE, nonce)))
    return bytes(asked.pack())


def said(data: bytes) -> tuple[str, str, int] | None:
    """Who answered, the question's nonce, and the response code; None for what is no answer."""
    record = _parsed(data)
    if record is None or not record.header.qr:
        return None
    return _option(record, _SERVER), _option(record, _NONCE), record.header.rcode


def read(data: bytes) -> Message | None:
    """A message about one name; None for anything else."""
    record = _parsed(data)
    if record is None or len(record.questions) != 1:
        return None
    asked = record.questions[0]
    found = [each for each in record.rr if each.rtype in _ADDRESSES]
    return Message(
        name=str(asked.qname),
        kind=QTYPE.get(asked.qtype, f"TYPE{asked.qtype}"),
        rcode=record.header.rcode,
        addresses=tuple(str(each.rdata) for each in found),
        ttl=min((each.ttl for each in record.rr), default=0),
        response=bool(record.header.qr),
    )


def refused(data: bytes) -> bytes:
    """The answer of a proxy that does not let a question pass."""
    record = _parsed(data)
    if record is None:
        raise ValueError("only questions that were read are refused")
    reply = record.reply(ra=1, aa=0)
    reply.header.rcode = RCODE.REFUSED
    return bytes(reply.pack())


def resolved(data: bytes, zone: Zone, server: str) -> tuple[str, bytes] | None:
    """A resolver's answer, and the nonce of the question; None for what is no question."""
    record = _parsed(data)
    if record is None or record.header.qr or len(record.questions) != 1:
        return None
    asked = record.questions[0]
    answer = zone(str(asked.qname).rstrip(".").lower())
    reply = record.reply(ra=1)
    if answer is None:
        reply.header.rcode = RCODE.NXDOMAIN
    else:
        for rr in _records(asked.qname, asked.qtype, answer):
            reply.add_answer(rr)
    nonce = _option(record, _NONCE)
    if nonce:
        reply.add_ar(_edns((_NONCE, nonce), (_SERVER, server)))
    return nonce, bytes(reply.pack())


def framed(data: bytes) -> bytes:
    """A message as it goes over TCP."""
    return len(data).to_bytes(_LENGTH, "big") + data


def unframed(buffer: bytes) -> tuple[bytes | None, bytes]:
    """The first whole message that came over TCP, None while there is none, and what follows."""
    end = _LENGTH + int.from_bytes(buffer[:_LENGTH], "big")
    if len(buffer) < _LENGTH or len(buffer) < end:
        return None, buffer
    return buffer[_LENGTH:end], buffer[end:]


def _records(name: object, kind: int, answer: Answer) -> Sequence[RR]:
    sign = _ADDRESSES.get(kind)
    if sign is None:
        return ()
    make = A if kind == QTYPE.A else AAAA
    return [RR(name, kind, rdata=make(each), ttl=answer.ttl) for each in answer.addresses if sign in each]


def _edns(*options: tuple[int, str]) -> RR:
    return EDNS0(udp_len=_SIZE, opts=[EDNSOption(code, text.encode()) for code, text in options])


def _option(record: DNSRecord, code: int) -> str:
    for each in record.ar:
        if each.rtype == QTYPE.OPT:
            for option in each.rdata:
                if option.code == code:
                    return bytes(option.data).decode(errors="replace")
    return ""


@lru_cache(maxsize=64)
def _parsed(data: bytes) -> DNSRecord | None:
    """None for what is no message: dnslib raises whatever it stumbles on. It reads names that are too long, and cannot say them again.

    Cached, since a proxy reads what the resolver has just read, and the client what the proxy has. Nobody changes a record.
    """
    try:
        record = DNSRecord.parse(data)
    except (DNSError, ValueError, IndexError, UnicodeError):
        return None
    long = any(sum(len(label) + 1 for label in each.qname.label) >= _LONGEST_NAME for each in record.questions)
    return None if long else record
