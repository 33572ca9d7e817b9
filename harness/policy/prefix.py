"""IP prefixes as integers: parsing as strict as Go's net/netip, containment and longest-prefix lookup."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

from msgspec import Struct

_LENGTH = re.compile(r"(0|[1-9][0-9]{0,2})", re.ASCII)
_BITS = {4: 32, 6: 128}


class Prefix(Struct, frozen=True, order=True):
    """An address range, host bits cleared. `version` is 4 or 6."""

    version: int
    network: int
    length: int

    @property
    def bits(self) -> int:
        return _BITS[self.version]

    def contains(self, other: Prefix) -> bool:
        """True if `other` lies within (or equals) this prefix."""
        if self.version != other.version or other.length < self.length:
            return False
        shift = self.bits - self.length
        return other.network >> shift == self.network >> shift

    def __str__(self) -> str:
        address = ipaddress.IPv4Address(self.network) if self.version == 4 else ipaddress.IPv6Address(self.network)
        return f"{address}/{self.length}"


@lru_cache(maxsize=8192)
def parse_address(text: str) -> Prefix:
    """An address as the prefix of full length. ValueError if it is none (zones are not accepted)."""
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    address = ipaddress.ip_address(text)
    return Prefix(address.version, int(address), address.max_prefixlen)


@lru_cache(maxsize=8192)
def parse_prefix(text: str) -> Prefix:
    """`10.0.0.0/8` or `fd00::/8`; host bits are cleared. ValueError for anything else, a bare address included."""
    head, slash, tail = text.partition("/")
    if not slash:
        raise ValueError(f"{text!r} has no prefix length")
    if not _LENGTH.fullmatch(tail):
        raise ValueError(f"{text!r} has a bad prefix length")
    address = parse_address(head)
    length = int(tail)
    if length > address.bits:
        raise ValueError(f"{text!r} has a prefix length out of range")
    shift = address.bits - length
    return Prefix(address.version, address.network >> shift << shift, length)


class PrefixTable:
    """Longest-prefix lookup over a fixed set of prefixes, by one probe per distinct length."""

    __slots__ = ("_lengths", "_prefixes")

    def __init__(self, prefixes: Iterable[Prefix]) -> None:
        self._prefixes = frozenset(prefixes)
        self._lengths = {
            version: sorted({each.length for each in self._prefixes if each.version == version}, reverse=True) for version in (4, 6)
        }

    def longest(self, address: Prefix) -> Prefix | None:
        """The most specific prefix of the table that holds `address`."""
        for length in self._lengths[address.version]:
            shift = address.bits - length
            candidate = Prefix(address.version, address.network >> shift << shift, length)
            if candidate in self._prefixes:
                return candidate
        return None
